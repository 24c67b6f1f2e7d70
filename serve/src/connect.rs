//! The Connect protocol: recognised, and refused in its own form, so that its clients show the
//! reason.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use tonic::body::Body;

const REFUSAL: &str = r#"{"code":"failed_precondition","message":"Connect-RPC protocol not supported, use gRPC or gRPC-Web"}"#;
/// Flag of the last message of a stream (Connect protocol, enveloped messages).
const END_OF_STREAM: u8 = 0b10;

/// Returns the refusal of a unary call: an HTTP error with JSON.
pub(crate) fn refuse_unary() -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from_static(REFUSAL.as_bytes()))));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns the refusal of a streaming call: a response whose only message ends the stream.
pub(crate) fn refuse_stream(content_type: HeaderValue) -> Response<Body> {
    let end = format!(r#"{{"error":{REFUSAL}}}"#);
    let mut message = BytesMut::with_capacity(5 + end.len());
    message.put_u8(END_OF_STREAM);
    message
        .put_u32(u32::try_from(end.len()).expect("the refusal is a constant of about 100 bytes"));
    message.put_slice(end.as_bytes());
    let mut response = Response::new(Body::new(Full::new(message.freeze())));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
