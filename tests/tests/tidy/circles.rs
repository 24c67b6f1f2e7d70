//! Circles between the files of a crate: a file that uses a second one, which uses the first one.
//!
//! The test reads `use` declarations and inline paths (`crate::…`, `super::…`, `self::…`), follows
//! re-exports to the file that defines a name, and searches the resulting graph. It reads text, not
//! types: a dependency that exists only through a method call is not seen.

use std::collections::{BTreeMap, BTreeSet};

/// Module path of a file below its crate's `src`, without `mod`, `lib` and `main`.
type ModulePath = Vec<String>;
type Exports = BTreeMap<(ModulePath, String), ModulePath>;

/// Returns each circle of each crate as one line of module paths.
pub(crate) fn circles(texts: &[(String, String)]) -> Vec<String> {
    let mut crates: BTreeMap<&str, BTreeMap<ModulePath, String>> = BTreeMap::new();
    for (path, text) in texts {
        let Some((name, file)) = path.split_once("/src/") else { continue };
        if name.contains('/') || is_test(file) {
            continue;
        }
        crates.entry(name).or_default().insert(module_path(file), code_of(text));
    }
    let mut found = Vec::new();
    for (name, files) in crates {
        for circle in strongly_connected(&uses(&files)) {
            let circle: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
            found.push(format!("{name}: {}", circle.join(" ↔ ")));
        }
    }
    found
}

/// Returns true for a file of tests or of a simulation, by its path below `src`.
pub(crate) fn is_test(file: &str) -> bool {
    let stem = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".rs");
    let is_simulation = stem == "sim" || file.starts_with("sim/") || file.contains("simulation");
    stem == "tests" || stem.ends_with("_tests") || file.contains("/tests/") || is_simulation
}

fn module_path(file: &str) -> ModulePath {
    let mut path: ModulePath =
        file.trim_end_matches(".rs").split('/').map(ToOwned::to_owned).collect();
    if path.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        path.pop();
    }
    path
}

/// Removes comments and the test module at the end of a file.
pub(crate) fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

fn uses(files: &BTreeMap<ModulePath, String>) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
    let mut exports = Exports::new();
    for (module, text) in files {
        for (is_export, tree) in declarations(text) {
            for path in leaves(&tree).into_iter().filter(|_| is_export) {
                if let (Some(name), Some(target)) = (path.last(), absolute(module, &path, files)) {
                    exports.insert((module.clone(), name.clone()), target);
                }
            }
        }
    }
    let mut graph = BTreeMap::new();
    for (module, text) in files {
        let declared = declarations(text).into_iter().filter(|(is_export, _)| !is_export);
        let declared = declared.flat_map(|(_, tree)| leaves(&tree));
        let used: BTreeSet<_> = declared
            .chain(inline_paths(text))
            .filter_map(|path| absolute(module, &path, files))
            .filter_map(|path| resolve(&path, files, &exports, 0))
            .filter(|file| file != module)
            .collect();
        graph.insert(module.clone(), used);
    }
    graph
}

/// Returns the trees of all `use` declarations, and whether each is an export.
fn declarations(text: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    for statement in text.split(';') {
        let Some(at) = statement.rfind("use ") else { continue };
        let line = statement[..at].rsplit('\n').next().unwrap_or("").trim();
        if line.is_empty() || line.starts_with("pub") {
            let tree = statement[at + 4..].split_whitespace().collect::<Vec<_>>().join(" ");
            found.push((line.starts_with("pub"), tree));
        }
    }
    found
}

/// Spreads `a::{b, c::d}` into `a::b` and `a::c::d`.
fn leaves(tree: &str) -> Vec<ModulePath> {
    let segments = |text: &str| -> ModulePath {
        let text = text.split(" as ").next().unwrap_or(text);
        text.split("::").map(str::trim).filter(|part| !part.is_empty()).map(Into::into).collect()
    };
    let Some((head, rest)) = tree.split_once('{') else { return vec![segments(tree)] };
    let inner = rest.trim_end().trim_end_matches('}');
    let (mut depth, mut start, mut parts) = (0usize, 0, Vec::new());
    for (at, letter) in inner.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    // A nested tree keeps its own closing brace, which the recursion removes again.
    let nested = parts.into_iter().map(str::trim).filter(|part| !part.is_empty());
    let nested = nested.flat_map(leaves);
    nested.map(|path| [segments(head), path].concat()).collect()
}

fn inline_paths(text: &str) -> Vec<ModulePath> {
    let mut found = Vec::new();
    for opening in ["crate::", "super::", "self::"] {
        for (at, _) in text.match_indices(opening) {
            let line = text[..at].rsplit('\n').next().unwrap_or("").trim_start();
            if line.starts_with("use ") || (line.starts_with("pub") && line.contains("use ")) {
                continue; // read as a declaration
            }
            let before = text[..at].chars().next_back();
            if before.is_some_and(|before| before.is_alphanumeric() || "_:".contains(before)) {
                continue;
            }
            let end = text[at..]
                .find(|letter: char| !letter.is_alphanumeric() && !"_:".contains(letter))
                .map_or(text.len(), |len| at + len);
            let path = text[at..end].trim_end_matches(':').split("::");
            found.push(path.map(ToOwned::to_owned).collect());
        }
    }
    found
}

fn absolute(
    module: &[String],
    path: &[String],
    files: &BTreeMap<ModulePath, String>,
) -> Option<ModulePath> {
    let first = path.first()?;
    match first.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([module, &path[1..]].concat()),
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let above = module.len().checked_sub(ups)?;
            Some([&module[..above], &path[ups..]].concat())
        }
        _ => {
            let child = [module, std::slice::from_ref(first)].concat();
            files.contains_key(&child).then(|| [module, path].concat())
        }
    }
}

/// Returns the file in which a path ends, through at most eight re-exports.
fn resolve(
    path: &[String],
    files: &BTreeMap<ModulePath, String>,
    exports: &Exports,
    depth: usize,
) -> Option<ModulePath> {
    if depth > 8 {
        return None;
    }
    let file =
        (0..=path.len()).rev().map(|len| &path[..len]).find(|head| files.contains_key(*head))?;
    let Some(next) = path.get(file.len()) else { return Some(file.to_vec()) };
    match exports.get(&(file.to_vec(), next.clone())) {
        Some(target) => {
            let rest = &path[file.len() + 1..];
            resolve(&[target.as_slice(), rest].concat(), files, exports, depth + 1)
        }
        None => Some(file.to_vec()),
    }
}

/// Returns the sets of files that reach one another. Crates are small: reachability by a walk from
/// each file costs less than it takes to read Tarjan's algorithm.
fn strongly_connected(
    graph: &BTreeMap<ModulePath, BTreeSet<ModulePath>>,
) -> Vec<BTreeSet<ModulePath>> {
    let reach = |from: &ModulePath| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            for next in graph.get(at).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<_, _> = graph.keys().map(|file| (file, reach(file))).collect();
    let mut found = BTreeSet::new();
    for (file, below) in &reached {
        if below.contains(*file) {
            let both = below.iter().filter(|other| reached[other].contains(*file));
            found.insert(both.cloned().collect::<BTreeSet<_>>());
        }
    }
    found.into_iter().collect()
}

#[test]
fn a_circle_through_a_re_export_is_found_and_a_chain_is_none() {
    let file = |path: &str, text: &str| (format!("some/src/{path}"), text.to_owned());
    let chain = [
        file("lib.rs", "mod a;\nmod b;\npub use a::A;\n"),
        file("a.rs", "use crate::b::{self, B};\npub struct A(B);\n"),
        file("b.rs", "pub struct B;\n"),
    ];
    assert_eq!(circles(&chain), Vec::<String>::new());
    let circle = [chain[0].clone(), chain[1].clone(), file("b.rs", "fn f(_: crate::A) {}\n")];
    assert_eq!(circles(&circle), ["some: a ↔ b"]);
}
