//! Rules about the code and the texts of this repository that are worth a failing test.
//!
//! A program of its own, because it needs no node: it is quick to build and run alone.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod architecture;
mod circles;
mod engine;
mod faults;
mod language;
mod monitoring;
mod refusals;
mod scripts;
mod threats;
mod units;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A guess that has held: files of this size are read in one sitting.
const FILE_LINES_MAX: usize = 600;
/// A guess likewise: a longer function keeps its branches and hands straight-line work to helpers.
const FUNCTION_LINES_MAX: usize = 70;
/// A guess likewise: two such files fit side by side. rustfmt breaks no comments, so a longer line would stay.
const COMMENT_COLUMNS_MAX: usize = 120;

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

/// Returns the parts of `text` in backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
}

fn assert_none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn every_source_file_says_what_it_is_and_stays_readable() {
    let texts = texts(&["rs"]);
    let silent = texts.iter().filter(|(_, text)| !text.starts_with("//! "));
    let silent: Vec<_> = silent.map(|(path, _)| path.clone()).collect();
    assert_none(&silent, "the first line of a file says what it is, after `//! `");
    let sources = crate::texts(&["rs", "sol", "py", "mjs", "js"]);
    let long = sources.iter().filter(|(_, text)| text.lines().count() > FILE_LINES_MAX);
    let long: Vec<_> = long.map(|(path, _)| path.clone()).collect();
    assert_none(&long, "files of more than 600 lines are to be split");
}

#[test]
fn lines_of_comments_fit_the_screen() {
    let mut wide = Vec::new();
    for (path, text) in texts(&["rs", "sol"]) {
        for (number, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            // An address cannot be broken.
            let is_comment = line.trim_start().starts_with("//") && !line.contains("://");
            if is_comment && columns > COMMENT_COLUMNS_MAX {
                wide.push(format!("{path}:{}: {columns} columns", number + 1));
            }
        }
    }
    assert_none(&wide, "lines of comments of more than 120 columns are to be broken");
}

/// Relies on rustfmt: a function ends at the first closing brace with the indentation of its start.
#[test]
fn functions_stay_readable() {
    let mut long = Vec::new();
    for (path, text) in texts(&["rs"]) {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let Some((head, _)) = line.split_once("fn ") else { continue };
            let is_item = head.split_whitespace().all(|word| {
                word.starts_with("pub") || ["const", "async", "unsafe"].contains(&word)
            });
            if !is_item || line.trim_end().ends_with(';') {
                continue;
            }
            let indentation = &line[..line.len() - line.trim_start().len()];
            let ends = |line: &&str| {
                line.strip_prefix(indentation).is_some_and(|rest| rest.starts_with('}'))
            };
            let one_line = line.ends_with('}');
            let len =
                if one_line { 1 } else { lines[start..].iter().position(ends).unwrap_or(0) + 1 };
            if len > FUNCTION_LINES_MAX {
                long.push(format!("{path}:{}: {len} lines", start + 1));
            }
        }
    }
    assert_none(&long, "functions of more than 70 lines are to be split");
}

#[test]
fn files_of_a_crate_form_no_circles() {
    assert_none(&circles::circles(&texts(&["rs"])), "a shared type moves into a file below both");
}

/// Nodes, registrants and writers of files choose parts of what the program prints.
#[test]
fn the_program_prints_only_through_the_module_that_escapes() {
    let of_program = texts(&["rs"]).into_iter().filter(|(path, _)| path.starts_with("cli/src/"));
    let raw = of_program.filter(|(path, text)| {
        let code = circles::code_of(text);
        path != "cli/src/output.rs" && ["print!(", "println!("].iter().any(|it| code.contains(it))
    });
    let raw: Vec<_> = raw.map(|(path, _)| path).collect();
    assert_none(&raw, "output::line and output::note escape what steers a terminal");
}

/// A node could hold a command for ever. A file may have one limit for several calls.
#[test]
fn calls_of_the_program_to_nodes_have_a_time_limit() {
    let of_program = texts(&["rs"]).into_iter().filter(|(path, _)| path.starts_with("cli/src/"));
    let endless = of_program.filter(|(_, text)| {
        let code = circles::code_of(text);
        let limits = ["client::whole(", "timeout("];
        code.contains("ApiClient") && !limits.iter().any(|it| code.contains(it))
    });
    let endless: Vec<_> = endless.map(|(path, _)| path).collect();
    assert_none(&endless, "client::whole ends a call without a whole answer");
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
fn every_library_asks_for_documentation() {
    let roots = texts(&["rs"]).into_iter().filter(|(path, _)| path.ends_with("src/lib.rs"));
    let silent = roots.filter(|(_, text)| !text.contains("#![warn(missing_docs)]"));
    let silent: Vec<_> = silent.map(|(path, _)| path).collect();
    assert_none(&silent, "the root of a library says `#![warn(missing_docs)]`");
}

/// `scripts/test` does not look for examples in doc comments: it would compile each library once more, and there are
/// none. So one that is added would never run.
#[test]
fn doc_comments_hold_no_code_that_would_be_a_test() {
    let mut broken = Vec::new();
    for (path, text) in texts(&["rs"]) {
        let mut is_open = false;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            let Some(doc) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
                is_open = false;
                continue;
            };
            let Some(language) = doc.trim_start().strip_prefix("```") else { continue };
            is_open = !is_open;
            if is_open && !["text", "sh"].contains(&language) {
                broken.push(format!("{path}:{}", number + 1));
            }
        }
    }
    assert_none(&broken, "a block in a doc comment is `text` or `sh`; an example is a test");
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
                if without_reason && !path.ends_with("tests/tidy/main.rs") {
                    broken.push(path.clone());
                }
            }
        }
    }
    assert_none(&broken, "`allow` and `expect` carry a reason");
}

/// A package that lists its test programs has to name each file with tests in one of them: a file that is left out
/// would never run.
#[test]
fn every_file_with_tests_belongs_to_a_program() {
    let mut left_out = Vec::new();
    let manifests = texts(&["toml"]);
    for (path, text) in manifests.iter().filter(|(_, text)| text.contains("autotests = false")) {
        let package = root().join(path).parent().unwrap().to_owned();
        let sections = text.split("[[test]]").skip(1);
        let programs: Vec<PathBuf> = sections
            .map(|section| {
                package.join(section.split("path = \"").nth(1).unwrap().split('"').next().unwrap())
            })
            .collect();
        let sources: String =
            programs.iter().map(|program| fs::read_to_string(program).unwrap()).collect();
        for entry in fs::read_dir(package.join("tests")).unwrap() {
            let path = entry.unwrap().path();
            let roots = ["main.rs", "mod.rs"].map(|name| path.join(name));
            let is_source = path.extension().is_some_and(|ending| ending == "rs");
            if !is_source && !roots.iter().any(|file| file.is_file()) {
                continue;
            }
            let name = path.file_stem().unwrap().to_str().unwrap();
            let is_program = programs.contains(&path) || programs.contains(&roots[0]);
            if !is_program && !sources.contains(&format!("\nmod {name};")) {
                left_out.push(path.display().to_string());
            }
        }
    }
    assert_none(&left_out, "a program of the manifest is the file, or names it as a module");
}

/// Names of machines and their folders are no part of the project.
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

/// Returns the anchors of a page's headings, as renderers of Markdown make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| -> String {
        let words = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut broken = Vec::new();
    for (path, text) in texts(&["md"]) {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let folder = root().join(&path).parent().unwrap().to_owned();
            let page = if target.is_empty() { root().join(&path) } else { folder.join(target) };
            let has_anchor =
                || anchors(&fs::read_to_string(&page).unwrap()).contains(&anchor.to_owned());
            if !page.exists() || !anchor.is_empty() && !has_anchor() {
                broken.push(format!("{path}: {link}"));
            }
        }
    }
    assert_none(&broken, "relative links, and the headings that they name, exist");
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

/// The vectors are shared by all programs that are written against this network. If the shared copy lies beside the
/// checkout, ours must be the same.
#[test]
fn vectors_equal_the_shared_ones() {
    let shared = root().join("../shared/vectors");
    if !shared.is_dir() {
        let why = "because there are none beside this checkout";
        let _ = writeln!(io::stderr(), "NOT TESTED: shared vectors, {why}");
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
