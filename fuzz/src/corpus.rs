//! The vectors from which inputs are derived.

use bytes::Bytes;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::Version;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::ClientEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::client_envelope::Payload;
use prost::Message as _;
use serde_json::Value;

const GOLDEN: &str = "tests/vectors/wire/golden.jsonl";
const REJECTED: &str = "tests/vectors/wire/reject.jsonl";
const CLIENT: &str = "tests/vectors/client/envelopes.jsonl";
const FRAMES: &str = "proto/tests/data/frames.jsonl";
const CHECKPOINTS: &str = "proto/tests/data/checkpoints.jsonl";

/// Returns the JSON objects of a file of the repository, one per line.
fn lines(file: &str) -> Vec<Value> {
    let path = format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

fn bytes(vector: &Value) -> Vec<u8> {
    hex::decode(vector["hex"].as_str().expect("every vector has hex")).expect("hex is hex")
}

/// Returns all protobuf messages of the vectors, valid and invalid.
pub(crate) fn messages() -> Vec<Vec<u8>> {
    [GOLDEN, REJECTED, CLIENT].iter().flat_map(|file| lines(file)).map(|v| bytes(&v)).collect()
}

/// Returns the messages of the type with this full name.
pub(crate) fn messages_of(full_name: &str) -> Vec<Vec<u8>> {
    lines(GOLDEN).iter().filter(|vector| vector["type"] == full_name).map(bytes).collect()
}

/// Returns the envelopes that real clients made.
pub(crate) fn client_envelopes() -> Vec<Vec<u8>> {
    lines(CLIENT).iter().map(bytes).collect()
}

/// Returns the group messages of the client envelopes.
pub(crate) fn group_messages() -> Vec<Vec<u8>> {
    payloads()
        .filter_map(|payload| match payload {
            Payload::GroupMessage(message) => {
                message.version.map(|Version::V1(v1)| v1.data.to_vec())
            }
            _ => None,
        })
        .collect()
}

/// Returns the key packages of the client envelopes.
pub(crate) fn key_packages() -> Vec<Vec<u8>> {
    payloads()
        .filter_map(|payload| match payload {
            Payload::UploadKeyPackage(upload) => {
                upload.key_package.map(|package| package.key_package_tls_serialized.to_vec())
            }
            _ => None,
        })
        .collect()
}

/// Returns the identity updates of the client envelopes.
pub(crate) fn identity_updates() -> Vec<Vec<u8>> {
    payloads()
        .filter_map(|payload| match payload {
            Payload::IdentityUpdate(update) => Some(update.encode_to_vec()),
            _ => None,
        })
        .collect()
}

fn payloads() -> impl Iterator<Item = Payload> {
    client_envelopes().into_iter().map(|envelope| {
        let envelope = ClientEnvelope::decode(Bytes::from(envelope)).expect("a client envelope");
        envelope.payload.expect("every captured envelope has a payload")
    })
}

/// Returns the peer frames of this stream, valid and invalid.
pub(crate) fn frames(stream: &str) -> Vec<Vec<u8>> {
    lines(FRAMES).iter().filter(|vector| vector["stream"] == stream).map(bytes).collect()
}

/// Returns checkpoints and notes, and proofs as concatenated numbers and hashes.
pub(crate) fn checkpoints() -> Vec<Vec<u8>> {
    let unhex = |value: &Value| hex::decode(value.as_str().unwrap_or_default()).expect("is hex");
    let seed = |case: Value| match case["kind"].as_str() {
        Some("checkpoint") => Some(unhex(&case["bytes"])),
        Some("tile") => Some(case["path"].as_str()?.as_bytes().to_vec()),
        Some("note") => Some(case["note"].as_str()?.as_bytes().to_vec()),
        Some("inclusion" | "consistency") => {
            let number = |name: &str| case[name].as_u64().unwrap_or_default().to_be_bytes();
            let numbers = ["index", "size", "from"].map(number).concat();
            let hashes = case["proof"].as_array()?.iter().flat_map(unhex);
            Some(numbers.into_iter().chain(hashes).collect())
        }
        _ => None,
    };
    lines(CHECKPOINTS).into_iter().filter_map(seed).collect()
}
