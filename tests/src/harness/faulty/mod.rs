//! A node whose answers are wrong on purpose: a proxy in front of a real node that changes the messages.
//!
//! It speaks HTTP/1.1 and HTTP/2 as the node does and knows the messages of the API, so one switch breaks every method
//! in its own way: a lost envelope is lost from pages and from streams.

mod body;
mod connection;
mod content;
mod fault;
mod forward;
mod messages;
mod upgrade;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderName, Request, Response, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

pub use fault::AnswerFault;

use content::{Body, bad_gateway, whole};
use fault::{DELAY, Faults};
use forward::forward;

/// Requests of a stream on their way. A guess: more than a case sends at once.
const REQUESTS_WAITING_MAX: usize = 64;

/// Longest time for a request's head, as the node has it (`docs/protocol/api.md`, *The port*).
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest head by [`AnswerFault::TakesAnyHead`]: more than a case sends.
const ANY_HEAD_LEN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest header that [`AnswerFault::TakesAnyHead`] passes on: the node takes a head of some of them.
const HEADER_LEN_BYTES_MAX: usize = 4 * 1024;

/// A proxy before one port. Ends when it is dropped.
#[derive(Debug)]
pub struct FaultyNode {
    /// The port where it listens.
    pub port: u16,
    faults: Arc<Faults>,
    task: JoinHandle<()>,
}

impl FaultyNode {
    /// Starts a proxy in front of `target`, without a fault yet.
    ///
    /// # Panics
    /// Panics if no port is free.
    pub async fn before(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(Faults::default());
        let task = tokio::spawn(accept(listener, target, Arc::clone(&faults)));
        Self { port, faults, task }
    }

    /// Changes the fault of all answers from now on, and forgets earlier answers.
    pub fn set(&self, fault: Option<AnswerFault>) {
        self.faults.set(fault);
    }
}

impl Drop for FaultyNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: u16, faults: Arc<Faults>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let faults = Arc::clone(&faults);
        tokio::spawn(async move {
            faults.count_opened();
            if let Some(stream) = connection::unless_held(stream, &faults).await {
                serve(stream, target, Arc::clone(&faults)).await;
            }
            faults.count_closed();
        });
    }
}

/// Answers the requests of a connection until it ends.
async fn serve(stream: TcpStream, target: u16, faults: Arc<Faults>) {
    let fault = faults.get();
    let service = service_fn(move |request| {
        let faults = Arc::clone(&faults);
        async move { Ok::<_, Infallible>(answer(request, target, faults).await) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    // As the node: a head that does not come ends its connection.
    let head_timeout = (fault != Some(AnswerFault::WaitsForHeads)).then_some(HEAD_TIMEOUT);
    server.http1().timer(TokioTimer::new()).header_read_timeout(head_timeout);
    if fault == Some(AnswerFault::TakesAnyHead) {
        server.http1().max_buf_size(ANY_HEAD_LEN_BYTES_MAX);
    }
    // An error means that the caller broke the connection off.
    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

/// Forwards a request and changes the answer. Answers 502 if the node does not answer.
async fn answer(request: Request<Incoming>, target: u16, faults: Arc<Faults>) -> Response<Body> {
    faults.wait_for_turn().await;
    let path = request.uri().path().to_owned();
    let fault = faults.get();
    let is_publish = path.contains("Publish");
    if fault == Some(AnswerFault::Slow) && !is_publish {
        tokio::time::sleep(DELAY).await;
    }
    if request.headers().contains_key("upgrade") {
        return upgrade::answer(request, target, fault).await;
    }
    if fault == Some(AnswerFault::RefusesConnect)
        && let Some(refusal) = fault::connect_refused(&request)
    {
        return refusal.map(whole);
    }
    if fault == Some(AnswerFault::MissingServices)
        && let Some(page) = fault::missing(&path)
    {
        return page.map(whole);
    }
    let request = match fault {
        Some(AnswerFault::IgnoredCursor) => without_cursor(request, &path).await,
        Some(AnswerFault::SwallowedMutate) if path.ends_with("/Subscribe") => {
            Some(without_repeated_ids(request))
        }
        Some(AnswerFault::TakesAnyHead) => Some(without_long_headers(request)),
        _ => Some(request.map(BodyExt::boxed)),
    };
    let answered = match request {
        Some(request) => forward(request, target).await,
        None => None,
    };
    match answered {
        Some(response)
            if fault == Some(AnswerFault::LostAnswer)
                && is_publish
                && !response.headers().contains_key("grpc-status") =>
        {
            faults.set(None);
            // After the whole answer, the node has stored what was published.
            drop(response.into_body().collect().await);
            bad_gateway()
        }
        Some(response) => body::changed(response, fault, path, faults).await,
        None => bad_gateway(),
    }
}

/// Removes the cursors and limits of a request for reading.
async fn without_cursor(request: Request<Incoming>, path: &str) -> Option<Request<Body>> {
    if !messages::has_cursor(path) || request.version() != Version::HTTP_2 {
        return Some(request.map(BodyExt::boxed));
    }
    let (parts, body) = request.into_parts();
    let bytes = body.collect().await.ok()?.to_bytes();
    let mut changed = Vec::new();
    for (flag, message) in hawser_conformance::http::messages(&bytes)? {
        let message = messages::without_cursor(path, message);
        let mut framed = hawser_conformance::http::framed(&message);
        framed[0] = flag;
        changed.extend(framed);
    }
    Some(Request::from_parts(parts, whole(changed.into())))
}

/// Removes the headers for which the node would refuse the head.
fn without_long_headers(mut request: Request<Incoming>) -> Request<Body> {
    let headers = request.headers_mut();
    let entries = headers.iter().filter(|(_, value)| value.len() > HEADER_LEN_BYTES_MAX);
    let long: Vec<HeaderName> = entries.map(|(name, _)| name.clone()).collect();
    for name in &long {
        headers.remove(name);
    }
    request.map(BodyExt::boxed)
}

/// Removes every Mutate whose id an earlier one of the stream has used.
fn without_repeated_ids(request: Request<Incoming>) -> Request<Body> {
    let (parts, mut incoming) = request.into_parts();
    let (sender, receiver) = mpsc::channel(REQUESTS_WAITING_MAX);
    tokio::spawn(async move {
        let (mut waiting, mut seen) = (BytesMut::new(), BTreeSet::new());
        while let Some(Ok(frame)) = incoming.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            waiting.extend_from_slice(&data);
            while let Some(message) = body::next_message(&mut waiting) {
                if messages::mutate_id(&message).is_some_and(|id| !seen.insert(id)) {
                    continue;
                }
                let framed = hawser_conformance::http::framed(&message);
                if sender.send(Ok(Frame::data(framed.into()))).await.is_err() {
                    return;
                }
            }
        }
    });
    Request::from_parts(parts, StreamBody::new(ReceiverStream::new(receiver)).boxed())
}
