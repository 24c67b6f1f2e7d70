//! Why a payload is not on the chain, or not known to be.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::{Address, B256};

use crate::contracts::revert::Revert;
use crate::send::{ConnectError, RequestError, ViewError};

/// Why there is no broadcaster.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that cannot be meant.
    #[error("{0}")]
    Setting(String),
    /// No endpoint is the chain that is meant.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// There are no broadcasters at the addresses.
    #[error(transparent)]
    Contract(#[from] ViewError),
    /// The chain has stopped answering.
    #[error(transparent)]
    Rpc(#[from] RequestError),
    /// The record cannot be used.
    #[error("{path}: {source}")]
    Record {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The record belongs to somebody else.
    #[error(
        "{path} is the record of {found}, and this is {expected}: give each account and chain a \
         file of its own"
    )]
    OtherRecord {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The record is of another chain with the same id, or the endpoint lags far behind.
    #[error(
        "{path} tells of nonce {nonce}, and the chain expects {next}: if the chain was begun anew, \
         move the file away"
    )]
    RecordAhead {
        /// Which file.
        path: PathBuf,
        /// The first nonce under way.
        nonce: u64,
        /// The nonce that would be next.
        next: u64,
    },
    /// Another process uses the record.
    #[error("{path} is used by another process: only one may send with a record")]
    RecordInUse {
        /// Which file.
        path: PathBuf,
    },
}

/// Why a payload is not on the chain, or not known to be. Every variant says whether it may still
/// get there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BroadcastError {
    /// Shorter than the contract takes; nothing was sent.
    #[error("a payload of {bytes} bytes is too short: the contract takes {min} bytes and more")]
    TooShort {
        /// Its length.
        bytes: usize,
        /// The least.
        min: usize,
    },
    /// Longer than is sent; nothing was sent.
    #[error("a payload of {bytes} bytes is too long: {max} bytes are the most")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The most.
        max: usize,
    },
    /// The contract takes nothing at the moment; nothing was sent.
    #[error("the contract is paused (Paused()): try again when it is not")]
    Paused,
    /// The contract refuses for another reason; nothing was sent.
    #[error("the contract refuses: {0}")]
    WouldRevert(Revert),
    /// The account cannot pay; nothing was sent.
    #[error("{account} cannot pay for the transaction on chain {chain_id}: {said}")]
    NoFunds {
        /// Who should pay.
        account: Address,
        /// On which chain.
        chain_id: u64,
        /// What the chain said.
        said: String,
    },
    /// The chain takes no such transaction; nothing was sent.
    #[error("the chain refuses the transaction: {said}")]
    Refused {
        /// What it said.
        said: String,
    },
    /// More waits than can be sent soon; nothing was sent.
    #[error("{waiting} payloads wait to be sent: try again later")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The chain does not answer; nothing was sent.
    #[error(transparent)]
    Rpc(#[from] RequestError),
    /// The key does not sign; nothing was sent.
    #[error("the key of {account} does not sign: {reason}")]
    Key {
        /// Whose key.
        account: Address,
        /// What it said.
        reason: String,
    },
    /// The record cannot be written; nothing was sent.
    #[error("{path}: {reason}; nothing is sent that cannot be recorded")]
    Record {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It was mined and has failed. It is not on the chain and will not be.
    #[error("transaction {hash} was reverted: {reason}")]
    Reverted {
        /// Which transaction.
        hash: B256,
        /// What a repetition of the call says.
        reason: String,
    },
    /// It was mined, and the contract has not said what it says of every payload: it is another
    /// contract.
    #[error("transaction {hash} has succeeded without the event of {contract}")]
    NoEvent {
        /// Which transaction.
        hash: B256,
        /// Which contract.
        contract: Address,
    },
    /// Its turn has not come in time; nothing was sent.
    #[error("it could not be sent within {} s: try again later", waited.as_secs())]
    NotSent {
        /// How long it was waited for.
        waited: Duration,
    },
    /// It was not mined in time. It still may be: the same payload again waits for the same
    /// transaction.
    #[error("transaction {hash} was not mined within {} s, and still may be", waited.as_secs())]
    NotMined {
        /// The transaction, as it was sent last.
        hash: B256,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Its nonce is used, and no endpoint says by whom: it may be on the chain. Nothing more is
    /// done about it.
    #[error("what became of transaction {hash} cannot be found out: it may have been mined")]
    Unknown {
        /// The transaction, as it was sent last.
        hash: B256,
    },
    /// The broadcaster has ended. What was sent may be mined; a broadcaster with the same record
    /// follows it up.
    #[error("the broadcaster has ended")]
    Ended,
}
