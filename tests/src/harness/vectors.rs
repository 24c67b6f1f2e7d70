//! Envelopes captured from a real client: `tests/vectors/client/envelopes.jsonl`.

use std::path::PathBuf;

use bytes::Bytes;
use hawser_proto::Topic;
use serde_json::Value;

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

/// All of the capture, in the order in which it was sent.
///
/// # Panics
/// Panics if the file is not what it should be.
#[must_use]
pub fn captured() -> Vec<Captured> {
    let text = std::fs::read_to_string(path()).unwrap();
    text.lines().map(|line| parse(&serde_json::from_str(line).unwrap())).collect()
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

/// The bytes of a captured key package that nodes accept.
///
/// # Panics
/// Panics if there is none.
#[must_use]
pub fn key_package() -> Captured {
    captured().into_iter().find(|captured| captured.kind == "key_package").unwrap()
}
