//! Evidence about payer reports whose figures this node does not compute, and about reports of one writer that
//! contradict each other.

use std::collections::BTreeSet;

use hawser_proto::EnvelopeId;
use hawser_proto::minute::MINUTE_NS;
use hawser_rules::misbehavior::other_report_pieces;
use hawser_rules::payer_report::{PayerReport, RangeEnd, ReportDifference};
use hawser_storage::{Evidence, Misbehavior, ReadError, Snapshot};

use super::PayerReporterState;
use super::verdict::PayerReportVerdict;
use super::writer_turns::WriterTurns;
use crate::payer_reports::{FiguresError, HeldReport, Recomputed, recompute};

/// A node that wrote a refused report.
struct AccusedWriter {
    /// The envelope with the report.
    at: EnvelopeId,
    /// An envelope of the same node with a report that contradicts it.
    second: Option<EnvelopeId>,
}

impl PayerReporterState {
    /// Records the refused reports among those of one look as evidence against their writers, each once, with this
    /// node's own figures. Records none while this node's list of rates may lack one of the report's minutes, and none
    /// that this node comes to when it leaves out late envelopes: to attest, it leaves out none of its own strand. What
    /// cannot be recorded now, or has no turn in this look, is tried again at the next one.
    pub(super) fn note_other_reports(&self, looked: &[(HeldReport, PayerReportVerdict)]) {
        let snapshot = self.engine.store().snapshot();
        let mut turns = WriterTurns::default();
        for (held, verdict) in looked {
            let PayerReportVerdict::Different(differences) = verdict else { continue };
            let Some((end, _)) = own_report(&held.report, differences) else { continue };
            let has_rates = self.engine.ports().rates.borrow().is_complete_at(after(end));
            if !has_rates {
                continue;
            }
            let accused = self.not_accused_yet(&snapshot, held, looked);
            let weighed = accused
                .map_err(FiguresError::from)
                .and_then(|accused| self.weigh(&snapshot, held, &accused, &mut turns));
            if let Err(error) = weighed {
                tracing::error!(
                    code = "evidence_failed", report_id = %held.id, %error,
                    "a payer report that is refused is not kept as evidence"
                );
            }
        }
    }

    /// Returns the other nodes that wrote a refused report and that it is not recorded against yet, also not beside an
    /// envelope of theirs that contradicts it. Only verified envelopes count: a peer that passes on an unverified one
    /// may have changed its signature, and each envelope is recorded once.
    fn not_accused_yet(
        &self,
        snapshot: &Snapshot<'_>,
        held: &HeldReport,
        looked: &[(HeldReport, PayerReportVerdict)],
    ) -> Result<Vec<AccusedWriter>, ReadError> {
        let others = looked.iter().map(|(other, _)| other);
        let others: Vec<&HeldReport> =
            others.filter(|other| contradicts(&other.report, &held.report)).collect();
        let (mut accused, mut writers) = (Vec::new(), BTreeSet::new());
        for &at in held.written.iter().filter(|at| at.originator != self.own()) {
            let verified = snapshot.verified_head(at.originator)?;
            // A report may be in a strand any number of times.
            if at.sequence > verified || !writers.insert(at.originator) {
                continue;
            }
            let second = of_same_writer(&others, EnvelopeId { sequence: verified, ..at });
            let is_contradicted = second.is_some();
            if !self.differing.lock().is_weighed(held.id, at.originator, is_contradicted) {
                accused.push(AccusedWriter { at, second });
            }
        }
        Ok(accused)
    }

    /// Computes a refused report once more, if a writer still has a turn, and records it as evidence against these
    /// writers, unless this node comes to it now.
    fn weigh(
        &self,
        snapshot: &Snapshot<'_>,
        held: &HeldReport,
        accused: &[AccusedWriter],
        turns: &mut WriterTurns,
    ) -> Result<(), FiguresError> {
        let writers = accused.iter().map(|it| it.at.originator);
        let Some(writer) = turns.first_with_turn(writers) else { return Ok(()) };
        turns.take(writer);
        let found = match self.computations.compute(|| recompute(snapshot, &held.report))? {
            Recomputed::Different(differences) => match own_report(&held.report, &differences) {
                Some((_, own)) => evidence(snapshot, accused, own.as_ref())?,
                None => return Ok(()),
            },
            Recomputed::Equal(_) => Vec::new(),
            Recomputed::NotYet(_) => return Ok(()),
        };
        if self.record_evidence(&found) {
            let mut differing = self.differing.lock();
            for AccusedWriter { at, second } in accused {
                differing.note_weighed(held.id, at.originator, second.is_some());
            }
        }
        Ok(())
    }
}

/// Returns the time after the last minute of a range.
fn after(end: RangeEnd) -> i64 {
    i64::from(end.minute).saturating_add(1).saturating_mul(MINUTE_NS)
}

/// Returns where the range of a refused report ends by this node's figures, and the report that it comes to, if there
/// can be one that ends there. `None` if it has no other figures: the range has too many payers, or no minute.
fn own_report(
    report: &PayerReport,
    differences: &[ReportDifference],
) -> Option<(RangeEnd, Option<PayerReport>)> {
    let (mut end, mut root, mut has_other) = (report.end(), report.root(), false);
    for difference in differences {
        match difference {
            ReportDifference::EndMinute { held, .. } => end.minute = *held,
            ReportDifference::EndSequence { held, .. } => end.sequence = *held,
            ReportDifference::Amounts { own, .. } => root = *own,
            ReportDifference::TooManyPayers { .. } => return None,
            ReportDifference::MinutesReversed { .. } | ReportDifference::Nodes { .. } => continue,
        }
        has_other = true;
    }
    let nodes = report.nodes().clone();
    let own = PayerReport::new(report.originator(), report.start(), end, root, nodes);
    has_other.then(|| (end, own.ok()))
}

/// Returns the evidence that the envelopes of a refused report are, also beside those that contradict it.
///
/// # Errors
/// When an envelope cannot be read.
fn evidence(
    snapshot: &Snapshot<'_>,
    accused: &[AccusedWriter],
    own: Option<&PayerReport>,
) -> Result<Vec<Evidence>, ReadError> {
    let mut found = Vec::new();
    for &AccusedWriter { at, second } in accused {
        let Some(envelope) = snapshot.get(at)? else { continue };
        let envelopes = other_report_pieces(envelope.clone(), own);
        found.push(Evidence { misbehavior: Misbehavior::OtherReport, at, from: None, envelopes });
        let Some(second) = second else { continue };
        let Some(other) = snapshot.get(second)? else { continue };
        let (at, envelopes) = match second < at {
            true => (at, vec![other, envelope]),
            false => (second, vec![envelope, other]),
        };
        found.push(Evidence { misbehavior: Misbehavior::TwoReports, at, from: None, envelopes });
    }
    Ok(found)
}

/// Returns true if two reports about one range have other figures. Their lists of nodes do not matter.
fn contradicts(one: &PayerReport, other: &PayerReport) -> bool {
    let range = |it: &PayerReport| (it.originator(), it.start(), it.end().sequence);
    let figures = |it: &PayerReport| (it.end().minute, it.root());
    range(one) == range(other) && figures(one) != figures(other)
}

/// Returns the first envelope with one of these reports that is in a strand up to a place.
fn of_same_writer(reports: &[&HeldReport], through: EnvelopeId) -> Option<EnvelopeId> {
    let is_before =
        |at: &EnvelopeId| at.originator == through.originator && at.sequence <= through.sequence;
    reports.iter().flat_map(|held| held.written.iter().copied()).find(is_before)
}
