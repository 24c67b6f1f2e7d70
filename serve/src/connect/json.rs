//! Translation of JSON bodies: its bounds, and its work outside of the runtime's threads.
//!
//! Memory is charged before it is taken. A request of `n` bytes takes `4 n`, and `5 n` if it contains a backslash. Two
//! of these are for the text while it arrives, or for the pieces of a compressed text and their copy. The rest is for
//! parsing. Bytes that are longer in the text of an error are charged for that. An answer takes its message, and four
//! thirds of that for the text. The values of both are charged besides.

use std::collections::VecDeque;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};

use bytes::{Bytes, BytesMut};
use hawser_proto::pb::{JsonError, MethodSchema, OtherSchema};
use tonic::Status;

use super::text::ChargedText;
use crate::budget::{ConnectionShare, MemoryBudget};
use crate::call_share::CallCharge;
use crate::charged_bytes::ChargedBytes;
use crate::decompression::{Decompressor, Turn};
use crate::long_work::{self, WorkCaller};
use crate::message_boundaries::HEAD_LEN_BYTES;
use crate::overloaded::OverloadedError;

/// The longest request in JSON, bytes, also after decompression. The largest message has 33.4 MiB in base64; the rest
/// is for names. The message that a text becomes has the limit of every message.
pub(super) const REQUEST_LEN_BYTES_MAX: usize = 36 * 1024 * 1024;
/// The longest text that is translated on the runtime's threads. A guess: it takes a millisecond.
const AT_ONCE_LEN_BYTES_MAX: usize = 32 * 1024;
/// Bytes that are held for each byte of a request in JSON while it becomes a message, beside the text and its values.
/// From the types: the bytes in base64, decoded and once more in the message, take half as much again as the text.
const REQUEST_FACTOR: usize = 2;
/// The value of [`REQUEST_FACTOR`] for a text with a backslash. From the library: its parser copies such a string into
/// a buffer, which doubles when it grows.
const ESCAPED_FACTOR: usize = 3;
/// Bytes that are held, besides, for each byte that is DEL or not ASCII. From the library: its error about a value of
/// the wrong type quotes the value, with six characters for DEL, and up to three for each byte of others. The text is
/// copied when its buffer grows, and once more when it is whole.
const QUOTED_FACTOR: usize = 12;
/// The longest text of an error about a request, in bytes. A guess: a name and its place fit into it.
const ERROR_LEN_BYTES_MAX: usize = 1024;
/// Memory of a value while a request is read. From the types: the fields of a message are in a tree, whose node of 11
/// places takes 680 bytes, and an element of a list takes up to 112. A message with a field has two of the characters
/// that are counted, and one more in a list.
const REQUEST_VALUE_BYTES: usize = 384;
/// Memory of a value while an answer is rendered, beside the message, with which it shares its bytes. From the same
/// types: a message with a field has two values in a list, and three for two nodes if the field is a message itself.
const RESPONSE_VALUE_BYTES: usize = 512;
/// Room for the name of a value, and for a value other than bytes, in the text of an answer. A guess: the buffer grows.
const NAME_BYTES: usize = 48;

/// The schema of health checks, which the library serves.
static HEALTH: LazyLock<OtherSchema> = LazyLock::new(|| {
    let set = tonic_health::pb::FILE_DESCRIPTOR_SET;
    OtherSchema::decode(set).expect("the library's set is complete")
});

/// Returns the messages of the method that requests name by `path`. `None` if no schema has it.
pub(super) fn schema(path: &str) -> Option<MethodSchema> {
    MethodSchema::of_path(path).or_else(|| HEALTH.method(path))
}

/// Makes the message of a request out of its body.
///
/// # Errors
/// RESOURCE_EXHAUSTED if it takes more than the caller may hold, or is longer than [`REQUEST_LEN_BYTES_MAX`] after
/// decompression; INVALID_ARGUMENT if it is not gzip, or not JSON of the request.
pub(super) async fn to_message(
    schema: MethodSchema,
    body: Bytes,
    is_compressed: bool,
    share: &Arc<ConnectionShare>,
) -> Result<Bytes, Status> {
    let charge = CallCharge::new(share.clone());
    let pieces = if is_compressed {
        decompress_beside(body, &charge).await?
    } else {
        VecDeque::from([body])
    };
    let len_bytes: usize = pieces.iter().map(Bytes::len).sum();
    // `charge` ends with the work, even if the caller has hung up before.
    let work = move || -> Result<Bytes, Status> {
        charge.take(request_bytes(&pieces))?;
        let text = joined(pieces);
        // An empty body is an empty message, as in protobuf.
        let json: &[u8] = if text.is_empty() { b"{}" } else { &text };
        let message = schema.request_from_json(json);
        message.map(Bytes::from).map_err(|error| Status::invalid_argument(error_text(&error)))
    };
    beside(len_bytes, share, work).await?
}

/// Returns the beginning of the text of an error. The library's texts quote names and values of the request, which may
/// have megabytes.
fn error_text(error: &JsonError) -> String {
    let mut text = ShortText(String::new());
    // Fails when the text is full.
    let _ = fmt::write(&mut text, format_args!("request is not valid JSON: {error}"));
    text.0
}

/// The beginning of a text, at most [`ERROR_LEN_BYTES_MAX`].
struct ShortText(String);

impl fmt::Write for ShortText {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = ERROR_LEN_BYTES_MAX - self.0.len();
        let kept = &more[..more.floor_char_boundary(room)];
        self.0.push_str(kept);
        if kept.len() == more.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Returns the memory that a request takes while it becomes a message, beside its text.
fn request_bytes(text: &VecDeque<Bytes>) -> usize {
    let (mut len_bytes, mut values, mut quoted, mut has_escapes) = (0, 0, 0, false);
    for piece in text {
        len_bytes += piece.len();
        // Each value follows one of these characters. Those in strings are counted too, which only raises the estimate.
        values += piece.iter().filter(|byte| matches!(byte, b'{' | b'[' | b',' | b':')).count();
        quoted += piece.iter().filter(|byte| **byte >= 0x7f).count();
        has_escapes |= piece.contains(&b'\\');
    }
    let joining = usize::from(text.len() > 1);
    let parsing = if has_escapes { ESCAPED_FACTOR } else { REQUEST_FACTOR };
    (joining + parsing) * len_bytes + values * REQUEST_VALUE_BYTES + quoted * QUOTED_FACTOR
}

/// Renders an answer as text, behind its head.
///
/// # Errors
/// RESOURCE_EXHAUSTED if it takes more than the caller may hold.
pub(super) async fn of_message(
    schema: MethodSchema,
    message: Bytes,
    share: &Arc<ConnectionShare>,
) -> Result<Bytes, Status> {
    let (len_bytes, of_work) = (message.len(), share.clone());
    let work = move || -> Result<Bytes, Status> {
        let values = schema.response_values(&message);
        let mut held = ChargedBytes::new(of_work.clone());
        held.take(values * RESPONSE_VALUE_BYTES)?;
        let base64_bytes = message.len().div_ceil(3) * 4;
        let text_bytes = base64_bytes + (values + 1) * NAME_BYTES;
        let mut text = ChargedText::new(&[0; HEAD_LEN_BYTES], text_bytes, of_work)?;
        schema.response_to_json(message, &mut text).map_err(|error| match error {
            // Only the memory of the text fails.
            JsonError::Json(error) if error.is_io() => Status::from(OverloadedError),
            error => Status::internal(error.to_string()),
        })?;
        Ok(with_length(text.into_text()))
    };
    beside(len_bytes, share, work).await?
}

/// Writes the length of a text into the head before it.
fn with_length(mut framed: Vec<u8>) -> Bytes {
    let len = u32::try_from(framed.len() - HEAD_LEN_BYTES);
    let len = len.expect("JSON of a message of at most 25 MiB is shorter than 4 GiB");
    framed[1..HEAD_LEN_BYTES].copy_from_slice(&len.to_be_bytes());
    framed.into()
}

/// Decompresses a request (gzip, RFC 1952) without a caller, as fuzzing does.
///
/// # Errors
/// INVALID_ARGUMENT if it is not gzip; RESOURCE_EXHAUSTED if it is longer than [`REQUEST_LEN_BYTES_MAX`] then, or than
/// its compressed bytes allow.
pub(super) fn decompress(compressed: Bytes) -> Result<Bytes, Status> {
    // One of a process, as a node has: the memory of its table is not an input's.
    static BUDGET: LazyLock<MemoryBudget> = LazyLock::new(|| MemoryBudget::new(usize::MAX / 4));
    let share = BUDGET.connection(Ipv4Addr::LOCALHOST.into(), BUDGET.account(None))?;
    let charge = CallCharge::new(share);
    let mut decompressor = Decompressor::of_message(compressed);
    loop {
        if let Turn::Whole(pieces) = decompressor.turn(&charge, REQUEST_LEN_BYTES_MAX)? {
            return Ok(joined(without_head(pieces)));
        }
    }
}

/// Decompresses as [`decompress`] does, in turns. A message that takes more than one is decompressed outside of the
/// runtime's threads. The pieces are charged to `charge`.
///
/// # Errors
/// The errors of [`decompress`], and RESOURCE_EXHAUSTED if the caller holds too much memory.
async fn decompress_beside(
    compressed: Bytes,
    charge: &CallCharge,
) -> Result<VecDeque<Bytes>, Status> {
    let mut decompressor = Decompressor::of_message(compressed);
    loop {
        let turn = if decompressor.is_long() {
            let of_turn = charge.clone();
            let work = move || {
                let turn = decompressor.turn(&of_turn, REQUEST_LEN_BYTES_MAX);
                (decompressor, turn)
            };
            let (returned, turn) = long_work::beside(WorkCaller::of_call(charge), (), work).await?;
            decompressor = returned;
            turn
        } else {
            decompressor.turn(charge, REQUEST_LEN_BYTES_MAX)
        };
        if let Turn::Whole(pieces) = turn? {
            return Ok(without_head(pieces));
        }
    }
}

/// Returns the pieces of a message behind its head, which is a piece of its own.
fn without_head(mut pieces: VecDeque<Bytes>) -> VecDeque<Bytes> {
    pieces.pop_front();
    pieces
}

/// Returns the bytes of all pieces. Copies them if there are several.
pub(super) fn joined(mut pieces: VecDeque<Bytes>) -> Bytes {
    if pieces.len() <= 1 {
        return pieces.pop_front().unwrap_or_default();
    }
    let mut bytes = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
    bytes.freeze()
}

/// Returns the refusal of a request that is too long.
pub(super) fn too_long() -> Status {
    Status::resource_exhausted(format!(
        "a request in JSON has at most {REQUEST_LEN_BYTES_MAX} bytes: send application/proto"
    ))
}

/// Runs `work` on a text, on a blocking thread in the caller's turn if the text is long. The memory that it holds is
/// released when it is done, even if the caller has hung up before.
async fn beside<T: Send + 'static>(
    len_bytes: usize,
    share: &ConnectionShare,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    if len_bytes <= AT_ONCE_LEN_BYTES_MAX {
        return Ok(work());
    }
    long_work::beside(WorkCaller::of_connection(share), (), work).await
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures_util::FutureExt as _;
    use hawser_proto::pb::xmtp::xmtpv4::message_api::GetInboxIdsResponse;
    use hawser_proto::pb::xmtp::xmtpv4::message_api::get_inbox_ids_response::Response;
    use prost::Message as _;

    use super::*;

    fn gzip(text: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap().into()
    }

    /// Returns members without content, and a last one with an empty object.
    fn members(bytes: usize) -> Bytes {
        let mut compressed = gzip(b"").repeat(bytes / gzip(b"").len());
        compressed.extend(gzip(b"{}"));
        compressed.into()
    }

    fn connection(budget: &MemoryBudget) -> Arc<ConnectionShare> {
        budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap()
    }

    /// Compressed members without content take as much time as usual ones, and have hardly any text.
    #[tokio::test]
    async fn a_long_request_is_decompressed_beside_the_runtimes_threads() {
        let budget = MemoryBudget::new(1 << 30);
        let charge = CallCharge::new(connection(&budget));
        let occupied = long_work::occupy_workers().await;
        let mut decompressed = Box::pin(decompress_beside(members(12_000), &charge));
        assert!((&mut decompressed).now_or_never().is_none(), "it is done on this thread");
        drop(occupied);
        assert_eq!(joined(decompressed.await.unwrap()), "{}");
        assert_eq!(joined(decompress_beside(gzip(b"{ }"), &charge).await.unwrap()), "{ }");
        let refused = decompress_beside(members(1 << 20), &charge).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let refused = decompress_beside(vec![7_u8; 1 << 17].into(), &charge).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }

    const QUERY: &str = "/xmtp.xmtpv4.message_api.QueryApi/QueryEnvelopes";

    /// Returns a query in JSON, of a topic of this length.
    fn query(len_bytes: usize) -> Bytes {
        let topic = STANDARD.encode(vec![7; len_bytes]);
        format!(r#"{{"query":{{"topics":["{topic}"]}}}}"#).into()
    }

    /// The caller's share has room for the text, and not for the message that it becomes.
    #[tokio::test]
    async fn a_request_is_charged_before_it_is_parsed() {
        let schema = schema(QUERY).unwrap();
        let budget = MemoryBudget::new(8 << 20);
        let share = connection(&budget);
        let before = budget.used_bytes();
        for is_compressed in [false, true] {
            let body = |text: Bytes| if is_compressed { gzip(&text) } else { text };
            let few = to_message(schema.clone(), body(query(100_000)), is_compressed, &share);
            assert!(few.await.unwrap().len() > 100_000);
            let many = to_message(schema.clone(), body(query(2 << 20)), is_compressed, &share);
            let refused = many.await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
            assert!(refused.metadata().get("retry-after").is_some(), "{refused:?}");
            assert_eq!(budget.used_bytes(), before, "given back");
        }
    }

    #[test]
    fn the_memory_of_a_request_goes_by_its_text_and_its_values() {
        let of = |pieces: &[&'static str]| {
            request_bytes(
                &pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect(),
            )
        };
        assert_eq!(of(&[r#"{"a":"b"}"#]), 2 * 9 + 2 * REQUEST_VALUE_BYTES);
        assert_eq!(of(&[r#"{"a":"\/"}"#]), 3 * 10 + 2 * REQUEST_VALUE_BYTES);
        assert_eq!(of(&["[1,2,", "3]"]), 3 * 7 + 3 * REQUEST_VALUE_BYTES);
        assert_eq!(of(&["\"\u{7f}\u{e4}\""]), 2 * 5 + 3 * QUOTED_FACTOR);
    }

    /// Played by a caller whose value is six times as long in the library's error.
    #[tokio::test]
    async fn the_text_of_an_error_is_short_and_charged_before_it_is_made() {
        let schema = schema(QUERY).unwrap();
        let budget = MemoryBudget::new(8 << 20);
        let share = connection(&budget);
        let wrong = |len: usize| Bytes::from(format!(r#"{{"query":"{}"}}"#, "\u{7f}".repeat(len)));
        let refused = to_message(schema.clone(), wrong(10_000), false, &share).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().starts_with("request is not valid JSON: "), "{refused:?}");
        assert_eq!(refused.message().len(), ERROR_LEN_BYTES_MAX);
        let refused = to_message(schema, wrong(1 << 20), false, &share).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    }

    /// A text of control characters is six times as long in JSON.
    #[tokio::test]
    async fn an_answer_is_charged_before_it_grows() {
        let schema = schema("/xmtp.xmtpv4.message_api.QueryApi/GetInboxIds").unwrap();
        let budget = MemoryBudget::new(8 << 20);
        let share = connection(&budget);
        let before = budget.used_bytes();
        let answer = |len_bytes: usize| -> Bytes {
            let identifier = "\u{1}".repeat(len_bytes);
            let response = Response { identifier, ..Response::default() };
            GetInboxIdsResponse { responses: vec![response] }.encode_to_vec().into()
        };
        let mut text = of_message(schema.clone(), answer(100_000), &share).await.unwrap();
        let head = text.split_to(HEAD_LEN_BYTES);
        assert!(text.starts_with(b"{") && text.len() > 600_000);
        assert_eq!(head[1..], u32::try_from(text.len()).unwrap().to_be_bytes());
        let refused = of_message(schema, answer(3 << 19), &share).await.unwrap_err();
        assert!(refused.metadata().get("retry-after").is_some(), "{refused:?}");
        assert_eq!(budget.used_bytes(), before, "given back");
    }
}
