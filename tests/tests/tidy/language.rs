//! The language of code and documents, as far as a search can check it.

use std::collections::{BTreeMap, BTreeSet};

use crate::circles::{code_of, is_test};
use crate::{assert_none, root, texts};

/// A doc line begins with the item's kind or effect, not with a clause.
const CLAUSES: [&str; 9] =
    ["What ", "Who ", "Whoever ", "Whether ", "How ", "Why ", "Of which ", "Where ", "Whose "];

/// A role has a name: peer, payer, reader, operator.
const NOBODIES: [&str; 5] = ["some", "no", "every", "any", "who ever"];

fn nobodies() -> Vec<String> {
    NOBODIES
        .iter()
        .map(
            |start| {
                if start.contains(' ') { start.replace(' ', "") } else { format!("{start}body") }
            },
        )
        .collect()
}

/// Returns the text of a line of Solidity's docs behind its tag, and behind the name that follows `@param` and
/// `@return`. Returns a line without a tag as it is.
fn behind_tag(doc: &str) -> &str {
    let tagged = doc.strip_prefix('@').and_then(|rest| rest.split_once(' '));
    let Some((tag, text)) = tagged else { return doc };
    let text = text.trim_start();
    match tag {
        "param" | "return" => text.split_once(' ').map_or(text, |(_, text)| text.trim_start()),
        _ => text,
    }
}

#[test]
fn doc_lines_begin_with_what_the_item_is_or_does() {
    let mut broken = Vec::new();
    for (path, text) in texts(&["rs", "sol", "py", "mjs", "js"]) {
        let openings: &[&str] = match path.rsplit('.').next() {
            Some("rs" | "sol") => &["/// ", "//! "],
            Some("py") => &["\"\"\""],
            // Scripts have their files' docs in plain comments, too.
            _ => &["/** ", "// "],
        };
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            let doc = openings.iter().find_map(|opening| line.strip_prefix(opening));
            let doc = doc.map(behind_tag);
            if doc.is_some_and(|doc| CLAUSES.iter().any(|clause| doc.starts_with(clause))) {
                broken.push(format!("{path}:{}: {line}", number + 1));
            }
        }
    }
    assert_none(&broken, "a doc line begins with what the item is or does");
}

#[test]
fn roles_are_named() {
    let nobodies = nobodies();
    let mut broken = Vec::new();
    // This file has to write the words down.
    let prose = texts(&["rs", "sol", "py", "md", "mjs", "js"])
        .into_iter()
        .filter(|(path, _)| !path.ends_with("tidy/language.rs"));
    for (path, text) in prose {
        for (number, line) in text.lines().enumerate() {
            // The name that policies give to all callers of a gateway is a value, not prose.
            let prose = line.replace("\"everybody\"", "").replace("`everybody`", "");
            let mut words = prose.split(|letter: char| !letter.is_alphanumeric());
            if words.any(|word| nobodies.contains(&word.to_lowercase())) {
                broken.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(&broken, "name the role: peer, payer, reader, operator");
}

/// Words for a person without a role. Only in prose: the tests of contracts name an account so.
const PERSONS: [&str; 4] = ["anyone", "someone", "everyone", "no one"];

#[test]
fn persons_are_named_by_their_role() {
    let mut broken = Vec::new();
    // This file has to write the words down.
    let files = texts(&["rs", "sol", "md", "mjs", "js"]).into_iter();
    for (path, text) in files.filter(|(path, _)| !path.ends_with("tidy/language.rs")) {
        for (number, line) in text.lines().enumerate() {
            let prose = match path.ends_with(".md") {
                true => line,
                false => line.split_once("//").map_or("", |(_, comment)| comment),
            };
            let is_of_word = |letter: char| letter.is_alphanumeric() || letter == '_';
            let words = prose.to_lowercase().replace(|letter: char| !is_of_word(letter), " ");
            let words = format!(" {words} ");
            if PERSONS.iter().any(|person| words.contains(&format!(" {person} "))) {
                broken.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(&broken, "name the role: peer, payer, reader, operator, or a host, an account");
}

/// Names of types that said nothing of their subject and stood for several things at once.
const RIDDLES: [&str; 32] = [
    "Assignment",
    "Campaign",
    "Context",
    "Course",
    "Desk",
    "Due",
    "Failure",
    "Fate",
    "Gone",
    "Guest",
    "Held",
    "Impossible",
    "Measure",
    "Moved",
    "Numbers",
    "Older",
    "Outlet",
    "Past",
    "Patience",
    "Pulse",
    "Refusal",
    "Said",
    "Shared",
    "Sight",
    "Sighting",
    "Standing",
    "State",
    "Teller",
    "Told",
    "Trial",
    "Verdict",
    "World",
];

/// Returns the name of the type that a line begins to declare.
fn named_type(line: &str) -> Option<&str> {
    let kinds = ["struct ", "enum ", "trait ", "type "];
    kinds.iter().find_map(|kind| {
        let (head, rest) = line.trim_start().split_once(kind)?;
        let is_item = head.is_empty() || head.starts_with("pub");
        is_item.then(|| rest.split(|letter: char| !letter.is_alphanumeric()).next())?
    })
}

/// Returns true if the name of a type says that it is an error.
fn is_of_error(name: &str) -> bool {
    ["Error", "Violation"].iter().any(|end| name.ends_with(end))
}

#[test]
fn error_types_end_in_error() {
    let mut broken = Vec::new();
    for (path, text) in texts(&["rs"]) {
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let is_derived = line.trim_start().starts_with("#[derive(");
            if !is_derived || !line.contains("thiserror::Error") {
                continue;
            }
            let name = lines.by_ref().find_map(named_type).unwrap_or_default();
            if !is_of_error(name) {
                broken.push(format!("{path}: {name}"));
            }
        }
        for line in text.lines().filter(|line| line.starts_with("impl")) {
            let Some((_, rest)) = line.split_once("Error for ") else { continue };
            let name = rest.split(|letter: char| !letter.is_alphanumeric()).next();
            if !name.is_some_and(is_of_error) {
                broken.push(format!("{path}: {rest}"));
            }
        }
    }
    assert_none(&broken, "an error type ends in `Error`, a broken rule in `Violation`");
}

/// Types that calls return in the place of an error and that are none: the node, place or receipts with which a caller
/// goes on, codes of the wire, the finding of a search, and names that gRPC and the EVM have given.
const RETURNED: [&str; 11] = [
    "CloseCode",
    "EndsVersion",
    "Fact",
    "Finding",
    "HeldReceipts",
    "OriginatorId",
    "RefusalReason",
    "ReportOutcome",
    "Revert",
    "SequenceId",
    "Status",
];

/// Returns the names of the types in the second place of each `Result` of a text.
fn returned_as_error(text: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for (at, opening) in text.match_indices("Result<") {
        let inner = &text[at + opening.len()..];
        let (mut depth, mut second) = (0_usize, None);
        for (index, letter) in inner.char_indices() {
            match letter {
                '>' if inner[..index].ends_with(['-', '=']) => {}
                '<' | '(' | '[' => depth += 1,
                '>' | ')' | ']' if depth > 0 => depth -= 1,
                '>' | ')' | ']' => {
                    let named = second.map_or("", |start: usize| inner[start..index].trim());
                    let path = named.split(['<', ',']).next().unwrap_or(named);
                    if !path.starts_with("Self::") {
                        names.insert(path.rsplit("::").next().unwrap_or(path));
                    }
                    break;
                }
                ',' if depth == 0 => {
                    second.get_or_insert(index + 1);
                }
                _ => {}
            }
        }
    }
    names
}

#[test]
fn a_type_that_calls_return_as_their_error_ends_in_error() {
    let texts = texts(&["rs"]);
    let lines = texts.iter().flat_map(|(_, text)| text.lines());
    let declared: BTreeSet<&str> = lines.filter_map(named_type).collect();
    let mut broken = Vec::new();
    let mut found = 0;
    for (path, text) in &texts {
        for name in returned_as_error(text).into_iter().filter(|name| declared.contains(name)) {
            found += 1;
            if !is_of_error(name) && !RETURNED.contains(&name) {
                broken.push(format!("{path}: {name}"));
            }
        }
    }
    assert!(found > 500, "the types are found");
    assert_none(&broken, "an error type ends in `Error`, or RETURNED says why it is none");
}

#[test]
fn names_of_types_say_their_subject() {
    let mut broken = Vec::new();
    for (path, text) in texts(&["rs"]) {
        for (number, line) in text.lines().enumerate() {
            if named_type(line).is_some_and(|name| RIDDLES.contains(&name)) {
                broken.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(&broken, "a name says of what: `PruneVerdict`, not `Verdict`");
}

/// The first words of names that ask.
const ASKS: [&str; 11] = [
    "are_", "can_", "has_", "holds_", "is_", "knows_", "lacks_", "may_", "must_", "needs_", "was_",
];

#[test]
fn a_function_whose_name_asks_changes_nothing() {
    let mut broken = Vec::new();
    for (path, text) in texts(&["rs"]) {
        for (at, receiver) in text.match_indices("mut self") {
            let is_declared = text[at + receiver.len()..].starts_with([',', ')']);
            let before = text[..at].trim_end_matches('&').trim_end();
            let Some(head) = before.strip_suffix('(') else { continue };
            let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
            let name = head.rsplit(|letter: char| !is_name(letter)).next().unwrap_or(head);
            if is_declared && ASKS.iter().any(|asks| name.starts_with(asks)) {
                broken.push(format!("{path}: {name}"));
            }
        }
    }
    assert_none(&broken, "a name that asks takes `&self`: give a function that acts a verb");
}

/// Helpers of tests may poll what they are given.
#[test]
fn a_function_whose_name_asks_changes_no_argument() {
    let mut broken = Vec::new();
    for (path, text) in texts(&["rs"]).into_iter().filter(|(path, _)| !is_test(path)) {
        for declared in code_of(&text).split("fn ").skip(1) {
            let head = declared.split(['{', ';']).next().unwrap_or(declared);
            let name = head.split(['(', '<']).next().unwrap_or(head);
            if ASKS.iter().any(|asks| name.starts_with(asks)) && head.contains(": &mut ") {
                broken.push(format!("{path}: {name}"));
            }
        }
    }
    assert_none(&broken, "a name that asks takes no `&mut`: give a function that acts a verb");
}

/// Packages that only use others, and the program: their types are seen by no other crate.
const USERS: [&str; 5] = ["cli", "examples", "tests", "benches", "fuzz"];

/// Names of fields that hold the id of a node or a strand, or a place.
const IDS: [&str; 7] = [
    "host_node_id",
    "last_sequence",
    "node_id",
    "originator",
    "originator_id",
    "sequence",
    "sequence_id",
];

#[test]
fn ids_have_types_of_their_own() {
    let (mut found, mut broken) = (0, Vec::new());
    for (path, text) in texts(&["rs"]) {
        let Some((package, _)) = path.split_once("/src/") else { continue };
        if USERS.contains(&package) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let field = line.trim_start().strip_prefix("pub ");
            let Some((name, kind)) = field.and_then(|field| field.split_once(": ")) else {
                continue;
            };
            if IDS.contains(&name) {
                found += 1;
                if ["u32", "u64"].iter().any(|number| kind.contains(number)) {
                    broken.push(format!("{path}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(found > 30, "the fields are found");
    assert_none(&broken, "an id is an `OriginatorId` or a `SequenceId`, also in files and output");
}

#[test]
fn a_public_type_has_a_name_of_its_own() {
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in texts(&["rs"]) {
        let Some((package, file)) = path.split_once("/src/") else { continue };
        if USERS.contains(&package) || package.contains('/') || file.ends_with("tests.rs") {
            continue;
        }
        for line in text.lines() {
            let kinds = ["pub struct ", "pub enum ", "pub trait ", "pub type "];
            let Some(rest) = kinds.iter().find_map(|kind| line.strip_prefix(kind)) else {
                continue;
            };
            let name = rest.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or(rest);
            places.entry(name.to_owned()).or_default().insert(path.clone());
        }
    }
    assert!(places.len() > 500, "the public types are found");
    let shared = places.iter().filter(|(_, files)| files.len() > 1);
    let shared: Vec<String> = shared.map(|(name, files)| format!("{name}: {files:?}")).collect();
    assert_none(&shared, "one name means one thing in the whole workspace: name the subject");
}

/// Packages whose files are programs or scenarios, each with parts of the same names.
const PROGRAMS: [&str; 3] = ["benches", "examples", "tests"];

#[test]
fn a_type_has_a_name_of_its_own_in_its_package() {
    let mut places: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (path, text) in texts(&["rs"]) {
        let Some((package, file)) = path.split_once("/src/") else { continue };
        if PROGRAMS.contains(&package) || package.contains('/') || is_test(file) {
            continue;
        }
        let code = code_of(&text);
        let at_top = code.lines().filter(|line| !line.starts_with(' '));
        for name in at_top.filter_map(named_type) {
            places.entry((package.to_owned(), name.to_owned())).or_default().insert(path.clone());
        }
    }
    assert!(places.len() > 1000, "the types are found");
    let shared = places.iter().filter(|(_, files)| files.len() > 1);
    let shared: Vec<String> =
        shared.map(|((_, name), files)| format!("{name}: {files:?}")).collect();
    assert_none(&shared, "one name means one thing in a package: name the subject");
}

#[test]
fn changes_are_listed_for_operators() {
    let changes = std::fs::read_to_string(crate::root().join("CHANGELOG.md")).unwrap();
    assert!(changes.contains("## Unreleased"), "CHANGELOG.md has a part for what is not released");
    let version = format!("## {}", env!("CARGO_PKG_VERSION"));
    let is_first = changes.matches("\n## ").count() == 1;
    assert!(is_first || changes.contains(&version), "CHANGELOG.md has a part for {version}");
}

/// Operators raise alarms on levels, and read on the page what a code means at its level.
#[test]
fn every_log_code_is_explained_with_its_level() {
    const LEVELS: [&str; 3] = ["error!(", "warn!(", "info!("];
    let sources = texts(&["rs"]);
    let mut logged = BTreeSet::new();
    for (_, text) in sources.iter().filter(|(path, _)| !path.contains("/tests/")) {
        for (at, found) in text.match_indices("code = \"") {
            let code = text[at + found.len()..].split('"').next().unwrap_or_default();
            let before = |level: &'static str| Some((text[..at].rfind(level)?, level));
            let last = LEVELS.into_iter().filter_map(before).max();
            let level = last.map_or("no level", |(_, level)| level.trim_end_matches("!("));
            logged.insert((code.to_owned(), level.to_owned()));
        }
    }
    let page = std::fs::read_to_string(root().join("docs/log-codes.md")).unwrap();
    let row = |line: &str| -> Option<(String, String)> {
        let (code, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some((code.to_owned(), rest.split(' ').next()?.to_owned()))
    };
    let explained: BTreeSet<(String, String)> = page.lines().filter_map(row).collect();
    assert_eq!(logged, explained, "codes in the program and in docs/log-codes.md, with levels");
}

/// An operator looks up an error by its code, so no error is logged without one. The code comes before all other
/// texts of the line.
#[test]
fn every_logged_error_has_a_code() {
    let mut broken = Vec::new();
    for (path, text) in texts(&["rs"]).iter().filter(|(path, _)| !path.contains("tests")) {
        let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        // With and without `tracing::`, but not the end of another macro's name.
        let is_macro = |(at, _): &(usize, &str)| {
            !program[..*at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
        };
        let logged = program.match_indices("error!(").filter(is_macro);
        for (index, (at, found)) in logged.enumerate() {
            let logged = &program[at + found.len()..];
            let before_texts = logged.split('"').next().unwrap_or_default();
            if !before_texts.trim_end().ends_with("code =") {
                broken.push(format!(
                    "{path}: error {}: {}",
                    index + 1,
                    logged.lines().next().unwrap_or("")
                ));
            }
        }
    }
    assert_none(&broken, "an error is logged with a code, which docs/log-codes.md explains");
}

/// Names that no field of a log line has, each with the name that takes its place.
const FIELDS: [(&str, &str); 4] = [
    ("about", "originator_id"),
    ("node", "node_id"),
    ("originator", "originator_id"),
    ("report", "report_id"),
];

/// Returns the names of the fields of a log line, from the text behind the opening bracket of its macro.
fn fields_of(call: &str) -> Vec<&str> {
    let mut fields = Vec::new();
    for outside in call.split('"').step_by(2) {
        let names = outside.split(',').map(|part| part.split('=').next().unwrap_or_default());
        fields.extend(names.map(|name| name.trim().trim_start_matches(['%', '?'])));
        // A text behind a sign of equality is a value. The first other one is the message.
        if !outside.trim_end().trim_end_matches(['%', '?']).trim_end().ends_with('=') {
            break;
        }
    }
    fields
}

/// An operator who searches the log for an id by the name that metrics and the status have finds every line about it.
#[test]
fn ids_in_log_lines_have_one_name() {
    assert_eq!(
        fields_of(r#"code = "a", %node, at = %it, "{}", report);"#),
        ["code", "", "node", "at", ""]
    );
    let mut broken = Vec::new();
    for (path, text) in texts(&["rs"]).iter().filter(|(path, _)| !path.contains("tests")) {
        let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for found in ["trace!(", "debug!(", "info!(", "warn!(", "error!("] {
            for (at, _) in program.match_indices(found) {
                let fields = fields_of(&program[at + found.len()..]);
                let renamed = FIELDS.iter().filter(|(old, _)| fields.contains(old));
                let line = program[..at].matches('\n').count() + 1;
                broken.extend(renamed.map(|(old, new)| format!("{path}:{line}: {old} is {new}")));
            }
        }
    }
    assert_none(&broken, "an id has one name in all log lines");
}

/// The list of decisions repeats the titles of their pages, so each title has to be the decision.
#[test]
fn decisions_are_listed_with_their_titles() {
    let pages = texts(&["md"]);
    let (_, list) = pages.iter().find(|(path, _)| path == "docs/decisions/README.md").unwrap();
    let mut broken = Vec::new();
    for (path, text) in &pages {
        let Some(name) = path.strip_prefix("docs/decisions/0") else { continue };
        let title = text.lines().next().unwrap().trim_start_matches("# ");
        let (number, title) = title.split_once(". ").unwrap_or((title, ""));
        let row = format!("| [{number}](0{name}) | ");
        let is_listed = list
            .lines()
            .any(|line| line.starts_with(&row) && line.ends_with(&format!(" | {title} |")));
        if !is_listed {
            broken.push(format!("{path}: {number}. {title}"));
        }
    }
    assert_none(&broken, "docs/decisions/README.md has a row with the title of each page");
}
