//! Evidence about late releases: envelopes that fall between the payer reports about their originator.

use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PublicKey};
use hawser_rules::Registry;
use hawser_rules::misbehavior::{
    MisbehaviorVerdict, TreeEvidence, TreeFault, late_release_pieces, verify_trees,
};
use hawser_rules::payer_report::PayerReport;
use hawser_storage::{Evidence, Misbehavior, ReadError, Snapshot};

use super::{PayerReporterState, ReportStepError};
use crate::payer_reports::{ChainReport, LateMinutes, attestation_behind, late_places};

/// The newest reports about an originator of which all minutes are looked at. A guess: what falls between two reports
/// comes with the envelopes of the next one. Of older ones the last two minutes are.
const REPORTS_WHOLE: usize = 2;
/// The most attestations of an originator that are read in one look for its own of one report. A guess: 50 ms. Only an
/// originator with late envelopes is looked at, and an honest one has a handful there.
const ATTESTATIONS_AT_ONCE: usize = 4096;
impl PayerReporterState {
    /// Looks for envelopes behind the end of the reports on the chain that are dated into their minutes, and records
    /// one of each report as evidence if the originator had attested that report. No report counts such envelopes.
    /// Evidence that cannot be recorded now is found again at the next look.
    ///
    /// # Errors
    /// When a row cannot be read, or the reports on the chain are not known yet.
    pub(super) fn note_late_releases(&self, about: OriginatorId) -> Result<(), ReportStepError> {
        let chain = self.chain()?;
        let registry = self.registry();
        let Some(key) = registry.node(about).map(|record| record.public_key) else {
            return Ok(());
        };
        let snapshot = self.engine.store().snapshot();
        for (newer, on_chain) in chain.about(about).rev().enumerate() {
            let minutes = match newer < REPORTS_WHOLE {
                true => LateMinutes::All,
                false => LateMinutes::LastTwo,
            };
            // One after the other: each may have megabytes.
            if let Some(found) = self.late_release(&snapshot, &registry, &key, on_chain, minutes)? {
                self.record_late_release(found);
            }
        }
        Ok(())
    }

    fn record_late_release(&self, found: Evidence) {
        let now_ns = u64::try_from(self.engine.ports().clock.now_ns()).unwrap_or(0);
        match self.engine.store().record_evidence(now_ns, &[found]) {
            Ok(fresh) => fresh.iter().for_each(|Evidence { misbehavior, at, .. }| {
                let fault = misbehavior.label();
                tracing::warn!(envelope = %at, fault, "evidence against an originator");
            }),
            Err(error) => tracing::error!(
                code = "evidence_failed", %error, "evidence about a late release cannot be recorded"
            ),
        }
    }

    /// Returns the evidence about a late envelope of a report, if there is one that is a proof.
    fn late_release(
        &self,
        snapshot: &Snapshot<'_>,
        registry: &Registry,
        key: &PublicKey,
        on_chain: &ChainReport,
        minutes: LateMinutes,
    ) -> Result<Option<Evidence>, ReadError> {
        // Without the minute this node does not hold the envelope at the end, which is a part of the evidence.
        let (Some(report), Some(last_minute)) = (on_chain.report(), on_chain.held_minute) else {
            return Ok(None);
        };
        let late = late_places(snapshot, &report, last_minute, minutes)?;
        if late.is_empty() {
            return Ok(None);
        }
        let end = EnvelopeId::new(report.originator(), report.end().sequence);
        let Some(attestation) = self.own_attestation(snapshot, &report, end, key)? else {
            return Ok(None);
        };
        let Some(end) = snapshot.get(end)? else { return Ok(None) };
        for at in late {
            let Some(late) = snapshot.get(at)? else { continue };
            let envelopes = [attestation.clone(), end.clone(), late];
            let pieces = late_release_pieces(self.domain, &report, envelopes);
            let evidence = TreeEvidence { fault: TreeFault::LateRelease, pieces };
            if verify_trees(&evidence, registry).verdict == MisbehaviorVerdict::Proven {
                let (misbehavior, envelopes) = (Misbehavior::LateRelease, evidence.pieces);
                return Ok(Some(Evidence { misbehavior, at, from: None, envelopes }));
            }
        }
        Ok(None)
    }

    /// Goes on with the search for the envelope in which the originator of a report has attested it. One before the end
    /// of the report would be no proof: its time is before the end of the last minute, or the times of the strand step
    /// back, which is evidence by itself.
    fn own_attestation(
        &self,
        snapshot: &Snapshot<'_>,
        report: &PayerReport,
        end: EnvelopeId,
        key: &PublicKey,
    ) -> Result<Option<Bytes>, ReadError> {
        let id = report.id(self.domain);
        let searched = self.searched_strands.lock().get(id);
        let after = EnvelopeId { sequence: searched.unwrap_or(end.sequence), ..end };
        let (searched, found) = attestation_behind(snapshot, id, after, key, ATTESTATIONS_AT_ONCE)?;
        self.searched_strands.lock().note(id, searched);
        Ok(found)
    }
}
