//! The pages for `man` that `hawser manual` writes.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

use serde_json::Value;

use crate::support::{hawser, json, run, stderr, stdout};

#[test]
fn each_command_has_a_page_that_man_understands() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("man1");
    let written = json(&["manual", "--json", folder.to_str().unwrap()]);
    let names: Vec<&str> =
        written["pages"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    for name in ["hawser", "hawser-node", "hawser-dev-add-node", "hawser-registry-node-add"] {
        assert!(names.contains(&name), "{name} has no page");
    }
    let text = |name: &str| fs::read_to_string(folder.join(format!("{name}.1"))).unwrap();
    for (first, other) in [
        ("hawser-truncate-strand", "hawser-recut"),
        ("hawser-audit-report", "hawser-audit-verify-evidence"),
        ("hawser-import-xmtpd", "hawser-import-xmtpd-postgres"),
    ] {
        assert_eq!(text(other), text(first), "the page of another name");
    }
    let root = text("hawser");
    for line in stdout(&run(&["--help"])).lines().filter_map(|line| line.strip_prefix("  ")) {
        let command = line.split_whitespace().next().unwrap_or_default();
        let is_command = line.starts_with(|first: char| first.is_ascii_lowercase());
        if is_command && command != "help" {
            assert!(names.contains(&format!("hawser-{command}").as_str()), "{command} has no page");
            let shown = format!(".BR hawser\\-{} (1)", command.replace('-', "\\-"));
            assert!(root.contains(&shown), "{command} is not on the first page");
        }
    }
    assert!(text("hawser-node").contains("\\fB\\-\\-data\\-dir\\fR \\fI"), "options are there");
    assert!(!text("hawser-node").contains("exit\\-with\\-parent"), "hidden ones are not");
    for name in ["hawser", "hawser-promote"] {
        assert!(text(name).contains(".SH EXIT STATUS\n0 done, 1 failed"), "{name}");
    }
    assert!(text("hawser-bench").contains(".SH EXIT STATUS\n0 each test had an answer"));
    for name in &names {
        let page = folder.join(format!("{name}.1"));
        let mut groff = Command::new("groff");
        match groff
            .args(["-k", "-man", "-Tutf8", "-wmac", "-wsyntax", "-wescape", "-wchar", "-z"])
            .arg(&page)
            .output()
        {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let why = "because this system has no groff";
                let _ = writeln!(io::stderr(), "NOT TESTED: pages for man, {why}");
                return;
            }
            ran => {
                let ran = ran.unwrap();
                let warnings = String::from_utf8_lossy(&ran.stderr);
                assert!(ran.status.success() && warnings.is_empty(), "{name}: {warnings}");
            }
        }
    }
}

/// Scripts of operators call these commands, and pages elsewhere name them.
#[test]
fn the_command_tree_has_every_command_that_others_rely_on() {
    const RELIED_ON: &[(&str, &str)] = &[
        ("", "node gateway network-watcher chain-watcher dev status health doctor"),
        ("", "publish query tail rebuild prune restore snapshot import conformance bench"),
        ("chain-", "dev"),
        ("config-", "check print"),
        ("keys-", "generate show rotate"),
        ("backup-", "create verify list"),
        ("registry-node-", "add list update-http"),
        ("registry-canonical-", "add remove"),
        ("registry-rates-", "add list"),
        ("registry-params-", "get set bridge"),
        ("payer-", "deposit balance usage estimate"),
        ("payer-withdraw-", "request cancel finalize"),
        ("fees-", "claim withdraw show"),
        ("report-", "list show explain generate attest submit settle"),
        ("misbehavior-", "list show submit export"),
        ("audit-", "replay compare prove verify report network export"),
    ];
    let place = tempfile::tempdir().unwrap();
    let written = json(&["manual", "--json", place.path().to_str().unwrap()]);
    let pages = written["pages"].as_array().unwrap();
    let has_page = |name: &str| pages.iter().any(|page| page.as_str() == Some(name));
    let mut missing = Vec::new();
    for (group, names) in RELIED_ON {
        let names = names.split(' ').map(|name| format!("hawser-{group}{name}"));
        missing.extend(names.filter(|name| !has_page(name)));
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_path_that_is_not_utf_8_is_shown_as_far_as_it_can_be() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join(OsStr::from_bytes(b"man-\xff"));
    let output = hawser().args(["manual", "--json"]).arg(&folder).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let written: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(written["folder"].as_str().unwrap().ends_with("man-\u{fffd}"), "{written}");
    assert!(folder.join("hawser.1").is_file());
}
