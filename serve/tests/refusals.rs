//! Requests that are refused before their end, over raw sockets: the client sees the answer, and a body without end
//! costs little.

use std::sync::Arc;
use std::time::Duration;

use hawser_serve::public_pages::{PageFuture, PublicPages};
use hawser_serve::{
    CALLERS_BYTES_MAX, CallCharge, CallMetrics, MemoryBudget, MethodKind, RpcMethod, ServeSettings,
    Server,
};
use http::request::Parts;
use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::service::Routes;

use super::common::listen;
use super::http2_frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, read_frame, request_of,
};

/// Time after which a test counts as hung and fails. Generous, for busy machines.
const HANGS_AFTER: Duration = Duration::from_secs(60);
pub(crate) const ACK: u8 = 1;
const MIB: usize = 1024 * 1024;
/// The longest frame without a setting that allows more (RFC 9113 §6.5.2).
const FRAME_LEN_BYTES: usize = 16 * 1024;
/// A method with two streams, which is not served over gRPC-Web.
const BIDI: &str = "/a.B/Bidi";

/// Pages that take a body of ten bytes.
#[derive(Debug)]
struct ShortPages;

impl PublicPages for ShortPages {
    fn prefix(&self) -> &'static str {
        "/pages/"
    }

    fn show(&self, _: Parts, _: CallCharge) -> PageFuture {
        Box::pin(async { Response::new(Body::empty()) })
    }

    fn len_bytes_max(&self, path: &str) -> Option<usize> {
        path.starts_with(self.prefix()).then_some(10)
    }

    fn answered(&self, _: StatusCode) {}
}

async fn server(memory: &MemoryBudget) -> Server {
    let metrics = CallMetrics::new(&[RpcMethod::new(BIDI, MethodKind::Bidi)]);
    let adjust = |settings: &mut ServeSettings| {
        settings.memory = memory.clone();
        settings.pages.push(Arc::new(ShortPages));
    };
    listen(Routes::default(), metrics, adjust).await
}

fn memory() -> MemoryBudget {
    MemoryBudget::new(CALLERS_BYTES_MAX)
}

/// Requests that are refused before their end: path, content type, and the status over HTTP/1.1.
const REFUSED: [(&str, &str, u16); 6] = [
    ("/x", "text/plain", 415),
    ("/a.B/C", "application/proto", 501),
    ("/a.B/C", "application/grpc-web", 200),
    (BIDI, "application/grpc-web", 200),
    ("/a.B/C", "application/grpc", 505),
    ("/pages/x", "text/plain", 413),
];

/// Reads until `end` has come.
async fn until(connection: &mut TcpStream, end: &[u8]) -> String {
    let mut seen = Vec::new();
    let read = async {
        while !seen.windows(end.len()).any(|window| window == end) {
            seen.push(connection.read_u8().await.unwrap());
        }
    };
    let is_read = timeout(HANGS_AFTER, read).await.is_ok();
    let text = String::from_utf8_lossy(&seen).into_owned();
    assert!(is_read, "{text}");
    text
}

/// The head of a request over HTTP/1.1.
fn head(path: &str, content_type: &str, len_bytes: usize) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\n\
         content-length: {len_bytes}\r\n\r\n"
    )
    .into_bytes()
}

/// The connection goes on after the refusal, so it was not reset.
#[tokio::test]
async fn a_body_that_is_refused_over_http1_is_read_to_its_end() {
    let server = server(&memory()).await;
    for (path, content_type, status) in REFUSED {
        let mut connection = TcpStream::connect(server.address()).await.unwrap();
        let body = vec![0; MIB];
        let (begin, rest) = body.split_at(100);
        let head = head(path, content_type, MIB);
        connection.write_all(&[&head[..], begin].concat()).await.unwrap();
        let answer = until(&mut connection, b"\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        connection.write_all(rest).await.unwrap();
        connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        until(&mut connection, b"HTTP/1.1 405 ").await;
    }
}

/// A caller hides a request in a body that is refused. If the body is not read to its end, the connection is closed.
#[tokio::test]
async fn a_request_that_is_hidden_in_a_refused_body_is_not_answered() {
    const HIDDEN: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    let server = server(&memory()).await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let head = format!(
            "POST /x HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\n{expect}\
             content-length: {}\r\n\r\n",
            HIDDEN.len()
        );
        let mut connection = TcpStream::connect(server.address()).await.unwrap();
        let (begin, rest) = HIDDEN.split_at(1);
        connection.write_all(&[head.as_bytes(), begin].concat()).await.unwrap();
        let answer = until(&mut connection, b"\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 415 "), "{expect}: {answer}");
        // These fail on a connection that is closed already.
        let _ = connection.write_all(rest).await;
        let _ = connection.shutdown().await;
        let mut behind = Vec::new();
        let read = timeout(HANGS_AFTER, connection.read_to_end(&mut behind)).await;
        assert!(read.is_ok(), "{expect}: the connection is closed");
        // The text of the refusal, and no second answer.
        let behind = String::from_utf8_lossy(&behind);
        assert!(!behind.contains("HTTP/1.1"), "{expect}: {behind}");
    }
}

/// A frame that was read.
struct SeenFrame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

async fn next_frame(connection: &mut TcpStream) -> SeenFrame {
    let read = timeout(HANGS_AFTER, read_frame(connection)).await;
    let ([_, _, _, kind, flags, stream @ ..], payload) = read.expect("a frame comes");
    assert_ne!(kind, GOAWAY);
    SeenFrame { kind, flags, stream: u32::from_be_bytes(stream), payload }
}

/// Connects over HTTP/2. The windows that the listener announces are open from then on: 2 MiB for the connection, and a
/// MiB for each stream.
async fn http2(server: &Server) -> TcpStream {
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    let own = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    connection.write_all(&own).await.unwrap();
    let (mut has_settings, mut has_window) = (false, false);
    while !has_settings || !has_window {
        let seen = next_frame(&mut connection).await;
        has_settings |= seen.kind == SETTINGS && seen.flags & ACK == 0;
        has_window |= seen.kind == WINDOW_UPDATE;
    }
    connection.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
    connection
}

/// Such a request was often answered before its body came, and its stream reset behind the answer.
#[tokio::test]
async fn a_body_that_is_refused_over_http2_is_read_to_its_end() {
    let server = server(&memory()).await;
    for (path, content_type, _) in REFUSED {
        let mut connection = http2(&server).await;
        let head = frame(HEADERS, END_HEADERS, 1, &request_of(path, content_type));
        // Some of the body, because the pages refuse only what has come.
        let begin = frame(DATA, 0, 1, &[0; 100]);
        connection.write_all(&[head, begin].concat()).await.unwrap();
        let mut is_answered = false;
        while !is_answered {
            let seen = next_frame(&mut connection).await;
            assert_ne!(seen.kind, RST_STREAM, "{path}, {content_type}");
            is_answered = seen.stream == 1 && ends(&seen);
        }
        let rest = vec![0; MIB - 100];
        let pieces: Vec<_> = rest.chunks(FRAME_LEN_BYTES).collect();
        for (number, piece) in pieces.iter().enumerate() {
            let flags = if number + 1 == pieces.len() { END_STREAM } else { 0 };
            connection.write_all(&frame(DATA, flags, 1, piece)).await.unwrap();
        }
        connection.write_all(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
        let mut is_ponged = false;
        while !is_ponged {
            let seen = next_frame(&mut connection).await;
            assert_ne!(seen.kind, RST_STREAM, "{path}, {content_type}");
            is_ponged = seen.kind == PING;
        }
    }
}

/// Returns true for the last frame of an answer.
fn ends(frame: &SeenFrame) -> bool {
    [DATA, HEADERS].contains(&frame.kind) && frame.flags & END_STREAM != 0
}

/// A caller sends bodies without end to unknown paths.
#[tokio::test]
async fn an_endless_body_that_is_refused_over_http1_is_cut_off_and_holds_no_memory() {
    let memory = memory();
    let server = server(&memory).await;
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    connection.write_all(&head("/x", "text/plain", 1 << 40)).await.unwrap();
    let answer = until(&mut connection, b"\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
    let (piece, mut sent_bytes) = (vec![0; MIB], 0);
    let flood = async {
        while connection.write_all(&piece).await.is_ok() {
            sent_bytes += piece.len();
            assert!(sent_bytes < 1024 * MIB, "the flood is read");
            assert!(memory.used_bytes() < MIB, "{} bytes", memory.used_bytes());
        }
    };
    timeout(HANGS_AFTER, flood).await.expect("the flood ends");
}

/// A caller does the same over HTTP/2, and does not heed the answer.
#[tokio::test]
async fn an_endless_body_that_is_refused_over_http2_is_cut_off_and_holds_no_memory() {
    let memory = memory();
    let server = server(&memory).await;
    let mut connection = http2(&server).await;
    let head = frame(HEADERS, END_HEADERS, 1, &request_of("/x", "text/plain"));
    connection.write_all(&head).await.unwrap();
    let piece = frame(DATA, 0, 1, &[0; FRAME_LEN_BYTES]);
    let (mut of_stream, mut of_connection, mut sent_bytes) = (MIB, 2 * MIB, 0);
    let reset = loop {
        while of_stream.min(of_connection) >= FRAME_LEN_BYTES {
            connection.write_all(&piece).await.unwrap();
            of_stream -= FRAME_LEN_BYTES;
            of_connection -= FRAME_LEN_BYTES;
            sent_bytes += FRAME_LEN_BYTES;
        }
        assert!(sent_bytes < 16 * MIB, "the flood is read");
        assert!(memory.used_bytes() < MIB, "{} bytes", memory.used_bytes());
        let seen = next_frame(&mut connection).await;
        match (seen.kind, seen.stream) {
            (WINDOW_UPDATE, stream) => {
                let more = u32::from_be_bytes(seen.payload.try_into().unwrap()) as usize;
                let window = if stream == 0 { &mut of_connection } else { &mut of_stream };
                *window += more;
            }
            (RST_STREAM, 1) => break seen.payload,
            _ => {}
        }
    };
    assert_eq!(reset, [0; 4], "no error");
}

/// The task that reads takes as much as a call.
#[tokio::test]
async fn a_body_is_charged_while_it_is_read_behind_its_answer() {
    /// Less than a call takes.
    const MORE_BYTES: usize = 3 * 1024;
    let memory = memory();
    let server = server(&memory).await;
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until(&mut connection, b"\r\n\r\n").await;
    let idle_bytes = memory.used_bytes();
    connection.write_all(&head("/x", "text/plain", 9)).await.unwrap();
    until(&mut connection, b"\r\n\r\n").await;
    assert!(memory.used_bytes() >= idle_bytes + MORE_BYTES);
    connection.write_all(&[0; 9]).await.unwrap();
    let given_back = async {
        while memory.used_bytes() > idle_bytes {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(HANGS_AFTER, given_back).await.expect("it is given back");
}
