//! Finds the commit that the program is built from, for `hawser --version` and `/status`.
//!
//! In this order: the variable `HAWSER_COMMIT`, for packagers; `commit.txt`, into which `git archive` writes the commit
//! of a source archive; git. With none of them the commit is empty.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Hex digits of a commit that are shown.
const SHOWN_LEN: usize = 12;

fn main() {
    println!("cargo:rerun-if-env-changed=HAWSER_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=commit.txt");
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let named = std::env::var("HAWSER_COMMIT").ok().and_then(|text| commit(&text));
    let archived = || commit(&std::fs::read_to_string(folder.join("commit.txt")).ok()?);
    let found = named.or_else(archived).or_else(|| of_git(&folder)).unwrap_or_default();
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let shown = if found.is_empty() { version } else { format!("{version} ({found})") };
    println!("cargo:rustc-env=HAWSER_COMMIT={found}");
    println!("cargo:rustc-env=HAWSER_VERSION={shown}");
}

/// Returns the start of a commit, and nothing for any other text, such as the placeholder in `commit.txt`.
fn commit(text: &str) -> Option<String> {
    let text = text.trim();
    let is_commit = text.len() >= SHOWN_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then(|| text[..SHOWN_LEN].to_owned())
}

fn of_git(folder: &Path) -> Option<String> {
    // The files may lie in a repository that is not theirs, such as that of a packager.
    let top = git(folder, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != folder.parent()?.canonicalize().ok()? {
        return None;
    }
    // Changes with each commit and each checkout of another one.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(folder, &["rev-parse", "--path-format=absolute", "--git-path", file])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    commit(&git(folder, &["rev-parse", "HEAD"])?)
}

fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").current_dir(folder).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
