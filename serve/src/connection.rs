//! Sockets and connections: limits, idle connections, and shutdown in order.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::Either;
use futures_util::stream::FuturesUnordered;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body as Answer;
use tonic::transport::server::TcpConnectInfo;

use crate::activity::{Activity, Busy};
use crate::answer_body::{AnswerBody, OpenCall};
use crate::budget::ConnectionShare;
use crate::close_signal::CLOSED_GRACE;
use crate::connection_admission::{
    AdmittedConnection, ConnectionAdmission, ConnectionRefusedError, PeekPauses,
};
use crate::connection_slots::{ConnectionLimits, ConnectionSlot};
use crate::dispatch::Dispatcher;
use crate::frame_head::HTTP2_PREFACE;
use crate::frame_meter::Metered;
use crate::head_timer::{HeadClock, HeadTimer};
use crate::overloaded::OverloadedError;
use crate::request_head::{has_large_head, head_bytes};
use crate::settings::{STREAM_WINDOW_BYTES, ServeSettings};
use crate::short_writes::ShortWrites;
use crate::socket::{CurrentRuntime, Socket};
use crate::task_threads::{self, TurnExecutor};
use crate::tls::{DecryptedStream, ENCRYPTED_BYTES};
use crate::turns::{PaidTime, TaskRuntimes, call_in_turn};
use crate::unflushed::{ArrivingHeads, ChargedInCall, UnflushedHeads};
use crate::upgrade::{self, UpgradeSlot};
use crate::warning_throttle::Warnings;

/// Largest number of calls that a peer may reset before they begin; one more ends the connection. The library's
/// default.
const PENDING_RESETS_MAX: usize = 20;
/// Largest number of calls that this end resets because of the peer's errors; one more ends the connection. The
/// library's default.
const ERROR_RESETS_MAX: usize = 1024;
/// Bytes of all headers of a request over HTTP/2, with 32 for each (RFC 9113 §6.5.2). Specified in
/// `docs/protocol/api.md`: the longest credential that a gateway takes has 16 KiB. `UNFINISHED_HEAD_BYTES` in
/// `unflushed.rs` follows from it.
const HEADER_LIST_LEN_BYTES_MAX: u32 = 24 * 1024;
/// Bytes of the head of an HTTP/1.1 request, which has a hundred headers at most. Specified in `docs/protocol/api.md`.
const HTTP1_HEAD_LEN_BYTES_MAX: usize = 64 * 1024;
/// HTTP/2 window of a connection: bytes that its peer may send before calls read them. They are charged when a call
/// reads them. A guess: a quarter of a second at 64 Mbit/s. Calls read without delay, so only bytes wait that
/// [`Metered`] has read from the socket before the calls had their turn.
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Bytes of a response that may wait in the connection before the body is polled for more. Waiting bytes are charged,
/// so the budget bounds the memory and not this constant. A guess.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Idle time after which TCP keepalive probes the peer. The kernel of a sleeping client answers; a lost machine does
/// not, and its streams are freed. A guess: mobile networks drop idle mappings later.
const TCP_PROBE_AFTER: Duration = Duration::from_secs(60);
/// Time between probes that are not answered. A guess.
const TCP_PROBE_EVERY: Duration = Duration::from_secs(20);

/// Pause after a failed accept. A guess: most often the process has too many open files, and an
/// immediate retry would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that are accepted or reaped before other tasks have a turn. A guess: a turn of
/// about 100 µs.
const ACCEPTED_AT_ONCE: u32 = 8;
/// Time for which the address of an accepted connection rests, also if the connection is refused. While publishers are
/// late, the rest is a multiple of it, as after a turn. A guess: the share of one connection in a turn of
/// [`ACCEPTED_AT_ONCE`], and a little for closing it.
const ACCEPT_TIME: Duration = Duration::from_micros(15);
/// Time for which the address of a connection rests that is closed because of a flood of frames, in multiples of it
/// while publishers are late. A guess: the longest rest at the largest multiple. A flood that connects again would
/// otherwise have the burst of a new connection at once.
const FLOOD_TIME: Duration = Duration::from_millis(5);
/// Text of the warning that new connections are closed.
const FULL: &str = "all connections that this process may have are open: new ones are closed, or take the \
                    place of the address with most. Raise the limit of open files (LimitNOFILE=, ulimit -n) \
                    if these are callers in good standing";
/// Time for a connection without calls to close after GOAWAY. A guess: two round trips of a slow
/// network.
const GOAWAY_GRACE: Duration = Duration::from_secs(2);

/// A connection that has just been accepted.
struct Arriving {
    stream: TcpStream,
    peer: SocketAddr,
    slot: ConnectionSlot,
    runtime: CurrentRuntime,
}

/// A connection whose first bytes of HTTP have arrived.
type BegunConnection = (DecryptedStream, AdmittedConnection, Arc<ConnectionShare>);

/// State that the connections of a listener share.
pub(crate) struct Connections {
    dispatcher: Dispatcher,
    arrivals: ConnectionAdmission,
    settings: ServeSettings,
    stop: CancellationToken,
    warnings: Warnings,
    arriving: ArrivingHeads,
    /// `None`: all tasks run on the runtime of the listener.
    runtimes: Option<TaskRuntimes>,
}

impl Connections {
    /// Creates the state. Called on the runtime of the listener.
    pub(crate) fn new(
        dispatcher: Dispatcher,
        settings: ServeSettings,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let limits = ConnectionLimits {
            all_max: settings.connections_max,
            per_address_max: settings.connections_per_address_max,
        };
        let (proxies, has_tls) = (settings.trusted_proxies.clone(), settings.tls.is_some());
        let arrivals = ConnectionAdmission::new(proxies, limits, has_tls);
        dispatcher.metrics().connections_may_be(settings.connections_max);
        let (warnings, arriving) = (Warnings::default(), ArrivingHeads::default());
        let publishers = settings.publishers.clone();
        let runtimes =
            publishers.map(|publishers| TaskRuntimes { all: Handle::current(), publishers });
        Arc::new(Self { dispatcher, arrivals, settings, stop, warnings, arriving, runtimes })
    }

    /// Returns the protocols of one connection. Its tasks take turns by the time that the connection has paid for.
    fn http(&self, share: &ConnectionShare, heads: HeadClock) -> auto::Builder<TurnExecutor> {
        let (account, is_proxy) = (share.paid_time().clone(), share.is_proxy());
        let mut http = auto::Builder::new(TurnExecutor { account, of_proxy: is_proxy });
        // Errors of one client behind a proxy, and calls that this client gives up, must not end the calls of other
        // clients. The meter of frames bounds both.
        let error_resets_max = (!is_proxy).then_some(ERROR_RESETS_MAX);
        let pending_resets_max = if is_proxy { usize::MAX } else { PENDING_RESETS_MAX };
        http.http1()
            .timer(HeadTimer::new(heads, self.settings.head_timeout))
            .header_read_timeout(self.settings.head_timeout)
            .max_buf_size(HTTP1_HEAD_LEN_BYTES_MAX);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.settings.streams_per_connection_max)
            .max_pending_accept_reset_streams(pending_resets_max)
            .max_local_error_reset_streams(error_resets_max)
            .max_header_list_size(HEADER_LIST_LEN_BYTES_MAX)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES);
        http
    }

    /// Accepts connections until the stop, then waits for those that are open.
    pub(crate) async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut open = JoinSet::new();
        let mut taken = 0_u32;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let account = self.account(peer.ip());
                        if let Some(slot) = self.take_slot(&stream, peer) {
                            let arriving = Arriving { stream, peer, slot, runtime: CurrentRuntime::default() };
                            let runtime = arriving.runtime.clone();
                            let connection = self.clone().serve(arriving, account.clone());
                            open.spawn(task_threads::run(account, runtime, connection));
                        }
                    }
                    Err(error) => self.accept_failed(&error).await,
                },
                Some(ended) = open.join_next(), if !open.is_empty() => log_panic(ended),
            }
            taken = taken.wrapping_add(1);
            // Connections that were asked to close need a turn for it, and the next newcomer needs their slots.
            if taken.is_multiple_of(ACCEPTED_AT_ONCE) || self.arrivals.are_ending() {
                tokio::task::yield_now().await;
            }
        }
        drop(listener);
        while let Some(ended) = open.join_next().await {
            log_panic(ended);
        }
    }

    /// Creates the account of turns of a new connection, which rests with its address from its first turn on. Charges
    /// the address for the time of accepting the connection. A trusted proxy is not charged: the client's address is
    /// known only later.
    fn account(&self, peer: IpAddr) -> Arc<PaidTime> {
        let account = self.settings.memory.account(self.runtimes.clone());
        if !self.settings.trusted_proxies.contains(peer) {
            account.rest_with(peer.into());
            account.rest(ACCEPT_TIME);
        }
        account
    }

    /// Takes a slot for a connection; `None` if it has to be closed.
    fn take_slot(&self, stream: &TcpStream, peer: SocketAddr) -> Option<ConnectionSlot> {
        let metrics = self.dispatcher.metrics();
        match self.arrivals.take_slot(stream, peer) {
            Ok(slot) => Some(slot),
            Err(refusal) => {
                metrics.connection_refused(refusal);
                if refusal == ConnectionRefusedError::All && self.warnings.full.is_due() {
                    let open = self.arrivals.open();
                    tracing::warn!(code = "connections_full", open, "{FULL}");
                }
                None
            }
        }
    }

    async fn accept_failed(&self, error: &io::Error) {
        self.dispatcher.metrics().connection_failed();
        if self.warnings.failed.is_due() {
            tracing::warn!(%error, "a connection could not be accepted");
        }
        sleep(ACCEPT_PAUSE).await;
    }

    /// Serves one connection: its first bytes, and then its calls.
    async fn serve(self: Arc<Self>, arriving: Arriving, account: Arc<PaidTime>) {
        let _open = self.dispatcher.metrics().connection_opened();
        let begin = self.begin(arriving, account);
        let (wire, arrived, share) = tokio::select! {
            begun = timeout(self.settings.head_timeout, begin) => match begun {
                Ok(Ok(Ok(begun))) => begun,
                Ok(Ok(Err(refusal))) => return self.dispatcher.metrics().connection_refused(refusal),
                // Balancers probe the port: they connect and close.
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return,
                Ok(Err(_)) | Err(_) => return self.dispatcher.metrics().connection_failed(),
            },
            () = self.stop.cancelled() => return,
        };
        self.converse(wire, arrived, share).await;
    }

    /// Admits a connection, opens its share of memory, does the TLS handshake, and waits for the first bytes of HTTP.
    async fn begin(
        &self,
        arriving: Arriving,
        account: Arc<PaidTime>,
    ) -> io::Result<Result<BegunConnection, ConnectionRefusedError>> {
        let Arriving { mut stream, peer, slot, runtime } = arriving;
        let arrived = match self.arrivals.arrive(&mut stream, peer, slot).await {
            Ok(arrived) => arrived,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let client = arrived.client.ip();
        let opened = tokio::select! {
            opened = self.open(stream, runtime, client, account) => opened?,
            () = arrived.slot.ended() => return Ok(Err(ConnectionRefusedError::All)),
        };
        let (wire, share) = opened;
        Ok(Ok((wire, arrived, share)))
    }

    /// Waits for the first bytes of HTTP, after the TLS handshake if the listener uses TLS. The share is opened before
    /// the handshake, of which up to 64 KiB wait until they are whole. Without TLS it is opened when the first bytes
    /// have arrived, so that a connection without a request takes none, nor a call of the system for its options.
    async fn open(
        &self,
        stream: TcpStream,
        runtime: CurrentRuntime,
        client: IpAddr,
        account: Arc<PaidTime>,
    ) -> io::Result<(DecryptedStream, Arc<ConnectionShare>)> {
        let Some(tls) = &self.settings.tls else {
            begin(&stream).await?;
            prepare(&stream);
            let wire = DecryptedStream::Plain(Socket::new(stream, runtime));
            return Ok((wire, self.share(client, account)?));
        };
        prepare(&stream);
        let stream = Socket::new(stream, runtime);
        let share = self.share(client, account)?;
        share.take_kept(ENCRYPTED_BYTES).map_err(io::Error::other)?;
        let acceptor = tls.acceptor();
        let wire = tokio::select! {
            wire = DecryptedStream::encrypted(&acceptor, stream, has_begun) => wire?,
            () = share.closed() => return Err(io::Error::other(OverloadedError)),
        };
        Ok((wire, share))
    }

    /// Opens the share of a connection.
    fn share(&self, client: IpAddr, account: Arc<PaidTime>) -> io::Result<Arc<ConnectionShare>> {
        let memory = &self.settings.memory;
        let share = match self.settings.trusted_proxies.contains(client) {
            true => memory.proxy(client, account),
            false => memory.connection(client, account),
        };
        share.map_err(io::Error::other)
    }

    /// Serves one connection until either end closes it.
    async fn converse(
        &self,
        stream: DecryptedStream,
        arrived: AdmittedConnection,
        share: Arc<ConnectionShare>,
    ) {
        // Over TLS the handshake decides the protocol (RFC 9113 §3.1). Through a proxy that forwards the upgrade, a
        // client could send requests that the proxy does not see, with client addresses of its choice.
        let may_switch = matches!(stream, DecryptedStream::Plain(_)) && !share.is_proxy();
        let upgrades = may_switch.then(UpgradeSlot::default);
        let activity = Arc::new(Activity::new());
        let streams_max = self.settings.streams_per_connection_max;
        let unflushed = UnflushedHeads::new(share.clone(), streams_max, &self.arriving);
        let lone_call = share.is_proxy().then(Mutex::default);
        let mut talk = Conversation { arrived, share, activity, upgrades, unflushed, lone_call };
        let head_timeout = self.settings.head_timeout;
        let on_flood = self.on_flood(&talk.share);
        let stream = Metered::new(stream, head_timeout, talk.unflushed.clone(), on_flood);
        let heads = stream.heads();
        self.hold(stream, heads, &talk).await;
        // Unwritten answers went with the connection.
        talk.unflushed.flushed();
        let Some(asked) = talk.upgrades.take().and_then(|slot| slot.take()) else { return };
        let on_flood = self.on_flood(&talk.share);
        let switch = asked.switch(head_timeout, talk.unflushed.clone(), on_flood);
        let switched = tokio::select! {
            switched = timeout(head_timeout, switch) => switched,
            () = self.stop.cancelled() => return,
            () = talk.share.closed() => return,
            () = talk.arrived.slot.ended() => return,
        };
        match switched {
            // Boxed, so that connections without an upgrade do not reserve memory for it.
            Ok(Ok(stream)) => {
                Box::pin(self.hold(stream, HeadClock::default(), &talk)).await;
                talk.unflushed.flushed();
            }
            Ok(Err(_)) | Err(_) => self.dispatcher.metrics().connection_failed(),
        }
    }

    /// Returns the callback for a peer that floods its connection.
    fn on_flood(&self, share: &ConnectionShare) -> impl Fn() + Send + use<> {
        let (metrics, account) = (self.dispatcher.metrics().clone(), share.paid_time().clone());
        move || {
            metrics.connection_refused(ConnectionRefusedError::Flood);
            account.rest_without_work(FLOOD_TIME);
        }
    }

    /// Serves requests until either end closes the connection, or the connection switches to another protocol.
    async fn hold<T>(&self, stream: T, heads: HeadClock, talk: &Conversation)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Conversation { arrived, share, activity, .. } = talk;
        let service = service_fn(|request| self.answer(request, talk));
        let http = self.http(share, heads);
        let stream = TokioIo::new(ShortWrites::new(stream));
        let connection = http.serve_connection_with_upgrades(stream, service);
        let mut connection = pin!(connection);
        let mut unread = pin!(share.unread_for(self.settings.write_timeout));
        let mut call_closed = pin!(talk.call_closed());
        // The connection is polled with each of its turns, and a set polls its future only when it was woken: each part
        // of that takes a lock, some of them one of the listener, or looks at a timer.
        let mut ends = FuturesUnordered::new();
        ends.push(self.end_of(talk, unread.as_mut()));
        let end = tokio::select! {
            biased; // the call of this turn is begun before it is watched
            ended = connection.as_mut() => return self.ended(ended),
            Some(end) = ends.next() => end,
            () = call_closed.as_mut() => ConnectionEnd::ShortMemory,
        };
        drop(ends);
        match end {
            ConnectionEnd::InOrder => {}
            ConnectionEnd::ShortMemory => {
                connection.as_mut().graceful_shutdown();
                // The connection is closed in any case; without calls, as soon as GOAWAY is sent.
                let grace = if activity.is_busy() { CLOSED_GRACE } else { Duration::ZERO };
                let _ = timeout(grace, connection).await;
                return;
            }
            ConnectionEnd::SlotTaken => {
                self.dispatcher.metrics().connection_refused(ConnectionRefusedError::All);
                if activity.is_busy() {
                    connection.as_mut().graceful_shutdown();
                    let _ = timeout(CLOSED_GRACE, connection).await; // closed in any case
                }
                return;
            }
            ConnectionEnd::Unread => return self.settings.memory.count_unread(),
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            biased; // as above
            ended = connection.as_mut() => return self.ended(ended),
            () = call_closed => {}
            () = unread => return self.settings.memory.count_unread(),
            // Until it answers a ping behind GOAWAY, a client may open further calls.
            () = share.closed() => {}
            () = arrived.slot.ended() => {
                self.dispatcher.metrics().connection_refused(ConnectionRefusedError::All);
            }
            // A client that has disappeared never closes its side.
            () = async { sleep(GOAWAY_GRACE).await; activity.idle_for(Duration::ZERO).await } => {}
        }
        if activity.is_busy() {
            let _ = timeout(CLOSED_GRACE, connection).await; // closed in any case
        }
    }

    /// Completes when this end has to end a connection. `unread` completes when its peer reads no answers.
    async fn end_of(&self, talk: &Conversation, unread: impl Future<Output = ()>) -> ConnectionEnd {
        let Conversation { arrived, share, activity, .. } = talk;
        tokio::select! {
            () = self.stop.cancelled() => ConnectionEnd::InOrder,
            () = activity.idle_for(self.settings.idle_timeout) => ConnectionEnd::InOrder,
            () = share.closed() => ConnectionEnd::ShortMemory,
            () = arrived.slot.ended() => ConnectionEnd::SlotTaken,
            () = unread => ConnectionEnd::Unread,
        }
    }

    /// Answers one request of a connection.
    fn answer(
        &self,
        mut request: Request<Incoming>,
        talk: &Conversation,
    ) -> impl Future<Output = Result<Response<AnswerBody<Answer>>, Infallible>> + Send + use<> {
        let peer = talk.arrived.client;
        let share = self.share_of_call(&talk.share, &request, peer);
        // `tonic::Request::remote_addr` reads this extension.
        let connected = TcpConnectInfo { local_addr: None, remote_addr: Some(peer) };
        request.extensions_mut().insert(connected);
        request.extensions_mut().insert(share.clone());
        // The task that runs the call has the account of the proxy's connection, which never rests.
        let of_client = talk.share.is_proxy().then(|| share.paid_time().clone());
        let busy = Busy::new(talk.activity.clone());
        let is_http1 = request.version() < Version::HTTP_2;
        if let Some(newest) = talk.lone_call.as_ref().filter(|_| is_http1) {
            *newest.lock() = Some(share.clone());
        }
        let open = OpenCall::new(share.clone(), busy, talk.share.is_proxy() && !is_http1);
        let (dispatcher, body_timeout) = (self.dispatcher.clone(), self.settings.body_timeout);
        let upgrade = talk.upgrades.as_ref().filter(|_| upgrade::is_asked(&request));
        let upgrade = upgrade.map(|slot| (slot.clone(), share.clone()));
        let closes = upgrade.is_none() && has_large_head(&request);
        let head_bytes = head_bytes(request.uri(), request.headers());
        let mut head = talk.unflushed.arrived(share, head_bytes);
        // Boxed, so that this memory is freed when the answer begins: hyper's task of a stream would otherwise reserve
        // the larger of both states until its end.
        let answered = Box::pin(async move {
            head.begins();
            let mut response = match upgrade {
                // Boxed, so that other requests keep no memory for it.
                Some((slot, share)) => Box::pin(slot.put(request, share, body_timeout)).await,
                None => dispatcher.answer(request, &head).await?,
            };
            let stream = head.answered(response.headers());
            let is_charged = response.extensions().get::<ChargedInCall>().is_some();
            let state = is_charged.then(|| stream.leave_to_call());
            if closes {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| open.on(stream, state).until(body)))
        });
        match of_client {
            Some(account) => Either::Left(Box::pin(call_in_turn(account, answered))),
            None => Either::Right(answered),
        }
    }

    /// Returns the share that a call is charged to: its connection's share, or a separate one if the connection is
    /// a proxy's.
    fn share_of_call(
        &self,
        connection: &Arc<ConnectionShare>,
        request: &Request<Incoming>,
        peer: SocketAddr,
    ) -> Arc<ConnectionShare> {
        if !connection.is_proxy() {
            return connection.clone();
        }
        let client = self.settings.trusted_proxies.client(request.headers(), Some(peer));
        connection.of_call(client)
    }

    fn ended(&self, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
        if let Err(error) = ended {
            self.dispatcher.metrics().connection_failed();
            tracing::debug!(%error, "a connection broke");
        }
    }
}

/// The reason for which this end ends a connection.
enum ConnectionEnd {
    /// The listener stops, or the connection has been idle: calls that are open are answered.
    InOrder,
    /// Its memory is needed for others.
    ShortMemory,
    /// Another address gets its slot.
    SlotTaken,
    /// Its peer has read no answers for too long.
    Unread,
}

/// One connection: its client, its memory share and its calls.
struct Conversation {
    arrived: AdmittedConnection,
    share: Arc<ConnectionShare>,
    activity: Arc<Activity>,
    /// Present while the connection may switch to HTTP/2.
    upgrades: Option<UpgradeSlot>,
    unflushed: UnflushedHeads,
    /// The share of the newest call over HTTP/1, until [`Self::call_closed`] watches it. Present if the connection is
    /// a proxy's.
    lone_call: Option<Mutex<Option<Arc<ConnectionShare>>>>,
}

impl Conversation {
    /// Completes when the newest call over HTTP/1 on a proxy's connection has to end. The connection ends with it: it
    /// has no other call, and the library asks nothing of a body of which much waits to be written, so that the body
    /// cannot fail.
    async fn call_closed(&self) {
        let Some(newest) = &self.lone_call else { return std::future::pending().await };
        let mut closed: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
        std::future::poll_fn(|cx| {
            let begun = newest.lock().take();
            if let Some(share) = begun {
                closed = Some(Box::pin(async move { share.closed().await }));
            }
            closed.as_mut().map_or(Poll::Pending, |closed| closed.as_mut().poll(cx))
        })
        .await;
    }
}

/// Logs the panic of a connection's task.
fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(code = "connection_failed", %error, "a connection's task failed");
    }
}

/// Sets the options of a connection's socket, which it does not need before it is written to.
fn prepare(stream: &TcpStream) {
    let probes = TcpKeepalive::new().with_time(TCP_PROBE_AFTER).with_interval(TCP_PROBE_EVERY);
    let set = stream.set_nodelay(true);
    if let Err(error) = set.and_then(|()| SockRef::from(stream).set_tcp_keepalive(&probes)) {
        tracing::debug!(%error, "socket options were not set");
    }
}

/// Waits for the bytes that determine the version of HTTP. The caller adds a timeout, because a silent connection holds
/// a descriptor.
async fn begin(stream: &TcpStream) -> io::Result<()> {
    let (mut first, mut pauses) = ([0; HTTP2_PREFACE.len()], PeekPauses::new());
    loop {
        let len = stream.peek(&mut first).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if has_begun(&first[..len]) {
            return Ok(());
        }
        // Part of a preface. Peeked bytes stay readable, so readiness cannot signal further bytes. Clients send the
        // preface in one piece, so this polling is rare.
        sleep(pauses.next_pause()).await;
    }
}

/// Returns true if the first bytes of a connection suffice to determine the version of HTTP.
fn has_begun(first: &[u8]) -> bool {
    let preface = &HTTP2_PREFACE[..first.len().min(HTTP2_PREFACE.len())];
    !first.is_empty() && (preface.len() == HTTP2_PREFACE.len() || !preface.starts_with(first))
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
