//! The operators' port: pages over plain HTTP/1.1, beside the listener of calls.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{ALLOW, CONTENT_TYPE, VARY};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::metrics_format::MetricsFormat;
use crate::readiness::{Condition, Purpose};

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Time to send the head of a request. A guess: probes send it at once.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections to the operators' port that may be open at once; more wait. A guess: probes and scrapers
/// need a few, and each costs a descriptor.
pub const CONNECTIONS_MAX: usize = 32;
/// Pause after a failed accept. A guess: long enough that a lack of descriptors does not spin a core, short enough for
/// probes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A response of the operators' port.
pub type Page = Response<Full<Bytes>>;

/// Renders the pages of a service. Called on a thread that may block.
pub trait Pages: Send + Sync + 'static {
    /// Returns the page at `path`; `query` is empty if the request has none.
    fn show(&self, path: &str, query: &str) -> Page;
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
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((address, tokio::spawn(accept(pages, listener, stop))))
}

async fn accept(pages: Arc<dyn Pages>, listener: TcpListener, stop: CancellationToken) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept(), if open.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => { open.spawn(converse(pages.clone(), stream)); }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = open.join_next(), if !open.is_empty() => {}
        }
    }
}

async fn converse(pages: Arc<dyn Pages>, stream: TcpStream) {
    let service = service_fn(|request| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(answer(pages, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the operators' port broke");
    }
}

async fn answer(pages: Arc<dyn Pages>, request: Request<Incoming>) -> Page {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut page = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD"));
        return page;
    }
    let format = MetricsFormat::of(request.headers());
    // Pages read the disk, and rendering metrics takes long: either would block the tasks of this thread.
    let shown = tokio::task::spawn_blocking(move || {
        let query = request.uri().query().unwrap_or_default();
        in_format(pages.show(request.uri().path(), query), format)
    });
    shown.await.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "interrupted\n"))
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

/// Returns a table as a page (RFC 4180).
#[must_use]
pub fn csv(text: String) -> Page {
    page(StatusCode::OK, HeaderValue::from_static("text/csv; charset=utf-8; header=present"), text)
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
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &ReadinessPage { ready, purpose, conditions })
}

fn page(status: StatusCode, content_type: HeaderValue, text: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(text.into()));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, content_type);
    page
}
