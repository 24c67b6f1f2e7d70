//! Control of blocks and time, with the method names of other development chains.

use std::time::Duration;

use alloy::primitives::{B256, Bytes, U64};
use alloy::rpc::types::TransactionRequest;
use serde::Deserialize;

use super::args::{Args, RpcNumber};
use super::error::{RpcError, failed, invalid};
use super::{Group, RpcResult, answer, transactions};
use crate::embedded::admission;
use crate::embedded::node::{EmbeddedNode, MiningMode, wall_clock};
use crate::embedded::pooled::PooledTransaction;

/// The largest number of blocks that one request makes or removes. A guess: a request holds the write
/// lock for at most some seconds.
const BLOCKS_MAX: u64 = 10_000;

/// The gas limit of a transaction in a reorganisation whose request has none. A guess: a sixth of a block.
const REORGANISED_GAS: u64 = 10_000_000;

pub(super) const METHODS: Group = &[
    (&["evm_mine"], evm_mine),
    (&["anvil_mine", "hardhat_mine"], mine),
    (&["evm_increaseTime", "anvil_increaseTime"], increase_time),
    (&["evm_setNextBlockTimestamp", "anvil_setNextBlockTimestamp"], set_next_timestamp),
    (&["evm_setTime", "anvil_setTime"], set_time),
    (&["evm_snapshot", "anvil_snapshot"], |node, _| {
        answer(&U64::from(node.change(&mut node.writer(), |core| core.snapshot())))
    }),
    (&["evm_revert", "anvil_revert"], |node, args| {
        let RpcNumber(id) = args.get(0)?;
        answer(&node.revert(&mut node.writer(), id)?)
    }),
    (&["evm_setAutomine", "anvil_setAutomine"], |node, args| {
        let on_demand: bool = args.get(0)?;
        // Without blocks on demand, those at an interval go on.
        let every = node.mining.borrow().every.filter(|_| !on_demand);
        set_mining(node, MiningMode { on_demand, every })
    }),
    (&["evm_setIntervalMining", "anvil_setIntervalMining"], |node, args| {
        let RpcNumber(seconds) = args.get(0)?;
        let every = (seconds > 0).then(|| Duration::from_secs(seconds));
        set_mining(node, MiningMode { on_demand: false, every })
    }),
    (&["anvil_getAutomine", "hardhat_getAutomine"], |node, _| {
        answer(&node.mining.borrow().on_demand)
    }),
    (&["anvil_getIntervalMining"], |node, _| {
        answer(&node.mining.borrow().every.map(|every| every.as_secs()))
    }),
    (&["anvil_reorg"], reorganise),
    (&["anvil_rollback"], rollback),
    (&["anvil_dropTransaction", "hardhat_dropTransaction"], |node, args| {
        let hash: B256 = args.get(0)?;
        let dropped = node.change(&mut node.writer(), |core| core.drop_waiting([hash]));
        answer(&(dropped == 1).then_some(hash))
    }),
    (&["anvil_dropAllTransactions"], |node, _| {
        node.change(&mut node.writer(), |core| {
            let all: Vec<_> = core.pool.all().map(|pooled| pooled.hash()).collect();
            core.drop_waiting(all)
        });
        answer(&())
    }),
    (&["anvil_setNextBlockBaseFeePerGas", "hardhat_setNextBlockBaseFeePerGas"], |node, args| {
        let RpcNumber(base_fee) = args.get(0)?;
        node.change(&mut node.writer(), |core| core.set_next_base_fee(base_fee))
            .map_err(invalid)?;
        answer(&())
    }),
    (&["txpool_status"], pool_status),
];

#[derive(Deserialize)]
#[serde(untagged)]
enum MineOptions {
    Timestamp(RpcNumber),
    Full { timestamp: Option<RpcNumber>, blocks: Option<RpcNumber> },
}

fn evm_mine(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let (timestamp, blocks) = match args.optional(0)? {
        None => (None, None),
        Some(MineOptions::Timestamp(timestamp)) => (Some(timestamp), None),
        Some(MineOptions::Full { timestamp, blocks }) => (timestamp, blocks),
    };
    let blocks = blocks.map_or(1, |RpcNumber(blocks)| blocks);
    mine_blocks(node, blocks, timestamp.map(|RpcNumber(timestamp)| timestamp), None)?;
    answer("0x0")
}

/// Makes a number of blocks with a given number of seconds between them. Zero seconds are no request: the clock of the
/// chain stays as it is.
fn mine(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let blocks = args.optional(0)?.map_or(1, |RpcNumber(blocks)| blocks);
    let apart = args.optional(1)?.map(|RpcNumber(seconds)| seconds).filter(|apart| *apart > 0);
    mine_blocks(node, blocks, None, apart)?;
    answer(&())
}

fn mine_blocks(
    node: &EmbeddedNode,
    blocks: u64,
    mut timestamp: Option<u64>,
    apart: Option<u64>,
) -> Result<(), RpcError> {
    if blocks > BLOCKS_MAX {
        return Err(invalid(format!("more than {BLOCKS_MAX} blocks: ask again for the others")));
    }
    let mut writer = node.writer();
    for _ in 0..blocks {
        node.mine(&mut writer, timestamp)?;
        let latest = node.read().head().header.timestamp;
        timestamp = apart.map(|seconds| latest.saturating_add(seconds));
    }
    Ok(())
}

/// Moves the clock forward, so that the next block is at least the given number of seconds later than the latest one.
fn increase_time(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let RpcNumber(seconds) = args.get(0)?;
    let mut writer = node.writer();
    let steps = node.read().plan_time_increase(wall_clock(), seconds).map_err(failed)?;
    node.commit(&mut writer, steps)?;
    answer(&node.read().clock_offset())
}

/// Sets the clock. Block timestamps still only increase.
fn set_time(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let RpcNumber(time) = args.get(0)?;
    let now = wall_clock();
    let mut writer = node.writer();
    let core = node.read();
    let clock = now.saturating_add_signed(core.clock_offset());
    let shift = i128::from(time) - i128::from(clock);
    let shift = i64::try_from(shift).map_err(invalid)?;
    let steps = core.plan_time_shift(now, shift).map_err(failed)?;
    drop(core);
    node.commit(&mut writer, steps)?;
    answer(&shift)
}

fn set_next_timestamp(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let RpcNumber(timestamp) = args.get(0)?;
    node.change(&mut node.writer(), |core| core.set_next_timestamp(timestamp)).map_err(failed)?;
    answer(&())
}

fn set_mining(node: &EmbeddedNode, mining: MiningMode) -> RpcResult {
    node.mining.send_replace(mining);
    answer(&())
}

/// A transaction for the new blocks of a reorganisation.
#[derive(Deserialize)]
#[serde(untagged)]
enum Included {
    Raw(Bytes),
    Request(Box<TransactionRequest>),
}

#[derive(Deserialize)]
struct Reorganisation {
    depth: RpcNumber,
    #[serde(alias = "txBlockPairs", default)]
    tx_block_pairs: Vec<(Included, RpcNumber)>,
}

/// Replaces the last blocks by others. Parameters by position: depth, then pairs of a transaction (signed, or a request
/// for an impersonated account) and the index of its new block.
fn reorganise(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let asked = match args.get::<Reorganisation>(0) {
        Ok(asked) => asked,
        Err(_) => Reorganisation {
            depth: args.get(0)?,
            tx_block_pairs: args.optional(1)?.unwrap_or_default(),
        },
    };
    let RpcNumber(depth) = asked.depth;
    check_depth(depth)?;
    let chain_id = node.read().chain_id;
    let mut included = Vec::new();
    for (tx, RpcNumber(block)) in asked.tx_block_pairs {
        let pooled = match tx {
            Included::Raw(bytes) => {
                PooledTransaction::new(admission::decode(&bytes, chain_id)?, false)
            }
            Included::Request(mut request) => {
                // An estimate at the current head says little about the gas on the new branch.
                request.gas.get_or_insert(REORGANISED_GAS);
                transactions::completed(node, *request)?
            }
        };
        included.push((pooled, block));
    }
    let mut writer = node.writer();
    let steps = node.read().plan_reorganisation(depth, &included).map_err(failed)?;
    node.commit(&mut writer, steps)?;
    answer(&())
}

fn rollback(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let depth = args.optional(0)?.map_or(1, |RpcNumber(depth)| depth);
    check_depth(depth)?;
    let mut writer = node.writer();
    let steps = node.read().plan_rollback(depth).map_err(failed)?;
    node.commit(&mut writer, steps)?;
    answer(&())
}

fn check_depth(depth: u64) -> Result<(), RpcError> {
    if depth > BLOCKS_MAX {
        return Err(invalid(format!("a depth of more than {BLOCKS_MAX} blocks")));
    }
    Ok(())
}

fn pool_status(node: &EmbeddedNode, _: &Args<'_>) -> RpcResult {
    #[derive(serde::Serialize)]
    struct Status {
        pending: U64,
        queued: U64,
    }
    let core = node.read();
    let pending = core.ready_count();
    let queued = core.pool.len() - pending;
    answer(&Status { pending: U64::from(pending), queued: U64::from(queued) })
}
