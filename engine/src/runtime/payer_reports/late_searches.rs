//! Searches for the attestations of originators with late envelopes, which go on at the next look.

use std::collections::{HashMap, HashSet};

use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::payer_report::ReportId;

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
    /// The index of the report in whose minutes late envelopes were looked for last, if others were left for the next
    /// look.
    pub(super) looked: Option<u64>,
    /// The index of the report that was judged last, if others were left for the next look.
    pub(super) judged: Option<u64>,
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

    /// Forgets the searches for all reports but these.
    pub(super) fn retain(&mut self, reports: &HashSet<ReportId>) {
        self.reports.retain(|report, _| reports.contains(report));
    }
}
