//! Conversions of blocks, transactions, receipts and logs to the types of the RPC.

use alloy::consensus::transaction::{Recovered, TransactionInfo};
use alloy::consensus::{
    Receipt, ReceiptEnvelope, ReceiptWithBloom, Sealed, Transaction as _, TxEnvelope,
};
use alloy::primitives::{B256, U256};
use alloy::rpc::types::{
    Block as RpcBlock, BlockTransactions, Filter, Header, Log, Transaction, TransactionReceipt,
    Withdrawals,
};

use crate::embedded::block::{Block, ExecutedTransaction, MinedTransaction};
use crate::embedded::chain_core::ChainCore;

/// Returns the header of a block.
pub(in crate::embedded) fn header(block: &Block) -> Header {
    let sealed = Sealed::new_unchecked(block.header.clone(), block.hash);
    Header::from_consensus(sealed, None, Some(U256::from(block.size_bytes)))
}

/// Returns a block with its transactions if `full`, else with their hashes.
pub(super) fn block(block: &Block, full: bool) -> RpcBlock {
    let transactions = if full {
        let all = (0..block.transactions.len()).map(|index| transaction(block, index));
        BlockTransactions::Full(all.collect())
    } else {
        BlockTransactions::Hashes(block.transactions.iter().map(MinedTransaction::hash).collect())
    };
    RpcBlock::new(header(block), transactions).with_withdrawals(Some(Withdrawals::default()))
}

/// Returns the transaction at an index. Panics if the block has none there.
pub(super) fn transaction(block: &Block, index: usize) -> Transaction {
    let tx = &block.transactions[index].executed.tx;
    let info = TransactionInfo {
        hash: Some(*tx.inner().tx_hash()),
        index: Some(index as u64),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        base_fee: Some(block.base_fee()),
        block_timestamp: Some(block.header.timestamp),
    };
    Transaction::from_transaction(tx.clone(), info)
}

/// Returns a transaction that no block contains yet.
pub(super) fn waiting(tx: &Recovered<TxEnvelope>) -> Transaction {
    Transaction::from_transaction(tx.clone(), TransactionInfo::default())
}

/// Returns a transaction of a block or of the pool.
pub(in crate::embedded) fn transaction_by_hash(
    core: &ChainCore,
    hash: B256,
) -> Option<Transaction> {
    match core.mined(hash) {
        Some((block, index, _)) => Some(transaction(block, index)),
        None => core.pool.get(hash).map(|pooled| waiting(&pooled.tx)),
    }
}

/// Iterates over the logs of a transaction.
fn logs<'a>(
    block: &'a Block,
    index: usize,
    mined: &'a MinedTransaction,
    removed: bool,
) -> impl Iterator<Item = Log> + 'a {
    let transaction_hash = mined.hash();
    (mined.first_log..).zip(&mined.executed.logs).map(move |(log_index, log)| Log {
        inner: log.clone(),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        block_timestamp: Some(block.header.timestamp),
        transaction_hash: Some(transaction_hash),
        transaction_index: Some(index as u64),
        log_index: Some(log_index),
        removed,
    })
}

/// Iterates over the logs of a block that match the filter's addresses and topics.
pub(super) fn matching_logs<'a>(
    block: &'a Block,
    filter: &'a Filter,
    removed: bool,
) -> impl Iterator<Item = Log> + 'a {
    let mined = block.transactions.iter().enumerate();
    let mined = mined.filter(|(_, mined)| filter.matches_bloom(mined.bloom));
    mined
        .flat_map(move |(index, mined)| logs(block, index, mined, removed))
        .filter(|log| filter.matches_address(log.address()) && filter.matches_topics(log.topics()))
}

/// Returns the receipt of the transaction at an index. Panics if the block has none there.
pub(super) fn receipt(block: &Block, index: usize) -> TransactionReceipt {
    let mined = &block.transactions[index];
    let ExecutedTransaction { tx, success, gas_used, .. } = &mined.executed;
    let receipt = Receipt {
        status: (*success).into(),
        cumulative_gas_used: mined.cumulative_gas_used,
        logs: logs(block, index, mined, false).collect(),
    };
    let receipt = ReceiptWithBloom { receipt, logs_bloom: mined.bloom };
    TransactionReceipt {
        inner: ReceiptEnvelope::from_typed(tx.inner().tx_type(), receipt),
        transaction_hash: *tx.inner().tx_hash(),
        transaction_index: Some(index as u64),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        gas_used: *gas_used,
        effective_gas_price: tx.effective_gas_price(block.header.base_fee_per_gas),
        blob_gas_used: None,
        blob_gas_price: None,
        from: tx.signer(),
        to: tx.to(),
        contract_address: tx.is_create().then(|| tx.signer().create(tx.nonce())),
    }
}

/// Returns all receipts of a block.
pub(super) fn receipts(block: &Block) -> Vec<TransactionReceipt> {
    (0..block.transactions.len()).map(|index| receipt(block, index)).collect()
}
