//! Every rule that an envelope can break, with the text that publishers read and the number that marks it.

use hawser_proto::EnvelopeId;
use hawser_proto::envelope::LayerError;
use hawser_proto::mls::MlsParseError;
use hawser_proto::sign::SignatureError;

/// Number of a rule, as stored beside an envelope that breaks it. Specified in
/// `docs/protocol/rules.md`; a number never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleNumber(pub u8);

impl RuleNumber {
    /// Marks an envelope whose layers cannot be read.
    pub const UNDECODABLE: Self = Self(1);
    /// Marks an identity update that its inbox does not allow. No [`Violation`] has this number,
    /// because the state of the inbox decides it and not the envelope alone.
    pub const IDENTITY_UPDATE: Self = Self(15);
    /// Marks an envelope from a time in which its node was not in the network.
    pub const ABSENT: Self = Self(17);

    /// Returns true if an envelope with this mark is booked like a valid one. A mark keeps an envelope from readers; it does
    /// not say that its payer owes nothing.
    ///
    /// An envelope is booked if its payer has signed these very bytes for this very node. So these are not:
    /// - 1, 2: no payer has signed it;
    /// - 3: the payer has signed it for another node, so a hostile node could charge every payer once more by signing
    ///   copies;
    /// - 5: reserved topics are free;
    /// - 8: no signature of the payer covers the retention, so a hostile node could name a million years;
    /// - 10, 11: rules no longer;
    /// - 15: chains' envelopes are free;
    /// - 16: no answer can carry it, so not every node could book it;
    /// - 17: a node that is not in the network sells nothing.
    #[must_use]
    pub fn is_booked(self) -> bool {
        matches!(self.0, 4 | 6 | 7 | 9 | 14)
    }
}

/// A rule that an envelope breaks. Publishers read the texts, and callers of the reference
/// implementation match on them, so the texts never change.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Violation {
    /// The payer envelope or the client envelope is malformed.
    #[error("could not unmarshal payer envelope: {0}")]
    Undecodable(#[from] LayerError),
    /// The payer signed for another node than the one that got or sequenced the envelope.
    #[error("invalid target originator")]
    Target,
    /// The payer envelope carries no signature.
    #[error("payer signature is missing")]
    PayerSignatureMissing,
    /// The payer signature recovers to no account.
    #[error("could not recover signer: {0}")]
    PayerSignature(#[from] SignatureError),
    /// The topic's kind byte belongs to another payload.
    #[error("topic does not match payload")]
    TopicMismatch,
    /// The topic is longer than any query may name.
    #[error("topic has {0} bytes, at most 128 are allowed")]
    TopicTooLong(usize),
    /// The envelope depends on a node's strand. Only chain strands can be depended on.
    #[error("a message can not depend on a non-commit: originator {}", .0.originator)]
    DependsOnNode(EnvelopeId),
    /// The envelope depends on a chain strand of which this node holds no envelope.
    #[error("dependency {0} is on an originator that has not been seen by this node")]
    DependencyUnseen(EnvelopeId),
    /// The envelope depends on a place that this node has not reached in that chain strand.
    #[error("dependency {needed} exceeds last seen sequence id {seen}")]
    DependencyAhead {
        /// The place that the client names.
        needed: EnvelopeId,
        /// This node's head of the same strand.
        seen: u64,
    },
    /// The retention is neither 2 to 365 days nor infinite.
    #[error("invalid expiry retention days: {0} is neither in 2..=365 nor 4294967295")]
    Retention(u32),
    /// The topic is reserved for nodes: payer reports and their attestations.
    #[error("reserved topics cannot be published to by gateways")]
    Reserved,
    /// The app chain orders identity updates, not a node.
    #[error("identity updates must be published via the blockchain")]
    IdentityUpdate,
    /// The app chain orders commits and proposals, not a node.
    #[error("commits and proposals must be published via the blockchain")]
    ChainBoundMessage,
    /// The payload of a group message is not exactly one MLS message.
    #[error("invalid group message: {0}")]
    GroupMessage(MlsParseError),
    /// The group message carries no MLS message.
    #[error("invalid group message: no data")]
    GroupMessageEmpty,
    /// The key package is missing, malformed or refused by the validator.
    #[error("key package validation failed: {0}")]
    KeyPackage(String),
    /// The expiry does not follow from the envelope's time and retention.
    #[error("expiry {0} does not follow from time and retention")]
    Expiry(u64),
    /// The base fee, in picodollars, is not the price under any rate in force at that time.
    #[error("base fee {0} differs from the fee at the rates in force")]
    BaseFee(u64),
    /// The congestion fee, in picodollars, is no multiple of the rate, or too high a multiple.
    #[error("congestion fee {0} is impossible at the rates in force")]
    CongestionFee(u64),
    /// The envelope, in bytes, is longer than any answer can carry.
    #[error("envelope has {0} bytes, more than a response can carry")]
    TooLong(usize),
    /// The node that signed the envelope was not in the network at the time that the envelope states.
    #[error("the originator was not in the network at the time of the envelope")]
    Absent,
}

impl Violation {
    /// Returns the name of the rule for programs, as error details give it. A name never changes its meaning.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Undecodable(_) => "UNDECODABLE",
            Self::Target => "TARGET_ORIGINATOR",
            Self::PayerSignatureMissing => "PAYER_SIGNATURE_MISSING",
            Self::PayerSignature(_) => "PAYER_SIGNATURE",
            Self::TopicMismatch => "TOPIC_MISMATCH",
            Self::TopicTooLong(_) => "TOPIC_TOO_LONG",
            Self::DependsOnNode(_) => "DEPENDS_ON_NODE",
            Self::DependencyUnseen(_) => "DEPENDENCY_UNSEEN",
            Self::DependencyAhead { .. } => "DEPENDENCY_AHEAD",
            Self::Retention(_) => "RETENTION",
            Self::Reserved => "RESERVED_TOPIC",
            Self::IdentityUpdate => "IDENTITY_UPDATE",
            Self::ChainBoundMessage => "CHAIN_BOUND_MESSAGE",
            Self::GroupMessage(_) => "GROUP_MESSAGE",
            Self::GroupMessageEmpty => "GROUP_MESSAGE_EMPTY",
            Self::KeyPackage(_) => "KEY_PACKAGE",
            Self::Expiry(_) => "EXPIRY",
            Self::BaseFee(_) => "BASE_FEE",
            Self::CongestionFee(_) => "CONGESTION_FEE",
            Self::TooLong(_) => "TOO_LONG",
            Self::Absent => "NODE_ABSENT",
        }
    }

    /// Returns the number that marks an envelope which a node signed although it breaks this rule.
    ///
    /// `None` for rules whose outcome depends on the present knowledge of this node, such as its price
    /// list: a mark is permanent, and all nodes have to end with the same marks.
    #[must_use]
    pub fn rule(&self) -> Option<RuleNumber> {
        Some(RuleNumber(match self {
            Self::Undecodable(_) => 1,
            Self::PayerSignatureMissing | Self::PayerSignature(_) => 2,
            Self::Target => 3,
            Self::TopicMismatch | Self::TopicTooLong(_) => 4,
            Self::Reserved => 5,
            Self::IdentityUpdate
            | Self::ChainBoundMessage
            | Self::GroupMessage(_)
            | Self::GroupMessageEmpty => 6,
            Self::DependsOnNode(_) => 7,
            Self::Retention(_) => 8,
            Self::Expiry(_) => 9,
            Self::KeyPackage(_) => 14,
            Self::TooLong(_) => 16,
            Self::Absent => 17,
            Self::BaseFee(_)
            | Self::CongestionFee(_)
            | Self::DependencyUnseen(_)
            | Self::DependencyAhead { .. } => return None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hawser_proto::{OriginatorId, SequenceId};

    use super::*;

    #[test]
    fn what_is_booked_is_what_the_page_says() {
        let page = include_str!("../../docs/protocol/rules.md");
        let row = |line: &str| {
            let cells: Vec<_> = line.trim().trim_matches('|').split(" | ").map(str::trim).collect();
            let [number, _, booked] = cells[..] else { return None };
            let is_booked = match booked {
                "yes" => true,
                "no" => false,
                _ => return None,
            };
            Some((number.parse::<u8>().ok()?, is_booked))
        };
        let told: BTreeMap<u8, bool> = page.lines().filter_map(row).collect();
        let numbers: Vec<u8> = (1..=9).chain(14..=17).collect();
        assert_eq!(told.keys().copied().collect::<Vec<_>>(), numbers);
        for (number, is_booked) in told {
            assert_eq!(RuleNumber(number).is_booked(), is_booked, "rule {number}");
        }
    }

    /// Numbers are stored in logs and written in `docs/protocol/rules.md`, so they never change.
    #[test]
    fn numbers_are_those_of_the_page() {
        let id = EnvelopeId::new(OriginatorId(0), SequenceId(1));
        let cases = [
            (Violation::Undecodable(LayerError::TooLong(1)), Some(1)),
            (Violation::PayerSignatureMissing, Some(2)),
            (Violation::Target, Some(3)),
            (Violation::TopicMismatch, Some(4)),
            (Violation::TopicTooLong(129), Some(4)),
            (Violation::Reserved, Some(5)),
            (Violation::IdentityUpdate, Some(6)),
            (Violation::ChainBoundMessage, Some(6)),
            (Violation::GroupMessageEmpty, Some(6)),
            (Violation::DependsOnNode(id), Some(7)),
            (Violation::Retention(1), Some(8)),
            (Violation::Expiry(0), Some(9)),
            (Violation::KeyPackage(String::new()), Some(14)),
            (Violation::TooLong(0), Some(16)),
            (Violation::Absent, Some(17)),
            (Violation::BaseFee(0), None),
            (Violation::CongestionFee(0), None),
            (Violation::DependencyUnseen(id), None),
            (Violation::DependencyAhead { needed: id, seen: 0 }, None),
        ];
        for (violation, number) in cases {
            assert_eq!(violation.rule().map(|rule| rule.0), number, "{violation:?}");
        }
        assert_eq!(RuleNumber::IDENTITY_UPDATE.0, 15);
    }
}
