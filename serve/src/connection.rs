//! Sockets and connections: limits, idleness, and an end in order.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpConnectInfo;

use crate::dispatch::Dispatcher;
use crate::settings::ServeSettings;

/// Calls that one connection may have open at once.
const STREAMS_PER_CONNECTION_MAX: u32 = 1000;
/// All headers of a request together.
const HEADER_LIST_LEN_BYTES_MAX: u32 = 64 * 1024;
/// What a connection may have sent that no call has read yet, in all and for each call.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// What a call may have answered that the connection has not sent yet.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// How a connection begins that speaks HTTP/2 without asking.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Asks the other end's kernel whether it is still there. A client that sleeps answers, a machine
/// that is gone does not, and its streams are freed.
const TCP_PROBE_AFTER: Duration = Duration::from_secs(60);
const TCP_PROBE_EVERY: Duration = Duration::from_secs(20);

/// How long a connection without calls may take to close after it was told to.
const LEAVE_TAKING: Duration = Duration::from_secs(2);

/// Everything that the connections of a listener share.
pub(crate) struct Connections {
    front: Dispatcher,
    http: auto::Builder<TokioExecutor>,
    settings: ServeSettings,
    stop: CancellationToken,
}

impl Connections {
    pub(crate) fn new(
        front: Dispatcher,
        settings: ServeSettings,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.head_timeout)
            .max_buf_size(HEADER_LIST_LEN_BYTES_MAX as usize);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .max_header_list_size(HEADER_LIST_LEN_BYTES_MAX)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES);
        Arc::new(Self { front, http, settings, stop })
    }

    /// Takes connections until the stop, then waits for those that are open.
    pub(crate) async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => { open.spawn(self.clone().serve(stream, peer)); }
                    Err(error) => self.not_accepted(&error).await,
                },
                Some(ended) = open.join_next(), if !open.is_empty() => logged(ended),
            }
        }
        drop(listener);
        while let Some(ended) = open.join_next().await {
            logged(ended);
        }
    }

    /// Most often there are too many open files, and another try at once would fail as well.
    async fn not_accepted(&self, error: &io::Error) {
        self.front.stats().connection_failed();
        tracing::warn!(%error, "a connection could not be accepted");
        sleep(Duration::from_millis(50)).await;
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, "socket options were not set");
        }
        tokio::select! {
            begun = timeout(self.settings.head_timeout, begin(&stream)) => match begun {
                Ok(Ok(())) => {}
                // Balancers look whether somebody listens.
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return,
                Ok(Err(_)) | Err(_) => return self.front.stats().connection_failed(),
            },
            () = self.stop.cancelled() => return,
        }
        self.converse(stream, peer).await;
    }

    /// Serves one connection until one of both ends it.
    async fn converse(&self, stream: TcpStream, peer: SocketAddr) {
        let activity = Arc::new(Activity::new());
        let front = self.front.for_connection();
        let service = service_fn(|mut request: Request<Incoming>| {
            let (front, activity) = (front.clone(), activity.clone());
            // What tonic calls the remote address of a request.
            let connected = TcpConnectInfo { local_addr: None, remote_addr: Some(peer) };
            request.extensions_mut().insert(connected);
            async move {
                let busy = Busy::new(activity);
                front.answer(request).await.map(|response| response.map(|body| busy.until(body)))
            }
        });
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => return self.ended(ended),
            () = self.stop.cancelled() => {}
            () = activity.idle_for(self.settings.idle_timeout) => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = connection => self.ended(ended),
            // A client that is gone does not take its leave.
            () = async { sleep(LEAVE_TAKING).await; activity.idle_for(Duration::ZERO).await } => {}
        }
    }

    fn ended(&self, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
        if let Err(error) = ended {
            self.front.stats().connection_failed();
            tracing::debug!(%error, "a connection broke");
        }
    }
}

fn logged(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(code = "connection_failed", %error, "a connection's task failed");
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(TCP_PROBE_AFTER).with_interval(TCP_PROBE_EVERY);
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// Waits until it can be told which HTTP this is: whoever connects and says nothing holds a
/// descriptor.
async fn begin(stream: &TcpStream) -> io::Result<()> {
    let mut first = [0; HTTP2_PREFACE.len()];
    loop {
        let len = stream.peek(&mut first).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if len == HTTP2_PREFACE.len() || first[..len] != HTTP2_PREFACE[..len] {
            return Ok(());
        }
        // Part of a preface, which no client sends in pieces: nothing tells when more is there.
        sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a connection has calls, and since when it has none.
#[derive(Debug)]
struct Activity {
    calls: AtomicUsize,
    idle_since: Mutex<Instant>,
}

impl Activity {
    fn new() -> Self {
        Self { calls: AtomicUsize::new(0), idle_since: Mutex::new(Instant::now()) }
    }

    /// Returns once there has been no call for `limit`.
    async fn idle_for(&self, limit: Duration) {
        loop {
            let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = self.calls.load(Ordering::Acquire) == 0;
            if idle && since.elapsed() >= limit {
                return;
            }
            let busy_until = Instant::now() + limit.max(Duration::from_millis(100));
            sleep_until(if idle { since + limit } else { busy_until }).await;
        }
    }
}

/// One call that is open on a connection.
#[derive(Debug)]
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: Arc<Activity>) -> Self {
        activity.calls.fetch_add(1, Ordering::AcqRel);
        Self(activity)
    }

    /// The call lasts as long as its answer's body.
    fn until<B>(self, body: B) -> Held<B> {
        Held { body, _busy: self }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A body that keeps its connection busy.
struct Held<B> {
    body: B,
    _busy: Busy,
}

impl<B: hyper::body::Body + Unpin> hyper::body::Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<B::Data>, B::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
