//! The text form of gRPC-Web: requests in base64 (gRPC-Web, Text-encoded streams).
//!
//! A client may pad each piece that it writes, and the network cuts the pieces anywhere. The library takes what has
//! come at once as one text, so the cuts would decide if a request is read. This body takes padding at the end of any
//! group of four characters.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};

/// The media types of gRPC-Web in its text form.
pub(crate) const WEB_TEXT_TYPES: [&str; 2] =
    ["application/grpc-web-text", "application/grpc-web-text+proto"];
/// Characters of a group, and the bytes that they become at most. Specified: RFC 4648 §4.
const GROUP_LEN: usize = 4;
const GROUP_LEN_BYTES: usize = 3;

/// The error of a body. The library passes its text on.
type BoxError = Box<dyn Error + Send + Sync>;

/// The text is no base64.
#[derive(Debug, thiserror::Error)]
#[error("malformed base64 request")]
struct MalformedTextError;

/// The decoder of a text in base64 that comes in pieces. The decoded bytes do not depend on where the text is cut.
///
/// Between two pieces it holds at most a group of characters, and no part of the memory of a piece.
#[derive(Debug, Default)]
pub struct WebText {
    /// The characters of the group that has begun, and then any others.
    begun: [u8; GROUP_LEN],
    /// Number of these characters.
    begun_len: usize,
}

impl WebText {
    /// Decodes the groups that are whole with `text`, and keeps what is left. Returns `None` if one is malformed: the
    /// text is refused then, and nothing after it has a meaning.
    #[must_use]
    pub fn decode(&mut self, text: &[u8]) -> Option<Bytes> {
        let groups = (self.begun_len + text.len()) / GROUP_LEN;
        let mut bytes = Vec::with_capacity(groups * GROUP_LEN_BYTES);
        let missing_len = (GROUP_LEN - self.begun_len) % GROUP_LEN;
        let (end, text) = text.split_at(text.len().min(missing_len));
        self.keep(end);
        if self.begun_len == GROUP_LEN {
            decode_groups(&self.begun, &mut bytes)?;
            self.begun_len = 0;
        }
        // Both are empty if the group above still lacks characters.
        let (groups, rest) = text.split_at(text.len() / GROUP_LEN * GROUP_LEN);
        decode_groups(groups, &mut bytes)?;
        self.keep(rest);
        Some(bytes.into())
    }

    /// Adds characters to the group that has begun, which has room for them.
    fn keep(&mut self, characters: &[u8]) {
        self.begun[self.begun_len..][..characters.len()].copy_from_slice(characters);
        self.begun_len += characters.len();
    }

    /// Returns true if the text may end here: every group that has begun is whole.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.begun_len == 0
    }
}

/// Decodes whole groups, of which any may have padding, and appends the bytes. Returns `None` if one is malformed.
fn decode_groups(text: &[u8], bytes: &mut Vec<u8>) -> Option<()> {
    let mut left = text;
    while !left.is_empty() {
        let padding = left.iter().position(|character| *character == b'=');
        let run_len = padding.map_or(left.len(), |at| at / GROUP_LEN * GROUP_LEN);
        let (run, others) = left.split_at(run_len);
        STANDARD.decode_vec(run, bytes).ok()?;
        // The group with padding, which ends a piece.
        let (padded, others) = others.split_at(others.len().min(GROUP_LEN));
        let mut last = [0; GROUP_LEN_BYTES];
        let len = STANDARD.decode_slice(padded, &mut last).ok()?;
        bytes.extend_from_slice(&last[..len]);
        left = others;
    }
    Some(())
}

/// A body in base64, decoded.
pub(crate) struct TextBody<B> {
    text: B,
    decoder: WebText,
}

impl<B> TextBody<B> {
    pub(crate) fn new(text: B) -> Self {
        Self { text, decoder: WebText::default() }
    }
}

impl<B> HttpBody for TextBody<B>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let text = match ready!(Pin::new(&mut self.text).poll_frame(cx)) {
                Some(Ok(frame)) => frame.into_data(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None if self.decoder.is_whole() => return Poll::Ready(None),
                None => {
                    self.decoder = WebText::default();
                    return Poll::Ready(Some(Err(MalformedTextError.into())));
                }
            };
            // gRPC gives trailers of a request no meaning.
            let Ok(text) = text else { continue };
            match self.decoder.decode(&text) {
                Some(bytes) if bytes.is_empty() => {}
                Some(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => return Poll::Ready(Some(Err(MalformedTextError.into()))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// Returns what a text becomes that comes in pieces of `len` characters; `None` if it is refused.
    async fn decoded(text: &str, len: usize) -> Option<Bytes> {
        let piece = |piece: &[u8]| Ok::<_, BoxError>(Frame::data(Bytes::copy_from_slice(piece)));
        let pieces: Vec<_> = text.as_bytes().chunks(len).map(piece).collect();
        let body = TextBody::new(StreamBody::new(stream::iter(pieces)));
        Some(BodyExt::collect(body).await.ok()?.to_bytes())
    }

    #[tokio::test]
    async fn padding_ends_any_group_however_the_text_is_cut() {
        let hello = Bytes::from_static(b"hello");
        for text in ["aGVsbG8=", "aA==ZQ==bA==bA==bw==", "aGU=bGxv", "aA==ZWxsbw=="] {
            for len in 1..=text.len() {
                assert_eq!(decoded(text, len).await.as_ref(), Some(&hello), "{text} by {len}");
            }
        }
        assert_eq!(decoded("", 1).await, Some(Bytes::new()));
    }

    #[tokio::test]
    async fn what_is_no_base64_is_refused_however_it_is_cut() {
        for text in ["aGVsbG8", "@@@@", "aGVs====", "aA=A", "a===", "aA==b", "aGVs\naGVs"] {
            for len in 1..=text.len() {
                assert_eq!(decoded(text, len).await, None, "{text:?} by {len}");
            }
        }
    }
}
