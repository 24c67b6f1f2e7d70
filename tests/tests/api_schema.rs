//! The parts of the pages of `docs/api/` that are made: fields from the `.proto` files with their comments, and the
//! suite's cases.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// Files with the calls that have pages, and files with messages that their requests hold.
const FILES: [&str; 9] = [
    "xmtp/xmtpv4/message_api.proto",
    "xmtp/xmtpv4/metadata_api.proto",
    "xmtp/xmtpv4/payer_api.proto",
    "xmtp/xmtpv4/gateway_api.proto",
    "hawser/checkpoint_api.proto",
    "xmtp/mls_validation/v1.proto",
    "xmtp/xmtpv4/envelopes.proto",
    "xmtp/identity/associations.proto",
    "xmtp/identity/api/v1.proto",
];
/// The files among them whose calls have pages.
const FILES_WITH_PAGES: usize = 6;

/// The first line of the made part of a page.
pub(crate) const MADE: &str = "## Schema";

/// A call as the schema declares it.
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) service: String,
    /// Full names of both messages.
    request: String,
    response: String,
}

struct Field {
    kind: String,
    name: String,
    number: String,
    comment: String,
}

#[derive(Default)]
struct MessageText {
    package: String,
    comment: String,
    fields: Vec<Field>,
}

/// The calls and messages of the `.proto` files.
#[derive(Default)]
pub(crate) struct Schema {
    pub(crate) calls: Vec<Call>,
    /// By full names.
    messages: BTreeMap<String, MessageText>,
}

/// The package, the service and the other parts of a file that surround a line.
#[derive(Default)]
struct Place {
    package: String,
    service: String,
    /// Keyword and name of each open block.
    blocks: Vec<(String, String)>,
    comment: Vec<String>,
}

impl Place {
    fn message(&self) -> String {
        let open = self.blocks.iter().filter(|(keyword, _)| keyword == "message");
        let names: Vec<&str> = open.map(|(_, name)| name.as_str()).collect();
        [&[self.package.as_str()][..], &names].concat().join(".")
    }
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns a name in lowerCamelCase, as JSON has it.
fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut camel = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (first, rest) = part.split_at(part.len().min(1));
        camel += &first.to_uppercase();
        camel += rest;
    }
    camel
}

impl Schema {
    /// Reads the files.
    pub(crate) fn read() -> Self {
        let mut schema = Self::default();
        for (place, file) in FILES.iter().enumerate() {
            let text = fs::read_to_string(root().join("proto/proto").join(file)).unwrap();
            let mut at = Place::default();
            for line in text.lines() {
                schema.line(line.trim(), &mut at, place < FILES_WITH_PAGES);
            }
        }
        schema
    }

    fn line(&mut self, line: &str, at: &mut Place, has_pages: bool) {
        if let Some(comment) = line.strip_prefix("//") {
            at.comment.push(comment.trim().to_owned());
            return;
        }
        let comment = std::mem::take(&mut at.comment).join(" ");
        let mut words = line.split([' ', '(']);
        match (words.next().unwrap_or_default(), words.next()) {
            ("package", Some(name)) => name.trim_end_matches(';').clone_into(&mut at.package),
            (keyword @ ("message" | "enum" | "oneof" | "service"), Some(name)) => {
                at.blocks.push((keyword.to_owned(), name.to_owned()));
                match keyword {
                    "message" => {
                        let package = at.package.clone();
                        let message = MessageText { package, comment, fields: Vec::new() };
                        self.messages.insert(at.message(), message);
                    }
                    "service" => name.clone_into(&mut at.service),
                    _ => {}
                }
                if line.ends_with('}') {
                    at.blocks.pop();
                }
            }
            ("}", None) => drop(at.blocks.pop()),
            ("rpc", Some(name)) if has_pages => self.call(name, line, at),
            ("reserved" | "option", _) => {}
            _ => {
                let is_of_message = at
                    .blocks
                    .last()
                    .is_some_and(|(keyword, _)| keyword == "message" || keyword == "oneof");
                if is_of_message && let Some(field) = field(line, comment) {
                    self.messages.get_mut(&at.message()).unwrap().fields.push(field);
                }
            }
        }
    }

    fn call(&mut self, name: &str, line: &str, at: &Place) {
        let messages: Vec<String> = line
            .split('(')
            .skip(1)
            .map(|part| {
                let kind = part.split(')').next().unwrap().trim_start_matches("stream ");
                if kind.contains('.') { kind.to_owned() } else { format!("{}.{kind}", at.package) }
            })
            .collect();
        let [request, response] = <[String; 2]>::try_from(messages).unwrap();
        let (name, service) = (name.to_owned(), at.service.clone());
        self.calls.push(Call { name, service, request, response });
    }

    /// Returns the full name of the message that a type names within another message.
    fn resolve(&self, within: &str, kind: &str) -> Option<String> {
        let name = kind.rsplit(' ').next()?;
        if self.messages.contains_key(name) {
            return Some(name.to_owned());
        }
        let mut scope = within;
        loop {
            let full = format!("{scope}.{name}");
            if self.messages.contains_key(&full) {
                return Some(full);
            }
            scope = scope.rsplit_once('.')?.0;
        }
    }

    /// Returns true if a request of the call has the field: names in lowerCamelCase, joined by dots, `[]` for lists.
    pub(crate) fn has_field(&self, call: &Call, path: &str) -> bool {
        let mut message = Some(call.request.clone());
        path.split('.').all(|name| {
            let Some(within) = message.take() else { return false };
            let fields = &self.messages[&within].fields;
            let is_list = name.ends_with("[]");
            let name = name.trim_end_matches("[]");
            let Some(field) = fields.iter().find(|field| camel(&field.name) == name) else {
                return false;
            };
            message = self.resolve(&within, &field.kind);
            !is_list || field.kind.starts_with("repeated ")
        })
    }

    /// Returns the messages of a call, and those of the same package that they hold.
    fn held(&self, call: &Call) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut waiting = VecDeque::from([call.request.clone(), call.response.clone()]);
        while let Some(name) = waiting.pop_front() {
            if found.contains(&name) {
                continue;
            }
            let message = &self.messages[&name];
            for field in &message.fields {
                if let Some(held) = self.resolve(&name, &field.kind)
                    && self.messages[&held].package == message.package
                {
                    waiting.push_back(held);
                }
            }
            found.push(name);
        }
        found
    }

    /// Returns the made part of a call's page.
    pub(crate) fn made(&self, call: &Call) -> String {
        let mut text = format!(
            "{MADE}\n\nThis part is made from the `.proto` files and from the suite's cases.\n"
        );
        for name in self.held(call) {
            let message = &self.messages[&name];
            let short = &name[message.package.len() + 1..];
            let _ = write!(text, "\n### {short}\n\n");
            if !message.comment.is_empty() {
                let _ = write!(text, "> {}\n\n", message.comment);
            }
            if message.fields.is_empty() {
                text += "No fields.\n";
                continue;
            }
            text += "| field | number | type | |\n|---|---|---|---|\n";
            for Field { kind, name, number, comment } in &message.fields {
                let (name, kind) = (camel(name), short_kind(kind));
                let comment = comment.replace('|', "\\|");
                let _ = writeln!(text, "| `{name}` | {number} | `{kind}` | {comment} |");
            }
        }
        text + &cases_of(&call.name)
    }
}

fn field(line: &str, comment: String) -> Option<Field> {
    let (left, right) = line.split_once(" = ")?;
    let (kind, name) = left.rsplit_once(' ')?;
    let number = right.chars().take_while(char::is_ascii_digit).collect();
    Some(Field { kind: kind.to_owned(), name: name.to_owned(), number, comment })
}

/// Returns a type without the package of a message.
fn short_kind(kind: &str) -> String {
    let (label, name) = kind.rsplit_once(' ').unwrap_or(("", kind));
    let is_full = name.starts_with("xmtp.") || name.starts_with("hawser.");
    if kind.contains('<') || !is_full {
        return kind.to_owned();
    }
    format!("{label} {}", name.rsplit('.').next().unwrap()).trim_start().to_owned()
}

fn cases_of(call: &str) -> String {
    let found = hawser_conformance::cases::CHECKED_CALLS.iter().find(|(name, _)| *name == call);
    let Some((_, cases)) = found else {
        return "\n## Conformance\n\nNo case of [the suite](../conformance.md#cases) checks this call.\n".into();
    };
    let mut text =
        "\n## Conformance\n\nCases of [the suite](../conformance.md#cases) that check this call:\n\n".to_owned();
    for case in *cases {
        let _ = writeln!(text, "- `{case}`");
    }
    text
}
