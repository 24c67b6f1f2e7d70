//! Floods of anonymous callers. Each flood has its own thread and its own addresses.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::error::BenchError;
use crate::rpc::{self, Connection};
use crate::{stats, workload};

/// Callers of a flood, each with a connection.
const CALLERS: u32 = 32;
/// Addresses that the callers share.
const ADDRESSES: u32 = 8;
/// Pause of a refused caller.
const PAUSE: Duration = Duration::from_millis(20);
/// Pause of a caller that has sent as much as it may.
const PACE_PAUSE: Duration = Duration::from_millis(1);
const EXCHANGE: Duration = Duration::from_secs(2);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PIECE_LEN: usize = 16 * 1024;

/// The sort of a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FloodKind {
    /// Silent connections.
    Sockets,
    /// Queries, one after the other on each connection.
    Queries,
    /// Streams of a hundred topics that are opened and dropped.
    Streams,
    /// Requests of megabytes that never end.
    Unfinished,
    /// HTTP/2 pings.
    Pings,
}

impl FloodKind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Sockets, Self::Queries, Self::Streams, Self::Unfinished, Self::Pings];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sockets => "beside silent connections",
            Self::Queries => "beside queries",
            Self::Streams => "beside streams that are opened and left",
            Self::Unfinished => "beside requests that never end",
            Self::Pings => "beside pings",
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Sockets => "connections",
            Self::Queries => "queries",
            Self::Streams => "streams",
            Self::Unfinished => "requests begun",
            Self::Pings => "thousand pings",
        }
    }

    /// Returns true if callers go on only with answers, which a sink does not give.
    pub(crate) fn needs_answers(self) -> bool {
        matches!(self, Self::Queries | Self::Streams)
    }
}

/// The requests of a flood that is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FloodCount {
    pub(crate) sent: u64,
    pub(crate) per_second: f64,
}

/// A flood that runs until it is stopped.
pub(crate) struct Flood {
    began: Instant,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

/// One caller of a flood.
#[derive(Clone)]
struct Caller {
    number: u32,
    target: SocketAddr,
    began: Instant,
    /// The maximum number of requests of all callers in a second, on average since the flood began; `None`: as many as
    /// they can.
    per_second_max: Option<f64>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Flood {
    /// Starts a flood, of at most `per_second_max` requests a second if it is given.
    pub(crate) fn start(
        kind: FloodKind,
        target: SocketAddr,
        per_second_max: Option<f64>,
    ) -> Result<Self, BenchError> {
        let began = Instant::now();
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let caller = Caller {
            number: 0,
            target,
            began,
            per_second_max,
            stop: stop.clone(),
            sent: sent.clone(),
        };
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let mut callers = JoinSet::new();
                for number in 0..CALLERS {
                    callers.spawn(Caller { number, ..caller.clone() }.run(kind));
                }
                callers.join_all().await;
            });
        });
        Ok(Self { began, stop, sent, thread })
    }

    /// Ends the flood and returns the number of its requests.
    pub(crate) fn stop(self) -> FloodCount {
        self.stop.store(true, Ordering::Relaxed);
        let elapsed = self.began.elapsed();
        let _ = self.thread.join(); // a failed flood has printed its error, and its requests count
        let sent = self.sent.load(Ordering::Relaxed);
        FloodCount { sent, per_second: stats::per_second(sent, elapsed) }
    }
}

impl Caller {
    /// Attacks until the end of the flood, regardless of the node's answers.
    async fn run(self, kind: FloodKind) {
        let mut held = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            if self.is_ahead() {
                sleep(PACE_PAUSE).await;
                continue;
            }
            let done = match kind {
                FloodKind::Sockets => self.connect().await.map(|stream| held.push(stream)),
                FloodKind::Queries => self.queries().await,
                FloodKind::Streams => self.streams().await,
                FloodKind::Unfinished => self.unfinished().await,
                FloodKind::Pings => self.pings().await,
            };
            if kind == FloodKind::Sockets {
                self.sent.fetch_add(1, Ordering::Relaxed);
                held.truncate(20);
            }
            if done.is_none() {
                sleep(PAUSE).await;
            }
        }
    }

    /// Returns true if the callers have sent more than they may until now.
    fn is_ahead(&self) -> bool {
        let sent = stats::float(self.sent.load(Ordering::Relaxed));
        self.per_second_max.is_some_and(|most| sent > most * self.began.elapsed().as_secs_f64())
    }

    async fn connect(&self) -> Option<TcpStream> {
        let address = Ipv4Addr::new(127, 0, 4, u8::try_from(self.number % ADDRESSES).ok()?);
        let socket = TcpSocket::new_v4().ok()?;
        socket.bind((address, 0).into()).ok()?;
        timeout(EXCHANGE, socket.connect(self.target)).await.ok()?.ok()
    }

    async fn queries(&self) -> Option<()> {
        let mut connection = Connection::open(self.target).await.ok()?;
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.sent.fetch_add(1, Ordering::Relaxed);
            let query = api::EnvelopesQuery { topics: topics(number, 20), ..Default::default() };
            let request = api::QueryEnvelopesRequest { query: Some(query), limit: 100 };
            connection.call(rpc::QUERY, request.encode_to_vec().into()).await.ok()?;
        }
        Some(())
    }

    async fn streams(&self) -> Option<()> {
        let mut connection = Connection::open(self.target).await.ok()?;
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.sent.fetch_add(1, Ordering::Relaxed);
            let filter = |topic| api::subscribe_topics_request::TopicFilter {
                topic,
                last_seen: Some(Default::default()),
            };
            let filters = topics(number, 100).into_iter().map(filter).collect();
            let request = api::SubscribeTopicsRequest { filters };
            let mut stream = connection.stream(rpc::SUBSCRIBE_TOPICS, &request).await.ok()?;
            stream.message().await.ok()?;
        }
        Some(())
    }

    /// Sends as many bytes as flow control allows, and waits.
    async fn unfinished(&self) -> Option<()> {
        let mut stream = self.begin().await?;
        let _ = timeout(EXCHANGE, stream.read(&mut [0; 1024])).await;
        let mut bytes = Vec::new();
        for call in 0..30u32 {
            bytes.extend(frame(1, 4, 2 * call + 1, &headers()));
            // The head of a message of 20 MiB, and the beginning of it.
            let message = [&[0, 1, 64, 0, 0][..], &[0x7f; 60_000]].concat();
            for piece in message.chunks(PIECE_LEN) {
                bytes.extend(frame(0, 0, 2 * call + 1, piece));
            }
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
        timeout(EXCHANGE, stream.write_all(&bytes)).await.ok()?.ok()?;
        sleep(PAUSE).await;
        Some(())
    }

    async fn pings(&self) -> Option<()> {
        let mut stream = self.begin().await?;
        let thousand = frame(6, 0, 0, &[7; 8]).repeat(1000);
        while !self.stop.load(Ordering::Relaxed) {
            if self.is_ahead() {
                sleep(PACE_PAUSE).await;
                continue;
            }
            timeout(EXCHANGE, stream.write_all(&thousand)).await.ok()?.ok()?;
            self.sent.fetch_add(1, Ordering::Relaxed);
            let mut answers = [0; PIECE_LEN];
            stream.try_read(&mut answers).ok();
        }
        Some(())
    }

    async fn begin(&self) -> Option<TcpStream> {
        let mut stream = self.connect().await?;
        stream.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.ok()?;
        Some(stream)
    }
}

fn topics(number: u64, count: u64) -> Vec<Bytes> {
    (0..count).map(|index| workload::topic((number * count + index) % 10_000)).collect()
}

/// Headers of a publish without Huffman codes: method, scheme, path, authority, content type.
fn headers() -> Vec<u8> {
    let path = rpc::PUBLISH;
    let mut headers = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &[u8]| {
        headers.extend(name);
        headers.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
        headers.extend(value);
    };
    literal(&[0x04], path.as_str().as_bytes());
    literal(&[0x01], b"localhost");
    literal(&[0x0f, 0x10], b"application/grpc");
    headers
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes()[..], content].concat()
}
