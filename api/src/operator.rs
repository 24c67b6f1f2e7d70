//! The operators' port: metrics, health and status over plain HTTP.

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
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::conditions::{Condition, Purpose};
use crate::metrics::Metrics;
use crate::report::Observer;

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Probes and scrapers need a few.
const CONNECTIONS_MAX: usize = 256;

type Page = Response<Full<Bytes>>;

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Pages {
    metrics: Arc<Metrics>,
    observer: Observer,
}

/// What `/readyz` and its like show.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    #[serde(rename = "for")]
    purpose: Purpose,
    conditions: Vec<Condition>,
}

impl Pages {
    pub(crate) fn new(metrics: Metrics, observer: Observer) -> Self {
        Self { metrics: Arc::new(metrics), observer }
    }

    /// Listens at `address` until `stop`.
    pub(crate) async fn bind(
        self,
        address: SocketAddr,
        stop: CancellationToken,
    ) -> io::Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((address, tokio::spawn(self.accept(listener, stop))))
    }

    async fn accept(self, listener: TcpListener, stop: CancellationToken) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept(), if open.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => { open.spawn(self.clone().converse(stream)); }
                    Err(_) => sleep(Duration::from_millis(50)).await,
                },
                Some(_) = open.join_next(), if !open.is_empty() => {}
            }
        }
    }

    async fn converse(self, stream: TcpStream) {
        let service = service_fn(|request| {
            let pages = self.clone();
            async move { Ok::<_, Infallible>(pages.answer(request).await) }
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

    async fn answer(self, request: Request<Incoming>) -> Page {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut page = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD"));
            return page;
        }
        // What is asked of the disk may take its time.
        let shown = tokio::task::spawn_blocking(move || {
            self.show(request.uri().path(), request.uri().query().unwrap_or_default())
        });
        shown.await.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "interrupted\n"))
    }

    fn show(&self, path: &str, query: &str) -> Page {
        match path {
            "/" | "/metrics" => page(StatusCode::OK, OPEN_METRICS, self.metrics.page()),
            // That this is answered at all says that threads and tasks still turn.
            "/livez" => plain(StatusCode::OK, "ok\n"),
            "/startupz" => self.readiness(Purpose::Start),
            "/readyz" => match asked_for(query) {
                Some(purpose) => self.readiness(purpose),
                None => plain(StatusCode::BAD_REQUEST, "for is one of start, read, publish\n"),
            },
            "/status" => json(StatusCode::OK, &self.observer.page()),
            _ => plain(
                StatusCode::NOT_FOUND,
                "try /metrics, /livez, /startupz, /readyz, /readyz?for=publish, /status\n",
            ),
        }
    }

    fn readiness(&self, purpose: Purpose) -> Page {
        let mut conditions = self.observer.conditions.look();
        conditions.retain(|condition| condition.purpose <= purpose);
        let ready = conditions.iter().all(|condition| condition.met);
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json(status, &Readiness { ready, purpose, conditions })
    }
}

/// Reading, if nothing else is asked for.
fn asked_for(query: &str) -> Option<Purpose> {
    match query.split('&').find_map(|pair| pair.strip_prefix("for=")) {
        None => Some(Purpose::Read),
        Some(name) => Purpose::ALL.into_iter().find(|purpose| purpose.label() == name),
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Page {
    let mut text = serde_json::to_string_pretty(value).expect("plain data becomes JSON");
    text.push('\n');
    page(status, JSON, text)
}

fn plain(status: StatusCode, text: &'static str) -> Page {
    page(status, HeaderValue::from_static("text/plain; charset=utf-8"), text)
}

fn page(status: StatusCode, content_type: HeaderValue, text: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(text.into()));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, content_type);
    page
}
