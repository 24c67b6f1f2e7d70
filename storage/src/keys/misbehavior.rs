//! Evidence against nodes: the statements that prove or support it, and an index that stores each fact
//! once.

use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, StatementDifference};

use super::fact::{Fact, FactClass, RecordTime};
use super::{Key, take};
use crate::family::Family;

/// Position of a piece of evidence. Column family `misbehavior`:
/// `[server_time_ns u64 BE][counter u16 BE]` → [`Evidence`] as `Evidence::encode` writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct EvidenceTime {
    /// Time of this node's clock at which it was stored, unix nanoseconds; never before that of earlier
    /// evidence.
    pub server_time_ns: u64,
    /// Distinguishes rows that were stored at the same time.
    pub counter: u16,
}

impl RecordTime for EvidenceTime {
    fn next(self, now_ns: u64) -> Self {
        if now_ns > self.server_time_ns {
            return Self { server_time_ns: now_ns, counter: 0 };
        }
        match self.counter.checked_add(1) {
            Some(counter) => Self { counter, ..self },
            None => Self { server_time_ns: self.server_time_ns.saturating_add(1), counter: 0 },
        }
    }

    fn stored_at_ns(self) -> u64 {
        self.server_time_ns
    }
}

impl Key<'_> for EvidenceTime {
    const FAMILY: Family = Family::Misbehavior;
    type Bytes = [u8; 10];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; 10];
        key[..8].copy_from_slice(&self.server_time_ns.to_be_bytes());
        key[8..].copy_from_slice(&self.counter.to_be_bytes());
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (time, counter) = take(bytes)?;
        Some(Self {
            server_time_ns: u64::from_be_bytes(time),
            counter: u16::from_be_bytes(counter.try_into().ok()?),
        })
    }
}

/// A fact that is stored once. Column family `misbehavior_fact`:
/// `[accused u32 BE][1 for a claim, else 0][code u8][sequence u64 BE]` → position of the evidence and
/// its length as `u32 BE`.
///
/// The code is that of the fault, plus 16 times its detail, which is the difference of two statements. Rows
/// of databases from before this rule have no detail, so they read as the least difference. Faults with a code
/// above 15 are claims, which have no detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FactKey {
    pub(crate) accused: OriginatorId,
    pub(crate) is_claim: bool,
    pub(crate) code: u8,
    pub(crate) sequence: SequenceId,
}

impl FactKey {
    pub(crate) fn of(evidence: &Evidence) -> Self {
        Self::new(evidence.misbehavior, evidence.at)
    }

    fn new(misbehavior: Misbehavior, at: EnvelopeId) -> Self {
        let (code, detail) = match misbehavior {
            Misbehavior::Invalid(_) => (5, 0), // a place is marked with one rule
            misbehavior => misbehavior.code(),
        };
        Self {
            accused: at.originator,
            is_claim: misbehavior.is_claim(),
            code: code | (detail << 4),
            sequence: at.sequence,
        }
    }

    /// Returns the facts that make `evidence` redundant: the same fault at the same place, at least as grave.
    pub(crate) fn covering(evidence: &Evidence) -> impl Iterator<Item = Self> {
        let (misbehavior, at) = (evidence.misbehavior, evidence.at);
        let graver = StatementDifference::ALL.into_iter().filter(move |other| match misbehavior {
            Misbehavior::TwoStatements(difference) => *other > difference,
            _ => false,
        });
        let graver = graver.map(Misbehavior::TwoStatements);
        std::iter::once(misbehavior).chain(graver).map(move |it| Self::new(it, at))
    }

    /// Returns the key below all facts of one kind against a node.
    pub(crate) fn first_of(accused: OriginatorId, misbehavior: Misbehavior) -> Self {
        Self::new(misbehavior, EnvelopeId::new(accused, SequenceId::NONE))
    }
}

impl Fact for FactKey {
    type Time = EvidenceTime;
    type Class = EvidenceShare;
    const RECORD: &'static str = "evidence";

    fn accused(self) -> OriginatorId {
        self.accused
    }

    fn class(self) -> EvidenceShare {
        const EQUIVOCATION: u8 = 1 | ((StatementDifference::Content as u8) << 4);
        const TWO_CHECKPOINTS: u8 = 7;
        const OTHER_LEAF: u8 = 11;
        match (self.is_claim, self.code) {
            (true, _) => EvidenceShare::Claims,
            (false, EQUIVOCATION | TWO_CHECKPOINTS) => EvidenceShare::Equivocations,
            (false, OTHER_LEAF) => EvidenceShare::Leaves,
            (false, _) => EvidenceShare::Faults,
        }
    }

    fn first(accused: OriginatorId, share: EvidenceShare) -> Self {
        let is_claim = !share.is_proven();
        Self { accused, is_claim, code: 0, sequence: SequenceId::NONE }
    }
}

impl Key<'_> for FactKey {
    const FAMILY: Family = Family::MisbehaviorFact;
    type Bytes = [u8; 14];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; 14];
        key[..4].copy_from_slice(&self.accused.0.to_be_bytes());
        key[4] = u8::from(self.is_claim);
        key[5] = self.code;
        key[6..].copy_from_slice(&self.sequence.0.to_be_bytes());
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (accused, rest) = take(bytes)?;
        let ([is_claim, code], sequence) = take(rest)?;
        Some(Self {
            accused: OriginatorId(u32::from_be_bytes(accused)),
            is_claim: match is_claim {
                0 => false,
                1 => true,
                _ => return None,
            },
            code,
            sequence: SequenceId(super::decode_u64(sequence)?),
        })
    }
}

/// A part of the room for evidence about one node. A node that fills one part leaves the others free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EvidenceShare {
    /// Faults that rest on this node's clock.
    Claims,
    /// Proven faults other than equivocation. A node makes them as cheaply as envelopes.
    Faults,
    /// Leaves of another statement, which do not show how far the two differ. Operators are alerted to the first one,
    /// so cheaper faults must leave room for it.
    Leaves,
    /// Two statements of different content, also when they are roots: the gravest fault.
    Equivocations,
}

impl FactClass for EvidenceShare {
    fn is_proven(self) -> bool {
        self != Self::Claims
    }

    fn is_submitted(self) -> bool {
        false // a node finds evidence itself
    }
}

/// The rule of conduct that a node broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Misbehavior {
    /// The node signed two statements for one place. Evidence: the statement that the log holds, and the
    /// other one.
    TwoStatements(StatementDifference),
    /// The node signed a later place with an earlier time. Evidence: both envelopes, the lower place first.
    TimeBack,
    /// The node signed a time in the future, by this node's clock. Evidence: the envelope.
    TimeAhead,
    /// The node stated a fee that no rate in force explains. Evidence: the envelope.
    Fee,
    /// The node signed an envelope that breaks this rule. Evidence: the envelope.
    Invalid(u8),
    /// No peer has the places before this one. Evidence: the envelope before them, and the one after.
    Gap,
    /// The node signed two checkpoints of its own strand that contradict each other. Evidence: both checkpoints in
    /// binary form, and, if only a proof of the larger tree shows it, the root that it begins with and the hashes of
    /// the proof.
    TwoCheckpoints,
    /// The node signed two such checkpoints as an observer, which may have been shown two histories. Evidence: as
    /// above.
    TwoObservations,
    /// The node signed a checkpoint with another root than that of the tree held here. Evidence: the checkpoint in
    /// binary form. Its sender may have been lied to, or the peer that sent the tree's envelopes.
    OtherTree,
    /// The node signed another envelope for a place whose envelope this node has pruned. Evidence: the envelope, and
    /// the leaf of the pruned one, 32 bytes.
    OtherThanPruned,
    /// The node signed an envelope that differs from the leaf of the same place under a checkpoint that it signed of
    /// its own strand. Evidence: the checkpoint in binary form, the proof of the leaf, the envelope. A leaf does not
    /// show whether content or metadata differ.
    OtherLeaf,
    /// The node signed an envelope that depends on a place which its chain did not have yet, by the chain as it is now.
    /// Evidence: the envelope. The chain may have changed since.
    Dependency,
    /// The node signed an envelope that falls between the payer reports about it, one of which it had attested.
    /// Evidence: the report behind the domain separator of its contract, the envelopes of the attestation and at the
    /// report's end, and the late one.
    LateRelease,
    /// The node stated a congestion fee above the one that follows from its own envelopes. Evidence: the envelopes of
    /// that minute and of the four before it, up to the one with the fee, and an earlier one, in their order.
    Overcharge,
    /// The node stated such a congestion fee, and a report has no room for these envelopes. Evidence: the envelope with
    /// the fee.
    OverchargeUnderLoad,
    /// The node wrote a payer report that this node does not come to. Evidence: the envelope that carries it, and this
    /// node's own report over the range, if there can be one.
    OtherReport,
    /// The node wrote two payer reports for one range, with other figures. Evidence: both envelopes, the lower place
    /// first.
    TwoReports,
    /// The node signed an envelope for a place more than five minutes after it had declared the place void, by the
    /// times that it stated. Evidence: the statement in binary form, and the envelope. The clock of a machine that was
    /// lost may have been further ahead.
    VoidSigned,
}

impl Misbehavior {
    /// Returns the number of the kind in the API's schema (`Misbehavior`); 0 if the schema has no such kind.
    #[must_use]
    pub fn kind(self) -> u8 {
        match self {
            Self::TimeBack | Self::TimeAhead | Self::Gap => 4,
            Self::TwoStatements(_) => 5,
            Self::Dependency => 6,
            Self::Fee | Self::Overcharge | Self::OverchargeUnderLoad | Self::Invalid(_) => 7,
            Self::TwoCheckpoints
            | Self::TwoObservations
            | Self::OtherTree
            | Self::OtherThanPruned
            | Self::OtherLeaf
            | Self::LateRelease
            | Self::OtherReport
            | Self::TwoReports
            | Self::VoidSigned => 0,
        }
    }

    /// Returns the name for operators and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TwoStatements(_) => "two_statements",
            Self::TimeBack => "time_back",
            Self::TimeAhead => "time_ahead",
            Self::Fee => "fee",
            Self::Invalid(_) => "invalid",
            Self::Gap => "gap",
            Self::TwoCheckpoints | Self::TwoObservations => "two_checkpoints",
            Self::OtherTree => "other_tree",
            Self::OtherThanPruned => "other_than_pruned",
            Self::OtherLeaf => "other_leaf",
            Self::Dependency => "dependency",
            Self::LateRelease => "late_release",
            Self::Overcharge | Self::OverchargeUnderLoad => "overcharge",
            Self::OtherReport => "other_report",
            Self::TwoReports => "two_reports",
            Self::VoidSigned => "void_signed",
        }
    }

    /// Returns true if the evidence convinces only readers who trust this node.
    #[must_use]
    pub fn is_claim(self) -> bool {
        matches!(
            self,
            Self::TimeAhead
                | Self::Gap
                | Self::TwoObservations
                | Self::OtherTree
                | Self::OtherThanPruned
                | Self::Dependency
                | Self::OverchargeUnderLoad
                | Self::OtherReport
                | Self::TwoReports
                | Self::VoidSigned
        )
    }

    /// Returns true if rates decide whether the evidence holds.
    #[must_use]
    pub fn is_about_fees(self) -> bool {
        matches!(self, Self::Fee | Self::Overcharge | Self::OverchargeUnderLoad)
    }

    /// Returns the stored code and detail.
    fn code(self) -> (u8, u8) {
        match self {
            Self::TwoStatements(difference) => (1, difference as u8),
            Self::TimeBack => (2, 0),
            Self::TimeAhead => (3, 0),
            Self::Fee => (4, 0),
            Self::Invalid(rule) => (5, rule),
            Self::Gap => (6, 0),
            Self::TwoCheckpoints => (7, 0),
            Self::OtherTree => (8, 0),
            Self::TwoObservations => (9, 0),
            Self::OtherThanPruned => (10, 0),
            Self::OtherLeaf => (11, 0),
            Self::Dependency => (12, 0),
            Self::LateRelease => (13, 0),
            Self::Overcharge => (14, 0),
            Self::OverchargeUnderLoad => (15, 0),
            Self::OtherReport => (16, 0),
            Self::TwoReports => (17, 0),
            Self::VoidSigned => (18, 0),
        }
    }

    fn of_code(code: u8, detail: u8) -> Option<Self> {
        match (code, detail) {
            (1, difference) => StatementDifference::ALL
                .into_iter()
                .find(|it| *it as u8 == difference)
                .map(Self::TwoStatements),
            (2, 0) => Some(Self::TimeBack),
            (3, 0) => Some(Self::TimeAhead),
            (4, 0) => Some(Self::Fee),
            (5, rule) => Some(Self::Invalid(rule)),
            (6, 0) => Some(Self::Gap),
            (7, 0) => Some(Self::TwoCheckpoints),
            (8, 0) => Some(Self::OtherTree),
            (9, 0) => Some(Self::TwoObservations),
            (10, 0) => Some(Self::OtherThanPruned),
            (11, 0) => Some(Self::OtherLeaf),
            (12, 0) => Some(Self::Dependency),
            (13, 0) => Some(Self::LateRelease),
            (14, 0) => Some(Self::Overcharge),
            (15, 0) => Some(Self::OverchargeUnderLoad),
            (16, 0) => Some(Self::OtherReport),
            (17, 0) => Some(Self::TwoReports),
            (18, 0) => Some(Self::VoidSigned),
            _ => None,
        }
    }
}

/// Evidence that a node broke a rule of conduct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The rule.
    pub misbehavior: Misbehavior,
    /// The place that it is about. Its originator is accused.
    pub at: EnvelopeId,
    /// The peer that sent the last of the envelopes; `None` if it was found in the log.
    pub from: Option<OriginatorId>,
    /// The signed envelopes, or checkpoints; see [`Misbehavior`].
    pub envelopes: Vec<Bytes>,
}

impl Evidence {
    /// `[1][code u8][detail u8][accused u32][sequence u64][from u32, 0 for none]`, then each envelope
    /// as `[length u32]` and its bytes. Integers are big-endian.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (code, detail) = self.misbehavior.code();
        let mut value = vec![VERSION, code, detail];
        value.extend(self.at.originator.0.to_be_bytes());
        value.extend(self.at.sequence.0.to_be_bytes());
        value.extend(self.from.map_or(0, |from| from.0).to_be_bytes());
        for envelope in &self.envelopes {
            let len = u32::try_from(envelope.len()).expect("no frame carries such an envelope");
            value.extend(len.to_be_bytes());
            value.extend(envelope);
        }
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let ([version, code, detail], rest) = take(value)?;
        let (accused, rest) = take(rest)?;
        let (sequence, rest) = take(rest)?;
        let (from, mut rest) = take(rest)?;
        let mut envelopes = Vec::new();
        while !rest.is_empty() {
            let (len, after) = take(rest)?;
            let len = usize::try_from(u32::from_be_bytes(len)).ok()?;
            let (envelope, after) = after.split_at_checked(len)?;
            envelopes.push(Bytes::copy_from_slice(envelope));
            rest = after;
        }
        let (originator, sequence) =
            (OriginatorId(u32::from_be_bytes(accused)), SequenceId(u64::from_be_bytes(sequence)));
        (version == VERSION).then_some(())?;
        Some(Self {
            misbehavior: Misbehavior::of_code(code, detail)?,
            at: EnvelopeId::new(originator, sequence),
            from: Some(OriginatorId(u32::from_be_bytes(from))).filter(|from| from.0 != 0),
            envelopes,
        })
    }
}

/// Version of the encoding of evidence.
const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::fact::FactRow;
    use crate::keys::testing::{keeps_order, round_trips};

    fn times() -> impl Strategy<Value = EvidenceTime> {
        (any::<u64>(), any::<u16>())
            .prop_map(|(server_time_ns, counter)| EvidenceTime { server_time_ns, counter })
    }

    fn facts() -> impl Strategy<Value = FactKey> {
        (any::<u32>(), any::<bool>(), any::<u8>(), any::<u64>()).prop_map(
            |(accused, is_claim, code, sequence)| FactKey {
                accused: OriginatorId(accused),
                is_claim,
                code,
                sequence: SequenceId(sequence),
            },
        )
    }

    fn kinds() -> impl Strategy<Value = Misbehavior> {
        prop_oneof![
            (0..3usize).prop_map(|n| Misbehavior::TwoStatements(StatementDifference::ALL[n])),
            Just(Misbehavior::TimeBack),
            Just(Misbehavior::TimeAhead),
            Just(Misbehavior::Fee),
            any::<u8>().prop_map(Misbehavior::Invalid),
            Just(Misbehavior::Gap),
            Just(Misbehavior::TwoCheckpoints),
            Just(Misbehavior::TwoObservations),
            Just(Misbehavior::OtherThanPruned),
            Just(Misbehavior::OtherLeaf),
            Just(Misbehavior::Dependency),
            Just(Misbehavior::OtherTree),
            Just(Misbehavior::LateRelease),
            Just(Misbehavior::Overcharge),
            Just(Misbehavior::OverchargeUnderLoad),
            Just(Misbehavior::OtherReport),
            Just(Misbehavior::TwoReports),
            Just(Misbehavior::VoidSigned),
        ]
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(
            times in [times(), times()],
            facts in [facts(), facts()],
        ) {
            round_trips(times[0]);
            keeps_order(times[0], times[1]);
            round_trips(facts[0]);
            keeps_order(facts[0], facts[1]);
            keeps_order(facts[0], FactKey { accused: facts[0].accused, ..facts[1] });
        }

        #[test]
        fn values_read_back(
            misbehavior in kinds(),
            at in (any::<u32>(), any::<u64>()),
            from in proptest::option::of(1u32..),
            envelopes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..3),
            row in (times(), any::<u32>()),
        ) {
            let evidence = Evidence {
                misbehavior,
                at: EnvelopeId::new(OriginatorId(at.0), SequenceId(at.1)),
                from: from.map(OriginatorId),
                envelopes: envelopes.into_iter().map(Bytes::from).collect(),
            };
            let value = evidence.encode();
            prop_assert_eq!(Evidence::decode(&value), Some(evidence.clone()));
            for end in 0..value.len() {
                prop_assert_ne!(Evidence::decode(&value[..end]), Some(evidence.clone()));
            }
            let row = FactRow { at: row.0, len_bytes: row.1 };
            prop_assert_eq!(FactRow::decode(&row.encode()), Some(row));
        }

        #[test]
        fn times_ascend_whatever_the_clock_does(
            start in times(),
            clock in proptest::collection::vec(any::<u64>(), 1..9),
        ) {
            let mut last = EvidenceTime { server_time_ns: start.server_time_ns >> 1, ..start };
            for now_ns in clock.into_iter().map(|now_ns| now_ns >> 1) {
                let next = last.next(now_ns);
                prop_assert!(last < next && next.server_time_ns >= now_ns);
                last = next;
            }
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let time = EvidenceTime { server_time_ns: 0x0102, counter: 3 };
        assert_eq!(time.encode(), [0, 0, 0, 0, 0, 0, 1, 2, 0, 3]);
        let row = FactRow { at: time, len_bytes: 0x0304 };
        assert_eq!(row.encode(), [0, 0, 0, 0, 0, 0, 1, 2, 0, 3, 0, 0, 3, 4]);
        let at = EnvelopeId::new(OriginatorId(100), SequenceId(7));
        let evidence = Evidence {
            misbehavior: Misbehavior::TwoStatements(StatementDifference::Content),
            at,
            from: Some(OriginatorId(200)),
            envelopes: vec![Bytes::from_static(&[9, 8])],
        };
        let fact = [0, 0, 0, 100, 0, 0x21, 0, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(FactKey::of(&evidence).encode(), fact);
        let mildest = Misbehavior::TwoStatements(StatementDifference::Encoding);
        let mildest = Evidence { misbehavior: mildest, ..evidence.clone() };
        assert_eq!(
            FactKey::of(&mildest).encode()[4..6],
            [0, 1],
            "as before severities were told apart"
        );
        let mut expected = vec![1, 1, 2, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 7];
        expected.extend([0, 0, 0, 200, 0, 0, 0, 2, 9, 8]);
        assert_eq!(evidence.encode(), expected);
        let claim = Evidence { misbehavior: Misbehavior::TimeAhead, ..evidence };
        assert_eq!(FactKey::of(&claim).encode()[4..6], [1, 3]);
    }

    #[test]
    fn only_a_certain_difference_in_content_is_an_equivocation() {
        let at = EnvelopeId::new(OriginatorId(100), SequenceId(7));
        for (misbehavior, share) in [
            (
                Misbehavior::TwoStatements(StatementDifference::Content),
                EvidenceShare::Equivocations,
            ),
            (Misbehavior::TwoCheckpoints, EvidenceShare::Equivocations),
            (Misbehavior::TwoStatements(StatementDifference::Metadata), EvidenceShare::Faults),
            (Misbehavior::OtherLeaf, EvidenceShare::Leaves),
            (Misbehavior::Dependency, EvidenceShare::Claims),
            (Misbehavior::OtherThanPruned, EvidenceShare::Claims),
            (Misbehavior::Overcharge, EvidenceShare::Faults),
            (Misbehavior::OverchargeUnderLoad, EvidenceShare::Claims),
            (Misbehavior::OtherReport, EvidenceShare::Claims),
            (Misbehavior::TwoReports, EvidenceShare::Claims),
            (Misbehavior::VoidSigned, EvidenceShare::Claims),
        ] {
            assert_eq!(FactKey::new(misbehavior, at).class(), share, "{misbehavior:?}");
        }
    }
}
