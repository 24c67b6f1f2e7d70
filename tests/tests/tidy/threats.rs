//! The tests that `docs/threat-model.md` names are there: a row with a renamed test would claim a check that does not
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

#[test]
fn every_test_of_the_threat_model_is_there() {
    let page = fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let (mut named, mut broken) = (0, Vec::new());
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        // Names follow the file, or the files, that one of which has them.
        let (mut text, mut is_named) = (String::new(), false);
        for quote in quoted(tests) {
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
    }
    assert!(named > 100, "the page names tests");
    assert_none(&broken, "each named test is in the file before it");
}
