//! `debug_traceTransaction`: executes a mined transaction again, for clients that ask which
//! calls it made and why it failed.

mod frames;

use alloy::consensus::Transaction as _;
use alloy::primitives::{B256, U64};
use revm::context::result::{EVMError, ExecutionResult};
use serde::Deserialize;

use super::args::Args;
use super::error::{RpcError, failed, invalid, too_much};
use super::{Group, RpcResult, answer};
use crate::embedded::block::Block;
use crate::embedded::evm::{self, SenderKind};
use crate::embedded::node::EmbeddedNode;
use crate::embedded::state::{ReorganisedError, StateOverlay};
use crate::embedded::versioned::VersionedState;
use frames::{CallEnd, CallFrame, CallRecorder};

pub(super) const METHODS: Group = &[(&["debug_traceTransaction"], trace)];

/// The name of the only supported tracer.
const CALL_TRACER: &str = "callTracer";

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Options {
    tracer: Option<String>,
    tracer_config: TracerConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TracerConfig {
    only_top_call: bool,
    with_log: bool,
}

/// Executes a transaction again, after the preceding ones of its block.
fn trace(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let hash: B256 = args.get(0)?;
    let options: Options = args.optional(1)?.unwrap_or_default();
    if options.tracer.as_deref() != Some(CALL_TRACER) {
        return Err(invalid(format!("the only tracer is {CALL_TRACER:?}")));
    }
    if options.tracer_config.with_log {
        return Err(invalid("withLog is not supported: eth_getTransactionReceipt has the logs"));
    }
    let core = node.read();
    let (block, index, _) = core.mined(hash).ok_or_else(|| failed("transaction not found"))?;
    let block = block.clone();
    let number = block.header.number.saturating_sub(1);
    let version = core.version_at(number);
    let (branch, chain_id) = (core.branch(), core.chain_id);
    drop(core);
    let below = VersionedState { node, version, number, branch };
    let mut frame = replay(below, chain_id, &block, index)?;
    if options.tracer_config.only_top_call {
        frame.calls.clear();
    }
    answer(&frame)
}

fn replay(
    below: VersionedState<'_>,
    chain_id: u64,
    block: &Block,
    index: usize,
) -> Result<CallFrame, RpcError> {
    let mut state = StateOverlay::new(below);
    for mined in &block.transactions[..index] {
        let done = evm::execute(
            &state,
            chain_id,
            evm::block_env(&block.header),
            evm::tx_env(&mined.executed.tx),
            SenderKind::Impersonated,
        );
        state.absorb(done.map_err(not_again)?.state).map_err(failed)?;
    }
    let tx = &block.transactions[index].executed.tx;
    let mut recorder = CallRecorder::default();
    let done = evm::inspect(
        &state,
        chain_id,
        evm::block_env(&block.header),
        evm::tx_env(tx),
        SenderKind::Impersonated,
        &mut recorder,
    );
    let result = done.map_err(not_again)?.result;
    if recorder.is_full() {
        return Err(too_much("the calls of this transaction are too large to be shown"));
    }
    let created = match &result {
        ExecutionResult::Success { output, .. } => output.address().copied(),
        _ => None,
    };
    let gas_used = U64::from(result.tx_gas_used());
    Ok(CallFrame {
        kind: if tx.kind().is_create() { "CREATE" } else { "CALL" },
        from: tx.signer(),
        to: tx.to().or(created),
        value: Some(tx.value()),
        gas: U64::from(tx.gas_limit()),
        gas_used,
        input: tx.input().clone(),
        end: match result {
            ExecutionResult::Success { output, .. } => CallEnd::success(output.into_data()),
            ExecutionResult::Revert { output, .. } => CallEnd::revert(output),
            ExecutionResult::Halt { reason, .. } => CallEnd::halt(evm::halt_message(&reason)),
        },
        calls: recorder.outermost.map(|call| call.calls).unwrap_or_default(),
    })
}

fn not_again(error: EVMError<ReorganisedError>) -> RpcError {
    failed(format!("the block cannot be run again: {error}"))
}
