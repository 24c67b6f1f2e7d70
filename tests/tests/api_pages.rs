//! The pages of `docs/api/` are complete, their made parts are those of the schema and of the suite, and a node and a
//! gateway answer their examples as they say.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};

use hawser_proto::pb::MethodSchema;
use hawser_tests::harness::gateway::Gateway;
use hawser_tests::harness::network::Network;
use hawser_tests::harness::wait::WAIT_MAX;

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
        check_schema(name, grpcurl, &path);
        if let Some((_, curl)) = text.split_once("http://") {
            let (address, _) = curl.split_once(' ').unwrap();
            assert!(address.ends_with(&path), "{name}: {address} is not {path}");
            assert!(curl.contains(&format!("'{json}'")), "{name}: two requests");
        }
        let (path, json) = (path.clone(), json.to_owned());
        Self { name: name.to_owned(), text, path, json }
    }
}

/// Checks that the options of `grpcurl` name a file with the service of the call.
fn check_schema(name: &str, grpcurl: &str, path: &str) {
    let option = |option: &str| {
        let mut words = grpcurl.split_whitespace().skip_while(|word| *word != option);
        words.nth(1).unwrap_or_else(|| panic!("{name}: {option} is missing"))
    };
    let file = root().join(option("-import-path")).join(option("-proto"));
    let schema = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (service, _) = path.trim_start_matches('/').split_once('/').unwrap();
    let (package, service) = service.rsplit_once('.').unwrap();
    for line in [format!("package {package};"), format!("service {service} {{")] {
        assert!(schema.contains(&line), "{name}: {} has no {line:?}", file.display());
    }
}

/// The methods of the schema, with their services, as the pages' files are called.
fn methods() -> Vec<(String, String)> {
    Schema::read().calls.into_iter().map(|call| (call.name, call.service)).collect()
}

impl Page {
    /// Returns the example of `curl`; `None` for a call that `curl` cannot make.
    fn curl(&self) -> Option<&str> {
        let blocks = self.text.split("```sh\n").skip(1);
        blocks.filter_map(|block| block.split("```").next()).find(|it| it.starts_with("curl "))
    }

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

/// Returns the services of all `.proto` files by their full names, with their calls.
fn services() -> BTreeMap<String, Vec<String>> {
    let mut services: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut folders = vec![root().join("proto/proto")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let (mut package, mut service) = (String::new(), String::new());
            for line in fs::read_to_string(path).unwrap().lines() {
                let mut words = line.trim().split([' ', '(', ';']);
                match (words.next(), words.next()) {
                    (Some("package"), Some(name)) => name.clone_into(&mut package),
                    (Some("service"), Some(name)) => service = format!("{package}.{name}"),
                    (Some("rpc"), Some(name)) => {
                        services.entry(service.clone()).or_default().push(name.to_owned());
                    }
                    _ => {}
                }
            }
        }
    }
    services
}

/// Returns the services that the index lists as not served, with their calls.
fn unserved() -> BTreeMap<String, Vec<String>> {
    let index = fs::read_to_string(root().join("docs/api/README.md")).unwrap();
    let (_, section) = index.split_once("\n## Calls that are not served\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let names = |cell: &str| -> Vec<String> {
        cell.split(", ").map(|name| name.trim().trim_matches('`').to_owned()).collect()
    };
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (names(cells[1]).remove(0), names(cells[2]))
    })
    .collect()
}

#[test]
fn every_service_of_the_schema_has_pages_or_a_reason_for_having_none() {
    let with_pages: BTreeSet<String> = methods().into_iter().map(|(_, service)| service).collect();
    let mut unserved = unserved();
    for (service, mut calls) in services() {
        let Some(mut listed) = unserved.remove(&service) else {
            let name = service.rsplit('.').next().unwrap();
            assert!(with_pages.contains(name), "{service} has neither pages nor a reason");
            continue;
        };
        calls.sort();
        listed.sort();
        assert_eq!(listed, calls, "{service}");
    }
    assert_eq!(unserved, BTreeMap::new(), "the schema has no such service");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_and_a_gateway_answer_the_examples_of_curl_as_the_pages_say() {
    let mut network = Network::new(1);
    network.add_arguments(&["--validation-api"]);
    network.start_all().await;
    let gateway = Gateway::start(&network).await;
    let servers = [(5050, network.nodes[0].port), (5052, gateway.port)];
    let names: BTreeSet<String> = methods().into_iter().map(|(name, _)| name).collect();
    let mut asked = 0;
    for page in names.iter().map(|name| Page::read(name)) {
        let Some(example) = page.curl() else { continue };
        asked += 1;
        let example = servers.iter().fold(example.to_owned(), |example, (written, port)| {
            example.replace(&format!("127.0.0.1:{written}"), &format!("127.0.0.1:{port}"))
        });
        let is_stream = example.contains("application/connect+json");
        let answer = tokio::task::spawn_blocking(move || run(&example, is_stream)).await.unwrap();
        let name = &page.name;
        match page.text.split_once("is answered with `") {
            None => assert!(!answer.contains("\"code\":"), "{name}: {answer}"),
            Some((_, rest)) => {
                let code = rest.split('`').next().unwrap();
                assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{name}: {answer}");
            }
        }
    }
    assert_eq!(asked, names.len() - 1, "all but Subscribe, a stream in both directions");
    for (service, calls) in unserved() {
        for (call, port) in calls.iter().zip([network.nodes[0].port, gateway.port].iter().cycle()) {
            let example = format!(
                "curl http://127.0.0.1:{port}/{service}/{call} -H 'content-type: application/json' -d '{{}}'"
            );
            let answer = tokio::task::spawn_blocking(move || run(&example, false)).await.unwrap();
            assert!(answer.contains("\"code\":\"unimplemented\""), "{service}/{call}: {answer}");
        }
    }
}

/// Runs an example in a shell that knows the function of the index. Returns what it prints, of a stream its first
/// message.
fn run(example: &str, is_stream: bool) -> String {
    let index = fs::read_to_string(root().join("docs/api/README.md")).unwrap();
    let frame = index.lines().find(|line| line.starts_with("frame() ")).unwrap();
    let script = format!("{frame}\nexec timeout {} {example}", WAIT_MAX.as_secs());
    let mut command = Command::new("bash");
    // Standard error would show the progress of curl.
    command.args(["-c", &script]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut shell = command.spawn().expect("bash is installed");
    let mut output = shell.stdout.take().unwrap();
    let mut printed = Vec::new();
    if is_stream {
        let mut head = [0; 5];
        output.read_exact(&mut head).unwrap_or_else(|error| panic!("{example}: {error}"));
        let [flag, len @ ..] = head;
        assert_eq!(flag, 0, "{example}: its first frame is no message");
        printed = vec![0; u32::from_be_bytes(len) as usize];
        output.read_exact(&mut printed).unwrap();
        shell.kill().unwrap();
    } else {
        output.read_to_end(&mut printed).unwrap();
    }
    shell.wait().unwrap();
    assert!(!printed.is_empty(), "{example}: it prints nothing (is curl installed?)");
    String::from_utf8(printed).unwrap()
}
