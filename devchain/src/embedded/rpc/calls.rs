//! Calls and gas estimates.

use alloy::eips::BlockId;
use alloy::primitives::U64;
use alloy::rpc::types::TransactionRequest;

use super::args::Args;
use super::blocks::known;
use super::error::RpcError;
use super::{Group, answer};
use crate::embedded::node::{EmbeddedNode, wall_clock};
use crate::embedded::simulate::Simulation;
use crate::embedded::state::{StateDiff, StateOverlay};
use crate::embedded::versioned::VersionedState;

pub(super) const METHODS: Group = &[
    (&["eth_call"], |node, args| {
        answer(&simulation(node, args, args.optional(1)?.unwrap_or_default())?.call()?)
    }),
    (&["eth_estimateGas"], |node, args| {
        let id = args.optional(1)?.unwrap_or(BlockId::pending());
        answer(&U64::from(simulation(node, args, id)?.estimate()?))
    }),
];

/// Prepares the simulation of the arguments: request, block, state overrides, block overrides.
fn simulation<'a>(
    node: &'a EmbeddedNode,
    args: &Args<'_>,
    id: BlockId,
) -> Result<Simulation<VersionedState<'a>>, RpcError> {
    let request: TransactionRequest = args.get(0)?;
    let (overrides, block_overrides) = (args.optional(2)?, args.optional(3)?);
    at(node, id, |state, chain_id, header| {
        Ok(Simulation::new(state, chain_id, header, request, overrides, block_overrides)?)
    })
}

/// Estimates the gas of a request in the next block.
pub(super) fn estimate(node: &EmbeddedNode, request: TransactionRequest) -> Result<u64, RpcError> {
    let simulation = at(node, BlockId::pending(), |state, chain_id, header| {
        Ok(Simulation::new(state, chain_id, header, request, None, None)?)
    })?;
    Ok(simulation.estimate()?)
}

/// Calls `make` with the state, the chain id and the header of a block, without holding a lock.
fn at<'a, T>(
    node: &'a EmbeddedNode,
    id: BlockId,
    make: impl FnOnce(
        StateOverlay<VersionedState<'a>>,
        u64,
        &alloy::consensus::Header,
    ) -> Result<T, RpcError>,
) -> Result<T, RpcError> {
    let core = node.read();
    let header = known(&core, id)?.header.clone();
    let (number, diff) = if id.is_pending() {
        (core.height(), core.pending(wall_clock()).diff.clone())
    } else {
        (header.number, StateDiff::default())
    };
    let version = if id.is_pending() { core.history.version() } else { core.version_at(number) };
    let (branch, chain_id) = (core.branch(), core.chain_id);
    drop(core);
    let state = VersionedState { node, version, number, branch };
    make(StateOverlay::with(state, diff), chain_id, &header)
}
