//! The places between the two envelopes of a claim that they are missing.

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, OriginatorId, SequenceId};
use hawser_storage::Evidence;

use super::Report;

/// Places between two envelopes of one strand: at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StrandPlacesBetween {
    /// The strand.
    pub(crate) originator: OriginatorId,
    /// The first place behind the earlier envelope.
    pub(crate) from: SequenceId,
    /// The last place before the later one.
    pub(crate) through: SequenceId,
}

impl StrandPlacesBetween {
    /// Returns the places between the envelopes of a report; `None` unless it has two of one strand, with places
    /// between them.
    pub(crate) fn of_report(report: &Bytes) -> Option<Self> {
        let report = Report::decode(report).ok()?;
        let [one, other] = report.envelopes() else { return None };
        Self::of_statements([one, other].map(|it| it.unsigned_originator_envelope.clone()))
    }

    /// Returns the places between the envelopes of a piece of evidence, as for a report.
    pub(crate) fn of_evidence(evidence: &Evidence) -> Option<Self> {
        let [one, other] = &evidence.envelopes[..] else { return None };
        let statement = |envelope: &Bytes| OriginatorEnvelope::open(envelope.clone()).ok();
        let ((one, _), (other, _)) = (statement(one)?, statement(other)?);
        Self::of_statements([one, other])
    }

    fn of_statements(statements: [Bytes; 2]) -> Option<Self> {
        let [one, other] = statements.map(|it| OriginatorEnvelope::statement(it).ok());
        let ((one, _), (other, _)) = (one?, other?);
        let (before, after) = if one < other { (one, other) } else { (other, one) };
        let (from, through) = (before.sequence.next(), after.sequence.previous());
        let is_range = before.originator == after.originator && from <= through;
        is_range.then_some(Self { originator: before.originator, from, through })
    }
}
