//! Methods about the chain and its blocks.

use std::sync::Arc;

use alloy::eips::eip1898::LenientBlockNumberOrTag;
use alloy::eips::{BlockId, RpcBlockHash};
use alloy::primitives::{B256, Bytes, U64, keccak256};
use alloy::rpc::types::Index;

use super::args::Args;
use super::error::{RpcError, failed};
use super::{Group, RpcResult, answer, present};
use crate::embedded::block::Block;
use crate::embedded::chain_core::ChainCore;
use crate::embedded::node::{EmbeddedNode, wall_clock};

pub(super) const METHODS: Group = &[
    (&["web3_clientVersion"], client_version),
    (&["web3_sha3"], |_, args| answer(&keccak256(args.get::<Bytes>(0)?))),
    (&["net_version"], |node, _| answer(&node.read().chain_id.to_string())),
    (&["net_listening"], |_, _| answer(&true)),
    (&["net_peerCount"], |_, _| answer(&U64::ZERO)),
    (&["eth_chainId"], |node, _| answer(&U64::from(node.read().chain_id))),
    (&["eth_syncing"], |_, _| answer(&false)),
    (&["eth_blockNumber"], |node, _| answer(&U64::from(node.read().height()))),
    (&["eth_getBlockByNumber"], |node, args| block(node, args, number(args)?)),
    (&["eth_getBlockByHash"], |node, args| block(node, args, hash(args)?)),
    (&["eth_getBlockReceipts"], receipts),
    (&["eth_getBlockTransactionCountByNumber"], |node, args| count(node, number(args)?)),
    (&["eth_getBlockTransactionCountByHash"], |node, args| count(node, hash(args)?)),
    (&["eth_getTransactionByBlockNumberAndIndex"], |node, args| {
        transaction_at(node, args, number(args)?)
    }),
    (&["eth_getTransactionByBlockHashAndIndex"], |node, args| {
        transaction_at(node, args, hash(args)?)
    }),
    (&["eth_getUncleCountByBlockNumber"], |node, args| no_uncles(node, number(args)?)),
    (&["eth_getUncleCountByBlockHash"], |node, args| no_uncles(node, hash(args)?)),
    (&["eth_getUncleByBlockNumberAndIndex", "eth_getUncleByBlockHashAndIndex"], |_, _| answer(&())),
];

fn client_version(_: &EmbeddedNode, _: &Args<'_>) -> RpcResult {
    answer(concat!("hawser-chain/v", env!("CARGO_PKG_VERSION"), "/development"))
}

type Wanted = Result<BlockId, RpcError>;

/// Returns the block of a number or tag. As on other development chains, the number may be a JSON number.
fn number(args: &Args<'_>) -> Wanted {
    Ok(args.get::<LenientBlockNumberOrTag>(0)?.into())
}

fn hash(args: &Args<'_>) -> Wanted {
    Ok(BlockId::Hash(RpcBlockHash::from_hash(args.get::<B256>(0)?, None)))
}

/// Returns the block with this id, which may be the pending one.
fn find(core: &ChainCore, id: BlockId) -> Option<Arc<Block>> {
    if id.is_pending() {
        return Some(core.pending(wall_clock()).block.clone());
    }
    core.find(id).cloned()
}

fn block(node: &EmbeddedNode, args: &Args<'_>, id: BlockId) -> RpcResult {
    let full = args.optional(1)?.unwrap_or(false);
    let core = node.read();
    answer(&find(&core, id).map(|block| present::block(&block, full)))
}

fn receipts(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let core = node.read();
    answer(&core.find(args.get(0)?).map(|block| present::receipts(block)))
}

fn count(node: &EmbeddedNode, id: BlockId) -> RpcResult {
    let core = node.read();
    answer(&find(&core, id).map(|block| U64::from(block.transactions.len())))
}

fn transaction_at(node: &EmbeddedNode, args: &Args<'_>, id: BlockId) -> RpcResult {
    let Index(index) = args.get(1)?;
    let core = node.read();
    let found = find(&core, id).filter(|block| index < block.transactions.len());
    answer(&found.map(|block| present::transaction(&block, index)))
}

fn no_uncles(node: &EmbeddedNode, id: BlockId) -> RpcResult {
    answer(&find(&node.read(), id).map(|_| U64::ZERO))
}

/// Returns the block with this id, or go-ethereum's error for an unknown one.
pub(super) fn known(core: &ChainCore, id: BlockId) -> Result<Arc<Block>, RpcError> {
    find(core, id).ok_or_else(|| failed("header not found"))
}
