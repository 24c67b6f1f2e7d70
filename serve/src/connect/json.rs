//! Translation of JSON bodies: its bounds, and its work outside of the runtime's threads.

use std::io::Read as _;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use hawser_proto::pb::{JsonError, MethodSchema, OtherSchema};
use tonic::Status;

use crate::budget::ConnectionShare;
use crate::charged_bytes::ChargedBytes;
use crate::long_work::{self, WorkCaller};

/// The longest request in JSON, bytes. A guess: far more than a person types. Larger messages are sent as
/// `application/proto`.
pub(super) const REQUEST_LEN_BYTES_MAX: usize = 1024 * 1024;
/// The longest serialized message that is answered as JSON. A guess: a page of usual envelopes has some tens of KiB.
const RESPONSE_LEN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest text that is translated on the runtime's threads. A guess: it takes a millisecond.
const AT_ONCE_LEN_BYTES_MAX: usize = 32 * 1024;
/// The longest compressed text that is decompressed on the runtime's threads. A guess: a text of the most expensive
/// blocks takes some milliseconds for 8 KiB, and one of other blocks becomes a MiB at most.
const PACKED_AT_ONCE_LEN_BYTES_MAX: usize = 4 * 1024;
/// Memory of a value while JSON is translated, beside its text. From the types: an entry of a message's fields, and
/// the descriptor and fields of a message that is empty.
const VALUE_BYTES: usize = 256;
/// Bytes that are held for each byte of a serialized message while it becomes JSON, beside its values: the bytes once
/// more, and their text in base64, which may grow into twice the room. From the types.
const RESPONSE_FACTOR: usize = 4;

/// The schema of health checks, which the library serves.
static HEALTH: LazyLock<OtherSchema> = LazyLock::new(|| {
    let set = tonic_health::pb::FILE_DESCRIPTOR_SET;
    OtherSchema::decode(set).expect("the library's set is complete")
});

/// Returns the messages of the method that requests name by `path`. `None` if no schema has it.
pub(super) fn schema(path: &str) -> Option<MethodSchema> {
    MethodSchema::of_path(path).or_else(|| HEALTH.method(path))
}

/// Serializes a request.
///
/// # Errors
/// RESOURCE_EXHAUSTED if it takes more than the caller may hold, INVALID_ARGUMENT if it is not JSON of the request.
pub(super) async fn to_message(
    schema: MethodSchema,
    json: Bytes,
    share: &Arc<ConnectionShare>,
) -> Result<Vec<u8>, Status> {
    // Each value follows one of these characters. Those inside strings are counted too, which only raises the estimate.
    let values = json.iter().filter(|byte| matches!(byte, b'{' | b'[' | b',' | b':')).count();
    let mut held = ChargedBytes::new(share.clone());
    held.take(2 * json.len() + values * VALUE_BYTES)?;
    let len = json.len();
    let message = beside(len, share, held, move || schema.request_from_json(&json)).await?;
    message.map_err(|error| Status::invalid_argument(format!("request is not valid JSON: {error}")))
}

/// Renders an answer.
///
/// # Errors
/// RESOURCE_EXHAUSTED if it takes more than the caller may hold, or is too large for JSON.
pub(super) async fn of_message(
    schema: MethodSchema,
    message: Bytes,
    share: &Arc<ConnectionShare>,
) -> Result<Bytes, Status> {
    if message.len() > RESPONSE_LEN_BYTES_MAX {
        let text = "the answer is too large for JSON: ask for less, or take application/proto";
        return Err(Status::resource_exhausted(text));
    }
    let mut held = ChargedBytes::new(share.clone());
    held.take(RESPONSE_FACTOR * message.len() + schema.response_values(&message) * VALUE_BYTES)?;
    let len = message.len();
    let text: Result<Vec<u8>, JsonError> =
        beside(len, share, held, move || schema.response_to_json(&message)).await?;
    text.map(Bytes::from).map_err(|error| Status::internal(error.to_string()))
}

/// Decompresses a request (gzip, RFC 1952).
///
/// # Errors
/// INVALID_ARGUMENT if it is not gzip, RESOURCE_EXHAUSTED if it is longer than [`REQUEST_LEN_BYTES_MAX`] then.
pub(super) fn unpack(packed: &[u8]) -> Result<Bytes, Status> {
    let mut plain = Vec::new();
    let limit = REQUEST_LEN_BYTES_MAX as u64 + 1;
    MultiGzDecoder::new(packed)
        .take(limit)
        .read_to_end(&mut plain)
        .map_err(|_| Status::invalid_argument("the request does not decompress"))?;
    if plain.len() > REQUEST_LEN_BYTES_MAX { Err(too_long()) } else { Ok(plain.into()) }
}

/// Decompresses as [`unpack`] does, and a longer input outside of the runtime's threads: a hostile input without
/// content takes a decoder far longer than usual input of its length.
///
/// # Errors
/// Those of [`unpack`].
pub(super) async fn unpack_beside(
    packed: Bytes,
    share: &Arc<ConnectionShare>,
) -> Result<Bytes, Status> {
    if packed.len() <= PACKED_AT_ONCE_LEN_BYTES_MAX {
        return unpack(&packed);
    }
    // The caller charges the packed bytes, and the text is charged when it is parsed.
    let held = ChargedBytes::new(share.clone());
    long_work::beside(WorkCaller::of_connection(share), held, move || unpack(&packed)).await?
}

/// Returns the refusal of a request that is too long.
pub(super) fn too_long() -> Status {
    Status::resource_exhausted(format!(
        "a request in JSON has at most {REQUEST_LEN_BYTES_MAX} bytes: send application/proto"
    ))
}

/// Runs `work` on a text, on a blocking thread in the caller's turn if the text is long. `held` is released when the
/// work is done, even if the caller has hung up before.
async fn beside<T: Send + 'static>(
    len_bytes: usize,
    share: &ConnectionShare,
    held: ChargedBytes,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    if len_bytes <= AT_ONCE_LEN_BYTES_MAX {
        return Ok(work());
    }
    long_work::beside(WorkCaller::of_connection(share), held, work).await
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures_util::FutureExt as _;

    use super::*;
    use crate::budget::MemoryBudget;

    fn gzip(text: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap().into()
    }

    /// A compressed body of members without content: as many bytes as a request may have, and hardly any text.
    #[tokio::test]
    async fn a_long_request_is_decompressed_beside_the_runtimes_threads() {
        let budget = MemoryBudget::new(1 << 30);
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let share = budget.connection(address, budget.account()).unwrap();
        let mut packed = gzip(b"").repeat(REQUEST_LEN_BYTES_MAX / 2 / gzip(b"").len());
        packed.extend(gzip(b"{}"));
        let occupied = long_work::occupy_workers().await;
        let mut unpacked = Box::pin(unpack_beside(packed.into(), &share));
        assert!((&mut unpacked).now_or_never().is_none(), "it is done on this thread");
        let short = gzip(b"").repeat(2 * PACKED_AT_ONCE_LEN_BYTES_MAX / gzip(b"").len());
        assert!(short.len() < AT_ONCE_LEN_BYTES_MAX, "it is no long text");
        assert!(unpack_beside(short.into(), &share).now_or_never().is_none());
        drop(occupied);
        assert_eq!(unpacked.await.unwrap(), "{}");
        assert_eq!(unpack_beside(gzip(b"{ }"), &share).await.unwrap(), "{ }");
        let refused = unpack_beside(vec![7_u8; 1 << 17].into(), &share).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}
