//! Bodies of requests and answers.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};

/// A body that is carried or was made.
pub(super) type Body = BoxBody<Bytes, hyper::Error>;

/// Returns a body of these bytes.
pub(super) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// Returns the answer in place of one that the node did not give.
pub(super) fn bad_gateway() -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
