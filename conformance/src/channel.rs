//! A channel whose answers all state a gRPC status, also those of servers that answer with an HTTP status alone.
//!
//! An HTTP server in front of a node, or one that does not know a service, answers with a page. The client library
//! would read the page as a message and report INTERNAL.

use std::task::{Context as TaskContext, Poll};

use hawser_proto::code_of_http;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response, StatusCode};
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::Channel;
use tonic::transport::Error as TransportError;
use tonic::{Code, Status};

/// An HTTP/2 connection that maps HTTP statuses to gRPC statuses.
#[derive(Debug, Clone)]
pub(crate) struct StatusChannel(pub(crate) Channel);

impl Service<Request<Body>> for StatusChannel {
    type Response = Response<Body>;
    type Error = TransportError;
    type Future = BoxFuture<Response<Body>, TransportError>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), TransportError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move { Ok(with_status(answer.await?)) })
    }
}

/// Replaces an answer that carries no message by its status.
fn with_status(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    if headers.contains_key("grpc-status") {
        return response;
    }
    if response.status() != StatusCode::OK {
        let code = Code::from_i32(code_of_http(response.status().as_u16()));
        return Status::new(code, format!("HTTP status {}", response.status())).into_http();
    }
    // No call of the suite allows compressed answers. The library would report UNIMPLEMENTED, as if the service were
    // missing.
    match headers.get("grpc-encoding") {
        Some(encoding) if encoding != "identity" => {
            let text = format!("the answer is compressed as {encoding:?}, which no call allowed");
            Status::internal(text).into_http()
        }
        _ => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(response: Response<Body>) -> Option<Code> {
        Status::from_header_map(with_status(response).headers()).map(|status| status.code())
    }

    fn answer(status: u16, header: Option<(&str, &str)>) -> Response<Body> {
        let builder = header
            .into_iter()
            .fold(Response::builder().status(status), |builder, it| builder.header(it.0, it.1));
        builder.body(Body::default()).unwrap()
    }

    #[test]
    fn statuses_of_http_become_those_of_grpc() {
        for (status, expected) in
            [(404, Code::Unimplemented), (502, Code::Unavailable), (204, Code::Unknown)]
        {
            assert_eq!(code(answer(status, Some(("content-type", "text/html")))), Some(expected));
        }
        // A gRPC status counts more than that of HTTP, and an answer with messages keeps its trailers.
        assert_eq!(code(answer(404, Some(("grpc-status", "5")))), Some(Code::NotFound));
        assert_eq!(code(answer(200, None)), None);
        assert_eq!(code(answer(200, Some(("grpc-encoding", "identity")))), None);
        assert_eq!(code(answer(200, Some(("grpc-encoding", "gzip")))), Some(Code::Internal));
    }
}
