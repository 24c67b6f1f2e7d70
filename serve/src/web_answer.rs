//! The text form of gRPC-Web: answers in base64, made in short pieces.
//!
//! The library makes the text of a piece of an answer at once, on a thread of the runtime. So an answer that becomes
//! text is cut before: a connection takes no more pieces than it can write.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::ACCEPT;
use http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::budget::ConnectionShare;
use crate::calls::Calls;
use crate::charged_bytes::ChargedBytes;
use crate::web_text::WEB_TEXT_TYPES;

/// Longest piece that becomes a text, in bytes. A multiple of three, so that only the end of an answer is padded. A
/// guess: its text of 64 KiB takes some 50 µs.
const PIECE_LEN_BYTES_MAX: usize = 48 * 1024;

/// Calls of gRPC-Web. Answers that become text come in short pieces.
pub(crate) struct WebCalls(pub(crate) Calls);

impl Service<Request<Body>> for WebCalls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let accepted = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
        let is_text = accepted.is_some_and(|accepted| WEB_TEXT_TYPES.contains(&accepted));
        if !is_text {
            return self.0.call(request);
        }
        let share = ConnectionShare::of(request.extensions()).clone();
        let answered = self.0.call(request);
        let cut = |body: Body| Body::new(ShortPieces::new(body, share));
        Box::pin(async move { answered.await.map(|response| response.map(cut)) })
    }
}

/// A body in short pieces.
struct ShortPieces<B> {
    body: B,
    /// The rest of the current piece of `body`.
    rest: Bytes,
    /// The charge of that piece. Its memory is not free before all of it has become text.
    held: ChargedBytes,
}

impl<B> ShortPieces<B> {
    fn new(body: B, share: Arc<ConnectionShare>) -> Self {
        Self { body, rest: Bytes::new(), held: ChargedBytes::new(share) }
    }
}

impl<B: HttpBody<Data = Bytes, Error = Status> + Unpin> HttpBody for ShortPieces<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                // Passed on at once, so it needs no charge here.
                Ok(piece) if piece.len() <= PIECE_LEN_BYTES_MAX => {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                Ok(piece) => {
                    self.held.set(piece.len());
                    self.rest = piece;
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let len = self.rest.len().min(PIECE_LEN_BYTES_MAX);
        let piece = self.rest.split_to(len);
        if self.rest.is_empty() {
            self.held.set(0);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::HeaderMap;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;
    use crate::budget::MemoryBudget;

    #[tokio::test]
    async fn a_long_answer_comes_in_short_pieces_and_is_charged_until_the_last() {
        const LEN: usize = 2 * PIECE_LEN_BYTES_MAX + 1;
        let budget = MemoryBudget::new(1 << 30);
        let share = budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
        let before = budget.used_bytes();
        let long = Frame::data(Bytes::from(vec![7; LEN]));
        let frames = [long, Frame::trailers(HeaderMap::new())].map(Ok::<_, Status>);
        let mut pieces = ShortPieces::new(StreamBody::new(tokio_stream::iter(frames)), share);
        let whole = (PIECE_LEN_BYTES_MAX, LEN);
        for (len, charged_bytes) in [whole, whole, (1, 0)] {
            let frame = pieces.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap().len(), len);
            assert_eq!(budget.used_bytes(), before + charged_bytes);
        }
        assert!(pieces.frame().await.unwrap().unwrap().is_trailers());
    }
}
