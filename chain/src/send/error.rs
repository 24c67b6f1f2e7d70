//! Errors of requests and transactions, with advice for the operator.

use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256, utils::format_ether};
use alloy::rpc::json_rpc::ErrorPayload;
use alloy::transports::{RpcError, TransportError, TransportErrorKind};
use hawser_proto::{one_line, root_cause};
use serde_json::Value;

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
        /// The reason, found by running the call again, or by a trace.
        reason: String,
        /// The contract's error, if either shows it.
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
    /// Every endpoint refuses the transaction because of its fees. A lying endpoint may have kept it, so it may still
    /// be mined. Until then another attempt has the same nonce.
    #[error(
        "every endpoint refuses the fees of transaction {hash}: {said}. If one of them lies, it has the transaction \
         nevertheless: look for it before trying again"
    )]
    TooCheap {
        /// The transaction.
        hash: B256,
        /// The nonce.
        nonce: u64,
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

/// The error code of a call that was reverted, as go-ethereum defines it.
pub const REVERTED_CODE: i64 = 3;

/// Returns the contract's error from a refused call; `None` if the node itself refused it.
pub(crate) fn revert_of(error: &TransportError) -> Option<Revert> {
    let RpcError::ErrorResp(payload) = error else { return None };
    let said = payload.message.contains("revert") || payload.code == REVERTED_CODE;
    said.then(|| Revert::decode(&revert_data(payload)))
}

/// Returns the data that a refused call was reverted with; empty if the endpoint does not show it. It may be the data
/// of the error, a value of an object there, or among the words of either text.
fn revert_data(payload: &ErrorPayload) -> Bytes {
    let shown = payload.try_data_as::<Value>().and_then(Result::ok);
    let shown = shown.as_ref().and_then(data_in);
    shown.or_else(|| data_among_words(&payload.message)).unwrap_or_default()
}

fn data_in(value: &Value) -> Option<Bytes> {
    match value {
        Value::String(text) => {
            let data = text.parse::<Bytes>().ok().filter(|data| !data.is_empty());
            data.or_else(|| data_among_words(text))
        }
        // The parser bounds how deep objects are nested.
        Value::Object(values) => values.values().find_map(data_in),
        _ => None,
    }
}

/// Returns the first hex number in a text that is as long as an encoded error: four bytes, and any number of words of
/// 32 bytes.
fn data_among_words(text: &str) -> Option<Bytes> {
    const SELECTOR_DIGITS: usize = 8;
    const WORD_DIGITS: usize = 64;
    text.split("0x").skip(1).find_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        let arguments = end.checked_sub(SELECTOR_DIGITS)?;
        let is_error = arguments.is_multiple_of(WORD_DIGITS);
        is_error.then(|| rest[..end].parse::<Bytes>().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolError as _;
    use serde_json::json;

    use super::*;
    use crate::contracts::PayerReportManager;

    #[test]
    fn the_cause_of_a_failed_request_is_short_and_moves_no_cursor() {
        let cause = std::io::Error::other(format!("\u{1b}[2J\n{}", "x".repeat(10_000)));
        let error = TransportErrorKind::custom(cause);
        let text = RequestError::new("http://a.example", "eth_call", error).to_string();
        assert!(text.contains("[2J xxx"), "{text}");
        assert!(!text.contains(char::is_control) && text.len() < 500, "{text:?}");
    }

    fn refusal(code: i64, message: &str, data: &Value) -> TransportError {
        let payload = json!({ "code": code, "message": message, "data": data });
        RpcError::ErrorResp(serde_json::from_str(&payload.to_string()).unwrap())
    }

    fn name_of(error: &TransportError) -> Option<String> {
        revert_of(error)?.name().map(str::to_owned)
    }

    /// Endpoints show the same revert in many forms, and a node decides by its name if a report was submitted before.
    #[test]
    fn a_contracts_error_is_read_wherever_an_endpoint_shows_it() {
        // `InvalidStartSequenceId(7, 9)`.
        let error =
            PayerReportManager::InvalidStartSequenceId { startSequenceId: 7, lastSequenceId: 9 };
        let data = Bytes::from(error.abi_encode()).to_string();
        let said = "execution reverted";
        let hash = B256::repeat_byte(0xee).to_string();
        let in_words = format!("{said} in transaction {hash}: {data}");
        let (name, arguments) = data.split_at("0x".len() + 8);
        let in_part = format!("{said}: custom error {name}");
        let in_parts = format!("{in_part}: {arguments}");
        for error in [
            refusal(3, said, &json!(data)),
            refusal(-32000, said, &json!(data)),
            refusal(3, "the call failed", &json!(data)),
            refusal(-32000, said, &json!({ "message": said, "result": data })),
            refusal(-32015, "VM error: revert", &json!(format!("Reverted {data}"))),
            refusal(-32000, &in_words, &Value::Null),
            refusal(3, &in_words, &json!("0x")),
            refusal(-32000, &in_part, &Value::Null),
            refusal(-32000, &in_parts, &Value::Null),
            refusal(3, said, &json!(name)),
        ] {
            let name = name_of(&error);
            assert_eq!(name.as_deref(), Some("InvalidStartSequenceId"), "{error:?}");
        }
        let selector = "execution reverted: custom error 0x82b42900";
        let unnamed = revert_of(&refusal(-32000, selector, &Value::Null)).unwrap();
        assert_eq!(unnamed.data.to_string(), "0x82b42900");
    }

    #[test]
    fn numbers_of_other_lengths_are_no_error_of_a_contract() {
        let address = Address::repeat_byte(0x11);
        for words in ["", "0x", "0x1234567", "0x123456789", "deadbeef", "0xä2b42900"] {
            let text = format!("execution reverted by {address}: {words}");
            let revert = revert_of(&refusal(3, &text, &Value::Null)).unwrap();
            assert_eq!(revert.data.len(), 0, "{text}");
        }
        assert_eq!(revert_of(&refusal(-32000, "nonce too low: 0x82b42900", &Value::Null)), None);
    }
}
