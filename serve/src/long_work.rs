//! Work that grows with the length of a message, on threads that may block.
//!
//! The runtime has few threads. A request of megabytes that is decoded on one of them, or an answer that is encoded
//! there, keeps all other calls of that thread waiting.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tracing::Span;

/// The longest message that the runtime's threads scan and decode, bytes. A guess: some hundred usual envelopes, or a
/// millisecond at worst, and moving the work costs some ten microseconds.
const AT_ONCE_LEN_BYTES_MAX: usize = 64 * 1024;
/// The least charge of a unary answer that is encoded beside the runtime's threads, bytes. A guess: encoding it is a
/// copy, which takes a millisecond or two.
pub(crate) const LONG_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Threads that work on long messages concurrently; other work waits for a permit, in order. A guess: enough blocking
/// threads stay free for disk reads, and the runtime's threads get their part of two cores.
const WORKERS: u32 = 4;
static FREE_WORKERS: Semaphore = Semaphore::const_new(WORKERS as usize);

/// Returns true for messages that the runtime's threads must not scan or decode.
pub(crate) fn is_long(len_bytes: usize) -> bool {
    len_bytes > AT_ONCE_LEN_BYTES_MAX
}

/// Runs `work` on a thread that may block, when one of them is free. `held` is dropped after the work. Work that has
/// begun is finished, even if this future is dropped before.
///
/// # Errors
/// INTERNAL if the work has panicked, or the runtime stops.
pub(crate) async fn beside<T: Send + 'static>(
    held: impl Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let failed = || Status::internal("the work on a long message failed");
    let worker = FREE_WORKERS.acquire().await.map_err(|_| failed())?;
    let work = move || {
        let done = work();
        drop((held, worker));
        done
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| failed())
}

/// Runs the first part of `call`, up to its first wait, as [`beside`] does, and the rest on the threads of the caller.
/// A service decodes a request that is here in this part.
///
/// # Errors
/// Those of [`beside`].
pub(crate) async fn begin_beside<F>(call: F) -> Result<F::Output, Status>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let mut call: Pin<Box<F>> = Box::pin(call);
    let span = Span::current();
    let begin = move || {
        // Whatever wakes the call meanwhile is seen when it is polled again below.
        let mut context = Context::from_waker(Waker::noop());
        let begun = span.in_scope(|| call.as_mut().poll(&mut context));
        (call, begun)
    };
    match beside((), begin).await? {
        (_, Poll::Ready(answer)) => Ok(answer),
        (call, Poll::Pending) => Ok(call.await),
    }
}

/// Encodes the first frame of an answer as [`beside`] does. It is the message of a unary answer, and does not wait.
///
/// # Errors
/// Those of [`beside`].
pub(crate) async fn encode_beside(answer: Response<Body>) -> Result<Response<Body>, Status> {
    let (head, mut body) = answer.into_parts();
    let encoding = async move {
        let first = body.frame().await;
        (first, body)
    };
    let (first, rest) = begin_beside(encoding).await?;
    Ok(Response::from_parts(head, Body::new(EncodedBody { first, rest })))
}

/// The body of an answer whose first frame is encoded.
struct EncodedBody {
    first: Option<Result<Frame<Bytes>, Status>>,
    rest: Body,
}

impl HttpBody for EncodedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}

/// Occupies all workers, so that long work waits until the returned value is dropped.
#[cfg(test)]
pub(crate) async fn occupy_workers() -> tokio::sync::SemaphorePermit<'static> {
    FREE_WORKERS.acquire_many(WORKERS).await.expect("it is never closed")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    /// The test's runtime has one thread.
    #[tokio::test]
    async fn a_call_begins_beside_the_runtimes_threads_and_goes_on_there() {
        let call = async {
            let first = thread::current().id();
            tokio::task::yield_now().await;
            (first, thread::current().id())
        };
        let (first, last) = begin_beside(call).await.unwrap();
        let own = thread::current().id();
        assert!(first != own, "it begins on another thread");
        assert_eq!(last, own);
    }

    #[tokio::test]
    async fn what_work_holds_is_given_back_when_nobody_waits_for_it_any_more() {
        let held = Arc::new(());
        let occupied = occupy_workers().await;
        let mut waiting = Box::pin(beside(held.clone(), || ()));
        assert!(futures_util::FutureExt::now_or_never(&mut waiting).is_none());
        drop(waiting);
        assert_eq!(Arc::strong_count(&held), 1, "it had not begun");
        drop(occupied);
        beside(held.clone(), || ()).await.unwrap();
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
