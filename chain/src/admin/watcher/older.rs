//! The unsettled reports behind the newest ones, from one look to the next.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::OriginatorId;

use crate::admin::error::AdminError;
use crate::admin::fees::{self, OnchainReport};
use crate::admin::network::Network;

/// The older reports of an originator that its first look reads. A guess: two months of reports.
const READ_AT_FIRST: u64 = 256;
/// The unsettled reports of an originator that are remembered, the newest ones. A guess: as many as a first look finds.
const OPEN_MAX: usize = 256;
/// Originators whose reports are remembered. A guess: four times as many as a look shows. Bounds what an endpoint that
/// makes up nodes adds.
const ORIGINATORS_MAX: usize = 1024;

/// The unsettled reports of each originator. Without them, the alarm about a report that is never settled would end as
/// soon as enough newer reports are on the chain.
#[derive(Debug, Default)]
pub struct OlderReports(BTreeMap<OriginatorId, BTreeSet<u64>>);

impl OlderReports {
    /// Returns the unsettled reports about an originator that are older than its `newest` ones, in the order of their
    /// indices: at its first look those among a bounded number, and later those that were unsettled before.
    ///
    /// # Errors
    /// Fails when the contract cannot be read.
    pub(super) async fn read(
        &mut self,
        network: &Network,
        originator: OriginatorId,
        newest: &[OnchainReport],
    ) -> Result<Vec<OnchainReport>, AdminError> {
        let wanted = self.wanted(originator, newest);
        let older = fees::reports_at(network, originator, &wanted).await?;
        Ok(self.note(originator, newest, older))
    }

    /// Returns the indices of the older reports to read.
    fn wanted(&self, originator: OriginatorId, newest: &[OnchainReport]) -> Vec<u64> {
        let first = newest.first().map_or(0, |report| report.index);
        match self.0.get(&originator) {
            None => (first.saturating_sub(READ_AT_FIRST)..first).collect(),
            Some(open) => open.range(..first).copied().collect(),
        }
    }

    /// Remembers the unsettled reports of a look, and returns the older ones among them.
    fn note(
        &mut self,
        originator: OriginatorId,
        newest: &[OnchainReport],
        mut older: Vec<OnchainReport>,
    ) -> Vec<OnchainReport> {
        older.retain(|report| !report.is_settled);
        let all = older.iter().chain(newest).filter(|report| !report.is_settled);
        let mut open: BTreeSet<u64> = all.map(|report| report.index).collect();
        while open.len() > OPEN_MAX {
            open.pop_first();
        }
        if self.0.len() >= ORIGINATORS_MAX && !self.0.contains_key(&originator) {
            self.0.clear();
        }
        self.0.insert(originator, open);
        older
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;

    use super::*;
    use crate::admin::MicroDollars;
    use crate::admin::watcher::REPORTS_LOOKED_AT;

    const NODE: OriginatorId = OriginatorId(100);

    fn report(index: u64, is_settled: bool) -> OnchainReport {
        OnchainReport {
            originator: NODE,
            index,
            start_sequence_id: SequenceId::NONE,
            end_sequence_id: SequenceId(1),
            end_minute: 1,
            root: [0; 32],
            fees_settled: MicroDollars::default(),
            is_settled,
            protocol_fee_rate: 0,
            node_ids: vec![NODE],
        }
    }

    /// Looks once at a contract with this number of reports, of which those at `open` are not settled. Returns the
    /// indices that are read beside the newest ones, and those of the reports that are found.
    fn look(older: &mut OlderReports, count: u64, open: &[u64]) -> (Vec<u64>, Vec<u64>) {
        let at = |index| report(index, !open.contains(&index));
        let newest: Vec<_> = (count.saturating_sub(REPORTS_LOOKED_AT)..count).map(at).collect();
        let wanted = older.wanted(NODE, &newest);
        let found = older.note(NODE, &newest, wanted.iter().copied().map(at).collect());
        (wanted, found.iter().map(|report| report.index).collect())
    }

    #[test]
    fn a_report_that_is_not_settled_is_found_however_many_newer_ones_there_are() {
        let mut older = OlderReports::default();
        assert_eq!(look(&mut older, 0, &[]), (vec![], vec![]));
        assert_eq!(look(&mut older, 32, &[3]), (vec![], vec![]), "among the newest");
        for count in 36..200 {
            assert_eq!(look(&mut older, count, &[3]), (vec![3], vec![3]), "{count}");
        }
        assert_eq!(look(&mut older, 200, &[3, 190]), (vec![3], vec![3]));
        assert_eq!(look(&mut older, 222, &[3, 190]), (vec![3], vec![3]));
        assert_eq!(look(&mut older, 223, &[190]), (vec![3, 190], vec![190]), "one was settled");
        assert_eq!(look(&mut older, 224, &[]), (vec![190], vec![]));
        assert_eq!(look(&mut older, 225, &[]), (vec![], vec![]));
    }

    #[test]
    fn a_first_look_reads_a_bounded_number_of_older_reports() {
        let (wanted, found) = look(&mut OlderReports::default(), 1000, &[5, 800]);
        assert_eq!((wanted.len(), wanted[0], wanted[255]), (256, 712, 967));
        assert_eq!(found, [800]);
        let (wanted, found) = look(&mut OlderReports::default(), 40, &[0, 7, 8]);
        assert_eq!((wanted.len(), found), (8, vec![0, 7]));
    }

    #[test]
    fn an_endpoint_that_invents_reports_and_nodes_fills_no_memory() {
        let mut older = OlderReports::default();
        let all: Vec<u64> = (0..2000).collect();
        for count in (0..2000).step_by(16) {
            look(&mut older, count, &all);
        }
        assert_eq!(older.0[&NODE].len(), OPEN_MAX);
        for node in 0..3 * u32::try_from(ORIGINATORS_MAX).unwrap() {
            older.note(OriginatorId(node), &[], Vec::new());
        }
        assert!(older.0.len() <= ORIGINATORS_MAX);
    }
}
