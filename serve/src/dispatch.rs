//! Dispatches requests by protocol, which follows from the head of the request alone.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service};

use crate::call_metrics::CallMetrics;
use crate::calls::Calls;
use crate::connect::ConnectCall;
use crate::cors;
use crate::public_pages::{self, PublicPages};

/// Dispatches requests by protocol. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dispatcher {
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
        Self { calls: Calls::new(routes.prepare(), metrics, body_timeout), pages, body_timeout }
    }

    pub(crate) fn metrics(&self) -> &CallMetrics {
        self.calls.metrics()
    }

    /// Serves one request.
    pub(crate) async fn answer(
        mut self,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let mut response = if request.method() == Method::OPTIONS {
            cors::preflight(request.headers())
        } else if let Some(pages) = self.pages_of(&request) {
            public_pages::answer(pages, request).await
        } else if let Some((pages, len_bytes_max)) = self.taken_by(&request) {
            public_pages::take(pages, request, len_bytes_max, self.body_timeout).await
        } else {
            match protocol(&request) {
                Protocol::Grpc => self.calls.call(request.map(Body::new)).await?,
                Protocol::GrpcWeb => {
                    let request = with_accept(request);
                    GrpcWebLayer::new().layer(self.calls).call(request).await?
                }
                Protocol::Connect(call) => {
                    call.answer(self.calls, request.map(Body::new), self.body_timeout).await
                }
                Protocol::Other(status) => self.refuse(status, self.pages_at(&request).is_some()),
            }
        };
        cors::add_headers(response.headers_mut());
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
        let mut pages = self.pages.iter().filter(|_| request.method() == Method::POST);
        pages.find_map(|pages| Some((pages, pages.len_bytes_max(path)?)))
    }

    /// Returns the pages that the path of a request belongs to. Ignores the method.
    fn pages_at<B>(&self, request: &Request<B>) -> Option<&Arc<dyn PublicPages>> {
        let path = request.uri().path();
        self.pages.iter().find(|pages| path.starts_with(pages.prefix()))
    }

    fn refuse(&self, status: StatusCode, has_pages: bool) -> Response<Body> {
        self.metrics().count_not_grpc();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        if status == StatusCode::METHOD_NOT_ALLOWED {
            let allowed = if has_pages { "GET,HEAD,POST,OPTIONS" } else { "POST,OPTIONS" };
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        }
        response
    }
}

fn protocol<B>(request: &Request<B>) -> Protocol {
    if request.method() != Method::POST {
        return Protocol::Other(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some(content_type) = request.headers().get(CONTENT_TYPE) else {
        return Protocol::Other(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    };
    let text = content_type.to_str().unwrap_or_default();
    match text.split(';').next().unwrap_or_default().trim_end() {
        "application/grpc" | "application/grpc+proto" if request.version() < Version::HTTP_2 => {
            Protocol::Other(StatusCode::HTTP_VERSION_NOT_SUPPORTED)
        }
        "application/grpc" | "application/grpc+proto" => Protocol::Grpc,
        "application/grpc-web"
        | "application/grpc-web+proto"
        | "application/grpc-web-text"
        | "application/grpc-web-text+proto" => Protocol::GrpcWeb,
        other => ConnectCall::of_content_type(other)
            .map_or(Protocol::Other(StatusCode::UNSUPPORTED_MEDIA_TYPE), Protocol::Connect),
    }
}

/// Copies the content type into a missing `Accept` header, because the gRPC-Web layer chooses the form of its response
/// by it.
fn with_accept<B>(mut request: Request<B>) -> Request<B> {
    let headers = request.headers_mut();
    if !headers.contains_key(ACCEPT)
        && let Some(content_type) = headers.get(CONTENT_TYPE).cloned()
    {
        headers.insert(ACCEPT, content_type);
    }
    request
}
