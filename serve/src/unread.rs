//! The rest of a request that is answered before its end.
//!
//! A refusal is often known when the head of a request is here. If nothing read the body then, some callers would not
//! see the answer. Over HTTP/1.1 many read it only when they have sent all of the request, and a connection that closes
//! before unread bytes is reset. Over HTTP/2 the library resets the stream behind the answer (RFC 9113 §8.1), and some
//! clients then show nothing.
//!
//! So the answer is given at once, and a task beside it reads the body on and drops the bytes, within bounds. A caller
//! may send bodies that never end. Each takes the memory of a call without a message, and is charged for it. It also
//! counts as one of the streams of its connection, whose number is bounded.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::EXPECT;
use http::{Request, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use crate::budget::ConnectionShare;
use crate::calls::CALL_BYTES;
use crate::charged_bytes::ChargedBytes;
use crate::kept_frames::KeptFrames;
use crate::settings::STREAM_WINDOW_BYTES;
use crate::task_threads;
use crate::unflushed::ArrivedHead;

/// Silence of a client after which the rest of its body is no longer waited for. A guess: one that is still sending
/// pauses for less, also if a packet is lost twice (RFC 6298 §5: it comes again after a second, and two more).
const SILENCE: Duration = Duration::from_secs(3);
/// Bytes of a body that are read behind its answer over HTTP/1.1. A guess: more than two of the largest messages.
const HTTP1_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a body that are read behind its answer over HTTP/2. A reset tells a client to send no more of a longer one.
/// A guess: what may be on its way when the answer is given, and as much again.
const HTTP2_BYTES_MAX: usize = 2 * STREAM_WINDOW_BYTES as usize;
/// Frames of a body that are read without a task. A guess: all of a usual request.
const FRAMES_AT_ONCE: usize = 16;

/// The body of a request. Comes back to its [`UnreadRest`] if it is dropped before its end.
pub(crate) struct WatchedBody<B> {
    /// `None` after the end.
    body: Option<B>,
    /// True while an HTTP/1.1 client waits to be asked for the body, and may never send it (RFC 9110 §10.1.1).
    waits: bool,
    dropped: Arc<Mutex<Option<B>>>,
    /// The frames of the connection, over HTTP/2.
    frames: Option<Arc<KeptFrames>>,
}

/// The part of a request's body that its answer leaves unread.
pub(crate) struct UnreadRest<B> {
    dropped: Arc<Mutex<Option<B>>>,
    bytes_max: usize,
}

/// Watches the body of a request until it is answered.
pub(crate) fn watch<B>(request: Request<B>) -> (Request<WatchedBody<B>>, UnreadRest<B>) {
    let is_http1 = request.version() < Version::HTTP_2;
    let waits = is_http1 && request.headers().contains_key(EXPECT);
    let bytes_max = if is_http1 { HTTP1_BYTES_MAX } else { HTTP2_BYTES_MAX };
    let dropped = Arc::new(Mutex::new(None));
    let share = request.extensions().get::<Arc<ConnectionShare>>().filter(|_| !is_http1);
    let frames = share.map(|share| share.writing.frames.clone());
    let rest = UnreadRest { dropped: dropped.clone(), bytes_max };
    (request.map(|body| WatchedBody { body: Some(body), waits, dropped, frames }), rest)
}

impl<B> UnreadRest<B>
where
    B: HttpBody<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    /// Reads on beside the answer, for `time_max` at most, if a part of the body is left and there is memory for it.
    pub(crate) fn read_on(self, head: &ArrivedHead, time_max: Duration) {
        let Self { dropped, bytes_max } = self;
        let left = dropped.lock().take().filter(|body| !body.is_end_stream());
        let Some(mut body) = left else { return };
        if ends_now(&mut body) {
            return; // as most do, also those of a flood: their refusals cost no task
        }
        let Some(share) = head.share().cloned() else { return };
        let Some(charged) = ChargedBytes::if_free(share.clone(), CALL_BYTES) else { return };
        let (stream, account) = (head.stays_open(), share.paid_time().clone());
        task_threads::spawn(&account, async move {
            tokio::select! {
                () = discard(&mut body, bytes_max) => {}
                () = sleep(time_max) => {}
                () = share.closed() => {}
            }
            drop((body, stream, charged));
        });
    }
}

/// Reads what has come of a body. Returns true at its end.
fn ends_now<B>(body: &mut B) -> bool
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    for _ in 0..FRAMES_AT_ONCE {
        match body.frame().now_or_never() {
            Some(Some(Ok(_))) => {}
            Some(Some(Err(_)) | None) => return true,
            None => return false,
        }
    }
    false
}

/// Reads a body until its end, a silence, or `bytes_max`.
async fn discard<B>(body: &mut B, bytes_max: usize)
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let mut discarded_bytes = 0;
    while discarded_bytes < bytes_max
        && let Ok(Some(Ok(frame))) = timeout(SILENCE, body.frame()).await
    {
        discarded_bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}

impl<B> Drop for WatchedBody<B> {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && !self.waits
        {
            *self.dropped.lock() = Some(body);
        }
    }
}

impl<B: HttpBody + Unpin> HttpBody for WatchedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.waits = false; // this asks for it
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        match &frame {
            Some(Ok(read)) => {
                if let Some(frames) = self.frames.as_ref().filter(|_| read.is_data()) {
                    frames.leave_unread();
                }
            }
            _ => self.body = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::Ipv4Addr;

    use super::*;
    use crate::budget::MemoryBudget;
    use crate::kept_frames::UnreadRequests;

    const PIECE_LEN_BYTES: usize = 1024 * 1024;

    /// A body of pieces of a MiB, which then ends or stays silent.
    struct Pieces {
        left: usize,
        has_end: bool,
        read: usize,
    }

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.left == 0 {
                return if self.has_end { Poll::Ready(None) } else { Poll::Pending };
            }
            (self.left, self.read) = (self.left - 1, self.read + 1);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![0; PIECE_LEN_BYTES])))))
        }
    }

    fn pieces(left: usize, has_end: bool) -> Pieces {
        Pieces { left, has_end, read: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_to_its_end_within_bounds() {
        for (mut body, read) in
            [(pieces(40, true), 40), (pieces(40, false), 40), (pieces(1000, true), 64)]
        {
            discard(&mut body, 64 * PIECE_LEN_BYTES).await;
            assert_eq!(body.read, read);
        }
    }

    #[test]
    fn a_request_that_has_come_is_read_without_a_task() {
        for (mut body, ends, read) in [
            (pieces(3, true), true, 3),
            (pieces(3, false), false, 3),
            (pieces(1000, true), false, FRAMES_AT_ONCE),
        ] {
            assert_eq!((ends_now(&mut body), body.read), (ends, read));
        }
    }

    /// A call reads its request while another one of its connection leaves frames unread for hours.
    #[tokio::test]
    async fn frames_that_a_call_has_read_are_not_unread() {
        const FRAMES: usize = 100;
        let budget = MemoryBudget::new(1 << 30);
        let address = Ipv4Addr::LOCALHOST.into();
        let connection = budget.connection(address, budget.account(None)).unwrap();
        let frames = connection.writing.frames.clone();
        let _other = UnreadRequests::begin(frames.clone());
        let mut request = Request::new(pieces(FRAMES, true));
        *request.version_mut() = Version::HTTP_2;
        request.extensions_mut().insert(connection.clone());
        let (mut request, _rest) = watch(request);
        for _ in 0..FRAMES {
            assert_eq!(frames.arrive(1), 0, "one at a time is free");
            assert!(request.body_mut().frame().await.is_some());
        }
        assert!(frames.arrive(FRAMES) > 0, "they are not all free together");
    }

    #[tokio::test]
    async fn what_is_unread_comes_back_unless_the_client_waits_to_be_asked_for_it() {
        let (http1, http2) = (Version::HTTP_11, Version::HTTP_2);
        for (version, expects, reads, comes_back) in [
            (http1, false, 0, true),
            (http1, false, 2, true),
            (http1, false, 3, false), // its end
            (http1, true, 0, false),
            (http1, true, 1, true),
            (http2, true, 0, true),
        ] {
            let mut request = Request::new(pieces(2, true));
            *request.version_mut() = version;
            if expects {
                request.headers_mut().insert(EXPECT, "100-continue".parse().unwrap());
            }
            let (mut request, rest) = watch(request);
            for _ in 0..reads {
                let _ = request.body_mut().frame().await;
            }
            assert!(rest.dropped.lock().is_none());
            drop(request);
            let is_back = rest.dropped.lock().is_some();
            assert_eq!(is_back, comes_back, "{version:?}, {expects}, {reads}");
        }
    }
}
