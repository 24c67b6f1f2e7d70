//! The leaves of payer reports that the contract has settled, by block, to be compared with the ledger.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use hawser_proto::OriginatorId;
use hawser_storage::{PayerReportChange, PayerReportEvent};

use super::ledger::{SETTLED_BLOCKS_MAX, SettledBlocks};

/// A report by its originator and its place in the contract's list.
type ReportKey = (OriginatorId, u64);

/// The number of leaves that the contract has settled in each block, of all reports together: the ledger has as many
/// settled amounts there, unless an endpoint hides some. Those of the newest blocks, as many as the ledger counts.
#[derive(Debug, Default)]
pub(super) struct SettledLeaves {
    by_block: BTreeMap<u64, u64>,
    /// The blocks of settlements that have left a part of their report to later ones, by report.
    partial: HashMap<ReportKey, VecDeque<u64>>,
    /// The reports of these settlements, in the order of the chain. The oldest ones are forgotten.
    order: VecDeque<ReportKey>,
}

impl SettledLeaves {
    /// Adds the leaves of an event, if it is a settlement. An endpoint may state any number.
    pub(super) fn note(&mut self, event: &PayerReportEvent) {
        let PayerReportChange::Settled { leaves, left, .. } = event.change else { return };
        let of_block = self.by_block.entry(event.block).or_default();
        *of_block = of_block.saturating_add(leaves);
        if self.by_block.len() > SETTLED_BLOCKS_MAX {
            self.by_block.pop_first();
        }
        if left == 0 {
            return;
        }
        let report = (event.originator, event.index);
        self.partial.entry(report).or_default().push_back(event.block);
        self.order.push_back(report);
        if self.order.len() > SETTLED_BLOCKS_MAX {
            self.forget_oldest_partial();
        }
    }

    fn forget_oldest_partial(&mut self) {
        let Some(report) = self.order.pop_front() else { return };
        if let Some(blocks) = self.partial.get_mut(&report) {
            blocks.pop_front();
            if blocks.is_empty() {
                self.partial.remove(&report);
            }
        }
    }

    /// Returns these leaves beside the settled amounts of the ledger.
    pub(super) fn beside<'a>(&'a self, settled: &'a SettledBlocks) -> LeavesBesideLedger<'a> {
        LeavesBesideLedger { leaves: self, settled, lacking: OnceCell::new() }
    }

    fn of_block(&self, block: u64) -> u64 {
        self.by_block.get(&block).copied().unwrap_or_default()
    }
}

/// The settled leaves beside the settled amounts that the ledger has at one moment.
pub(super) struct LeavesBesideLedger<'a> {
    leaves: &'a SettledLeaves,
    settled: &'a SettledBlocks,
    /// The reports of which the ledger lacks an amount of an earlier settlement. Looked for once: an endpoint may make
    /// up a thousand last settlements of one report, and as many earlier ones as are remembered.
    lacking: OnceCell<HashSet<ReportKey>>,
}

impl LeavesBesideLedger<'_> {
    /// Returns true if the ledger has all settled amounts of the block of a settlement, and of the blocks of the
    /// earlier settlements of its report.
    pub(super) fn are_all_in(&self, event: &PayerReportEvent) -> bool {
        let (leaves, report) =
            (last_leaves(event).unwrap_or_default(), (event.originator, event.index));
        let of_block = self.leaves.of_block(event.block).max(leaves);
        let has_earlier = self.leaves.partial.contains_key(&report);
        let lacks_earlier = has_earlier && self.lacking().contains(&report);
        self.settled.has(event.block, of_block) && !lacks_earlier
    }

    fn lacking(&self) -> &HashSet<ReportKey> {
        self.lacking.get_or_init(|| {
            let lacks = |block: &u64| !self.settled.has(*block, self.leaves.of_block(*block));
            let partial = self.leaves.partial.iter();
            let lacking = partial.filter(|(_, blocks)| blocks.iter().any(lacks));
            lacking.map(|(report, _)| *report).collect()
        })
    }
}

/// Returns the number of leaves with which an event settles the rest of a report; `None` for any other event.
pub(super) fn last_leaves(event: &PayerReportEvent) -> Option<u64> {
    match event.change {
        PayerReportChange::Settled { leaves, left: 0, .. } if leaves > 0 => Some(leaves),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::Address;
    use hawser_proto::price::SettledAmount;
    use hawser_storage::{ChainPosition, LedgerEventId};

    use super::*;
    use crate::ledger::{LedgerAction, LedgerEvent, LedgerMicroDollars};
    use crate::read::testing;
    use crate::runtime::ledger::LedgerAppender;

    fn settlement(block: u64, index: u64, leaves: u64, left: u64) -> PayerReportEvent {
        let change = PayerReportChange::Settled { leaves, left, microdollars: SettledAmount(1) };
        PayerReportEvent { block, log_index: 0, originator: OriginatorId(100), index, change }
    }

    fn amount(block: u8, log_index: u8) -> LedgerEvent {
        let mut id = [log_index; 32];
        id[0] = block;
        LedgerEvent {
            id: LedgerEventId(id),
            block: block.into(),
            payer: Address([7; 20]),
            action: LedgerAction::UsageSettled(LedgerMicroDollars(1)),
        }
    }

    /// An endpoint hides an amount of a report that several transactions settle: the last one does not show it.
    #[test]
    fn a_report_is_not_settled_while_the_ledger_lacks_an_amount_of_an_earlier_settlement() {
        let ledger = LedgerAppender::new(testing::store());
        let mut leaves = SettledLeaves::default();
        let (last, other) = (settlement(5, 0, 1, 0), settlement(5, 1, 1, 0));
        for event in [&settlement(3, 0, 2, 3), &settlement(4, 0, 2, 1), &last, &other] {
            leaves.note(event);
        }
        let book = |events: &[LedgerEvent]| {
            ledger.append(3, events, ChainPosition { block: 5, hash: [9; 32] }).unwrap();
        };
        let mut all = [(3, 0), (3, 1), (4, 0), (4, 1), (5, 0), (5, 1)]
            .map(|(block, log_index)| amount(block, log_index))
            .to_vec();
        let hidden = all.remove(2);
        book(&all);
        assert!(!leaves.beside(&ledger.settled()).are_all_in(&last));
        let is_in = |event| leaves.beside(&ledger.settled()).are_all_in(event);
        assert!(is_in(&other), "another report is not held up");
        all.insert(2, hidden);
        book(&all);
        assert!(is_in(&last));
    }

    /// An endpoint makes up last settlements of a report that has many earlier ones.
    #[test]
    fn the_earlier_settlements_are_compared_once_for_all_events() {
        let ledger = LedgerAppender::new(testing::store());
        ledger.append(3, &[], ChainPosition { block: 5, hash: [9; 32] }).unwrap();
        let mut leaves = SettledLeaves::default();
        // The ledger believes blocks that it read before.
        let [earlier, last] = [settlement(4, 0, 1, 1), settlement(2, 0, 1, 0)];
        [&earlier, &last].into_iter().for_each(|event| leaves.note(event));
        let settled = ledger.settled();
        let compared = leaves.beside(&settled);
        assert!(compared.are_all_in(&settlement(2, 1, 1, 0)), "it has no earlier ones");
        assert_eq!(compared.lacking.get(), None);
        assert!(!compared.are_all_in(&last));
        assert_eq!(compared.lacking.get(), Some(&HashSet::from([(OriginatorId(100), 0)])));
    }

    /// Played by an endpoint that makes up settlements.
    #[test]
    fn no_more_settlements_are_remembered_than_blocks_of_the_ledger() {
        let mut leaves = SettledLeaves::default();
        for block in 0..SETTLED_BLOCKS_MAX as u64 + 10 {
            leaves.note(&settlement(block, block / 4, 1, 1));
        }
        assert_eq!(leaves.by_block.len(), SETTLED_BLOCKS_MAX);
        assert_eq!(leaves.order.len(), SETTLED_BLOCKS_MAX);
        let remembered: usize = leaves.partial.values().map(VecDeque::len).sum();
        assert_eq!(remembered, SETTLED_BLOCKS_MAX);
        assert_eq!(leaves.partial.get(&(OriginatorId(100), 1)), None);
    }
}
