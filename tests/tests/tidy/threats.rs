//! The tests that `docs/threat-model/` names are there: an entry with a renamed test would claim a check that does not
//! exist.

use std::fs;

use crate::{assert_none, files, quoted, root};

/// Returns the Rust sources at `path`, which is a file or a folder; `None` if there is neither.
fn sources(path: &str) -> Option<String> {
    let path = root().join(path);
    let mut found = Vec::new();
    if path.is_dir() {
        files(&path, &mut found);
    } else {
        found.push(path);
    }
    found.retain(|file| file.extension().is_some_and(|ending| ending == "rs") && file.is_file());
    let read = |file| fs::read_to_string(file).unwrap();
    (!found.is_empty()).then(|| found.into_iter().map(read).collect())
}

/// Returns true if `text` may be the name of a test, and no setting, label or target of a fuzzer.
fn is_test_name(text: &str) -> bool {
    text.contains('_')
        && text.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
}

/// Returns the `*Tests:*` items of a page, each as one line, and the number of its `*Bound:*` items.
fn items(page: &str) -> (Vec<String>, usize) {
    let (mut tests, mut bounds) = (Vec::<String>::new(), 0);
    let mut in_tests = false;
    for line in page.lines() {
        if let Some(text) = line.strip_prefix("  - *Tests:* ") {
            tests.push(text.to_owned());
            in_tests = true;
        } else if let (Some(text), true) = (line.strip_prefix("    "), in_tests) {
            let item = tests.last_mut().expect("an item began before this line");
            item.push(' ');
            item.push_str(text);
        } else {
            in_tests = false;
            bounds += usize::from(line.starts_with("  - *Bound:* "));
        }
    }
    (tests, bounds)
}

/// Adds to `broken` each file of an item that is not there, and each test that is not in the files before it. Returns
/// the number of named tests.
fn check(item: &str, broken: &mut Vec<String>) -> usize {
    // Names follow the file, or the files, that one of which has them.
    let (mut text, mut is_named, mut named) = (String::new(), false, 0);
    for quote in quoted(item) {
        if quote.contains('/') {
            if std::mem::take(&mut is_named) {
                text.clear();
            }
            match sources(&quote) {
                Some(source) => text += &source,
                None => broken.push(quote),
            }
        } else {
            is_named = true;
            if is_test_name(&quote) {
                named += 1;
                if !text.contains(&format!("fn {quote}(")) {
                    broken.push(quote);
                }
            }
        }
    }
    named
}

#[test]
fn every_test_of_the_threat_model_is_there() {
    let index = fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let (mut named, mut broken) = (0, Vec::new());
    for file in fs::read_dir(root().join("docs/threat-model")).unwrap() {
        let path = file.unwrap().path();
        let page = fs::read_to_string(&path).unwrap();
        let (tests, bounds) = items(&page);
        let entries = page.lines().filter(|line| line.starts_with("- ")).count();
        let name = path.file_name().unwrap().to_string_lossy();
        assert_eq!((tests.len(), bounds), (entries, entries), "{name}: attack, bound and tests");
        let row = index.lines().find(|line| line.contains(&format!("(threat-model/{name})")));
        let row = row.unwrap_or_else(|| panic!("docs/threat-model.md has no row of {name}"));
        assert!(row.ends_with(&format!("| {entries} |")), "{name} has {entries} entries: {row}");
        named += tests.iter().map(|item| check(item, &mut broken)).sum::<usize>();
    }
    assert!(named > 1_000, "the pages name {named} tests");
    assert_none(&broken, "each named test is in the file before it");
}
