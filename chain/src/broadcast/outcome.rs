//! The values that a broadcaster returns to its callers.

use std::time::Instant;

use alloy::primitives::{B256, Bytes};
use hawser_proto::{OriginatorId, SequenceId};

use super::error::BroadcastError;
use crate::admin::WeiPerGas;

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

/// A payload on the chain that no caller waits for here: an earlier process has sent it, or its callers have given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumedPayload {
    /// The strand that it belongs to.
    pub originator: OriginatorId,
    /// The payload, byte for byte.
    pub payload: Bytes,
    /// Its place.
    pub receipt: BroadcastReceipt,
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
    /// The nonce of the transaction that was sent last; `None` before the first one since the start. A transaction that
    /// is sent again counts as the last one, so the nonce may be lower than before.
    pub last_nonce: Option<u64>,
    /// The time since which the lowest nonce in use is the next one to be mined; `None` if none is in use.
    pub lowest_since: Option<Instant>,
}

/// A gas price that the chain has stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GasPriceReading {
    /// The time at which it was read, unix seconds.
    pub unix_s: u64,
    /// The price.
    pub price: WeiPerGas,
}

/// The gas prices that a broadcaster has read since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GasPriceReadings {
    /// The last one; `None` before the first one.
    pub last: Option<GasPriceReading>,
    /// The number of prices that were read.
    pub read: u64,
    /// The number of times that a price was needed and a default was used, because none had been read yet.
    pub defaults: u64,
}

impl GasPriceReadings {
    /// Adds the prices that another broadcaster has read on the same chain.
    pub fn add(&mut self, other: &Self) {
        self.last = self.last.max(other.last);
        self.read += other.read;
        self.defaults += other.defaults;
    }
}
