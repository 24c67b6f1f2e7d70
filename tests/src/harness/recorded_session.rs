//! The recorded session of clients, as nodes accept it at any time.

use hawser_proto::envelope::Payload;
use hawser_proto::pb::xmtp::mls::api::v1 as mls;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Topic, TopicKind};
use mls::welcome_message_input::{V1, Version};
use prost::Message as _;
use serde_json::Value;

/// Returns the lines of a recorded session. Each key package is replaced by a welcome to its installation with the same
/// bytes: nodes judge the lifetime of a key package by their clocks, and that of the recorded ones ends on 2027-02-12.
///
/// # Panics
/// Panics if a line is not what it should be.
#[must_use]
pub fn without_key_packages(lines: &str) -> String {
    lines.lines().map(|line| without_key_package(line) + "\n").collect()
}

fn without_key_package(line: &str) -> String {
    let mut read: Value = serde_json::from_str(line).unwrap();
    if read["kind"] != "key_package" {
        return line.to_owned();
    }
    let bytes = hex::decode(read["hex"].as_str().unwrap()).unwrap();
    let mut client = pb::ClientEnvelope::decode(&bytes[..]).unwrap();
    let Some(Payload::UploadKeyPackage(upload)) = client.payload.take() else {
        panic!("no key package: {line}")
    };
    let data = upload.key_package.unwrap().key_package_tls_serialized;
    let aad = client.aad.as_mut().unwrap();
    let installation_key = aad.target_topic.slice(1..);
    let topic = Topic::new(TopicKind::Welcomes, &installation_key).unwrap().into_bytes();
    read["kind"] = "welcome".into();
    read["topic"] = hex::encode(&topic).into();
    aad.target_topic = topic;
    let welcome = V1 { installation_key, data, ..V1::default() };
    let welcome = mls::WelcomeMessageInput { version: Some(Version::V1(welcome)) };
    client.payload = Some(Payload::WelcomeMessage(welcome));
    read["hex"] = hex::encode(client.encode_to_vec()).into();
    read.to_string()
}
