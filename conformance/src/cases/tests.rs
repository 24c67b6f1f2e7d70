//! Tests that the cases agree with the documents: the table of the manual, and the sections that state the rules.

use std::collections::BTreeSet;
use std::path::Path;

use crate::cases;

fn page(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|it| it.is_alphanumeric() || " -".contains(*it));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn names_are_unique_and_fit_a_command_line() {
    let mut seen = BTreeSet::new();
    for case in cases::all() {
        assert!(seen.insert(case.id), "{} is there twice", case.id);
        let fits = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-';
        assert!(case.id.chars().all(fits), "{}", case.id);
        assert!(!case.rule.is_empty() && !case.rule.ends_with('.'), "{}", case.id);
    }
    assert!(seen.len() > 130);
}

#[test]
fn every_source_is_a_section_of_the_documents() {
    for case in cases::all() {
        let (path, section) = case.source.split_once('#').unwrap_or((case.source, ""));
        let text = page(path);
        let headings = text.lines().filter(|line| line.starts_with('#'));
        let found = headings.map(|line| anchor(line.trim_start_matches('#').trim()));
        assert!(found.into_iter().any(|it| it == section), "{}: {}", case.id, case.source);
    }
}

#[test]
fn the_manual_lists_every_case() {
    let row = |case: crate::Case| {
        let source = case.source.strip_prefix("docs/").unwrap();
        let name = source.rsplit('/').next().unwrap();
        let needs: Vec<_> =
            case.needs.iter().map(|need| format!("`{}`", need.argument())).collect();
        let needs = needs.join(", ").replace(" and ", "`, `");
        format!("| `{}` | {} | [{name}]({source}) | {needs} |", case.id, case.rule)
    };
    let mut expected = String::new();
    for area in crate::Area::ALL {
        expected += &format!(
            "\n### {}\n\n| case | rule | source | needs |\n|---|---|---|---|\n",
            area.name()
        );
        for case in cases::all().filter(|case| case.area == area) {
            expected += &row(case);
            expected.push('\n');
        }
    }
    let manual = page("docs/conformance.md");
    let (_, found) = manual.split_once("## Cases\n").expect("the section of the cases");
    let found = found.split("\n## ").next().unwrap();
    assert_eq!(found.trim(), expected.trim(), "the table of docs/conformance.md");
}

#[test]
fn every_case_checks_a_call_or_none_by_its_nature() {
    let all: BTreeSet<&str> = cases::all().map(|case| case.id).collect();
    let mut named = BTreeSet::new();
    for (call, ids) in cases::CHECKED_CALLS {
        let set: BTreeSet<&str> = ids.iter().copied().collect();
        assert_eq!(set.len(), ids.len(), "{call} has a case twice");
        named.extend(set);
    }
    for id in cases::OF_NO_CALL {
        assert!(named.insert(id), "{id} checks a call");
    }
    assert_eq!(named, all);
}
