//! The body of an answer that is there before it is sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;

use crate::budget::ConnectionShare;
use crate::charged_bytes::ChargedBytes;

/// The message of a unary answer, or an error, charged until the connection takes it. A connection over HTTP/1.1 takes
/// nothing of a body while the heads of earlier answers wait for its client, and one over HTTP/2 while the window of
/// the stream is empty.
pub(super) struct WholeBody {
    /// `None` once the connection has it, or if it is empty.
    message: Option<Bytes>,
    held: ChargedBytes,
}

impl WholeBody {
    /// Creates a body of this message. `held` becomes its charge.
    pub(super) fn new(message: Bytes, mut held: ChargedBytes) -> Self {
        held.set(message.len());
        Self { message: Some(message).filter(|message| !message.is_empty()), held }
    }
}

impl HttpBody for WholeBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.held.set(0); // the connection charges what it has taken
        Poll::Ready(self.message.take().map(|message| Ok(Frame::data(message))))
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.message.as_ref().map_or(0, |message| message.len() as u64))
    }
}

/// Returns an answer that is a line of text, for people who try a port by hand.
pub(crate) fn line(
    status: StatusCode,
    text: &'static str,
    share: Arc<ConnectionShare>,
) -> Response<Body> {
    let body = WholeBody::new(Bytes::from_static(text.as_bytes()), ChargedBytes::new(share));
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
