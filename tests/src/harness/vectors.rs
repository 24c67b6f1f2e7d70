//! Envelopes captured from a real client: `tests/vectors/client/envelopes.jsonl`.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hawser_proto::Topic;
use serde_json::Value;

use super::recorded_session::without_key_packages;

/// The originator that orders an envelope: a node or a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// A node.
    Node,
    /// The chain contract for group messages.
    ChainGroup,
    /// The chain contract for identity updates.
    ChainIdentity,
}

/// One captured envelope.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The client envelope, byte for byte.
    pub client_bytes: Bytes,
    /// Its topic.
    pub topic: Topic,
    /// The originator that orders it.
    pub route: Route,
    /// Index of the publish call of the capture that it was part of.
    pub request: u64,
    /// `key_package`, `welcome`, `group_application`, …
    pub kind: String,
}

/// Returns the path of the capture.
#[must_use]
pub fn path() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/client/envelopes.jsonl").into()
}

/// Returns the lines of the capture as nodes accept them at any time: [`without_key_packages`].
///
/// # Panics
/// Panics if the file is not what it should be.
#[must_use]
pub fn accepted_lines() -> String {
    without_key_packages(&std::fs::read_to_string(path()).unwrap())
}

/// Returns the envelopes of [`accepted_lines`], in the order in which they were sent.
///
/// # Panics
/// Panics if the file is not what it should be.
#[must_use]
pub fn accepted() -> Vec<Captured> {
    accepted_lines().lines().map(|line| parse(&serde_json::from_str(line).unwrap())).collect()
}

fn parse(line: &Value) -> Captured {
    let text = |name: &str| line[name].as_str().unwrap().to_owned();
    let route = match text("expect_route").as_str() {
        "node" => Route::Node,
        "chain:group" => Route::ChainGroup,
        "chain:identity" => Route::ChainIdentity,
        other => panic!("route {other}"),
    };
    Captured {
        client_bytes: hex::decode(text("hex")).unwrap().into(),
        topic: Topic::parse(hex::decode(text("topic")).unwrap().into()).unwrap(),
        route,
        request: line["request"].as_u64().unwrap(),
        kind: text("kind"),
    }
}

/// Returns a captured key package.
///
/// # Panics
/// Panics if there is none.
#[must_use]
pub fn key_package() -> Captured {
    parse(&key_package_line())
}

/// Returns the same key package as long as nodes accept it. Its lifetime ends on 2027-02-12.
///
/// # Panics
/// Panics if there is none.
#[must_use]
pub fn key_package_in_lifetime() -> Option<Captured> {
    let line = key_package_line();
    let not_after_unix_s = line["key_package"]["not_after"].as_u64().unwrap();
    let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    (now_unix_s < not_after_unix_s).then(|| parse(&line))
}

fn key_package_line() -> Value {
    let text = std::fs::read_to_string(path()).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.find(|line| line["kind"] == "key_package").unwrap()
}
