//! The unsettled reports behind the newest ones, from one look to the next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::OriginatorId;

use crate::admin::error::AdminError;
use crate::admin::network::Network;
use crate::admin::onchain_reports::{OnchainReport, reports_at};

/// The older reports of an originator that a look reads if none has shown them yet. A guess: two months of reports.
const UNSEEN_MAX: u64 = 256;
/// The unsettled reports of an originator that are remembered, the oldest ones: an endpoint can only make up newer
/// ones. A guess: as many as one look finds.
const OPEN_MAX: usize = 256;
/// Originators whose reports are remembered. A guess: four times as many as a look shows. Bounds what an endpoint that
/// makes up nodes adds.
const ORIGINATORS_MAX: usize = 1024;

/// The unsettled reports of each originator. Without them, the alarm about a report that is never settled would end as
/// soon as enough newer reports are on the chain.
#[derive(Debug, Default)]
pub struct OlderReports {
    of: BTreeMap<OriginatorId, SeenReports>,
    /// The number of looks until now.
    looks: u64,
}

/// The reports about one originator that looks have shown.
#[derive(Debug, Default)]
struct SeenReports {
    /// The index behind the last one of the last look.
    end: u64,
    /// The indices of those that were not settled.
    open: BTreeSet<u64>,
    /// The number of looks that have shown the originator, and the last of them.
    looks: u64,
    last_look: u64,
}

impl OlderReports {
    /// Begins another look.
    pub(super) fn begin_look(&mut self) {
        self.looks += 1;
    }

    /// Returns the unsettled reports about an originator that are older than its `newest` ones, in the order of their
    /// indices. Reads those that were not settled at the last look, and a bounded number of those that no look has
    /// shown: at the first look, if the endpoint of an earlier look was far behind, or if it showed reports that are
    /// not there.
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
        let older = reports_at(network, originator, &wanted).await?;
        Ok(self.note(originator, newest, older))
    }

    /// Returns the indices of the older reports to read.
    fn wanted(&self, originator: OriginatorId, newest: &[OnchainReport]) -> Vec<u64> {
        let first = newest.first().map_or(0, |report| report.index);
        let seen = self.of.get(&originator);
        // An endpoint that made up the last ones may have made up all.
        let seen_end = seen.map(|seen| seen.end).filter(|end| *end <= end_of(newest));
        let seen_end = seen_end.unwrap_or(0);
        let unseen = seen_end.max(first.saturating_sub(UNSEEN_MAX));
        let open = seen.into_iter().flat_map(|seen| seen.open.range(..first.min(unseen)));
        open.copied().chain(unseen..first).collect()
    }

    /// Remembers the unsettled reports of a look, and returns the older ones among them.
    fn note(
        &mut self,
        originator: OriginatorId,
        newest: &[OnchainReport],
        mut older: Vec<OnchainReport>,
    ) -> Vec<OnchainReport> {
        older.retain(|report| !report.is_settled);
        if !self.of.contains_key(&originator) && !self.make_room() {
            return older;
        }
        let seen = self.of.entry(originator).or_default();
        let end = end_of(newest);
        // An endpoint that is behind does not show the later ones.
        let mut open = seen.open.split_off(&end);
        let shown = older.iter().chain(newest).filter(|report| !report.is_settled);
        open.extend(shown.map(|report| report.index));
        while open.len() > OPEN_MAX {
            open.pop_last();
        }
        *seen = SeenReports { end, open, looks: seen.looks + 1, last_look: self.looks };
        older
    }

    /// Forgets an originator if there are too many: one without an unsettled report, or else the one that the fewest
    /// looks have shown, and of several the newest. So an endpoint that makes up nodes displaces none that another one
    /// has shown before, and its nodes give way to those that another one shows afterwards. Returns false if the
    /// present look has shown all.
    fn make_room(&mut self) -> bool {
        if self.of.len() < ORIGINATORS_MAX {
            return true;
        }
        let earlier = self.of.iter().filter(|(_, seen)| seen.last_look != self.looks);
        let least = earlier
            .min_by_key(|(_, seen)| (!seen.open.is_empty(), seen.looks, Reverse(seen.last_look)));
        let least = least.map(|(originator, _)| *originator);
        least.is_some_and(|originator| self.of.remove(&originator).is_some())
    }
}

/// Returns the index behind the last of these reports.
fn end_of(newest: &[OnchainReport]) -> u64 {
    newest.last().map_or(0, |report| report.index + 1)
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
        older.begin_look();
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

    /// The first endpoint that answered was still reading the chain.
    #[test]
    fn reports_that_an_endpoint_far_behind_did_not_show_are_read_later() {
        let mut older = OlderReports::default();
        let open = [2, 5, 50];
        let wanted: Vec<u64> = (0..8).collect();
        assert_eq!(look(&mut older, 40, &open), (wanted, vec![2, 5]));
        let wanted: Vec<u64> = [2, 5].into_iter().chain(40..68).collect();
        assert_eq!(look(&mut older, 100, &open), (wanted, vec![2, 5, 50]));
        assert_eq!(look(&mut older, 101, &open), (open.to_vec(), open.to_vec()));
        assert_eq!(look(&mut older, 10, &open), (vec![], vec![]), "it is asked once more");
        let wanted: Vec<u64> = [2, 5].into_iter().chain(10..70).collect();
        assert_eq!(look(&mut older, 102, &open), (wanted, open.to_vec()));
        assert_eq!(look(&mut older, 103, &open), (open.to_vec(), open.to_vec()));
    }

    /// The endpoint of the first look makes up reports, and says that all are settled.
    #[test]
    fn an_endpoint_that_makes_up_reports_at_first_hides_no_old_one_from_later_looks() {
        for made_up in [101, 300, 5000] {
            let mut older = OlderReports::default();
            look(&mut older, made_up, &[]);
            let wanted: Vec<u64> = (0..68).collect();
            assert_eq!(look(&mut older, 100, &[50]), (wanted, vec![50]), "{made_up}");
            assert_eq!(look(&mut older, 101, &[50]), (vec![50], vec![50]), "{made_up}");
        }
    }

    /// Made-up reports stay remembered until there are honest ones at their indices, which may take years.
    #[test]
    fn an_endpoint_that_has_made_up_reports_hides_no_old_one_from_later_looks() {
        let mut older = OlderReports::default();
        let made_up: Vec<u64> = (0..2000).collect();
        look(&mut older, 40, &[3]);
        for count in (1000..2000).step_by(16) {
            look(&mut older, count, &made_up);
        }
        for count in 41..100 {
            assert_eq!(look(&mut older, count, &[3]).1, [3], "{count}");
        }
    }

    /// Nodes that one endpoint makes up take no memory away from those that an honest one has shown.
    #[test]
    fn an_endpoint_that_makes_up_nodes_hides_no_old_report_from_later_looks() {
        for made_up_open in [true, false] {
            let mut older = OlderReports::default();
            look(&mut older, 32, &[3]);
            for node in 0..3 * u32::try_from(ORIGINATORS_MAX).unwrap() {
                older.note(OriginatorId(1000 + node), &[report(0, !made_up_open)], Vec::new());
            }
            assert!(older.of.len() <= ORIGINATORS_MAX);
            assert_eq!(look(&mut older, 1000, &[3]).1, [3], "{made_up_open}");
        }
    }

    /// The endpoint is the first one, or one of many later looks, and each of its looks shows other nodes.
    #[test]
    fn nodes_that_an_endpoint_makes_up_for_many_looks_displace_no_others() {
        for is_first in [true, false] {
            let mut older = OlderReports::default();
            if !is_first {
                look(&mut older, 32, &[3]);
            }
            for made_up in 0..3 * u32::try_from(ORIGINATORS_MAX).unwrap() {
                if made_up % 256 == 0 {
                    older.begin_look();
                }
                older.note(OriginatorId(1000 + made_up), &[report(0, false)], Vec::new());
            }
            if is_first {
                look(&mut older, 32, &[3]);
            }
            assert_eq!(older.of.len(), ORIGINATORS_MAX);
            assert_eq!(look(&mut older, 1000, &[3]).1, [3], "{is_first}");
        }
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
        assert_eq!(older.of[&NODE].open.len(), OPEN_MAX);
        for node in 0..3 * u32::try_from(ORIGINATORS_MAX).unwrap() {
            older.note(OriginatorId(node), &[], Vec::new());
        }
        assert!(older.of.len() <= ORIGINATORS_MAX);
    }
}
