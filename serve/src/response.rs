//! The body of an answer on its way out: its messages and its status are counted as they pass.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::call_metrics::MethodMetrics;
use crate::frames::Frames;
use crate::method::MethodKind;

/// A call from its first byte to its status. If it is dropped before, the other end went away.
#[derive(Debug)]
pub(crate) struct Call {
    stats: &'static MethodMetrics,
    /// When it began, or when a stream sent its last message.
    since: Instant,
    ended: bool,
}

impl Call {
    pub(crate) fn start(stats: &'static MethodMetrics) -> Self {
        stats.started();
        Self { stats, since: Instant::now(), ended: false }
    }

    pub(crate) fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            if self.stats.method().kind() == MethodKind::Unary {
                self.stats.took(self.since.elapsed());
            }
            self.stats.ended(code);
        }
    }

    fn sent(&mut self, messages: u64) {
        self.stats.sent(messages);
        if messages > 0 && self.stats.method().kind() != MethodKind::Unary {
            self.stats.took(self.since.elapsed());
            self.since = Instant::now();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The status in headers or trailers, if there is one.
pub(crate) fn status_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(HeaderValue::as_bytes).map(Code::from_bytes)
}

pub(crate) struct ResponseBody {
    body: Body,
    frames: Frames,
    call: Call,
}

impl ResponseBody {
    pub(crate) fn new(body: Body, call: Call) -> Self {
        Self { body, frames: Frames::default(), call }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(piece) = frame.data_ref() {
                    // What this server sends is well formed.
                    let begun = self.frames.step(piece, usize::MAX).map_or(0, |step| step.begun);
                    self.call.sent(begun);
                } else if let Some(code) = frame.trailers_ref().and_then(status_of) {
                    self.call.end(code);
                }
            }
            Some(Err(status)) => self.call.end(status.code()),
            None => self.call.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
