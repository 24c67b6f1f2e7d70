//! `debug_traceTransaction`: runs a mined transaction again, for clients that ask why it failed.

use alloy::consensus::Transaction as _;
use alloy::primitives::{Address, B256, Bytes, U64, U256};
use alloy::sol_types::{Revert, SolError as _};
use revm::context::result::{EVMError, ExecutionResult};
use serde::{Deserialize, Serialize};

use super::args::Args;
use super::error::{RpcError, failed, invalid};
use super::{Group, RpcResult, answer};
use crate::embedded::block::Block;
use crate::embedded::evm::{self, SenderKind};
use crate::embedded::node::EmbeddedNode;
use crate::embedded::state::{ReorganisedError, StateOverlay};
use crate::embedded::versioned::VersionedState;

pub(super) const METHODS: Group = &[(&["debug_traceTransaction"], trace)];

/// The only tracer.
const CALL_TRACER: &str = "callTracer";

#[derive(Debug, Default, Deserialize)]
struct Options {
    tracer: Option<String>,
}

/// The outermost call, as go-ethereum's `callTracer` prints it. Inner calls are not included.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CallFrame {
    #[serde(rename = "type")]
    kind: &'static str,
    from: Address,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Address>,
    gas: U64,
    gas_used: U64,
    value: U256,
    input: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revert_reason: Option<String>,
}

/// Runs a transaction again, after those before it in its block.
fn trace(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let hash: B256 = args.get(0)?;
    let options: Options = args.optional(1)?.unwrap_or_default();
    if options.tracer.as_deref() != Some(CALL_TRACER) {
        return Err(invalid(format!("the only tracer is {CALL_TRACER:?}")));
    }
    let core = node.read();
    let (block, index, _) = core.mined(hash).ok_or_else(|| failed("transaction not found"))?;
    let block = block.clone();
    let number = block.header.number.saturating_sub(1);
    let version = core.version_at(number);
    let (branch, chain_id) = (core.branch(), core.chain_id);
    drop(core);
    let below = VersionedState { node, version, number, branch };
    answer(&replay(below, chain_id, &block, index)?)
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
    let done = evm::execute(
        &state,
        chain_id,
        evm::block_env(&block.header),
        evm::tx_env(tx),
        SenderKind::Impersonated,
    );
    let result = done.map_err(not_again)?.result;
    let (output, error) = match &result {
        ExecutionResult::Success { output, .. } => (Some(output.data().clone()), None),
        ExecutionResult::Revert { output, .. } => {
            (Some(output.clone()), Some("execution reverted".to_owned()))
        }
        ExecutionResult::Halt { reason, .. } => (None, Some(evm::halt_message(reason))),
    };
    let created = match &result {
        ExecutionResult::Success { output, .. } => output.address().copied(),
        _ => None,
    };
    let reverted = error.is_some().then_some(output.as_ref()).flatten();
    let revert_reason = reverted.and_then(|data| Revert::abi_decode(data).ok());
    Ok(CallFrame {
        kind: if tx.kind().is_create() { "CREATE" } else { "CALL" },
        from: tx.signer(),
        to: tx.to().or(created),
        gas: U64::from(tx.gas_limit()),
        gas_used: U64::from(result.tx_gas_used()),
        value: tx.value(),
        input: tx.input().clone(),
        output: output.filter(|output| !output.is_empty()),
        error,
        revert_reason: revert_reason.map(|revert| revert.reason),
    })
}

fn not_again(error: EVMError<ReorganisedError>) -> RpcError {
    failed(format!("the block cannot be run again: {error}"))
}
