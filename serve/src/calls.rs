//! One gRPC call, in whatever protocol it came: its limits, its deadline, its numbers.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use crate::budget::Budget;
use crate::call_metrics::CallMetrics;
use crate::request::RequestBody;
use crate::response::{Call, ResponseBody, status_of};

/// The longest text of a deadline: eight digits and a unit.
const TIMEOUT_LEN_BYTES_MAX: usize = 9;

/// The services, and what surrounds them.
#[derive(Clone)]
pub(crate) struct Calls {
    routes: Routes,
    stats: CallMetrics,
    body_timeout: Duration,
    budget: Budget,
}

impl Calls {
    pub(crate) fn new(routes: Routes, stats: CallMetrics, body_timeout: Duration) -> Self {
        Self { routes, stats, body_timeout, budget: Budget::default() }
    }

    /// The same for a connection of its own.
    pub(crate) fn for_connection(&self) -> Self {
        Self { budget: self.budget.for_connection(), ..self.clone() }
    }

    pub(crate) fn stats(&self) -> &CallMetrics {
        &self.stats
    }
}

impl Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // routes always are
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let stats = self.stats.method(request.uri().path());
        let mut call = Call::start(stats);
        let deadline = deadline(request.headers());
        let version = request.version();
        let share = self.budget.request();
        let guarded = |body| RequestBody::new(body, version, stats, share, self.body_timeout);
        let answer = self.routes.call(request.map(|body| Body::new(guarded(body))));
        Box::pin(async move {
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
        })
    }
}

/// A message that does not decode is the caller's fault, and no failure of this server, which is
/// what the decoder says.
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

/// How long the caller waits, if it says so.
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
    fn what_does_not_decode_is_the_callers_fault() {
        let error = Status::internal("failed to decode Protobuf message: invalid wire type");
        let mut response = error.into_http::<()>();
        correct(response.headers_mut());
        assert_eq!(status_of(response.headers()), Some(Code::InvalidArgument));

        let mut response = Status::internal("the disk is gone").into_http::<()>();
        correct(response.headers_mut());
        assert_eq!(status_of(response.headers()), Some(Code::Internal));
    }
}
