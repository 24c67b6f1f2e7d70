//! The listener: JSON-RPC over HTTP and WebSocket on one port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::node::EmbeddedNode;
use super::protocol;
use super::session::Session;
use super::settings::{EmbeddedSettings, EmbeddedStartError};

/// The longest message in bytes: eight times the largest payload of a broadcaster (256 KiB) in hex, and some more.
const MESSAGE_BYTES_MAX: usize = 5 << 20;
/// The number of bytes that are read and discarded of a message that is too long, before the response: a client does
/// not read while it still sends. A guess.
const DRAINED_BYTES_MAX: usize = 64 << 20;
/// The largest number of concurrent connections. A guess: below the usual limit of 1,024 open files.
const CONNECTIONS_MAX: u32 = 512;
/// The time that a stop waits for connections to close. A guess.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// A running development chain, which ends when it is stopped or dropped.
#[derive(Debug)]
pub struct EmbeddedChain {
    address: SocketAddr,
    node: Arc<EmbeddedNode>,
    connections: Arc<Semaphore>,
    stopping: watch::Sender<bool>,
    tasks: [JoinHandle<()>; 2],
}

impl EmbeddedChain {
    /// Opens the chain and serves it. Replays the journal if the settings name a folder with one.
    ///
    /// # Errors
    /// Fails if the address, the folder or the genesis is unusable.
    pub async fn start(settings: EmbeddedSettings) -> Result<Self, EmbeddedStartError> {
        let address = settings.listen;
        if !address.ip().is_loopback() && !settings.allow_remote {
            return Err(EmbeddedStartError::Remote { address });
        }
        let listen = |source| EmbeddedStartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let chain_id = settings.chain_id;
        let opened = tokio::task::spawn_blocking(move || EmbeddedNode::open(&settings));
        let node = Arc::new(opened.await.expect("opening a chain does not panic")?);
        let stopping = watch::Sender::new(false);
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
        let shared = ServerState { node: node.clone(), stopping: stopping.subscribe() };
        let tasks = [
            tokio::spawn(mine_at_intervals(node.clone())),
            tokio::spawn(accept(listener, connections.clone(), shared)),
        ];
        let height = node.read().height();
        tracing::warn!(
            chain_id,
            %address,
            height,
            "an embedded chain runs: it is for development and tests, any client that reaches it controls it"
        );
        Ok(Self { address, node, connections, stopping, tasks })
    }

    /// Returns the address of the listener, with the chosen port if the settings asked for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection, waits for them, and releases the folder.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        for task in &mut self.tasks {
            task.abort();
            let _ = task.await;
        }
        let closed = self.connections.acquire_many(CONNECTIONS_MAX);
        if tokio::time::timeout(CLOSING_MAX, closed).await.is_err() {
            tracing::warn!("a connection did not close in time");
        }
    }
}

impl Drop for EmbeddedChain {
    fn drop(&mut self) {
        self.stopping.send_replace(true);
        self.tasks.iter().for_each(JoinHandle::abort);
        self.node.close();
    }
}

/// Makes a block at each interval of the current mining mode, counted from the time at which the mode was set.
async fn mine_at_intervals(node: Arc<EmbeddedNode>) {
    let mut setting = node.mining.subscribe();
    loop {
        let every = setting.borrow_and_update().every;
        let elapsed = async {
            match every {
                Some(every) => tokio::time::sleep(every).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = setting.changed() => if changed.is_err() { return },
            () = elapsed => {
                let node = node.clone();
                let mined = tokio::task::spawn_blocking(move || node.mine(&mut node.writer(), None));
                if let Ok(Err(error)) = mined.await {
                    tracing::error!(code = "devchain_without_block", reason = error.message, "no block was made");
                }
            }
        }
    }
}

/// The state that all connections share.
#[derive(Debug, Clone)]
struct ServerState {
    node: Arc<EmbeddedNode>,
    stopping: watch::Receiver<bool>,
}

impl ServerState {
    /// Waits for the stop of the chain.
    async fn stopped(&mut self) {
        // An error means that the chain was dropped, which is a stop as well.
        let _ = self.stopping.wait_for(|stopping| *stopping).await;
    }

    /// Answers a message on a thread for blocking work.
    async fn answer(&self, mut session: Session, message: Bytes) -> (Option<String>, Session) {
        let node = self.node.clone();
        let answered = tokio::task::spawn_blocking(move || {
            let answer = protocol::answer(&node, &mut session, &message);
            (answer, session)
        });
        // A panic in one method must not end the chain for other clients.
        answered.await.unwrap_or_else(|_| (Some(protocol::broken()), Session::pushing()))
    }
}

/// Accepts connections until the stop. Their number is bounded by one permit per connection.
async fn accept(listener: TcpListener, connections: Arc<Semaphore>, mut shared: ServerState) {
    loop {
        let next = async {
            let permit = connections.clone().acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            (listener.accept().await, permit)
        };
        tokio::select! {
            () = shared.stopped() => return,
            (accepted, permit) = next => match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(serve(stream, Arc::new(permit), shared.clone()));
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection was accepted");
                    // The usual cause is a lack of file descriptors. Without a pause the loop would spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
}

/// Serves one connection until it closes or the chain stops.
async fn serve(stream: TcpStream, permit: Arc<OwnedSemaphorePermit>, mut shared: ServerState) {
    let _ = stream.set_nodelay(true); // only latency depends on it
    let service = {
        let shared = shared.clone();
        service_fn(move |request| respond(shared.clone(), permit.clone(), request))
    };
    let builder = http1::Builder::new();
    let mut connection =
        pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shared.stopped() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke");
    }
}

type HttpResponse = Response<Full<Bytes>>;

async fn respond(
    shared: ServerState,
    permit: Arc<OwnedSemaphorePermit>,
    request: Request<Incoming>,
) -> Result<HttpResponse, Infallible> {
    let mut answer = match *request.method() {
        Method::POST => post(shared, request.into_body()).await,
        Method::GET if wants_web_socket(request.headers()) => upgrade(shared, permit, request),
        Method::OPTIONS => with(StatusCode::NO_CONTENT, ""),
        _ => with(StatusCode::METHOD_NOT_ALLOWED, "JSON-RPC comes by POST or over a WebSocket\n"),
    };
    allow_every_origin(answer.headers_mut());
    Ok(answer)
}

fn with(status: StatusCode, body: impl Into<Bytes>) -> HttpResponse {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
}

/// Allows every origin, because wallets and pages under development have arbitrary ones.
fn allow_every_origin(headers: &mut HeaderMap) {
    const ALLOWED: [(HeaderName, &str); 4] = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    for (name, value) in ALLOWED {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

async fn post(shared: ServerState, body: Incoming) -> HttpResponse {
    let answer = match read(body).await {
        Ok(Some(message)) => shared.answer(Session::answering(), message).await.0,
        Ok(None) => {
            let answer = protocol::too_long(MESSAGE_BYTES_MAX);
            return json(StatusCode::PAYLOAD_TOO_LARGE, answer);
        }
        Err(_) => return with(StatusCode::BAD_REQUEST, "the body broke off\n"),
    };
    match answer {
        Some(answer) => json(StatusCode::OK, answer),
        None => with(StatusCode::NO_CONTENT, ""),
    }
}

fn json(status: StatusCode, body: String) -> HttpResponse {
    let mut answer = with(status, body);
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}

/// Reads the whole body; `None` if it is longer than [`MESSAGE_BYTES_MAX`].
async fn read(mut body: Incoming) -> Result<Option<Bytes>, hyper::Error> {
    let mut message = Vec::new();
    let mut len = 0;
    if body.size_hint().lower() > DRAINED_BYTES_MAX as u64 {
        return Ok(None);
    }
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        len += data.len();
        if len > DRAINED_BYTES_MAX {
            break;
        }
        if len <= MESSAGE_BYTES_MAX {
            message.extend_from_slice(&data);
        }
    }
    Ok((len <= MESSAGE_BYTES_MAX).then(|| message.into()))
}

fn wants_web_socket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE);
    upgrade.is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && headers.contains_key(header::SEC_WEBSOCKET_KEY)
}

/// Accepts a WebSocket (RFC 6455), which gets its own task.
fn upgrade(
    shared: ServerState,
    permit: Arc<OwnedSemaphorePermit>,
    mut request: Request<Incoming>,
) -> HttpResponse {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        return with(StatusCode::BAD_REQUEST, "no WebSocket key\n");
    };
    let accept =
        HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("base64 is a header value");
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let stream = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        if let Err(error) = converse(shared, socket).await {
            tracing::debug!(%error, "a WebSocket broke");
        }
        drop(permit);
    });
    let mut answer = with(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    answer
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Answers messages in their order and sends notifications between them.
///
/// Reads the next message only after the response is sent, so a client that does not read cannot fill the memory.
async fn converse(mut shared: ServerState, mut socket: Socket) -> Result<(), SocketError> {
    let mut happened = shared.node.happened.subscribe();
    let mut session = Session::pushing();
    loop {
        let message = tokio::select! {
            () = shared.stopped() => break,
            changed = happened.changed() => {
                if changed.is_err() || !push_notifications(&shared.node, &mut session, &mut socket).await? {
                    break;
                }
                continue;
            }
            message = socket.next() => message,
        };
        let message = match message {
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Err(SocketError::Capacity(CapacityError::MessageTooLong { .. }))) => {
                return refuse(socket).await;
            }
            Some(Err(error)) => return Err(error),
            Some(Ok(Message::Close(_))) | None => break,
        };
        let answer;
        (answer, session) = shared.answer(session, message).await;
        if let Some(answer) = answer {
            socket.send(Message::text(answer)).await?;
        }
    }
    socket.close(None).await
}

/// Ends the connection of a client that sends too long a message. Discards the rest of the message first, so
/// that the client reads the reason.
async fn refuse(mut socket: Socket) -> Result<(), SocketError> {
    let answer = protocol::too_long(MESSAGE_BYTES_MAX);
    socket.send(Message::text(answer)).await?;
    socket.close(None).await?;
    let mut rest = socket.get_mut().take(DRAINED_BYTES_MAX as u64);
    let mut nowhere = tokio::io::sink();
    // The connection is closed in any case.
    let _ = tokio::time::timeout(CLOSING_MAX, tokio::io::copy(&mut rest, &mut nowhere)).await;
    Ok(())
}

/// Sends all due notifications. Returns false if the client is too far behind; the connection is then closed, so that
/// the client notices that it has missed events.
async fn push_notifications(
    node: &EmbeddedNode,
    session: &mut Session,
    socket: &mut Socket,
) -> Result<bool, SocketError> {
    loop {
        let due = match session.poll_notifications(node) {
            Ok(due) => due,
            Err(lagged) => {
                tracing::debug!(%lagged, "a WebSocket is closed");
                return Ok(false);
            }
        };
        for message in due.messages {
            socket.feed(Message::text(message)).await?;
        }
        if !due.more {
            socket.flush().await?;
            return Ok(true);
        }
    }
}
