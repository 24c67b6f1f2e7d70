//! Pages for callers, on the listener of calls: what is signed, and any cache may hold.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;

use crate::budget::ConnectionShare;
use crate::call_share::CallCharge;
use crate::overloaded::Overloaded;
use crate::pages::{Page, text};

/// Charge of a request for a page: its task and the state of its stream. That of a call, whose body is read too.
const REQUEST_BYTES: usize = 12 * 1024;
/// Charge of a header besides its name and value. As for calls.
const HEADER_BYTES: usize = 128;
/// Seconds after which a caller that asks for too much at once may try again. As for calls.
const RETRY_AFTER_S: u64 = 1;

/// A page on its way.
pub type ComingPage = Pin<Box<dyn Future<Output = Page> + Send>>;

/// The pages of a service for its callers. Only `GET` reaches them.
pub trait PublicPages: fmt::Debug + Send + Sync + 'static {
    /// Returns the beginning of the paths of all pages.
    fn prefix(&self) -> &'static str;

    /// Makes the page that a request asks for. `head` is from outside; the memory of the page is taken from `charge`
    /// before it is made.
    fn show(&self, head: Parts, charge: CallCharge) -> ComingPage;

    /// Counts an answer.
    fn answered(&self, status: StatusCode);
}

/// Answers one request with a page. A body that the caller sends is not read.
pub(crate) async fn answer<B>(pages: &Arc<dyn PublicPages>, request: Request<B>) -> Response<Body> {
    let (head, _) = request.into_parts();
    let share = head.extensions.get::<Arc<ConnectionShare>>();
    let charge = CallCharge::new(share.expect("every request has a connection").clone());
    let lengths =
        head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES);
    let len = REQUEST_BYTES + head.uri.path().len() + lengths.sum::<usize>();
    let page = match charge.take_for_call(len) {
        Ok(()) => {
            let connection = charge.connection().clone();
            tokio::select! {
                biased;
                page = pages.show(head, charge.clone()) => page,
                () = connection.closed() => too_much(),
            }
        }
        Err(Overloaded) => too_much(),
    };
    pages.answered(page.status());
    page.map(|page| Body::new(PageBody { page, charge }))
}

fn too_much() -> Page {
    refusal(StatusCode::TOO_MANY_REQUESTS, Some(RETRY_AFTER_S), &Overloaded.to_string())
}

/// Returns a page that says why there is none. No cache keeps it.
#[must_use]
pub fn refusal(status: StatusCode, retry_after_s: Option<u64>, reason: &str) -> Page {
    let mut page = text(status, format!("{reason}\n"));
    page.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = retry_after_s {
        page.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    page
}

/// A page that is charged until the connection takes it, which charges it from then on.
struct PageBody {
    page: Full<Bytes>,
    charge: CallCharge,
}

impl HttpBody for PageBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.page).poll_frame(cx));
        self.charge.clear();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.page.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.page.size_hint()
    }
}
