//! A fake service with the part of S3 that backups need, which lies on request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream;
use hawser_proto::Bytes;
use http::header::{CONTENT_RANGE, ETAG, IF_NONE_MATCH, LAST_MODIFIED, LOCATION, RANGE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

/// The name of the only bucket.
pub(crate) const BUCKET: &str = "the-bucket";
/// The number of names on a page of a list.
const PAGE: usize = 3;

/// A kind of misbehaviour of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Each object has a terabyte, whatever was requested.
    EndlessBody,
    /// Each response is an endless error.
    EndlessError,
    /// Each page of a list refers to a further one.
    EndlessList,
    /// Each page of a list refers to a further one, and has a name of 8 MiB.
    LongNames,
    /// A list contains an object of another folder.
    ForeignList,
    /// One bit of each object is flipped.
    FlippedBit,
    /// The stated length of each object is too large.
    Longer,
    /// This many requests for each name fail before one is answered.
    FailTimes(usize),
    /// Each request is redirected to this address.
    Redirect(String),
    /// Each request is refused with this text.
    Refuse(String),
    /// Conditions of requests are ignored.
    NoConditions,
    /// All files are removed when a manifest arrives, as if by another holder of the lock.
    FilesRemoved,
}

/// A stored object.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    bytes: Vec<u8>,
    modified: &'static str,
    /// The entity tag, with its quotes.
    tag: String,
}

impl Stored {
    fn new(bytes: Vec<u8>, modified: &'static str) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        Self { tag: format!("\"{:016x}\"", hasher.finish()), bytes, modified }
    }
}

/// A time long ago, in HTTP format.
pub(crate) const LONG_AGO: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
/// A time in the future.
const LATER: &str = "Fri, 01 Jan 2100 00:00:00 GMT";

#[derive(Default)]
struct BucketState {
    objects: BTreeMap<String, Stored>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    lie: Option<Lie>,
    failed: BTreeMap<String, usize>,
    reads: Vec<String>,
}

/// A running service on its own port, which ends when it is dropped.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<BucketState>>,
    requests: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

type Body = BoxBody<Bytes, Infallible>;

impl Service {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (state, requests) =
            (Arc::<Mutex<BucketState>>::default(), Arc::<AtomicUsize>::default());
        let (of_task, counted) = (state.clone(), requests.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, counted) = (of_task.clone(), counted.clone());
                let service = service_fn(move |request| {
                    let (state, counted) = (state.clone(), counted.clone());
                    async move {
                        counted.fetch_add(1, Ordering::Relaxed);
                        Ok::<_, Infallible>(answer(&state, request).await)
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, state, requests, _runtime: runtime }
    }

    pub(crate) fn lie(&self, lie: Option<Lie>) {
        let mut state = self.state.lock();
        state.lie = lie;
        state.failed.clear();
        state.reads.clear();
    }

    /// Returns the names of all objects.
    pub(crate) fn names(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.state.lock().objects.get(name).map(|it| it.bytes.clone())
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8], modified: &'static str) {
        let stored = Stored::new(bytes.to_vec(), modified);
        self.state.lock().objects.insert(name.to_owned(), stored);
    }

    /// Changes bytes of an object as a failing disk does: its tag stays.
    pub(crate) fn rot(&self, name: &str, bytes: &[u8]) {
        self.state.lock().objects.get_mut(name).unwrap().bytes = bytes.to_vec();
    }

    pub(crate) fn remove(&self, name: &str) {
        self.state.lock().objects.remove(name);
    }

    /// Returns the number of uploads that were neither completed nor aborted.
    pub(crate) fn open_uploads(&self) -> usize {
        self.state.lock().uploads.len()
    }

    /// Returns the names of objects that were read since the last lie was set.
    pub(crate) fn reads(&self) -> Vec<String> {
        self.state.lock().reads.clone()
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn answer(state: &Mutex<BucketState>, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let bytes = body.collect().await.map(|it| it.to_bytes()).unwrap_or_default();
    let name = parts.uri.path().trim_start_matches('/').to_owned();
    let name = name.strip_prefix(BUCKET).unwrap_or(&name).trim_start_matches('/').to_owned();
    let name = name.replace("%3D", "=");
    let query: BTreeMap<String, String> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (key.to_owned(), value.replace("%2F", "/").replace("%3D", "=")))
        .collect();
    let mut state = state.lock();
    match state.lie.clone() {
        Some(Lie::EndlessError) => return endless(Response::builder().status(403), b"nonsense "),
        Some(Lie::Refuse(text)) => return plain(StatusCode::FORBIDDEN, text),
        Some(Lie::Redirect(to)) => {
            return Response::builder().status(307).header(LOCATION, to).body(full("")).unwrap();
        }
        Some(Lie::FailTimes(times)) => {
            let failed = state.failed.entry(format!("{} {name}", parts.method)).or_default();
            *failed += 1;
            if *failed <= times {
                return plain(StatusCode::INTERNAL_SERVER_ERROR, "busy");
            }
        }
        _ => {}
    }
    match parts.method {
        Method::GET if query.contains_key("list-type") => list(&state, &query),
        Method::GET | Method::HEAD => read(&mut state, &parts, &name),
        Method::PUT => put(&mut state, &parts, &query, &name, &bytes),
        Method::POST => multipart(&mut state, &query, &name),
        Method::DELETE => {
            match query.get("uploadId") {
                Some(upload) => drop(state.uploads.remove(upload)),
                None => drop(state.objects.remove(&name)),
            }
            plain(StatusCode::NO_CONTENT, "")
        }
        _ => plain(StatusCode::METHOD_NOT_ALLOWED, ""),
    }
}

fn list(state: &BucketState, query: &BTreeMap<String, String>) -> Response<Body> {
    let empty = String::new();
    let prefix = query.get("prefix").unwrap_or(&empty);
    let after = query.get("continuation-token").unwrap_or(&empty);
    let mut names: Vec<_> = state
        .objects
        .iter()
        .filter(|(name, _)| name.starts_with(prefix) && *name > after)
        .collect();
    let mut next = String::new();
    if names.len() > PAGE {
        names.truncate(PAGE);
        next.clone_from(names[PAGE - 1].0);
    }
    let mut text = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
    let mut entry = |name: &str, len: usize| {
        write!(
            text,
            "<Contents><Key>{name}</Key><LastModified>2020-01-01T00:00:00.000Z</LastModified>\
             <ETag>\"x\"</ETag><Size>{len}</Size></Contents>"
        )
        .unwrap();
    };
    for (name, stored) in names {
        entry(name, stored.bytes.len());
    }
    match state.lie {
        Some(Lie::EndlessList) => "again".clone_into(&mut next),
        Some(Lie::LongNames) => {
            entry(&format!("{prefix}{}", "x".repeat(8 << 20)), 1);
            "again".clone_into(&mut next);
        }
        Some(Lie::ForeignList) => entry("elsewhere/lock", 1),
        _ => {}
    }
    if !next.is_empty() {
        write!(text, "<NextContinuationToken>{next}</NextContinuationToken>").unwrap();
    }
    text.push_str("</ListBucketResult>");
    plain(StatusCode::OK, text)
}

fn read(state: &mut BucketState, parts: &http::request::Parts, name: &str) -> Response<Body> {
    let Some(Stored { mut bytes, modified, tag }) = state.objects.get(name).cloned() else {
        return plain(StatusCode::NOT_FOUND, "");
    };
    let mut len = bytes.len();
    match state.lie {
        Some(Lie::Longer) => len += 1,
        Some(Lie::FlippedBit) => {
            if let Some(byte) = bytes.last_mut() {
                *byte ^= 1;
            }
        }
        _ => {}
    }
    let builder = Response::builder().header(ETAG, tag).header(LAST_MODIFIED, modified);
    if parts.method == Method::HEAD {
        return builder.header("content-length", len).body(full("")).unwrap();
    }
    state.reads.push(name.to_owned());
    let range = parts.headers.get(RANGE).and_then(|it| it.to_str().ok()).unwrap_or("bytes=0-");
    let (from, through) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    let from: usize = from.parse().unwrap();
    let through = through.parse().unwrap_or(len - 1).min(len - 1);
    let builder = builder
        .status(StatusCode::PARTIAL_CONTENT)
        .header(CONTENT_RANGE, format!("bytes {from}-{through}/{len}"));
    if state.lie == Some(Lie::EndlessBody) {
        let builder = builder.header("content-length", 1_u64 << 40);
        return endless(builder, b"more and more ");
    }
    bytes.resize(len, 0);
    builder.body(full(bytes[from..=through].to_vec())).unwrap()
}

fn put(
    state: &mut BucketState,
    parts: &http::request::Parts,
    query: &BTreeMap<String, String>,
    name: &str,
    bytes: &Bytes,
) -> Response<Body> {
    let done = |name: &str| {
        Response::builder().header(ETAG, format!("\"{name}\"")).body(full("")).unwrap()
    };
    if let (Some(upload), Some(number)) = (query.get("uploadId"), query.get("partNumber")) {
        let Some(parts) = state.uploads.get_mut(upload) else {
            return plain(StatusCode::NOT_FOUND, "");
        };
        parts.insert(number.parse().unwrap(), bytes.to_vec());
        return done(number);
    }
    let is_conditional = parts.headers.contains_key(IF_NONE_MATCH);
    if is_conditional && state.lie != Some(Lie::NoConditions) && state.objects.contains_key(name) {
        return plain(StatusCode::PRECONDITION_FAILED, "");
    }
    if state.lie == Some(Lie::FilesRemoved) && name.contains("/manifests/") {
        state.objects.retain(|name, _| !name.contains("/files/"));
    }
    let stored = Stored::new(bytes.to_vec(), LATER);
    let answer = Response::builder().header(ETAG, &stored.tag).body(full("")).unwrap();
    state.objects.insert(name.to_owned(), stored);
    answer
}

fn multipart(
    state: &mut BucketState,
    query: &BTreeMap<String, String>,
    name: &str,
) -> Response<Body> {
    if query.contains_key("uploads") {
        let upload = format!("upload-{}", state.uploads.len());
        state.uploads.insert(upload.clone(), BTreeMap::new());
        let text = format!(
            "<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        );
        return plain(StatusCode::OK, text);
    }
    let parts = query.get("uploadId").and_then(|upload| state.uploads.remove(upload));
    let Some(parts) = parts else { return plain(StatusCode::NOT_FOUND, "") };
    let stored = Stored::new(parts.into_values().flatten().collect(), LATER);
    let tag = &stored.tag;
    let text = format!(
        "<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"
    );
    state.objects.insert(name.to_owned(), stored);
    plain(StatusCode::OK, text)
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    Response::builder().status(status).body(full(text)).unwrap()
}

/// Returns a response that repeats the same words forever.
fn endless(builder: http::response::Builder, words: &'static [u8]) -> Response<Body> {
    let block = Bytes::from(words.repeat(8192));
    let frames = stream::repeat_with(move || Ok::<_, Infallible>(Frame::data(block.clone())));
    builder.body(BodyExt::boxed(StreamBody::new(frames))).unwrap()
}
