//! Builders of the envelopes that clients and payers send.

use bytes::Bytes;
use hawser_proto::envelope::Payload;
use hawser_proto::pb::xmtp::mls::api::v1 as mls;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use prost::Message as _;

/// The shortest retention that nodes accept, in days.
pub const RETENTION_DAYS: u32 = 2;

/// Returns the topic of a group that no other run has used: kind byte 0 and 16 random bytes.
#[must_use]
pub fn new_group() -> Bytes {
    let id: [u8; 16] = rand::random();
    [&[0][..], &id].concat().into()
}

/// Returns the topic of an installation's welcomes that no other run has used.
#[must_use]
pub fn new_welcomes() -> Bytes {
    let id: [u8; 32] = rand::random();
    [&[1][..], &id].concat().into()
}

/// Returns an MLS private message (RFC 9420 §6.3) of `group` with random content. `content_type` is 1 for an
/// application message, 2 for a proposal, 3 for a commit.
#[must_use]
pub fn frame(group: &[u8], content_type: u8, body_len: usize) -> Vec<u8> {
    let mut bytes = vec![0, 1, 0, 2];
    vector(&mut bytes, group);
    bytes.extend(1u64.to_be_bytes());
    bytes.push(content_type);
    vector(&mut bytes, &[]);
    vector(&mut bytes, &rand::random::<[u8; 28]>());
    let mut body = vec![0; body_len];
    rand::fill(&mut body[..]);
    vector(&mut bytes, &body);
    bytes
}

/// Appends a variable-size vector of RFC 9420 §2.1.2, its length in the shortest form.
fn vector(to: &mut Vec<u8>, content: &[u8]) {
    let len = u32::try_from(content.len()).expect("cases make short contents");
    match len {
        0..0x40 => to.extend(&len.to_be_bytes()[3..]),
        0x40..0x4000 => to.extend(&(len | 0x4000).to_be_bytes()[2..]),
        _ => to.extend((len | 0x8000_0000).to_be_bytes()),
    }
    to.extend(content);
}

/// Returns an encoded client envelope. It is not checked, so cases can make malformed ones.
#[must_use]
pub fn client(topic: &[u8], depends_on: Option<pb::Cursor>, payload: Option<Payload>) -> Bytes {
    let aad = pb::AuthenticatedData { target_topic: Bytes::copy_from_slice(topic), depends_on };
    pb::ClientEnvelope { aad: Some(aad), payload }.encode_to_vec().into()
}

/// Returns the payload of a group message.
#[must_use]
pub fn group_payload(data: Vec<u8>) -> Payload {
    let version = mls::group_message_input::Version::V1(mls::group_message_input::V1 {
        data: data.into(),
        ..Default::default()
    });
    Payload::GroupMessage(mls::GroupMessageInput { version: Some(version) })
}

/// Returns an application message for the group of `topic`, new each time.
#[must_use]
pub fn message(topic: &[u8]) -> Bytes {
    message_of(topic, 40)
}

/// Returns an application message for the group of `topic`, new each time, with a body of `body_len` bytes.
#[must_use]
pub fn message_of(topic: &[u8], body_len: usize) -> Bytes {
    let group = topic.get(1..).unwrap_or_default();
    client(topic, None, Some(group_payload(frame(group, 1, body_len))))
}

/// Returns a welcome for the installation of `topic`, new each time.
#[must_use]
pub fn welcome(topic: &[u8]) -> Bytes {
    let data: [u8; 40] = rand::random();
    let version = mls::welcome_message_input::Version::V1(mls::welcome_message_input::V1 {
        installation_key: Bytes::copy_from_slice(topic.get(1..).unwrap_or_default()),
        data: Bytes::copy_from_slice(&data),
        hpke_public_key: Bytes::from_static(&[9; 32]),
        ..Default::default()
    });
    client(
        topic,
        None,
        Some(Payload::WelcomeMessage(mls::WelcomeMessageInput { version: Some(version) })),
    )
}

/// Returns the cursor with these pairs of originator id and sequence id.
#[must_use]
pub fn cursor(entries: impl IntoIterator<Item = (u32, u64)>) -> pb::Cursor {
    pb::Cursor { node_id_to_sequence_id: entries.into_iter().collect() }
}
