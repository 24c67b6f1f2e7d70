//! The status of a call that exceeds a limit: a text for people, and the same for programs in the details
//! and the metadata.

use hawser_serve::StatusDetails;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// The text of a refusal by the limits of the network's reference node. Specified: `docs/protocol/api.md`, *Limits on
/// callers*.
pub(crate) const REFUSED: &str = "request has failed";

/// Renders a refusal as RESOURCE_EXHAUSTED. `reason` is a constant for programs. A caller that
/// waits for the stated time may succeed.
pub(crate) fn limited(text: &str, reason: &'static str, retry_after_s: u64) -> Status {
    let retry_after_s = Some(retry_after_s);
    let details = StatusDetails { retry_after_s, ..StatusDetails::of(reason) };
    let mut status = details.into_status(Code::ResourceExhausted, text);
    status.metadata_mut().insert("limit-reason", MetadataValue::from_static(reason));
    status
}
