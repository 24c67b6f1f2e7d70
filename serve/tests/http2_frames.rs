//! HTTP/2 byte by byte, for tests that send what no client library sends (RFC 9113 §3.4, §4.1, §6).

use tokio::io::{AsyncRead, AsyncReadExt as _};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Returns a frame with its head.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// Reads the next frame of a connection: its head and its payload.
pub(crate) async fn read_frame(connection: &mut (impl AsyncRead + Unpin)) -> ([u8; 9], Vec<u8>) {
    let mut head = [0; 9];
    connection.read_exact(&mut head).await.expect("the connection is open");
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    connection.read_exact(&mut payload).await.expect("the connection is open");
    (head, payload)
}

/// Returns the kinds of frames. The last one may be incomplete.
pub(crate) fn kinds(mut frames: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = frames {
        kinds.push(*kind);
        let end = 9 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
        frames = frames.get(end..).unwrap_or_default();
    }
    kinds
}

/// Returns the header block of a `POST` (RFC 7541): indexed names, plain values.
pub(crate) fn request_of(path: &str, content_type: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [&[0x83, 0x86, 0x04][..], &text(path), &[0x01], &text("x"), &[0x0f, 0x10], &text(content_type)]
        .concat()
}
