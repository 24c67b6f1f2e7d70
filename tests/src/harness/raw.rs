//! Requests as bytes, so that a test can send requests that no client library would.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::wait::WAIT_MAX;

/// Time of silence after which an answer that has begun counts as complete.
const SILENCE: Duration = Duration::from_secs(3);
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Returns an uncompressed gRPC message: the flag 0, the length and the bytes.
///
/// # Panics
/// Panics if `message` has 4 GiB or more.
#[must_use]
pub fn grpc_message(message: &[u8]) -> Vec<u8> {
    let len = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &len[..], message].concat()
}

/// Returns a gRPC call over HTTP/2 with prior knowledge, complete up to the end of its one stream: preface,
/// empty settings, and [`http2_request`].
///
/// # Panics
/// Panics if `path` has more than 127 bytes.
#[must_use]
pub fn http2_call(path: &str, body: &[u8]) -> Vec<u8> {
    let mut call = HTTP2_PREFACE.to_vec();
    call.extend(http2_frame(4, 0, 0, &[]));
    call.extend(http2_request(path, body, 1));
    call
}

/// Returns the beginning of an HTTP/2 connection with the largest flow-control windows: the peer may send two gigabytes
/// for each call, and for all calls together.
#[must_use]
pub fn http2_preface_without_windows() -> Vec<u8> {
    const WINDOW: u32 = 0x7fff_ffff;
    let window = [&[0, 4][..], &WINDOW.to_be_bytes()].concat();
    let more = (WINDOW - 65_535).to_be_bytes();
    [HTTP2_PREFACE, &http2_frame(4, 0, 0, &window), &http2_frame(8, 0, 0, &more)].concat()
}

/// Returns the beginning of an HTTP/2 connection whose calls get no byte of their answers: their windows are empty.
#[must_use]
pub fn http2_preface_with_empty_windows() -> Vec<u8> {
    [HTTP2_PREFACE, &http2_frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])].concat()
}

/// Returns one call on an established connection: headers without Huffman codes, the body in frames of at most 16 KiB.
///
/// # Panics
/// Panics if `path` has more than 127 bytes.
#[must_use]
pub fn http2_request(path: &str, body: &[u8], stream: u32) -> Vec<u8> {
    let mut call = http2_frame(1, 4, stream, &grpc_headers(path));
    call.extend(http2_data(body, stream, true));
    call
}

/// Returns a call as in [`http2_request`] that accepts an answer which is compressed with gzip.
///
/// # Panics
/// Panics if `path` has more than 127 bytes.
#[must_use]
pub fn http2_request_for_gzip(path: &str, body: &[u8], stream: u32) -> Vec<u8> {
    const NAME: &[u8] = b"grpc-accept-encoding";
    let mut headers = grpc_headers(path);
    headers.push(0); // a name that is not in the static table
    headers.push(u8::try_from(NAME.len()).unwrap());
    literal(&mut headers, NAME, "gzip");
    let mut call = http2_frame(1, 4, stream, &headers);
    call.extend(http2_data(body, stream, true));
    call
}

fn grpc_headers(path: &str) -> Vec<u8> {
    let mut headers = vec![0x83, 0x86]; // :method POST, :scheme http
    literal(&mut headers, &[0x04], path); // :path
    literal(&mut headers, &[0x01], "localhost"); // :authority
    literal(&mut headers, &[0x0f, 0x10], "application/grpc"); // content-type
    headers.push(0); // a name that is not in the static table
    literal(&mut headers, &[2, b't', b'e'], "trailers");
    headers
}

/// Returns the beginning of an HTTP/2 connection whose headers must not refer to earlier ones, so that each is sent
/// whole.
#[must_use]
pub fn http2_preface_without_table() -> Vec<u8> {
    let table = [0, 1, 0, 0, 0, 0];
    [HTTP2_PREFACE, &http2_frame(4, 0, 0, &table)].concat()
}

/// Returns a preflight request, which browsers send before calls of other origins.
#[must_use]
pub fn http2_preflight(stream: u32) -> Vec<u8> {
    let mut headers = vec![0x86, 0x84]; // :scheme http, :path /
    literal(&mut headers, &[0x02], "OPTIONS"); // :method
    literal(&mut headers, &[0x01], "localhost"); // :authority
    http2_frame(1, 5, stream, &headers)
}

/// Returns the beginning of a call as in [`http2_request`]: the body does not end.
///
/// # Panics
/// Panics if `path` has more than 127 bytes.
#[must_use]
pub fn http2_request_without_end(path: &str, body: &[u8], stream: u32) -> Vec<u8> {
    let mut call = http2_request(path, &[], stream);
    call.extend(http2_data(body, stream, false));
    call
}

fn http2_data(body: &[u8], stream: u32, ends: bool) -> Vec<u8> {
    let mut data = Vec::new();
    let mut chunks = body.chunks(16 * 1024).peekable();
    while let Some(chunk) = chunks.next() {
        let end = u8::from(ends && chunks.peek().is_none());
        data.extend(http2_frame(0, end, stream, chunk));
    }
    data
}

fn literal(to: &mut Vec<u8>, name: &[u8], value: &str) {
    to.extend(name);
    to.push(u8::try_from(value.len()).ok().filter(|len| *len < 0x7f).unwrap());
    to.extend(value.as_bytes());
}

/// Returns an HTTP/2 frame with any type and flags.
///
/// # Panics
/// Panics if `content` has 16 MiB or more.
#[must_use]
pub fn http2_frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).ok().filter(|len| *len < 1 << 24).unwrap();
    [&len.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes()[..], content].concat()
}

/// Returns a gRPC-Web call over HTTP/1.1, as browsers make it.
#[must_use]
pub fn grpc_web_call(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc-web+proto\r\n\
         accept: application/grpc-web+proto\r\nx-grpc-web: 1\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Sends bytes over a new connection and returns the answer, until the node closes the connection or falls silent.
/// Keeps its own side open meanwhile, as clients do.
pub async fn exchange(port: u16, bytes: &[u8]) -> Vec<u8> {
    converse(port, bytes, false).await
}

/// Exchanges bytes as [`exchange`] does, but closes the sending side after them.
pub async fn exchange_and_end(port: u16, bytes: &[u8]) -> Vec<u8> {
    converse(port, bytes, true).await
}

async fn converse(port: u16, bytes: &[u8], end: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let write = async {
        // A node may close the connection while it refuses the request.
        if writing.write_all(bytes).await.is_ok() && end {
            let _ = writing.shutdown().await;
        }
    };
    let read = async {
        let mut answer = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        let mut wait = WAIT_MAX;
        while let Ok(Ok(len)) = tokio::time::timeout(wait, reading.read(&mut buffer)).await
            && len > 0
        {
            answer.extend(&buffer[..len]);
            wait = SILENCE;
        }
        answer
    };
    tokio::join!(write, read).1
}

/// Returns the status of a gRPC-Web answer, from its headers or its trailers.
#[must_use]
pub fn grpc_status(answer: &[u8]) -> Option<i32> {
    let text = String::from_utf8_lossy(answer);
    let rest = text.split("grpc-status:").nth(1)?.trim_start();
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// Returns the message of a gRPC-Web answer with status OK; `None` without one.
#[must_use]
pub fn grpc_web_message(answer: &[u8]) -> Option<Vec<u8>> {
    if grpc_status(answer) != Some(0) {
        return None;
    }
    let start = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let body = dechunked(&answer[start..], &answer[..start]);
    let [0, length @ ..] = body.as_slice() else { return None };
    let (length, rest) = length.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?).map(<[u8]>::to_vec)
}

/// Decodes the chunked transfer coding if the head names it.
fn dechunked(body: &[u8], head: &[u8]) -> Vec<u8> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    if !head.contains("transfer-encoding: chunked") {
        return body.to_vec();
    }
    let mut content = Vec::new();
    let mut rest = body;
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).ok();
        let Some(size) = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok()) else {
            break;
        };
        let Some(chunk) = rest.get(end + 2..end + 2 + size) else { break };
        content.extend(chunk);
        rest = rest.get(end + 4 + size..).unwrap_or_default();
    }
    content
}

/// Makes a plain HTTP GET to a port of this machine. Returns the status and the body.
///
/// # Errors
/// Returns an error if no server listens, or the answer is not HTTP.
pub async fn get(port: u16, path: &str) -> std::io::Result<(u16, String)> {
    get_from((Ipv4Addr::LOCALHOST, port).into(), path).await
}

/// Makes a plain HTTP GET to any address. Returns the status and the body.
///
/// # Errors
/// Returns an error if the connection fails, or the answer is not HTTP.
pub async fn get_from(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let no_answer = || std::io::Error::other("no HTTP answer");
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(no_answer)?;
    let (head, body) = (&answer[..split + 4], &answer[split + 4..]);
    let text = String::from_utf8_lossy(head);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = String::from_utf8_lossy(&dechunked(body, head)).into_owned();
    Ok((status.ok_or_else(no_answer)?, body))
}

/// Sends a text to a page over HTTP. Returns the status, the head and the body of the answer.
///
/// # Errors
/// Returns an error if the connection fails, or the answer is not HTTP.
pub async fn post(port: u16, path: &str, body: &str) -> std::io::Result<(u16, String, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let len = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: text/plain\r\ncontent-length: {len}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let no_answer = || std::io::Error::other("no HTTP answer");
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(no_answer)?;
    let (head, body) = (&answer[..split + 4], &answer[split + 4..]);
    let text = String::from_utf8_lossy(head).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = String::from_utf8_lossy(&dechunked(body, head)).into_owned();
    Ok((status.ok_or_else(no_answer)?, text, body))
}
