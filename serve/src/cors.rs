//! CORS headers for browsers. Every path gets them here, so that no proxy in front of the node has
//! to add them.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tonic::body::Body;

/// Responses do not depend on the origin and credentials are never allowed, so any origin may ask.
const ORIGIN: HeaderValue = HeaderValue::from_static("*");
const EXPOSED: HeaderValue =
    HeaderValue::from_static("grpc-status,grpc-message,grpc-status-details-bin,hawser-oldest");
/// Specified: `docs/protocol/api.md`, a day, as the network's reference node answers.
const AGE_S: HeaderValue = HeaderValue::from_static("86400");
const METHODS: HeaderValue = HeaderValue::from_static("GET,HEAD,POST,PUT,PATCH,DELETE");
/// Specified: the headers that the network's web clients send.
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Content-Type,Accept,Authorization,X-Client-Version,X-App-Version,Baggage,DNT,Sec-CH-UA,\
     Sec-CH-UA-Mobile,Sec-CH-UA-Platform,x-grpc-web,grpc-timeout,Sentry-Trace,User-Agent,\
     x-libxmtp-version,x-app-version",
);

/// The same, the headers of the Connect protocol, and the one that carries an API key of a gateway.
const MORE_HEADERS: HeaderValue = HeaderValue::from_static(
    "Content-Type,Accept,Authorization,X-Client-Version,X-App-Version,Baggage,DNT,Sec-CH-UA,\
     Sec-CH-UA-Mobile,Sec-CH-UA-Platform,x-grpc-web,grpc-timeout,Sentry-Trace,User-Agent,\
     x-libxmtp-version,x-app-version,Connect-Protocol-Version,Connect-Timeout-Ms,\
     Connect-Content-Encoding,Connect-Accept-Encoding,x-api-key",
);

/// Adds the headers that every response carries.
pub(crate) fn add_headers(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.insert(ACCESS_CONTROL_MAX_AGE, AGE_S);
}

/// Returns the response to a preflight request with these headers.
pub(crate) fn preflight(asked: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    // The network's own clients get the answer of the reference node, byte by byte.
    let headers = if asks_for_more(asked) { MORE_HEADERS } else { HEADERS };
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_HEADERS, headers);
    response
}

fn asks_for_more(asked: &HeaderMap) -> bool {
    let lists = asked.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let mut names = lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(','));
    names.any(|name| {
        let name = name.trim().to_ascii_lowercase();
        name.starts_with("connect-") || name == "x-api-key"
    })
}
