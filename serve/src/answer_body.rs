//! The body of an answer on its way to the connection.
//!
//! The memory of one client behind a proxy may be needed for others. Then its call ends, and the proxy's connection
//! goes on. But the HTTP library resets a stream only when the body of its answer fails, and what it has of a body that
//! has ended waits in the connection until the client reads. So the body of such an answer gives nothing more, and no
//! end, while much of it is not written: it can fail at any time until then.
//!
//! While its stream has no window at all, the library keeps a piece of the answer, and asks the body for nothing. Then
//! the task of the call is dropped, which resets the stream, too.
//!
//! Over HTTP/1 a proxy's connection has one call, and ends with it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::activity::Busy;
use crate::answered_task::note_answered;
use crate::budget::ConnectionShare;
use crate::call_share::Outgoing;
use crate::overloaded::OverloadedError;
use crate::unflushed::{OpenStream, StateInCall};
use crate::unwritten::UnwrittenBytes;

/// An open call, and the share that its answer is charged to.
pub(crate) struct OpenCall {
    share: Arc<ConnectionShare>,
    _busy: Busy,
    /// The bytes of the answer that wait to be written; `None` for a call that ends with its connection.
    unwritten: Option<Arc<UnwrittenBytes>>,
    /// The stream of the answer, if it is counted.
    stream: Option<Arc<OpenStream>>,
    /// The state of the stream, if the call is charged for it. Behind the body of the answer, which has that charge.
    _state: Option<StateInCall>,
}

impl OpenCall {
    /// Creates an open call. `ends_alone`: it is one on a proxy's connection over HTTP/2.
    pub(crate) fn new(share: Arc<ConnectionShare>, busy: Busy, ends_alone: bool) -> Self {
        let unwritten = ends_alone.then(Arc::default);
        Self { share, _busy: busy, unwritten, stream: None, _state: None }
    }

    /// Counts `stream` as open until the call and all pieces of its answer are dropped. Its `state` is charged to the
    /// call as long as it has the body of the answer.
    pub(crate) fn on(self, stream: OpenStream, state: Option<StateInCall>) -> Self {
        Self { stream: Some(Arc::new(stream)), _state: state, ..self }
    }

    /// Ties the call to the body of its response.
    pub(crate) fn until<B>(self, body: B) -> AnswerBody<B> {
        if self.unwritten.is_some() {
            note_answered(&self.share);
        }
        AnswerBody { body, call: self, closed: None }
    }

    fn outgoing(&self, bytes: Bytes) -> Outgoing {
        let piece = Outgoing::new(bytes, self.share.clone());
        piece.counted_in(self.unwritten.clone()).on(self.stream.clone())
    }
}

/// A response body that keeps its connection from being idle, and whose pieces are charged until they are written.
pub(crate) struct AnswerBody<B> {
    body: B,
    call: OpenCall,
    /// Completes when the call has to end. `None` before much has waited to be written.
    closed: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<B> AnswerBody<B> {
    /// Completes when more of the body may be passed on.
    ///
    /// # Errors
    /// [`OverloadedError`]: the call has to end, and what waits must not stay.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), OverloadedError>> {
        let Self { call, closed, .. } = self;
        let Some(unwritten) = &call.unwritten else { return Poll::Ready(Ok(())) };
        if unwritten.poll_few(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let closed = closed.get_or_insert_with(|| {
            let share = call.share.clone();
            Box::pin(async move { share.closed().await })
        });
        closed.as_mut().poll(cx).map(|()| Err(OverloadedError))
    }
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> Body for AnswerBody<B> {
    type Data = Outgoing;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Outgoing>, Status>>> {
        if let Err(overloaded) = ready!(self.poll_room(cx)) {
            return Poll::Ready(Some(Err(overloaded.into())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let charged = |bytes| self.call.outgoing(bytes);
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(charged))))
    }

    fn is_end_stream(&self) -> bool {
        let waits = self.call.unwritten.as_ref().is_some_and(|unwritten| !unwritten.are_few());
        !waits && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use futures_util::FutureExt as _;
    use http::HeaderMap;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use tonic::body::Body as Answer;

    use super::*;
    use crate::activity::Activity;
    use crate::address::ClientAddress;
    use crate::budget::MemoryBudget;
    use crate::unwritten::UNWRITTEN_BYTES_MAX;

    const MIB: usize = 1024 * 1024;
    const LIMIT: usize = 64 * MIB;

    fn client(number: u8) -> ClientAddress {
        IpAddr::from(Ipv4Addr::new(192, 0, 2, number)).into()
    }

    /// Returns the connection of a proxy.
    fn proxy(budget: &MemoryBudget) -> Arc<ConnectionShare> {
        budget.proxy(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap()
    }

    /// Returns an answer of one message and its trailers.
    fn answer(share: Arc<ConnectionShare>, ends_alone: bool, len: usize) -> AnswerBody<Answer> {
        let frames = [Frame::data(Bytes::from(vec![7; len])), Frame::trailers(HeaderMap::new())];
        let frames = futures_util::stream::iter(frames.map(Ok::<_, Status>));
        let busy = Busy::new(Arc::new(Activity::new()));
        OpenCall::new(share, busy, ends_alone).until(Answer::new(StreamBody::new(frames)))
    }

    /// Played by a client whose proxy stops reading its call, as the client does. The test has the message in place of
    /// the connection.
    #[tokio::test]
    async fn an_answer_behind_a_proxy_that_is_not_read_fails_when_its_memory_is_needed() {
        let budget = MemoryBudget::new(LIMIT);
        let proxy = proxy(&budget);
        let mut greedy = answer(proxy.of_call(client(1)), true, 40 * MIB);
        let message = greedy.frame().await.unwrap().unwrap();
        assert!(greedy.frame().now_or_never().is_none(), "its end waits");
        let other = proxy.of_call(client(2));
        other.take_anyway(20 * MIB);
        let failed = greedy.frame().await.unwrap().map(drop).unwrap_err();
        assert_eq!(failed.code(), tonic::Code::ResourceExhausted);
        // The library drops what it has of a stream that it resets.
        drop((message, greedy));
        assert!(budget.used_bytes() < 21 * MIB, "{}", budget.used_bytes());
        assert!(other.take(MIB).is_ok());
    }

    #[tokio::test]
    async fn an_answer_behind_a_proxy_goes_on_when_it_is_written() {
        let budget = MemoryBudget::new(LIMIT);
        let proxy = proxy(&budget);
        let before = budget.used_bytes();
        let mut read = answer(proxy.of_call(client(1)), true, MIB);
        let message = read.frame().await.unwrap().unwrap();
        assert!(!read.is_end_stream());
        let mut next = Box::pin(read.frame());
        assert!((&mut next).now_or_never().is_none());
        drop(message);
        assert!(next.await.unwrap().unwrap().is_trailers());
        drop(read);
        assert_eq!(budget.used_bytes(), before);
    }

    /// The library takes a body without trailers as ended together with its last piece.
    #[tokio::test]
    async fn a_page_behind_a_proxy_has_no_end_before_it_is_written() {
        let budget = MemoryBudget::new(LIMIT);
        let share = proxy(&budget).of_call(client(1));
        for (ends_alone, ends_with_piece) in [(true, false), (false, true)] {
            let busy = Busy::new(Arc::new(Activity::new()));
            let page = Answer::new(Full::new(Bytes::from(vec![7; MIB])));
            let mut page = OpenCall::new(share.clone(), busy, ends_alone).until(page);
            let piece = page.frame().await.unwrap().unwrap();
            assert_eq!(page.is_end_stream(), ends_with_piece);
            drop(piece);
            assert!(page.is_end_stream());
            assert!(page.frame().await.is_none());
        }
    }

    #[tokio::test]
    async fn short_answers_and_those_that_end_with_their_connection_do_not_wait() {
        let budget = MemoryBudget::new(LIMIT);
        let share = proxy(&budget).of_call(client(1));
        for (ends_alone, len) in [(true, UNWRITTEN_BYTES_MAX), (false, MIB)] {
            let mut answer = answer(share.clone(), ends_alone, len);
            let _message = answer.frame().await.unwrap().unwrap();
            assert!(answer.frame().await.unwrap().unwrap().is_trailers());
        }
    }
}
