//! Errors as clients see them.

use std::fmt::Display;

use alloy::primitives::Bytes;
use alloy::sol_types::{Panic, Revert, SolError};
use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::types::error::{CALL_EXECUTION_FAILED_CODE, INVALID_PARAMS_CODE};

use crate::embedded::admission::Refusal;
use crate::embedded::journal::StoreError;
use crate::embedded::simulate::CallError;

/// A call reverted; the data is in the error (the code that go-ethereum gives it).
const REVERTED_CODE: i32 = 3;
/// More was asked for than is answered at once (EIP-1474).
const LIMIT_EXCEEDED_CODE: i32 = -32005;

/// It was understood and could not be done.
pub(in crate::embedded) fn failed(reason: impl Display) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(CALL_EXECUTION_FAILED_CODE, reason.to_string(), None::<()>)
}

/// The parameters are wrong.
pub(in crate::embedded) fn invalid(reason: impl Display) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(INVALID_PARAMS_CODE, reason.to_string(), None::<()>)
}

/// It is too much for one answer.
pub(in crate::embedded) fn too_much(reason: impl Display) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(LIMIT_EXCEEDED_CODE, reason.to_string(), None::<()>)
}

/// Names the reason if the data has the form of `Error(string)` or `Panic(uint256)`.
fn reverted(data: &Bytes) -> ErrorObjectOwned {
    let reason = Revert::abi_decode(data).map(|revert| revert.reason);
    let reason = reason.or_else(|_| Panic::abi_decode(data).map(|panic| panic.to_string()));
    let message = match reason {
        Ok(reason) => format!("execution reverted: {reason}"),
        Err(_) => "execution reverted".to_owned(),
    };
    ErrorObjectOwned::owned(REVERTED_CODE, message, Some(data))
}

impl From<Refusal> for ErrorObjectOwned {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Undecodable(_) => invalid(refusal),
            refusal => failed(refusal),
        }
    }
}

impl From<StoreError> for ErrorObjectOwned {
    fn from(error: StoreError) -> Self {
        failed(error)
    }
}

impl From<CallError> for ErrorObjectOwned {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Reverted(data) => reverted(&data),
            CallError::Request(reason) => invalid(reason),
            error => failed(error),
        }
    }
}
