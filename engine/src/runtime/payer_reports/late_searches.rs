//! Searches for late envelopes of originators, and for the attestations of their reports. Each look continues the last.
//!
//! The places up to which strands were searched are stored, and so are the rows of a report that were read. Otherwise a
//! node that is restarted often would never come to the late envelopes of an originator whose attestation is behind
//! many others, or whose report has very many payers.

use std::collections::{HashMap, HashSet, VecDeque};

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::payer_report::{PayerReport, ReportId};
use hawser_storage::{CommitError, ReadError, Store, StoredScan, StoredSearch, StoredSearchState};

use crate::payer_reports::LateScan;

/// The searches, by originator.
#[derive(Debug, Default)]
pub(super) struct LateSearches {
    by_originator: HashMap<OriginatorId, SearchesAbout>,
    /// The searches that are stored.
    stored: Vec<StoredSearch>,
    /// The parts of reports that are stored as read.
    stored_scans: Vec<StoredScan>,
}

impl LateSearches {
    /// Goes on with the searches that were stored. Those that cannot be read begin again.
    pub(super) fn stored_in(store: &Store) -> Self {
        let stored = or_begin_again(store.late_searches());
        let scans = or_begin_again(store.late_scans());
        let mut searches = Self::default();
        for &StoredSearch { about, report, state } in &stored {
            let (searches, id) = (searches.about(about), ReportId(report));
            match state {
                StoredSearchState::Through(at) => searches.set(id, LateSearch::Through(at)),
                StoredSearchState::Found(at) => searches.set(id, LateSearch::Found(at)),
                StoredSearchState::Recorded => searches.set(id, LateSearch::Recorded),
                StoredSearchState::Next(index) => {
                    let is_of_it =
                        |scan: &&StoredScan| (scan.about, scan.report) == (about, report);
                    let scan = scans.iter().find(is_of_it);
                    let restored =
                        |it: &StoredScan| LateScan::restored(it.next, it.late.iter().copied());
                    let scan = scan.map(restored).unwrap_or_default();
                    searches.rest = Some(UnfinishedLook { index, id, scan });
                }
            }
        }
        (searches.stored, searches.stored_scans) = (stored, scans);
        searches
    }

    /// Stores the searches, if they have changed: at most one for each report that is kept of the chain, and only of
    /// reports with late envelopes. Of each originator it stores the part of one report that was read.
    ///
    /// # Errors
    /// When they cannot be stored. The next call tries again.
    pub(super) fn save(&mut self, store: &Store) -> Result<(), CommitError> {
        let of_each = self.by_originator.iter();
        let mut all: Vec<_> = of_each.flat_map(|(&about, it)| it.to_store(about)).collect();
        all.sort_unstable();
        let scans = self.by_originator.iter().filter_map(|(&about, it)| it.scan_to_store(about));
        let mut scans: Vec<_> = scans.collect();
        scans.sort_unstable();
        if all != self.stored || scans != self.stored_scans {
            store.record_late_searches(&all, &scans)?;
            (self.stored, self.stored_scans) = (all, scans);
        }
        Ok(())
    }

    /// Returns the searches about one originator.
    pub(super) fn about(&mut self, about: OriginatorId) -> &mut SearchesAbout {
        self.by_originator.entry(about).or_default()
    }
}

/// Returns what was stored, or nothing if it cannot be read.
fn or_begin_again<T>(stored: Result<Vec<T>, ReadError>) -> Vec<T> {
    stored.unwrap_or_else(|error| {
        tracing::error!(
            code = "evidence_failed", %error,
            "searches for late releases cannot be read: they begin again"
        );
        Vec::new()
    })
}

/// The searches about one originator: at most one for each of its reports that are kept of the chain.
#[derive(Debug, Default)]
pub(super) struct SearchesAbout {
    reports: HashMap<ReportId, LateSearch>,
    /// The report in whose minutes the next look goes on, if the last one left some.
    pub(super) rest: Option<UnfinishedLook>,
    /// Reports with late envelopes that are still to be judged, in their order. No others are looked for before.
    pub(super) late: VecDeque<LateReport>,
}

/// The report with which the next look begins. Older reports follow it. Newer reports wait for the next round, so that
/// an endless row of new reports does not keep the older reports from being looked at.
#[derive(Debug)]
pub(super) struct UnfinishedLook {
    /// The index of the report in the contract's list.
    pub(super) index: u64,
    /// Its id.
    pub(super) id: ReportId,
    /// The part of its minutes that was read.
    pub(super) scan: LateScan,
}

/// A report with late envelopes about which no evidence is recorded.
#[derive(Debug)]
pub(super) struct LateReport {
    pub(super) id: ReportId,
    pub(super) report: PayerReport,
    /// Places of its late envelopes.
    pub(super) late: Vec<EnvelopeId>,
}

/// The state of the search for an originator's attestation of one report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LateSearch {
    /// The strand has none up to this place, from the end of the report on.
    Through(SequenceId),
    /// The attestation is at this place.
    Found(SequenceId),
    /// Evidence was recorded, so nothing more is searched for.
    Recorded,
}

impl SearchesAbout {
    /// Returns what the next run needs.
    fn to_store(&self, about: OriginatorId) -> impl Iterator<Item = StoredSearch> {
        let states = self.reports.iter().map(|(&id, search)| match *search {
            LateSearch::Through(at) => (id, StoredSearchState::Through(at)),
            LateSearch::Found(at) => (id, StoredSearchState::Found(at)),
            LateSearch::Recorded => (id, StoredSearchState::Recorded),
        });
        let next = self.rest.iter().map(|rest| (rest.id, StoredSearchState::Next(rest.index)));
        states.chain(next).map(move |(id, state)| StoredSearch { about, report: id.0, state })
    }

    /// Returns the part of a report that was read, if the last look has ended within it.
    fn scan_to_store(&self, about: OriginatorId) -> Option<StoredScan> {
        let UnfinishedLook { id, scan, .. } = self.rest.as_ref()?;
        let next = scan.next_row()?;
        Some(StoredScan { about, report: id.0, next, late: scan.late() })
    }

    /// Returns the state of the search for a report, if there was one.
    pub(super) fn get(&self, report: ReportId) -> Option<LateSearch> {
        self.reports.get(&report).copied()
    }

    /// Notes the state of the search for a report.
    pub(super) fn set(&mut self, report: ReportId, search: LateSearch) {
        self.reports.insert(report, search);
    }

    /// Forgets the search for a report: the next one begins at the report's end.
    pub(super) fn forget(&mut self, report: ReportId) {
        self.reports.remove(&report);
    }

    /// Returns the reports whose attestation is searched for, each with the place behind which the search goes on.
    pub(super) fn unattested(&self) -> HashMap<ReportId, SequenceId> {
        let begun = self.reports.iter().filter_map(|(&id, search)| match search {
            LateSearch::Through(searched) => Some((id, *searched)),
            LateSearch::Found(_) | LateSearch::Recorded => None,
        });
        let fresh = self.late.iter().filter(|it| !self.reports.contains_key(&it.id));
        begun.chain(fresh.map(|it| (it.id, it.report.end().sequence))).collect()
    }

    /// Leaves the reports to be judged whose attestation is found. A later look finds the others again.
    pub(super) fn drop_unattested(&mut self) {
        let Self { reports, late, .. } = self;
        late.retain(|it| matches!(reports.get(&it.id), Some(LateSearch::Found(_))));
    }

    /// Forgets the searches for all reports but these.
    pub(super) fn retain(&mut self, reports: &HashSet<ReportId>) {
        self.reports.retain(|report, _| reports.contains(report));
        self.late.retain(|it| reports.contains(&it.id));
    }
}
