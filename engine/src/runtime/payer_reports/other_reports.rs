//! Evidence about payer reports that this node does not come to, and about those of one writer that contradict each
//! other.

use std::collections::BTreeSet;

use hawser_proto::{EnvelopeId, OriginatorId};
use hawser_rules::misbehavior::other_report_pieces;
use hawser_rules::payer_report::{PayerReport, RangeEnd, ReportDifference};
use hawser_storage::{Evidence, Misbehavior, ReadError, Snapshot};

use super::PayerReporterState;
use super::verdict::PayerReportVerdict;
use crate::payer_reports::{FiguresError, HeldReport, Recomputed, recompute};

const MINUTE_NS: i64 = 60_000_000_000;

impl PayerReporterState {
    /// Records the refused reports among those of one look as evidence against their writers, each once, with this
    /// node's own figures. Records none while this node's list of rates may lack one of the report's minutes, and none
    /// that this node comes to when it leaves out late envelopes: to attest, it leaves out none of its own strand. What
    /// cannot be recorded now is tried again at the next look.
    pub(super) fn note_other_reports(&self, looked: &[(HeldReport, PayerReportVerdict)]) {
        let snapshot = self.engine.store().snapshot();
        for (held, verdict) in looked {
            let PayerReportVerdict::Different(differences) = verdict else { continue };
            let Some((end, _)) = own_report(&held.report, differences) else { continue };
            let others = looked.iter().map(|(other, _)| other);
            let others: Vec<&HeldReport> =
                others.filter(|other| contradicts(&other.report, &held.report)).collect();
            let has_rates = self.engine.ports().rates.borrow().is_complete_at(after(end));
            if !has_rates || self.differing.lock().is_weighed(held.id, others.len()) {
                continue;
            }
            match self.weigh(&snapshot, held, &others) {
                Ok(Some(found)) if self.record_evidence(&found) => {
                    self.differing.lock().note_weighed(held.id, others.len());
                }
                Ok(_) => {}
                Err(error) => tracing::error!(
                    code = "evidence_failed", report = %held.id, %error,
                    "a payer report that is refused is not kept as evidence"
                ),
            }
        }
    }

    /// Computes a refused report once more, and returns the evidence that it is, also beside `others` that contradict
    /// it: none if this node comes to it now. `None` while it cannot be computed.
    fn weigh(
        &self,
        snapshot: &Snapshot<'_>,
        held: &HeldReport,
        others: &[&HeldReport],
    ) -> Result<Option<Vec<Evidence>>, FiguresError> {
        let differences = match self.computations.compute(|| recompute(snapshot, &held.report))? {
            Recomputed::Different(differences) => differences,
            Recomputed::Equal(_) => return Ok(Some(Vec::new())),
            Recomputed::NotYet(_) => return Ok(None),
        };
        let Some((_, own)) = own_report(&held.report, &differences) else { return Ok(None) };
        Ok(Some(evidence(snapshot, held, own.as_ref(), others, self.own())?))
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

/// Returns the evidence about a refused report: against each other node that wrote it, and against each that also wrote
/// one of `others`, which contradict it.
///
/// # Errors
/// When an envelope cannot be read.
fn evidence(
    snapshot: &Snapshot<'_>,
    refused: &HeldReport,
    own: Option<&PayerReport>,
    others: &[&HeldReport],
    this_node: OriginatorId,
) -> Result<Vec<Evidence>, ReadError> {
    let (mut found, mut writers) = (Vec::new(), BTreeSet::new());
    for &at in &refused.written {
        // A report may be in a strand any number of times.
        let is_new = at.originator != this_node && writers.insert(at.originator);
        let Some(envelope) = is_new.then(|| snapshot.get(at)).transpose()?.flatten() else {
            continue;
        };
        let envelopes = other_report_pieces(envelope.clone(), own);
        found.push(Evidence { misbehavior: Misbehavior::OtherReport, at, from: None, envelopes });
        let Some(second) = of_same_writer(others, at) else { continue };
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

/// Returns the first of these reports that the writer of an envelope has in its strand.
fn of_same_writer(reports: &[&HeldReport], at: EnvelopeId) -> Option<EnvelopeId> {
    let mut written = reports.iter().flat_map(|held| &held.written);
    written.find(|other| other.originator == at.originator).copied()
}
