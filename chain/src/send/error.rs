//! Errors of requests and transactions, with advice for the operator.

use std::time::Duration;

use alloy::primitives::{Address, B256, U256, utils::format_ether};
use alloy::transports::{RpcError, TransportError, TransportErrorKind};
use hawser_proto::{one_line, root_cause};

use crate::contracts::revert::Revert;
use crate::spending::CeilingError;

/// Error of an answer that exceeds a bound, with the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerSizeError {
    /// The answer has too many bytes.
    #[error("its answer has more than {0} bytes")]
    Bytes(usize),
    /// The answer has too many values of JSON.
    #[error("its answer has more than {0} values")]
    Values(usize),
}

/// Error of a request to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No response: the endpoint is not running, not reachable, or too slow.
    #[error("{endpoint} does not answer: {reason}. Check that it runs and that the URL is right")]
    Unreachable {
        /// Scheme, host and port of the endpoint.
        endpoint: String,
        /// The system's error.
        reason: String,
    },
    /// An error response.
    #[error("{endpoint} refuses {method}: {message} (code {code})")]
    Refused {
        /// Scheme, host and port of the endpoint.
        endpoint: String,
        /// The RPC method.
        method: &'static str,
        /// The error code of JSON-RPC.
        code: i64,
        /// The error message.
        message: String,
    },
    /// A response that is not a valid answer.
    #[error("{endpoint} sends a malformed response to {method}: {reason}")]
    Malformed {
        /// Scheme, host and port of the endpoint.
        endpoint: String,
        /// The RPC method.
        method: &'static str,
        /// The defect.
        reason: String,
    },
}

/// Error of connecting to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The URL is malformed, or is not an HTTP URL.
    #[error("{given:?} is not an RPC URL: {reason}; example: http://127.0.0.1:5061")]
    Url {
        /// The given URL without secrets.
        given: String,
        /// The defect.
        reason: String,
    },
    /// The endpoint serves another chain.
    #[error(
        "{endpoint} is chain {found}, and chain {expected} was expected: check the URL and the \
         file with the addresses"
    )]
    WrongChain {
        /// Scheme, host and port of the endpoint.
        endpoint: String,
        /// The expected chain id.
        expected: u64,
        /// The endpoint's chain id.
        found: u64,
    },
    /// The request for the chain id failed.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}

/// Error of reading a contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// There is no contract at the address.
    #[error(
        "there is no contract at {address} on chain {chain_id}: check the file with the addresses"
    )]
    NoCode {
        /// The expected address.
        address: Address,
        /// The chain id.
        chain_id: u64,
    },
    /// The contract reverted the call.
    #[error("{0}")]
    Reverted(Revert),
    /// The return value does not decode, so another contract is at the address.
    #[error("{address} on chain {chain_id} does not answer {function} as it should: {reason}")]
    OtherContract {
        /// The address.
        address: Address,
        /// The chain id.
        chain_id: u64,
        /// The function's signature.
        function: &'static str,
        /// The defect.
        reason: String,
    },
    /// The chain does not answer.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}

/// Error of sending a transaction. Each variant states whether it may still be mined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no contract at the address; nothing was sent.
    #[error(
        "there is no contract at {address} on chain {chain_id}: check the file with the addresses"
    )]
    NoCode {
        /// The expected address.
        address: Address,
        /// The chain id.
        chain_id: u64,
    },
    /// The transaction would cost more than the settings allow; nothing was sent.
    #[error("{0}")]
    Ceiling(CeilingError),
    /// The contract would revert the call; nothing was sent.
    #[error("the transaction would be reverted: {0}")]
    WouldRevert(Revert),
    /// The account cannot pay; nothing was sent.
    #[error(
        "{account} has {} of the native token on chain {chain_id} and needs up to {}: send it some",
        format_ether(*.balance), format_ether(*.needed)
    )]
    NoFunds {
        /// The account.
        account: Address,
        /// The chain id.
        chain_id: u64,
        /// The account's balance in wei.
        balance: U256,
        /// The highest possible cost in wei.
        needed: U256,
    },
    /// The transaction was mined and reverted. The fee is paid; nothing else has changed.
    #[error("transaction {hash} was reverted: {reason}")]
    Reverted {
        /// The transaction.
        hash: B256,
        /// The reason, found by running the call again.
        reason: String,
        /// The contract's error, if the call reverted again.
        revert: Option<Revert>,
    },
    /// Another transaction of the account with the same nonce was mined, so this one never will be.
    #[error(
        "transaction {hash} will never be mined: another one of {account} with nonce {nonce} was. \
         See what that one did before trying again"
    )]
    NonceTaken {
        /// The transaction that was not mined.
        hash: B256,
        /// The account.
        account: Address,
        /// The nonce.
        nonce: u64,
    },
    /// The transaction was not mined within the time limit and may be mined later.
    #[error(
        "transaction {hash} was not mined within {} s, and may still be mined: look for it before trying again. \
         Another transaction of {account} with nonce {nonce} and a higher fee takes \
         its place", waited.as_secs()
    )]
    NotMined {
        /// The transaction.
        hash: B256,
        /// The account.
        account: Address,
        /// The nonce.
        nonce: u64,
        /// The time waited.
        waited: Duration,
    },
    /// Endpoints do not show the same outcome of the transaction, which may be mined.
    #[error(
        "one endpoint alone shows the outcome of transaction {hash} after {} s, and others show none or another one: it \
         is not believed. Find out which one is wrong, and look for the transaction at another one before trying again",
        waited.as_secs()
    )]
    Contested {
        /// The transaction.
        hash: B256,
        /// The time waited.
        waited: Duration,
    },
    /// Every endpoint of several refuses the transaction. A lying endpoint may have kept it, so it may still be mined.
    /// Until then another attempt has the same nonce.
    #[error(
        "every endpoint refuses transaction {hash}: {said}. If one of them lies, it has the transaction nevertheless: \
         look for it before trying again"
    )]
    RefusedByAll {
        /// The transaction.
        hash: B256,
        /// The message of one endpoint.
        said: String,
    },
    /// Earlier transactions of the account are still pending.
    #[error(
        "transactions of {account} on chain {chain_id} wait to be mined, from nonce {nonce} on: \
         wait for them, or replace them with a higher fee"
    )]
    NotSettled {
        /// The account.
        account: Address,
        /// The chain id.
        chain_id: u64,
        /// The first pending nonce.
        nonce: u64,
    },
    /// Signing failed; nothing was sent.
    #[error("the key of {account} cannot sign: {reason}")]
    Key {
        /// The account of the key.
        account: Address,
        /// The signer's error.
        reason: String,
    },
    /// The chain does not answer; nothing was sent.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}

impl SendError {
    /// Returns the contract's error, if the contract reverted the call.
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
                message: one_line(&payload.message),
            },
            RpcError::Transport(TransportErrorKind::HttpError(error)) if error.status == 429 => {
                let message = "HTTP status 429: too many requests".to_owned();
                Self::Refused { endpoint, method, code: 429, message }
            }
            RpcError::Transport(TransportErrorKind::HttpError(error)) => {
                let reason = format!("HTTP status {}", error.status);
                Self::Malformed { endpoint, method, reason }
            }
            RpcError::Transport(TransportErrorKind::Custom(error))
                if error.is::<AnswerSizeError>() =>
            {
                Self::Malformed { endpoint, method, reason: error.to_string() }
            }
            RpcError::Transport(error) => {
                // It may have the names in a certificate.
                Self::Unreachable { endpoint, reason: one_line(&root_cause(&error)) }
            }
            RpcError::DeserError { err, .. } => {
                Self::Malformed { endpoint, method, reason: one_line(&err.to_string()) }
            }
            error => Self::Malformed { endpoint, method, reason: one_line(&error.to_string()) },
        }
    }
}

/// Returns the contract's error from a refused call; `None` if the node itself refused it.
pub(crate) fn revert_of(error: &TransportError) -> Option<Revert> {
    /// The error code of a reverted call, as go-ethereum defines it.
    const REVERTED: i64 = 3;
    let RpcError::ErrorResp(payload) = error else { return None };
    let said = payload.message.contains("revert") || payload.code == REVERTED;
    said.then(|| Revert::decode(&payload.as_revert_data().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_a_failed_request_is_short_and_moves_no_cursor() {
        let cause = std::io::Error::other(format!("\u{1b}[2J\n{}", "x".repeat(10_000)));
        let error = TransportErrorKind::custom(cause);
        let text = RequestError::new("http://a.example", "eth_call", error).to_string();
        assert!(text.contains("[2J xxx"), "{text}");
        assert!(!text.contains(char::is_control) && text.len() < 500, "{text:?}");
    }
}
