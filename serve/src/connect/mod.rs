//! The Connect protocol, translated into gRPC and back: unary calls and server streams, with bodies of protobuf or
//! JSON, so that `curl` and web pages can talk to a node. <https://connectrpc.com/docs/protocol>
//!
//! A unary body in protobuf is a gRPC message without its five bytes of framing; a stream's body keeps them.
//! JSON is translated whole, see [`json`]. All limits, charges, deadlines and metrics are those of the gRPC call.

mod compression;
mod error;
mod json;
mod stream;
mod text;
mod whole_body;
mod whole_request;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use hawser_proto::pb::MethodSchema;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service as _;
use tracing::Span;

use crate::budget::ConnectionShare;
use crate::call_metrics::MethodMetrics;
use crate::calls::{CALL_BYTES, Calls, GRPC_TIMEOUT, deadline};
use crate::charged_bytes::ChargedBytes;
use crate::compression::GZIP;
use crate::message_boundaries::{COMPRESSED, HEAD_LEN_BYTES};
use crate::method::MethodKind;
use crate::overloaded::OverloadedError;
use crate::request_head::head_bytes;
use crate::response::{CountedCall, LATE};
use crate::settings::MESSAGE_LEN_BYTES_MAX;
use compression::AnswerCompression;
use whole_body::WholeBody;
pub(crate) use whole_body::line;
use whole_request::collect;

/// Specified: Connect protocol, Unary-Request and Streaming-Request.
const PROTOCOL_VERSION: &str = "connect-protocol-version";
const TIMEOUT: &str = "connect-timeout-ms";
const STREAM_ENCODING: &str = "connect-content-encoding";
const UNARY_ACCEPT_ENCODING: &str = "accept-encoding";
const STREAM_ACCEPT_ENCODING: &str = "connect-accept-encoding";
/// The longest text of a deadline. Specified: Connect protocol, ten digits.
const TIMEOUT_LEN_BYTES_MAX: usize = 10;

/// The form of a call: unary or stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Unary,
    Stream,
}

impl Form {
    /// Returns the line that refuses a call in this form of a method that has the other one.
    fn other(self) -> &'static str {
        match self {
            Self::Unary => {
                "this method is a stream: \
                 send application/connect+json or application/connect+proto\n"
            }
            Self::Stream => "this method is unary: send application/json or application/proto\n",
        }
    }
}

/// The encoding of a message: protobuf or JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Proto,
    Json,
}

/// A call of the Connect protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectCall {
    form: Form,
    codec: Codec,
}

impl ConnectCall {
    /// Returns the kind of call that a content type, without parameters, announces.
    pub(crate) fn of_content_type(content_type: &str) -> Option<Self> {
        let (form, codec) = match content_type {
            "application/proto" => (Form::Unary, Codec::Proto),
            "application/json" => (Form::Unary, Codec::Json),
            "application/connect+proto" => (Form::Stream, Codec::Proto),
            "application/connect+json" => (Form::Stream, Codec::Json),
            _ => return None,
        };
        Some(Self { form, codec })
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match (self.form, self.codec) {
            (Form::Unary, Codec::Proto) => "application/proto",
            (Form::Unary, Codec::Json) => "application/json",
            (Form::Stream, Codec::Proto) => "application/connect+proto",
            (Form::Stream, Codec::Json) => "application/connect+json",
        })
    }

    /// Serves the call. `body_timeout` is the time for a request of one message to arrive.
    pub(crate) async fn answer(
        self,
        calls: Calls,
        request: Request<Body>,
        body_timeout: Duration,
    ) -> Response<Body> {
        let share = ConnectionShare::of(request.extensions()).clone();
        let Some(kind) = calls.metrics().kind(request.uri().path()) else {
            let refused = Status::unimplemented("no such method");
            count(calls.metrics().method(request.uri().path()), &refused);
            return self.refuse(&refused, share);
        };
        if (kind == MethodKind::Unary) != (self.form == Form::Unary) {
            // Specified: Connect protocol, Unary-Response.
            return line(StatusCode::UNSUPPORTED_MEDIA_TYPE, self.form.other(), share);
        }
        let answered = self.call(calls, request, kind, &share, body_timeout).await;
        answered.unwrap_or_else(|status| self.refuse(&status, share))
    }

    /// Makes a gRPC call out of a Connect request, and a Connect answer out of its result.
    async fn call(
        self,
        mut calls: Calls,
        request: Request<Body>,
        kind: MethodKind,
        share: &Arc<ConnectionShare>,
        body_timeout: Duration,
    ) -> Result<Response<Body>, Status> {
        if kind == MethodKind::Bidi {
            return Err(Status::unimplemented("streams in both directions are served over gRPC"));
        }
        let schema = match self.codec {
            Codec::Proto => None,
            Codec::Json => json::schema(request.uri().path()),
        };
        if self.codec == Codec::Json && schema.is_none() {
            return Err(Status::unimplemented("no such method"));
        }
        let method = calls.metrics().method(request.uri().path());
        let accepted = match self.form {
            Form::Unary => UNARY_ACCEPT_ENCODING,
            Form::Stream => STREAM_ACCEPT_ENCODING,
        };
        let compression = AnswerCompression::of(
            request.headers(),
            accepted,
            share,
            calls.compression_allowance(),
        );
        let arrived = self.arrive(request, schema.as_ref(), share, body_timeout).await;
        let (request, held) = arrived.inspect_err(|refused| count(method, refused))?;
        let Ok(response) = calls.call(request).await;
        drop(held);
        match self.form {
            Form::Unary => self.unary_answer(response, schema, share, compression).await,
            Form::Stream => Ok(self.stream_answer(response, schema, share.clone(), compression)),
        }
    }

    /// Waits for the message of a request. Returns the gRPC request, with the memory that its message takes until the
    /// call is over.
    async fn arrive(
        self,
        request: Request<Body>,
        schema: Option<&MethodSchema>,
        share: &Arc<ConnectionShare>,
        body_timeout: Duration,
    ) -> Result<(Request<Body>, Option<ChargedBytes>), Status> {
        let (mut head, body) = request.into_parts();
        // The call begins when its message is here, and charges its head from then on.
        let mut waiting = ChargedBytes::new(share.clone());
        waiting.take(CALL_BYTES + head_bytes(&head.uri, &head.headers))?;
        let is_compressed = self.take_headers(&mut head.headers)?;
        let arrived = self.message(body, is_compressed, schema, share);
        let (body, held) = in_time(&mut head.headers, body_timeout, share, arrived).await?;
        Ok((Request::from_parts(head, body), held))
    }

    /// Replaces the Connect headers of a request with those of gRPC. Returns true if its message is compressed.
    fn take_headers(self, headers: &mut HeaderMap) -> Result<bool, Status> {
        if headers.get(PROTOCOL_VERSION).is_some_and(|version| version != "1") {
            return Err(Status::invalid_argument("connect-protocol-version must be \"1\""));
        }
        let encoding = match self.form {
            Form::Unary => headers.remove(CONTENT_ENCODING),
            Form::Stream => headers.remove(STREAM_ENCODING),
        };
        let is_compressed = match encoding.as_ref().map(HeaderValue::as_bytes) {
            None | Some(b"identity") => false,
            Some(b"gzip") => true,
            Some(_) => {
                return Err(Status::unimplemented(
                    "unknown compression: identity and gzip are served",
                ));
            }
        };
        if let Some(timeout) = headers.remove(TIMEOUT) {
            headers.insert(GRPC_TIMEOUT, grpc_timeout(timeout_of(&timeout)?));
        }
        for name in [CONTENT_LENGTH, ACCEPT_ENCODING, CONTENT_ENCODING] {
            headers.remove(name);
        }
        // Removes the headers of the other form too, which have no meaning in this call.
        let others = [STREAM_ENCODING, STREAM_ACCEPT_ENCODING, PROTOCOL_VERSION];
        for name in others.into_iter().chain(["grpc-accept-encoding"]) {
            headers.remove(name);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        if is_compressed && self.codec == Codec::Proto {
            headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        }
        Ok(is_compressed)
    }

    /// Returns the body of the gRPC request, with the memory that it takes until the call is over.
    async fn message(
        self,
        mut body: Body,
        is_compressed: bool,
        schema: Option<&MethodSchema>,
        share: &Arc<ConnectionShare>,
    ) -> Result<(Body, Option<ChargedBytes>), Status> {
        if (self.form, self.codec) == (Form::Stream, Codec::Proto) {
            return Ok((body, None)); // the same bytes
        }
        let (limit, too_long) = self.len_bytes_max();
        let (bytes, mut held) = collect(&mut body, limit, too_long, share).await?;
        let (mut bytes, mut is_compressed) = self.unframe(bytes, is_compressed)?;
        if let Some(schema) = schema {
            bytes = json::to_message(schema.clone(), bytes, is_compressed, share).await?;
            is_compressed = false;
            // The text is dropped, and the message stays.
            let mut of_message = ChargedBytes::new(share.clone());
            of_message.take(bytes.len())?;
            held = of_message;
        }
        let len = u32::try_from(bytes.len()).map_err(|_| too_large())?;
        let mut head = BytesMut::with_capacity(HEAD_LEN_BYTES);
        head.put_u8(u8::from(is_compressed));
        head.put_u32(len);
        let frames = [head.freeze(), bytes].map(|piece| Ok::<_, Status>(Frame::data(piece)));
        Ok((Body::new(StreamBody::new(futures_util::stream::iter(frames))), Some(held)))
    }

    /// Returns the longest body, and the refusal of a longer one.
    fn len_bytes_max(self) -> (usize, fn() -> Status) {
        let head_len = if self.form == Form::Stream { HEAD_LEN_BYTES } else { 0 };
        match self.codec {
            Codec::Proto => (MESSAGE_LEN_BYTES_MAX, too_large as fn() -> Status),
            Codec::Json => {
                (json::REQUEST_LEN_BYTES_MAX + head_len, json::too_long as fn() -> Status)
            }
        }
    }

    /// Takes the message out of a body that has arrived. Returns it, and true if it is compressed.
    fn unframe(self, mut bytes: Bytes, mut is_compressed: bool) -> Result<(Bytes, bool), Status> {
        if self.form == Form::Stream {
            is_compressed = only_message(&mut bytes)? == COMPRESSED;
        }
        Ok((bytes, is_compressed))
    }

    /// Returns true for compressed JSON. Compressed protobuf is passed on unchanged.
    fn is_decompressed_here(self, is_compressed: bool) -> bool {
        is_compressed && self.codec == Codec::Json
    }

    /// Makes the answer of a unary call: the message as the body, the trailers as headers, an error as the status. The
    /// message is charged while it is gathered, and until the connection takes it.
    async fn unary_answer(
        self,
        response: Response<Body>,
        schema: Option<MethodSchema>,
        share: &Arc<ConnectionShare>,
        compression: Option<AnswerCompression>,
    ) -> Result<Response<Body>, Status> {
        let (mut head, mut body) = response.into_parts();
        let mut held = ChargedBytes::new(share.clone());
        let mut pieces = VecDeque::new();
        let mut ended = Status::from_header_map(&head.headers);
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(piece) => {
                    held.take(piece.len())?;
                    pieces.push_back(piece);
                }
                Err(last) => ended = last.trailers_ref().and_then(Status::from_header_map),
            }
        }
        let status = ended.unwrap_or_else(|| Status::unknown("the answer has no status"));
        if status.code() != Code::Ok {
            return Err(status);
        }
        // Mostly one piece, which is not copied: a copy of 25 MiB would hold up the other calls of the thread.
        let mut framed = json::joined(pieces);
        if framed.len() < HEAD_LEN_BYTES {
            return Err(Status::internal("the answer has no message"));
        }
        if let Some(schema) = schema {
            let message = framed.slice(HEAD_LEN_BYTES..);
            framed = json::of_message(schema, message, share).await?;
        }
        let (message, is_compressed) = match compression {
            Some(compression) => {
                held.set(0); // the compression charges what it has
                compression.message(framed).await
            }
            None => (framed.slice(HEAD_LEN_BYTES..), false),
        };
        if is_compressed {
            head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(GZIP));
        }
        head.headers.remove("grpc-status");
        head.headers.remove("grpc-encoding");
        head.headers.insert(CONTENT_TYPE, self.content_type());
        let mut response = Response::new(Body::new(WholeBody::new(message, held)));
        *response.headers_mut() = head.headers;
        // Specified: Connect protocol, Unary-Trailers.
        for (name, value) in &status.metadata().clone().into_headers() {
            let name = http::HeaderName::try_from(format!("trailer-{name}"));
            if let Ok(name) = name {
                response.headers_mut().append(name, value.clone());
            }
        }
        Ok(response)
    }

    fn stream_answer(
        self,
        response: Response<Body>,
        schema: Option<MethodSchema>,
        share: Arc<ConnectionShare>,
        compression: Option<AnswerCompression>,
    ) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        if let Some(status) = Status::from_header_map(&head.headers) {
            return self.refuse(&status, share);
        }
        head.headers.remove("grpc-encoding");
        head.headers.insert(CONTENT_TYPE, self.content_type());
        if compression.is_some() {
            head.headers.insert(STREAM_ENCODING, HeaderValue::from_static(GZIP));
        }
        let mut response = Response::new(stream::translate(body, schema, share, compression));
        *response.headers_mut() = head.headers;
        *response.extensions_mut() = head.extensions;
        response
    }

    /// Returns an answer that is an error. Its text is charged until the connection takes it.
    fn refuse(self, status: &Status, share: Arc<ConnectionShare>) -> Response<Body> {
        let (body, code, content_type) = match self.form {
            Form::Unary => (
                Bytes::from(error::to_json(status).to_string()),
                error::http_status(status.code()),
                HeaderValue::from_static("application/json"),
            ),
            Form::Stream => (error::end_of_stream(status), StatusCode::OK, self.content_type()),
        };
        let body = WholeBody::new(body, ChargedBytes::new(share));
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = code;
        if self.form == Form::Unary {
            *response.headers_mut() = status.metadata().clone().into_headers();
        }
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }
}

/// A parsed request of the Connect protocol, as the listener passes it to a service. Public for fuzzing, which supplies
/// any bytes.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// The headers of the gRPC request.
    pub headers: HeaderMap,
    /// The message: JSON, or protobuf, perhaps compressed.
    pub message: Bytes,
    /// True if the message is compressed.
    pub is_compressed: bool,
}

impl ConnectRequest {
    /// Parses a request. `None` if its content type does not belong to the protocol.
    ///
    /// # Errors
    /// The status of the refusal.
    pub fn read(
        content_type: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Option<Result<Self, Status>> {
        let call = ConnectCall::of_content_type(content_type)?;
        let read = move || {
            let is_compressed = call.take_headers(&mut headers)?;
            let (limit, too_long) = call.len_bytes_max();
            if body.len() > limit {
                return Err(too_long());
            }
            let (mut message, mut is_compressed) = call.unframe(body, is_compressed)?;
            if call.is_decompressed_here(is_compressed) {
                (message, is_compressed) = (json::decompress(message)?, false);
            }
            Ok(Self { headers, message, is_compressed })
        };
        Some(read())
    }
}

/// Removes the head of the only message in a stream's request. Returns its flag.
fn only_message(bytes: &mut Bytes) -> Result<u8, Status> {
    let Some(&[flag, a, b, c, d]) = bytes.first_chunk::<HEAD_LEN_BYTES>() else {
        return Err(Status::invalid_argument("missing request message"));
    };
    if flag > COMPRESSED {
        return Err(Status::invalid_argument(format!("invalid message flag {flag}")));
    }
    let rest = bytes.split_off(HEAD_LEN_BYTES);
    if rest.len() != u32::from_be_bytes([a, b, c, d]) as usize {
        return Err(Status::invalid_argument("a request of this method is one message"));
    }
    *bytes = rest;
    Ok(flag)
}

fn too_large() -> Status {
    let text = format!("message is larger than the {MESSAGE_LEN_BYTES_MAX} allowed");
    Status::resource_exhausted(text)
}

/// Counts a call that is refused before it begins.
fn count(method: &'static MethodMetrics, refused: &Status) {
    CountedCall::start(method, Span::none()).end(refused.code());
}

/// Waits for the message of a request until the caller's deadline, and for `body_timeout` at most, or until its memory
/// is needed for others. The call gets what is left of the deadline.
async fn in_time<T>(
    headers: &mut HeaderMap,
    body_timeout: Duration,
    share: &ConnectionShare,
    message: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let begun = Instant::now();
    let deadline = deadline(headers);
    let wait = deadline.unwrap_or(body_timeout).min(body_timeout);
    let arrived = tokio::select! {
        biased;
        arrived = tokio::time::timeout(wait, message) => arrived,
        () = share.closed() => return Err(OverloadedError.into()),
    };
    let late = if deadline == Some(wait) { LATE } else { "the request did not arrive in time" };
    let message = arrived.map_err(|_| Status::deadline_exceeded(late))??;
    if let Some(deadline) = deadline {
        headers.insert(GRPC_TIMEOUT, grpc_timeout(deadline.saturating_sub(begun.elapsed())));
    }
    Ok(message)
}

/// Returns the deadline of a caller.
fn timeout_of(milliseconds: &HeaderValue) -> Result<Duration, Status> {
    let wrong = || Status::invalid_argument("connect-timeout-ms must be up to ten digits");
    let text = milliseconds.to_str().map_err(|_| wrong())?;
    let are_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if text.len() > TIMEOUT_LEN_BYTES_MAX || !are_digits {
        return Err(wrong());
    }
    text.parse::<u64>().map(Duration::from_millis).map_err(|_| wrong())
}

/// Returns a time as gRPC writes it, in at most eight digits. Rounds down.
fn grpc_timeout(time: Duration) -> HeaderValue {
    let text = match time.as_millis() {
        milliseconds @ 0..=99_999_999 => format!("{milliseconds}m"),
        _ => format!("{}S", time.as_secs().min(99_999_999)),
    };
    HeaderValue::try_from(text).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use futures_util::FutureExt as _;
    use hyper::body::Body as _;

    use super::*;
    use crate::address::ClientAddress;
    use crate::budget::MemoryBudget;

    /// Behind a proxy, whose connection is never closed, a call ends so too.
    #[tokio::test]
    async fn a_message_is_not_waited_for_once_its_memory_is_needed() {
        const MIB: usize = 1024 * 1024;
        let client = |number| ClientAddress::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, number)));
        let budget = MemoryBudget::new(64 * MIB);
        let proxy = budget.proxy(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
        let (large, other) = (proxy.of_call(client(1)), proxy.of_call(client(2)));
        large.take_anyway(40 * MIB);
        let (mut headers, never) = (HeaderMap::new(), std::future::pending::<Result<(), Status>>());
        let arrived = in_time(&mut headers, Duration::from_secs(10), &large, never);
        let mut arrived = Box::pin(arrived);
        assert!((&mut arrived).now_or_never().is_none());
        other.take_anyway(20 * MIB);
        assert_eq!(arrived.await.unwrap_err().code(), Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn an_answer_is_charged_until_the_connection_takes_it() {
        const LEN: usize = 100_000;
        let budget = MemoryBudget::new(1 << 30);
        let share = budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
        let before = budget.used_bytes();
        let head = [&[0_u8][..], &u32::try_from(LEN).unwrap().to_be_bytes()[..]].concat();
        let message = Frame::data(Bytes::from([head, vec![7; LEN]].concat()));
        let mut trailers = HeaderMap::new();
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
        let frames = [message, Frame::trailers(trailers)].map(Ok::<_, Status>);
        let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
        let call = ConnectCall { form: Form::Unary, codec: Codec::Proto };
        let answered = call.unary_answer(Response::new(body), None, &share, None).await;
        let mut body = answered.unwrap().into_body();
        assert_eq!(body.size_hint().exact(), Some(LEN as u64));
        assert_eq!(budget.used_bytes(), before + LEN);
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap().len(), LEN);
        assert_eq!(budget.used_bytes(), before, "the connection charges it");
        assert!(body.is_end_stream());
    }

    /// Played by a client over HTTP/2 whose windows are empty, so that a refusal waits on each of its streams.
    #[tokio::test]
    async fn a_refusal_is_charged_until_the_connection_takes_it() {
        let budget = MemoryBudget::new(1 << 30);
        let share = budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
        let before = budget.used_bytes();
        for form in [Form::Unary, Form::Stream] {
            let call = ConnectCall { form, codec: Codec::Json };
            let refused = call.refuse(&Status::not_found("x".repeat(4000)), share.clone());
            assert!(budget.used_bytes() > before + 4000);
            assert!(refused.into_body().frame().await.is_some());
            assert_eq!(budget.used_bytes(), before, "the connection charges it");
        }
    }

    #[test]
    fn deadlines_are_written_as_grpc_does() {
        let of = |text: &str| {
            timeout_of(&text.parse().unwrap()).map(grpc_timeout).map_err(|it| it.code())
        };
        assert_eq!(of("250").unwrap(), "250m");
        assert_eq!(of("99999999").unwrap(), "99999999m");
        assert_eq!(of("9999999999").unwrap(), "9999999S");
        for wrong in ["", "-1", "1.5", "12345678901", "1m"] {
            assert_eq!(of(wrong), Err(Code::InvalidArgument), "{wrong}");
        }
    }

    #[test]
    fn a_stream_asks_with_one_message() {
        let asked = |bytes: &'static [u8]| {
            let mut bytes = Bytes::from_static(bytes);
            only_message(&mut bytes).map(|flag| (flag, bytes)).map_err(|it| it.code())
        };
        assert_eq!(asked(b"\0\0\0\0\x02{}"), Ok((0, Bytes::from_static(b"{}"))));
        for wrong in
            [&b""[..], b"\0\0\0\0", b"\x02\0\0\0\0", b"\0\0\0\0\x02{", b"\0\xff\xff\xff\xff"]
        {
            assert_eq!(asked(wrong), Err(Code::InvalidArgument), "{wrong:?}");
        }
    }
}
