//! The operators' port: pages over plain HTTP/1.1, beside the listener of calls.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use http::header::{ALLOW, CONTENT_TYPE, VARY};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::connection_slots::ConnectionSlot;
use crate::metrics_format::MetricsFormat;
use crate::operator_places::{self, OperatorPlaces};
use crate::readiness::{Condition, Purpose, ReadyPurposes};

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Time to send the head of a request. A guess: probes send it at once.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections to the operators' port that may be open at once. Each costs a descriptor.
pub const CONNECTIONS_MAX: usize = operator_places::ALL_MAX;
/// Time after which a connection takes no further request. Without it, callers that do not read their pages would keep
/// their connections. A guess: scrapers connect again, and a connection without a request ends after 10 s.
const CONNECTION_MAX: Duration = Duration::from_secs(60);
/// Time for the last page of such a connection. A guess: longer than scrapers wait.
const LAST_PAGE_MAX: Duration = Duration::from_secs(30);
/// Pages that are made at once; more wait, also those of callers that have hung up. A guess: far fewer than the threads
/// that may block, which the node's own work needs as well.
const PAGES_AT_ONCE: usize = 8;
/// Pause after a failed accept. A guess: long enough that a lack of descriptors does not spin a core, short enough for
/// probes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A response of the operators' port.
pub type Page = Response<Full<Bytes>>;

/// Renders the pages of a service. Called on a thread that may block.
pub trait Pages: Send + Sync + 'static {
    /// Returns the page at `path`; `query` is empty if the request has none.
    fn show(&self, path: &str, query: &str) -> Page;

    /// Returns true if the page at `path` takes neither the disk nor a lock. Such a page waits for no other one. By
    /// default only the sign of life does.
    fn is_light(&self, path: &str) -> bool {
        path == "/livez"
    }
}

/// The pages of a port, and the room for making them.
struct PagesAtOnce {
    pages: Arc<dyn Pages>,
    room: Arc<Semaphore>,
}

impl PagesAtOnce {
    fn new(pages: Arc<dyn Pages>) -> Arc<Self> {
        Arc::new(Self { pages, room: Arc::new(Semaphore::new(PAGES_AT_ONCE)) })
    }
}

/// Serves `pages` at `address` until `stop`. Returns the bound address and the listener's task.
///
/// # Errors
/// The system's error if the address cannot be bound.
pub async fn bind(
    pages: Arc<dyn Pages>,
    address: SocketAddr,
    stop: CancellationToken,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    serve(pages, TcpListener::bind(address).await?, stop)
}

/// Serves `pages` at a bound address until `stop`. Returns the address and the listener's task. Must be called within a
/// tokio runtime.
///
/// # Errors
/// The system's error if the listener has no address.
pub fn serve(
    pages: Arc<dyn Pages>,
    listener: TcpListener,
    stop: CancellationToken,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let address = listener.local_addr()?;
    Ok((address, tokio::spawn(accept(PagesAtOnce::new(pages), listener, stop))))
}

async fn accept(pages: Arc<PagesAtOnce>, listener: TcpListener, stop: CancellationToken) {
    let (places, mut open) = (OperatorPlaces::new(), JoinSet::new());
    loop {
        tokio::select! {
            biased; // ended connections first: callers that dial without end would let them pile up
            () = stop.cancelled() => return,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = listener.accept() => match accepted {
                // A connection without a place is closed and does not wait: probes would have to wait behind it.
                Ok((stream, caller)) => if let Ok(place) = places.take(caller.ip()) {
                    open.spawn(hold(place, converse(pages.clone(), stream)));
                },
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// Serves a connection until another address gets its place.
async fn hold(place: ConnectionSlot, served: impl Future<Output = ()>) {
    tokio::select! {
        () = place.ended() => tracing::debug!("a connection to the operators' port made room for another address"),
        () = served => {}
    }
}

/// Serves one connection, for [`CONNECTION_MAX`] and its last page.
async fn converse<T>(pages: Arc<PagesAtOnce>, stream: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(sent(answer(&pages, request).await)) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut served = timeout(CONNECTION_MAX, connection.as_mut()).await;
    if served.is_err() {
        connection.as_mut().graceful_shutdown();
        served = timeout(LAST_PAGE_MAX, connection).await;
    }
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the operators' port broke"),
        Err(_) => tracing::debug!("a caller of the operators' port has not read its page"),
    }
}

async fn answer<B>(pages: &PagesAtOnce, request: Request<B>) -> Page {
    let (head, _) = request.into_parts();
    if !matches!(head.method, Method::GET | Method::HEAD) {
        let mut page = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD"));
        return page;
    }
    let (shown, format) = (pages.pages.clone(), MetricsFormat::of(&head.headers));
    // Work that has begun goes on when its caller hangs up, so the place belongs to the work.
    let place = match shown.is_light(head.uri.path()) {
        true => None,
        false => pages.room.clone().acquire_owned().await.ok(),
    };
    // Pages read the disk, and rendering metrics takes long: either would block the tasks of this thread.
    let made = tokio::task::spawn_blocking(move || {
        let query = head.uri.query().unwrap_or_default();
        let page = in_format(shown.show(head.uri.path(), query), format);
        drop(place);
        page
    });
    made.await.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "interrupted\n"))
}

/// Extension that marks a page of metrics, so that it is rendered in the format that the scraper asks for.
#[derive(Clone, Copy)]
struct IsMetrics;

/// Returns a page of metrics. `text` is in the OpenMetrics format; the scraper gets the format that it asks for.
#[must_use]
pub fn open_metrics(text: String) -> Page {
    let kind = HeaderValue::from_static(MetricsFormat::OpenMetrics.content_type());
    let mut page = page(StatusCode::OK, kind, text);
    page.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    page.extensions_mut().insert(IsMetrics);
    page
}

/// Renders a page of metrics in a format; other pages stay as they are.
fn in_format(mut page: Page, format: MetricsFormat) -> Page {
    if page.extensions_mut().remove::<IsMetrics>().is_none() {
        return page;
    }
    let kind = HeaderValue::from_static(format.content_type());
    page.headers_mut().insert(CONTENT_TYPE, kind);
    if format != MetricsFormat::Text {
        return page;
    }
    let (head, body) = page.into_parts();
    let Some(Ok(body)) = body.collect().now_or_never() else {
        unreachable!("the body of a page is whole");
    };
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Response::from_parts(head, Full::new(format.from_open_metrics(text).into()))
}

/// The pieces of a long page.
type PagePieces = Box<dyn Iterator<Item = Bytes> + Send>;

/// Extension with the pieces of a long page, taken when it is sent.
#[derive(Clone)]
struct InPieces(Arc<Mutex<Option<PagePieces>>>);

/// Returns a table as a page (RFC 4180). Each piece is made when the caller has read those before, by a thread that
/// serves connections: it has to be short. None is empty.
#[must_use]
pub fn csv(pieces: impl Iterator<Item = String> + Send + 'static) -> Page {
    let kind = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
    let mut page = page(StatusCode::OK, kind, Bytes::new());
    let pieces: PagePieces = Box::new(pieces.map(Bytes::from));
    page.extensions_mut().insert(InPieces(Arc::new(Mutex::new(Some(pieces)))));
    page
}

/// Returns a page with its body as it is sent: at once, or in pieces.
fn sent(mut page: Page) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let pieces = page.extensions_mut().remove::<InPieces>().and_then(|it| it.0.lock().take());
    page.map(|whole| match pieces {
        None => whole.boxed_unsync(),
        Some(pieces) => {
            let frames = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
            StreamBody::new(stream::iter(frames)).boxed_unsync()
        }
    })
}

/// Returns a page with `value` as indented JSON.
#[must_use]
pub fn json(status: StatusCode, value: &impl Serialize) -> Page {
    let mut text = serde_json::to_string_pretty(value)
        .expect("reports have string keys and no fallible fields");
    text.push('\n');
    page(status, JSON, text)
}

/// Returns a page of plain text.
#[must_use]
pub fn plain(status: StatusCode, text: &'static str) -> Page {
    page(status, PLAIN, text)
}

/// Returns a page of plain text that was built at run time.
#[must_use]
pub fn text(status: StatusCode, text: String) -> Page {
    page(status, PLAIN, text)
}

/// Returns the value of a parameter of a query, as it is written; `None` if the query does not have it.
#[must_use]
pub fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// The body of the readiness pages, such as `/readyz`.
#[derive(Serialize)]
struct ReadinessPage {
    ready: bool,
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    purpose: Option<Purpose>,
    conditions: Vec<Condition>,
}

/// Returns the conditions for `purpose`, or all of them without one: 200 if all are met, 503 if not.
#[must_use]
pub fn readiness(mut conditions: Vec<Condition>, purpose: Option<Purpose>) -> Page {
    if let Some(purpose) = purpose {
        conditions.retain(|condition| condition.purpose <= Some(purpose));
    }
    let ready = conditions.iter().all(|condition| condition.met);
    readiness_page(ready, purpose, conditions)
}

/// Returns all conditions, also those that `purpose` does not need: 200 if those that it needs are met, 503 if not.
#[must_use]
pub fn readiness_with_all(conditions: Vec<Condition>, purpose: Purpose) -> Page {
    let ready = ReadyPurposes::of(&conditions).contains(purpose);
    readiness_page(ready, Some(purpose), conditions)
}

fn readiness_page(ready: bool, purpose: Option<Purpose>, conditions: Vec<Condition>) -> Page {
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &ReadinessPage { ready, purpose, conditions })
}

fn page(status: StatusCode, content_type: HeaderValue, text: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(text.into()));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, content_type);
    page
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Pages that wait, as they do for a disk that does not answer, until the sender is dropped.
    struct Waiting {
        begun: AtomicUsize,
        end: Mutex<Receiver<()>>,
    }

    impl Pages for Waiting {
        fn show(&self, path: &str, _: &str) -> Page {
            self.begun.fetch_add(1, Ordering::Relaxed);
            if path != "/livez" {
                let _ = self.end.lock().recv();
            }
            text(StatusCode::OK, "long ".repeat(100_000))
        }
    }

    fn waiting() -> (Arc<Waiting>, Sender<()>) {
        let (sender, end) = channel();
        (Arc::new(Waiting { begun: AtomicUsize::new(0), end: Mutex::new(end) }), sender)
    }

    fn request(path: &str) -> Request<()> {
        Request::get(path).body(()).unwrap()
    }

    /// Each would take a thread that replication and commits need, for as long as the disk does not answer.
    #[tokio::test]
    async fn callers_that_hang_up_take_few_threads_and_leave_the_sign_of_life() {
        let (waiting, disk) = waiting();
        let pages = PagesAtOnce::new(waiting.clone());
        for _ in 0..20 * PAGES_AT_ONCE {
            assert!(answer(&pages, request("/status")).now_or_never().is_none());
        }
        assert_eq!(answer(&pages, request("/livez")).await.status(), StatusCode::OK);
        drop(disk);
        assert_eq!(answer(&pages, request("/status")).await.status(), StatusCode::OK);
        // The requests that had a place, the sign of life, and the last one, which has waited for a place.
        assert!(waiting.begun.load(Ordering::Relaxed) <= PAGES_AT_ONCE + 2);
    }

    /// Pages only show, but a page that is made takes a thread and the disk.
    #[tokio::test]
    async fn only_get_and_head_make_a_page() {
        let (waiting, disk) = waiting();
        drop(disk);
        let pages = PagesAtOnce::new(waiting.clone());
        let request =
            |method: Method| Request::builder().method(method).uri("/status").body(()).unwrap();
        let others = [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS];
        for method in others {
            let page = answer(&pages, request(method.clone())).await;
            assert_eq!(page.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
            assert_eq!(page.headers()[ALLOW], "GET,HEAD", "{method}");
        }
        assert_eq!(waiting.begun.load(Ordering::Relaxed), 0, "no page was made");
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(answer(&pages, request(method)).await.status(), StatusCode::OK);
        }
        assert_eq!(waiting.begun.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_does_not_read_its_page_keeps_no_connection() {
        let (waiting, disk) = waiting();
        drop(disk);
        let (mut client, server) = tokio::io::duplex(256);
        client.write_all(b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let served = converse(PagesAtOnce::new(waiting.clone()), server);
        let ended = timeout(10 * (CONNECTION_MAX + LAST_PAGE_MAX), served).await;
        assert!(ended.is_ok(), "it is still open");
        assert_eq!(waiting.begun.load(Ordering::Relaxed), 1);
        drop(client);
    }

    /// Tables without an end, whose pieces are counted.
    struct Endless(Arc<AtomicUsize>);

    impl Pages for Endless {
        fn show(&self, _: &str, _: &str) -> Page {
            let made = self.0.clone();
            csv(std::iter::from_fn(move || {
                made.fetch_add(1, Ordering::Relaxed);
                Some("row\r\n".repeat(10_000))
            }))
        }
    }

    /// Whole tables would take gigabytes for some callers that do not read theirs.
    #[tokio::test(start_paused = true)]
    async fn a_table_is_made_as_its_caller_reads_it() {
        let made = Arc::new(AtomicUsize::new(0));
        let (mut client, server) = tokio::io::duplex(256);
        client.write_all(b"GET /usage.csv HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let reading = async {
            let mut begin = vec![0; 200_000];
            client.read_exact(&mut begin).await.unwrap();
            assert!(begin.starts_with(b"HTTP/1.1 200 OK\r\n"));
        };
        let pages = PagesAtOnce::new(Arc::new(Endless(made.clone())));
        let (read, ()) =
            tokio::join!(timeout(CONNECTION_MAX / 2, reading), converse(pages, server));
        read.unwrap();
        let made = made.load(Ordering::Relaxed);
        assert!((4..100).contains(&made), "{made} pieces of 50,000 bytes");
        drop(client);
    }
}
