//! The interface through which a gateway writes to the app chain.

use std::time::Duration;

use futures_util::future::BoxFuture;
use hawser_chain::admin::{Wei, WeiPerGas};
use hawser_chain::broadcast::GasPriceReadings;
use hawser_proto::{Bytes, OriginatorId, SequenceId, TransactionHash};

use crate::routing::ChainTopic;

/// Sends transactions to the app chain.
pub trait ChainWriter: Send + Sync + 'static {
    /// Puts a payload on the chain, byte for byte. Payloads of one topic get on the chain in the order in which the
    /// futures are first polled.
    ///
    /// A call with a payload that is under way waits for the same transaction. For some minutes after its end an
    /// equal payload is not sent again, unless it is certainly not on the chain.
    fn publish(
        &self,
        topic: ChainTopic,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<OnChain, ChainPublishError>>;

    /// Looks for a payload that was on the chain in this transaction, and that nodes do not show where it was. Returns
    /// its present place, or `None` if it is not certain that the transaction is on the chain.
    fn find(
        &self,
        topic: ChainTopic,
        payload: Bytes,
        transaction: TransactionHash,
    ) -> BoxFuture<'_, Option<OnChain>>;

    /// Waits for the next payload that is on the chain although no call here waits for it: an earlier process has sent
    /// it, or the calls have ended before. Returns `None` if none follows.
    fn next_resumed(&self) -> BoxFuture<'_, Option<UnawaitedPayload>>;

    /// Checks that the chain's endpoints answer now. The error is a text for operators.
    fn reachable(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Returns the current price of gas, in a token that is worth a dollar and has 18 decimals.
    fn gas_price(&self) -> WeiPerGas;

    /// Returns the sender's figures for metrics.
    fn figures(&self) -> SenderFigures;

    /// Returns a text for operators if a ceiling on the cost of gas stops sending now; otherwise `None`.
    fn ceiling_reached(&self) -> Option<String>;

    /// Returns a text for operators if nothing is sent now because another process may send with the same account;
    /// otherwise `None`.
    fn halted(&self) -> Option<String> {
        None
    }
}

/// The figures of a sender of transactions since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SenderFigures {
    /// The id of the chain.
    pub chain_id: u64,
    /// The gas prices that were read.
    pub gas_prices: GasPriceReadings,
    /// The nonce of the last transaction that was sent; `None` before the first one.
    pub last_nonce: Option<u64>,
    /// The time for which the next transaction to be mined has been waited for; `None` if none is.
    pub next_waits: Option<Duration>,
    /// The account's balance of the chain's native token; `None` before it was read.
    pub balance: Option<Wei>,
}

/// A payload's place on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnChain {
    /// Sequence id among the payloads of its contract.
    pub sequence_id: SequenceId,
    /// Hash of the transaction.
    pub transaction_hash: TransactionHash,
    /// Time of the block, unix seconds.
    pub block_time_s: u64,
}

/// A payload on the chain that no call waits for: an earlier process has sent it, or the calls have ended before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnawaitedPayload {
    /// The strand that it belongs to.
    pub originator: OriginatorId,
    /// The payload, byte for byte.
    pub payload: Bytes,
    /// Its place.
    pub on_chain: OnChain,
}

/// The reason for which a payload was not published through the chain, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainPublishError {
    /// The chain would not accept the payload; nothing was sent.
    #[error("the chain refuses the payload: {0}")]
    Invalid(String),
    /// The payload cannot be sent now; nothing was sent.
    #[error("the payload could not be sent to the chain: {0}")]
    NotSent(String),
    /// This gateway has not sent the payload now, and does not know whether another one with the same key has.
    #[error("the payload could not be sent to the chain: {0}")]
    NotSentHere(String),
    /// The transaction was sent and may still be mined.
    #[error("transaction {hash} was sent: {reason}")]
    Pending {
        /// Hash of the transaction.
        hash: TransactionHash,
        /// State of the transaction, as text.
        reason: String,
    },
    /// The payload may be on the chain, or may still get there, in a transaction that this gateway does not know:
    /// another gateway may be sending it.
    #[error("the outcome of the payload is not known yet: {0}")]
    Open(String),
    /// The transaction was sent and its outcome is unknown: the payload may be on the chain.
    #[error("transaction {hash} was sent: {reason}")]
    Unknown {
        /// Hash of the transaction.
        hash: TransactionHash,
        /// State of the transaction, as text.
        reason: String,
    },
    /// The transaction was mined and has failed.
    #[error("transaction {hash} has failed: {reason}")]
    Failed {
        /// Hash of the transaction.
        hash: TransactionHash,
        /// The reason for the failure.
        reason: String,
    },
    /// The payload is on the chain, and no node shows it yet.
    #[error(
        "transaction {hash} was sent and is on the chain as number {sequence_id}, and no node shows \
         it yet"
    )]
    NotShown {
        /// Hash of the transaction.
        hash: TransactionHash,
        /// Sequence id on the chain.
        sequence_id: SequenceId,
    },
    /// The payload is on the chain, and nodes drop it, because an earlier update there makes it invalid.
    #[error(
        "transaction {hash} was sent and is on the chain as number {sequence_id}, where it is an \
         invalid identity update: {reason}"
    )]
    Dropped {
        /// Hash of the transaction.
        hash: TransactionHash,
        /// Sequence id on the chain.
        sequence_id: SequenceId,
        /// The rule that it breaks.
        reason: String,
    },
    /// The gateway was started without a chain.
    #[error("this gateway has no app chain, so it cannot publish identity updates and commits")]
    NoChain,
}

impl ChainPublishError {
    /// Returns true if a transaction was or may have been sent: the payload may be published, now or later. One that
    /// only another gateway may have sent is in no bill of this one.
    pub(crate) fn may_be_published(&self) -> bool {
        !matches!(self, Self::Invalid(_) | Self::NotSent(_) | Self::NotSentHere(_) | Self::NoChain)
    }
}
