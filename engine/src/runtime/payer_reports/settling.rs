//! Settling reports that are on the chain.

use std::sync::Arc;

use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::payer_report::tree::Hash;
use hawser_rules::payer_report::{ContractReport, Leaves, PayerReport, ReportId};

use super::{GasUsed, PayerReporterState, ReportStepError, blocking};
use crate::payer_reports::{ChainReport, Recomputed, UndecidedError, recompute_on_chain};

/// The gas of a settlement, at most, as far as the node knows it before. Chosen: the 16,777,216 of a transaction
/// (EIP-7825) with a quarter to spare.
const GAS_AT_ONCE: u64 = 12_000_000;
/// Leaves that are settled by one transaction while the gas of a leaf is not known. Calculated: a leaf of a new payer
/// takes 30,000 (`contracts/README.md`, *Gas*).
const LEAVES_AT_ONCE: usize = 400;
/// The largest number of leaves that are settled by one transaction. Calculated: each has 128 bytes in the call, and
/// sequencers of rollups take transactions of up to 95,000 bytes.
const LEAVES_AT_ONCE_MAX: usize = 700;
/// Times that the leaves of a transaction are halved when the contract does not take them. A guess: blocks of
/// development chains have room for a quarter.
const HALVINGS_MAX: u32 = 2;

/// The part of some reports that a step has settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SettledPart {
    /// Leaves that were settled.
    pub leaves: usize,
    /// Transactions that settled them.
    pub transactions: usize,
    /// True if the step ended because it had no further transaction.
    pub is_left: bool,
}

impl SettledPart {
    /// Adds the part of another report.
    pub(super) fn add(&mut self, other: Self) {
        self.leaves += other.leaves;
        self.transactions += other.transactions;
        self.is_left |= other.is_left;
    }
}

/// The number of leaves that the next transaction settles.
#[derive(Debug)]
struct SettlementSize {
    leaves: usize,
    halvings: u32,
    /// True until the contract has refused a number of leaves.
    may_grow: bool,
}

impl SettlementSize {
    fn new() -> Self {
        Self { leaves: LEAVES_AT_ONCE, halvings: 0, may_grow: true }
    }

    /// Takes note of a transaction that has settled this number of leaves. A leaf of a payer with a balance takes less
    /// than half the gas of a new one, so that more of them fit.
    fn note_settled(&mut self, leaves: usize, gas: GasUsed) {
        let fitting = GAS_AT_ONCE.saturating_mul(leaves as u64) / gas.0.max(1);
        let fitting = usize::try_from(fitting).unwrap_or(usize::MAX).min(LEAVES_AT_ONCE_MAX);
        if self.may_grow {
            self.leaves = self.leaves.max(fitting);
        }
    }

    /// Takes note that the contract does not take this number of leaves. Returns false if no smaller one is tried.
    fn note_refused(&mut self, leaves: usize) -> bool {
        self.may_grow = false;
        if leaves > LEAVES_AT_ONCE {
            self.leaves = LEAVES_AT_ONCE;
            return true;
        }
        let may_halve = leaves > 1 && self.halvings < HALVINGS_MAX;
        if may_halve {
            (self.leaves, self.halvings) = (leaves / 2, self.halvings + 1);
        }
        may_halve
    }
}

impl PayerReporterState {
    /// Returns the reports on the chain about an originator that have a leaf left, and forgets the leaves of those that
    /// need none any more.
    pub(super) fn unsettled(
        &self,
        about: OriginatorId,
    ) -> Result<Vec<ChainReport>, ReportStepError> {
        let chain = self.chain()?;
        let is_open = |report: &&ChainReport| !report.is_settled;
        let unsettled: Vec<_> = chain.about(about).filter(is_open).cloned().collect();
        let id = |on_chain: &ChainReport| Some(on_chain.report()?.id(self.domain));
        let ids = unsettled.iter().filter_map(id).collect();
        let last_end = chain.last_end(about).map_or(SequenceId::NONE, |end| end.sequence);
        self.known_leaves.lock().forget_settled(about, last_end, &ids);
        Ok(unsettled)
    }

    /// Settles the remaining leaves of a report on the chain, with at most this number of transactions.
    pub(super) async fn settle_one(
        self: &Arc<Self>,
        on_chain: &ChainReport,
        transactions_max: usize,
    ) -> Result<SettledPart, ReportStepError> {
        let (originator, index) = (on_chain.originator, on_chain.index);
        let (leaves, first) = self.left_to_settle(on_chain).await?;
        // Reports may have any number of payers, and each costs two hashes.
        let of_tree = leaves.clone();
        let tree = blocking(move || of_tree.tree()).await;
        let payers = leaves.payers();
        let (mut place, mut size, mut transactions) = (first, SettlementSize::new(), 0);
        while place < payers.len() && transactions < transactions_max {
            let end = payers.len().min(place + size.leaves);
            let proof = tree.proof(place..end);
            let encoded: Vec<_> = payers[place..end].iter().map(|leaf| leaf.leaf()).collect();
            match self.contract.settle(originator, index, &encoded, &proof).await {
                Ok(gas) => {
                    self.totals.note_settled(&payers[place..end]);
                    size.note_settled(end - place, gas);
                    (place, transactions) = (end, transactions + 1);
                }
                // A block of this chain may have too little room.
                Err(error) if error.may_be_too_large && size.note_refused(end - place) => {
                    tracing::debug!(leaves = end - place, %error, "fewer leaves are settled at once");
                }
                Err(error) => return Err(error.into()),
            }
        }
        if place > first {
            tracing::info!(originator_id = %originator, index, leaves = place - first, "settled a payer report");
        }
        let is_left = place < payers.len();
        Ok(SettledPart { leaves: place - first, transactions, is_left })
    }

    /// Returns all leaves of a report on the chain, and the number of those that the contract has settled. There are
    /// none if it has settled the report.
    ///
    /// # Errors
    /// [`ReportStepError`] if the leaves are not known, or the contract's record contradicts them.
    pub(super) async fn left_to_settle(
        self: &Arc<Self>,
        on_chain: &ChainReport,
    ) -> Result<(Arc<Leaves>, usize), ReportStepError> {
        let (originator, index) = (on_chain.originator, on_chain.index);
        let other_amounts = ReportStepError::OtherAmounts { originator, index };
        let Some(report) = on_chain.report() else { return Err(other_amounts) };
        // With a wrong index another report would be settled, by amounts that are not its own.
        let known = ContractReport {
            start: report.start(),
            end: report.end().sequence,
            root: report.root(),
            offset: on_chain.leaves_settled,
            is_settled: on_chain.is_settled,
        };
        let held = self.contract.held(originator, index, known).await?;
        if (held.start, held.end, held.root) != (known.start, known.end, known.root) {
            return Err(ReportStepError::OtherReport { originator, index });
        }
        if held.is_settled {
            // Its amounts are kept until the chain's events say the same: an endpoint may lie.
            return Ok((Arc::default(), 0));
        }
        let leaves = match self.kept_leaves(report.id(self.domain), report.root()).await {
            Some(leaves) => leaves,
            None => self.computed_leaves(report).await?.ok_or(other_amounts)?,
        };
        let (settled, count) = (held.offset, leaves.payers().len());
        // The contract settles a report with its last leaf.
        match usize::try_from(settled) {
            Ok(first) if first < count => Ok((leaves, first)),
            _ => Err(ReportStepError::BeyondLeaves { originator, index, settled, leaves: count }),
        }
    }

    /// Returns the leaves of a report that were kept; `None` if there are none, or if they do not have its root. A data
    /// folder may be damaged, or changed, and the contract takes leaves of the root only.
    async fn kept_leaves(&self, id: ReportId, root: Hash) -> Option<Arc<Leaves>> {
        let leaves = self.known_leaves.lock().of(id)?;
        let kept = leaves.clone();
        if blocking(move || kept.root() == root).await {
            return Some(leaves);
        }
        tracing::error!(code = "report_amounts_unreadable", report_id = %id, "the stored amounts of an attested payer \
            report are not those that it states: they are computed again from the log");
        self.known_leaves.lock().forget(id);
        None
    }

    /// Computes the leaves of a report on the chain from the log; `None` if the report has other leaves.
    async fn computed_leaves(
        self: &Arc<Self>,
        report: PayerReport,
    ) -> Result<Option<Arc<Leaves>>, ReportStepError> {
        let (state, id) = (self.clone(), report.id(self.domain));
        let compute = move || {
            let may_search =
                |missing: Option<&UndecidedError>| state.searched.lock().begin_search(id, missing);
            let snapshot = state.engine.store().snapshot();
            let compute = || recompute_on_chain(&snapshot, &report, may_search);
            let computed = state.computations.compute(compute)?;
            let leaves = match computed {
                Recomputed::Equal(leaves) => Arc::new(leaves),
                Recomputed::Different(_) => return Ok(None),
                Recomputed::NotYet(why) => return Err(ReportStepError::from(why)),
            };
            state.searched.lock().forget(id);
            let mut known = state.known_leaves.lock();
            known.keep(id, &report, leaves.clone());
            // A full disk keeps no report from being settled.
            if let Err(error) = known.save(state.engine.store(), state.hour()) {
                tracing::debug!(report_id = %id, %error, "the amounts are in memory only");
            }
            Ok(Some(leaves))
        };
        blocking(compute).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settles the leaves of payers by a contract whose transactions take so much gas at most. Returns the
    /// transactions, and those that it refused before.
    fn settle(gas_max: u64, gas_of_leaves: &[u64]) -> (usize, usize) {
        let (mut place, mut size, mut counts) = (0, SettlementSize::new(), (0, 0));
        while place < gas_of_leaves.len() {
            let end = gas_of_leaves.len().min(place + size.leaves);
            let gas: u64 = gas_of_leaves[place..end].iter().sum();
            if gas > gas_max {
                counts.1 += 1;
                assert!(size.note_refused(end - place), "{place}..{end}");
            } else {
                counts.0 += 1;
                size.note_settled(end - place, GasUsed(gas));
                place = end;
            }
        }
        counts
    }

    #[test]
    fn as_many_leaves_are_settled_at_once_as_the_gas_of_a_transaction_permits() {
        const NEW: u64 = 30_000;
        const KNOWN: u64 = 12_800;
        let gas_max = 16_777_216;
        assert_eq!(settle(gas_max, &vec![NEW; 10_000]), (25, 0));
        let known = vec![KNOWN; 10_000];
        assert_eq!(settle(gas_max, &known), (15, 0), "the length of the call is a bound");
        let mixed = [vec![KNOWN; 400], vec![NEW; 9_600]].concat();
        assert_eq!(settle(gas_max, &mixed), (25, 1), "as if it had never tried more");
        assert_eq!(settle(100 * NEW, &vec![NEW; 1_000]), (10, 2), "a block has room for a quarter");
    }

    #[test]
    fn a_contract_that_takes_not_even_a_quarter_is_not_asked_again() {
        let mut size = SettlementSize::new();
        assert!(size.note_refused(400) && size.note_refused(200) && !size.note_refused(100));
        assert!(!SettlementSize::new().note_refused(1));
        // An endpoint may state any gas.
        for (gas, leaves) in [(0, LEAVES_AT_ONCE_MAX), (u64::MAX, LEAVES_AT_ONCE)] {
            let mut size = SettlementSize::new();
            size.note_settled(usize::MAX, GasUsed(gas));
            assert_eq!(size.leaves, leaves, "{gas}");
        }
    }
}
