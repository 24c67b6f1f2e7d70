//! The pages of `docs/api/` are complete, their made parts are those of the schema and of the suite, and a node answers
//! their examples as they say.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;

use hawser_proto::pb::MethodSchema;
use hawser_tests::harness::network::Network;
use hawser_tests::harness::wait::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::api_schema::{MADE, Schema, root};

/// Writes the made parts of the pages anew instead of comparing them.
const WRITE: &str = "HAWSER_TEST_WRITE_API_PAGES";

/// A page with its example.
struct Page {
    name: String,
    text: String,
    /// As a request names it: `/package.Service/Method`.
    path: String,
    /// The request, JSON.
    json: String,
}

impl Page {
    /// Reads a page, and checks that its parts are there and its two examples are the same call.
    fn read(name: &str) -> Self {
        let file = root().join("docs/api").join(format!("{name}.md"));
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        for part in ["## Request", "## Answer", "## Limits", "## Statuses", "## Examples"] {
            assert!(text.contains(part), "{name}: {part} is missing");
        }
        let (_, grpcurl) = text.split_once("grpcurl ").unwrap();
        let (_, quoted) = grpcurl.split_once("-d '").unwrap();
        let (json, rest) = quoted.split_once('\'').unwrap();
        let path = format!("/{}", rest.split_whitespace().nth(1).unwrap());
        if let Some((_, curl)) = text.split_once("http://") {
            let (address, _) = curl.split_once(' ').unwrap();
            assert!(address.ends_with(&path), "{name}: {address} is not {path}");
            assert!(curl.contains(&format!("'{json}'")), "{name}: two requests");
        }
        let (path, json) = (path.clone(), json.to_owned());
        Self { name: name.to_owned(), text, path, json }
    }
}

/// The methods of the schema, with their services, as the pages' files are called.
fn methods() -> Vec<(String, String)> {
    Schema::read().calls.into_iter().map(|call| (call.name, call.service)).collect()
}

impl Page {
    /// Returns the text of a section that was written by hand.
    fn section(&self, name: &str) -> &str {
        let (_, section) = self.text.split_once(&format!("\n## {name}\n")).unwrap();
        section.split("\n## ").next().unwrap()
    }
}

#[test]
fn every_page_names_limits_statuses_and_fields_that_the_schema_has() {
    let schema = Schema::read();
    for call in &schema.calls {
        let (name, page) = (&call.name, Page::read(&call.name));
        assert!(page.section("Limits").contains("\n- "), "{name}: no limit");
        let statuses = page.section("Statuses").lines().filter(|line| line.starts_with("| "));
        assert!(statuses.count() >= 2, "{name}: no status");
        let examples = page.section("Examples");
        assert!(
            examples.contains("`curl` cannot") || examples.contains("curl "),
            "{name}: no curl"
        );
        let rows = page.section("Request").lines().filter(|line| line.starts_with("| `"));
        for row in rows {
            let named = row.split('|').nth(1).unwrap();
            let mut paths = named.split(", ").map(|path| path.trim().trim_matches('`'));
            let first = paths.next().unwrap();
            assert!(schema.has_field(call, first), "{name}: no field {first}");
            // A further name in the row is a full path, or a field beside the first.
            let beside =
                first.rsplit_once('.').map_or(String::new(), |(parent, _)| format!("{parent}."));
            for path in paths {
                let is_there = schema.has_field(call, path)
                    || schema.has_field(call, &format!("{beside}{path}"));
                assert!(is_there, "{name}: no field {path}");
            }
        }
    }
}

/// To write the parts: `HAWSER_TEST_WRITE_API_PAGES=1 scripts/test --test serving api_pages`.
#[test]
fn made_parts_of_pages_are_of_this_schema_and_these_cases() {
    let schema = Schema::read();
    for call in &schema.calls {
        let made = schema.made(call);
        let file = root().join("docs/api").join(format!("{}.md", call.name));
        let text = fs::read_to_string(&file).unwrap();
        let (by_hand, found) = text.split_once(MADE).unwrap_or((&text, ""));
        if std::env::var_os(WRITE).is_some() {
            fs::write(&file, format!("{}\n\n{made}", by_hand.trim_end())).unwrap();
            continue;
        }
        let is_equal = format!("{MADE}{found}") == made;
        assert!(is_equal, "docs/api/{}.md is stale: run this test with {WRITE}=1", call.name);
    }
    let calls: BTreeSet<&str> = schema.calls.iter().map(|call| call.name.as_str()).collect();
    for (call, _) in hawser_conformance::cases::CHECKED_CALLS {
        assert!(calls.contains(call), "{call} is checked by the suite and has no page");
    }
}

#[test]
fn every_call_has_a_page_that_names_its_services() {
    let methods = methods();
    assert!(methods.len() > 25, "{methods:?}");
    let index = fs::read_to_string(root().join("docs/api/README.md")).unwrap();
    for (name, service) in &methods {
        let page = Page::read(name);
        let line = page.text.lines().nth(2).unwrap();
        assert!(line.contains(&format!(".{service}`")), "{name} does not name {service}: {line}");
        let row = index.lines().find(|line| line.contains(&format!("({name}.md)")));
        assert!(
            row.is_some_and(|row| row.contains(&format!("`{service}`"))),
            "{name} in the index"
        );
        let schema = MethodSchema::of_path(&page.path).unwrap_or_else(|| panic!("{}", page.path));
        schema
            .request_from_json(page.json.as_bytes())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let named: BTreeSet<String> =
        methods.into_iter().map(|(name, _)| format!("{name}.md")).collect();
    let files = fs::read_dir(root().join("docs/api")).unwrap();
    for file in files.map(|file| file.unwrap().file_name().into_string().unwrap()) {
        assert!(file == "README.md" || named.contains(&file), "{file} is no call");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_answers_the_examples_as_the_pages_say() {
    let mut network = Network::new(1);
    network.add_arguments(&["--validation-api"]);
    network.start_all().await;
    let port = network.nodes[0].port;
    let names: BTreeSet<String> = methods().into_iter().map(|(name, _)| name).collect();
    let mut asked = 0;
    for page in names.iter().map(|name| Page::read(name)) {
        let (name, json) = (&page.name, page.json.as_bytes());
        if !page.text.contains(" http://127.0.0.1:5050/") {
            continue; // of a gateway, or no call of Connect
        }
        asked += 1;
        if page.text.contains("application/connect+json") {
            let len = u32::try_from(json.len()).unwrap();
            assert!(len < 256, "{name}: the shell function frames no longer request");
            let body = [&[0], &len.to_be_bytes()[..], json].concat();
            let answer = ask(port, &page.path, "application/connect+json", &body, true).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
            assert!(!answer.contains("\"error\""), "{name}: {answer}");
            continue;
        }
        let answer = ask(port, &page.path, "application/json", json, false).await;
        match page.text.split_once("is answered with `") {
            None => assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}"),
            Some((_, rest)) => {
                let code = rest.split('`').next().unwrap();
                assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{name}: {answer}");
            }
        }
    }
    assert_eq!(asked, names.len() - 3, "all but Subscribe and two of a gateway");
}

/// Sends a request; returns the response, of a stream as much as comes first.
async fn ask(port: u16, path: &str, kind: &str, body: &[u8], is_stream: bool) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let len = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: {kind}\r\n\
         content-length: {len}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut response = Vec::new();
    let read = async {
        // The head of a stream and its first message may come apart.
        while !is_stream || response.len() < 32 || response.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut response).await.unwrap() == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap();
    String::from_utf8_lossy(&response).into_owned()
}
