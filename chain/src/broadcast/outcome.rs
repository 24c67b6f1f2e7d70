//! The values that a broadcaster returns to its callers.

use alloy::primitives::B256;
use hawser_proto::SequenceId;

use super::error::BroadcastError;

/// The result of broadcasting one payload.
pub(super) type BroadcastResult = Result<BroadcastReceipt, BroadcastError>;

/// The position of a payload on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BroadcastReceipt {
    /// The sequence id that the contract assigned.
    pub sequence_id: SequenceId,
    /// The hash of the transaction.
    pub transaction_hash: B256,
    /// The number of the block.
    pub block_number: u64,
    /// The timestamp of the block, unix seconds.
    pub block_time_s: u64,
}

/// The payload lengths that both contracts accept, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadBounds {
    /// The shortest accepted payload.
    pub min: usize,
    /// The longest accepted payload.
    pub max: usize,
}

/// The load of a broadcaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BroadcastStatus {
    /// Nonces in use.
    pub in_flight: usize,
    /// Payloads that have no nonce yet.
    pub waiting: usize,
}
