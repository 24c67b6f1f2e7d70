//! The pages of `docs/api/` are complete, and a node answers their examples as they say.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use hawser_proto::pb::MethodSchema;
use hawser_tests::harness::network::Network;
use hawser_tests::harness::wait::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

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
    let files = [
        "xmtp/xmtpv4/message_api.proto",
        "xmtp/xmtpv4/metadata_api.proto",
        "xmtp/xmtpv4/payer_api.proto",
        "xmtp/xmtpv4/gateway_api.proto",
        "hawser/checkpoint_api.proto",
        "xmtp/mls_validation/v1.proto",
    ];
    let mut methods = Vec::new();
    for file in files {
        let text = fs::read_to_string(root().join("proto/proto").join(file)).unwrap();
        let mut service = String::new();
        for line in text.lines() {
            let mut words = line.trim_start().split([' ', '(']);
            match (words.next(), words.next()) {
                (Some("service"), Some(name)) => name.clone_into(&mut service),
                (Some("rpc"), Some(name)) => methods.push((name.to_owned(), service.clone())),
                _ => {}
            }
        }
    }
    methods
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
