//! Finds the binary under test.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

static HAWSER: OnceLock<PathBuf> = OnceLock::new();

/// Environment variable with the path of another binary to test. Without it, tests run the binary of their own build.
pub const VARIABLE: &str = "HAWSER_TEST_BINARY";

/// Returns the path of the `hawser` binary of the same build as this test. Testing the whole workspace builds it, since
/// its own package has tests that run it. Testing this package alone may find an old one: Cargo is not run from here,
/// because the environment that it sets for a test makes some dependencies build again.
///
/// # Panics
/// Panics if the binary does not exist.
#[must_use]
pub fn hawser() -> &'static Path {
    HAWSER.get_or_init(|| {
        if let Some(binary) = std::env::var_os(VARIABLE) {
            return binary.into();
        }
        let binary = profile_folder().join("hawser");
        assert!(binary.is_file(), "no binary at {}: test the workspace", binary.display());
        binary
    })
}

/// Returns the path of the preload library that records syncs; see the crate `hawser-syncspy`.
///
/// # Panics
/// Panics if the library was not built.
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
