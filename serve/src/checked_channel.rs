//! Calls to gRPC servers that are not trusted.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
use bytes::Bytes;
use futures_util::TryFutureExt as _;
use futures_util::future::BoxFuture;
use hawser_proto::code_of_http;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::Service;

/// The header with the details of a status.
const DETAILS: &str = "grpc-status-details-bin";
/// The header of a status that replaces an HTTP page.
const PAGE: &str = "hawser-http-status";
/// Base64 as the client of the gRPC library reads it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A channel to a server that is not trusted.
///
/// The client of the gRPC library panics at a status whose details are not Base64, and a panic ends the process. So
/// such details are removed from answers before it reads them. The library would also read a page of an HTTP server as
/// a message, and report INTERNAL. Such an answer gets the code for which its HTTP status stands: one of a server
/// without the method is UNIMPLEMENTED.
#[derive(Debug, Clone)]
pub struct CheckedChannel(Channel);

impl CheckedChannel {
    /// Returns true if a status replaces an HTTP page. A proxy whose server restarts sends such a page, too.
    #[must_use]
    pub fn is_page(status: &Status) -> bool {
        status.metadata().contains_key(PAGE)
    }
}

impl From<Channel> for CheckedChannel {
    fn from(channel: Channel) -> Self {
        Self(channel)
    }
}

impl Service<Request<Body>> for CheckedChannel {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, tonic::transport::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.call(request).map_ok(checked))
    }
}

fn checked(mut response: Response<Body>) -> Response<Body> {
    let status = response.status();
    if status != StatusCode::OK && !response.headers().contains_key("grpc-status") {
        let code = Code::from_i32(code_of_http(status.as_u16()));
        let text = format!("the answer has the HTTP status {status}");
        let mut answer = Status::new(code, text).into_http();
        answer.headers_mut().insert(PAGE, HeaderValue::from(status.as_u16()));
        return answer;
    }
    remove_malformed(response.headers_mut());
    response.map(|body| Body::new(CheckedBody(body)))
}

fn remove_malformed(headers: &mut HeaderMap) {
    let details = headers.get(DETAILS);
    if details.is_some_and(|details| BASE64.decode(details.as_bytes()).is_err()) {
        headers.remove(DETAILS);
    }
}

/// The body of an answer, whose trailers may have a status.
struct CheckedBody(Body);

impl HttpBody for CheckedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut frame = ready!(Pin::new(&mut self.0).poll_frame(context));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            remove_malformed(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    #[tokio::test]
    async fn malformed_details_are_removed_from_headers_and_trailers_and_others_are_kept() {
        for (details, is_kept) in [
            ("!", false),
            ("a", false),
            ("ab=cd", false),
            ("CAU", true),
            ("CAU=", true),
            ("", true),
        ] {
            let mut status = HeaderMap::new();
            status.insert("grpc-status", "14".parse().unwrap());
            status.insert(DETAILS, details.parse().unwrap());
            let frames =
                [Frame::data(Bytes::from_static(b"data")), Frame::trailers(status.clone())];
            let frames = stream::iter(frames.map(Ok::<_, Infallible>));
            let mut response = Response::new(Body::new(StreamBody::new(frames)));
            *response.headers_mut() = status;
            let response = checked(response);
            let headers = response.headers().clone();
            let read = response.into_body().collect().await.unwrap();
            let trailers = read.trailers().unwrap().clone();
            for headers in [headers, trailers] {
                assert_eq!(headers.contains_key(DETAILS), is_kept, "{details}");
                // The status that the library makes of these headers.
                assert_eq!(Status::from_header_map(&headers).unwrap().code(), Code::Unavailable);
            }
            assert_eq!(read.to_bytes(), b"data"[..]);
        }
    }

    /// A server or proxy without the method answers with a page, which is no message.
    #[test]
    fn a_page_of_an_http_server_gets_the_code_of_its_status() {
        let answer = |status: u16, grpc_status: Option<&'static str>| {
            let mut response = Response::new(Body::new("<html>none</html>".to_owned()));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if let Some(code) = grpc_status {
                response.headers_mut().insert("grpc-status", code.parse().unwrap());
            }
            let status = Status::from_header_map(checked(response).headers());
            status.map(|status| (status.code(), CheckedChannel::is_page(&status)))
        };
        assert_eq!(answer(404, None), Some((Code::Unimplemented, true)));
        assert_eq!(answer(502, None), Some((Code::Unavailable, true)));
        let own = Some((Code::NotFound, false));
        assert_eq!(answer(404, Some("5")), own, "the server's own code counts");
        assert_eq!(answer(200, Some("12")), Some((Code::Unimplemented, false)));
        assert_eq!(answer(200, None), None, "its status is in its trailers");
    }
}
