//! Judges reports of nodes: decides if this node computes the same figures and may attest them.

use std::cmp::Reverse;
use std::sync::Arc;

use hawser_proto::{OriginatorId, SequenceId, minute_of};
use hawser_rules::payer_report::{ReportDifference, ReportId};
use hawser_storage::{Family, ReadError};

use super::submitting::counted;
use super::verdict::{NOT_COME, OTHER_NODES, PayerReportVerdict, SHORTER};
use super::writer_turns::WriterTurns;
use super::{PayerReporterState, ReportStepError};
use crate::payer_reports::{
    HeldReport, Recomputed, UndecidedError, has_come, may_fill, may_grow, nodes_of,
    recompute_to_attest,
};
use crate::runtime::scrub::damaged_family;

impl PayerReporterState {
    /// Judges the reports about an originator that continue those on the chain. Stores the amounts of the reports that
    /// may be attested then. A correct report that is shorter than a report which can be submitted has to wait. Nodes
    /// read only the newest attestations, so the attestations of many short reports would push out those of the longer
    /// report.
    pub(super) fn look(
        &self,
        about: OriginatorId,
    ) -> Result<Vec<(HeldReport, PayerReportVerdict)>, ReportStepError> {
        self.note_corrections(about)?;
        let continuing = self.continuing(about)?;
        let submittable = self.submittable_end(&continuing);
        let is_shorter = |held: &HeldReport| {
            let is_behind = submittable.is_some_and(|end| held.report.end().sequence < end);
            is_behind && !held.is_attested_by(self.own())
        };
        // An earlier look has found it equal, and it is not computed again at each look while it waits.
        let was_equal =
            |held: &HeldReport| is_shorter(held) && self.known_leaves.lock().of(held.id).is_some();
        let (equal, others): (Vec<_>, Vec<_>) = continuing.into_iter().partition(was_equal);
        let equal = equal.into_iter().map(|held| (held, PayerReportVerdict::Equal));
        let judged = self.verdicts(others)?.into_iter().chain(equal);
        let judged = judged.map(|(held, verdict)| match verdict {
            PayerReportVerdict::Equal if is_shorter(&held) => {
                (held, PayerReportVerdict::NotNow(SHORTER.to_owned()))
            }
            verdict => (held, verdict),
        });
        let judged = judged.collect();
        self.known_leaves.lock().save(self.engine.store(), self.hour())?;
        Ok(judged)
    }

    /// Returns the end of the longest report that this node and a majority have attested. `None` also if there is no
    /// shorter one to attest. A still longer one may lack a majority for long, because its writer has shown the places
    /// behind to few nodes.
    fn submittable_end(&self, continuing: &[HeldReport]) -> Option<SequenceId> {
        let registry = self.registry();
        let nodes = nodes_of(&registry).ok()?;
        let end = |held: &HeldReport| held.report.end().sequence;
        let (attested, others): (Vec<_>, Vec<_>) =
            continuing.iter().partition(|held| held.is_attested_by(self.own()));
        let shortest = others.into_iter().map(end).min()?;
        let has_shorter =
            |held: &&HeldReport| shortest < end(held) && *held.report.nodes() == nodes;
        let mut longest_first: Vec<_> = attested.into_iter().filter(has_shorter).collect();
        longest_first.sort_by_key(|held| Reverse(end(held)));
        let found = longest_first.into_iter().find(|held| counted(&registry, held).is_reached());
        found.map(end)
    }

    /// While amounts of an originator are being corrected, the reports that were refused by them are to be judged
    /// again.
    pub(super) fn note_corrections(&self, about: OriginatorId) -> Result<(), ReadError> {
        let store = self.engine.store();
        if store.has_unpriced() && store.snapshot().has_unpriced_in(about, 0..=u32::MAX)? {
            self.differing.lock().judge_all_again(about);
        }
        Ok(())
    }

    /// Has a refused report judged at the next look, also by a new search for envelopes that are dated back.
    pub(super) fn judge_again(&self, id: ReportId) {
        self.differing.lock().judge_again(id);
        self.searched_to_attest.lock().forget(id);
    }

    /// Judges reports about one originator in one look. A report waits if the disk has damaged what its range has: a
    /// node may write one that ends there, and it costs no other report its verdict.
    pub(super) fn verdicts(
        &self,
        held: Vec<HeldReport>,
    ) -> Result<Vec<(HeldReport, PayerReportVerdict)>, ReportStepError> {
        let mut judged = WriterTurns::default();
        let mut verdicts = Vec::with_capacity(held.len());
        for held in held {
            let verdict = match self.verdict(&held, &mut judged) {
                Ok(verdict) => verdict,
                Err(error) => self.waiting_for_repair(error)?,
            };
            verdicts.push((held, verdict));
        }
        Ok(verdicts)
    }

    /// Returns the verdict on a report that cannot be judged because of damage, and has the damage repaired.
    ///
    /// # Errors
    /// An error that is no damage.
    fn waiting_for_repair(
        &self,
        error: ReportStepError,
    ) -> Result<PayerReportVerdict, ReportStepError> {
        let Some(cause) = error.damage() else { return Err(error) };
        self.engine.scrubs().note_read(damaged_family(cause, Family::Usage), cause);
        Ok(PayerReportVerdict::NotNow(error.to_string()))
    }

    /// Judges a report. `judged` counts those that this look has recomputed, by writer.
    fn verdict(
        &self,
        held: &HeldReport,
        judged: &mut WriterTurns,
    ) -> Result<PayerReportVerdict, ReportStepError> {
        if held.is_attested_by(self.own()) {
            return Ok(PayerReportVerdict::Attested);
        }
        let now_minute = minute_of(self.engine.ports().clock.now_ns());
        if !has_come(held.report.end().minute, now_minute) {
            return Ok(PayerReportVerdict::NotNow(NOT_COME.into()));
        }
        let writer = judged.first_with_turn(held.written.iter().map(|at| at.originator));
        if let Some(differences) = self.differing.lock().refused_before(held.id, writer.is_some()) {
            return Ok(PayerReportVerdict::Different(differences));
        }
        let Some(writer) = writer else { return Ok(PayerReportVerdict::Unjudged) };
        let snapshot = self.engine.store().snapshot();
        let is_own = held.report.originator() == self.own();
        let (mut leaves, mut differences) = (None, Vec::new());
        // Late envelopes excuse other originators only: an attestation binds a node about its own strand.
        let may_search = |missing: Option<&UndecidedError>| {
            !is_own && self.searched_to_attest.lock().begin_search(held.id, missing)
        };
        let compute = || recompute_to_attest(&snapshot, &held.report, now_minute, may_search);
        let recomputed = self.computations.compute(compute);
        if recomputed.is_err() {
            judged.take(writer);
        }
        match recomputed? {
            Recomputed::NotYet(why) => {
                // Otherwise nothing was summed up, so it does not count.
                if matches!(why, UndecidedError::Missing(..)) {
                    judged.take(writer);
                }
                return Ok(PayerReportVerdict::NotNow(why.to_string()));
            }
            Recomputed::Equal(computed) => {
                self.searched_to_attest.lock().forget(held.id);
                leaves = Some(computed);
            }
            Recomputed::Different(found) => differences = found,
        }
        judged.take(writer);
        if !differences.is_empty() {
            let about = held.report.originator();
            self.differing.lock().remember(held.id, about, &differences);
            return Ok(PayerReportVerdict::Different(differences));
        }
        self.differing.lock().forget(held.id);
        let unfinished = match is_own {
            // The attestation binds however long after this verdict it is signed.
            true => may_grow(&snapshot, &held.report)?,
            false => may_fill(&snapshot, &held.report)?,
        };
        if let Some(why) = unfinished {
            return Ok(PayerReportVerdict::NotNow(why.to_string()));
        }
        if nodes_of(&self.registry())? != *held.report.nodes() {
            return Ok(PayerReportVerdict::NotNow(OTHER_NODES.into()));
        }
        // Kept only after the list of nodes was compared: a writer could have any number of others kept.
        if let Some(leaves) = leaves {
            self.known_leaves.lock().keep(held.id, &held.report, Arc::new(leaves));
        }
        Ok(PayerReportVerdict::Equal)
    }

    /// Names the nodes that wrote a report to which this node does not come, once.
    pub(super) fn log_refusal(&self, held: &HeldReport, differences: &[ReportDifference]) {
        if self.differing.lock().note_logged(held.id) {
            return;
        }
        self.totals.note_refused(differences);
        let differences: Vec<_> = differences.iter().map(ReportDifference::to_string).collect();
        let writers: Vec<_> = held.written.iter().map(|at| at.originator.to_string()).collect();
        tracing::warn!(
            code = "payer_report_refused",
            report_id = %held.id,
            originator_id = %held.report.originator(),
            writers = writers.join(","),
            "a payer report is not attested: {}",
            differences.join("; ")
        );
    }
}
