//! Errors of a broadcaster.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::{Address, B256};

use crate::contracts::revert::Revert;
use crate::redis_link::RedisLinkError;
use crate::send::{ConnectError, RequestError, ViewError};
use crate::spending::CeilingError;

/// Error of starting a broadcaster.
#[derive(Debug, thiserror::Error)]
pub enum BroadcastStartError {
    /// A setting is out of range.
    #[error("{0}")]
    Setting(String),
    /// No endpoint serves the chain.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A broadcaster contract could not be read.
    #[error(transparent)]
    Contract(#[from] ViewError),
    /// The chain has stopped answering.
    #[error(transparent)]
    Rpc(#[from] RequestError),
    /// The record cannot be used.
    #[error("{path}: {source}")]
    Record {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The record belongs to another account or another chain id.
    #[error(
        "{path} is {found}; that of this account and chain begins with {expected:?}: give each account and chain a \
         file of its own"
    )]
    OtherRecord {
        /// The file.
        path: PathBuf,
        /// The kind of the file, with its first line if it is a record.
        found: String,
        /// The first line that a record of this account and chain has.
        expected: String,
    },
    /// The record belongs to another chain with the same id, or the endpoint lags far behind.
    #[error(
        "{path} begins with nonce {nonce}, and the chain expects {next}: if the chain was started anew, \
         move the file away"
    )]
    RecordAhead {
        /// The file.
        path: PathBuf,
        /// The lowest nonce on record.
        nonce: u64,
        /// The next nonce of the account on the chain.
        next: u64,
    },
    /// Redis, which holds the shared nonces, does not answer.
    #[error("the Redis that shares nonces cannot be used: {0}")]
    Redis(#[from] RedisLinkError),
    /// Another process uses the record.
    #[error("{path} is in use by another process: stop it first, only one may send with a record")]
    RecordInUse {
        /// The file.
        path: PathBuf,
    },
}

/// Error of broadcasting a payload. Each variant states whether the payload may still be mined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BroadcastError {
    /// The payload is shorter than the contract accepts; nothing was sent.
    #[error("a payload of {bytes} bytes is too short: the contract takes at least {min} bytes")]
    TooShort {
        /// The length of the payload.
        bytes: usize,
        /// The shortest accepted length.
        min: usize,
    },
    /// The payload is longer than allowed; nothing was sent.
    #[error("a payload of {bytes} bytes is too long: the contract takes at most {max} bytes")]
    TooLong {
        /// The length of the payload.
        bytes: usize,
        /// The longest accepted length.
        max: usize,
    },
    /// The contract is paused; nothing was sent.
    #[error("the contract is paused (Paused()): try again after it is unpaused")]
    Paused,
    /// The call would be reverted for another reason; nothing was sent.
    #[error("the contract refuses: {0}")]
    WouldRevert(Revert),
    /// The account cannot pay for gas; nothing was sent.
    #[error("{account} cannot pay for the transaction on chain {chain_id}: {reason}")]
    NoFunds {
        /// The sending account.
        account: Address,
        /// The chain id.
        chain_id: u64,
        /// The node's message.
        reason: String,
    },
    /// Every node refuses the transaction; nothing was sent.
    #[error("the chain refuses the transaction: {reason}")]
    Refused {
        /// The node's message.
        reason: String,
    },
    /// The transaction would cost more than the settings allow; nothing was sent.
    #[error("{0}")]
    Ceiling(CeilingError),
    /// Too many payloads are already waiting; nothing was sent.
    #[error("{waiting} payloads wait to be sent: try again later")]
    Busy {
        /// The number of waiting payloads.
        waiting: usize,
    },
    /// The chain does not answer; nothing was sent.
    #[error(transparent)]
    Rpc(#[from] RequestError),
    /// Signing failed; nothing was sent.
    #[error("the key of {account} cannot sign: {reason}")]
    Key {
        /// The account of the key.
        account: Address,
        /// The signer's error.
        reason: String,
    },
    /// The record cannot be written; nothing was sent.
    #[error("{path}: {reason}; nothing is sent that cannot be recorded")]
    Record {
        /// The file.
        path: PathBuf,
        /// The system's error.
        reason: String,
    },
    /// An unknown sender uses the account, so its nonces cannot be assigned; nothing was sent.
    #[error(
        "another sender uses {account}, so nothing is sent until it has sent nothing for {} s: stop it, or share \
         nonces through Redis", quiet_for.as_secs()
    )]
    Rival {
        /// The account.
        account: Address,
        /// The time for which the other sender has to be quiet.
        quiet_for: Duration,
    },
    /// The transaction was mined and reverted. The payload will not be mined.
    #[error("transaction {hash} was reverted: {reason}")]
    Reverted {
        /// The transaction.
        hash: B256,
        /// The reason, found by running the call again.
        reason: String,
    },
    /// The transaction succeeded without the contract's event: the address belongs to another contract, or an
    /// endpoint leaves the event out. The payload may be on the chain, so it is not sent again.
    #[error("transaction {hash} has succeeded without the event of {contract}")]
    NoEvent {
        /// The transaction.
        hash: B256,
        /// The contract.
        contract: Address,
    },
    /// The payload was still waiting when the time limit passed; nothing was sent.
    #[error("the payload could not be sent within {} s: try again later", waited.as_secs())]
    NotSent {
        /// The time waited.
        waited: Duration,
    },
    /// The transaction was not mined within the time limit and may be mined later. A repeated call
    /// waits for the same transaction.
    #[error("transaction {hash} was not mined within {} s, and may still be mined later", waited.as_secs())]
    NotMined {
        /// The transaction that was sent last.
        hash: B256,
        /// The time waited.
        waited: Duration,
    },
    /// The nonce is used, but no endpoint shows by which transaction. The payload may be on the
    /// chain, so it is not sent again.
    #[error("the outcome of transaction {hash} is unknown: it may have been mined")]
    Unknown {
        /// The transaction that was sent last.
        hash: B256,
    },
    /// The payload may be on the chain, or may still get there: the reason says why the outcome is not known here.
    #[error("{reason}, so the payload may still be mined")]
    Open {
        /// The transaction that was sent last; `None` if this broadcaster knows of none.
        hash: Option<B256>,
        /// The reason.
        reason: &'static str,
    },
    /// This process has sent nothing, or every node has refused its transaction. Another process that shares the nonces
    /// may send the payload: Redis was not asked, has not answered, or may have given that one a nonce for the payload,
    /// or the transaction on record, since.
    #[error(
        "nothing was sent here, and it is not known whether another process sends the payload: {reason}"
    )]
    Unasked {
        /// The reason for which this process has sent nothing.
        reason: String,
    },
    /// The broadcaster has stopped before it has sent anything.
    #[error("the broadcaster of this process has stopped")]
    Ended,
}

impl BroadcastError {
    /// Returns the error for a payload that another process is sending.
    pub(super) fn elsewhere() -> Self {
        Self::Open { hash: None, reason: "another process is sending it" }
    }

    /// Returns the error for a payload whose transactions may outlast the broadcaster. A broadcaster with the same
    /// record resumes them.
    pub(super) fn stopped(hash: Option<B256>) -> Self {
        Self::Open { hash, reason: "the broadcaster of this process has stopped" }
    }
}
