//! Searches of strands for attestations that go on at the next look.

use std::collections::HashMap;

use hawser_proto::SequenceId;
use hawser_rules::payer_report::ReportId;

/// The most reports whose search for an attestation is remembered. A guess: many times the reports that are kept about
/// an originator.
const SEARCHED_MAX: usize = 4096;

/// The places up to which strands were searched for their originators' attestations, by report. A search goes on there
/// at the next look.
#[derive(Debug, Default)]
pub(super) struct SearchedStrands(HashMap<ReportId, SequenceId>);

impl SearchedStrands {
    /// Returns the place behind which the search for a report goes on, if there was one.
    pub(super) fn get(&self, report: ReportId) -> Option<SequenceId> {
        self.0.get(&report).copied()
    }

    /// Notes the place up to which a strand was searched. Forgets all searches when there are too many.
    pub(super) fn note(&mut self, report: ReportId, searched: SequenceId) {
        if self.0.len() >= SEARCHED_MAX && !self.0.contains_key(&report) {
            self.0.clear();
        }
        self.0.insert(report, searched);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_remembered_searches_is_bounded() {
        let mut searched = SearchedStrands::default();
        for number in 0..SEARCHED_MAX as u64 + 2 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            searched.note(ReportId(id), SequenceId(number));
            assert_eq!(searched.get(ReportId(id)), Some(SequenceId(number)));
        }
        assert!(searched.0.len() <= SEARCHED_MAX);
    }
}
