//! One gRPC call of any protocol: its limits, deadline, metrics and span.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version};
use hyper::body::Body as _;
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tower::Service;
use tracing::{Instrument as _, Span};

use crate::budget::ConnectionShare;
use crate::call_metrics::CallMetrics;
use crate::call_share::CallCharge;
use crate::compression::{self, ACCEPT_ENCODING, CompressedBody, CompressionAllowance, GZIP};
use crate::long_work;
use crate::memory_wait;
use crate::method::{MethodKind, RpcMethod};
use crate::overloaded::OverloadedError;
use crate::request::RequestBody;
use crate::request_head::head_bytes;
use crate::request_messages::UntakenBody;
use crate::response::{CountedCall, LATE, ResponseBody};
use crate::response_messages::take_messages;
use crate::settings::STREAM_WINDOW_BYTES;
use crate::status_headers::correct;
use crate::unflushed::ChargedInCall;

/// The header of the compression of messages. Specified: gRPC over HTTP/2, Message-Encoding.
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// The header of a caller's deadline (gRPC over HTTP/2, Timeout). A search by text would first read the name.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The longest text of a deadline. Specified: gRPC over HTTP/2, eight digits and a unit.
const TIMEOUT_LEN_BYTES_MAX: usize = 9;
/// Charge of a new call, bytes: its task and the state of its HTTP/2 stream. Calculated from a measurement of both
/// together: 10 KiB for each of 5,000 silent streams that kept a buffer of 8 KiB ([`BUFFER_BYTES`]).
pub(crate) const CALL_BYTES: usize = 4 * 1024;
/// Charge of the library's buffer for decoding a request, bytes. The library makes it when the service is called.
const BUFFER_BYTES: usize = 8 * 1024;
/// Time for which an address rests for a call that it makes although the refusal of an earlier one holds, in multiples
/// of it while publishers are late. A guess: some three turns of such a call. A client that repeats five has no rest,
/// because some are free.
const REFUSED_TIME: Duration = Duration::from_micros(200);

/// The services behind their limits.
#[derive(Clone)]
pub(crate) struct Calls {
    routes: Routes,
    metrics: CallMetrics,
    body_timeout: Duration,
    compression_allowance: Arc<CompressionAllowance>,
}

impl Calls {
    pub(crate) fn new(routes: Routes, metrics: CallMetrics, body_timeout: Duration) -> Self {
        Self {
            routes,
            metrics,
            body_timeout,
            compression_allowance: Arc::new(CompressionAllowance::new()),
        }
    }

    pub(crate) fn metrics(&self) -> &CallMetrics {
        &self.metrics
    }

    /// Returns the allowance for compressing answers, which all calls of the listener share.
    pub(crate) fn compression_allowance(&self) -> &Arc<CompressionAllowance> {
        &self.compression_allowance
    }
}

/// A call that a service answers.
type AnsweredCall = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = AnsweredCall;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // routes have no back-pressure of their own
    }

    fn call(&mut self, request: Request<Body>) -> AnsweredCall {
        self.begin(request)
    }
}

impl Calls {
    /// Begins a call, which its service answers.
    pub(crate) fn begin(&self, mut request: Request<Body>) -> AnsweredCall {
        let metrics = self.metrics.method(request.uri().path());
        let span = span(metrics.method().path(), &request);
        let mut call = CountedCall::start(metrics, span.clone());
        // Clients of unknown methods may wait for their refusal before they end their request.
        let kind = self.metrics.kind_of(metrics);
        let is_received_first = kind.is_some_and(|kind| kind != MethodKind::Bidi);
        let takes_messages = metrics.method().takes_messages();
        let buffer_bytes = if is_received_first || takes_messages { 0 } else { BUFFER_BYTES };
        let charge = match admit(&mut request, *metrics.method(), buffer_bytes) {
            Ok(charge) => charge,
            Err(refused) => {
                call.end(refused.code());
                return Box::pin(async move { Ok(refused.into_http()) });
            }
        };
        let (wait_end, mut late) = time_limits(request.headers());
        let (of_request, timeout) = (charge.clone(), self.body_timeout);
        let compression = CallCompression::of(request.headers_mut());
        let allowance = compression.answers.then(|| self.compression_allowance.clone());
        let (mut parts, body) = request.into_parts();
        let body = RequestBody::new(body, parts.version, metrics, of_request, timeout);
        let body = body.waiting_until(wait_end);
        let mut body = if compression.decompresses_request() { body.decompressing() } else { body };
        let (routes, of_answer) = (self.routes.clone(), charge.clone());
        // Boxed: the state of the call would otherwise have room for it twice, and each move of it would copy both.
        let answered = Box::pin(async move {
            if is_received_first && let Err(refused) = body.receive(BUFFER_BYTES).await {
                return Ok::<_, Infallible>(refused.into_http());
            }
            let is_long = body.is_long() || of_answer.has_large_request();
            let body = if takes_messages {
                parts.extensions.insert(UntakenBody::new(body));
                Body::empty()
            } else {
                Body::new(body)
            };
            let request = Request::from_parts(parts, body);
            let answered = answer(routes, request, is_long, kind, &of_answer).await;
            Ok::<_, Infallible>(answered.unwrap_or_else(Status::into_http))
        });
        let handled = async move {
            let mut response = tokio::select! {
                biased;
                response = answered => response?,
                status = ended(charge.connection(), &mut late) => status.into_http(),
            };
            let ended = correct(response.headers_mut());
            if ended == Some(Code::Unimplemented) {
                // The library's refusal of an unknown method, or of a service that is switched off, has no text.
                let text = HeaderValue::from_static("no such method");
                response.headers_mut().entry("grpc-message").or_insert(text);
            }
            if let Some(code) = ended {
                call.end(code);
            } else if kind.is_some_and(|kind| kind != MethodKind::Unary) {
                response.extensions_mut().insert(ChargedInCall);
            }
            compression.add_headers(response.headers_mut(), ended);
            let allowance = allowance.filter(|_| ended.is_none());
            Ok(response.map(|body| match allowance {
                Some(allowance) => {
                    let body = ResponseBody::new(body, call, charge.clone(), late);
                    Body::new(CompressedBody::new(body, charge, allowance))
                }
                None => Body::new(ResponseBody::new(body, call, charge, late)),
            }))
        };
        Box::pin(handled.instrument(span))
    }
}

/// Lets the service answer a request. One that `is_long`, on the wire or once it is decoded, is decoded beside the
/// runtime's threads, and a long answer of a unary call is encoded there.
///
/// # Errors
/// INTERNAL if that work has failed.
async fn answer(
    mut routes: Routes,
    request: Request<Body>,
    is_long: bool,
    kind: Option<MethodKind>,
    charge: &CallCharge,
) -> Result<Response<Body>, Status> {
    let answered = routes.call(request);
    // Boxed, as is the other rare part: other calls keep no memory for them.
    let answered = match is_long {
        true => Box::pin(long_work::begin_beside(charge, answered)).await?,
        false => answered.await,
    };
    let Ok(mut response) = answered;
    if let Some(messages) = take_messages(response.extensions_mut()) {
        *response.body_mut() = messages;
    }
    let has_long_answer = kind == Some(MethodKind::Unary)
        && !response.body().is_end_stream()
        && charge.answer_bytes() >= long_work::LONG_ANSWER_BYTES;
    if !has_long_answer {
        return Ok(response);
    }
    Box::pin(long_work::encode_beside(charge, response)).await
}

/// Returns the status of a call that has to end without an answer: its connection is closed because memory is short, or
/// its deadline is over.
async fn ended(connection: &ConnectionShare, late: &mut Option<Pin<Box<Sleep>>>) -> Status {
    match late {
        None => connection.closed().await,
        Some(late) => tokio::select! {
            () = connection.closed() => {}
            () = late.as_mut() => return Status::deadline_exceeded(LATE),
        },
    }
    Status::from(OverloadedError)
}

/// The compression of a call's messages (gRPC over HTTP/2, Message-Encoding).
#[derive(Debug, Clone, Copy)]
struct CallCompression {
    request: RequestEncoding,
    /// The caller accepts answers that are compressed with gzip.
    answers: bool,
}

/// The compression that a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestEncoding {
    /// No message is compressed.
    None,
    /// Messages may be compressed with gzip.
    Gzip,
    /// Messages may be compressed in a way that is not supported.
    Unknown,
}

impl CallCompression {
    /// Reads the headers of a request. The service gets decompressed messages, so the header that
    /// names their compression is removed.
    fn of(headers: &mut HeaderMap) -> Self {
        let answers = compression::is_wanted(headers);
        let request = match headers.get(ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"identity") => RequestEncoding::None,
            Some(name) if name == GZIP.as_bytes() => RequestEncoding::Gzip,
            Some(_) => RequestEncoding::Unknown,
        };
        let compression = Self { request, answers };
        if compression.decompresses_request() {
            headers.remove(ENCODING);
        }
        compression
    }

    /// Returns true if messages of the request may have to be decompressed.
    fn decompresses_request(self) -> bool {
        self.request == RequestEncoding::Gzip
    }

    /// Adds the headers about the compression of an answer. `ended` is set if the answer is a status alone.
    fn add_headers(self, headers: &mut HeaderMap, ended: Option<Code>) {
        if self.request == RequestEncoding::Unknown {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity,gzip"));
        }
        if self.answers && ended.is_none() {
            headers.insert(ENCODING, HeaderValue::from_static(GZIP));
        }
    }
}

/// Charges a call as [`charge`] does, unless the refusal of an earlier one holds for it.
///
/// # Errors
/// The status that refuses the call.
fn admit(
    request: &mut Request<Body>,
    method: RpcMethod,
    buffer_bytes: usize,
) -> Result<CallCharge, Status> {
    // Clients of HTTP/1.1 read an answer only after they have sent the request.
    if request.version() >= Version::HTTP_2
        && let Some(connection) = request.extensions().get::<Arc<ConnectionShare>>()
        && let Some(refused) = connection.refused.status_of(method.path())
    {
        connection.paid_time().rest_without_work(REFUSED_TIME);
        return Err(refused);
    }
    charge(request, method, buffer_bytes).map_err(Status::from)
}

/// Charges a call for itself, its head and `buffer_bytes` for its request. A stream of requests is also charged for
/// requests that wait in its flow-control window, because they are not read before the service asks for them.
///
/// # Errors
/// [`OverloadedError`]: the call must be refused.
fn charge(
    request: &mut Request<Body>,
    method: RpcMethod,
    buffer_bytes: usize,
) -> Result<CallCharge, OverloadedError> {
    // The charge that is inserted below has the connection.
    let connection = request.extensions_mut().remove::<Arc<ConnectionShare>>();
    let charge = CallCharge::new(connection.expect("every request has a connection"));
    if method.leaves_unread() {
        charge.take(STREAM_WINDOW_BYTES as usize)?;
        charge.keep(charge.begin_unread());
    }
    let head_bytes = head_bytes(request.uri(), request.headers());
    let call_bytes = CALL_BYTES + buffer_bytes + head_bytes;
    if method.takes_messages() {
        charge.take_for_stream(call_bytes)?;
    } else {
        charge.take_for_call(call_bytes)?;
    }
    request.extensions_mut().insert(charge.clone());
    Ok(charge)
}

/// The span of a request: its number in this process, its method and the class of the peer's address, never a payload.
/// Requests are counted only while the log has spans.
fn span(method: &'static str, request: &Request<Body>) -> Span {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let connection = request.extensions().get::<TcpConnectInfo>();
    let peer = connection.and_then(|it| it.remote_addr).map_or("unknown", |it| class(it.ip()));
    let next = || COUNT.fetch_add(1, Ordering::Relaxed);
    tracing::debug_span!("request", request_id = next(), method, peer)
}

/// Returns the class of an address: the only fact about a caller's address that logs contain.
fn class(address: IpAddr) -> &'static str {
    let (is_loopback, is_private) = match address.to_canonical() {
        IpAddr::V4(it) => (it.is_loopback(), it.is_private() || it.is_link_local()),
        IpAddr::V6(it) => (it.is_loopback(), it.is_unique_local() || it.is_unicast_link_local()),
    };
    match (is_loopback, is_private) {
        (true, _) => "loopback",
        (false, true) => "private",
        (false, false) => "public",
    }
}

/// Returns the latest end of the waits of a call, and the time until its deadline. `None` for both if its caller names
/// no time limit.
fn time_limits(headers: &HeaderMap) -> (Option<Instant>, Option<Pin<Box<Sleep>>>) {
    let limit = deadline(headers);
    let late = limit.map(|it| Box::pin(tokio::time::sleep(it)));
    (limit.and_then(memory_wait::wait_end_within), late)
}

/// Returns the caller's deadline; `None` without a valid one.
pub(crate) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    if text.len() > TIMEOUT_LEN_BYTES_MAX || !text.is_ascii() {
        return None;
    }
    let (digits, unit) = text.split_at(text.len().checked_sub(1)?);
    // The parser of numbers would take a sign.
    let are_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    let amount: u64 = digits.parse().ok().filter(|_| are_digits)?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 60 * 60),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::budget::MemoryBudget;
    use crate::pace::CREDIT_NS;

    #[tokio::test(start_paused = true)]
    async fn an_address_rests_for_calls_while_a_refusal_holds() {
        let budget = MemoryBudget::new(64 * 1024 * 1024);
        let connection =
            budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
        let account = connection.paid_time();
        account.begin_rests();
        tokio::time::advance(Duration::from_secs(1)).await;
        account.rest(Duration::from_nanos(CREDIT_NS));
        let rests = || account.next_turn().unwrap().after(1_000_000_000).is_some();
        let admitted = |version| {
            let mut request = Request::builder().version(version).body(Body::empty()).unwrap();
            request.extensions_mut().insert(connection.clone());
            let method = RpcMethod::new("/a.B/C", MethodKind::Unary);
            admit(&mut request, method, 0).map(drop).map_err(|refused| refused.code())
        };
        assert_eq!(admitted(Version::HTTP_2), Ok(()));
        connection.refused.note("/a.B/C", Status::unavailable("later"));
        assert_eq!(admitted(Version::HTTP_11), Ok(()), "it reads no answer before it has sent all");
        assert!(!rests());
        assert_eq!(admitted(Version::HTTP_2), Err(Code::Unavailable));
        assert!(rests());
    }

    fn deadline_of(text: &str) -> Option<Duration> {
        deadline(&[("grpc-timeout".parse().unwrap(), text.parse().unwrap())].into_iter().collect())
    }

    #[test]
    fn deadlines_are_read_and_other_texts_are_no_deadline() {
        assert_eq!(deadline_of("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(deadline_of("150m"), Some(Duration::from_millis(150)));
        assert_eq!(deadline_of("99999999S"), Some(Duration::from_secs(99_999_999)));
        for nonsense in ["", "S", "5", "-1S", "123456789S", "5x", "+5S"] {
            assert_eq!(deadline_of(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn addresses_become_classes() {
        for (address, expected) in [
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("10.1.2.3", "private"),
            ("::ffff:192.168.0.1", "private"),
            ("fd00::1", "private"),
            ("fe80::1", "private"),
            ("1.1.1.1", "public"),
            ("2606:4700::1111", "public"),
        ] {
            assert_eq!(class(address.parse().unwrap()), expected, "{address}");
        }
    }
}
