//! The faults that a test switches on at a faulty node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockWriteGuard};

/// Delay of answers and of each message of a stream by [`AnswerFault::Slow`].
pub(super) const DELAY: Duration = Duration::from_millis(600);

/// A way in which every answer is wrong, or connections are treated wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerFault {
    /// A refusal has another code, and no text.
    WrongStatus,
    /// Content is followed by an error: a unary answer as well as the first message of a stream.
    LateError,
    /// The last envelope of each page and message is missing.
    LostEnvelope,
    /// The last envelope of each page and message comes twice.
    RepeatedEnvelope,
    /// Lists are reversed.
    WrongOrder,
    /// Messages without envelopes come before those with envelopes that they should follow.
    EarlyMessage,
    /// Envelopes and other content are changed, each time in another way.
    Altered,
    /// Published envelopes expire a day earlier than their payers asked for, and the node's key signs that.
    EarlierExpiry,
    /// The cursors and limits of requests are removed.
    IgnoredCursor,
    /// A unary call is answered with the first answer to its method.
    StaleAnswer,
    /// Messages of streams that have no envelopes are lost, except the first.
    NoSignsOfLife,
    /// One hash of each proof and of each tile of a tree is wrong.
    WrongProof,
    /// Every answer says that places of the first node's strand have expired.
    WrongOldest,
    /// No answer says that places have expired.
    SilentAboutOldest,
    /// Answers name an expired place as the first one that has not expired.
    EarlyOldest,
    /// Answers name the place after the first one that has not expired.
    LateOldest,
    /// No strand has an envelope, and no answer says that places have expired.
    LostStrand,
    /// A Mutate with an id that its stream has used before is ignored.
    SwallowedMutate,
    /// A connection that has switched from HTTP/1.1 to HTTP/2 ends at once.
    BrokenUpgrade,
    /// Headers for browsers are missing.
    NoHeaders,
    /// Answers to reads are delayed.
    Slow,
    /// The answer to the next publish that succeeds is lost. Later answers are right.
    LostAnswer,
    /// Calls of the Connect protocol are refused as the network's reference node does.
    RefusesConnect,
    /// Hawser's extensions, and the services that a node may leave out, are unknown: an HTTP page with status 404.
    MissingServices,
    /// The wave of a Mutate is completed although the Mutate is refused: what was valid of it has been applied.
    AppliesRefused,
    /// A connection that begins with noise is kept open.
    KeepsNoise,
    /// A head of any length is taken.
    TakesAnyHead,
    /// A head may take as long as it likes.
    WaitsForHeads,
    /// No call is answered while a connection is open whose caller has reset its first call.
    StalledByResets,
    /// Beside many connections, also idle ones, a new one is not served.
    FewConnections,
}

/// The present fault and its state.
#[derive(Debug, Default)]
pub(super) struct Faults {
    fault: Mutex<Option<AnswerFault>>,
    first_answers: Mutex<BTreeMap<String, Bytes>>,
    altered: AtomicU32,
    open_connections: AtomicUsize,
    /// Locked for writing while no call is answered.
    stalled: RwLock<()>,
}

impl Faults {
    pub(super) fn set(&self, fault: Option<AnswerFault>) {
        *self.fault.lock() = fault;
        self.first_answers.lock().clear();
    }

    pub(super) fn get(&self) -> Option<AnswerFault> {
        *self.fault.lock()
    }

    /// Returns the first answer to a method; `answer`, if there is none.
    pub(super) fn first_answer(&self, path: &str, answer: Bytes) -> Bytes {
        self.first_answers.lock().entry(path.to_owned()).or_insert(answer).clone()
    }

    /// Returns another number each time, from 1.
    pub(super) fn next_number(&self) -> u32 {
        self.altered.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn count_opened(&self) {
        self.open_connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_closed(&self) {
        self.open_connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn open_connections(&self) -> usize {
        self.open_connections.load(Ordering::Relaxed)
    }

    /// Lets calls wait until the returned guard is dropped.
    pub(super) async fn stall(&self) -> RwLockWriteGuard<'_, ()> {
        self.stalled.write().await
    }

    /// Waits while calls are not answered.
    pub(super) async fn wait_for_turn(&self) {
        drop(self.stalled.read().await);
    }
}

/// Returns the page of an HTTP server that does not know the service; `None` for services that every node has.
pub(super) fn missing(path: &str) -> Option<Response<Bytes>> {
    let optional = ["/hawser.", "/strands/", "/grpc.reflection.", "MisbehaviorApi/"];
    if !optional.iter().any(|name| path.contains(name)) {
        return None;
    }
    let response = Response::builder().status(404).header("content-type", "text/plain");
    Some(response.body(Bytes::from_static(b"404 page not found\n")).unwrap())
}

/// Returns the reference node's refusal of a call of the Connect protocol; `None` for other calls.
pub(super) fn connect_refused<B>(request: &Request<B>) -> Option<Response<Bytes>> {
    let content_type = request.headers().get("content-type")?.to_str().ok()?;
    if !["application/json", "application/proto"].contains(&content_type) {
        return None;
    }
    let text = r#"{"code":"failed_precondition","message":"Connect-RPC protocol not supported, use gRPC or gRPC-Web"}"#;
    let response = Response::builder().status(400).header("content-type", "application/json");
    Some(response.body(Bytes::from_static(text.as_bytes())).unwrap())
}
