//! Gas prices.

use alloy::consensus::Transaction;
use alloy::eips::eip1898::LenientBlockNumberOrTag;
use alloy::primitives::{U64, U128};
use alloy::rpc::types::FeeHistory;

use super::args::{Args, RpcNumber};
use super::error::{failed, invalid};
use super::{Group, RpcResult, answer};
use crate::embedded::block::Block;
use crate::embedded::node::EmbeddedNode;

/// The recommended priority fee in wei. A guess: it can be nearly zero because blocks are rarely full, but
/// wallets treat zero as an error.
pub(super) const TIP: u64 = 1_000_000;

/// The largest number of blocks in a fee history: go-ethereum's limit.
const HISTORY_BLOCKS_MAX: u64 = 1024;
/// The largest number of reward percentiles in a request: go-ethereum's limit.
const PERCENTILES_MAX: usize = 100;

pub(super) const METHODS: Group = &[
    (&["eth_gasPrice"], |node, _| answer(&U64::from(node.read().next_base_fee() + TIP))),
    (&["eth_maxPriorityFeePerGas"], |_, _| answer(&U64::from(TIP))),
    (&["eth_blobBaseFee"], |_, _| answer(&U128::ONE)),
    (&["eth_feeHistory"], fee_history),
];

fn fee_history(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let RpcNumber(count) = args.get(0)?;
    let percentiles: Vec<f64> = args.optional(2)?.unwrap_or_default();
    if percentiles.len() > PERCENTILES_MAX {
        return Err(invalid(format!("more than {PERCENTILES_MAX} reward percentiles")));
    }
    let ascending = percentiles.is_sorted();
    if !ascending || percentiles.iter().any(|percent| !(0.0..=100.0).contains(percent)) {
        return Err(invalid("invalid reward percentile: they ascend from 0 to 100"));
    }
    let core = node.read();
    let newest =
        core.number(args.get::<LenientBlockNumberOrTag>(1)?.into()).unwrap_or(core.height());
    if newest > core.height() {
        let head = core.height();
        return Err(failed(format!("request beyond head block: requested {newest}, head {head}")));
    }
    let count = count.min(HISTORY_BLOCKS_MAX).min(newest + 1);
    if count == 0 {
        return answer(&FeeHistory { reward: None, ..FeeHistory::default() });
    }
    let oldest_block = newest + 1 - count;
    let blocks: Vec<_> = (oldest_block..=newest).filter_map(|number| core.block(number)).collect();
    let next = match core.block(newest + 1) {
        Some(next) => next.base_fee(),
        None => core.next_base_fee(),
    };
    let base_fees = blocks.iter().map(|block| block.base_fee()).chain([next]);
    let rewards = || blocks.iter().map(|block| rewards(block, &percentiles)).collect();
    answer(&FeeHistory {
        base_fee_per_gas: base_fees.map(u128::from).collect(),
        gas_used_ratio: blocks.iter().map(|block| used(block)).collect(),
        base_fee_per_blob_gas: vec![1; blocks.len() + 1],
        blob_gas_used_ratio: vec![0.0; blocks.len()],
        oldest_block,
        reward: (!percentiles.is_empty()).then(rewards),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a ratio of gas amounts far below 2^53")]
/// Returns the fraction of its gas limit that a block used.
fn used(block: &Block) -> f64 {
    block.header.gas_used as f64 / block.header.gas_limit as f64
}

/// Returns the tip at each percentile of the block's gas, with the transactions ordered by tip.
#[expect(clippy::cast_precision_loss, reason = "gas amounts are far below 2^53")]
fn rewards(block: &Block, percentiles: &[f64]) -> Vec<u128> {
    let tip = |tx: &alloy::consensus::TxEnvelope| {
        tx.effective_tip_per_gas(block.base_fee()).unwrap_or_default()
    };
    let paid = block.transactions.iter().map(|mined| &mined.executed);
    let mut paid: Vec<_> =
        paid.map(|executed| (tip(executed.tx.inner()), executed.gas_used)).collect();
    paid.sort_unstable();
    let reward = |percent: &f64| {
        let wanted = block.header.gas_used as f64 * percent / 100.0;
        let mut sum = 0;
        let reached = paid.iter().find(|(_, gas)| {
            sum += gas;
            sum as f64 >= wanted
        });
        reached.or(paid.last()).map_or(0, |(tip, _)| *tip)
    };
    percentiles.iter().map(reward).collect()
}
