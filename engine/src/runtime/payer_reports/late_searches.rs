//! Searches for late envelopes of originators, and for the attestations of their reports, which go on at the next look.

use std::collections::{HashMap, HashSet, VecDeque};

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::payer_report::{PayerReport, ReportId};

use crate::payer_reports::LateScan;

/// The searches, by originator.
#[derive(Debug, Default)]
pub(super) struct LateSearches(HashMap<OriginatorId, SearchesAbout>);

impl LateSearches {
    /// Returns the searches about one originator.
    pub(super) fn about(&mut self, about: OriginatorId) -> &mut SearchesAbout {
        self.0.entry(about).or_default()
    }
}

/// The searches about one originator: at most one for each of its reports that are kept of the chain.
#[derive(Debug, Default)]
pub(super) struct SearchesAbout {
    reports: HashMap<ReportId, LateSearch>,
    /// The report in whose minutes the next look goes on, if the last one left some.
    pub(super) rest: Option<RestOfLook>,
    /// Reports with late envelopes that are still to be judged, in their order. No others are looked for before.
    pub(super) late: VecDeque<LateReport>,
}

/// The report with which the next look begins. Older ones follow it; newer ones wait for the next round, so that new
/// reports without end keep no look from the older ones.
#[derive(Debug)]
pub(super) struct RestOfLook {
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
    /// Returns the state of the search for a report, if there was one.
    pub(super) fn get(&self, report: ReportId) -> Option<LateSearch> {
        self.reports.get(&report).copied()
    }

    /// Notes the state of the search for a report.
    pub(super) fn set(&mut self, report: ReportId, search: LateSearch) {
        self.reports.insert(report, search);
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
