//! The body of a request for a service: complete messages only, each within the limit.
//!
//! The decoder allocates for a message as soon as it has read its length. It gets a message only
//! when all of it has arrived, so that a peer cannot reserve memory by claiming a length. Each piece is
//! charged when it arrives, and the decoded size of a message before it is passed on. A request of one message is
//! decoded only when all of it is here, to its end: until then it takes no more than its bytes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Version;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::call_metrics::MethodMetrics;
use crate::call_share::CallCharge;
use crate::decoding::cost_bytes;
use crate::frames::{Frames, MessageHeadError};
use crate::method::MethodKind;
use crate::settings::MESSAGE_LEN_BYTES_MAX;
use crate::unpack::{Turn, Unpacker};

/// Bytes of a refused body that are still read over HTTP/1.1, because such clients read a response only after they have
/// sent the request. A guess: more than two of the largest messages.
const DISCARDED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Length below which pieces are copied together. A piece keeps the connection's whole read buffer alive, so many small
/// pieces would hold far more memory than is charged. A whole frame of HTTP/2 (RFC 9113 §4.2).
const PIECE_LEN_BYTES_MIN: usize = 16 * 1024;
/// Cost at which the scan of a message stops, because no caller may hold that much. A guess: above every limit in use.
const COST_BYTES_MAX: usize = 4 * 1024 * 1024 * 1024;

/// A request body that yields whole messages and counts them.
pub(crate) struct RequestBody {
    body: Body,
    frames: Frames,
    /// Pieces of whole messages, then those of an unfinished one.
    pieces: VecDeque<Bytes>,
    /// Small pieces at the end of `pieces`.
    tail: BytesMut,
    /// The number of `pieces` that belong to whole messages.
    whole: usize,
    /// Memory for decoding the one message of the request, which is not charged yet.
    uncharged_bytes: usize,
    /// Decompresses messages; `None` if the request names no compression.
    unpacker: Option<Unpacker>,
    messages: u64,
    charge: CallCharge,
    metrics: &'static MethodMetrics,
    http1: bool,
    refused: Option<RefusedBody>,
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

/// The next event of a body.
enum Arrival {
    /// Whole messages wait.
    Whole,
    /// The body is over, or the request has to be refused with the status.
    End(Option<Status>),
}

/// A body that is refused, with the status to answer and the bytes read since.
struct RefusedBody {
    status: Status,
    discarded_bytes: usize,
}

impl RequestBody {
    pub(crate) fn new(
        body: Body,
        version: Version,
        metrics: &'static MethodMetrics,
        charge: CallCharge,
        timeout: Duration,
    ) -> Self {
        Self {
            body,
            frames: Frames::default(),
            pieces: VecDeque::new(),
            tail: BytesMut::new(),
            whole: 0,
            uncharged_bytes: 0,
            unpacker: None,
            messages: 0,
            charge,
            metrics,
            http1: version < Version::HTTP_2,
            refused: None,
            timeout,
            timer: None,
        }
    }

    /// Decompresses messages whose flag says that they are compressed.
    pub(crate) fn unpacking(self) -> Self {
        Self { unpacker: Some(Unpacker::default()), ..self }
    }

    /// Returns true if the client sends exactly one message.
    fn takes_one_message(&self) -> bool {
        self.metrics.method().kind() != MethodKind::Bidi
    }

    /// Takes the next piece of the body.
    ///
    /// # Errors
    /// The status that refuses the request.
    fn take(&mut self, mut piece: Bytes) -> Result<(), Status> {
        let step = self.frames.step(&piece, MESSAGE_LEN_BYTES_MAX).map_err(|error| {
            let code = match error {
                MessageHeadError::TooLarge { .. } => Code::ResourceExhausted,
                MessageHeadError::Flag(_) => Code::InvalidArgument,
            };
            Status::new(code, error.to_string())
        })?;
        self.messages += step.begun;
        self.metrics.received(step.begun);
        if self.takes_one_message() && self.messages > 1 {
            return Err(Status::invalid_argument("more than one request message"));
        }
        self.charge.take_for_request(piece.len())?;
        if let Some(end) = step.whole {
            let last = piece.split_to(end);
            if self.tail.is_empty() {
                self.pieces.push_back(last);
            } else {
                self.keep(last);
                self.keep_tail();
            }
            match &mut self.unpacker {
                Some(unpacker) => self.pieces.drain(..).for_each(|piece| unpacker.push(piece)),
                None => self.pass_on()?,
            }
        }
        self.keep(piece);
        Ok(())
    }

    /// Waits until all of a request of one message is here, and then for the memory to decode it, with `buffer_bytes`
    /// for the decoder. A refusal stays here, for the decoder to read.
    pub(crate) async fn receive(&mut self, buffer_bytes: usize) {
        let end = loop {
            match poll_fn(|cx| self.poll_arrival(cx)).await {
                Arrival::Whole => {}
                Arrival::End(end) => break end,
            }
        };
        self.body = Body::empty();
        let end = match end {
            None => {
                let cost_bytes = std::mem::take(&mut self.uncharged_bytes);
                let taken = self.charge.take_for_decoding(buffer_bytes, cost_bytes).await;
                taken.err().map(Status::from)
            }
            refused => refused,
        };
        if let Some(status) = end {
            self.refuse(status);
        }
    }

    /// Determines the decoded size of the messages, and passes them on. That of the one message of a request is charged
    /// when the message is taken.
    fn pass_on(&mut self) -> Result<(), Status> {
        let whole = self.pieces.iter().map(|piece| &piece[..]);
        let fields = self.metrics.method().fields();
        let cost = cost_bytes(whole, fields, COST_BYTES_MAX)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if self.takes_one_message() {
            self.uncharged_bytes = cost;
        } else {
            self.charge.take_for_request(cost)?;
        }
        self.whole = self.pieces.len();
        Ok(())
    }

    /// Decompresses a part of the waiting messages, and passes on a complete one. Returns false if none waits.
    ///
    /// # Errors
    /// The status that refuses the request.
    fn unpack(&mut self, cx: &Context<'_>) -> Result<Poll<bool>, Status> {
        let Some(unpacker) = self.unpacker.as_mut().filter(|unpacker| unpacker.has_work()) else {
            return Ok(Poll::Ready(false));
        };
        match unpacker.turn(&self.charge, MESSAGE_LEN_BYTES_MAX)? {
            Turn::Again => {
                cx.waker().wake_by_ref();
                Ok(Poll::Pending)
            }
            Turn::Whole(mut pieces) => {
                // Inserted before the pieces of the unfinished message that came last.
                let unfinished = std::mem::take(&mut self.pieces);
                std::mem::swap(&mut self.pieces, &mut pieces);
                self.pass_on()?;
                self.pieces.extend(unfinished);
                Ok(Poll::Ready(true))
            }
        }
    }

    /// Appends a piece of an unfinished message.
    fn keep(&mut self, piece: Bytes) {
        if piece.len() < PIECE_LEN_BYTES_MIN {
            self.tail.extend_from_slice(&piece);
        } else {
            self.keep_tail();
            self.pieces.push_back(piece);
        }
    }

    fn keep_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    fn refuse(&mut self, status: Status) {
        self.pieces.clear();
        self.tail.clear();
        self.whole = 0;
        self.uncharged_bytes = 0;
        self.unpacker.iter_mut().for_each(Unpacker::clear);
        self.refused = Some(RefusedBody { status, discarded_bytes: 0 });
    }

    /// Checks the body at its end.
    ///
    /// # Errors
    /// The status that refuses the request.
    fn end(&self) -> Result<(), Status> {
        if !self.frames.at_boundary() {
            return Err(Status::invalid_argument("incomplete request message"));
        }
        if self.takes_one_message() && self.messages == 0 {
            return Err(Status::invalid_argument("missing request message"));
        }
        Ok(())
    }

    /// Returns the status of a refused body. Over HTTP/1.1 it reads on first, because the client
    /// would otherwise see a reset connection instead of the status.
    fn poll_refused(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        while self.http1
            && let Some(refused) = &mut self.refused
            && refused.discarded_bytes < DISCARDED_BYTES_MAX
        {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    refused.discarded_bytes += frame.data_ref().map_or(0, Bytes::len);
                }
                Some(Err(_)) | None => break,
            }
        }
        let refused = self.refused.take().expect("called only after refuse");
        self.body = Body::empty();
        self.messages = 1; // the end that follows must not be refused once more
        self.frames = Frames::default();
        Poll::Ready(refused.status)
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.takes_one_message() {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.timeout)));
        timer.as_mut().poll(cx)
    }

    /// Reads the body on, until whole messages wait or it is over.
    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<Arrival> {
        loop {
            match self.unpack(cx) {
                Ok(Poll::Ready(false)) => {}
                Ok(Poll::Ready(true)) => return Poll::Ready(Arrival::Whole),
                Ok(Poll::Pending) => return Poll::Pending,
                Err(status) => self.refuse(status),
            }
            if !self.takes_one_message() && self.frames.at_boundary() {
                // The handler polls for more, so it has dropped the earlier messages.
                let kept = self.charge.keep_of_request(0);
                debug_assert!(kept.is_ok(), "nothing is always given");
            }
            let polled = if self.refused.is_some() {
                self.poll_refused(cx).map(|status| Arrival::End(Some(status)))
            } else {
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(piece) => {
                            match self.take(piece) {
                                Ok(()) if self.whole > 0 => return Poll::Ready(Arrival::Whole),
                                Ok(()) => {}
                                Err(status) => self.refuse(status),
                            }
                            continue;
                        }
                        // gRPC gives trailers of a request no meaning.
                        Err(_) => continue,
                    },
                    Poll::Ready(Some(Err(status))) => Poll::Ready(Arrival::End(Some(status))),
                    Poll::Ready(None) => match self.end() {
                        Ok(()) => return Poll::Ready(Arrival::End(None)),
                        Err(status) => {
                            self.refuse(status);
                            continue;
                        }
                    },
                    Poll::Pending => Poll::Pending,
                }
            };
            if polled.is_pending() && self.poll_timer(cx).is_ready() {
                let status = Status::deadline_exceeded("the request did not arrive in time");
                return Poll::Ready(Arrival::End(Some(status)));
            }
            return polled;
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let uncharged_bytes = std::mem::take(&mut self.uncharged_bytes);
            if uncharged_bytes > 0
                && let Err(overloaded) = self.charge.take_for_request(uncharged_bytes)
            {
                self.refuse(overloaded.into());
            }
            if self.whole > 0 {
                debug_assert!(self.whole <= self.pieces.len(), "whole counts pieces");
                self.whole -= 1;
                return Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))));
            }
            match ready!(self.poll_arrival(cx)) {
                Arrival::Whole => {}
                Arrival::End(status) => return Poll::Ready(status.map(Err)),
            }
        }
    }

    /// Always returns false: the consumer must poll to the end, where the body is checked.
    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::{FutureExt as _, StreamExt as _};
    use http_body_util::{BodyExt, StreamBody};
    use proptest::prelude::*;

    use super::*;
    use crate::budget::{ConnectionShare, MemoryBudget};
    use crate::method::RpcMethod;

    fn metrics_of(kind: MethodKind) -> &'static MethodMetrics {
        Box::leak(Box::new(MethodMetrics::new(RpcMethod::new("/a.B/C", kind))))
    }

    fn body_of(pieces: Vec<Bytes>, kind: MethodKind) -> RequestBody {
        let pieces = pieces.into_iter().map(|piece| Ok::<_, Status>(Frame::data(piece)));
        let body = Body::new(StreamBody::new(tokio_stream::iter(pieces)));
        charged_body_of(body, kind, &MemoryBudget::new(usize::MAX / 4))
    }

    fn charged_body_of(body: Body, kind: MethodKind, budget: &MemoryBudget) -> RequestBody {
        let connection =
            budget.connection(std::net::Ipv4Addr::LOCALHOST.into(), budget.account()).unwrap();
        let timeout = Duration::from_secs(30);
        RequestBody::new(
            body,
            Version::HTTP_2,
            metrics_of(kind),
            CallCharge::new(connection),
            timeout,
        )
    }

    async fn read(mut body: RequestBody) -> (Vec<u8>, Option<Status>) {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes.extend_from_slice(&frame.into_data().unwrap()),
                Err(status) => return (bytes, Some(status)),
            }
        }
        (bytes, None)
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(work)
    }

    fn message(len: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        message.resize(5 + len, 9);
        message
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend_from_slice(message);
        framed
    }

    fn cut(bytes: &[u8], len: usize) -> Vec<Bytes> {
        bytes.chunks(len).map(Bytes::copy_from_slice).collect()
    }

    proptest! {
        #[test]
        fn whole_messages_pass_as_they_are(
            lens in proptest::collection::vec(0usize..50, 0..6),
            piece in 1usize..40,
        ) {
            let bytes: Vec<u8> = lens.iter().flat_map(|&len| message(len)).collect();
            let body = body_of(cut(&bytes, piece), MethodKind::Bidi);
            let (passed, status) = run(read(body));
            prop_assert_eq!(passed, bytes);
            prop_assert!(status.is_none());
        }

        #[test]
        fn nothing_of_a_message_passes_before_all_of_it_is_here(
            len in 1usize..50,
            missing in 1usize..50,
            piece in 1usize..20,
        ) {
            let bytes = message(len);
            let bytes = &bytes[..bytes.len() - missing.min(len)];
            let body = body_of(cut(bytes, piece), MethodKind::Unary);
            let (passed, status) = run(read(body));
            prop_assert!(passed.is_empty());
            let status = status.unwrap();
            prop_assert_eq!(status.message(), "incomplete request message");
        }
    }

    #[tokio::test]
    async fn a_claim_beyond_the_limit_is_refused_before_the_message_comes() {
        let mut head = message(0);
        head[1..].copy_from_slice(&(26 * 1024 * 1024u32).to_be_bytes());
        let (passed, status) = read(body_of(vec![head.into()], MethodKind::Unary)).await;
        assert!(passed.is_empty());
        assert_eq!(status.unwrap().code(), Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn a_message_that_grows_when_it_is_decoded_is_refused_before() {
        let budget = MemoryBudget::new(16 * 1024 * 1024);
        // 200 kB, and by the costs of a small request 64 times as much.
        let elements = framed(&[[0x0a, 100].as_slice(), &[1; 100]].concat().repeat(2000));
        let pieces = cut(&elements, 16 * 1024).into_iter();
        let pieces = pieces.map(|piece| Ok::<_, Status>(Frame::data(piece)));
        let body = Body::new(StreamBody::new(tokio_stream::iter(pieces)));
        let (passed, status) = read(charged_body_of(body, MethodKind::Unary, &budget)).await;
        assert!(passed.is_empty());
        let status = status.unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.metadata().get("retry-after").is_some());
        assert_eq!(budget.used_bytes(), 0, "given back");
    }

    #[tokio::test]
    async fn a_unary_request_is_one_message() {
        let none = read(body_of(vec![], MethodKind::Unary)).await.1.unwrap();
        assert_eq!(none.message(), "missing request message");
        let two = [message(1), message(2)].concat();
        let two = read(body_of(vec![two.into()], MethodKind::Unary)).await.1.unwrap();
        assert_eq!(two.code(), Code::InvalidArgument);
    }

    /// A body that has begun with `bytes` and may go on. Uses the memory of `connection`.
    fn arriving(bytes: Vec<u8>, ends: bool, connection: &Arc<ConnectionShare>) -> RequestBody {
        let pieces = tokio_stream::iter([Ok::<_, Status>(Frame::data(Bytes::from(bytes)))]);
        let body = if ends {
            Body::new(StreamBody::new(pieces))
        } else {
            Body::new(StreamBody::new(pieces.chain(futures_util::stream::pending())))
        };
        let charge = CallCharge::new(Arc::clone(connection));
        let metrics = metrics_of(MethodKind::ServerStream);
        RequestBody::new(body, Version::HTTP_2, metrics, charge, Duration::from_secs(30))
    }

    /// A hundred topics of 17 bytes, as elements of a small request.
    fn elements() -> Vec<u8> {
        framed(&[[0x0a, 17].as_slice(), &[1; 17]].concat().repeat(100))
    }

    #[tokio::test]
    async fn nothing_is_charged_for_decoding_before_the_end_of_a_request() {
        const BUFFER_BYTES: usize = 8 * 1024;
        let budget = MemoryBudget::new(64 * 1024 * 1024);
        let connection =
            budget.connection(std::net::Ipv4Addr::LOCALHOST.into(), budget.account()).unwrap();
        let idle_bytes = budget.used_bytes();
        let sent = elements();
        let mut body = arriving(sent.clone(), false, &connection);
        assert!(body.receive(BUFFER_BYTES).now_or_never().is_none(), "it has not ended");
        assert_eq!(budget.used_bytes(), idle_bytes + sent.len(), "what is here");
        drop(body);
        assert_eq!(budget.used_bytes(), idle_bytes);
        let mut body = arriving(sent.clone(), true, &connection);
        body.receive(BUFFER_BYTES).await;
        assert!(budget.used_bytes() > idle_bytes + sent.len() + BUFFER_BYTES + 100 * 17);
        assert!(matches!(read(body).await, (passed, None) if passed == sent));
        assert_eq!(budget.used_bytes(), idle_bytes);
    }

    /// Open streams hold the share of a connection when the next request comes. It is served when another one has been
    /// decoded, instead of being refused.
    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_the_memory_to_decode_it() {
        let budget = MemoryBudget::new(64 * 1024 * 1024);
        let connection =
            budget.connection(std::net::Ipv4Addr::LOCALHOST.into(), budget.account()).unwrap();
        let open = CallCharge::new(Arc::clone(&connection));
        let step = 16 * 1024;
        while open.take(step).is_ok() {}
        open.give_back(step);
        let mut body = arriving(elements(), true, &connection);
        let received = async {
            body.receive(8 * 1024).await;
            read(body).await
        };
        let giving = async {
            sleep(Duration::from_secs(1)).await;
            open.give_back(16 * step);
        };
        let ((passed, status), ()) = tokio::join!(received, giving);
        assert!(status.is_none(), "{status:?}");
        assert_eq!(passed, elements());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_finds_no_memory_is_refused_after_its_wait() {
        let budget = MemoryBudget::new(64 * 1024 * 1024);
        let connection =
            budget.connection(std::net::Ipv4Addr::LOCALHOST.into(), budget.account()).unwrap();
        let open = CallCharge::new(Arc::clone(&connection));
        let step = 16 * 1024;
        while open.take(step).is_ok() {}
        open.give_back(step);
        let mut body = arriving(elements(), true, &connection);
        let before_bytes = budget.used_bytes();
        body.receive(8 * 1024).await;
        let (passed, status) = read(body).await;
        assert!(passed.is_empty());
        assert_eq!(status.unwrap().code(), Code::ResourceExhausted);
        assert_eq!(budget.used_bytes(), before_bytes, "given back");
    }
}
