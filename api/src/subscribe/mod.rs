//! `QueryApi.Subscribe` (XIP-83): a stream whose client changes its topics while it runs.
//!
//! - `mutate`: the checks of a change; `checked_stream`: the same without a node, for the fuzzer;
//! - `stream_memory`: the memory that the stream is charged for;
//! - `timers`: pings, pongs and times;
//! - this file: the task of a stream, which takes requests and hands out frames.
//!
//! Besides answers the task holds at most one frame: it takes the next event from the engine when the connection
//! has taken the last frame. It continues to read requests meanwhile.

mod checked_stream;
mod mutate;
mod stream_memory;
mod timers;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use hawser_engine::read::{QueryError, SubscriptionEvent, WaveId};
use hawser_engine::runtime::{HistoryMode, Reader, Subscription};
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_request::Version as RequestVersion;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_request::v1::{
    Mutate, Request as RequestFrame,
};
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_response::Version;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_response::v1::{
    CatchupComplete, Envelopes, Response as Frame, Started, TopicsLive,
};
use hawser_proto::pb::xmtp::xmtpv4::message_api::{Ping, Pong, SubscribeResponse};
use hawser_proto::{Topic, codec};
use hawser_serve::{
    CallCharge, ChangeUnderWay, DecodingMessage, OverloadedError, RequestMessages,
    STREAM_WINDOW_BYTES, UnreadRequests,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, Streaming};

use crate::error::{CallError, into_status};
use crate::methods::EnvelopeMethod;
use crate::metrics::{HandlerMetrics, OpenStream};
use crate::node_api::{MessageStream, NodeApi, rendered};
use crate::stream_error::{MutateError, StreamError};
pub use checked_stream::CheckedStream;
use stream_memory::HeldBytes;
use timers::{StreamTimers, TimerEvent};

/// Largest number of answers that wait for the client to read. When it is reached, requests wait, too. A guess.
const ANSWERS_MAX: usize = 16;
/// Memory of a topic in the frame that names it, besides its name. Calculated from the types: a place in the list, the
/// counter of its users, and what the allocator adds.
const NAMED_TOPIC_BYTES: usize = 80;

impl NodeApi {
    /// Opens a stream without topics, which its client changes by requests.
    ///
    /// # Errors
    /// A status if the caller has no memory left for a stream.
    pub(crate) fn changing(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<MessageStream<SubscribeResponse>, CallError> {
        let charge = CallCharge::of(request.extensions());
        let requests = RequestMessages::take(request.extensions());
        drop(request); // with the library's reader, which has nothing to read, and its buffer
        let reader = self.reader(&charge);
        let (frames, outgoing) = mpsc::channel(1);
        let (end, ended) = oneshot::channel();
        let interval = self.keepalive_interval;
        let keepalive_interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
        let started = Started { keepalive_interval_ms, capabilities: Vec::new() };
        let subscriber = Subscriber {
            subscription: reader.subscribe_changing(),
            reader,
            requests,
            held: HeldBytes::new(charge.clone())?,
            times: StreamTimers::new(interval, Instant::now()),
            frames,
            permit: None,
            frame_bytes: 0,
            answers: [Frame::Started(started)].into(),
            decoding: None,
            mutate: None,
            refused: None,
            half_closed: false,
            unread_bytes: 0,
            unread: None,
            topics_max: self.topics_per_stream_max,
            metrics: self.metrics.clone(),
            stop: self.stop.clone(),
            _open: self.metrics.stream_opened(),
        };
        // Boxed, because each future around it would otherwise reserve its memory once more.
        let run = Box::pin(subscriber.run());
        // A separate task, so that requests and timers are handled while the client reads no answers.
        charge.spawn(async move {
            // Fails only if the client has ended the stream.
            _ = end.send(run.await);
        });
        let messages = stream::unfold(Some((outgoing, ended)), |state| async {
            let (mut outgoing, ended) = state?;
            if let Some(frame) = outgoing.recv().await {
                return Some((Ok(*frame), Some((outgoing, ended))));
            }
            let ended: Result<SubscriberEnd, _> = ended.await;
            let interrupted = |_| Err(into_status(CallError::Interrupted));
            let status = ended.map_or_else(interrupted, |end| end.status);
            Some((Err(status.err()?), None))
        });
        Ok(messages.boxed())
    }
}

/// The task of one stream.
struct Subscriber {
    reader: Reader,
    subscription: Subscription,
    requests: RequestMessages,
    held: HeldBytes,
    times: StreamTimers,
    /// The frames of the answer. Boxed, because a channel of one allocates the slots of many.
    frames: mpsc::Sender<Box<SubscribeResponse>>,
    /// Room for the next frame.
    permit: Option<mpsc::OwnedPermit<Box<SubscribeResponse>>>,
    /// Memory of the last frame, which the connection has not taken as long as there is no room.
    frame_bytes: usize,
    /// Frames that are sent before further events of the subscription.
    answers: VecDeque<Frame>,
    /// A request that is being decoded, and the change that it is a part of, if that is under way. A long request waits
    /// for a thread, and the stream goes on meanwhile.
    decoding: Option<(DecodingMessage<pb::SubscribeRequest>, Option<Arc<ChangeUnderWay>>)>,
    /// A change that waits until the events before it are delivered.
    mutate: Option<(Mutate, Option<Arc<ChangeUnderWay>>)>,
    /// The error of a request of an unknown version, with which the stream ends when the requests before it are
    /// answered.
    refused: Option<StreamError>,
    half_closed: bool,
    /// Charge for requests that wait in the connection.
    unread_bytes: usize,
    /// Present while they may wait, so that the room for their frames is charged too.
    unread: Option<UnreadRequests>,
    /// Largest number of topics that the stream may have.
    topics_max: usize,
    metrics: Arc<HandlerMetrics>,
    stop: CancellationToken,
    _open: OpenStream,
}

/// The end of a stream.
struct SubscriberEnd {
    status: Result<(), Status>,
    /// The charge for the last frame, if it waits for a client that reads nothing.
    _waiting: Option<HeldBytes>,
}

/// An event that a stream has waited for.
enum Wakeup {
    Gone,
    Room(mpsc::OwnedPermit<Box<SubscribeResponse>>),
    Request(Result<Option<Bytes>, Status>),
    /// The request that was taken is decoded.
    Decoded(Result<pb::SubscribeRequest, Status>),
    /// Requests have come in advance, more than are read so.
    Ahead(Result<(), Status>),
    Event(Result<SubscriptionEvent, QueryError>),
    Stop,
    Time,
}

impl Subscriber {
    /// Runs until the stream ends. The end comes after the last frame, which is charged until then.
    async fn run(mut self) -> SubscriberEnd {
        let status = self.serve().await;
        let waits = self.permit.is_none();
        let waiting = waits.then(|| self.held.split_off(self.frame_bytes));
        self.subscription.end(self.held);
        SubscriberEnd { status, _waiting: waiting }
    }

    /// Serves the stream. Returns the status of its end.
    async fn serve(&mut self) -> Result<(), Status> {
        loop {
            self.send_answer();
            if self.answers.is_empty() && !self.subscription.has_events() {
                if let Some(error) = self.refused.take() {
                    return Err(into_status(error));
                }
                if self.mutate.is_some() {
                    // Nothing is read meanwhile, and a long change takes turns.
                    let _unread = self.held.begin_unread();
                    self.change().await?;
                    continue;
                }
            }
            if self.note_drained() {
                return Ok(());
            }
            self.charge_unread().map_err(into_status)?;
            match self.wakeup().await {
                Wakeup::Gone => return Ok(()),
                Wakeup::Room(permit) => {
                    self.permit = Some(permit);
                    self.settle()?;
                }
                Wakeup::Request(Ok(Some(message))) => {
                    let decode = codec::decode::<pb::SubscribeRequest>;
                    let change = self.requests.take_change();
                    self.decoding = Some((self.requests.decode(message, decode), change));
                }
                Wakeup::Decoded(Ok(request)) => {
                    let change = self.decoding.take().and_then(|(_, change)| change);
                    self.handle_request(request, change);
                }
                Wakeup::Request(Ok(None)) => {
                    self.half_closed = true;
                    self.times.half_close();
                }
                Wakeup::Request(Err(status))
                | Wakeup::Decoded(Err(status))
                | Wakeup::Ahead(Err(status)) => return received(status),
                Wakeup::Ahead(Ok(())) => {}
                Wakeup::Event(Ok(event)) => self.handle_event(event),
                Wakeup::Event(Err(error)) => return Err(unreadable(error)),
                Wakeup::Stop => return Err(into_status(CallError::ShuttingDown)),
                Wakeup::Time => self.handle_time()?,
            }
        }
    }

    /// Waits for the next wakeup. Requests are taken before events, so that a pong is seen before its
    /// deadline. A stopping server still delivers ready events.
    async fn wakeup(&mut self) -> Wakeup {
        let reads = self.reads();
        let is_open = self.permit.is_some() && self.answers.is_empty();
        self.times.set_blocked(self.permit.is_none(), Instant::now());
        self.times.set_requests_wait(self.requests_wait());
        let due = self.times.next();
        let time = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let listens = !self.half_closed && (reads || self.unread_bytes == 0);
        let (requests, decoding) = (&mut self.requests, &mut self.decoding);
        let request = async {
            if let Some((decoding, _)) = decoding.as_mut() {
                Wakeup::Decoded(requests.decoded(decoding).await)
            } else if reads {
                Wakeup::Request(requests.next().await)
            } else {
                Wakeup::Ahead(requests.read_ahead().await)
            }
        };
        tokio::select! {
            biased;
            () = self.frames.closed() => Wakeup::Gone,
            room = self.frames.clone().reserve_owned(), if self.permit.is_none() => match room {
                Ok(permit) => Wakeup::Room(permit),
                Err(_) => Wakeup::Gone,
            },
            wakeup = request, if listens => wakeup,
            event = self.subscription.next(), if is_open => Wakeup::Event(event),
            () = self.stop.cancelled(), if is_open => Wakeup::Stop,
            () = time => Wakeup::Time,
        }
    }

    fn reads(&self) -> bool {
        let is_busy = self.decoding.is_some() || self.mutate.is_some() || self.refused.is_some();
        !self.half_closed && !is_busy && self.answers.len() < ANSWERS_MAX
    }

    /// Returns true if requests have come, or may have, that the stream has not taken.
    fn requests_wait(&self) -> bool {
        !self.reads() || self.requests.has_next()
    }

    /// Returns true if the client has ended its requests and all frames for it are sent. Records the time from
    /// which only these frames are left.
    fn note_drained(&mut self) -> bool {
        let ends = self.half_closed && self.mutate.is_none() && self.held.waves() == 0;
        if ends {
            self.times.drain(Instant::now());
        }
        ends && self.answers.is_empty() && self.permit.is_some()
    }

    /// Charges the memory of requests that may wait in the connection while none are read. The first ones are read, so
    /// that a client which sends little in advance is not charged for a window. While a request is being decoded, all
    /// are read.
    fn charge_unread(&mut self) -> Result<(), OverloadedError> {
        let stops_reading = !self.half_closed && !self.reads() && self.decoding.is_none();
        let is_unread = stops_reading && self.requests.is_far_ahead();
        let unread_bytes = if is_unread { STREAM_WINDOW_BYTES as usize } else { 0 };
        if unread_bytes > self.unread_bytes {
            self.held.borrow(unread_bytes)?;
        } else {
            self.held.give_back(self.unread_bytes - unread_bytes);
        }
        self.unread_bytes = unread_bytes;
        if is_unread != self.unread.is_some() {
            self.unread = is_unread.then(|| self.held.begin_unread());
        }
        Ok(())
    }

    fn send_answer(&mut self) {
        if self.permit.is_some()
            && let Some(frame) = self.answers.pop_front()
        {
            self.send(frame);
        }
    }

    /// Sends a frame, for which there is room.
    fn send(&mut self, frame: Frame) {
        self.frame_bytes = frame_bytes(&frame);
        let v1 = pb::subscribe_response::V1 { response: Some(frame) };
        if let Some(permit) = self.permit.take() {
            permit.send(Box::new(SubscribeResponse { version: Some(Version::V1(v1)) }));
            self.times.sent(Instant::now());
        }
    }

    /// Handles a request, which is a part of `change`, if that is under way.
    fn handle_request(
        &mut self,
        request: pb::SubscribeRequest,
        change: Option<Arc<ChangeUnderWay>>,
    ) {
        let Some(RequestVersion::V1(v1)) = request.version else {
            self.refused = Some(StreamError::Version);
            return;
        };
        match v1.request {
            Some(RequestFrame::Mutate(mutate)) => self.mutate = Some((mutate, change)),
            Some(RequestFrame::Ping(Ping { nonce })) => {
                self.answers.push_back(Frame::Pong(Pong { nonce }))
            }
            Some(RequestFrame::Pong(Pong { nonce })) => self.times.pong(nonce),
            None => {} // of a later version, or empty
        }
    }

    /// Checks and applies the change that waits.
    async fn change(&mut self) -> Result<(), Status> {
        let Some((mut mutate, change)) = self.mutate.take() else { return Ok(()) };
        let wave = mutate.mutate_id;
        let in_flight = |wave| self.held.has_wave(wave);
        let waves_len = self.held.waves();
        let stream = &mut self.subscription;
        mutate::check(&mut mutate, &in_flight, waves_len, self.topics_max, stream).await.map_err(
            |error| {
                if matches!(error, MutateError::TooManyTopics(..)) {
                    self.metrics.topics_refused();
                }
                into_status(StreamError::Mutate(error))
            },
        )?;
        let removes = std::mem::take(&mut mutate.removes).into_iter();
        self.subscription.remove(removes.filter_map(|name| Topic::parse(name).ok())).await;
        if mutate.adds.is_empty() {
            let complete = CatchupComplete { mutate_id: wave };
            self.answers.push_back(Frame::CatchupComplete(complete));
        } else {
            let history =
                if mutate.history_only { HistoryMode::Only } else { HistoryMode::ThenLive };
            let heads = self.reader.heads();
            let mut refused = None;
            self.held.begin(wave, change);
            let (held, mut last) = (&mut self.held, Arc::default());
            let adds = mutate.adds.into_iter().map_while(|add| {
                match held.add(wave, &add, &heads, &mut last) {
                    Ok(add) => add,
                    Err(overloaded) => {
                        refused = Some(overloaded);
                        None
                    }
                }
            });
            self.subscription.add(WaveId(wave), history, adds).await;
            if let Some(overloaded) = refused {
                return Err(into_status(overloaded));
            }
        }
        self.held.settle(&self.subscription).map_err(into_status)
    }

    /// Gives back the memory of waves that have ended, once the connection has taken everything that was ready. Until
    /// then the topics of such a wave are in the frame that names them, also if the stream has them no longer.
    fn settle(&mut self) -> Result<(), Status> {
        if self.subscription.has_events() {
            return Ok(());
        }
        self.held.settle(&self.subscription).map_err(into_status)
    }

    fn handle_event(&mut self, event: SubscriptionEvent) {
        match event {
            SubscriptionEvent::Envelopes { wave, envelopes } => {
                let envelopes = rendered(&self.metrics, EnvelopeMethod::Subscribe, envelopes);
                if !envelopes.is_empty() {
                    let mutate_id = wave.map_or(0, |WaveId(wave)| wave);
                    self.send(Frame::Envelopes(Envelopes { envelopes, mutate_id }));
                }
            }
            SubscriptionEvent::Entries { .. } => {} // of streams of whole strands
            SubscriptionEvent::TopicsLive { topics, .. } => {
                let topics = topics.into_iter().map(Topic::into_bytes).collect();
                self.send(Frame::TopicsLive(TopicsLive { topics }));
            }
            SubscriptionEvent::CaughtUp(WaveId(wave)) => {
                self.held.end(wave);
                self.send(Frame::CatchupComplete(CatchupComplete { mutate_id: wave }));
            }
        }
    }

    fn handle_time(&mut self) -> Result<(), Status> {
        self.times.set_requests_wait(self.requests_wait());
        let error = match self.times.due(Instant::now()) {
            None => return Ok(()),
            Some(TimerEvent::Ping(nonce)) => {
                self.answers.push_back(Frame::Ping(Ping { nonce }));
                return Ok(());
            }
            Some(TimerEvent::NoPong) => StreamError::NoPong,
            Some(TimerEvent::Stalled) => StreamError::Stalled,
            Some(TimerEvent::DrainLate) => StreamError::DrainLate,
        };
        Err(into_status(error))
    }
}

/// Returns the memory of a frame that may have much, in bytes.
fn frame_bytes(frame: &Frame) -> usize {
    match frame {
        Frame::Envelopes(of_wave) => of_wave.envelopes.iter().map(Bytes::len).sum(),
        Frame::TopicsLive(live) => {
            live.topics.iter().map(|name| NAMED_TOPIC_BYTES + name.len()).sum()
        }
        _ => 0,
    }
}

/// Returns the end of a stream whose requests cannot be received.
fn received(status: Status) -> Result<(), Status> {
    match status.code() {
        Code::Cancelled => Ok(()), // the client has left
        Code::InvalidArgument | Code::ResourceExhausted => Err(status),
        Code::Internal if status.message().starts_with("failed to decode Protobuf") => {
            Err(Status::invalid_argument(status.message()))
        }
        _ => Err(into_status(StreamError::Receive(status.message().to_owned()))),
    }
}

/// Returns the end of a stream whose log cannot be read.
fn unreadable(error: QueryError) -> Status {
    match error {
        QueryError::NoMemory(_) => into_status(error),
        error => into_status(StreamError::Read(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_the_requests_has_its_status() {
        let of = |code, text: &str| received(Status::new(code, text));
        assert!(of(Code::Cancelled, "the client has left").is_ok());
        for code in [Code::InvalidArgument, Code::ResourceExhausted] {
            assert_eq!(of(code, "why").unwrap_err().code(), code);
        }
        let malformed = of(Code::Internal, "failed to decode Protobuf message: why").unwrap_err();
        assert_eq!(malformed.code(), Code::InvalidArgument);
        for code in [Code::Internal, Code::Unknown, Code::DeadlineExceeded] {
            let status = of(code, "why").unwrap_err();
            assert_eq!(status.code(), Code::Unavailable);
            assert_eq!(status.message(), "requests could not be received: why");
        }
    }

    #[test]
    fn each_error_of_the_log_has_its_status() {
        let status = unreadable(QueryError::NoMemory(1));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.metadata().contains_key("retry-after"));
        assert_eq!(unreadable(QueryError::Rebuilding("topic")).code(), Code::Unavailable);
    }
}
