//! Topics: a kind byte and an identifier. Clients subscribe to topics, and nodes index by them.

use std::fmt;

use bytes::Bytes;

use crate::ids::OriginatorId;

/// Length of the longest topic that a node accepts for publishing, querying or subscribing.
/// Specified in `docs/protocol/rules.md`.
pub const TOPIC_LEN_BYTES_MAX: usize = 128;

/// The hash function of tables of topics. Its key is random and secret, because readers choose the names: one who knew
/// it could make a table slow.
pub type TopicHasher = std::hash::RandomState;

/// The kind of payload on a topic. The byte values are part of the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TopicKind {
    /// MLS messages of one group; identifier: group id.
    GroupMessages = 0,
    /// Invitations for one installation; identifier: its public key.
    Welcomes = 1,
    /// Identity updates of one inbox; identifier: inbox id, 32 raw bytes.
    IdentityUpdates = 2,
    /// Key packages of one installation; identifier: its public key.
    KeyPackages = 3,
    /// Payer reports about one originator; identifier: its id, little-endian.
    PayerReports = 4,
    /// Attestations of payer reports; identifier as for payer reports.
    PayerReportAttestations = 5,
}

impl TopicKind {
    /// Returns the kind of a first byte; `None` for an unknown one.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::GroupMessages,
            1 => Self::Welcomes,
            2 => Self::IdentityUpdates,
            3 => Self::KeyPackages,
            4 => Self::PayerReports,
            5 => Self::PayerReportAttestations,
            _ => return None,
        })
    }

    /// Returns the network's name of the kind, as printed before the identifier.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GroupMessages => "group_messages_v1",
            Self::Welcomes => "welcome_message_v1",
            Self::IdentityUpdates => "identity_updates_v1",
            Self::KeyPackages => "key_packages_v1",
            Self::PayerReports => "payer_reports_v1",
            Self::PayerReportAttestations => "payer_report_attestations_v1",
        }
    }

    /// Returns true for kinds that only nodes write to. Payers cannot publish to them, and they are
    /// free.
    #[must_use]
    pub fn is_reserved(self) -> bool {
        matches!(self, Self::PayerReports | Self::PayerReportAttestations)
    }
}

/// The reason bytes are not a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The kind byte or the identifier is missing.
    #[error("topic must be at least 2 bytes long")]
    TooShort,
    /// The first byte is not a known kind.
    #[error("unknown topic kind {0}")]
    UnknownKind(u8),
}

/// A well-formed topic: at least two bytes, of a known kind. Compares by its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic {
    bytes: Bytes,
}

impl Topic {
    /// Combines a kind and an identifier of at least one byte.
    ///
    /// # Errors
    /// [`TopicError::TooShort`] for an empty identifier.
    pub fn new(kind: TopicKind, identifier: &[u8]) -> Result<Self, TopicError> {
        let mut bytes = Vec::with_capacity(1 + identifier.len());
        bytes.push(kind as u8);
        bytes.extend_from_slice(identifier);
        Self::parse(bytes.into())
    }

    /// Returns the topic of payer reports about `originator`: its id, little-endian, after the kind.
    #[must_use]
    pub fn payer_reports(originator: OriginatorId) -> Self {
        Self::new(TopicKind::PayerReports, &originator.0.to_le_bytes())
            .expect("four bytes of identifier")
    }

    /// Returns the topic of attestations of payer reports about `originator`.
    #[must_use]
    pub fn payer_report_attestations(originator: OriginatorId) -> Self {
        Self::new(TopicKind::PayerReportAttestations, &originator.0.to_le_bytes())
            .expect("four bytes of identifier")
    }

    /// Parses the bytes of a topic. There is no upper bound here: [`TOPIC_LEN_BYTES_MAX`] is a rule of
    /// admission and of queries.
    ///
    /// # Errors
    /// Returns an error if the topic has fewer than two bytes or an unknown kind.
    pub fn parse(bytes: Bytes) -> Result<Self, TopicError> {
        match bytes.as_ref() {
            [] | [_] => Err(TopicError::TooShort),
            [kind, ..] if TopicKind::from_byte(*kind).is_none() => {
                Err(TopicError::UnknownKind(*kind))
            }
            _ => Ok(Self { bytes }),
        }
    }

    /// Returns the kind of payload.
    #[must_use]
    pub fn kind(&self) -> TopicKind {
        TopicKind::from_byte(self.bytes[0]).expect("checked when the topic was made")
    }

    /// Returns the bytes after the kind.
    #[must_use]
    pub fn identifier(&self) -> &[u8] {
        &self.bytes[1..]
    }

    /// Converts the topic into its kind byte and identifier, as sent.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Returns kind byte and identifier, as sent.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind().name(), hex::encode(self.identifier()))
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors() -> serde_json::Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/contracts/topics.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn unhex(value: &serde_json::Value) -> Vec<u8> {
        hex::decode(value.as_str().unwrap().trim_start_matches("0x")).unwrap()
    }

    #[test]
    fn topics_equal_the_golden_ones() {
        let vectors = vectors();
        let cases = vectors["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let kind = TopicKind::from_byte(u8::try_from(case["kind"].as_u64().unwrap()).unwrap())
                .expect("every listed kind is known");
            let topic = Topic::new(kind, &unhex(&case["identifier"])).unwrap();
            assert_eq!(topic.as_bytes().as_ref(), unhex(&case["topic"]));
            assert_eq!(kind.name(), case["name"].as_str().unwrap());
            assert_eq!(kind.is_reserved(), case["reserved"].as_bool().unwrap());
            if kind.is_reserved() {
                let about = topic.identifier().try_into().map(u32::from_le_bytes).unwrap();
                let made = match kind {
                    TopicKind::PayerReports => Topic::payer_reports(OriginatorId(about)),
                    _ => Topic::payer_report_attestations(OriginatorId(about)),
                };
                assert_eq!(made, topic);
            }
            assert_eq!(Topic::parse(topic.as_bytes().clone()), Ok(topic));
        }
    }

    #[test]
    fn short_and_unknown_topics_are_refused() {
        assert_eq!(Topic::parse(Bytes::new()), Err(TopicError::TooShort));
        assert_eq!(Topic::parse(Bytes::from_static(&[0])), Err(TopicError::TooShort));
        assert_eq!(Topic::parse(Bytes::from_static(&[6, 1])), Err(TopicError::UnknownKind(6)));
    }

    #[test]
    fn report_topics_carry_the_originator_little_endian() {
        assert_eq!(Topic::payer_reports(OriginatorId(100)).as_bytes().as_ref(), [4, 0x64, 0, 0, 0]);
    }
}
