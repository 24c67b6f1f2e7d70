//! The messages of a stream, which the listener encodes.
//!
//! The library's encoder keeps the memory of a stream's last messages until the stream ends. A client that reads one
//! message of 8 MiB on each of a thousand streams would make a node hold 8 GiB, which nothing charges. Here each piece
//! of a body has memory of its own, which is freed when the piece is written, and is charged until then.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{self, Empty, Stream, StreamExt as _};
use http::{Extensions, HeaderMap};
use hyper::body::{Body as HttpBody, Frame};
use parking_lot::Mutex;
use prost::Message;
use tonic::body::Body;
use tonic::{Response, Status};

/// Length in bytes of what stands before each message: a byte about compression and four of the length.
const PREFIX_LEN_BYTES: usize = 5;
/// Length in bytes from which a piece is passed on although more messages are ready. Small ones are sent together, in
/// one write. The value of the library's encoder.
pub(crate) const PIECE_LEN_BYTES_MIN: usize = 32 * 1024;

/// The answers of a stream in the type of the generated services. The messages are in the extensions of the response.
pub type NoMessages<T> = Empty<Result<T, Status>>;

/// Returns the response of a method that answers with a stream of messages. The listener encodes them, and ends the
/// call with OK behind the last one, or with the first error.
pub fn stream_response<T, S>(messages: S) -> Response<NoMessages<T>>
where
    T: Message + 'static,
    S: Stream<Item = Result<T, Status>> + Send + Unpin + 'static,
{
    let body = Body::new(MessagesBody { messages, end: None, is_ended: false });
    let mut response = Response::new(stream::empty());
    response.extensions_mut().insert(UntakenMessages(Arc::new(Mutex::new(Some(body)))));
    response
}

/// Messages on their way from a handler to the listener.
#[derive(Clone)]
struct UntakenMessages(Arc<Mutex<Option<Body>>>);

/// Takes the body of a stream's messages from the extensions of its response. Returns `None` for other responses.
pub(crate) fn take_messages(extensions: &mut Extensions) -> Option<Body> {
    extensions.remove::<UntakenMessages>().and_then(|untaken| untaken.0.lock().take())
}

/// The body of a stream of messages.
struct MessagesBody<S> {
    messages: S,
    /// The status behind the piece that was passed on last.
    end: Option<Status>,
    is_ended: bool,
}

/// Appends a message with its prefix. The first message of a piece gets a buffer of its own length, and a long one
/// behind it no more room than it needs: only the length of a piece is charged.
///
/// # Errors
/// INTERNAL if its length does not fit into the prefix.
fn append(piece: &mut Vec<u8>, message: &impl Message) -> Result<(), Status> {
    let len = message.encoded_len();
    let prefix = u32::try_from(len)
        .map_err(|_| Status::internal(format!("a message of {len} bytes cannot be sent")))?;
    match piece.is_empty() {
        true => piece.reserve_exact(PREFIX_LEN_BYTES + len),
        false => piece.reserve(PREFIX_LEN_BYTES + len),
    }
    piece.push(0); // as it is, without compression
    piece.extend_from_slice(&prefix.to_be_bytes());
    message.encode(piece).map_err(|error| Status::internal(error.to_string()))
}

impl<T, S> HttpBody for MessagesBody<S>
where
    T: Message,
    S: Stream<Item = Result<T, Status>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        let mut piece = Vec::new();
        while self.end.is_none() && piece.len() < PIECE_LEN_BYTES_MIN {
            match self.messages.poll_next_unpin(cx) {
                Poll::Pending if piece.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Some(Ok(message))) => self.end = append(&mut piece, &message).err(),
                Poll::Ready(Some(Err(status))) => self.end = Some(status),
                Poll::Ready(None) => self.end = Some(Status::ok("")),
            }
        }
        if !piece.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(piece.into()))));
        }
        let status = self.end.take().expect("without a piece there is an end");
        self.is_ended = true;
        let mut trailers = HeaderMap::new();
        let added = status.add_header(&mut trailers);
        Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::sync::mpsc;
    use tonic::Code;
    use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

    use super::*;

    fn body<S>(messages: S) -> Body
    where
        S: Stream<Item = Result<String, Status>> + Send + Unpin + 'static,
    {
        let mut response = stream_response(messages);
        take_messages(response.extensions_mut()).expect("the response has messages")
    }

    /// Returns a message as it is sent: a text is field 1 of its message.
    fn sent(text: &str) -> Vec<u8> {
        let mut piece = Vec::new();
        append(&mut piece, &text.to_owned()).unwrap();
        piece
    }

    async fn piece(body: &mut Body) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    async fn end(body: &mut Body) -> Status {
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
        Status::from_header_map(&trailers).unwrap()
    }

    /// Played by clients that read a long message on each of many streams, and keep these open.
    #[tokio::test]
    async fn a_stream_keeps_no_memory_of_a_message_that_was_written() {
        let (messages, open) = mpsc::channel(1);
        let mut body = body(ReceiverStream::new(open));
        messages.send(Ok("x".repeat(1 << 20))).await.unwrap();
        let piece = piece(&mut body).await;
        // Only a handle that has its memory alone can be changed. That of the library's encoder could not be.
        assert!(
            piece.try_into_mut().is_ok(),
            "the body has a part of the memory of its last piece"
        );
        drop(messages);
        assert_eq!(end(&mut body).await.code(), Code::Ok);
    }

    #[tokio::test]
    async fn small_messages_that_are_ready_are_sent_together() {
        let texts = ["a", "", "b"].map(str::to_owned);
        let expected = texts.each_ref().map(|text| sent(text)).concat();
        let mut body = body(stream::iter(texts.map(Ok)));
        assert_eq!(piece(&mut body).await, expected);
        assert_eq!(end(&mut body).await.code(), Code::Ok);
    }

    #[tokio::test]
    async fn a_long_message_does_not_wait_for_the_next_one() {
        let long = "x".repeat(PIECE_LEN_BYTES_MIN);
        let mut body = body(stream::iter([Ok(long.clone()), Ok("b".to_owned())]));
        assert_eq!(piece(&mut body).await, sent(&long));
        assert_eq!(piece(&mut body).await, sent("b"));
        assert_eq!(end(&mut body).await.code(), Code::Ok);
    }

    #[tokio::test]
    async fn an_error_ends_the_call_behind_what_came_before() {
        let late = Ok("never sent".to_owned());
        let mut body = body(stream::iter([Ok("a".to_owned()), Err(Status::aborted("b")), late]));
        assert_eq!(piece(&mut body).await, sent("a"));
        let status = end(&mut body).await;
        assert_eq!((status.code(), status.message()), (Code::Aborted, "b"));
    }

    #[test]
    fn a_response_without_messages_has_none() {
        assert!(take_messages(&mut Extensions::new()).is_none());
    }
}
