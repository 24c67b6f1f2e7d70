//! Envelopes as clients and payers make them.

use bytes::Bytes;
pub use hawser_conformance::envelopes::{client, group_payload};
use hawser_proto::envelope::{PayerEnvelope, Payload};
use hawser_proto::pb::xmtp::mls::api::v1 as mls;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{OriginatorId, SecretKey, Topic, TopicKind};
use rand::Rng;

/// The default retention in days.
pub const RETENTION_DAYS: u32 = 60;

/// Returns the key of a payer. Equal numbers give the same payer.
#[must_use]
pub fn payer(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number.max(1); 32]).unwrap()
}

/// Returns the topic of a group.
#[must_use]
pub fn group_topic(group: [u8; 16]) -> Topic {
    Topic::new(TopicKind::GroupMessages, &group).unwrap()
}

/// Returns the topic of an installation's welcomes.
#[must_use]
pub fn welcome_topic(installation: [u8; 32]) -> Topic {
    Topic::new(TopicKind::Welcomes, &installation).unwrap()
}

/// The unencrypted fields of an MLS private message (RFC 9420 §6.3), and its length.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// The group.
    pub group: [u8; 16],
    /// 1 application, 2 proposal, 3 commit.
    pub content_type: u8,
    /// Length of the ciphertext.
    pub body_len: usize,
}

impl Frame {
    /// Describes an application message of `group`.
    #[must_use]
    pub fn application(group: [u8; 16], body_len: usize) -> Self {
        Self { group, content_type: 1, body_len }
    }

    /// Encodes the frame with a random ciphertext, so that no two are equal.
    #[must_use]
    pub fn encode(self, rng: &mut impl Rng) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0, 2];
        vector(&mut bytes, &self.group);
        bytes.extend(1u64.to_be_bytes());
        bytes.push(self.content_type);
        vector(&mut bytes, &[]);
        vector(&mut bytes, &[7; 28]);
        let mut body = vec![0; self.body_len];
        rng.fill_bytes(&mut body);
        vector(&mut bytes, &body);
        bytes
    }
}

/// Appends a variable-size vector of RFC 9420 §2.1.2, its length in the shortest form.
///
/// # Panics
/// Panics if `content` has 2^30 bytes or more.
pub fn vector(to: &mut Vec<u8>, content: &[u8]) {
    let len = u32::try_from(content.len()).unwrap();
    match len {
        0..0x40 => to.push(u8::try_from(len).unwrap()),
        0x40..0x4000 => to.extend(u16::try_from(len | 0x4000).unwrap().to_be_bytes()),
        0x4000..0x4000_0000 => to.extend((len | 0x8000_0000).to_be_bytes()),
        _ => panic!("too long for a vector"),
    }
    to.extend(content);
}

/// Returns an application message for `group`, new each time.
#[must_use]
pub fn group_message(group: [u8; 16], body_len: usize, rng: &mut impl Rng) -> Bytes {
    let frame = Frame::application(group, body_len).encode(rng);
    client(group_topic(group).as_bytes(), None, Some(group_payload(frame)))
}

/// Returns a welcome, new each time.
#[must_use]
pub fn welcome(installation: [u8; 32], body_len: usize, rng: &mut impl Rng) -> Bytes {
    let mut data = vec![0; body_len];
    rng.fill_bytes(&mut data);
    let version = mls::welcome_message_input::Version::V1(mls::welcome_message_input::V1 {
        installation_key: Bytes::copy_from_slice(&installation),
        data: data.into(),
        hpke_public_key: Bytes::from_static(&[9; 32]),
        ..Default::default()
    });
    let payload = Payload::WelcomeMessage(mls::WelcomeMessageInput { version: Some(version) });
    client(welcome_topic(installation).as_bytes(), None, Some(payload))
}

/// Signs a client envelope for a node, with the default retention.
#[must_use]
pub fn sign(client_bytes: &Bytes, target: OriginatorId, payer: &SecretKey) -> pb::PayerEnvelope {
    PayerEnvelope::sign(client_bytes.clone(), target, RETENTION_DAYS, payer)
}
