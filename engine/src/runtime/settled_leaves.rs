//! The leaves of payer reports that the contract has settled, by block.

use std::collections::BTreeMap;

use hawser_storage::{PayerReportChange, PayerReportEvent};

use super::ledger::SETTLED_BLOCKS_MAX;

/// The number of leaves that the contract has settled in each block, of all reports together: the ledger has as many
/// settled amounts there, unless an endpoint hides some. Those of the newest blocks, as many as the ledger counts.
#[derive(Debug, Default)]
pub(super) struct SettledLeaves(BTreeMap<u64, u64>);

impl SettledLeaves {
    /// Adds the leaves of an event, if it is a settlement. An endpoint may state any number.
    pub(super) fn note(&mut self, event: &PayerReportEvent) {
        let PayerReportChange::Settled { leaves, .. } = event.change else { return };
        let of_block = self.0.entry(event.block).or_default();
        *of_block = of_block.saturating_add(leaves);
        if self.0.len() > SETTLED_BLOCKS_MAX {
            self.0.pop_first();
        }
    }

    /// Returns the number of leaves that were settled in a block, as far as it is counted.
    pub(super) fn of_block(&self, block: u64) -> u64 {
        self.0.get(&block).copied().unwrap_or_default()
    }
}

/// Returns the number of leaves with which an event settles the rest of a report; `None` for any other event.
pub(super) fn last_leaves(event: &PayerReportEvent) -> Option<u64> {
    match event.change {
        PayerReportChange::Settled { leaves, left: 0, .. } if leaves > 0 => Some(leaves),
        _ => None,
    }
}
