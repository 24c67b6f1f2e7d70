//! The answer to one call: its messages, one after another, and its end.
//!
//! Read here and not by the transport's own client, which gathers long messages of all calls at once, and panics at a
//! status whose details are malformed.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::message_reader::{LONG_BYTES, MessageReader, ReadStep};
use hawser_proto::{Bytes, code_of_http};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::Body as _;
use tonic::codegen::http::{HeaderMap, Response, StatusCode};
use tonic::{Code, Status};

use super::call_error::PeerCallError;
use crate::arrived_bytes::ArrivedBytes;
use crate::counters::PeerError;

/// Largest message: the network's limit of 25 MiB, with room for the message around the envelopes. Specified in
/// `docs/protocol/api.md`.
pub(super) const MESSAGE_BYTES_MAX: usize = 25 * 1024 * 1024 + 1024;
/// The bytes of long messages of one peer that are gathered at a time, in all calls together, and handed over. Their
/// buffers grow as the bytes arrive, and may take twice as much. A guess: two of the largest, one more than is needed
/// to use the whole connection. While strands of a peer with such messages wait for the disk, others of the same peer
/// get none.
const LONG_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;
/// Bytes of memory per permit of the semaphore. Longest messages have 25,601 of them.
const PERMIT_BYTES: usize = 1024;
/// Longest wait for the memory of a long message. A guess, as over QUIC: two of the longest messages arrive within it
/// at a hundred megabits a second. A call that waits keeps a part of the connection's window from the others.
const LONG_WAIT: Duration = Duration::from_secs(5);

/// The details of a status, in which the transport's client panics unless they are Base64. Nothing here reads them.
const DETAILS: &str = "grpc-status-details-bin";

/// Bounds the long messages that are gathered from one peer.
///
/// A message may have 25 MiB for the sake of the largest envelope, and a peer may be asked for every strand. Without a
/// bound the peer could make this node hold such a message for each strand, by never sending the last byte.
#[derive(Debug, Clone)]
pub(super) struct LongMessages(Arc<Semaphore>);

impl LongMessages {
    /// Returns the bound of a new connection.
    pub(super) fn new() -> Self {
        const { assert!(LONG_BYTES < MESSAGE_BYTES_MAX) };
        Self(Arc::new(Semaphore::new(LONG_BYTES_MAX / PERMIT_BYTES)))
    }

    /// Waits for the memory of a message. Cancel safe.
    async fn permit(&self, len: usize) -> Result<OwnedSemaphorePermit, PeerCallError> {
        let permits = u32::try_from(len.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let permit = timeout(LONG_WAIT, Arc::clone(&self.0).acquire_many_owned(permits)).await;
        Ok(permit.map_err(|_| PeerCallError::TooManyLong)?.expect("never closed"))
    }
}

/// The answer to one call. Dropping it cancels the call.
#[derive(Debug)]
pub(super) struct Answer {
    headers: HeaderMap,
    body: Body,
    reader: MessageReader,
    long: LongMessages,
    /// Held while a long message is gathered, and until the next one is asked for.
    permit: Option<OwnedSemaphorePermit>,
    /// The status that ends the answer, once it has come.
    status: Option<Status>,
    /// True if the answer is a stream, which may end without a status behind its first message.
    is_stream: bool,
    /// True once the first message has come.
    has_begun: bool,
    /// Counts the bytes that arrive.
    arrived: ArrivedBytes,
}

impl Answer {
    /// Begins to read an answer whose messages have at most `bytes_max` bytes.
    ///
    /// # Errors
    /// When the answer is an error and nothing else.
    pub(super) fn new(
        response: Response<Body>,
        bytes_max: usize,
        long: LongMessages,
    ) -> Result<Self, PeerCallError> {
        let (parts, body) = response.into_parts();
        let status = status_in(&parts.headers);
        let refused = status.clone().filter(|status| status.code() != Code::Ok);
        if refused.is_none() && parts.status == StatusCode::NOT_FOUND {
            return Err(PeerCallError::NotFound);
        }
        if let Some(error) = refused.or_else(|| status_of(parts.status)) {
            return Err(error.into());
        }
        let reader = MessageReader::new(bytes_max);
        let (is_stream, has_begun) = (false, false);
        let (headers, permit, arrived) = (parts.headers, None, ArrivedBytes::default());
        Ok(Self { headers, body, reader, long, permit, status, is_stream, has_begun, arrived })
    }

    /// Returns the answer as a stream: behind its first message, an end without a status is one in good order. A server
    /// that stops may end its streams so.
    pub(super) fn into_stream(self) -> Self {
        Self { is_stream: true, ..self }
    }

    /// Returns the answer with its bytes counted here as they arrive.
    pub(super) fn counted_in(self, arrived: ArrivedBytes) -> Self {
        Self { arrived, ..self }
    }

    /// Returns a header of the answer.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the next message; `None` when the peer has ended the answer in good order. The memory of the message
    /// before is given back to others. Cancel safe.
    ///
    /// # Errors
    /// [`PeerCallError::TooManyLong`] when a long message has waited too long for its memory, and every other end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, PeerCallError> {
        self.permit = None;
        loop {
            match self.reader.step(self.permit.is_some()).map_err(PeerError::from)? {
                ReadStep::Message(message) => {
                    self.has_begun = true;
                    return Ok(Some(message));
                }
                ReadStep::Long(len) => {
                    self.permit = Some(self.long.permit(len).await?);
                    continue;
                }
                ReadStep::More => {}
            }
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
            let Some(frame) = frame else { return self.end().map(|()| None) };
            match frame?.into_data() {
                Ok(data) => {
                    self.arrived.add(data.len());
                    self.reader.push(data);
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().ok();
                    self.status = trailers.and_then(|it| status_in(&it)).or(self.status.take());
                }
            }
        }
    }

    /// Returns the only message of an answer. Its memory counts until the answer is dropped.
    ///
    /// # Errors
    /// The errors of [`Answer::next`], and an error if the answer has no message or several.
    pub(super) async fn only(&mut self) -> Result<Bytes, PeerCallError> {
        let message = self.next().await?;
        let message = message.ok_or_else(|| Status::internal("the answer has no message"))?;
        let permit = self.permit.take();
        if self.next().await?.is_some() {
            return Err(PeerError::Protocol.into());
        }
        self.permit = permit;
        Ok(message)
    }

    /// Judges the end of the answer.
    fn end(&self) -> Result<(), PeerCallError> {
        if !self.reader.is_between() {
            return Err(Status::internal("the answer ended within a message").into());
        }
        match &self.status {
            Some(status) if status.code() == Code::Ok => Ok(()),
            Some(status) => Err(status.clone().into()),
            None if self.is_stream && self.has_begun => Ok(()),
            None => Err(Status::unknown("the answer ended without a status").into()),
        }
    }
}

/// Returns the status in headers or trailers, without its details.
fn status_in(headers: &HeaderMap) -> Option<Status> {
    let mut headers = headers.clone();
    headers.remove(DETAILS);
    Status::from_header_map(&headers)
}

/// Returns the error of an answer that does not come from a gRPC server, by its HTTP status; `None` for 200. The caller
/// has handled 404, which is [`PeerCallError::NotFound`]: a proxy whose peer restarts answers so as well.
fn status_of(status: StatusCode) -> Option<Status> {
    let number = status.as_u16();
    let error = || {
        let code = Code::from_i32(code_of_http(number));
        Status::new(code, format!("the answer has the HTTP status {number}"))
    };
    (status != StatusCode::OK).then(error)
}

#[cfg(test)]
mod tests {
    use hawser_proto::envelope_list::EnvelopeList;
    use tonic::codec::EncodeBody;
    use tonic::codegen::tokio_stream;
    use tonic_prost::ProstEncoder;

    use super::*;

    /// An answer with one message of this length and a good end.
    fn answer(len: usize, long: &LongMessages) -> Answer {
        let list = EnvelopeList { envelopes: vec![vec![7; len].into()] };
        let frames = tokio_stream::once(Ok::<_, Status>(list));
        let body = EncodeBody::new_client(ProstEncoder::default(), frames, None, None);
        let mut response = Response::new(Body::new(body));
        response.headers_mut().insert("grpc-status", "0".parse().unwrap());
        Answer::new(response, MESSAGE_BYTES_MAX, long.clone()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn long_messages_of_all_calls_share_the_memory_of_two_and_short_ones_need_none() {
        const LONG: usize = 24 << 20;
        let long = LongMessages::new();
        let mut held: Vec<_> = (0..3).map(|_| answer(LONG, &long)).collect();
        assert!(held[0].next().await.is_ok_and(|message| message.is_some()));
        assert!(held[1].next().await.is_ok_and(|message| message.is_some()));
        assert!(matches!(held[2].next().await, Err(PeerCallError::TooManyLong)));
        assert!(answer(LONG_BYTES / 2, &long).only().await.is_ok());
        held.push(answer(3 << 20, &long));
        assert!(matches!(held[3].only().await, Err(PeerCallError::TooManyLong)));
        assert!(matches!(held[0].next().await, Ok(None)));
        assert!(held[2].next().await.is_ok_and(|message| message.is_some()), "it was not lost");
        let mut page = answer(LONG, &long);
        assert!(matches!(page.only().await, Err(PeerCallError::TooManyLong)));
        held.clear();
        assert!(page.only().await.is_ok());
        let left = LONG_BYTES_MAX / PERMIT_BYTES - LONG / PERMIT_BYTES;
        assert!(long.0.available_permits() < left, "it counts until it is dropped");
        drop(page);
        let mut middle: Vec<_> = (0..16).map(|_| answer(3 << 20, &long)).collect();
        for answer in &mut middle {
            assert!(answer.next().await.is_ok_and(|message| message.is_some()));
        }
        drop(middle);
        assert_eq!(long.0.available_permits(), LONG_BYTES_MAX / PERMIT_BYTES);
    }

    #[tokio::test]
    async fn the_bytes_of_an_answer_are_counted() {
        let arrived = ArrivedBytes::default();
        for (len, is_enough) in [(100, false), (100_000, true)] {
            let mut page = answer(len, &LongMessages::new()).counted_in(arrived.clone());
            assert!(!arrived.take_enough(), "{len}");
            assert!(page.only().await.is_ok());
            assert_eq!(arrived.take_enough(), is_enough, "{len}");
        }
    }

    #[tokio::test]
    async fn malformed_details_of_a_status_are_no_concern() {
        let response = |status: &'static str| {
            let mut response = Response::new(Body::empty());
            let headers = response.headers_mut();
            headers.insert("grpc-status", status.parse().unwrap());
            headers.insert(DETAILS, "!".parse().unwrap());
            Answer::new(response, 1, LongMessages::new())
        };
        assert!(matches!(response("14"), Err(PeerCallError::Answered(_))));
        assert!(matches!(response("12"), Err(PeerCallError::Unimplemented)));
        assert!(matches!(response("8"), Err(PeerCallError::Busy(_))));
        assert!(matches!(response("4"), Err(PeerCallError::Busy(_))));
        assert!(matches!(response("0").unwrap().next().await, Ok(None)));
    }

    #[tokio::test]
    async fn an_end_without_a_status_is_an_error_and_so_is_a_web_page() {
        let end = |status: u16| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Answer::new(response, 1, LongMessages::new())
        };
        assert!(matches!(end(200).unwrap().next().await, Err(PeerCallError::Answered(_))));
        assert!(matches!(end(404), Err(PeerCallError::NotFound)));
        assert!(matches!(end(502), Err(PeerCallError::Answered(_))));
        assert!(matches!(end(403), Err(PeerCallError::Failed(_))));
    }

    /// A peer of other software that is stopped ends quiet streams so, and is followed again without a pause.
    #[tokio::test]
    async fn a_stream_that_has_begun_may_end_without_a_status() {
        let bare = || {
            let mut bare = answer(5, &LongMessages::new());
            bare.status = None;
            bare
        };
        let mut stream = bare().into_stream();
        assert!(stream.next().await.is_ok_and(|message| message.is_some()));
        assert!(matches!(stream.next().await, Ok(None)));
        assert!(matches!(bare().only().await, Err(PeerCallError::Answered(_))));
        let empty = Answer::new(Response::new(Body::empty()), 1, LongMessages::new());
        let ended = empty.unwrap().into_stream().next().await;
        assert!(matches!(ended, Err(PeerCallError::Answered(_))), "it has not begun");
    }
}
