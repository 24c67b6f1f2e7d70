//! The refusal of a caller that exceeds its share of the memory.

use tonic::{Code, Status};

use crate::status_details::StatusDetails;

/// Seconds after which a refused caller may try again. A guess: most answers are read within it.
const RETRY_AFTER_S: u64 = 1;

/// The caller, or all callers together, hold too much memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this caller has too much in flight (open streams, requests, computations or unread responses): read the responses, \
     or open and send less at once"
)]
pub struct OverloadedError;

impl From<OverloadedError> for Status {
    fn from(error: OverloadedError) -> Self {
        let retry_after_s = Some(RETRY_AFTER_S);
        let details = StatusDetails { retry_after_s, ..StatusDetails::of("OVERLOADED") };
        details.into_status(Code::ResourceExhausted, &error.to_string())
    }
}
