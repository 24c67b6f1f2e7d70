//! One gRPC call, whichever protocol carried it: its limits, its deadline, its metrics, its span.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tower::Service;
use tracing::{Instrument as _, Span};

use crate::budget::Budget;
use crate::call_metrics::CallMetrics;
use crate::request::RequestBody;
use crate::response::{Call, ResponseBody, status_of};

/// The longest text of a deadline. Specified: gRPC over HTTP/2, eight digits and a unit.
const TIMEOUT_LEN_BYTES_MAX: usize = 9;

/// The services behind their limits.
#[derive(Clone)]
pub(crate) struct Calls {
    routes: Routes,
    metrics: CallMetrics,
    body_timeout: Duration,
    budget: Budget,
}

impl Calls {
    pub(crate) fn new(routes: Routes, metrics: CallMetrics, body_timeout: Duration) -> Self {
        Self { routes, metrics, body_timeout, budget: Budget::default() }
    }

    /// Returns the same services with the budget of another connection.
    pub(crate) fn for_connection(&self) -> Self {
        Self { budget: self.budget.for_connection(), ..self.clone() }
    }

    pub(crate) fn metrics(&self) -> &CallMetrics {
        &self.metrics
    }
}

impl Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // routes have no back-pressure of their own
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let metrics = self.metrics.method(request.uri().path());
        let span = span(metrics.method().path(), &request);
        let mut call = Call::start(metrics, span.clone());
        let deadline = deadline(request.headers());
        let version = request.version();
        let share = self.budget.request();
        let guarded = |body| RequestBody::new(body, version, metrics, share, self.body_timeout);
        let answer = self.routes.call(request.map(|body| Body::new(guarded(body))));
        let handled = async move {
            let mut response = match deadline {
                None => answer.await?,
                Some(deadline) => match tokio::time::timeout(deadline, answer).await {
                    Ok(response) => response?,
                    Err(_) => Status::deadline_exceeded("request timed out").into_http(),
                },
            };
            correct(response.headers_mut());
            if let Some(code) = status_of(response.headers()) {
                call.end(code);
            }
            Ok(response.map(|body| Body::new(ResponseBody::new(body, call))))
        };
        Box::pin(handled.instrument(span))
    }
}

/// The span of a request: its method and the class of the peer's address, never a payload.
fn span(method: &'static str, request: &Request<Body>) -> Span {
    let connection = request.extensions().get::<TcpConnectInfo>();
    let peer = connection.and_then(|it| it.remote_addr).map_or("unknown", |it| class(it.ip()));
    tracing::debug_span!("request", method, peer)
}

/// Returns the class of an address, which is all that logs hold of a caller's.
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

/// Turns INTERNAL into INVALID_ARGUMENT where a message did not decode. The decoder reports a
/// failure of the server, but the caller's bytes are at fault.
fn correct(headers: &mut HeaderMap) {
    if status_of(headers) != Some(Code::Internal) {
        return;
    }
    let undecodable = headers
        .get(Status::GRPC_MESSAGE)
        .is_some_and(|message| message.as_bytes().starts_with(b"failed%20to%20decode%20Protobuf"));
    if undecodable {
        headers.insert(Status::GRPC_STATUS, HeaderValue::from(Code::InvalidArgument as i32));
    }
}

/// Returns the caller's deadline, if it names a valid one.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    if text.len() > TIMEOUT_LEN_BYTES_MAX || !text.is_ascii() {
        return None;
    }
    let (digits, unit) = text.split_at(text.len().checked_sub(1)?);
    let amount: u64 = digits.parse().ok()?;
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
    use super::*;

    fn deadline_of(text: &str) -> Option<Duration> {
        deadline(&[("grpc-timeout".parse().unwrap(), text.parse().unwrap())].into_iter().collect())
    }

    #[test]
    fn deadlines_are_read_and_nonsense_is_none() {
        assert_eq!(deadline_of("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(deadline_of("150m"), Some(Duration::from_millis(150)));
        assert_eq!(deadline_of("99999999S"), Some(Duration::from_secs(99_999_999)));
        for nonsense in ["", "S", "5", "-1S", "123456789S", "5x"] {
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

    #[test]
    fn an_undecodable_message_is_an_invalid_argument() {
        let error = Status::internal("failed to decode Protobuf message: invalid wire type");
        let mut response = error.into_http::<()>();
        correct(response.headers_mut());
        assert_eq!(status_of(response.headers()), Some(Code::InvalidArgument));

        let mut response = Status::internal("the disk is gone").into_http::<()>();
        correct(response.headers_mut());
        assert_eq!(status_of(response.headers()), Some(Code::Internal));
    }
}
