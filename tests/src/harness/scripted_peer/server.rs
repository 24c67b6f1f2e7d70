//! The server of a scripted peer: gRPC's framing by hand, so that a stream can also end in ways that no server
//! library has.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hawser_proto::OriginatorId;
use hawser_proto::pb::hawser::checkpoint_api::GetCheckpointRequest;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hyper::body::{Body as _, Frame};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use prost::Message;
use tokio::sync::mpsc;
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::Server;

use super::answer;
use super::habits::{Attack, Habits, LONG_BYTES, Methods, StreamEnd};
use super::state::{OpenPage, ScriptedPeerState};
use crate::harness::frame_body::FrameBody;

/// Messages that wait for a slow caller.
const QUEUE: usize = 4;
/// Rows that one read of the strand gives, as of the reference implementation.
const ROWS: usize = 1000;
/// Bytes of a long message that are sent at a time.
const LONG_PIECE_BYTES: usize = 64 * 1024;
/// The head of a message of 32 MiB.
const TOO_LONG: [u8; 5] = [0, 2, 0, 0, 0];
const NOT_FOUND: &str = "5";
const PERMISSION_DENIED: &str = "7";
const RESOURCE_EXHAUSTED: &str = "8";
const UNIMPLEMENTED: &str = "12";
const UNAVAILABLE: &str = "14";
const UNAUTHENTICATED: &str = "16";

/// Serves until it is aborted.
pub(super) async fn serve(port: u16, state: Arc<ScriptedPeerState>) {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    Server::builder().serve(address, Calls(state)).await.unwrap();
}

#[derive(Debug, Clone)]
struct Calls(Arc<ScriptedPeerState>);

impl Service<Request<tonic::body::Body>> for Calls {
    type Response = Response<FrameBody>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let state = self.0.clone();
        Box::pin(async move { Ok(answer(state, request).await) })
    }
}

/// An error with details that are not Base64.
fn bad_details() -> Frame<Bytes> {
    let mut map = HeaderMap::new();
    map.insert("grpc-status", HeaderValue::from_static(UNAVAILABLE));
    map.insert("grpc-status-details-bin", HeaderValue::from_static("!"));
    Frame::trailers(map)
}

fn trailers(status: &'static str) -> Frame<Bytes> {
    let mut map = HeaderMap::new();
    map.insert("grpc-status", HeaderValue::from_static(status));
    Frame::trailers(map)
}

async fn answer(
    state: Arc<ScriptedPeerState>,
    request: Request<tonic::body::Body>,
) -> Response<FrameBody> {
    let path = request.uri().path().to_owned();
    let has_token = request.headers().contains_key("node-authorization");
    {
        let mut seen = state.seen.lock();
        *seen.calls.entry(path.clone()).or_default() += 1;
        seen.without_token += u64::from(!has_token);
    }
    let method = path.rsplit('/').next().unwrap_or_default();
    let message = read(request.into_body()).await;
    let Habits { methods, tells_clock, answers_404, page_rows_max, page_takes, is_busy, .. } =
        state.habits.lock().clone();
    let has_voids = !state.voids.lock().is_empty();
    let (to, frames) = mpsc::channel(QUEUE);
    if has_token && state.habits.lock().refuses_tokens {
        send(&to, vec![trailers(UNAUTHENTICATED)]);
        return response(frames);
    }
    match method {
        "GetSyncCursor" if tells_clock => {
            send(&to, vec![Frame::data(answer::clock(&state)), trailers("0")])
        }
        "GetCheckpoint" if has_voids => {
            let request = GetCheckpointRequest::decode(message).unwrap();
            let is_own = request.originator_id == state.id.0;
            let frames = match is_own {
                true => vec![Frame::data(answer::statements(&state)), trailers("0")],
                false => vec![trailers(NOT_FOUND)],
            };
            send(&to, frames);
        }
        "QueryEnvelopes" if is_busy => send(&to, vec![trailers(RESOURCE_EXHAUSTED)]),
        "QueryEnvelopes" => {
            let request = api::QueryEnvelopesRequest::decode(message).unwrap();
            let _open = OpenPage::begin(&state);
            tokio::time::sleep(page_takes).await;
            let is_long = usize::try_from(request.limit).unwrap() > page_rows_max;
            state.seen.lock().long_pages += u64::from(is_long);
            let page = match is_long {
                true => Bytes::from_static(&TOO_LONG),
                false => page(&state, request),
            };
            send(&to, vec![Frame::data(page), trailers("0")]);
        }
        "SubscribeOriginators" if methods == Methods::Both => {
            let request = api::SubscribeOriginatorsRequest::decode(message).unwrap();
            let filter = request.filter.unwrap();
            start(state, &filter.originator_node_ids, filter.last_seen, true, to);
        }
        "SubscribeOriginators" if methods == Methods::OlderSaidLate => {
            send(&to, vec![trailers(UNIMPLEMENTED)]);
        }
        "SubscribeEnvelopes" if methods != Methods::Neither => {
            let query = api::SubscribeEnvelopesRequest::decode(message).unwrap().query.unwrap();
            start(state, &query.originator_node_ids, query.last_seen, false, to);
        }
        _ if answers_404 => return web_page(frames),
        _ => return unimplemented(frames),
    }
    response(frames)
}

/// An answer that is nothing but a status, in the headers.
fn unimplemented(frames: mpsc::Receiver<Frame<Bytes>>) -> Response<FrameBody> {
    let mut response = response(frames);
    response.headers_mut().insert("grpc-status", HeaderValue::from_static(UNIMPLEMENTED));
    response
}

/// An answer that has no status of gRPC.
fn web_page(frames: mpsc::Receiver<Frame<Bytes>>) -> Response<FrameBody> {
    let mut response = Response::new(FrameBody(frames));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn response(frames: mpsc::Receiver<Frame<Bytes>>) -> Response<FrameBody> {
    let mut response = Response::new(FrameBody(frames));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn send(to: &mpsc::Sender<Frame<Bytes>>, frames: Vec<Frame<Bytes>>) {
    frames.into_iter().for_each(|frame| to.try_send(frame).unwrap());
}

/// Reads the one message of a request.
async fn read(mut body: tonic::body::Body) -> Bytes {
    let mut bytes = Vec::new();
    let next = |body: &mut tonic::body::Body, context: &mut Context<'_>| {
        Pin::new(body).poll_frame(context)
    };
    while let Some(Ok(frame)) = std::future::poll_fn(|context| next(&mut body, context)).await {
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Bytes::from(bytes).slice(5..)
}

fn page(state: &ScriptedPeerState, request: api::QueryEnvelopesRequest) -> Bytes {
    let query = request.query.unwrap();
    let limit = match usize::try_from(request.limit).unwrap() {
        0 => ROWS,
        limit => limit.min(ROWS),
    };
    if !state.habits.lock().are_peaceful() {
        return answer::message(Vec::new(), false);
    }
    let originator = asked(&query.originator_node_ids);
    let after = place(originator, query.last_seen.as_ref());
    let (page, last) = answer::page(state, originator, after, limit);
    {
        let mut seen = state.seen.lock();
        seen.paged += page.len() as u64;
        if seen.page_ends.insert(originator, last) != Some(after) {
            seen.first_page_max = seen.first_page_max.max(limit);
        }
    }
    answer::message(page, false)
}

/// The one strand that Hawser asks for in a call.
fn asked(originators: &[u32]) -> OriginatorId {
    OriginatorId(originators.first().copied().unwrap_or_default())
}

fn place(originator: OriginatorId, cursor: Option<&pb::Cursor>) -> u64 {
    let place = cursor.and_then(|it| it.node_id_to_sequence_id.get(&originator.0));
    place.copied().unwrap_or_default()
}

fn start(
    state: Arc<ScriptedPeerState>,
    originators: &[u32],
    last_seen: Option<pb::Cursor>,
    framed: bool,
    to: mpsc::Sender<Frame<Bytes>>,
) {
    let originator = asked(originators);
    let last_seen = last_seen.filter(|_| !state.habits.lock().forgets_cursors);
    let after = place(originator, last_seen.as_ref());
    if originator != state.id && state.habits.lock().refuses_others {
        let mut seen = state.seen.lock();
        seen.refused += 1;
        // At once, and behind a first message, in turns.
        let first = seen.refused.is_multiple_of(2).then(|| answer::message(Vec::new(), framed));
        let frames = first.into_iter().map(Frame::data).chain([trailers(PERMISSION_DENIED)]);
        return send(&to, frames.collect());
    }
    if state.habits.lock().attack == Some(Attack::BadDetails) {
        return send(&to, vec![bad_details()]);
    }
    if state.habits.lock().attack == Some(Attack::EmptyEnds) {
        let keep_alive = Frame::data(answer::message(Vec::new(), framed));
        return send(&to, vec![keep_alive, trailers("0")]);
    }
    if originator != state.id && state.habits.lock().sends_long {
        tokio::spawn(async move { send_long(&state, &to).await });
        return;
    }
    tokio::spawn(async move {
        // Fails when the caller has gone.
        let _ = stream(&state, originator, after, framed, &to).await;
    });
}

/// Sends a long message without its last byte, and waits until the caller has gone.
async fn send_long(state: &ScriptedPeerState, to: &mpsc::Sender<Frame<Bytes>>) {
    let len = u32::try_from(LONG_BYTES).unwrap().to_be_bytes();
    let header = Bytes::from([&[0][..], &len].concat());
    let pieces = (LONG_BYTES - 1).div_ceil(LONG_PIECE_BYTES);
    let piece = |at: usize| {
        let left = LONG_BYTES - 1 - at * LONG_PIECE_BYTES;
        Bytes::from(vec![7; left.min(LONG_PIECE_BYTES)])
    };
    let mut sent = 0;
    for bytes in std::iter::once(header).chain((0..pieces).map(piece)) {
        let len = bytes.len();
        if to.send(Frame::data(bytes)).await.is_err() {
            break;
        }
        sent += len;
        let mut seen = state.seen.lock();
        seen.long_bytes += len;
        seen.long_bytes_max = seen.long_bytes_max.max(seen.long_bytes);
    }
    to.closed().await;
    let mut seen = state.seen.lock();
    seen.long_bytes -= sent;
    seen.long_stopped += 1;
}

type SendFrameError = mpsc::error::SendError<Frame<Bytes>>;

async fn stream(
    state: &ScriptedPeerState,
    originator: OriginatorId,
    mut after: u64,
    framed: bool,
    to: &mpsc::Sender<Frame<Bytes>>,
) -> Result<(), SendFrameError> {
    let mut changes = state.strand.subscribe();
    let habits = || -> Habits { state.habits.lock().clone() };
    if habits().greets && habits().are_peaceful() {
        to.send(Frame::data(answer::message(Vec::new(), framed))).await?;
    }
    let (mut sent, mut is_caught_up) = (0, false);
    loop {
        changes.borrow_and_update();
        let habits = habits();
        if let Some(attack) = habits.attack {
            match answer::attack(state, attack, framed) {
                Some(message) => to.send(Frame::data(message)).await?,
                None => std::future::pending().await,
            }
            continue;
        }
        let is_listed = originator == state.id || !habits.has_old_list;
        let left = match habits.ends_after {
            _ if is_caught_up && !is_listed => 0,
            Some((count, _)) => ROWS.min(count.saturating_sub(sent)),
            None => ROWS,
        };
        let (page, last) = answer::page(state, originator, after, left);
        if page.is_empty() {
            is_caught_up = true;
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(habits.keep_alive) => {
                    to.send(Frame::data(answer::message(Vec::new(), framed))).await?;
                }
            }
            continue;
        }
        if page.len() > habits.stream_rows_max {
            state.seen.lock().long_messages += 1;
            return to.send(Frame::data(Bytes::from_static(&TOO_LONG))).await;
        }
        after = last;
        sent += page.len();
        to.send(Frame::data(answer::message(page, framed))).await?;
        match habits.ends_after {
            Some((count, StreamEnd::Ok)) if sent >= count => return to.send(trailers("0")).await,
            Some((count, StreamEnd::NoStatus)) if sent >= count => return Ok(()),
            _ => {}
        }
        tokio::time::sleep(habits.stream_pause).await;
    }
}
