//! The tables of tests in `docs/protocol/api.md` name tests that there are.

use std::fs;

use crate::{assert_none, root};

/// Groups of calls that are refused by rules of their own.
const GROUPS: usize = 11;
/// Groups of rules of `Subscribe`.
const SUBSCRIBE_GROUPS: usize = 15;

#[test]
fn every_group_of_refusals_names_a_test() {
    check("### Tests of refusals", GROUPS);
}

#[test]
fn every_group_of_rules_of_subscribe_names_a_test() {
    check("### Tests of `Subscribe`", SUBSCRIBE_GROUPS);
}

/// Checks the table below a heading, which has this number of rows.
fn check(heading: &str, groups: usize) {
    let page = fs::read_to_string(root().join("docs/protocol/api.md")).unwrap();
    let (_, section) = page.split_once(heading).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert_eq!(rows.len(), groups);
    let mut broken = Vec::new();
    for row in rows {
        let (_, tests) = row.trim_end_matches(" |").rsplit_once(" | ").unwrap();
        for of_file in tests.split("; ") {
            let (file, names) = of_file.split_once(": ").unwrap();
            let file = file.trim_matches('`');
            let text = fs::read_to_string(root().join(file)).unwrap_or_default();
            for name in names.split(", ").map(|name| name.trim_matches('`')) {
                if !text.contains(&format!("fn {name}(")) {
                    broken.push(format!("{file}: {name}"));
                }
            }
        }
    }
    assert_none(&broken, "each named test is in its file");
}
