//! Sockets and connections: limits, idle connections, and shutdown in order.

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

/// Calls that one connection may have open at once; more wait. Specified in `docs/protocol/api.md`.
const STREAMS_PER_CONNECTION_MAX: u32 = 1000;
/// All headers of a request together. Specified in `docs/protocol/api.md`.
const HEADER_LIST_LEN_BYTES_MAX: u32 = 64 * 1024;
/// Bytes that a connection may have sent before a call reads them: half a second at 256 Mbit/s. A
/// guess.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// The same for each call: a usual publish in one flight. A guess.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of a response that may wait for the connection. Worst-case memory of a connection is this
/// times [`STREAMS_PER_CONNECTION_MAX`]. A guess.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// First bytes of HTTP/2 with prior knowledge (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Silence after which the peer's kernel is probed. A client that sleeps answers; a machine that is
/// gone does not, and its streams are freed. A guess: mobile networks drop idle mappings later.
const TCP_PROBE_AFTER: Duration = Duration::from_secs(60);
/// Time between probes that are not answered. A guess.
const TCP_PROBE_EVERY: Duration = Duration::from_secs(20);

/// Pause after a failed accept. A guess: most often the process has too many open files, and an
/// immediate retry would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time for a connection without calls to close after GOAWAY. A guess: two round trips of a slow
/// network.
const GOAWAY_GRACE: Duration = Duration::from_secs(2);

/// State that the connections of a listener share.
pub(crate) struct Connections {
    dispatcher: Dispatcher,
    http: auto::Builder<TokioExecutor>,
    settings: ServeSettings,
    stop: CancellationToken,
}

impl Connections {
    pub(crate) fn new(
        dispatcher: Dispatcher,
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
        Arc::new(Self { dispatcher, http, settings, stop })
    }

    /// Accepts connections until the stop, then waits for those that are open.
    pub(crate) async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => { open.spawn(self.clone().serve(stream, peer)); }
                    Err(error) => self.accept_failed(&error).await,
                },
                Some(ended) = open.join_next(), if !open.is_empty() => log_panic(ended),
            }
        }
        drop(listener);
        while let Some(ended) = open.join_next().await {
            log_panic(ended);
        }
    }

    async fn accept_failed(&self, error: &io::Error) {
        self.dispatcher.metrics().connection_failed();
        tracing::warn!(%error, "a connection could not be accepted");
        sleep(ACCEPT_PAUSE).await;
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, "socket options were not set");
        }
        tokio::select! {
            begun = timeout(self.settings.head_timeout, begin(&stream)) => match begun {
                Ok(Ok(())) => {}
                // Balancers probe the port: they connect and close.
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return,
                Ok(Err(_)) | Err(_) => return self.dispatcher.metrics().connection_failed(),
            },
            () = self.stop.cancelled() => return,
        }
        self.converse(stream, peer).await;
    }

    /// Serves one connection until either end closes it.
    async fn converse(&self, stream: TcpStream, peer: SocketAddr) {
        let activity = Arc::new(Activity::new());
        let dispatcher = self.dispatcher.for_connection();
        let service = service_fn(|mut request: Request<Incoming>| {
            let (dispatcher, activity) = (dispatcher.clone(), activity.clone());
            // `tonic::Request::remote_addr` reads this extension.
            let connected = TcpConnectInfo { local_addr: None, remote_addr: Some(peer) };
            request.extensions_mut().insert(connected);
            async move {
                let busy = Busy::new(activity);
                dispatcher
                    .answer(request)
                    .await
                    .map(|response| response.map(|body| busy.until(body)))
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
            // A client that is gone never closes its side.
            () = async { sleep(GOAWAY_GRACE).await; activity.idle_for(Duration::ZERO).await } => {}
        }
    }

    fn ended(&self, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
        if let Err(error) = ended {
            self.dispatcher.metrics().connection_failed();
            tracing::debug!(%error, "a connection broke");
        }
    }
}

/// Logs the panic of a connection's task.
fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(code = "connection_failed", %error, "a connection's task failed");
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(TCP_PROBE_AFTER).with_interval(TCP_PROBE_EVERY);
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// Waits for the bytes that tell the version of HTTP. The caller bounds it by a timeout, because a
/// silent connection holds a descriptor.
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
        // Part of a preface. Peeked bytes stay readable, so readiness cannot tell when more arrive;
        // clients send the preface in one piece, so this poll is rare.
        sleep(Duration::from_millis(10)).await;
    }
}

/// The open calls of a connection, and the time since which it has none.
#[derive(Debug)]
struct Activity {
    calls: AtomicUsize,
    idle_since: Mutex<Instant>,
}

impl Activity {
    fn new() -> Self {
        Self { calls: AtomicUsize::new(0), idle_since: Mutex::new(Instant::now()) }
    }

    /// Returns when the connection has had no call for `limit`.
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

/// An open call; its connection is not idle until it is dropped.
#[derive(Debug)]
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: Arc<Activity>) -> Self {
        activity.calls.fetch_add(1, Ordering::AcqRel);
        Self(activity)
    }

    /// Ties the call to the body of its response.
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

/// A response body that keeps its connection from being idle.
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
