//! Reports of misbehaviour that this node keeps as their host, and an index that stores each fact once.

use bytes::Bytes;
use hawser_proto::{OriginatorId, SequenceId};

use super::fact::{Fact, FactClass, RecordTime};
use super::{Key, take};
use crate::family::Family;

/// Time of a report. Column family `misbehavior_report`: `[server_time_ns u64 BE]` → [`KeptReport`] as
/// `KeptReport::encode` writes it. No two reports of a node have the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct ReportTime(pub(crate) u64);

impl Key<'_> for ReportTime {
    const FAMILY: Family = Family::MisbehaviorReport;
    type Bytes = [u8; 8];

    fn encode(self) -> Self::Bytes {
        self.0.to_be_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        super::decode_u64(bytes).map(Self)
    }
}

impl RecordTime for ReportTime {
    fn next(self, now_ns: u64) -> Self {
        Self(self.0.saturating_add(1).max(now_ns))
    }

    fn stored_at_ns(self) -> u64 {
        self.0
    }
}

/// The worth and the source of a report. Each class has separate room about each node, so that reports of one class
/// do not evict others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReportClass {
    /// Two statements of different content: the gravest fault.
    Equivocation,
    /// Another proven fault.
    Proven,
    /// A claim of this node about envelopes.
    OwnClaim,
    /// A claim of this node about failed requests.
    OwnLiveness,
    /// A report of others that cannot be proven.
    Foreign,
}

impl ReportClass {
    /// All classes. The positions are stored.
    pub const ALL: [Self; 5] =
        [Self::Equivocation, Self::Proven, Self::OwnClaim, Self::OwnLiveness, Self::Foreign];

    /// Returns true for reports that are kept for ever.
    #[must_use]
    pub fn is_proven(self) -> bool {
        matches!(self, Self::Equivocation | Self::Proven)
    }

    fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|class| *class as u8 == byte)
    }
}

impl FactClass for ReportClass {
    fn is_proven(self) -> bool {
        Self::is_proven(self)
    }

    fn is_submitted(self) -> bool {
        self == Self::Foreign
    }
}

/// The fact that a report states. Only the first report of each fact is kept. Column family `misbehavior_report_fact`:
/// `[accused u32 BE][class u8][kind u8][detail u8][sequence u64 BE][digest 16]` → time of the report
/// `u64 BE` and its length `u32 BE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReportFact {
    /// The accused node.
    pub accused: OriginatorId,
    /// The worth of the report.
    pub class: ReportClass,
    /// Number of the kind in the API's schema.
    pub kind: u8,
    /// Distinguishes faults of one kind at one place. Rows of earlier versions have 0 for a proof that takes two
    /// places; their digest does not name the earlier place.
    pub detail: u8,
    /// The place of the fault; 0 for none.
    pub sequence: SequenceId,
    /// Distinguishes evidence without a place: a part of a digest of the evidence, or zeros. For a proof that takes two
    /// places it names the earlier one: see [`behind`](Self::behind).
    pub digest: [u8; 16],
}

/// The beginning of the digest of a proof that takes two places. The earlier place follows, `u64 BE`.
const BEHIND: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

impl ReportFact {
    /// Returns the fact of a proof that takes two places, such as a step back in time: the fault lies after `earlier`
    /// and at or before the place of the fact. Two such proofs about a node may show the same fault if their ranges
    /// overlap. All proofs of one kind and detail take two places, or none does.
    #[must_use]
    pub fn behind(mut self, earlier: SequenceId) -> Self {
        self.digest[..8].copy_from_slice(&BEHIND);
        self.digest[8..].copy_from_slice(&earlier.0.to_be_bytes());
        self
    }

    /// Returns the earlier place of a proof that takes two; `None` for any other fact.
    pub(crate) fn earlier(&self) -> Option<SequenceId> {
        let (start, earlier) = take::<8>(&self.digest)?;
        (self.class.is_proven() && start == BEHIND).then_some(())?;
        super::decode_u64(earlier).map(SequenceId)
    }
}

impl Fact for ReportFact {
    type Time = ReportTime;
    type Class = ReportClass;
    const RECORD: &'static str = "report";

    fn accused(self) -> OriginatorId {
        self.accused
    }

    fn class(self) -> ReportClass {
        self.class
    }

    fn first(accused: OriginatorId, class: ReportClass) -> Self {
        let sequence = SequenceId::NONE;
        Self { accused, class, kind: 0, detail: 0, sequence, digest: [0; 16] }
    }
}

impl Key<'_> for ReportFact {
    const FAMILY: Family = Family::MisbehaviorReportFact;
    type Bytes = [u8; 31];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; 31];
        key[..4].copy_from_slice(&self.accused.0.to_be_bytes());
        key[4..7].copy_from_slice(&[self.class as u8, self.kind, self.detail]);
        key[7..15].copy_from_slice(&self.sequence.0.to_be_bytes());
        key[15..].copy_from_slice(&self.digest);
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (accused, rest) = take(bytes)?;
        let ([class, kind, detail], rest) = take(rest)?;
        let (sequence, digest) = take(rest)?;
        Some(Self {
            accused: OriginatorId(u32::from_be_bytes(accused)),
            class: ReportClass::of_byte(class)?,
            kind,
            detail,
            sequence: SequenceId(u64::from_be_bytes(sequence)),
            digest: digest.try_into().ok()?,
        })
    }
}

/// A report as its host keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptReport {
    /// The worth of the report, as judged when it came.
    pub class: ReportClass,
    /// The host's signature over the report.
    pub signature: [u8; 65],
    /// The bytes of the unsigned report.
    pub report: Bytes,
}

impl KeptReport {
    /// `[1][class u8][signature 65]` and the report.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(67 + self.report.len());
        value.extend([VERSION, self.class as u8]);
        value.extend(self.signature);
        value.extend(&self.report);
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let ([version, class], rest) = take(value)?;
        let (signature, report) = take(rest)?;
        (version == VERSION).then_some(())?;
        let class = ReportClass::of_byte(class)?;
        Some(Self { class, signature, report: Bytes::copy_from_slice(report) })
    }
}

/// Version of the encoding of reports.
const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::fact::FactRow;
    use crate::keys::testing::{keeps_order, round_trips};

    fn facts() -> impl Strategy<Value = ReportFact> {
        (any::<u32>(), 0..5usize, any::<[u8; 2]>(), any::<u64>(), any::<[u8; 16]>()).prop_map(
            |(accused, class, [kind, detail], sequence, digest)| ReportFact {
                accused: OriginatorId(accused),
                class: ReportClass::ALL[class],
                kind,
                detail,
                sequence: SequenceId(sequence),
                digest,
            },
        )
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(
            times in any::<[u64; 2]>(),
            facts in [facts(), facts()],
        ) {
            let times = times.map(ReportTime);
            round_trips(times[0]);
            keeps_order(times[0], times[1]);
            round_trips(facts[0]);
            keeps_order(facts[0], facts[1]);
            keeps_order(facts[0], ReportFact { accused: facts[0].accused, ..facts[1] });
        }

        #[test]
        fn values_read_back(
            class in 0..5usize,
            report in prop::collection::vec(any::<u8>(), 0..20),
            row in (any::<u64>(), any::<u32>()),
        ) {
            let class = ReportClass::ALL[class];
            let kept = KeptReport { class, signature: [7; 65], report: report.into() };
            prop_assert_eq!(KeptReport::decode(&kept.encode()), Some(kept));
            let row = FactRow { at: ReportTime(row.0), len_bytes: row.1 };
            prop_assert_eq!(FactRow::decode(&row.encode()), Some(row));
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        assert_eq!(ReportTime(0x0102).encode(), [0, 0, 0, 0, 0, 0, 1, 2]);
        let fact = ReportFact {
            accused: OriginatorId(100),
            class: ReportClass::OwnClaim,
            kind: 4,
            detail: 1,
            sequence: SequenceId(7),
            digest: [9; 16],
        };
        let mut expected = vec![0, 0, 0, 100, 2, 4, 1, 0, 0, 0, 0, 0, 0, 0, 7];
        expected.extend([9; 16]);
        assert_eq!(fact.encode().to_vec(), expected);
        let step = ReportFact { class: ReportClass::Proven, ..fact }.behind(SequenceId(6));
        assert_eq!(step.digest, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6]);
        assert_eq!(step.earlier(), Some(SequenceId(6)));
        let claim = ReportFact { class: ReportClass::OwnClaim, ..step };
        assert_eq!(claim.earlier(), None, "that is a digest");
        let row = FactRow { at: ReportTime(0x0102), len_bytes: 0x0304 };
        assert_eq!(row.encode(), [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 4]);
        let kept = KeptReport {
            class: ReportClass::Foreign,
            signature: [3; 65],
            report: Bytes::from_static(&[8, 9]),
        };
        let mut expected = vec![1, 4];
        expected.extend([3; 65]);
        expected.extend([8, 9]);
        assert_eq!(kept.encode(), expected);
    }
}
