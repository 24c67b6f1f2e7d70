//! `ARCHITECTURE.md` against the workspace: its table of crates is the rule for edges, and every
//! name in it exists.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{assert_none, cargo, quoted, root, texts};

/// Crates that only use others: nothing may depend on them.
const JUDGES: [&str; 4] = ["examples", "tests", "benches", "fuzz"];

/// One row of the table below the heading *Crates and edges*.
struct Row {
    name: String,
    uses: BTreeSet<String>,
    /// Third-party crates, or crates of ours, that must not be reached through any edge.
    never: Vec<String>,
}

fn document() -> String {
    std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap()
}

fn table() -> Vec<Row> {
    let document = document();
    let (_, section) = document.split_once("## Crates and edges").expect("the section exists");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<Row> = rows
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
            assert_eq!(cells.len(), 4, "crate, purpose, uses, never: {line}");
            Row {
                name: quoted(cells[0])[0].clone(),
                uses: quoted(cells[2]).into_iter().collect(),
                never: quoted(cells[3]),
            }
        })
        .collect();
    assert!(rows.len() > 10, "the table of crates is there");
    rows
}

/// Returns each crate of the workspace by its folder, with the folders that it uses beside tests.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = cargo(&["metadata", "--offline", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let folder = |value: &Value| value.as_str().unwrap().strip_prefix("hawser-").map(str::to_owned);
    let packages = metadata["packages"].as_array().unwrap().iter();
    let packages = packages.filter_map(|package| {
        let used = package["dependencies"].as_array().unwrap().iter();
        let used = used.filter(|used| used["kind"] != "dev");
        Some((folder(&package["name"])?, used.filter_map(|used| folder(&used["name"])).collect()))
    });
    // A library that is only loaded into nodes under test; it uses nothing of ours.
    packages.filter(|(name, _)| name != "syncspy").collect()
}

#[test]
fn the_table_of_crates_is_the_workspace() {
    let (table, edges) = (table(), edges());
    let named: BTreeSet<_> = table.iter().map(|row| &row.name).collect();
    let there: BTreeSet<_> = edges.keys().filter(|name| !JUDGES.contains(&name.as_str())).collect();
    assert_eq!(named, there, "the table has a row for each crate");
    for row in &table {
        assert_eq!(
            row.uses, edges[&row.name],
            "`{}`: what it uses, and what the table says",
            row.name
        );
    }
    for (from, used) in &edges {
        let wrong: Vec<_> = used.iter().filter(|to| JUDGES.contains(&to.as_str())).collect();
        assert!(wrong.is_empty(), "{from} uses {wrong:?}, which only use others");
    }
}

#[test]
fn no_crate_reaches_what_it_must_never_reach() {
    let arguments = ["--offline", "-e", "normal", "--prefix", "none", "--format", "{p}"];
    for row in table().iter().filter(|row| !row.never.is_empty()) {
        let package = format!("hawser-{}", row.name);
        let tree = cargo(&[&["tree", "-p", &package], &arguments[..]].concat());
        let reached: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        for never in &row.never {
            let wrong = reached
                .iter()
                .find(|reached| **reached == *never || reached.starts_with(&format!("{never}-")));
            assert_eq!(wrong, None, "{} must never reach {never}", row.name);
        }
    }
}

#[test]
fn without_its_feature_for_development_the_program_links_no_evm() {
    let arguments = ["tree", "-p", "hawser-cli", "--no-default-features", "--offline"];
    let tree = cargo(&[&arguments[..], &["-e", "normal", "--prefix", "none"]].concat());
    let wrong = tree.lines().find(|line| line.starts_with("revm") || line.contains("devchain"));
    assert_eq!(wrong, None);
}

/// Collects what source files define: items, variants, fields, modules and files.
fn definitions() -> BTreeSet<String> {
    const KEYWORDS: [&str; 8] = ["fn", "struct", "enum", "trait", "type", "mod", "const", "static"];
    let mut found = BTreeSet::new();
    for (path, text) in texts(&["rs"]) {
        found.extend(path.trim_end_matches(".rs").split('/').map(ToOwned::to_owned));
        for line in text.lines() {
            let words: Vec<&str> = line
                .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .filter(|word| !word.is_empty())
                .collect();
            for pair in words.windows(2).filter(|pair| KEYWORDS.contains(&pair[0])) {
                found.insert(pair[1].to_owned());
            }
            let is_member = line.starts_with("    ") && !line.contains("//");
            if let Some(first) = words.iter().find(|word| **word != "pub").filter(|_| is_member) {
                found.insert((*first).to_owned());
            }
        }
    }
    found
}

#[test]
fn every_name_in_the_architecture_exists() {
    let defined = definitions();
    let is_name = |text: &str| {
        text.chars().all(|letter| letter.is_alphanumeric() || "_:".contains(letter))
            && (text.contains("::") || text.chars().any(char::is_uppercase))
    };
    let names: Vec<String> = quoted(&document()).into_iter().filter(|text| is_name(text)).collect();
    assert!(names.len() > 40, "the document names what it speaks of");
    let broken: Vec<String> = names
        .into_iter()
        .filter(|name| name.split("::").any(|part| !defined.contains(part)))
        .collect();
    assert_none(&broken, "names in ARCHITECTURE.md exist");
}

#[test]
fn every_path_in_the_guides_exists() {
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        // A command or a pattern is no path.
        let broken: Vec<String> = quoted(&text)
            .into_iter()
            .filter(|text| text.contains('/') && !text.contains([' ', ':', '*', '…', '~', '$']))
            .filter(|path| !path.starts_with("hawser-dev/")) // written by a running network
            .filter(|path| !root().join(path).exists())
            .collect();
        assert_none(&broken, &format!("paths in {document} exist"));
    }
}
