//! Blocks as the chain stores them: the header, and each transaction with its result.

use alloy::consensus::constants::{EMPTY_OMMER_ROOT_HASH, EMPTY_WITHDRAWALS};
use alloy::consensus::proofs::ordered_trie_root_with_encoder;
use alloy::consensus::transaction::Recovered;
use alloy::consensus::{Header, Receipt, ReceiptEnvelope, ReceiptWithBloom, TxEnvelope};
use alloy::eips::eip1559::{BaseFeeParams, calc_next_block_base_fee};
use alloy::eips::eip2718::Encodable2718;
use alloy::eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy::primitives::{Address, B256, Bloom, Bytes, Log, logs_bloom};
use alloy::rlp::Encodable;

/// The gas limit of a block. It holds five transactions with the largest payload of a broadcaster: 256 KiB take 10.5
/// million gas at the floor price of EIP-7623.
pub(super) const GAS_LIMIT: u64 = 60_000_000;

/// The initial and lowest base fee: 0.1 gwei in wei, as on the rollups of the deployed contracts. By EIP-1559 it rises
/// after blocks that are more than half full.
pub(super) const BASE_FEE_MIN: u64 = 100_000_000;

/// The highest base fee in wei. A guess: a million gwei, low enough that no sum of prices overflows.
pub(super) const BASE_FEE_MAX: u64 = 1_000_000_000_000_000;

/// A transaction with its result.
#[derive(Debug, Clone)]
pub(super) struct ExecutedTransaction {
    pub(super) tx: Recovered<TxEnvelope>,
    pub(super) success: bool,
    pub(super) gas_used: u64,
    pub(super) logs: Vec<Log>,
}

/// An executed transaction with its position in a block.
#[derive(Debug)]
pub(super) struct MinedTransaction {
    pub(super) executed: ExecutedTransaction,
    /// The gas used by the block's transactions up to and including this one.
    pub(super) cumulative_gas_used: u64,
    /// The index of its first log among all logs of the block.
    pub(super) first_log: u64,
    pub(super) bloom: Bloom,
}

impl MinedTransaction {
    pub(super) fn hash(&self) -> B256 {
        *self.executed.tx.inner().tx_hash()
    }

    fn receipt(&self) -> ReceiptEnvelope {
        let ExecutedTransaction { tx, success, logs, .. } = &self.executed;
        let receipt = Receipt {
            status: (*success).into(),
            cumulative_gas_used: self.cumulative_gas_used,
            logs: logs.clone(),
        };
        let receipt = ReceiptWithBloom { receipt, logs_bloom: self.bloom };
        ReceiptEnvelope::from_typed(tx.inner().tx_type(), receipt)
    }
}

/// A sealed block.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) header: Header,
    pub(super) hash: B256,
    pub(super) transactions: Vec<MinedTransaction>,
    /// The length of the block's RLP in bytes.
    pub(super) size_bytes: u64,
}

/// The header fields that do not depend on the transactions.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeaderFields {
    pub(super) parent_hash: B256,
    pub(super) number: u64,
    pub(super) timestamp: u64,
    pub(super) base_fee: u64,
    /// A random value that differs after each rollback, so that the same block is never made twice.
    pub(super) prevrandao: B256,
}

impl HeaderFields {
    /// Returns a header with these fields and without transactions.
    pub(super) fn header(&self) -> Header {
        Header {
            parent_hash: self.parent_hash,
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            beneficiary: Address::ZERO,
            number: self.number,
            gas_limit: GAS_LIMIT,
            timestamp: self.timestamp,
            extra_data: Bytes::from_static(b"development chain"),
            mix_hash: self.prevrandao,
            base_fee_per_gas: Some(self.base_fee),
            withdrawals_root: Some(EMPTY_WITHDRAWALS),
            blob_gas_used: Some(0),
            excess_blob_gas: Some(0),
            parent_beacon_block_root: Some(B256::ZERO),
            requests_hash: Some(EMPTY_REQUESTS_HASH),
            ..Header::default()
        }
    }
}

impl Block {
    /// Seals a block: computes every header field that depends on the transactions.
    pub(super) fn seal(
        mut header: Header,
        state_root: B256,
        executed: Vec<ExecutedTransaction>,
    ) -> Self {
        let mined = place(executed);
        header.state_root = state_root;
        header.gas_used = mined.last().map_or(0, |last| last.cumulative_gas_used);
        header.logs_bloom = mined.iter().fold(Bloom::ZERO, |all, mined| all | mined.bloom);
        header.transactions_root = ordered_trie_root_with_encoder(&mined, |mined, out| {
            mined.executed.tx.inner().encode_2718(out);
        });
        header.receipts_root =
            ordered_trie_root_with_encoder(&mined, |mined, out| mined.receipt().encode_2718(out));
        Self::of_parts(header, mined)
    }

    /// Restores a block that was sealed before.
    pub(super) fn reopen(header: Header, executed: Vec<ExecutedTransaction>) -> Self {
        Self::of_parts(header, place(executed))
    }

    fn of_parts(header: Header, transactions: Vec<MinedTransaction>) -> Self {
        let hash = header.hash_slow();
        let list = |payload_length| {
            alloy::rlp::Header { list: true, payload_length }.length() + payload_length
        };
        let body = transactions.iter().map(|mined| mined.executed.tx.inner().length()).sum();
        // There are no uncles and no withdrawals; each is encoded as an empty list.
        let size_bytes = list(header.length() + list(body) + 2) as u64;
        Self { header, hash, transactions, size_bytes }
    }

    pub(super) fn base_fee(&self) -> u64 {
        self.header.base_fee_per_gas.unwrap_or_default()
    }

    /// Returns the base fee of the next block by EIP-1559, in wei.
    pub(super) fn next_base_fee(&self) -> u64 {
        let Header { gas_used, gas_limit, .. } = self.header;
        let params = BaseFeeParams::ethereum();
        let next = calc_next_block_base_fee(gas_used, gas_limit, self.base_fee(), params);
        next.clamp(BASE_FEE_MIN, BASE_FEE_MAX)
    }
}

fn place(executed: Vec<ExecutedTransaction>) -> Vec<MinedTransaction> {
    let (mut cumulative_gas_used, mut logs_before) = (0, 0);
    let mut place = |executed: ExecutedTransaction| {
        cumulative_gas_used += executed.gas_used;
        let first_log = logs_before;
        logs_before += executed.logs.len() as u64;
        let bloom = logs_bloom(&executed.logs);
        MinedTransaction { executed, cumulative_gas_used, first_log, bloom }
    };
    executed.into_iter().map(&mut place).collect()
}
