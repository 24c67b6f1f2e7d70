//! What browsers want to hear. Answered here for every path, so that nothing in front of the node
//! needs to know.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tonic::body::Body;

/// Nothing is told apart by origin, and credentials are never allowed, so any origin may ask.
const ORIGIN: HeaderValue = HeaderValue::from_static("*");
const EXPOSED: HeaderValue =
    HeaderValue::from_static("grpc-status,grpc-message,grpc-status-details-bin");
const AGE_S: HeaderValue = HeaderValue::from_static("86400");
const METHODS: HeaderValue = HeaderValue::from_static("GET,HEAD,POST,PUT,PATCH,DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Content-Type,Accept,Authorization,X-Client-Version,X-App-Version,Baggage,DNT,Sec-CH-UA,\
     Sec-CH-UA-Mobile,Sec-CH-UA-Platform,x-grpc-web,grpc-timeout,Sentry-Trace,User-Agent,\
     x-libxmtp-version,x-app-version",
);

/// Adds what every answer carries.
pub(crate) fn mark(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.insert(ACCESS_CONTROL_MAX_AGE, AGE_S);
}

/// The answer to a browser that asks before it calls.
pub(crate) fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    response
}
