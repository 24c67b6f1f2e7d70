//! JSON-RPC errors.

use std::fmt::Display;

use alloy::primitives::Bytes;
use alloy::sol_types::{Panic, Revert, SolError};
use serde::Serialize;

use crate::embedded::admission::TransactionError;
use crate::embedded::journal::JournalError;
use crate::embedded::simulate::SimulationError;

/// Error codes of JSON-RPC 2.0 and EIP-1474, and go-ethereum's code for a revert.
pub(in crate::embedded) mod code {
    pub(in crate::embedded) const PARSE: i64 = -32700;
    pub(in crate::embedded) const INVALID_REQUEST: i64 = -32600;
    pub(in crate::embedded) const METHOD_NOT_FOUND: i64 = -32601;
    pub(in crate::embedded) const INVALID_PARAMS: i64 = -32602;
    pub(in crate::embedded) const INTERNAL: i64 = -32603;
    pub(in crate::embedded) const FAILED: i64 = -32000;
    pub(in crate::embedded) const LIMIT_EXCEEDED: i64 = -32005;
    pub(in crate::embedded) const REVERTED: i64 = 3;
}

/// The error object of a JSON-RPC response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::embedded) struct RpcError {
    /// One of [`code`].
    pub(in crate::embedded) code: i64,
    pub(in crate::embedded) message: String,
    /// The revert data, if the error is a revert.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Bytes>,
}

impl RpcError {
    pub(in crate::embedded) fn new(code: i64, reason: impl Display) -> Self {
        Self { code, message: reason.to_string(), data: None }
    }
}

/// Returns the error for a request that is valid but failed.
pub(in crate::embedded) fn failed(reason: impl Display) -> RpcError {
    RpcError::new(code::FAILED, reason)
}

/// Returns the error for invalid parameters.
pub(in crate::embedded) fn invalid(reason: impl Display) -> RpcError {
    RpcError::new(code::INVALID_PARAMS, reason)
}

/// Returns the error for a request whose response would exceed a limit.
pub(in crate::embedded) fn too_much(reason: impl Display) -> RpcError {
    RpcError::new(code::LIMIT_EXCEEDED, reason)
}

/// Returns the error for a revert. Its message contains the reason if the data is an
/// `Error(string)` or `Panic(uint256)`.
fn reverted(data: Bytes) -> RpcError {
    let reason = Revert::abi_decode(&data).map(|revert| revert.reason);
    let reason = reason.or_else(|_| Panic::abi_decode(&data).map(|panic| panic.to_string()));
    let message = match reason {
        Ok(reason) => format!("execution reverted: {reason}"),
        Err(_) => "execution reverted".to_owned(),
    };
    RpcError { code: code::REVERTED, message, data: Some(data) }
}

impl From<TransactionError> for RpcError {
    fn from(refusal: TransactionError) -> Self {
        match refusal {
            TransactionError::Undecodable(_) => invalid(refusal),
            refusal => failed(refusal),
        }
    }
}

impl From<JournalError> for RpcError {
    fn from(error: JournalError) -> Self {
        failed(error)
    }
}

impl From<SimulationError> for RpcError {
    fn from(error: SimulationError) -> Self {
        match error {
            SimulationError::Reverted(data) => reverted(data),
            SimulationError::Request(reason) => invalid(reason),
            error => failed(error),
        }
    }
}
