//! Evidence about late releases: envelopes that fall between the payer reports about their originator.

use std::collections::HashSet;

use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PublicKey};
use hawser_rules::Registry;
use hawser_rules::misbehavior::{
    MisbehaviorVerdict, TreeEvidence, TreeFault, late_release_pieces, verify_trees,
};
use hawser_rules::payer_report::DomainSeparator;
use hawser_storage::{Evidence, Family, Misbehavior, ReadError, Snapshot};

use super::late_searches::{LateReport, LateSearch, SearchesAbout, UnfinishedLook};
use super::{PayerReporterState, ReportStepError};
use crate::payer_reports::{
    ChainReport, LateMinutes, LateScan, SkippedRead, attestations_behind, late_places,
};

/// The newest reports about an originator whose minutes are all looked at. Of older reports only the last two minutes
/// are. A guess: envelopes that fall between two reports come with those of the next one.
const REPORTS_WHOLE: usize = 2;

/// The most work of one look at an originator, however many of its reports have late envelopes. The next look goes on
/// with the rest. An honest originator has no late envelope.
#[derive(Debug, Clone, Copy)]
struct LookBounds {
    /// The rows of usage that are read. The next look goes on behind the last one, within a report or at the next one.
    rows: usize,
    /// The attestations of the originator that are read.
    attestations: usize,
    /// The late envelopes after which no further report is judged.
    late: usize,
}

/// The bounds of a node. Guesses: 50 ms each, and a second for the rows, which an honest originator with thousands of
/// payers has as well.
const BOUNDS: LookBounds = LookBounds { rows: 1_000_000, attestations: 4096, late: 64 };

/// The work that one look took.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LookCost {
    /// The rows of usage that were read.
    rows: usize,
    /// The attestations that were read.
    attestations: usize,
    /// The late envelopes that were judged.
    late: usize,
    /// The envelopes that the disk has damaged, among those that would have been evidence.
    unreadable: Vec<(EnvelopeId, ReadError)>,
}

impl PayerReporterState {
    /// Looks for envelopes behind the end of the reports on the chain that are dated into their minutes, and records
    /// one of each report as evidence if the originator had attested that report. No report counts such envelopes.
    /// Evidence that cannot be recorded now is found again at a later look. Damaged rows of the topic index and damaged
    /// envelopes are passed over; once they are repaired, a later look finds them. Another damaged row ends the look.
    /// Neither keeps a report from being settled.
    ///
    /// # Errors
    /// When rows are being rebuilt, or the reports on the chain are not known yet.
    pub(super) fn note_late_releases(&self, about: OriginatorId) -> Result<(), ReportStepError> {
        let chain = self.chain()?;
        let registry = self.registry();
        let Some(key) = registry.node(about).map(|record| record.public_key) else {
            return Ok(());
        };
        let snapshot = self.engine.store().snapshot();
        let look = LateLook {
            snapshot: &snapshot,
            registry: &registry,
            domain: self.domain,
            about,
            key,
            bounds: BOUNDS,
        };
        let mut searches = self.late_searches.lock();
        let record = |found| self.record_evidence(&[found]);
        let cost = match look.take(chain.about(about).rev(), searches.about(about), record) {
            Ok(cost) => cost,
            Err(error @ ReadError::Rebuilding { .. }) => return Err(error.into()),
            Err(error) => {
                tracing::error!(code = "evidence_failed", originator_id = %about, %error, "no look for late releases");
                return Ok(());
            }
        };
        if let Err(error) = searches.save(self.engine.store()) {
            tracing::debug!(originator_id = %about, %error, "the searches are in memory only");
        }
        let LookCost { rows, attestations, late, unreadable } = cost;
        unreadable.iter().for_each(|(at, error)| self.note_unreadable(*at, error));
        tracing::debug!(originator_id = %about, rows, attestations, late, "looked for late envelopes");
        Ok(())
    }

    /// Names and counts a damaged envelope that would be evidence, once.
    fn note_unreadable(&self, at: EnvelopeId, error: &ReadError) {
        if !self.named_damage.lock().note_envelope(at) {
            return;
        }
        self.engine.counters().evidence_unreadable.inc();
        tracing::error!(
            code = "evidence_unreadable", envelope = %at, %error,
            "an envelope cannot be read from the disk: it is no evidence about a late release"
        );
        self.engine.scrubs().note_read(Family::Log, error);
    }

    /// Records evidence. Returns false if that failed.
    pub(super) fn record_evidence(&self, found: &[Evidence]) -> bool {
        let now_ns = u64::try_from(self.engine.ports().clock.now_ns()).unwrap_or(0);
        match self.engine.store().record_evidence(now_ns, found) {
            Ok(fresh) => {
                fresh.iter().for_each(|Evidence { misbehavior, at, .. }| {
                    let fault = misbehavior.label();
                    tracing::warn!(envelope = %at, fault, "evidence against an originator");
                });
                true
            }
            Err(error) => {
                tracing::error!(
                    code = "evidence_failed", %error,
                    "evidence about payer reports cannot be recorded"
                );
                false
            }
        }
    }
}

/// One look at the late envelopes of an originator.
struct LateLook<'a, 's> {
    snapshot: &'a Snapshot<'s>,
    registry: &'a Registry,
    domain: DomainSeparator,
    about: OriginatorId,
    /// The key of the originator.
    key: PublicKey,
    bounds: LookBounds,
}

impl LateLook<'_, '_> {
    /// Searches for late envelopes of the reports, and for the originator's attestations of those that have some, and
    /// has evidence recorded. `record` returns false if evidence could not be recorded.
    fn take<'r>(
        &self,
        newest_first: impl Iterator<Item = &'r ChainReport>,
        searches: &mut SearchesAbout,
        record: impl FnMut(Evidence) -> bool,
    ) -> Result<LookCost, ReadError> {
        let rows = self.late_reports(newest_first, searches)?;
        let attestations = self.search(searches)?;
        let mut unreadable = Vec::new();
        let late = self.judge(searches, record, &mut unreadable)?;
        Ok(LookCost { rows, attestations, late, unreadable })
    }

    /// Notes the reports that have late envelopes, newest first, unless others are still to be judged. Returns the rows
    /// that were read to find them. Goes on behind the row at which the last look has ended. A damaged row hides the
    /// late envelopes of its report alone: the next look continues with the report before it. After another failure the
    /// next look continues where this one began. Forgets the searches for reports that are no longer kept.
    fn late_reports<'r>(
        &self,
        newest_first: impl Iterator<Item = &'r ChainReport>,
        searches: &mut SearchesAbout,
    ) -> Result<usize, ReadError> {
        let mut kept = HashSet::new();
        let mut left = Vec::new();
        for (newer, on_chain) in newest_first.enumerate() {
            let Some(report) = on_chain.report() else { continue };
            let id = report.id(self.domain);
            kept.insert(id);
            // Without the minute this node does not hold the envelope at the end, which is a part of the evidence.
            let Some(last_minute) = on_chain.held_minute else { continue };
            let is_done = searches.rest.as_ref().is_some_and(|rest| on_chain.index > rest.index);
            if is_done || searches.get(id) == Some(LateSearch::Recorded) {
                continue;
            }
            let minutes = match newer < REPORTS_WHOLE {
                true => LateMinutes::All,
                false => LateMinutes::LastTwo,
            };
            left.push((on_chain.index, id, report, last_minute, minutes));
        }
        searches.retain(&kept);
        if !searches.late.is_empty() {
            return Ok(0);
        }
        let (mut begun, mut rows) = (searches.rest.take(), 0);
        let mut left = left.into_iter();
        while let Some((index, id, report, last_minute, minutes)) = left.next() {
            let begun = begun.take_if(|begun| begun.id == id);
            let scan = begun.map(|begun| begun.scan).unwrap_or_default();
            if rows == self.bounds.rows {
                searches.rest = Some(UnfinishedLook { index, id, scan });
                break;
            }
            let rows_max = self.bounds.rows - rows;
            let read = scan.clone();
            let found = late_places(self.snapshot, &report, last_minute, minutes, read, rows_max);
            let found = match found {
                Ok(found) => found,
                Err(error) if error.is_damage() => {
                    let about = self.about;
                    tracing::error!(
                        code = "evidence_failed", originator_id = %about, report_id = %id, %error,
                        "late releases of a payer report are not looked for"
                    );
                    let scan = LateScan::default();
                    searches.rest =
                        left.next().map(|(index, id, ..)| UnfinishedLook { index, id, scan });
                    break;
                }
                Err(error) => {
                    searches.rest = Some(UnfinishedLook { index, id, scan });
                    return Err(error);
                }
            };
            rows += found.rows;
            if let Some(scan) = found.rest {
                searches.rest = Some(UnfinishedLook { index, id, scan });
                break;
            }
            if !found.places.is_empty() {
                searches.late.push_back(LateReport { id, report, late: found.places });
            }
        }
        Ok(rows)
    }

    /// Goes on with the search for the envelopes in which the originator has attested the reports. Returns the number
    /// of attestations that were read: one pass over the strand serves all reports. A pass that has found none begins
    /// anew, because the originator may show its attestation after the places behind it. An attestation before the end
    /// of a report would be no proof: its time is before the end of the last minute, or the times of the strand step
    /// back, which is evidence by itself.
    fn search(&self, searches: &mut SearchesAbout) -> Result<usize, ReadError> {
        let wanted = searches.unattested();
        let Some(after) = wanted.values().min().copied() else { return Ok(0) };
        let after = EnvelopeId::new(self.about, after);
        let most = self.bounds.attestations;
        let found = attestations_behind(self.snapshot, after, &wanted, &self.key, most)?;
        if let Some(SkippedRead { cause, .. }) = &found.passed_over {
            tracing::error!(
                code = "evidence_failed", originator_id = %self.about, error = %cause,
                "attestations of payer reports that cannot be read are not looked at"
            );
        }
        for (id, searched) in wanted {
            match found.places.get(&id) {
                Some(at) => searches.set(id, LateSearch::Found(*at)),
                // The pass has come to the end of the strand. Places that were missing may be shown behind it.
                None if found.read < most => searches.forget(id),
                None => searches.set(id, LateSearch::Through(searched.max(found.searched))),
            }
        }
        Ok(found.read)
    }

    /// Judges late envelopes of the reports whose attestation is found. The next look goes on with the reports that are
    /// left. Returns the number of late envelopes that were judged. Adds damaged envelopes to `unreadable`: each hides
    /// the evidence that it is a part of.
    fn judge(
        &self,
        searches: &mut SearchesAbout,
        mut record: impl FnMut(Evidence) -> bool,
        unreadable: &mut Vec<(EnvelopeId, ReadError)>,
    ) -> Result<usize, ReadError> {
        searches.drop_unattested();
        let mut tried = 0;
        while tried < self.bounds.late
            && let Some(it) = searches.late.pop_front()
        {
            let Some(LateSearch::Found(at)) = searches.get(it.id) else { continue };
            tried += it.late.len();
            let attestation = self.envelope(EnvelopeId::new(self.about, at), unreadable)?;
            let Some(attestation) = attestation else {
                // It was pruned or damaged. There may be another one behind it.
                searches.set(it.id, LateSearch::Through(at));
                continue;
            };
            // One after the other: each may have megabytes.
            if let Some(found) = self.proof(&it, &attestation, unreadable)?
                && record(found)
            {
                searches.set(it.id, LateSearch::Recorded);
            }
        }
        Ok(tried)
    }

    /// Returns the evidence about a late envelope of a report, if there is one that is a proof.
    fn proof(
        &self,
        it: &LateReport,
        attestation: &Bytes,
        unreadable: &mut Vec<(EnvelopeId, ReadError)>,
    ) -> Result<Option<Evidence>, ReadError> {
        let end = EnvelopeId::new(self.about, it.report.end().sequence);
        let Some(end) = self.envelope(end, unreadable)? else { return Ok(None) };
        for &at in &it.late {
            let Some(late) = self.envelope(at, unreadable)? else { continue };
            let envelopes = [attestation.clone(), end.clone(), late];
            let pieces = late_release_pieces(self.domain, &it.report, envelopes);
            let evidence = TreeEvidence { fault: TreeFault::LateRelease, pieces };
            if verify_trees(&evidence, self.registry).verdict == MisbehaviorVerdict::Proven {
                let (misbehavior, envelopes) = (Misbehavior::LateRelease, evidence.pieces);
                return Ok(Some(Evidence { misbehavior, at, from: None, envelopes }));
            }
        }
        Ok(None)
    }

    /// Returns an envelope that is held and can be read. Adds a damaged one to `unreadable`.
    ///
    /// # Errors
    /// When it cannot be read, and not because of damage.
    fn envelope(
        &self,
        at: EnvelopeId,
        unreadable: &mut Vec<(EnvelopeId, ReadError)>,
    ) -> Result<Option<Bytes>, ReadError> {
        match self.snapshot.get(at) {
            Err(error) if error.is_damage() => {
                unreadable.push((at, error));
                Ok(None)
            }
            read => read,
        }
    }
}

#[cfg(test)]
#[path = "late_release_tests.rs"]
mod tests;
