//! Dispatches requests by protocol, which follows from the head of the request alone.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service};
use tracing::Span;

use crate::budget::ConnectionShare;
use crate::call_metrics::CallMetrics;
use crate::calls::Calls;
use crate::connect::{ConnectCall, line};
use crate::cors;
use crate::method::MethodKind;
use crate::public_pages::{self, PublicPages};
use crate::response::CountedCall;
use crate::unflushed::ArrivedHead;
use crate::unread::{self, WatchedBody};
use crate::web_answer::WebCalls;
use crate::web_text::{TextBody, WEB_TEXT_TYPES};

/// The media type of gRPC-Web in its binary form.
const WEB_TYPE: &str = "application/grpc-web+proto";
/// The media types of gRPC-Web.
const WEB_TYPES: [&str; 4] =
    ["application/grpc-web", WEB_TYPE, WEB_TEXT_TYPES[0], WEB_TEXT_TYPES[1]];

/// Dispatches requests by protocol. Cheap to clone; clones share state. Every request has one.
#[derive(Clone)]
pub(crate) struct Dispatcher(Arc<DispatcherState>);

struct DispatcherState {
    calls: Calls,
    pages: Vec<Arc<dyn PublicPages>>,
    body_timeout: Duration,
}

/// The protocol of a request.
#[derive(Debug, PartialEq, Eq)]
enum Protocol {
    Grpc,
    GrpcWeb,
    Connect(ConnectCall),
    /// Not a call, with the HTTP status of the refusal.
    Other(StatusCode),
}

impl Dispatcher {
    pub(crate) fn new(
        routes: Routes,
        metrics: CallMetrics,
        pages: Vec<Arc<dyn PublicPages>>,
        body_timeout: Duration,
    ) -> Self {
        let calls = Calls::new(routes.prepare(), metrics, body_timeout);
        Self(Arc::new(DispatcherState { calls, pages, body_timeout }))
    }

    pub(crate) fn metrics(&self) -> &CallMetrics {
        self.0.calls.metrics()
    }

    /// Serves one request. The part of its body that the answer leaves unread is read on beside the answer.
    pub(crate) async fn answer(
        self,
        request: Request<Incoming>,
        head: &ArrivedHead,
    ) -> Result<Response<Body>, Infallible> {
        let body_timeout = self.0.body_timeout;
        let (request, rest) = unread::watch(request);
        let mut response = self.respond(request).await?;
        rest.read_on(head, body_timeout);
        cors::add_headers(response.headers_mut());
        Ok(response)
    }

    /// Answers one request. All but calls of gRPC are boxed: the memory of each call would otherwise have room for the
    /// largest of them.
    async fn respond(
        &self,
        request: Request<WatchedBody<Incoming>>,
    ) -> Result<Response<Body>, Infallible> {
        let response = if request.method() == Method::OPTIONS {
            cors::preflight(request.headers())
        } else if let Some(pages) = self.pages_of(&request) {
            Box::pin(public_pages::answer(pages, request)).await
        } else if let Some((pages, len_bytes_max)) = self.taken_by(&request) {
            let body_timeout = self.0.body_timeout;
            Box::pin(public_pages::take(pages, request, len_bytes_max, body_timeout)).await
        } else {
            match protocol(&request) {
                Protocol::Grpc => self.0.calls.begin(request.map(Body::new)).await?,
                Protocol::GrpcWeb if self.is_bidi(request.uri().path()) => {
                    self.refuse_web_stream(request.uri().path())
                }
                Protocol::GrpcWeb => {
                    let (request, is_text) = with_exact_types(request);
                    let mut service = GrpcWebLayer::new().layer(WebCalls(self.0.calls.clone()));
                    if is_text {
                        Box::pin(service.call(request.map(TextBody::new))).await?
                    } else {
                        Box::pin(service.call(request)).await?
                    }
                }
                Protocol::Connect(call) => {
                    let (calls, body_timeout) = (self.0.calls.clone(), self.0.body_timeout);
                    Box::pin(call.answer(calls, request.map(Body::new), body_timeout)).await
                }
                Protocol::Other(status) => self.refuse(status, &request),
            }
        };
        Ok(response)
    }

    /// Returns the pages; `None` if the request is not for a page.
    fn pages_of<B>(&self, request: &Request<B>) -> Option<&Arc<dyn PublicPages>> {
        let asks = [Method::GET, Method::HEAD].contains(request.method());
        self.pages_at(request).filter(|_| asks)
    }

    /// Returns the pages if they accept the body of the request, with the longest accepted body in bytes.
    fn taken_by<B>(&self, request: &Request<B>) -> Option<(&Arc<dyn PublicPages>, usize)> {
        let path = request.uri().path();
        let mut pages = self.0.pages.iter().filter(|_| request.method() == Method::POST);
        pages.find_map(|pages| Some((pages, pages.len_bytes_max(path)?)))
    }

    /// Returns the pages to which the path of a request belongs. Ignores the method.
    fn pages_at<B>(&self, request: &Request<B>) -> Option<&Arc<dyn PublicPages>> {
        let path = request.uri().path();
        self.0.pages.iter().find(|pages| path.starts_with(pages.prefix()))
    }

    fn is_bidi(&self, path: &str) -> bool {
        self.metrics().kind(path) == Some(MethodKind::Bidi)
    }

    /// Refuses a stream in both directions over gRPC-Web, whose requests end before answers are read: a client could
    /// neither answer pings nor change what it has asked for.
    fn refuse_web_stream(&self, path: &str) -> Response<Body> {
        let refused = Status::unimplemented("streams in both directions are served over gRPC");
        CountedCall::start(self.metrics().method(path), Span::none()).end(refused.code());
        let mut response = refused.into_http();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(WEB_TYPE));
        response
    }

    /// Refuses a request that is not a call.
    fn refuse<B>(&self, status: StatusCode, request: &Request<B>) -> Response<Body> {
        self.metrics().count_not_grpc();
        let share = ConnectionShare::of(request.extensions()).clone();
        // The answer to `HEAD` has no body (RFC 9110 §9.3.2).
        let text = if request.method() == Method::HEAD { "" } else { what_to_send(status) };
        let mut response = line(status, text, share);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            let has_pages = self.pages_at(request).is_some();
            let allowed = if has_pages { "GET,HEAD,POST,OPTIONS" } else { "POST,OPTIONS" };
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        }
        response
    }
}

/// Returns the line of a refusal with this status.
fn what_to_send(status: StatusCode) -> &'static str {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            "calls are POST requests, such as: curl -d '{}' -H 'content-type: application/json' \
             URL/package.Service/Method\n"
        }
        StatusCode::HTTP_VERSION_NOT_SUPPORTED => {
            "gRPC needs HTTP/2: send gRPC-Web or Connect over an older version\n"
        }
        _ => {
            "this content type is none of a call: send application/grpc, \
             application/grpc-web+proto, application/json or application/proto\n"
        }
    }
}

fn protocol<B>(request: &Request<B>) -> Protocol {
    if request.method() != Method::POST {
        return Protocol::Other(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some(content_type) = request.headers().get(CONTENT_TYPE) else {
        return Protocol::Other(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    };
    let text = essence(content_type.to_str().unwrap_or_default());
    // Upper and lower case are the same (RFC 9110 §8.3.1).
    let is = |known: &str| text.eq_ignore_ascii_case(known);
    if is("application/grpc") || is("application/grpc+proto") {
        return match request.version() < Version::HTTP_2 {
            true => Protocol::Other(StatusCode::HTTP_VERSION_NOT_SUPPORTED),
            false => Protocol::Grpc,
        };
    }
    if WEB_TYPES.into_iter().any(is) {
        return Protocol::GrpcWeb;
    }
    ConnectCall::of_content_type(&text.to_ascii_lowercase())
        .map_or(Protocol::Other(StatusCode::UNSUPPORTED_MEDIA_TYPE), Protocol::Connect)
}

/// Returns a media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// Rewrites the media types of a gRPC-Web request to the spelling that the gRPC-Web layer recognizes, without
/// parameters. Returns true beside it if its body is text, which [`TextBody`] decodes: the layer gets the binary form.
/// The layer chooses the form of the answer by `Accept`, which is set to the first form of gRPC-Web that the caller
/// accepts, or else to that of the request.
fn with_exact_types<B>(mut request: Request<B>) -> (Request<B>, bool) {
    let headers = request.headers_mut();
    let before = &*headers;
    let values = |name| before.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let known =
        |text: &str| WEB_TYPES.into_iter().find(|known| essence(text).eq_ignore_ascii_case(known));
    let sent = values(CONTENT_TYPE).find_map(known);
    let accepted = values(ACCEPT).flat_map(|list| list.split(',')).find_map(known);
    let is_text = sent.is_some_and(|sent| WEB_TEXT_TYPES.contains(&sent));
    let decoded = if is_text { Some(WEB_TYPE) } else { sent };
    for (name, value) in [(CONTENT_TYPE, decoded), (ACCEPT, accepted.or(sent))] {
        if let Some(value) = value {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    (request, is_text)
}
