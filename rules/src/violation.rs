//! Every rule that an envelope can break, with its text for publishers and its number for marks.

use hawser_proto::EnvelopeId;
use hawser_proto::envelope::LayerError;
use hawser_proto::mls::MlsParseError;
use hawser_proto::sign::SignatureError;

/// The version of the rules that give marks. It is raised when an envelope that broke a rule may hold, or break another
/// rule: when the schema has a new payload or kind of topic, or a rule accepts more. Nodes then judge the hidden
/// envelopes of their logs again. They judge none again that readers get, so a rule must not refuse what it accepted
/// before.
pub const RULES_VERSION: u32 = 1;

/// The number of a rule, stored as the mark of an envelope that breaks it. Specified in `docs/protocol/rules.md`; a
/// number never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleNumber(pub u8);

impl RuleNumber {
    /// The mark of an envelope whose layers cannot be decoded.
    pub const UNDECODABLE: Self = Self(1);
    /// The mark of an envelope without a valid payer's signature.
    pub const PAYER_SIGNATURE: Self = Self(2);
    /// The mark of an envelope whose payload no node puts in order.
    pub const PAYLOAD: Self = Self(6);
    /// The mark of an envelope whose expiry does not follow from its time and retention.
    pub const EXPIRY: Self = Self(9);
    /// The mark of an identity update that its inbox does not allow. No [`Violation`] has this number, because it
    /// depends on the state of the inbox and not on the envelope alone.
    pub const IDENTITY_UPDATE: Self = Self(15);
    /// The mark of an envelope from a time at which its node was not in the network.
    pub const ABSENT: Self = Self(17);

    /// Returns true if an envelope with this mark is booked, that is, charged to its payer like a valid one. A mark
    /// hides an envelope from readers, but does not by itself release the payer.
    ///
    /// An envelope is booked if its payer has signed exactly these bytes for this node. Envelopes with these
    /// marks are therefore not booked:
    /// - 1, 2: no payer has signed the envelope. The exception, [`Self::may_be_booked`], does not follow from the mark;
    /// - 3: the payer has signed it for another node, so a hostile node could charge every
    ///   payer again by signing copies;
    /// - 5: reserved topics are free;
    /// - 8: the payer's signature does not cover the retention, so a hostile node could state a million years;
    /// - 10, 11: the numbers of former rules;
    /// - 15: chain envelopes are free;
    /// - 16: no response can carry the envelope, so not every node could book it;
    /// - 17: the node was not in the network and may charge nothing.
    #[must_use]
    pub fn is_booked(self) -> bool {
        matches!(self.0, 4 | 6 | 7 | 9 | 14)
    }

    /// Returns true if some envelopes with this mark are booked: those of [`Self::is_booked`], and some of those that
    /// do not decode here but may decode elsewhere. Their bytes decide ([`odd_terms`](crate::odd_terms),
    /// [`are_owed`](crate::OddTerms::are_owed)).
    #[must_use]
    pub fn may_be_booked(self) -> bool {
        self.is_booked() || self == Self::UNDECODABLE
    }
}

/// A rule that an envelope breaks. Publishers read the texts, and callers of the reference implementation match on
/// them, so the texts never change.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Violation {
    /// The payer envelope or the client envelope is malformed.
    #[error("could not unmarshal payer envelope: {0}")]
    Undecodable(#[from] LayerError),
    /// The payer signed for another node than the one that received or sequenced the envelope.
    #[error("invalid target originator")]
    Target,
    /// The payer envelope has no signature.
    #[error("payer signature is missing")]
    PayerSignatureMissing,
    /// No account can be recovered from the payer signature.
    #[error("could not recover signer: {0}")]
    PayerSignature(#[from] SignatureError),
    /// The topic's kind byte belongs to another payload.
    #[error("topic does not match payload")]
    TopicMismatch,
    /// The topic is longer than a query can contain. Holds its length in bytes.
    #[error("topic has {0} bytes, at most 128 are allowed")]
    TopicTooLong(usize),
    /// The envelope depends on a node's strand; only dependencies on chain strands are allowed.
    #[error("a message can not depend on a non-commit: originator {}", .0.originator)]
    DependsOnNode(EnvelopeId),
    /// The envelope depends on a chain strand of which this node has no envelope.
    #[error("dependency {0} is on an originator that has not been seen by this node")]
    DependencyUnseen(EnvelopeId),
    /// The envelope depends on a sequence id that this node has not reached in that chain strand.
    #[error("dependency {needed} exceeds last seen sequence id {seen}")]
    DependencyAhead {
        /// The sequence id on which the envelope depends.
        needed: EnvelopeId,
        /// The last sequence id that this node has of the same strand.
        seen: u64,
    },
    /// The retention is neither 2 to 365 days nor infinite. Holds the days.
    #[error("invalid expiry retention days: {0} is neither in 2..=365 nor 4294967295")]
    Retention(u32),
    /// The topic is reserved for nodes: payer reports and their attestations.
    #[error("reserved topics cannot be published to by gateways")]
    Reserved,
    /// Identity updates are ordered by the app chain, not by a node.
    #[error("identity updates must be published via the blockchain")]
    IdentityUpdate,
    /// Commits and proposals are ordered by the app chain, not by a node.
    #[error("commits and proposals must be published via the blockchain")]
    ChainBoundMessage,
    /// The payload of a group message is not exactly one MLS message, or clients refuse it.
    #[error("invalid group message: {0}")]
    GroupMessage(MlsParseError),
    /// The group message carries no MLS message.
    #[error("invalid group message: no data")]
    GroupMessageEmpty,
    /// The key package is missing, malformed or refused by the validator. Holds the reason.
    #[error("key package validation failed: {0}")]
    KeyPackage(String),
    /// The expiry is earlier than the envelope's time plus its retention. Holds the expiry.
    #[error("expiry {0} does not follow from time and retention")]
    Expiry(u64),
    /// The expiry is more than a day later than the envelope's time plus its retention. Holds the expiry.
    #[error(
        "expiry {0} is more than a day later than the one that follows from time and retention"
    )]
    LateExpiry(u64),
    /// The base fee, in picodollars, is not that of any rate in force at that time.
    #[error("base fee {0} differs from the fee at the rates in force")]
    BaseFee(u64),
    /// The congestion fee, in picodollars, is not a multiple of the rate, or is too high a multiple.
    #[error("congestion fee {0} is impossible at the rates in force")]
    CongestionFee(u64),
    /// The envelope is longer than any response can carry. Holds its length in bytes.
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
            Self::Expiry(_) | Self::LateExpiry(_) => "EXPIRY",
            Self::BaseFee(_) => "BASE_FEE",
            Self::CongestionFee(_) => "CONGESTION_FEE",
            Self::TooLong(_) => "TOO_LONG",
            Self::Absent => "NODE_ABSENT",
        }
    }

    /// Returns the number that marks an envelope which a node signed although it breaks this rule.
    ///
    /// Returns `None` for rules whose outcome depends on what this node has learned so far, such as the rates. All
    /// nodes of one version have to end with the same marks.
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
            Self::Expiry(_) | Self::LateExpiry(_) => 9,
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

    use hawser_proto::{OriginatorId, SequenceId, Topic};

    use super::*;
    use crate::envelope::PayloadClass;

    /// Envelopes of a new kind that a node has hidden before its upgrade stay hidden there if the version stays.
    #[test]
    fn a_schema_that_knows_more_is_another_version_of_the_rules() {
        let is_known = |kind: &u8| Topic::parse(vec![*kind, 1].into()).is_ok();
        let kinds = (0..=u8::MAX).filter(is_known).count();
        let known = (kinds, PayloadClass::ALL.len());
        assert_eq!((known, RULES_VERSION), ((6, 5), 1), "raise RULES_VERSION with the kinds");
    }

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
        let rows: BTreeMap<u8, bool> = page.lines().filter_map(row).collect();
        let numbers: Vec<u8> = (1..=9).chain(14..=17).collect();
        assert_eq!(rows.keys().copied().collect::<Vec<_>>(), numbers);
        for (number, is_booked) in rows {
            let rule = RuleNumber(number);
            assert_eq!(rule.is_booked(), is_booked, "rule {number}");
            assert_eq!(rule.may_be_booked(), is_booked || number == 1, "rule {number}");
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
            (Violation::LateExpiry(0), Some(9)),
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
