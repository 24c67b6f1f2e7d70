//! Requests around one transaction: its gas, its submission, and the reason of its failure.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use alloy::primitives::{Address, Bytes};
use alloy::providers::Provider as _;
use alloy::rpc::types::TransactionReceipt;

use super::error::BroadcastError;
use super::slots::SendOutcome;
use crate::contracts::GroupMessageBroadcaster::InvalidPayloadSize;
use crate::contracts::revert::Revert;
use crate::endpoints::{EndpointError, Endpoints};
use crate::send::{Call, EthCallError, RequestError};

/// The base gas of a transaction (Yellow Paper, appendix G).
const GAS_OF_TRANSACTION: u64 = 21_000;
/// The least gas per byte of data (EIP-7623): of a zero byte, and of any other.
const FLOOR_GAS_OF_ZERO: u64 = 10;
const FLOOR_GAS_OF_OTHERS: u64 = 40;

/// The reason for which gas could not be estimated.
struct EstimateError(EthCallError);

impl From<RequestError> for EstimateError {
    fn from(error: RequestError) -> Self {
        Self(EthCallError::Rpc(error))
    }
}

impl fmt::Display for EstimateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            EthCallError::Reverted(revert) => revert.fmt(f),
            EthCallError::Rpc(error) => error.fmt(f),
        }
    }
}

impl EndpointError for EstimateError {
    fn request_error(&self) -> Option<&RequestError> {
        match &self.0 {
            EthCallError::Reverted(_) => None,
            EthCallError::Rpc(error) => Some(error),
        }
    }
}

/// Returns the least gas limit that a transaction with this data may have.
fn floor_gas(data: &[u8]) -> u64 {
    let zeros = data.iter().filter(|byte| **byte == 0).count() as u64;
    let others = data.len() as u64 - zeros;
    GAS_OF_TRANSACTION + zeros * FLOOR_GAS_OF_ZERO + others * FLOOR_GAS_OF_OTHERS
}

/// Runs the call without sending it, and returns its gas limit: a quarter above the estimate, and
/// at least a tenth above the floor price of its data. Older nodes leave that floor out of their
/// estimates.
pub(super) async fn gas_limit(
    endpoints: &Endpoints,
    account: Address,
    call: &Call,
) -> Result<u64, BroadcastError> {
    let estimated =
        endpoints
            .ask(|chain| async move {
                chain.gas_limit(call.request(account)).await.map_err(EstimateError)
            })
            .await
            .map_err(|EstimateError(error)| error);
    let floor = floor_gas(&call.data);
    match estimated {
        Ok(estimated) => Ok(estimated.max(floor + floor / 10)),
        Err(EthCallError::Reverted(revert)) => Err(would_revert(revert, &call.data)),
        Err(EthCallError::Rpc(RequestError::Refused { message, .. })) => {
            Err(refused(account, endpoints.id(), message))
        }
        Err(EthCallError::Rpc(error)) => Err(error.into()),
    }
}

/// Converts a revert of the contract.
fn would_revert(revert: Revert, data: &[u8]) -> BroadcastError {
    if let Some(InvalidPayloadSize { actualSize_, minSize_, maxSize_ }) = revert.as_error() {
        let number = |value: alloy::primitives::U256| usize::try_from(value).unwrap_or(usize::MAX);
        let (bytes, min, max) = (number(actualSize_), number(minSize_), number(maxSize_));
        return match bytes < min {
            true => BroadcastError::TooShort { bytes: bytes.min(data.len()), min },
            false => BroadcastError::TooLong { bytes, max },
        };
    }
    if revert.name() == Some("Paused") {
        BroadcastError::Paused
    } else {
        BroadcastError::WouldRevert(revert)
    }
}

/// Converts the message with which nodes refuse a transaction for good.
pub(super) fn refused(account: Address, chain_id: u64, said: String) -> BroadcastError {
    if said.to_ascii_lowercase().contains("insufficient funds") {
        BroadcastError::NoFunds { account, chain_id, said }
    } else {
        BroadcastError::Refused { said }
    }
}

/// Sends a transaction to the first endpoint that answers.
///
/// An endpoint whose response was lost may have the transaction. A refusal by the next endpoint
/// then proves nothing, so the outcome is [`SendOutcome::Lost`].
pub(super) async fn send(endpoints: &Endpoints, raw: &Bytes) -> SendOutcome {
    let (raw, is_lost) = (&raw, &AtomicBool::new(false));
    let sent = endpoints.ask(|chain| async move {
        let sent = chain.provider().send_raw_transaction(raw).await.map(drop);
        let sent = sent.map_err(|error| chain.request_error("eth_sendRawTransaction", error));
        if matches!(sent, Err(RequestError::Unreachable { .. } | RequestError::Malformed { .. })) {
            is_lost.store(true, Ordering::Relaxed);
        }
        sent
    });
    match sent.await {
        Ok(()) => SendOutcome::Accepted,
        Err(_) if is_lost.load(Ordering::Relaxed) => SendOutcome::Lost,
        Err(RequestError::Refused { message, .. }) => classify(message),
        // No endpoint was reached.
        Err(_) => SendOutcome::Later,
    }
}

/// Parts of messages by which nodes refuse a transaction for good, whichever node is asked. From
/// the errors of go-ethereum's `core` and `txpool`, and of anvil.
const FINAL: [&str; 14] = [
    "insufficient funds",
    "insufficient balance",
    "insufficient gas for floor data gas",
    "floor data gas",
    "intrinsic gas too low",
    "exceeds block gas limit",
    "exceeds the configured cap",
    "oversized data",
    "max initcode size",
    "invalid sender",
    "invalid chain id",
    "invalid signature",
    "transaction type not supported",
    "only replay-protected",
];

/// Classifies a node's error message. JSON-RPC has no codes for these cases; the wordings are those
/// of go-ethereum, which other nodes follow.
///
/// An unknown message, such as an error behind a proxy, may come from a node that has the
/// transaction: it never counts as refused. The transaction is then sent again, which is safe, and never
/// moved to another nonce, which is not. After a number of such messages its nonce is filled.
fn classify(said: String) -> SendOutcome {
    let lower = said.to_ascii_lowercase();
    let has = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    if has(&["already known", "already imported", "already in the mempool", "known transaction"]) {
        SendOutcome::Accepted
    } else if has(&["nonce too low", "nonce has already been used"]) {
        SendOutcome::NonceUsed
    } else if has(&["replacement transaction underpriced", "replacement fee too low"]) {
        SendOutcome::Underpriced
    } else if has(&["nonce too high", "nonce gap"]) {
        SendOutcome::NonceAhead
    } else if has(&["underpriced", "less than block base fee", "gas price too low"]) {
        SendOutcome::TooCheap(said)
    } else if has(&FINAL) {
        SendOutcome::Refused(said)
    } else if has(&["txpool is full", "limit exceeded", "too many requests", "rate limit"]) {
        SendOutcome::Later
    } else {
        SendOutcome::Unclear(said)
    }
}

/// Returns the reason for which a mined transaction failed, found by running its call on the block
/// before.
pub(super) async fn reason(
    endpoints: &Endpoints,
    account: Address,
    call: &Call,
    receipt: &TransactionReceipt,
) -> String {
    let reason = endpoints.ask(|chain| async move {
        Ok::<_, RequestError>(chain.reason_of_revert(account, call, receipt).await.0)
    });
    reason.await.unwrap_or_else(|error| format!("the reason is not known ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_costs_at_least_what_the_floor_says() {
        assert_eq!(floor_gas(&[]), 21_000);
        assert_eq!(floor_gas(&[0, 1, 0xff]), 21_000 + 10 + 80);
        assert_eq!(floor_gas(&vec![1; 200_000]), 8_021_000);
    }

    #[test]
    fn messages_of_nodes_are_classified() {
        for (said, meant) in [
            ("already known", SendOutcome::Accepted),
            ("Nonce too low: next nonce 5, tx nonce 4", SendOutcome::NonceUsed),
            ("nonce too low", SendOutcome::NonceUsed),
            ("replacement transaction underpriced", SendOutcome::Underpriced),
            ("nonce too high: address 0x0, tx: 5 state: 4", SendOutcome::NonceAhead),
            ("txpool is full", SendOutcome::Later),
        ] {
            assert_eq!(classify(said.to_owned()), meant, "{said}");
        }
        for said in ["transaction underpriced", "max fee per gas less than block base fee: …"] {
            assert_eq!(classify(said.to_owned()), SendOutcome::TooCheap(said.to_owned()));
        }
        for said in [
            "intrinsic gas too low: gas 1, minimum needed 21000",
            "insufficient gas for floor data gas cost: gas 1, minimum needed 21000",
            "exceeds block gas limit",
            "oversized data: transaction size 200000, limit 131072",
            "invalid sender: invalid chain id for signer: have 1 want 2",
        ] {
            assert_eq!(classify(said.to_owned()), SendOutcome::Refused(said.to_owned()));
        }
        let said = "insufficient funds for gas * price + value".to_owned();
        assert_eq!(classify(said.clone()), SendOutcome::Refused(said.clone()));
        let error = refused(Address::ZERO, 1, said);
        assert!(matches!(error, BroadcastError::NoFunds { .. }));
    }

    #[test]
    fn an_unknown_error_is_no_refusal() {
        for said in ["internal error", "context deadline exceeded", "upstream: try again", ""] {
            assert_eq!(classify(said.to_owned()), SendOutcome::Unclear(said.to_owned()));
        }
    }
}
