//! Evidence about late releases: envelopes that fall between the payer reports about their originator.

use hawser_proto::{EnvelopeId, OriginatorId};
use hawser_rules::misbehavior::{
    MisbehaviorVerdict, TreeEvidence, TreeFault, late_release_pieces, verify_trees,
};
use hawser_rules::payer_report::PayerReport;
use hawser_storage::{Evidence, Misbehavior, ReadError, Snapshot};

use super::{PayerReporterState, ReportStepError};
use crate::payer_reports::{attestation_by, late_place};

/// The newest reports about an originator that are looked at. A guess: what falls between two reports comes with the
/// envelopes of the next one.
const REPORTS_LOOKED_AT: usize = 2;

impl PayerReporterState {
    /// Looks for envelopes behind the end of the last reports on the chain that are dated into their minutes, and
    /// records one of each report as evidence if the originator had attested that report. No report counts such
    /// envelopes. Evidence that cannot be recorded now is found again at the next look.
    ///
    /// # Errors
    /// When a row cannot be read, or the reports on the chain are not known yet.
    pub(super) fn note_late_releases(&self, about: OriginatorId) -> Result<(), ReportStepError> {
        let chain = self.chain()?;
        let snapshot = self.engine.store().snapshot();
        let mut found = Vec::new();
        for on_chain in chain.about(about).rev().take(REPORTS_LOOKED_AT) {
            let Some(report) = on_chain.report() else { continue };
            found.extend(self.late_release(&snapshot, &report)?);
        }
        if found.is_empty() {
            return Ok(());
        }
        let now_ns = u64::try_from(self.engine.ports().clock.now_ns()).unwrap_or(0);
        match self.engine.store().record_evidence(now_ns, &found) {
            Ok(fresh) => fresh.iter().for_each(|Evidence { misbehavior, at, .. }| {
                let fault = misbehavior.label();
                tracing::warn!(envelope = %at, fault, "evidence against an originator");
            }),
            Err(error) => tracing::error!(
                code = "evidence_failed", %error, "evidence about a late release cannot be recorded"
            ),
        }
        Ok(())
    }

    /// Returns the evidence about a late envelope of a report, if there is one and it is a proof.
    fn late_release(
        &self,
        snapshot: &Snapshot<'_>,
        report: &PayerReport,
    ) -> Result<Option<Evidence>, ReadError> {
        let Some(at) = late_place(snapshot, report)? else { return Ok(None) };
        let (about, id) = (report.originator(), report.id(self.domain));
        let end = EnvelopeId::new(about, report.end().sequence);
        let (Some(attestation), Some(end), Some(late)) =
            (attestation_by(snapshot, about, id, about)?, snapshot.get(end)?, snapshot.get(at)?)
        else {
            return Ok(None);
        };
        let pieces = late_release_pieces(self.domain, report, [attestation, end, late]);
        let evidence = TreeEvidence { fault: TreeFault::LateRelease, pieces };
        let judgement = verify_trees(&evidence, &self.registry());
        let is_proven = judgement.verdict == MisbehaviorVerdict::Proven;
        let misbehavior = Misbehavior::LateRelease;
        let envelopes = evidence.pieces;
        Ok(is_proven.then_some(Evidence { misbehavior, at, from: None, envelopes }))
    }
}
