//! Pages on the callers' listener. Their content is signed, so any cache may store it.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;

use crate::budget::ConnectionShare;
use crate::call_share::CallCharge;
use crate::overloaded::OverloadedError;
use crate::pages::{Page, text};
use crate::request_head::head_bytes;

/// Charge of a request for a page in bytes: its task and the state of its stream. Equals the charge of a call, whose
/// body is read too.
const REQUEST_BYTES: usize = 12 * 1024;
/// Seconds after which a caller that exceeded its share may try again. As for calls.
const RETRY_AFTER_S: u64 = 1;

/// The future of a page. Its body may exceed the caller's memory if it is built piece by piece.
pub type PageFuture = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// The pages of a service for its callers. Only `GET` and `HEAD` requests reach them, and `POST` requests to pages that
/// accept a body.
pub trait PublicPages: fmt::Debug + Send + Sync + 'static {
    /// Returns the common prefix of the paths of all pages.
    fn prefix(&self) -> &'static str;

    /// Builds the page of a request. `head` is untrusted. The implementation charges the memory of the page, or of
    /// each piece, to `charge` before it allocates it. The listener drops the body of an answer to `HEAD`.
    fn show(&self, head: Parts, charge: CallCharge) -> PageFuture;

    /// Returns the longest accepted body of a `POST` to this path, in bytes. `None`, the default, if the page accepts
    /// no `POST`.
    fn len_bytes_max(&self, path: &str) -> Option<usize> {
        let _ = path;
        None
    }

    /// Answers a `POST`. `head` and `body` are untrusted; the body is already charged.
    fn take(&self, head: Parts, body: Bytes, charge: CallCharge) -> PageFuture {
        let _ = (head, body, charge);
        let refused = refusal(StatusCode::NOT_FOUND, None, "nothing is taken here");
        Box::pin(async { refused.map(Body::new) })
    }

    /// Counts an answer.
    fn answered(&self, status: StatusCode);
}

/// Answers one request with a page. A body that the caller sends is not read.
pub(crate) async fn answer<B>(pages: &Arc<dyn PublicPages>, request: Request<B>) -> Response<Body> {
    let (head, _) = request.into_parts();
    let is_head = head.method == Method::HEAD;
    let charge = charge_of(&head);
    let page = match take_for_head(&charge, &head) {
        Ok(()) => or_closed(&charge, pages.show(head, charge.clone())).await,
        Err(OverloadedError) => too_much(),
    };
    pages.answered(page.status());
    match is_head {
        true => without_body(page),
        false => page.map(|page| Body::new(PageBody { page, charge })),
    }
}

/// Returns the answer to `HEAD`: the head of the page, with the length that its body would have (RFC 9110 §9.3.2).
fn without_body(page: Response<Body>) -> Response<Body> {
    let len = page.body().size_hint().exact();
    let mut page = page.map(|_| Body::empty());
    if let Some(len) = len {
        page.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(len));
    }
    page
}

/// Answers one request with a body, after all of it has arrived. Refuses a body that is too long, too slow, or larger
/// than the caller's share of the memory.
pub(crate) async fn take<B>(
    pages: &Arc<dyn PublicPages>,
    request: Request<B>,
    len_bytes_max: usize,
    body_timeout: Duration,
) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let (head, body) = request.into_parts();
    let charge = charge_of(&head);
    let page = or_closed(&charge, async {
        match read(&head, body, len_bytes_max, body_timeout, &charge).await {
            Ok(body) => pages.take(head, body, charge.clone()).await,
            Err(error) => error.into_page(),
        }
    });
    let page = page.await;
    pages.answered(page.status());
    page.map(|page| Body::new(PageBody { page, charge }))
}

/// The reason for which a body was not read to its end.
#[derive(Debug, Clone, Copy)]
enum BodyError {
    Overloaded,
    TooLong,
    Late,
    Broken,
}

impl BodyError {
    fn into_page(self) -> Response<Body> {
        let (status, reason) = match self {
            Self::Overloaded => return too_much(),
            Self::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"),
            Self::Late => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
            Self::Broken => (StatusCode::BAD_REQUEST, "the body broke off"),
        };
        refusal(status, None, reason).map(Body::new)
    }
}

impl From<OverloadedError> for BodyError {
    fn from(OverloadedError: OverloadedError) -> Self {
        Self::Overloaded
    }
}

/// Reads a body to its end. Each piece is charged before it is kept.
async fn read<B>(
    head: &Parts,
    mut body: B,
    len_bytes_max: usize,
    body_timeout: Duration,
    charge: &CallCharge,
) -> Result<Bytes, BodyError>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    take_for_head(charge, head)?;
    let whole = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| BodyError::Broken)?;
            let Ok(piece) = frame.into_data() else { continue };
            if bytes.len() + piece.len() > len_bytes_max {
                return Err(BodyError::TooLong);
            }
            charge.take_for_request(piece.len())?;
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    };
    timeout(body_timeout, whole).await.map_err(|_| BodyError::Late)?
}

fn charge_of(head: &Parts) -> CallCharge {
    CallCharge::new(ConnectionShare::of(&head.extensions).clone())
}

fn take_for_head(charge: &CallCharge, head: &Parts) -> Result<(), OverloadedError> {
    charge.take_for_call(REQUEST_BYTES + head_bytes(&head.uri, &head.headers))
}

/// Waits for a page. If the connection must free memory for other callers, returns a refusal instead.
async fn or_closed(
    charge: &CallCharge,
    page: impl Future<Output = Response<Body>>,
) -> Response<Body> {
    let connection = charge.connection().clone();
    tokio::select! {
        biased;
        page = page => page,
        () = connection.closed() => too_much(),
    }
}

fn too_much() -> Response<Body> {
    let reason = OverloadedError.to_string();
    refusal(StatusCode::TOO_MANY_REQUESTS, Some(RETRY_AFTER_S), &reason).map(Body::new)
}

/// Returns the page of a refusal with its reason. Caches do not store it.
#[must_use]
pub fn refusal(status: StatusCode, retry_after_s: Option<u64>, reason: &str) -> Page {
    let mut page = text(status, format!("{reason}\n"));
    page.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = retry_after_s {
        page.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    page
}

/// Returns a page of octets that is built piece by piece. The connection is broken off after a piece that fails, or
/// if the pieces have another length than `len_bytes` together.
#[must_use]
pub fn pieces<S>(len_bytes: u64, pieces: S) -> Response<Body>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let frames = pieces.map(|piece| piece.map(Frame::data));
    let mut page = Response::new(Body::new(StreamBody::new(frames)));
    let headers = page.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(len_bytes));
    page
}

/// A page that is charged until the connection has taken all of it. From then on the connection charges its pieces.
struct PageBody {
    page: Body,
    charge: CallCharge,
}

impl HttpBody for PageBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.page).poll_frame(cx));
        if frame.is_none() || self.page.is_end_stream() {
            self.charge.clear();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.page.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.page.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::budget::MemoryBudget;

    const LEN_BYTES_MAX: usize = 1000;

    /// Reads a body that arrives in pieces of 100 bytes. Unless it is `whole`, no further piece and no end arrive.
    async fn read_pieces(
        count: usize,
        whole: bool,
        budget: &MemoryBudget,
    ) -> Result<Bytes, BodyError> {
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let charge = CallCharge::new(budget.connection(address, budget.account(None)).unwrap());
        let piece = |_| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(vec![7; 100])));
        let pieces = futures_util::stream::iter((0..count).map(piece));
        let silence = futures_util::stream::pending();
        let (head, ()) = Request::new(()).into_parts();
        let timeout = Duration::from_secs(30);
        if whole {
            return read(&head, StreamBody::new(pieces), LEN_BYTES_MAX, timeout, &charge).await;
        }
        let body = futures_util::StreamExt::chain(pieces, silence);
        read(&head, StreamBody::new(body), LEN_BYTES_MAX, timeout, &charge).await
    }

    #[tokio::test]
    async fn an_answer_to_head_states_the_length_and_has_no_body() {
        let page = Response::new(Body::new(Full::new(Bytes::from_static(b"page"))));
        let page = without_body(page);
        assert_eq!(page.headers()[CONTENT_LENGTH], "4");
        assert!(page.into_body().is_end_stream());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_bounded_in_length_and_time_and_given_back() {
        let budget = MemoryBudget::new(16 * 1024 * 1024);
        assert_eq!(read_pieces(10, true, &budget).await.unwrap(), [7; 1000][..]);
        let long = read_pieces(11, false, &budget).await;
        assert!(matches!(long, Err(BodyError::TooLong)), "{long:?}");
        let late = read_pieces(3, false, &budget).await;
        assert!(matches!(late, Err(BodyError::Late)), "{late:?}");
        assert_eq!(budget.used_bytes(), 0, "given back");
    }
}
