//! CORS headers for browsers. Every path gets them here, so that no proxy in front of the node has
//! to add them.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tonic::body::Body;

/// Allowed origins: all, since responses do not depend on the origin and credentials are never allowed.
const ORIGIN: HeaderValue = HeaderValue::from_static("*");
/// The headers that pages may read. Specified: those of the network's reference node.
const EXPOSED: &str = "grpc-status,grpc-message,grpc-status-details-bin";
/// Headers that only some responses have. Pages may read them if they are present. Without those of compression, a
/// library of gRPC-Web takes a compressed message for a plain one.
const EXPOSED_IF_THERE: [&str; 8] = [
    "hawser-oldest",
    "retry-after",
    "limit-reason",
    "published-envelopes",
    "failed-envelopes",
    "connect-content-encoding",
    "grpc-encoding",
    "grpc-accept-encoding",
];
/// Specified: `docs/protocol/api.md`, a day, as the network's reference node answers.
const AGE_S: HeaderValue = HeaderValue::from_static("86400");
const METHODS: HeaderValue = HeaderValue::from_static("GET,HEAD,POST,PUT,PATCH,DELETE");
/// Specified: the headers that the network's web clients send.
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Content-Type,Accept,Authorization,X-Client-Version,X-App-Version,Baggage,DNT,Sec-CH-UA,\
     Sec-CH-UA-Mobile,Sec-CH-UA-Platform,x-grpc-web,grpc-timeout,Sentry-Trace,User-Agent,\
     x-libxmtp-version,x-app-version",
);

/// The headers of [`HEADERS`], those of the Connect protocol, those of compressed messages, the name of a library of
/// gRPC-Web (gRPC-Web, User Agent), the header of a gateway's API key, and the point at which a push server resumes.
const MORE_HEADERS: HeaderValue = HeaderValue::from_static(
    "Content-Type,Accept,Authorization,X-Client-Version,X-App-Version,Baggage,DNT,Sec-CH-UA,\
     Sec-CH-UA-Mobile,Sec-CH-UA-Platform,x-grpc-web,grpc-timeout,Sentry-Trace,User-Agent,\
     x-libxmtp-version,x-app-version,Connect-Protocol-Version,Connect-Timeout-Ms,\
     Connect-Content-Encoding,Connect-Accept-Encoding,Content-Encoding,grpc-encoding,\
     grpc-accept-encoding,x-user-agent,x-api-key,hawser-resume",
);
/// The headers that only [`MORE_HEADERS`] has, besides those whose names begin with `connect-`.
const MORE: [&str; 6] = [
    "content-encoding",
    "grpc-encoding",
    "grpc-accept-encoding",
    "x-user-agent",
    "x-api-key",
    "hawser-resume",
];

/// Returns the headers of the answer to a published client's preflight, for tests that compare them.
#[must_use]
pub fn of_preflight() -> [(HeaderName, HeaderValue); 5] {
    [
        (ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN),
        (ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED)),
        (ACCESS_CONTROL_MAX_AGE, AGE_S),
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
    ]
}

/// Adds the headers that every response carries.
pub(crate) fn add_headers(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed(headers));
    headers.insert(ACCESS_CONTROL_MAX_AGE, AGE_S);
}

/// Returns the list of exposed headers for a response. Without a header of this node's own the list equals the
/// list of the reference node byte for byte.
fn exposed(headers: &HeaderMap) -> HeaderValue {
    // Most responses have two or three headers, and none of these: comparing them costs less than six searches.
    if !headers.keys().any(|name| EXPOSED_IF_THERE.contains(&name.as_str())) {
        return HeaderValue::from_static(EXPOSED);
    }
    let more = EXPOSED_IF_THERE.into_iter().filter(|name| headers.contains_key(*name));
    let list = more.fold(EXPOSED.to_owned(), |list, name| list + "," + name);
    HeaderValue::from_str(&list).expect("names of headers and commas")
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
        name.starts_with("connect-") || MORE.contains(&name.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_that_are_compared_are_those_that_are_sent() {
        let mut sent = preflight(&HeaderMap::new());
        add_headers(sent.headers_mut());
        let wanted: HeaderMap = of_preflight().into_iter().collect();
        assert_eq!(*sent.headers(), wanted);
    }

    #[test]
    fn pages_may_read_what_is_there_and_the_list_is_else_that_of_the_reference() {
        let of = |present: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for name in present {
                headers.insert(*name, HeaderValue::from_static("1"));
            }
            add_headers(&mut headers);
            headers[ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap().to_owned()
        };
        let always = "grpc-status,grpc-message,grpc-status-details-bin";
        assert_eq!(of(&[]), always);
        assert_eq!(of(&["content-type"]), always);
        assert_eq!(of(&["hawser-oldest"]), format!("{always},hawser-oldest"));
        let refused = format!("{always},retry-after,limit-reason");
        assert_eq!(of(&["limit-reason", "retry-after"]), refused);
        let packed = format!("{always},grpc-encoding");
        assert_eq!(of(&["grpc-encoding"]), packed, "its flag alone does not name the compression");
        let in_part = format!("{always},published-envelopes,failed-envelopes");
        assert_eq!(of(&["failed-envelopes", "published-envelopes"]), in_part);
    }

    /// Includes the headers of libraries of gRPC-Web and Connect, which the network's own client does not send.
    #[test]
    fn pages_may_send_each_header_that_the_documents_offer() {
        for name in MORE.into_iter().chain(["connect-protocol-version"]) {
            let asked = HeaderMap::from_iter([(
                ACCESS_CONTROL_REQUEST_HEADERS,
                HeaderValue::from_str(&format!("content-type, {name}")).unwrap(),
            )]);
            let allowed = preflight(&asked).headers()[ACCESS_CONTROL_ALLOW_HEADERS].clone();
            let allowed = allowed.to_str().unwrap().to_ascii_lowercase();
            assert!(allowed.split(',').any(|it| it == name), "{name}: {allowed}");
        }
    }
}
