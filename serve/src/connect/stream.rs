//! The body of a stream's answer: each message as it comes, then the end-of-stream message.

use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream;
use hawser_proto::pb::MethodSchema;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tonic::Status;
use tonic::body::Body;

use super::compression::AnswerCompression;
use super::{error, json};
use crate::budget::ConnectionShare;
use crate::charged_bytes::ChargedBytes;
use crate::message_boundaries::HEAD_LEN_BYTES;

/// Translates the body of a gRPC answer. With a `schema` its messages become JSON, with `compression` they are
/// compressed.
pub(super) fn translate(
    body: Body,
    schema: Option<MethodSchema>,
    share: Arc<ConnectionShare>,
    compression: Option<AnswerCompression>,
) -> Body {
    let answer =
        TranslatedAnswer { body, schema, share, unread: BytesMut::new(), held: None, ended: false };
    let frames = stream::unfold(answer, |mut answer| async move {
        let piece = answer.next().await?;
        Some((Ok::<_, Status>(Frame::data(piece)), answer))
    });
    match compression {
        Some(compression) => Body::new(compression.messages(StreamBody::new(Box::pin(frames)))),
        None => Body::new(StreamBody::new(frames)),
    }
}

struct TranslatedAnswer {
    body: Body,
    schema: Option<MethodSchema>,
    share: Arc<ConnectionShare>,
    /// Bytes of messages that are not translated yet.
    unread: BytesMut,
    /// The charge of `unread`.
    held: Option<ChargedBytes>,
    ended: bool,
}

impl TranslatedAnswer {
    /// Returns the next piece of the translated body; `None` after the message that ends it.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let status = match self.message().await {
            Ok(Some(piece)) => return Some(piece),
            Ok(None) => Status::unknown("the stream broke off"),
            Err(status) => status,
        };
        self.ended = true;
        self.body = Body::empty(); // its call ends now
        Some(error::end_of_stream(&status))
    }

    /// Returns the next message, or a piece of it if it needs no translation.
    ///
    /// # Errors
    /// The status of the stream's end, OK included.
    async fn message(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(schema) = &self.schema
                && let Some(message) = take_message(&mut self.unread)
            {
                let framed = json::of_message(schema.clone(), message, &self.share).await?;
                if self.unread.is_empty() {
                    (self.unread, self.held) = (BytesMut::new(), None);
                }
                return Ok(Some(framed));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            match frame?.into_data() {
                Ok(piece) if self.schema.is_none() => return Ok(Some(piece)),
                Ok(piece) => {
                    let held =
                        self.held.get_or_insert_with(|| ChargedBytes::new(self.share.clone()));
                    held.take(growth_bytes(&self.unread, piece.len()))?;
                    self.unread.extend_from_slice(&piece);
                }
                Err(last) => {
                    let ended = last.trailers_ref().and_then(Status::from_header_map);
                    return ended.map_or(Ok(None), Err);
                }
            }
        }
    }
}

/// Removes and returns the first message, if all of it has arrived.
fn take_message(unread: &mut BytesMut) -> Option<Bytes> {
    let &[_, a, b, c, d] = unread.first_chunk::<HEAD_LEN_BYTES>()?;
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if unread.len() - HEAD_LEN_BYTES < len {
        return None;
    }
    unread.advance(HEAD_LEN_BYTES);
    Some(unread.split_to(len).freeze())
}

/// Returns the bytes by which a buffer grows at most when a piece of this length is added: a full one doubles.
fn growth_bytes(buffer: &BytesMut, len_bytes: usize) -> usize {
    let room_bytes = buffer.capacity() - buffer.len();
    if len_bytes <= room_bytes { 0 } else { len_bytes.max(buffer.capacity()) }
}
