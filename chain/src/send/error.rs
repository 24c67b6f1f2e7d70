//! What can go wrong when talking to a chain, and what to do then.

use std::time::Duration;

use alloy::primitives::{Address, B256, U256, utils::format_ether};
use alloy::transports::{RpcError, TransportError, TransportErrorKind};

use crate::contracts::revert::Revert;

/// A request that got no useful answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nobody answered: not running, not reachable, or too slow.
    #[error("{endpoint} does not answer: {reason}. Check that it runs and that the URL is right")]
    Unreachable {
        /// Host and port.
        endpoint: String,
        /// What the system said.
        reason: String,
    },
    /// It answered with an error.
    #[error("{endpoint} refuses {method}: {message} (code {code})")]
    Refused {
        /// Host and port.
        endpoint: String,
        /// What was asked.
        method: &'static str,
        /// JSON-RPC's number of the error.
        code: i64,
        /// What it said.
        message: String,
    },
    /// It answered with something that no chain answers.
    #[error("{endpoint} answers {method} with something that is no answer: {reason}")]
    Malformed {
        /// Host and port.
        endpoint: String,
        /// What was asked.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No URL of the kind that is needed.
    #[error("{given:?} is no RPC URL: {reason}; it looks like http://127.0.0.1:5061")]
    Url {
        /// What was given, without secrets.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another chain than the one that was meant.
    #[error(
        "{endpoint} is chain {found}, and chain {expected} was expected: check the URL and the \
         file with the addresses"
    )]
    WrongChain {
        /// Host and port.
        endpoint: String,
        /// The id that was meant.
        expected: u64,
        /// The id that it says.
        found: u64,
    },
    /// It does not answer as a chain does.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}

/// Why something could not be read from a contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// There is no contract.
    #[error(
        "there is no contract at {address} on chain {chain_id}: check the file with the addresses"
    )]
    NoCode {
        /// Where it should be.
        address: Address,
        /// On which chain.
        chain_id: u64,
    },
    /// The contract refuses.
    #[error("{0}")]
    Reverted(Revert),
    /// The contract answers with something else: it is another contract.
    #[error("{address} on chain {chain_id} does not answer {function} as it should: {reason}")]
    OtherContract {
        /// Where it is.
        address: Address,
        /// On which chain.
        chain_id: u64,
        /// What was called.
        function: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The chain does not answer.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}

/// Why a transaction was not sent, or is not known to have done its work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no contract; nothing was sent.
    #[error(
        "there is no contract at {address} on chain {chain_id}: check the file with the addresses"
    )]
    NoCode {
        /// Where it should be.
        address: Address,
        /// On which chain.
        chain_id: u64,
    },
    /// The contract refuses; nothing was sent.
    #[error("it would be reverted: {0}")]
    WouldRevert(Revert),
    /// The account cannot pay; nothing was sent.
    #[error(
        "{account} has {} of the native token on chain {chain_id} and needs up to {}: send it some",
        format_ether(*.balance), format_ether(*.needed)
    )]
    NoFunds {
        /// Who should pay.
        account: Address,
        /// On which chain.
        chain_id: u64,
        /// What it has, in wei.
        balance: U256,
        /// What it may need, in wei.
        needed: U256,
    },
    /// The nonces of the account are used by somebody else faster than here; nothing was sent.
    #[error(
        "somebody else sends transactions of {account} on chain {chain_id} at the same time: \
         nothing was sent; wait for the others, then try again"
    )]
    NonceContended {
        /// Whose nonces.
        account: Address,
        /// On which chain.
        chain_id: u64,
    },
    /// It was mined and has failed. The fee is paid, nothing else has changed.
    #[error("transaction {hash} was reverted: {reason}")]
    Reverted {
        /// Which transaction.
        hash: B256,
        /// What a repetition of the call says.
        reason: String,
        /// The same as an error, if it was reverted again.
        revert: Option<Revert>,
    },
    /// Another transaction of the account with the same nonce was mined: this one never will be.
    #[error(
        "transaction {hash} will never be mined: another one of {account} with nonce {nonce} was. \
         See what that one did before trying again"
    )]
    NonceTaken {
        /// The transaction that was not mined.
        hash: B256,
        /// Whose nonce.
        account: Address,
        /// Which nonce.
        nonce: u64,
    },
    /// It was not mined in time. It still may be.
    #[error(
        "transaction {hash} was not mined within {} s, and still may be: look for it before \
         trying again. Another transaction of {account} with nonce {nonce} and a higher fee takes \
         its place", waited.as_secs()
    )]
    NotMined {
        /// Which transaction.
        hash: B256,
        /// Whose.
        account: Address,
        /// Its nonce.
        nonce: u64,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Earlier transactions of the account are not mined.
    #[error(
        "transactions of {account} on chain {chain_id} wait to be mined, from nonce {nonce} on: \
         wait for them, or replace them with a higher fee"
    )]
    NotSettled {
        /// Whose transactions.
        account: Address,
        /// On which chain.
        chain_id: u64,
        /// The first nonce that is not mined.
        nonce: u64,
    },
    /// The key does not sign.
    #[error("the key of {account} does not sign: {reason}")]
    Key {
        /// Whose key.
        account: Address,
        /// What it said.
        reason: String,
    },
    /// The chain does not answer; nothing was sent.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}

impl SendError {
    /// What the contract said, if it was the contract that refused.
    #[must_use]
    pub fn revert(&self) -> Option<&Revert> {
        match self {
            Self::WouldRevert(revert) => Some(revert),
            Self::Reverted { revert, .. } => revert.as_ref(),
            _ => None,
        }
    }
}

impl RequestError {
    pub(super) fn new(endpoint: &str, method: &'static str, error: TransportError) -> Self {
        let endpoint = endpoint.to_owned();
        match error {
            RpcError::ErrorResp(payload) => Self::Refused {
                endpoint,
                method,
                code: payload.code,
                message: payload.message.into_owned(),
            },
            RpcError::Transport(TransportErrorKind::HttpError(error)) => {
                let reason = format!("HTTP status {}", error.status);
                Self::Malformed { endpoint, method, reason }
            }
            RpcError::Transport(error) => Self::Unreachable { endpoint, reason: innermost(&error) },
            RpcError::DeserError { err, .. } => {
                Self::Malformed { endpoint, method, reason: err.to_string() }
            }
            error => Self::Malformed { endpoint, method, reason: error.to_string() },
        }
    }
}

/// The outer layers of a failed connection repeat the URL, which may hold a secret, and leave out
/// why.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// What a contract said when a node refused to run a call; nothing if it was the node that
/// refused.
pub(super) fn revert_of(error: &TransportError) -> Option<Revert> {
    /// JSON-RPC's number for a call that was reverted.
    const REVERTED: i64 = 3;
    let RpcError::ErrorResp(payload) = error else { return None };
    let said = payload.message.contains("revert") || payload.code == REVERTED;
    said.then(|| Revert::decode(&payload.as_revert_data().unwrap_or_default()))
}
