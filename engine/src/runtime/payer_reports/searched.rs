//! Reports whose amounts this node did not find in its log.

use std::collections::HashMap;

use hawser_rules::payer_report::ReportId;

use crate::payer_reports::UndecidedError;

/// The maximum number of reports that are remembered. A guess: many times the number of unsettled reports on the chain.
const SEARCHED_MAX: usize = 4096;
/// The number of turns after which the log is searched again although the same places are missing: a price may have
/// changed. A guess: a small part of the cost of a search at each turn.
const TURNS_OF_A_SEARCH: u8 = 24;

/// The reports whose amounts were not found in the log. They are remembered so that it is not searched again at each
/// turn.
#[derive(Debug, Default)]
pub(super) struct SearchedReports(HashMap<ReportId, SearchedReport>);

#[derive(Debug)]
struct SearchedReport {
    /// The places of the range that were missing.
    missing: Option<UndecidedError>,
    /// Turns since the search.
    turns: u8,
}

impl SearchedReports {
    /// Returns true if the log is to be searched for the amounts of a report now, and notes that search. Otherwise
    /// counts a turn. `missing` are places of its range that this node lacks: a search may succeed when they change.
    pub(super) fn begin_search(
        &mut self,
        report: ReportId,
        missing: Option<&UndecidedError>,
    ) -> bool {
        if let Some(searched) = self.0.get_mut(&report)
            && searched.missing.as_ref() == missing
            && searched.turns < TURNS_OF_A_SEARCH
        {
            searched.turns += 1;
            return false;
        }
        if self.0.len() >= SEARCHED_MAX {
            self.0.clear();
        }
        self.0.insert(report, SearchedReport { missing: missing.cloned(), turns: 0 });
        true
    }

    /// Forgets a report whose amounts were found.
    pub(super) fn forget(&mut self, report: ReportId) {
        self.0.remove(&report);
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;

    use super::*;

    #[test]
    fn a_search_is_repeated_when_places_have_come_or_after_a_day_of_turns() {
        let (mut searched, report) = (SearchedReports::default(), ReportId([1; 32]));
        let missing = UndecidedError::Missing(SequenceId(2), SequenceId(3));
        assert!(searched.begin_search(report, Some(&missing)));
        assert!(!searched.begin_search(report, Some(&missing)));
        assert!(searched.begin_search(report, None), "the places have come");
        let turns = (0..50).filter(|_| searched.begin_search(report, None)).count();
        assert_eq!(turns, 2);
        searched.forget(report);
        assert!(searched.begin_search(report, None));
    }

    #[test]
    fn the_number_of_remembered_reports_is_bounded() {
        let mut searched = SearchedReports::default();
        for number in 0..SEARCHED_MAX + 2 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&(number as u64).to_be_bytes());
            assert!(searched.begin_search(ReportId(id), None));
        }
        assert!(searched.0.len() <= SEARCHED_MAX);
    }
}
