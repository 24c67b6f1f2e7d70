//! Connections that switch from HTTP/1.1 to HTTP/2: their bytes are carried in both directions.

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::content::{Body, bad_gateway};
use super::fault::AnswerFault;
use super::forward::forward;

/// Forwards a request that asks for another protocol. If the node agrees, what follows on the connection is carried.
pub(super) async fn answer(
    mut request: Request<Incoming>,
    target: u16,
    fault: Option<AnswerFault>,
) -> Response<Body> {
    let asked = hyper::upgrade::on(&mut request);
    let Some(mut response) = forward(request.map(BodyExt::boxed), target).await else {
        return bad_gateway();
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let switched = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let (Ok(caller), Ok(node)) = (asked.await, switched.await) else { return };
            if fault == Some(AnswerFault::BrokenUpgrade) {
                return;
            }
            // An error means that one end broke the connection off.
            let (mut caller, mut node) = (TokioIo::new(caller), TokioIo::new(node));
            let _ = tokio::io::copy_bidirectional(&mut caller, &mut node).await;
        });
    }
    response.map(BodyExt::boxed)
}
