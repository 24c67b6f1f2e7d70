//! Finds the binary under test.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

static HAWSER: OnceLock<PathBuf> = OnceLock::new();

/// Set this to test another binary than that of the same build; nothing is built then.
pub const VARIABLE: &str = "HAWSER_TEST_BINARY";

/// The `hawser` binary of the same build as this test. Testing the whole workspace builds it, since
/// its own package has tests that run it; testing this package alone would find an old one. Cargo
/// is not asked to build it here: what it sets for a test makes some dependencies build anew.
///
/// # Panics
/// When it is not there.
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
