//! The body of a request for a service: complete messages only, each within the limit.
//!
//! The decoder allocates for a message as soon as it has read its length. It gets a message only
//! when all of it has arrived, so that a peer cannot reserve memory by claiming a length. Each piece is
//! charged when it arrives, and the decoded size of a message before it is passed on. A request of one message is
//! decoded only when all of it is here, to its end: until then it takes no more than its bytes. A stream of requests
//! is charged for its earlier messages until its handler polls for more.

mod ahead;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Version;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::budget::changes::ChangeUnderWay;
use crate::call_metrics::MethodMetrics;
use crate::call_share::CallCharge;
use crate::decoded_size::{FieldCost, cost_bytes};
use crate::decompression::{Decompressor, Turn};
use crate::held_pieces::HeldPieces;
use crate::long_work::{self, WorkCaller};
use crate::memory_wait;
use crate::message_boundaries::{BoundaryDecoder, MessageHeadError};
use crate::method::MethodKind;
use crate::overloaded::OverloadedError;
use crate::settings::MESSAGE_LEN_BYTES_MAX;

/// Cost at which the scan of a message stops, because no caller may hold that much. A guess: above every limit in use.
const COST_BYTES_MAX: usize = 4 * 1024 * 1024 * 1024;
/// Text of the refusal of a request that has something behind its only message.
const MORE_THAN_ONE: &str = "more than one request message";

/// A scan of long messages for the memory to decode them, beside the runtime's threads.
type CostScan = Pin<Box<dyn Future<Output = Result<Result<usize, Status>, Status>> + Send>>;
/// A turn of the decompression of long messages, beside the runtime's threads. Returns the decompressor, which it has
/// meanwhile.
type DecompressionTurn =
    Pin<Box<dyn Future<Output = Result<(Decompressor, Result<Turn, Status>), Status>> + Send>>;
/// Work on a message that was taken: see [`RequestBody::begin_work`].
pub(crate) type WorkFuture<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

/// A request body that yields whole messages and counts them.
pub(crate) struct RequestBody {
    body: Body,
    boundaries: BoundaryDecoder,
    /// Pieces of whole messages.
    whole: VecDeque<Bytes>,
    /// Pieces of the message that comes after them.
    unfinished: HeldPieces,
    /// Memory for decoding the messages that wait, which is not charged yet.
    uncharged_bytes: usize,
    /// The scan that determines this memory, as long as it is under way for long messages.
    scan: Option<CostScan>,
    /// The end of the wait for that memory, while whole messages of a stream of requests wait for it.
    wait_end: Option<Instant>,
    /// The latest end of the wait of a request of one message; `None` without one.
    wait_end_max: Option<Instant>,
    /// Bytes that came while messages waited for memory or their handler, and the end of the body, if it came then.
    ahead: HeldPieces,
    ahead_end: Option<Result<(), Status>>,
    /// Decompresses messages; `None` if the request names no compression.
    decompressor: Option<Decompressor>,
    /// The turn of the decompressor that is under way beside the runtime's threads.
    decompression_turn: Option<DecompressionTurn>,
    messages: u64,
    charge: CallCharge,
    metrics: &'static MethodMetrics,
    http1: bool,
    /// The status that the refused body ends with.
    refused: Option<Status>,
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
            boundaries: BoundaryDecoder::default(),
            whole: VecDeque::new(),
            unfinished: HeldPieces::default(),
            uncharged_bytes: 0,
            scan: None,
            wait_end: None,
            wait_end_max: None,
            ahead: HeldPieces::default(),
            ahead_end: None,
            decompressor: None,
            decompression_turn: None,
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
    pub(crate) fn decompressing(mut self) -> Self {
        self.decompressor = Some(Decompressor::default());
        self
    }

    /// Bounds the wait for memory of a request with one message: it ends at this time at the latest.
    pub(crate) fn waiting_until(mut self, latest: Option<Instant>) -> Self {
        self.wait_end_max = latest;
        self
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
        if piece.is_empty() {
            return Ok(());
        }
        let step = self.boundaries.step(&piece, MESSAGE_LEN_BYTES_MAX).map_err(|error| {
            let code = match error {
                MessageHeadError::TooLarge { .. } => Code::ResourceExhausted,
                MessageHeadError::Flag(_) => Code::InvalidArgument,
            };
            Status::new(code, error.to_string())
        })?;
        self.messages += step.begun;
        self.metrics.received(step.begun);
        // Its message waits here until the end of the request, and stays charged only if nothing comes behind it.
        if self.takes_one_message() && (self.messages > 1 || !self.whole.is_empty()) {
            return Err(Status::invalid_argument(MORE_THAN_ONE));
        }
        let Some(end) = step.whole else {
            self.charge_held(self.unfinished.growth_bytes(piece.len()))?;
            self.unfinished.push(piece);
            return Ok(());
        };
        let rest = piece.split_off(end);
        let whole = self.unfinished.finish(piece);
        self.charge_held(len_bytes(&whole) + self.unfinished.growth_bytes(rest.len()))?;
        match &mut self.decompressor {
            Some(decompressor) => whole.into_iter().for_each(|piece| decompressor.push(piece)),
            None => self.pass_on(whole)?,
        }
        self.unfinished.push(rest);
        Ok(())
    }

    /// Charges the request for what is held of unfinished and later messages, and for `more`. To be called while no
    /// message is passed on or being decompressed.
    ///
    /// # Errors
    /// [`OverloadedError`]: the request must be refused.
    fn charge_held(&self, more: usize) -> Result<(), OverloadedError> {
        let compressed_bytes = self.decompressor.as_ref().map_or(0, Decompressor::compressed_bytes);
        let held_bytes = self.unfinished.held_bytes() + self.ahead.held_bytes() + compressed_bytes;
        self.charge.keep_of_request(held_bytes + more)
    }

    /// Waits until all of a request of one message is here, and then for the memory to decode it, with `buffer_bytes`
    /// for the decoder.
    ///
    /// # Errors
    /// The status that refuses the request. The body is not to be read after that.
    pub(crate) async fn receive(&mut self, buffer_bytes: usize) -> Result<(), Status> {
        let end = loop {
            match poll_fn(|cx| self.poll_arrival(cx)).await {
                Arrival::Whole => {}
                Arrival::End(end) => break end,
            }
        };
        self.body = Body::empty();
        match end {
            None => self.take_for_decoding(buffer_bytes).await,
            Some(refused) => Err(refused),
        }
    }

    /// Waits for the memory to decode the messages that wait.
    ///
    /// # Errors
    /// The status that refuses the request.
    async fn take_for_decoding(&mut self, buffer_bytes: usize) -> Result<(), Status> {
        poll_fn(|cx| self.poll_scan(cx)).await?;
        let cost_bytes = std::mem::take(&mut self.uncharged_bytes);
        let latest = self.wait_end_max;
        let wait_end = move || {
            let wait_end = memory_wait::wait_end();
            latest.map_or(wait_end, |latest| latest.min(wait_end))
        };
        let taken = self.charge.take_for_decoding(wait_end, buffer_bytes, cost_bytes).await;
        taken.map_err(Status::from)
    }

    /// Waits for the next whole messages of a stream of requests and for the memory to decode them, and appends them to
    /// `to`. Sets `change` to the change that they are together, if it counts as one that is under way. Returns false
    /// at the end of the requests. Cancel safe.
    ///
    /// # Errors
    /// The status that refuses the request.
    pub(crate) async fn next_whole(
        &mut self,
        to: &mut BytesMut,
        change: &mut Option<ChangeUnderWay>,
    ) -> Result<bool, Status> {
        if self.whole.is_empty()
            && let Arrival::End(end) = poll_fn(|cx| self.poll_arrival(cx)).await
        {
            return end.map_or(Ok(false), Err);
        }
        poll_fn(|cx| match self.poll_scan(cx) {
            Poll::Ready(scanned) => Poll::Ready(scanned),
            Poll::Pending => self.poll_ahead(usize::MAX, cx).map(|it| Err(Status::from(it))),
        })
        .await?;
        if self.uncharged_bytes > 0 {
            let charge = self.charge.clone();
            // A caller that takes other events meanwhile drops this future at each of them, and calls again.
            let wait_end = *self.wait_end.get_or_insert_with(memory_wait::wait_end);
            let mut taking = pin!(charge.take_for_change(wait_end, self.uncharged_bytes));
            *change = poll_fn(|cx| match taking.as_mut().poll(cx) {
                Poll::Ready(taken) => Poll::Ready(taken),
                Poll::Pending => self.poll_ahead(usize::MAX, cx).map(Err),
            })
            .await?;
            (self.uncharged_bytes, self.wait_end) = (0, None);
        }
        to.reserve(len_bytes(&self.whole));
        let whole = std::mem::take(&mut self.whole);
        whole.into_iter().for_each(|piece| to.extend_from_slice(&piece));
        Ok(true)
    }

    /// Returns true if the whole messages that wait are [long](long_work::is_long).
    pub(crate) fn is_long(&self) -> bool {
        long_work::is_long(len_bytes(&self.whole))
    }

    /// Begins `work` on a message of this body that was taken: beside the runtime's threads if the message is long. The
    /// message stays charged until the work is done.
    pub(crate) fn begin_work<T: Send + 'static>(
        &self,
        message: Bytes,
        work: impl FnOnce(Bytes) -> T + Send + 'static,
    ) -> WorkFuture<T> {
        if !long_work::is_long(message.len()) {
            return Box::pin(std::future::ready(Ok::<T, Status>(work(message))));
        }
        let (caller, held) = (WorkCaller::of_call(&self.charge), self.charge.hold());
        Box::pin(long_work::beside(caller, held, move || work(message)))
    }

    /// Completes when the work on a message is done. The body is read on meanwhile. Cancel safe.
    ///
    /// # Errors
    /// INTERNAL if the work has panicked, or the runtime stops. RESOURCE_EXHAUSTED if the peer must send no more.
    pub(crate) async fn work_done<T>(&mut self, working: &mut WorkFuture<T>) -> Result<T, Status> {
        poll_fn(|cx| match working.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => self.poll_ahead(usize::MAX, cx).map(|it| Err(Status::from(it))),
        })
        .await
    }

    /// Returns true if whole messages wait to be taken.
    pub(crate) fn has_whole(&self) -> bool {
        !self.whole.is_empty()
    }

    /// Returns the next frame of the body: first what was read ahead.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(piece) = self.ahead.pop() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.ahead_end.take() {
            Some(end) => Poll::Ready(end.err().map(Err)),
            None => self.poll_new(cx),
        }
    }

    /// Returns the next frame that arrives. Over HTTP/1.1 a client chooses how its body is cut, and a long piece would
    /// keep the whole read buffer alive, while the short ones behind it are copied out of that buffer. So it is copied,
    /// too.
    fn poll_new(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if !self.http1 {
            return Poll::Ready(frame);
        }
        Poll::Ready(
            frame.map(|frame| {
                frame.map(|frame| frame.map_data(|piece| Bytes::copy_from_slice(&piece)))
            }),
        )
    }

    /// Passes messages on, and determines their decoded size: of long ones later, beside the runtime's threads. It is
    /// charged when they are taken.
    fn pass_on(&mut self, whole: VecDeque<Bytes>) -> Result<(), Status> {
        let fields = self.metrics.method().fields();
        if long_work::is_long(len_bytes(&whole)) {
            let scanned = whole.clone();
            let scan = move || cost_of(&scanned, fields);
            let caller = WorkCaller::of_call(&self.charge);
            self.scan = Some(Box::pin(long_work::beside(caller, self.charge.hold(), scan)));
        } else {
            self.uncharged_bytes = cost_of(&whole, fields)?;
        }
        self.whole = whole;
        Ok(())
    }

    /// Completes when the decoded size of the messages that wait is known.
    ///
    /// # Errors
    /// The status that refuses the request. No message waits any more.
    fn poll_scan(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Some(scan) = &mut self.scan else { return Poll::Ready(Ok(())) };
        let scanned = ready!(scan.as_mut().poll(cx));
        self.scan = None;
        Poll::Ready(match scanned.flatten() {
            Ok(cost_bytes) => {
                self.uncharged_bytes = cost_bytes;
                Ok(())
            }
            Err(status) => {
                self.whole.clear();
                Err(status)
            }
        })
    }

    /// Decompresses a part of the waiting messages, and passes on a complete one. Returns false if none waits. What
    /// takes more than a turn is decompressed beside the runtime's threads.
    ///
    /// # Errors
    /// The status that refuses the request.
    fn decompress(&mut self, cx: &mut Context<'_>) -> Result<Poll<bool>, Status> {
        let Some(decompressor) = &mut self.decompressor else { return Ok(Poll::Ready(false)) };
        if self.decompression_turn.is_none() {
            if !decompressor.has_work() {
                return Ok(Poll::Ready(false));
            }
            if decompressor.is_long() {
                let (mut taken, charge) = (std::mem::take(decompressor), self.charge.clone());
                let work = move || {
                    let turn = taken.turn(&charge, MESSAGE_LEN_BYTES_MAX);
                    (taken, turn)
                };
                let caller = WorkCaller::of_call(&self.charge);
                let turn = long_work::beside(caller, self.charge.hold(), work);
                self.decompression_turn = Some(Box::pin(turn));
            }
        }
        let turn = match &mut self.decompression_turn {
            Some(beside) => {
                let Poll::Ready(done) = beside.as_mut().poll(cx) else { return Ok(Poll::Pending) };
                self.decompression_turn = None;
                let (returned, turn) = done?;
                *decompressor = returned;
                turn
            }
            None => decompressor.turn(&self.charge, MESSAGE_LEN_BYTES_MAX),
        };
        match turn? {
            Turn::Again => {
                cx.waker().wake_by_ref();
                Ok(Poll::Pending)
            }
            Turn::Whole(pieces) => {
                self.pass_on(pieces)?;
                Ok(Poll::Ready(true))
            }
        }
    }

    /// Gives back the memory of earlier messages of a stream of requests: the handler polls for more, so it has dropped
    /// them. A message that is being decompressed keeps its own.
    fn drop_earlier(&self) {
        let is_decompressing = self.decompression_turn.is_some()
            || self.decompressor.as_ref().is_some_and(Decompressor::is_decompressing);
        if self.takes_one_message() || is_decompressing {
            return;
        }
        let kept = self.charge_held(0);
        debug_assert!(kept.is_ok(), "what is held is charged");
    }

    fn refuse(&mut self, status: Status) {
        self.note_abandoned();
        self.whole.clear();
        self.unfinished = HeldPieces::default();
        self.ahead = HeldPieces::default();
        (self.uncharged_bytes, self.scan, self.decompression_turn) = (0, None, None);
        self.decompressor.iter_mut().for_each(Decompressor::clear);
        self.refused = Some(status);
    }

    /// Lets the caller's address rest for a message that has not come to its end, and now will not.
    fn note_abandoned(&self) {
        let bytes = self.unfinished.held_bytes();
        if bytes > 0 {
            self.charge.abandoned(bytes);
        }
    }

    /// Checks the body at its end.
    ///
    /// # Errors
    /// The status that refuses the request.
    fn end(&self) -> Result<(), Status> {
        if !self.boundaries.at_boundary() {
            return Err(Status::invalid_argument("incomplete request message"));
        }
        if self.takes_one_message() && self.messages == 0 {
            return Err(Status::invalid_argument("missing request message"));
        }
        Ok(())
    }

    /// Ends a refused body. Returns its status.
    fn end_refused(&mut self) -> Option<Status> {
        let status = self.refused.take()?;
        self.body = Body::empty();
        self.messages = 1; // the end that follows must not be refused once more
        self.boundaries = BoundaryDecoder::default();
        Some(status)
    }

    /// Completes when a request of one message has had its time to arrive.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Arrival> {
        if !self.takes_one_message() {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.timeout)));
        timer.as_mut().poll(cx).map(|()| {
            let status = Status::deadline_exceeded("the request did not arrive in time");
            Arrival::End(Some(status))
        })
    }

    /// Reads the body on, until whole messages wait or it is over.
    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<Arrival> {
        loop {
            self.drop_earlier();
            match self.decompress(cx) {
                Ok(Poll::Ready(false)) => {}
                Ok(Poll::Ready(true)) => return Poll::Ready(Arrival::Whole),
                Ok(Poll::Pending) => match self.poll_behind(cx) {
                    // It has come to its end.
                    Poll::Pending if self.ahead_end.is_some() => return Poll::Pending,
                    Poll::Pending => return self.poll_late(cx),
                    Poll::Ready(status) => self.refuse(status),
                },
                Err(status) => self.refuse(status),
            }
            let polled = if let Some(status) = self.end_refused() {
                Poll::Ready(Arrival::End(Some(status)))
            } else {
                match self.poll_body(cx) {
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(piece) => {
                            match self.take(piece) {
                                Ok(()) if !self.whole.is_empty() => {
                                    return Poll::Ready(Arrival::Whole);
                                }
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
            return if polled.is_pending() { self.poll_late(cx) } else { polled };
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.note_abandoned();
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
            if let Err(status) = ready!(self.poll_scan(cx)) {
                self.refuse(status);
            }
            let uncharged_bytes = std::mem::take(&mut self.uncharged_bytes);
            if uncharged_bytes > 0
                && let Err(overloaded) = self.charge.take_for_request(uncharged_bytes)
            {
                self.refuse(overloaded.into());
            }
            if let Some(piece) = self.whole.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
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

fn len_bytes(pieces: &VecDeque<Bytes>) -> usize {
    pieces.iter().map(Bytes::len).sum()
}

/// Returns the memory to decode the messages in `pieces`.
///
/// # Errors
/// The method's refusal of more elements than it takes.
fn cost_of(pieces: &VecDeque<Bytes>, fields: &[FieldCost]) -> Result<usize, Status> {
    cost_bytes(pieces.iter().map(|piece| &piece[..]), fields, COST_BYTES_MAX)
}

#[cfg(test)]
impl RequestBody {
    /// Returns the memory of what has arrived and was not taken.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.unfinished.held_bytes() + self.ahead.held_bytes() + len_bytes(&self.whole)
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
