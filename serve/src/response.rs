//! The body of a response. Counts its messages and its status as they pass.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Span;

use crate::call_metrics::MethodMetrics;
use crate::call_share::CallCharge;
use crate::message_boundaries::BoundaryDecoder;
use crate::method::MethodKind;
use crate::overloaded::OverloadedError;
use crate::status_headers::correct;

/// The metrics of one call, from its start to its status. A call that is dropped before its status counts as cancelled,
/// because its caller disconnected.
#[derive(Debug)]
pub(crate) struct CountedCall {
    metrics: &'static MethodMetrics,
    span: Span,
    /// Start of the call, or the time of a stream's last message.
    since: Instant,
    ended: bool,
}

impl CountedCall {
    /// Counts the start of a call. `span` is entered while its response body is written.
    pub(crate) fn start(metrics: &'static MethodMetrics, span: Span) -> Self {
        metrics.started();
        Self { metrics, span, since: Instant::now(), ended: false }
    }

    /// Counts the end of the call. Later statuses are ignored.
    pub(crate) fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            if self.metrics.method().kind() == MethodKind::Unary {
                self.metrics.took(self.since.elapsed());
            }
            self.metrics.ended(code);
        }
    }

    fn is_open(&self) -> bool {
        !self.ended
    }

    fn sent(&mut self, messages: u64) {
        self.metrics.sent(messages);
        if messages > 0 && self.metrics.method().kind() != MethodKind::Unary {
            self.metrics.took(self.since.elapsed());
            self.since = Instant::now();
        }
    }
}

impl Drop for CountedCall {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The text of a status at a deadline.
pub(crate) const LATE: &str = "request timed out";

/// A response body that counts its messages and ends at the caller's deadline.
pub(crate) struct ResponseBody {
    body: Body,
    boundaries: BoundaryDecoder,
    call: CountedCall,
    charge: CallCharge,
    /// Completes when the call must end because its caller holds too much memory. `None` before the body has waited:
    /// most answers never do.
    closed: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Completes at the caller's deadline.
    late: Option<Pin<Box<Sleep>>>,
    is_closed: bool,
    /// True once a part of an answer has passed.
    is_answered: bool,
}

impl ResponseBody {
    /// Creates the body of a response. `late` completes at the caller's deadline, which holds for the whole call.
    pub(crate) fn new(
        body: Body,
        call: CountedCall,
        charge: CallCharge,
        late: Option<Pin<Box<Sleep>>>,
    ) -> Self {
        if !call.is_open() {
            charge.end(); // the status is in the headers
        }
        let boundaries = BoundaryDecoder::default();
        let (is_closed, is_answered) = (false, false);
        Self { body, boundaries, call, charge, closed: None, late, is_closed, is_answered }
    }

    /// Returns true if a call that has to end may end here: no message has begun.
    fn may_close(&self) -> bool {
        self.call.is_open() && self.boundaries.at_boundary()
    }

    /// Returns the status with which the call has to end now, if it has to.
    fn due(&self) -> Option<Status> {
        if self.charge.connection().close.is_cancelled() {
            return Some(OverloadedError.into());
        }
        let is_late = |late: &Pin<Box<Sleep>>| late.deadline() <= tokio::time::Instant::now();
        self.late.as_ref().is_some_and(is_late).then(|| Status::deadline_exceeded(LATE))
    }

    /// Completes when the call has to end.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Self { closed, charge, late, .. } = self;
        let closed = closed.get_or_insert_with(|| {
            let connection = charge.connection().clone();
            Box::pin(async move { connection.closed().await })
        });
        if closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(OverloadedError.into());
        }
        match late.as_mut().map(|late| late.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(Status::deadline_exceeded(LATE)),
            _ => Poll::Pending,
        }
    }

    /// Ends the call with a status.
    fn close(&mut self, status: &Status) -> Frame<Bytes> {
        self.is_closed = true;
        self.body = Body::empty(); // frees the data of the answer now
        self.end(status.code());
        let mut trailers = HeaderMap::new();
        let added = status.add_header(&mut trailers);
        debug_assert!(added.is_ok(), "the text of this status fits into a header");
        Frame::trailers(trailers)
    }
}

impl ResponseBody {
    /// Records the end of the call. An answered unary call has given back its memory before, and a stream does so when
    /// its state is dropped.
    fn end(&mut self, code: Code) {
        let is_unanswered = !self.is_answered && self.call.is_open();
        if is_unanswered && self.call.metrics.method().kind() == MethodKind::Unary {
            self.charge.end();
        }
        self.call.end(code);
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let span = self.call.span.clone();
        let _entered = span.enter();
        if self.is_closed {
            return Poll::Ready(None);
        }
        if self.may_close()
            && let Some(status) = self.due()
        {
            return Poll::Ready(Some(Ok(self.close(&status))));
        }
        let Poll::Ready(mut frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            if !self.may_close() {
                return Poll::Pending;
            }
            let status = ready!(self.poll_due(cx));
            return Poll::Ready(Some(Ok(self.close(&status))));
        };
        let mut ended = None;
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            ended = correct(trailers);
        }
        match &frame {
            Some(Ok(frame)) => {
                if let Some(piece) = frame.data_ref() {
                    self.is_answered = true;
                    let step = self.boundaries.step(piece, usize::MAX);
                    debug_assert!(step.is_ok(), "this server frames its own messages: {step:?}");
                    let begun = step.map_or(0, |step| step.begun);
                    self.call.sent(begun);
                    match self.call.metrics.method().kind() {
                        // The answer is encoded, so the data that it was made of is freed.
                        MethodKind::Unary => self.charge.clear(),
                        MethodKind::ServerStream => self.charge.answers(),
                        // Its headers are dropped, and its requests have no buffer of the library.
                        MethodKind::Bidi if self.call.metrics.method().takes_messages() => {
                            self.charge.answers();
                        }
                        MethodKind::Bidi => {}
                    }
                } else if let Some(code) = ended {
                    self.end(code);
                }
            }
            Some(Err(status)) => self.end(status.code()),
            None => self.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_closed || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;
    use crate::budget::MemoryBudget;
    use crate::call_metrics::CallMetrics;

    /// Otherwise a client that reads nothing could have any number of long texts wait for it, which nothing charges.
    #[tokio::test]
    async fn the_text_of_a_streams_end_is_cut_too() {
        let budget = MemoryBudget::new(1 << 30);
        let share = budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
        let call = CountedCall::start(CallMetrics::new(&[]).method("/a.B/C"), Span::none());
        let mut trailers = HeaderMap::new();
        Status::not_found("x".repeat(1_000_000)).add_header(&mut trailers).unwrap();
        let frames = [Ok::<_, Status>(Frame::<Bytes>::trailers(trailers))];
        let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
        let mut body = ResponseBody::new(body, call, CallCharge::new(share), None);
        let end = body.frame().await.unwrap().unwrap();
        let status = Status::from_header_map(end.trailers_ref().unwrap()).unwrap();
        assert_eq!(status.code(), Code::NotFound);
        assert!((1_000..10_000).contains(&status.message().len()), "{}", status.message().len());
    }
}
