//! HTTP/2 by upgrade (RFC 7540 §3.2): an HTTP/1.1 request without TLS asks for it, and is answered as the first stream
//! of the connection that follows.
//!
//! hyper serves HTTP/2 from its preface on and cannot be given a first request. The request is therefore encoded as
//! HTTP/2 frames and inserted after the client's first frame. The settings of the request and its body are bounded, and
//! the body is charged; a request with a longer body is served over HTTP/1.1, as the protocol allows. The switched
//! connection is metered from its preface on like any other of HTTP/2. Connections of trusted proxies never switch.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Incoming};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::time::timeout;
use tonic::body::Body;

use crate::budget::ConnectionShare;
use crate::charged_bytes::ChargedBytes;
use crate::filtered::{Filtered, ReadFilter};
use crate::frame_head::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEAD_LEN_BYTES, HEADERS, HTTP2_PREFACE,
    SETTINGS,
};
use crate::frame_meter::Metered;
use crate::unflushed::UnflushedHeads;

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const H2C: &str = "h2c";
/// Bytes of one setting (RFC 9113 §6.5.1).
const SETTING_LEN_BYTES: usize = 6;
/// Settings in the header of a request. A guess: the protocol has known seven.
const SETTINGS_MAX: usize = 32;
/// The longest body of an upgrade request: the initial window of a connection (RFC 9113 §6.9.2).
const BODY_LEN_BYTES_MAX: usize = 65_535;
/// The longest frame without a setting that allows more (RFC 9113 §6.5.2).
const FRAME_LEN_BYTES_MAX: usize = 16_384;

/// The upgrade request of a connection, if there was one. Cheap to clone; clones share state.
#[derive(Clone, Default)]
pub(crate) struct UpgradeSlot(Arc<Mutex<Option<AskedUpgrade>>>);

impl UpgradeSlot {
    /// Stores the upgrade request, and returns the answer after which the connection switches. Returns a refusal if
    /// the request's body does not arrive.
    pub(crate) async fn put(
        &self,
        mut request: Request<Incoming>,
        share: Arc<ConnectionShare>,
        body_timeout: Duration,
    ) -> Response<Body> {
        let switched = hyper::upgrade::on(&mut request);
        let Some(settings) = settings(request.headers()) else {
            return bare(StatusCode::BAD_REQUEST);
        };
        let (parts, body) = request.into_parts();
        let mut held = ChargedBytes::new(share);
        // The request, and its frames.
        let target_bytes = parts.uri.path_and_query().map_or(0, |it| it.as_str().len());
        if held.take(2 * (len_bytes(&parts.headers) + target_bytes)).is_err() {
            return bare(StatusCode::SERVICE_UNAVAILABLE);
        }
        let body = read_body(body, body_len_bytes(&parts.headers).unwrap_or_default());
        let body = match timeout(body_timeout, body).await {
            Ok(Some(body)) => body,
            Ok(None) => return bare(StatusCode::BAD_REQUEST),
            Err(_) => return bare(StatusCode::REQUEST_TIMEOUT),
        };
        let frames = frames(&parts, &body);
        *self.0.lock() = Some(AskedUpgrade { switched, settings, frames, held });
        let mut response = bare(StatusCode::SWITCHING_PROTOCOLS);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static(H2C));
        response
    }

    /// Returns the request, if there was one.
    pub(crate) fn take(&self) -> Option<AskedUpgrade> {
        self.0.lock().take()
    }
}

/// Reads a body of at most `len_bytes`; `None` if it breaks off or is longer.
///
/// Each piece is copied and dropped. hyper reads every piece into a buffer of at least 8 KiB, so a body that comes byte
/// by byte would hold 8,192 times its length.
async fn read_body<B>(mut body: B, len_bytes: usize) -> Option<Bytes>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let mut bytes = BytesMut::with_capacity(len_bytes);
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.ok()?.into_data() else { continue };
        if bytes.len() + piece.len() > len_bytes {
            return None;
        }
        bytes.extend_from_slice(&piece);
    }
    Some(bytes.freeze())
}

/// Returns true if a request asks for HTTP/2 in a form that is supported.
pub(crate) fn is_asked<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.version() == Version::HTTP_11
        && has_token(headers, &UPGRADE, H2C)
        && has_token(headers, &CONNECTION, UPGRADE.as_str())
        && has_token(headers, &CONNECTION, HTTP2_SETTINGS.as_str())
        && settings(headers).is_some()
        && body_len_bytes(headers).is_some()
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|it| it.trim().eq_ignore_ascii_case(token))
}

/// Returns the settings of the client; `None` unless there is exactly one header of them with at most [`SETTINGS_MAX`].
fn settings(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut values = headers.get_all(HTTP2_SETTINGS).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let text = value.as_bytes();
    if text.len() > SETTINGS_MAX * SETTING_LEN_BYTES * 4 / 3 {
        return None;
    }
    let settings = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    settings.len().is_multiple_of(SETTING_LEN_BYTES).then_some(settings)
}

/// Returns the length of a request's body; `None` if it is too long, or unknown before the body arrives.
fn body_len_bytes(headers: &HeaderMap) -> Option<usize> {
    let len = match headers.get(CONTENT_LENGTH) {
        Some(len) => len.to_str().ok()?.parse().ok()?,
        None => 0,
    };
    (len <= BODY_LEN_BYTES_MAX && !headers.contains_key(TRANSFER_ENCODING)).then_some(len)
}

/// Returns the length of an upgrade request, with an allowance for each header.
fn len_bytes(headers: &HeaderMap) -> usize {
    let lengths = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 8);
    body_len_bytes(headers).unwrap_or(BODY_LEN_BYTES_MAX) + lengths.sum::<usize>()
}

/// Returns a response without content.
fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A request that was answered with the switch to HTTP/2.
pub(crate) struct AskedUpgrade {
    switched: OnUpgrade,
    settings: Vec<u8>,
    frames: Bytes,
    held: ChargedBytes,
}

/// A switched connection, whose HTTP/2 begins with the request.
pub(crate) type SwitchedStream = FirstStream<Metered<TokioIo<Upgraded>>>;

impl AskedUpgrade {
    /// Waits for the client's preface. The caller bounds the time.
    ///
    /// # Errors
    /// An error if the connection ends first, or continues with other bytes.
    pub(crate) async fn switch(
        self,
        head_timeout: Duration,
        unflushed: UnflushedHeads,
        flooded: impl Fn() + Send + 'static,
    ) -> io::Result<SwitchedStream> {
        let upgraded = self.switched.await.map_err(io::Error::other)?;
        let mut inner = Metered::new(TokioIo::new(upgraded), head_timeout, unflushed, flooded);
        let mut preface = [0; HTTP2_PREFACE.len()];
        inner.read_exact(&mut preface).await?;
        if preface != HTTP2_PREFACE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(FirstStream::new(inner, self.settings, self.frames, Some(self.held)))
    }
}

/// Returns the frames of stream 1: the request in the form of HTTP/2.
fn frames(request: &Parts, body: &[u8]) -> Bytes {
    let block = header_block(request);
    let pieces = block.len() / FRAME_LEN_BYTES_MAX + body.len() / FRAME_LEN_BYTES_MAX + 2;
    let mut frames = BytesMut::with_capacity(block.len() + body.len() + pieces * HEAD_LEN_BYTES);
    let mut left = &block[..];
    loop {
        let piece = left.split_off(..left.len().min(FRAME_LEN_BYTES_MAX)).unwrap_or_default();
        let is_first = piece.len() + left.len() == block.len();
        let kind = if is_first { HEADERS } else { CONTINUATION };
        let ends_stream = if is_first && body.is_empty() { END_STREAM } else { 0 };
        let ends_headers = if left.is_empty() { END_HEADERS } else { 0 };
        put_frame(&mut frames, kind, ends_stream | ends_headers, piece);
        if left.is_empty() {
            break;
        }
    }
    let mut left = body;
    while !left.is_empty() {
        let piece = left.split_off(..left.len().min(FRAME_LEN_BYTES_MAX)).unwrap_or_default();
        put_frame(&mut frames, DATA, if left.is_empty() { END_STREAM } else { 0 }, piece);
    }
    frames.freeze()
}

/// Appends a frame of stream 1.
fn put_frame(frames: &mut BytesMut, kind: u8, flags: u8, payload: &[u8]) {
    let len = u32::try_from(payload.len()).expect("no frame is longer than FRAME_LEN_BYTES_MAX");
    frames.extend_from_slice(&len.to_be_bytes()[1..]);
    frames.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
    frames.extend_from_slice(payload);
}

/// Encodes the head of a request as literals, which do not change the table of the header compression (RFC 7541
/// §6.2.2).
fn header_block(request: &Parts) -> Vec<u8> {
    let mut block = Vec::new();
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
    let host = request.headers.get(HOST).map(HeaderValue::as_bytes);
    let authority = request.uri.authority().map(|it| it.as_str().as_bytes()).or(host);
    put_literal(&mut block, b":method", request.method.as_str().as_bytes());
    put_literal(&mut block, b":scheme", b"http");
    put_literal(&mut block, b":path", path.as_bytes());
    if let Some(authority) = authority {
        put_literal(&mut block, b":authority", authority);
    }
    for (name, value) in &request.headers {
        if !is_of_connection(name, value) {
            put_literal(&mut block, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    block
}

/// Returns true for a header that HTTP/2 does not allow (RFC 9113 §8.2.2) or replaces.
fn is_of_connection(name: &HeaderName, value: &HeaderValue) -> bool {
    [CONNECTION, UPGRADE, HTTP2_SETTINGS, TRANSFER_ENCODING, HOST, EXPECT].contains(name)
        || ["keep-alive", "proxy-connection"].contains(&name.as_str())
        || (*name == TE && value != "trailers")
}

fn put_literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0); // a literal without indexing, with a new name
    for text in [name, value] {
        put_length(block, text.len());
        block.extend_from_slice(text);
    }
}

/// Appends a number with a prefix of seven bits (RFC 7541 §5.1).
fn put_length(block: &mut Vec<u8>, mut len: usize) {
    const PREFIX_MAX: usize = 0x7f;
    if len < PREFIX_MAX {
        block.push(low_bits(len));
        return;
    }
    block.push(low_bits(PREFIX_MAX));
    len -= PREFIX_MAX;
    while len > PREFIX_MAX {
        block.push(low_bits(len) | 0x80);
        len >>= 7;
    }
    block.push(low_bits(len));
}

fn low_bits(number: usize) -> u8 {
    u8::try_from(number & 0x7f).expect("seven bits")
}

/// An HTTP/2 connection in which the reader finds a request after the client's first frame. The settings of that
/// request go into that frame, before the client's own, so that both are acknowledged once.
pub(crate) type FirstStream<T> = Filtered<T, FirstFrames>;

/// The bytes that a [`FirstStream`] puts before those of its connection.
pub(crate) struct FirstFrames {
    /// Bytes that are read before those of the connection.
    next: BytesMut,
    place: FirstFramePosition,
    settings: Vec<u8>,
    frames: Bytes,
    held: Option<ChargedBytes>,
}

/// The position in the client's bytes.
#[derive(Debug)]
enum FirstFramePosition {
    /// Inside the head of the first frame.
    Head { head: [u8; HEAD_LEN_BYTES], have: usize },
    /// Before this many bytes of the first frame's payload.
    Payload(usize),
    /// After the first frame.
    Behind,
}

impl<T> FirstStream<T> {
    /// Creates the filter. The preface of `inner` has been read already.
    fn new(inner: T, settings: Vec<u8>, frames: Bytes, held: Option<ChargedBytes>) -> Self {
        let place = FirstFramePosition::Head { head: [0; HEAD_LEN_BYTES], have: 0 };
        let next = HTTP2_PREFACE.into();
        Self::with(inner, FirstFrames { next, place, settings, frames, held })
    }
}

impl FirstFrames {
    /// Handles the head of the first frame.
    fn begin(&mut self, mut head: [u8; HEAD_LEN_BYTES]) {
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let whole = (len + self.settings.len()).to_be_bytes();
        let [.., above, high, middle, low] = whole;
        if head[3] != SETTINGS || head[4] & ACK != 0 || above != 0 {
            // The library refuses a connection whose first frame has no settings.
            self.next.extend_from_slice(&head);
            self.place = FirstFramePosition::Behind;
            return;
        }
        head[..3].copy_from_slice(&[high, middle, low]);
        self.next.extend_from_slice(&head);
        self.next.extend_from_slice(&self.settings);
        self.place = FirstFramePosition::Payload(len);
        self.took(0);
    }

    /// Handles bytes of the first frame's payload. The request follows the last one.
    fn took(&mut self, len: usize) {
        let FirstFramePosition::Payload(left) = &mut self.place else { return };
        *left -= len;
        if *left == 0 {
            self.next.extend_from_slice(&std::mem::take(&mut self.frames));
            self.place = FirstFramePosition::Behind;
        }
    }
}

impl<T: AsyncRead + Unpin> ReadFilter<T> for FirstFrames {
    fn poll_read(
        &mut self,
        inner: &mut T,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.next.is_empty() {
                let len = self.next.len().min(buf.remaining());
                buf.put_slice(&self.next[..len]);
                self.next.advance(len);
                if self.next.is_empty() && matches!(self.place, FirstFramePosition::Behind) {
                    (self.next, self.held) = (BytesMut::new(), None);
                }
                return Poll::Ready(Ok(()));
            }
            let mut piece = [0; 256];
            let wanted = match self.place {
                FirstFramePosition::Head { have, .. } => HEAD_LEN_BYTES - have,
                FirstFramePosition::Payload(left) => left.min(piece.len()),
                FirstFramePosition::Behind => return Pin::new(&mut *inner).poll_read(cx, buf),
            };
            let mut read = ReadBuf::new(&mut piece[..wanted]);
            ready!(Pin::new(&mut *inner).poll_read(cx, &mut read))?;
            let read = read.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(())); // the client is gone
            }
            if let FirstFramePosition::Head { head, have } = &mut self.place {
                head[*have..*have + read.len()].copy_from_slice(read);
                *have += read.len();
                if *have == HEAD_LEN_BYTES {
                    let head = *head;
                    self.begin(head);
                }
            } else {
                self.next.extend_from_slice(read);
                self.took(read.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use proptest::prelude::*;

    use super::*;

    /// The buffer of a piece of a body. Counts how many there are.
    struct PieceBuffer<'a>(&'a AtomicUsize);

    impl AsRef<[u8]> for PieceBuffer<'_> {
        fn as_ref(&self) -> &[u8] {
            b"x"
        }
    }

    impl Drop for PieceBuffer<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A client sends each byte of its body by itself. The library reads each one into a buffer of its own.
    #[test]
    fn a_piece_of_a_body_keeps_no_buffer() {
        static BUFFERS: AtomicUsize = AtomicUsize::new(0);
        let mut most = 0;
        let pieces = (0..1000).map(|_| {
            most = most.max(BUFFERS.fetch_add(1, Ordering::Relaxed) + 1);
            Ok::<_, Infallible>(Frame::data(Bytes::from_owner(PieceBuffer(&BUFFERS))))
        });
        let body = StreamBody::new(futures_util::stream::iter(pieces));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = runtime.block_on(read_body(body, 1000)).unwrap();
        assert_eq!(read, [b'x'; 1000][..]);
        assert!(most <= 2, "{most} buffers at one time");
        let long = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"xyz")));
        let long = StreamBody::new(futures_util::stream::iter([long]));
        assert!(runtime.block_on(read_body(long, 2)).is_none());
    }

    /// A client whose bytes arrive in pieces.
    struct Pieces {
        sent: VecDeque<u8>,
        len: usize,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let len = self.len.min(buf.remaining()).min(self.sent.len());
            let piece: Vec<u8> = self.sent.drain(..len).collect();
            buf.put_slice(&piece);
            Poll::Ready(Ok(()))
        }
    }

    fn asking() -> http::request::Builder {
        Request::builder()
            .method("POST")
            .uri("/a.B/C?d")
            .header("host", "node")
            .header("connection", "Upgrade, HTTP2-Settings")
            .header("upgrade", "h2c")
            .header("http2-settings", "AAMAAABkAAQAoAAA")
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, 0], payload].concat()
    }

    #[test]
    fn only_a_whole_and_short_request_is_switched() {
        let asks = |request: http::request::Builder| is_asked(&request.body(()).unwrap());
        assert!(asks(asking()));
        assert!(asks(asking().header("content-length", "65535")));
        assert!(!asks(asking().header("content-length", "65536")));
        assert!(!asks(asking().header("content-length", "x")));
        assert!(!asks(asking().header("transfer-encoding", "chunked")));
        assert!(!asks(asking().header("http2-settings", "")), "twice");
        assert!(!asks(asking().version(Version::HTTP_10)));
        for (name, value) in [
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("connection", "http2-settings"),
            ("http2-settings", "AAMAAABk!"),
            ("http2-settings", "AAMA"),
        ] {
            let mut request = asking().body(()).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
            assert!(!is_asked(&request), "{name}: {value}");
        }
        let many = BASE64_URL_SAFE_NO_PAD.encode([0; (SETTINGS_MAX + 1) * SETTING_LEN_BYTES]);
        let mut request = asking().body(()).unwrap();
        request.headers_mut().insert("http2-settings", many.parse().unwrap());
        assert!(!is_asked(&request));
    }

    #[test]
    fn a_request_becomes_frames_without_what_belongs_to_its_connection() {
        let request = asking().header("te", "trailers").header("x-long", "y".repeat(20_000));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let block = header_block(&parts);
        let literal = |name: &[u8], value: &[u8]| {
            let len = |text: &[u8]| u8::try_from(text.len()).unwrap();
            [&[0, len(name)], name, &[len(value)], value].concat()
        };
        let head = [
            literal(b":method", b"POST"),
            literal(b":scheme", b"http"),
            literal(b":path", b"/a.B/C?d"),
            literal(b":authority", b"node"),
            literal(b"te", b"trailers"),
        ];
        let mut expected = head.concat();
        expected.extend([0, 6]);
        expected.extend(b"x-long");
        expected.extend([0x7f, 0xa1, 0x9b, 0x01]); // 20,000
        expected.extend(vec![b'y'; 20_000]);
        assert!(block == expected);

        let body = vec![7; 40_000];
        let mut frames = frames(&parts, &body);
        let mut seen = Vec::new();
        let mut payloads = Vec::new();
        while !frames.is_empty() {
            let head = frames.split_to(HEAD_LEN_BYTES);
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            assert_eq!(head[5..], [0, 0, 0, 1]);
            seen.push((head[3], head[4], len));
            payloads.extend(frames.split_to(len));
        }
        let rest = block.len() - 16_384;
        let expected = [(1, 0, 16_384), (9, 4, rest), (0, 0, 16_384), (0, 0, 16_384), (0, 1, 7232)];
        assert_eq!(seen, expected);
        assert!(payloads == [block, body].concat());
    }

    proptest! {
        /// The result does not depend on how the bytes are cut into pieces.
        #[test]
        fn the_request_stands_behind_the_clients_first_frame(
            own in proptest::collection::vec(any::<u8>(), 0..600),
            rest in proptest::collection::vec(any::<u8>(), 0..50),
            piece in 1usize..40,
        ) {
            let sent: VecDeque<u8> = [frame(SETTINGS, 0, &own), rest.clone()].concat().into();
            let (settings, request) = (vec![1; 12], Bytes::from_static(b"the request"));
            let inner = Pieces { sent, len: piece };
            let mut stream = FirstStream::new(inner, settings.clone(), request.clone(), None);
            let mut read = Vec::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(stream.read_to_end(&mut read)).unwrap();
            let first = frame(SETTINGS, 0, &[settings, own].concat());
            let expected = [HTTP2_PREFACE, &first, &request, &rest].concat();
            prop_assert!(read == expected);
        }

        /// The bytes pass unchanged, and the library refuses the connection.
        #[test]
        fn what_does_not_begin_with_settings_passes_as_it_is(
            kind in 0u8..4,
            payload in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let sent = frame(kind, 0, &payload);
            let inner = io::Cursor::new(sent.clone());
            let mut stream = FirstStream::new(inner, vec![1; 6], Bytes::from_static(b"x"), None);
            let mut read = Vec::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(stream.read_to_end(&mut read)).unwrap();
            prop_assert!(read == [HTTP2_PREFACE, &sent].concat());
        }
    }
}
