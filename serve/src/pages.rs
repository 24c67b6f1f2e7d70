//! The operators' port: plain HTTP beside the listener of calls. What is shown is told by whoever
//! serves it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Probes and scrapers need a few.
const CONNECTIONS_MAX: usize = 256;

/// One answer.
pub type Page = Response<Full<Bytes>>;

/// Makes pages. Asked on a thread that may block.
pub trait Pages: Send + Sync + 'static {
    /// The page at a path, for a query that may be empty.
    fn show(&self, path: &str, query: &str) -> Page;
}

/// Listens at `address` until `stop`, and says where that is.
///
/// # Errors
/// When the address cannot be listened on.
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
                Err(_) => sleep(Duration::from_millis(50)).await,
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
    // What is asked of the disk may take its time.
    let shown = tokio::task::spawn_blocking(move || {
        pages.show(request.uri().path(), request.uri().query().unwrap_or_default())
    });
    shown.await.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "interrupted\n"))
}

/// Metrics in the OpenMetrics text format.
#[must_use]
pub fn open_metrics(text: String) -> Page {
    page(StatusCode::OK, OPEN_METRICS, text)
}

/// A value as JSON.
#[must_use]
pub fn json(status: StatusCode, value: &impl Serialize) -> Page {
    let mut text = serde_json::to_string_pretty(value).expect("plain data becomes JSON");
    text.push('\n');
    page(status, JSON, text)
}

/// A line of text.
#[must_use]
pub fn plain(status: StatusCode, text: &'static str) -> Page {
    page(status, HeaderValue::from_static("text/plain; charset=utf-8"), text)
}

fn page(status: StatusCode, content_type: HeaderValue, text: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(text.into()));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, content_type);
    page
}
