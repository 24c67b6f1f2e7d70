//! The scripts end as they should on a system that lacks what they need.

use std::path::Path;
use std::process::{Command, Output};

use crate::root;

/// Runs a line of bash in the root of the repository, on a system that has no other program.
fn bash_alone(line: &str, home: &Path) -> Output {
    let mut bash = Command::new("/bin/bash");
    bash.args(["-c", line]).current_dir(root()).env_clear();
    bash.env("PATH", home).env("HOME", home).output().unwrap()
}

/// The README has people run `scripts/setup` by way of `scripts/dev`, and the page for operators has them source it in
/// the shell in which they work.
#[test]
fn without_rust_setup_ends_its_script_and_no_shell_that_has_sourced_it() {
    let home = tempfile::tempdir().unwrap();
    let run = |line| bash_alone(line, home.path());
    let says_why = |output: &Output| {
        String::from_utf8_lossy(&output.stderr).contains("This system has no Rust toolchain.")
    };

    let sourced = run(". scripts/setup || true; echo 'the shell is open'");
    assert!(says_why(&sourced), "{sourced:?}");
    assert_eq!(String::from_utf8_lossy(&sourced.stdout), "the shell is open\n");

    // A script that sources it does not go on, and neither does it alone.
    for line in ["set -e; . scripts/setup; echo 'it goes on'", "exec /bin/bash scripts/setup"] {
        let ended = run(line);
        assert!(says_why(&ended) && ended.stdout.is_empty(), "{line}: {ended:?}");
        assert_eq!(ended.status.code(), Some(1), "{line}");
    }
}

/// RocksDB's bindings are made with libclang. Many systems have another library whose name begins alike, and without
/// libclang the first build stops after minutes.
#[test]
fn setup_takes_only_the_c_interface_of_clang_for_libclang() {
    // The function of the script, on a system that has one library.
    let line = r#"eval "$(sed -n '/^has_libclang() {$/,/^}$/p' scripts/setup)"
        ldconfig() { printf '\t%s (libc6,x86-64) => /lib/%s\n' "$LIBRARY" "$LIBRARY"; }
        ls() { false; }
        has_libclang"#;
    let is_taken = |library: &str| {
        let mut bash = Command::new("/bin/bash");
        let output = bash.args(["-c", line]).current_dir(root()).env("LIBRARY", library).output();
        let output = output.unwrap();
        assert!(output.stderr.is_empty(), "{library}: {output:?}");
        output.status.success()
    };
    for library in ["libclang.so", "libclang.so.1", "libclang-14.so", "libclang-14.so.1"] {
        assert!(is_taken(library), "{library}");
    }
    for library in ["libclang-cpp.so", "libclang-cpp.so.14", "libLLVM-14.so.1"] {
        assert!(!is_taken(library), "{library}");
    }
}

/// An empty bill, beside a package or an image, would look like that of a program without libraries.
#[test]
fn a_bill_of_materials_is_whole_or_there_is_none() {
    let mut bill = Command::new(root().join("scripts/bill-of-materials"));
    let output = bill.env("CARGO", "/bin/false").output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
}
