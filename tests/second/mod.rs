//! The second implementations in this folder as tests in Rust use them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs a script of this folder with one case a line, and returns the lines that it prints.
///
/// # Panics
/// Panics if Python 3 is missing, or the script fails.
pub(crate) fn run(script: &str, arguments: &[&str], cases: &[Value]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/second").join(script);
    let mut python = Command::new("python3");
    python.arg(script).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().expect("Python 3 is installed");
    let mut stdin = child.stdin.take().expect("it is piped");
    let text: String = cases.iter().map(|case| format!("{case}\n")).collect();
    // The script prints while it reads, so the pipes have to be served together.
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("it can be waited for");
    writer.join().expect("it does not panic").expect("it reads everything");
    assert!(output.status.success(), "it ends with {}", output.status);
    let printed = String::from_utf8(output.stdout).expect("it prints text");
    printed.lines().map(str::to_owned).collect()
}

/// Numbers that follow from a seed (splitmix64), for cases that differ from those in a file.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    /// Returns a number below `below`, which is not 0.
    pub(crate) fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % below as u64).expect("below a usize")
    }
}
