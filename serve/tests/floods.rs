//! The listener against hostile clients that spend little and cost the server much: floods of frames, header bombs,
//! endless connections, and false source addresses. All tests use raw sockets.
//!
//! A separate program, because it reads the peak memory of its process.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod http2_frames;

use std::net::SocketAddr;
use std::time::Duration;

use hawser_serve::address::Cidr;
use hawser_serve::metrics::MetricsPage;
use hawser_serve::{
    CALLERS_BYTES_MAX, CallMetrics, MemoryBudget, MethodKind, RpcMethod, ServeSettings, Server,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use http2_frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, kinds, read_frame, request_of,
};

/// Time after which a test counts as hung and fails. Generous, for busy machines.
const HANGS_AFTER: Duration = Duration::from_secs(60);
const PRIORITY: u8 = 2;
const CONTINUATION: u8 = 9;

struct Listener {
    server: Server,
    metrics: CallMetrics,
}

async fn listener(adjust: impl FnOnce(&mut ServeSettings)) -> Listener {
    let mut settings = ServeSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    adjust(&mut settings);
    let metrics = CallMetrics::new(&[]);
    let stop = CancellationToken::new();
    let server = Server::bind(settings, Routes::default(), metrics.clone(), stop).await.unwrap();
    Listener { server, metrics }
}

impl Listener {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.address()).await.unwrap()
    }

    /// Connects over HTTP/2 and sends empty settings.
    async fn http2(&self) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        stream
    }

    fn refused(&self, reason: &str) -> bool {
        let page = MetricsPage::new([Box::new(self.metrics.clone()) as _]).render();
        let name = format!("xmtp_api_connections_refused_total{{reason=\"{reason}\"}} ");
        let line = page.lines().find(|line| line.starts_with(&name)).unwrap();
        !line.ends_with(" 0")
    }

    /// Returns the number of calls that have reached the services.
    fn calls(&self) -> u64 {
        let page = MetricsPage::new([Box::new(self.metrics.clone()) as _]).render();
        let lines = page.lines().filter(|line| line.starts_with("grpc_server_started_total"));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }
}

/// The header block of a gRPC call (RFC 7541): indexed names, plain values.
fn call() -> Vec<u8> {
    call_of("/a.B/C")
}

fn call_of(path: &str) -> Vec<u8> {
    request_of(path, "application/grpc")
}

/// Reads everything in the background until the other end closes, and returns the frames' kinds.
fn drain(mut stream: tokio::net::tcp::OwnedReadHalf) -> JoinHandle<Vec<u8>> {
    tokio::spawn(async move {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        kinds(&bytes)
    })
}

/// Sends frames until the server closes the connection. Returns the kinds of the frames that it sent.
async fn until_closed(stream: TcpStream, mut next: impl FnMut(u32) -> Vec<u8>) -> Vec<u8> {
    let (reading, mut writing) = stream.into_split();
    let drained = drain(reading);
    let flood = async {
        for number in 0..300_000 {
            if writing.write_all(&next(number)).await.is_err() {
                return;
            }
        }
        panic!("the flood was served");
    };
    timeout(HANGS_AFTER, flood).await.expect("the flood ends");
    timeout(HANGS_AFTER, drained).await.expect("the connection ends").unwrap()
}

#[tokio::test]
async fn floods_of_frames_that_carry_nothing_end_the_connection() {
    for (name, flood) in [
        ("pings", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("window updates", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("priorities", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
    ] {
        let listener = listener(|_| {}).await;
        let sent = until_closed(listener.http2().await, |_| flood.clone()).await;
        assert!(sent.len() < 200_000, "{name}: {}", sent.len());
        assert!(listener.refused("flood"), "{name}");
    }
}

#[tokio::test]
async fn a_flood_of_calls_that_are_reset_at_once_ends_the_connection() {
    let listener = listener(|_| {}).await;
    let block = call();
    until_closed(listener.http2().await, |number| {
        let stream = 2 * number + 1;
        let reset = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        [frame(HEADERS, END_HEADERS, stream, &block), reset].concat()
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_empty_data_ends_the_connection() {
    let listener = listener(|_| {}).await;
    let mut stream = listener.http2().await;
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &call())).await.unwrap();
    until_closed(stream, |_| frame(DATA, 0, 1, &[])).await;
    let mut stream = listener.http2().await;
    stream.write_all(&frame(HEADERS, 0, 1, &call())).await.unwrap();
    until_closed(stream, |_| frame(CONTINUATION, 0, 1, &[])).await;
}

/// Sends a header block in frames, and waits until the server closes the idle connection.
async fn send_block(listener: &Listener, block: &[u8]) {
    let (reading, mut writing) = listener.http2().await.into_split();
    let drained = drain(reading);
    let pieces: Vec<&[u8]> = block.chunks(16_000).collect();
    for (number, piece) in pieces.iter().enumerate() {
        let (kind, begin) = if number == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
        let end = if number + 1 == pieces.len() { END_HEADERS } else { 0 };
        if writing.write_all(&frame(kind, begin | end, 1, piece)).await.is_err() {
            break;
        }
    }
    timeout(HANGS_AFTER, drained).await.expect("the connection ends").unwrap();
}

/// An HPACK integer of a length (RFC 7541 §5.1), without Huffman.
fn length(len: usize) -> Vec<u8> {
    if len < 127 {
        return vec![u8::try_from(len).unwrap()];
    }
    let (mut rest, mut bytes) = (len - 127, vec![127]);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128 + 128).unwrap());
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

#[tokio::test]
async fn bombs_of_headers_are_refused() {
    let short = Duration::from_millis(100);
    let listener = listener(|settings| settings.idle_timeout = short).await;
    let header = |first: u8, name: &str, value: &[u8]| {
        [&[first][..], &length(name.len()), name.as_bytes(), &length(value.len()), value].concat()
    };
    send_block(&listener, &[call(), header(0, "a", &[b'x'; 1000])].concat()).await;
    assert_eq!(listener.calls(), 1, "a call with usual headers is served");

    for len in [30_000, 100_000] {
        send_block(&listener, &[call(), header(0, "a", &vec![b'x'; len])].concat()).await;
        assert_eq!(listener.calls(), 1, "{len} bytes of headers are not");
    }

    // One header of 3 kB in the table of the connection, then 50,000 references to it: 150 MB.
    let bomb = [call(), header(0x40, "a", &[b'x'; 3000]), vec![0xbe; 50_000]].concat();
    let before = resident_kib();
    send_block(&listener, &bomb).await;
    let grown = resident_kib().saturating_sub(before);
    assert_eq!(listener.calls(), 1, "nor is a bomb");
    assert!(grown < 100_000, "references were followed: {grown} KiB");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_bomb_of_headers_over_http1_is_refused() {
    // A head that is late ends its connection without an answer, too.
    let listener = listener(|settings| settings.head_timeout = 10 * HANGS_AFTER).await;
    let mut stream = listener.connect().await;
    stream.write_all(b"POST /a.B/C HTTP/1.1\r\nhost: x\r\na: ").await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let answer = tokio::spawn(async move {
        let mut answer = Vec::new();
        let _ = reading.read_to_end(&mut answer).await;
        answer
    });
    for _ in 0..1000 {
        if writing.write_all(&[b'x'; 1000]).await.is_err() {
            break;
        }
    }
    let answer = timeout(HANGS_AFTER, answer).await.expect("the connection ends").unwrap();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{answer:?}");
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let short = Duration::from_millis(50);
    let listener = listener(|settings| settings.idle_timeout = short).await;
    let mut stream = listener.http2().await;
    stream.write_all(&frame(HEADERS, 0, 1, &call())).await.unwrap();
    let (reading, _writing) = stream.into_split();
    let kinds = timeout(HANGS_AFTER, drain(reading)).await.expect("the connection ends").unwrap();
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
}

/// An open call would keep the connection from being idle.
#[tokio::test]
async fn a_head_whose_last_frame_does_not_come_ends_the_connection_before_it_is_idle() {
    let short = Duration::from_millis(200);
    let listener = listener(|settings| settings.head_timeout = short).await;
    let mut stream = listener.http2().await;
    stream.write_all(&frame(HEADERS, 0, 1, &call())).await.unwrap();
    let (reading, _writing) = stream.into_split();
    timeout(HANGS_AFTER, drain(reading)).await.expect("the connection ends").unwrap();
    assert_eq!(listener.calls(), 0);
}

/// The library decodes the fields of a frame as soon as it is here.
#[tokio::test]
async fn a_head_is_charged_until_its_last_frame_is_here() {
    /// Less than such a head is charged, and more than the rest of a connection.
    const HEAD_BYTES: usize = 400 * 1024;
    let memory = MemoryBudget::new(CALLERS_BYTES_MAX);
    let listener = listener(|settings| settings.memory = memory.clone()).await;
    let mut stream = listener.http2().await;
    let begin = frame(HEADERS, END_STREAM, 1, &[call(), short_fields()].concat());
    stream.write_all(&begin).await.unwrap();
    let until = async |is_charged: bool| {
        while (memory.used_bytes() > HEAD_BYTES) != is_charged {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(HANGS_AFTER, until(true)).await.expect("it is charged");
    let end = frame(CONTINUATION, END_HEADERS, 1, &[0, 1, b'y', 0]);
    let (last, others) = end.split_last().unwrap();
    stream.write_all(others).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(memory.used_bytes() > HEAD_BYTES, "a byte is to come");
    stream.write_all(&[*last]).await.unwrap();
    timeout(HANGS_AFTER, until(false)).await.expect("it is a call now");
    while listener.calls() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A header block of 676 fields: 4 kB, which take 80 KiB and more once they are decoded.
fn short_fields() -> Vec<u8> {
    let letters = || b'a'..=b'z';
    letters().flat_map(|a| letters().flat_map(move |b| [0, 3, b'x', a, b, 0])).collect()
}

/// Reads the next frame: its kind and its stream.
async fn next_frame(reading: &mut tokio::net::tcp::OwnedReadHalf) -> (u8, u32) {
    let ([_, _, _, kind, _, stream @ ..], _) = read_frame(reading).await;
    (kind, u32::from_be_bytes(stream))
}

/// Refused calls whose answers wait for the caller to open their windows. The library would keep the trailers of each
/// as long as it waits.
#[tokio::test]
async fn trailers_with_fields_end_their_calls_and_not_the_connection() {
    require_resets(&listener(|_| {}).await, 500).await;
}

/// More calls than the errors that a single client may make: its proxy's other clients go on.
#[tokio::test]
async fn trailers_of_one_client_do_not_end_the_connection_of_its_proxy() {
    let of_proxy = listener(|settings| {
        settings.trusted_proxies = Cidr::parse("127.0.0.0/8").into_iter().collect();
    });
    require_resets(&of_proxy.await, 1100).await;
}

/// A proxy passes on that a client gives its calls up at once.
#[tokio::test]
async fn resets_of_one_client_do_not_end_the_connection_of_its_proxy() {
    const CALLS: u32 = 1000;
    let of_proxy = listener(|settings| {
        settings.trusted_proxies = Cidr::parse("127.0.0.0/8").into_iter().collect();
    });
    let listener = of_proxy.await;
    let mut stream = listener.http2().await;
    let block = call();
    let given_up = |number: u32| {
        let stream = 2 * number + 1;
        let reset = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        [frame(HEADERS, END_HEADERS, stream, &block), reset].concat()
    };
    let mut sent: Vec<u8> = (0..CALLS).flat_map(given_up).collect();
    let other = 2 * CALLS + 1;
    sent.extend(frame(HEADERS, END_HEADERS | END_STREAM, other, &block));
    stream.write_all(&sent).await.unwrap();
    let (mut reading, _writing) = stream.into_split();
    let answered = async { while next_frame(&mut reading).await != (HEADERS, other) {} };
    timeout(HANGS_AFTER, answered).await.expect("the call of another client is answered");
}

/// A client of a proxy sends data without content on its call, which the library counts for the whole connection.
#[tokio::test]
async fn empty_data_of_one_client_does_not_end_the_connection_of_its_proxy() {
    let of_proxy = listener(|settings| {
        settings.trusted_proxies = Cidr::parse("127.0.0.0/8").into_iter().collect();
    });
    let listener = of_proxy.await;
    let mut stream = listener.http2().await;
    let block = call();
    let mut sent = frame(HEADERS, END_HEADERS, 1, &block);
    sent.extend(frame(DATA, 0, 1, &[]).repeat(1000));
    sent.extend(frame(HEADERS, END_HEADERS | END_STREAM, 3, &block));
    stream.write_all(&sent).await.unwrap();
    let (mut reading, _writing) = stream.into_split();
    let answered = async { while next_frame(&mut reading).await != (HEADERS, 3) {} };
    timeout(HANGS_AFTER, answered).await.expect("the call of another client is answered");
}

/// Sends calls with trailers that have fields, and requires that each ends and their connection goes on.
async fn require_resets(listener: &Listener, calls: u32) {
    let mut stream = listener.connect().await;
    let no_windows = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    stream.write_all(&[PREFACE, &no_windows].concat()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let (head, trailers) = (request_of("/x", "application/proto"), short_fields());
    let streams = (0..calls).map(|number| 2 * number + 1);
    let sent: Vec<u8> = streams
        .clone()
        .flat_map(|stream| {
            let begin = frame(HEADERS, END_HEADERS, stream, &head);
            [begin, frame(HEADERS, END_STREAM | END_HEADERS, stream, &trailers)].concat()
        })
        .collect();
    let sending = tokio::spawn(async move {
        writing.write_all(&sent).await.unwrap();
        writing
    });
    let reset = async {
        let mut reset = Vec::new();
        while reset.len() < calls as usize {
            match next_frame(&mut reading).await {
                (RST_STREAM, stream) => reset.push(stream),
                (kind, stream) => assert_ne!(kind, GOAWAY, "{stream}"),
            }
        }
        reset.sort_unstable();
        reset
    };
    let reset = timeout(HANGS_AFTER, reset).await.expect("no call stays open");
    assert!(reset.into_iter().eq(streams));
    let mut writing = sending.await.unwrap();
    writing.write_all(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
    let answered = async { while next_frame(&mut reading).await.0 != PING {} };
    timeout(HANGS_AFTER, answered).await.expect("the connection goes on");
}

#[tokio::test]
async fn a_body_that_trickles_is_cut_off() {
    let path = "/grpc.health.v1.Health/Check";
    let metrics = CallMetrics::new(&[RpcMethod::new(path, MethodKind::Unary)]);
    let mut settings = ServeSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    // The call begins within this time of its connection, also on busy cores.
    settings.body_timeout = Duration::from_secs(1);
    settings.idle_timeout = Duration::from_secs(1);
    let (_, health) = tonic_health::server::health_reporter();
    let stop = CancellationToken::new();
    let server = Server::bind(settings, Routes::new(health), metrics.clone(), stop).await.unwrap();
    let listener = Listener { server, metrics };
    let (reading, mut writing) = listener.http2().await.into_split();
    let drained = drain(reading);
    writing.write_all(&frame(HEADERS, END_HEADERS, 1, &call_of(path))).await.unwrap();
    // The head of a message of 1000 bytes and 900 of them, one byte per frame, every 10 ms.
    let mut bytes = [&[0, 0, 0, 3, 232][..], &[0; 900]].concat().into_iter();
    while !drained.is_finished() {
        let byte = bytes.next().expect("it is cut off before");
        let _ = writing.write_all(&frame(DATA, 0, 1, &[byte])).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let code = "grpc_code=\"deadline_exceeded\"";
    let page = MetricsPage::new([Box::new(listener.metrics.clone()) as _]).render();
    assert!(page.lines().any(|line| line.contains(code) && line.ends_with(" 1")), "{page}");
}

/// Reads until the server has sent its settings or closed, and returns the kinds of the frames.
async fn first_frames(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let len = timeout(HANGS_AFTER, stream.read(&mut bytes)).await.unwrap().unwrap_or(0);
    kinds(&bytes[..len])
}

#[tokio::test]
async fn one_address_has_a_bounded_number_of_connections() {
    let listener = listener(|settings| settings.connections_per_address_max = 2).await;
    let mut first = listener.http2().await;
    let mut second = listener.http2().await;
    assert!(first_frames(&mut first).await.contains(&SETTINGS));
    assert!(first_frames(&mut second).await.contains(&SETTINGS));
    let mut third = listener.connect().await;
    assert!(first_frames(&mut third).await.contains(&GOAWAY), "a clear refusal");
    assert!(listener.refused("address"));
    drop(first);
    let mut tries = 0;
    while first_frames(&mut listener.http2().await).await.contains(&GOAWAY) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        tries += 1;
        assert!(tries < 1000, "the place of a closed connection is free again");
    }
}

/// The addresses of an IPv6 /48 have one owner.
#[tokio::test]
async fn a_flood_leaves_room_for_newcomers() {
    leave_room_for_newcomers(|_| "TCP4 2.2.2.2 5.6.7.8".to_owned()).await;
    leave_room_for_newcomers(|number| format!("TCP6 2001:db8:1:{number:x}::1 ::1")).await;
}

/// Opens connections of the clients that `flood` names, in the words of a PROXY header.
async fn leave_room_for_newcomers(flood: impl Fn(u32) -> String) {
    let listener = listener(|settings| {
        settings.connections_max = 16;
        settings.trusted_proxies = Cidr::parse("127.0.0.0/8").into_iter().collect();
    })
    .await;
    let connect = async |client: String| {
        let mut stream = listener.connect().await;
        let header = format!("PROXY {client} 1000 443\r\n");
        let settings = frame(SETTINGS, 0, 0, &[]);
        let _ = stream.write_all(&[header.as_bytes(), PREFACE, &settings].concat()).await;
        stream
    };
    let mut early = connect("TCP4 1.1.1.1 5.6.7.8".to_owned()).await;
    assert!(first_frames(&mut early).await.contains(&SETTINGS));
    let mut open = Vec::new();
    for number in 0..40 {
        let mut stream = connect(flood(number)).await;
        // The connection was served or closed, so the listener has accepted it.
        first_frames(&mut stream).await;
        open.push(stream);
    }
    assert!(listener.refused("all"));
    for newcomer in 0..8 {
        let mut stream = connect(format!("TCP4 3.3.3.{newcomer} 5.6.7.8")).await;
        assert!(first_frames(&mut stream).await.contains(&SETTINGS), "{newcomer}");
        open.push(stream);
    }
    let ping = frame(PING, 0, 0, &[1; 8]);
    early.write_all(&ping).await.unwrap();
    while !first_frames(&mut early).await.contains(&PING) {} // it was there before the flood
}

#[tokio::test]
async fn a_proxy_names_the_client_and_a_stranger_does_not() {
    let proxied = |client: &str| format!("PROXY TCP4 {client} 5.6.7.8 1000 443\r\n").into_bytes();
    let trusting = listener(|settings| {
        settings.connections_per_address_max = 1;
        settings.trusted_proxies = Cidr::parse("127.0.0.0/8").into_iter().collect();
    })
    .await;
    let mut held = Vec::new();
    for (header, served) in [
        (proxied("1.2.3.4"), true),
        (proxied("1.2.3.4"), false),
        (proxied("1.2.3.5"), true),
        (Vec::new(), true), // the proxy itself stands for many
        (Vec::new(), true),
        (proxied("127.0.0.9"), true), // and so does one behind it
        (proxied("127.0.0.9"), true),
    ] {
        let mut stream = trusting.connect().await;
        // In pieces of 7 bytes, as a slow proxy may send them.
        for piece in header.chunks(7) {
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
        }
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        let kinds = first_frames(&mut stream).await;
        assert_eq!(!kinds.contains(&GOAWAY) && kinds.contains(&SETTINGS), served, "{header:?}");
        held.push(stream);
    }
    let mut broken = trusting.connect().await;
    broken.write_all(b"PROXY TCP4 nonsense\r\n").await.unwrap();
    assert_eq!(first_frames(&mut broken).await, [0; 0]);
    assert!(trusting.refused("proxy_header"));

    let strict = listener(|_| {}).await;
    let mut stream = strict.connect().await;
    stream.write_all(&[&proxied("1.2.3.4")[..], PREFACE].concat()).await.unwrap();
    let kinds = first_frames(&mut stream).await;
    assert!(!kinds.contains(&SETTINGS), "the header of a stranger is no HTTP: {kinds:?}");
}
