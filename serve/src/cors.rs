//! CORS headers for browsers. Every path gets them here, so that no proxy in front of the node has
//! to add them.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tonic::body::Body;

/// Responses do not depend on the origin and credentials are never allowed, so any origin may ask.
const ORIGIN: HeaderValue = HeaderValue::from_static("*");
const EXPOSED: HeaderValue =
    HeaderValue::from_static("grpc-status,grpc-message,grpc-status-details-bin");
/// Specified: `docs/protocol/api.md`, a day, as the network's reference node answers.
const AGE_S: HeaderValue = HeaderValue::from_static("86400");
const METHODS: HeaderValue = HeaderValue::from_static("GET,HEAD,POST,PUT,PATCH,DELETE");
/// Specified: the headers that the network's web clients send.
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Content-Type,Accept,Authorization,X-Client-Version,X-App-Version,Baggage,DNT,Sec-CH-UA,\
     Sec-CH-UA-Mobile,Sec-CH-UA-Platform,x-grpc-web,grpc-timeout,Sentry-Trace,User-Agent,\
     x-libxmtp-version,x-app-version",
);

/// Adds the headers that every response carries.
pub(crate) fn add_headers(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.insert(ACCESS_CONTROL_MAX_AGE, AGE_S);
}

/// Returns the response to a preflight request.
pub(crate) fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    response
}
