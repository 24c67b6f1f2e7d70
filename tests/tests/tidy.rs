//! Rules about the code and the texts of this repository that are worth a failing test.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Longer files say in their header why they are one piece; there is none yet.
const FILE_LINES_MAX: usize = 1000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every file that belongs to the repository: what is not built, fetched or hidden.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with('.')
            || ["target", "node_modules", "corpus", "artifacts"].contains(&name.as_str())
        {
            continue;
        }
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Paths from the root, and what is in them, of all files with one of these endings.
fn texts(endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(&root(), &mut found);
    found.sort();
    let texts: Vec<_> = found
        .into_iter()
        .filter(|path| {
            endings.iter().any(|ending| path.extension().is_some_and(|found| found == *ending))
        })
        .map(|path| {
            let text =
                fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            (path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), text)
        })
        .collect();
    assert!(!texts.is_empty(), "no files with {endings:?}");
    texts
}

fn assert_none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// Crate → what it uses beside tests, only crates of the workspace or all of them.
fn edges(ours_only: bool) -> BTreeMap<String, Vec<String>> {
    let metadata = cargo(&["metadata", "--offline", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let used = package["dependencies"].as_array().unwrap().iter();
            let used = used
                .filter(|used| used["kind"] != "dev")
                .map(|used| text(&used["name"]))
                .filter(|name| !ours_only || name.starts_with("hawser"));
            (text(&package["name"]), used.collect())
        })
        .collect()
}

#[test]
fn crates_use_only_what_the_design_lets_them_use() {
    const PROTO: &str = "hawser-proto";
    const RULES: &str = "hawser-rules";
    let rules: [(&str, &[&str]); 9] = [
        (PROTO, &[]),
        (RULES, &[PROTO]),
        ("hawser-storage", &[PROTO]),
        ("hawser-engine", &[PROTO, RULES, "hawser-storage"]),
        ("hawser-net", &[PROTO, "hawser-engine"]),
        ("hawser-api", &[PROTO, "hawser-engine"]),
        ("hawser-mls", &[PROTO]),
        ("hawser-validation", &[PROTO, "hawser-chain", "hawser-mls"]),
        ("hawser-gateway", &[PROTO, RULES, "hawser-serve", "hawser-chain", "hawser-validation"]),
    ];
    let edges = edges(true);
    for (from, allowed) in rules {
        let used = edges.get(from).unwrap_or_else(|| panic!("no crate {from}"));
        let wrong: Vec<_> = used.iter().filter(|to| !allowed.contains(&to.as_str())).collect();
        assert!(wrong.is_empty(), "{from} may not use {wrong:?}");
    }
    for (from, used) in &edges {
        let judges = ["hawser-tests", "hawser-benches", "hawser-fuzz"];
        let wrong = used.iter().any(|to| judges.contains(&to.as_str()));
        assert!(!wrong, "{from} uses what only uses others: {used:?}");
    }
}

#[test]
fn only_storage_knows_the_database() {
    let edges = edges(false);
    for (from, used) in edges.iter().filter(|(from, _)| *from != "hawser-storage") {
        assert!(!used.iter().any(|to| to == "rocksdb"), "{from} uses rocksdb");
    }
}

#[test]
fn the_engine_reaches_no_transport_and_no_chain() {
    let arguments = ["--offline", "-e", "normal", "--prefix", "none", "--format", "{p}"];
    let banned = ["quinn", "hyper", "h2", "tonic", "alloy", "openmls", "rustls", "axum"];
    for inner in ["hawser-proto", "hawser-storage", "hawser-engine"] {
        let tree = cargo(&[&["tree", "-p", inner], &arguments[..]].concat());
        for package in tree.lines().filter_map(|line| line.split(' ').next()) {
            let wrong = banned
                .iter()
                .any(|banned| package == *banned || package.starts_with(&format!("{banned}-")));
            assert!(!wrong, "{inner} depends on {package}");
        }
    }
}

#[test]
fn every_source_file_says_what_it_is_and_stays_readable() {
    let texts = texts(&["rs"]);
    let silent = texts.iter().filter(|(_, text)| !text.starts_with("//! "));
    let silent: Vec<_> = silent.map(|(path, _)| path.clone()).collect();
    assert_none(&silent, "the first line of a file says what it is, after `//! `");
    let long = texts.iter().filter(|(_, text)| text.lines().count() > FILE_LINES_MAX);
    let long: Vec<_> = long.map(|(path, _)| path.clone()).collect();
    assert_none(&long, "files of more than 1000 lines are to be split");
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let manifests = texts(&["toml"]);
    let packages = manifests.iter().filter(|(_, text)| text.contains("[package]"));
    let lax = packages.filter(|(_, text)| !text.contains("[lints]\nworkspace = true"));
    let lax: Vec<_> = lax.map(|(path, _)| path.clone()).collect();
    assert_none(&lax, "a manifest says `[lints]` `workspace = true`");
}

#[test]
fn every_exception_from_a_lint_has_a_reason() {
    let mut broken = Vec::new();
    for (path, text) in texts(&["rs"]) {
        for attribute in ["allow", "expect"] {
            for opening in [format!("#[{attribute}("), format!("#![{attribute}(")] {
                let without_reason = text
                    .split(&opening)
                    .skip(1)
                    .any(|rest| !rest.split(")]").next().unwrap_or(rest).contains("reason"));
                if without_reason && !path.ends_with("tests/tidy.rs") {
                    broken.push(path.clone());
                }
            }
        }
    }
    assert_none(&broken, "`allow` and `expect` carry a reason");
}

/// What a machine is called is no part of the project.
#[test]
fn no_file_names_a_place_on_somebodys_machine() {
    let places = ["ro ot", "wo rk", "ho me"].map(|place| format!("/{}/", place.replace(' ', "")));
    let mut broken = Vec::new();
    for (path, text) in texts(&["rs", "toml", "md", "proto", "json", "yml", "yaml", "sh"]) {
        for (number, line) in text.lines().enumerate() {
            // Part of a longer path or of an address is something else.
            let named = places.iter().any(|place| {
                line.match_indices(place.as_str()).any(|(at, _)| {
                    !line[..at].ends_with(|before: char| {
                        before.is_alphanumeric() || ".-_}".contains(before)
                    })
                })
            });
            if named {
                broken.push(format!("{path}:{}", number + 1));
            }
        }
    }
    assert_none(&broken, "no absolute paths of a machine");
}

#[test]
fn every_page_of_the_documents_that_is_cited_is_there() {
    let mut broken = Vec::new();
    for (path, text) in texts(&["rs", "md", "toml", "proto"]) {
        for rest in text.split("docs/").skip(1) {
            let end =
                rest.find(|letter: char| !letter.is_alphanumeric() && !"/-_.".contains(letter));
            let cited = &rest[..end.unwrap_or(rest.len())];
            let Some(end) = cited.find(".md") else { continue };
            let page = format!("docs/{}.md", &cited[..end]);
            let there = root().join(&page).is_file()
                || root().join(&path).parent().unwrap().join(&page).is_file();
            if !there {
                broken.push(format!("{path}: {page}"));
            }
        }
    }
    assert_none(&broken, "cited pages exist");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut broken = Vec::new();
    for (path, text) in texts(&["md"]) {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            let here = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
            if !here && !root().join(&path).parent().unwrap().join(target).exists() {
                broken.push(format!("{path}: {link}"));
            }
        }
    }
    assert_none(&broken, "relative links exist");
}

#[test]
fn every_file_of_data_parses() {
    let mut broken = Vec::new();
    for (path, text) in texts(&["json"]) {
        if let Err(error) = serde_json::from_str::<Value>(&text) {
            broken.push(format!("{path}: {error}"));
        }
    }
    for (path, text) in texts(&["jsonl"]) {
        for (number, line) in text.lines().enumerate() {
            if let Err(error) = serde_json::from_str::<Value>(line) {
                broken.push(format!("{path}:{}: {error}", number + 1));
            }
        }
    }
    assert_none(&broken, "data is JSON");
}

/// The vectors are shared by everyone who writes against this network; where the shared copy lies
/// beside the checkout, ours must be the same.
#[test]
fn vectors_equal_the_shared_ones() {
    let shared = root().join("../shared/vectors");
    if !shared.is_dir() {
        println!("passed over: there are no shared vectors beside this checkout");
        return;
    }
    let mut theirs = Vec::new();
    files(&shared, &mut theirs);
    assert!(!theirs.is_empty());
    for path in theirs {
        let name = path.strip_prefix(&shared).unwrap();
        let ours = root().join("tests/vectors").join(name);
        let same = fs::read(&ours).ok() == Some(fs::read(&path).unwrap());
        assert!(same, "{} differs from the shared one, or is missing", name.display());
    }
}
