//! Where the binary under test is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

static HAWSER: OnceLock<PathBuf> = OnceLock::new();

/// Set this to test another binary than that of the same build; nothing is built then.
pub const VARIABLE: &str = "HAWSER_TEST_BINARY";

/// The `hawser` binary of the same build as this test.
///
/// # Panics
/// When it is not there and cannot be built.
#[must_use]
pub fn hawser() -> &'static Path {
    HAWSER.get_or_init(|| {
        if let Some(binary) = std::env::var_os(VARIABLE) {
            return binary.into();
        }
        let folder = profile_folder();
        build(&folder);
        let binary = folder.join("hawser");
        assert!(binary.is_file(), "no binary at {}", binary.display());
        binary
    })
}

/// The preload library that records syncs; see the crate `hawser-syncspy`.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn syncspy() -> PathBuf {
    let library = profile_folder().join("deps").join("libhawser_syncspy.so");
    assert!(library.is_file(), "no library at {}", library.display());
    library
}

/// Test executables are in `<target>/<profile>/deps`.
fn profile_folder() -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    executable.parent().unwrap().parent().unwrap().to_owned()
}

/// A test of one package makes cargo build the binaries of that package only, so that a binary of
/// another one may be older than the code. When cargo runs us we ask it; it mostly has nothing
/// to do. Whoever runs the executable by hand has built what they want to test.
fn build(folder: &Path) {
    let Some(cargo) = std::env::var_os("CARGO") else { return };
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--offline", "--workspace", "--bins"])
        .args(["--manifest-path", manifest, "--profile", profile, "--target-dir"])
        .arg(folder.parent().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
