//! Calls to a running node: gRPC to its API, HTTP to its metrics.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Response, Status};

use hawser_chain::index::display_url;
use hawser_conformance::case_error::code_name;
use hawser_node::error::{RunError, RunErrorKind};
use hawser_node::{AddressFrom, CheckedChannel, authorities_with, node_connector};
use hawser_proto::root_cause;

use crate::output;

/// The largest message that is accepted from a node, bytes: the limit of the nodes' listener, 25 MiB,
/// and room for framing.
pub(crate) const MESSAGE_LEN_BYTES_MAX: usize = 26 * 1024 * 1024;
/// Path of the method of a node that returns pages of envelopes.
pub(crate) const QUERY_ENVELOPES: &str = "/xmtp.xmtpv4.message_api.QueryApi/QueryEnvelopes";
/// Length of the longest answer with a cursor, in bytes. A guess: room for some three thousand originators of 19 bytes.
pub(crate) const CURSOR_LEN_BYTES_MAX: usize = 64 * 1024;
/// Length of the longest answer with a checkpoint, in bytes. Calculated: one with all the cosignatures and all the
/// statements about void places that it may have takes less. An empty statement takes two bytes on the wire and 32 in
/// memory.
pub(crate) const CHECKPOINT_LEN_BYTES_MAX: usize = 64 * 1024;
/// Time limit of connecting. A guess: far more than a connection around the planet takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a narrow connection accepts before they are read. The initial window of HTTP/2 (RFC 9113 §6.9.2).
const NARROW_WINDOW_BYTES: u32 = 65_535;
/// Length of the head of an answer on a narrow connection, in bytes. A guess: nodes send some hundred.
const NARROW_HEAD_LEN_BYTES_MAX: u32 = 8 * 1024;
/// Time limit of one whole answer. A guess: a page of 25 MiB over a slow line.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Time limit of a request to the metrics port, which answers from memory. `hawser health` has to end within three
/// seconds, with the start of the program.
const HTTP_TIMEOUT: Duration = Duration::from_millis(2500);
/// The largest response of the metrics port that is read, bytes. A guess: far above any status page.
const HTTP_BODY_LEN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The advice of a command that has found no node at the operators' port.
pub(crate) const METRICS_ADVICE: &str = "--metrics names the address of a node's metrics";

/// A file of further certificate authorities in PEM that programs of this system trust, by the convention of OpenSSL.
const AUTHORITIES: &str = "SSL_CERT_FILE";

/// Connects to a node's API at `host:port`, `http://…` or `https://…`, which the operator names. A certificate has to
/// come from a public authority, or from one in the file that `SSL_CERT_FILE` names.
///
/// # Errors
/// When the address is malformed, no node answers there, or its certificate is not trusted.
pub(crate) async fn connect(address: &str) -> Result<CheckedChannel, RunError> {
    connect_to(address, AddressFrom::Operator).await
}

/// Connects as [`connect`] does, also to an address of the registry.
///
/// # Errors
/// The errors of [`connect`], and when the address may not be called.
pub(crate) async fn connect_to(
    address: &str,
    from: AddressFrom,
) -> Result<CheckedChannel, RunError> {
    let url = url_of(address)?;
    connect_as(endpoint(url.clone()), url, address, from).await
}

/// Connects as [`connect_to`] does, to a node that may send any number of bytes: unread data takes at most
/// [`NARROW_WINDOW_BYTES`].
///
/// # Errors
/// The errors of [`connect_to`].
pub(crate) async fn connect_narrow(
    address: &str,
    from: AddressFrom,
) -> Result<CheckedChannel, RunError> {
    let url = url_of(address)?;
    let endpoint = endpoint(url.clone())
        .initial_stream_window_size(NARROW_WINDOW_BYTES)
        .initial_connection_window_size(NARROW_WINDOW_BYTES)
        .http2_max_header_list_size(NARROW_HEAD_LEN_BYTES_MAX);
    connect_as(endpoint, url, address, from).await
}

async fn connect_as(
    endpoint: Endpoint,
    url: Uri,
    address: &str,
    from: AddressFrom,
) -> Result<CheckedChannel, RunError> {
    let is_tls = url.scheme_str() == Some("https");
    let further = if is_tls { authorities()? } else { None };
    let roots = authorities_with(&further.unwrap_or_default()).map_err(|error| unusable(&error))?;
    let connecting = endpoint.connect_with_connector(node_connector(url, from, roots));
    // The endpoint's own limit ends before the first frames of HTTP/2, which may stall as well.
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| {
        let seconds = CONNECT_TIMEOUT.as_secs();
        let address = shown_address(address);
        RunError::failed(format!("no node answers at {address} within {seconds} s"))
    })?;
    connected.map(CheckedChannel::from).map_err(|error| {
        let (address, cause) = (shown_address(address), output::printable(&root_cause(&error)));
        let advice = tls_advice(&cause);
        RunError::failed(format!("no node answers at {address}: {cause}{advice}"))
    })
}

/// Returns the end of the text about a connection that failed: the scheme to write if the server has answered in plain
/// text, which the handshake takes for a message of an unknown type.
fn tls_advice(cause: &str) -> &'static str {
    match cause.contains("InvalidContentType") {
        true => ". The server does not speak TLS: write http://",
        false => "",
    }
}

/// Waits for a whole answer, or for the head of a stream. The limit also applies to a node that sends the head of an
/// answer and then nothing.
///
/// # Errors
/// The status of the node, or of the time limit.
pub(crate) async fn whole<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<Response<T>, Status> {
    whole_within(ANSWER_TIMEOUT, call).await
}

async fn whole_within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<Response<T>, Status> {
    let late = || {
        let seconds = limit.as_secs();
        Status::deadline_exceeded(format!("the node gave no whole answer within {seconds} s"))
    };
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(late()))
}

/// Returns the certificate authorities that `SSL_CERT_FILE` names, as PEM.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn authorities() -> Result<Option<Vec<u8>>, RunError> {
    let file = std::env::var_os(AUTHORITIES);
    file.map(|file| std::fs::read(file).map_err(|error| unusable(&error))).transpose()
}

fn unusable(error: &dyn std::error::Error) -> RunError {
    RunError::usage(format!("{AUTHORITIES} cannot be used: {}", root_cause(error)))
}

fn url_of(address: &str) -> Result<Uri, RunError> {
    let wrong = || no_address(address);
    let url = match address.split_once("://") {
        Some(("http" | "https", _)) => address.to_owned(),
        Some(_) => return Err(wrong()),
        None => format!("http://{address}"),
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    if uri.port_u16().is_none() && !address.contains("://") {
        return Err(wrong());
    }
    Ok(uri)
}

/// Returns the endpoint of a node's URL, which [`node_connector`] dials.
fn endpoint(url: Uri) -> Endpoint {
    Endpoint::from_static("http://node").origin(url).connect_timeout(CONNECT_TIMEOUT)
}

/// Returns the error about a text that is no address of a node's API.
pub(crate) fn no_address(text: &str) -> RunError {
    let shown = shown_address(text);
    RunError::usage(format!("{shown:?} is not an address: write host:port, http://… or https://…"))
}

/// Returns an address as pages and errors show it. Reduces a URL with a user, path or query to scheme, host and port,
/// because these parts may be keys.
pub(crate) fn shown_address(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
    if rest.strip_suffix('/').unwrap_or(rest).contains(['@', '/', '?', '#']) {
        return display_url(&format!("{scheme}://{rest}"));
    }
    address.to_owned()
}

/// Returns the kind of error that a status code means: a broken rule, or a failure.
#[must_use]
pub(crate) fn reason_of(code: Code) -> RunErrorKind {
    match code {
        Code::NotFound => RunErrorKind::NotFound,
        Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unauthenticated => RunErrorKind::Refused,
        _ => RunErrorKind::Failed,
    }
}

/// Converts a status into an error with its name and text. The text is the node's.
#[must_use]
pub(crate) fn failure(status: &Status) -> RunError {
    let message = output::printable(status.message());
    let text = format!("{}: {message}{}", code_name(status.code()), address_fault(status));
    RunError { kind: reason_of(status.code()), text }
}

/// Advice for a server that does not know a call of nodes.
pub(crate) const NO_SUCH_CALL: &str =
    "the address may be that of a gateway, or of a node of other software that lacks this call";

/// Returns the end of the text about a status that another program than a node may cause: what to look at, and the
/// cause if the status comes from the connection. Empty for other statuses.
fn address_fault(status: &Status) -> String {
    if status.code() == Code::Unimplemented {
        return format!(" ({NO_SUCH_CALL})");
    }
    let source = std::error::Error::source(status);
    let fault = source.filter(|source| source.is::<tonic::transport::Error>());
    fault.map_or_else(String::new, |error| {
        let cause = output::printable(&root_cause(error));
        format!(
            ": {cause}. Check that the address is that of a node's API, and not of its metrics, and begins with \
             https:// if the node speaks TLS"
        )
    })
}

/// Response of an HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpResponse {
    /// Status code: 200, 503, …
    pub(crate) status: u16,
    /// Body; bytes that are no UTF-8 are replaced.
    pub(crate) body: String,
}

impl HttpResponse {
    /// Returns the reason that a page of the operators' port gives for an error: the field `error` if the body is JSON,
    /// or else the body.
    pub(crate) fn reason(&self) -> String {
        let page: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        output::printable(page["error"].as_str().unwrap_or_else(|| self.body.trim()))
    }
}

/// The error of an HTTP request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// No process listens at the address.
    #[error("{0}")]
    Connect(#[from] std::io::Error),
    /// The connection broke, or the response is no HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The address cannot be part of a request.
    #[error("{0}")]
    Request(#[from] http::Error),
    /// The response broke off, or is larger than the limit.
    #[error("{0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The time limit passed.
    #[error("no answer within {} s", HTTP_TIMEOUT.as_secs_f32())]
    Timeout,
}

/// Requests `http://address path`, with limits on time and length.
///
/// # Errors
/// When there is no complete response.
pub(crate) async fn get(address: &str, path: &str) -> Result<HttpResponse, HttpError> {
    tokio::time::timeout(HTTP_TIMEOUT, get_unbounded(address, path))
        .await
        .unwrap_or(Err(HttpError::Timeout))
}

/// Requests a page of the operators' port.
///
/// # Errors
/// When the address is malformed, or there is no complete response; the text names the address.
pub(crate) async fn page(metrics: &str, path: &str) -> Result<HttpResponse, RunError> {
    require_address(metrics)?;
    let answer = get(metrics, path).await;
    answer.map_err(|error| {
        RunError::failed(format!("no node answers at {metrics}: {error}. {METRICS_ADVICE}"))
    })
}

/// Returns the error about a status that no page of a node's operators' port has, such as one of a node's API, of a
/// gateway or of a watcher.
#[must_use]
pub(crate) fn no_page_of_a_node(metrics: &str, status: u16) -> RunError {
    RunError::failed(format!(
        "{metrics} answers with status {status}, which the metrics of no node do here. {METRICS_ADVICE}"
    ))
}

/// Refuses an address of metrics that no server can have: one without a port, or with a user, whose password an error
/// would show.
///
/// # Errors
/// When the address is malformed.
pub(crate) fn require_address(metrics: &str) -> Result<(), RunError> {
    let port = host_and_port(metrics).rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) if !metrics.contains('@') => Ok(()),
        _ => {
            let shown = shown_address(metrics);
            Err(RunError::usage(format!("{shown:?} is not an address: write host:port")))
        }
    }
}

fn host_and_port(address: &str) -> &str {
    address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/')
}

async fn get_unbounded(address: &str, path: &str) -> Result<HttpResponse, HttpError> {
    let address = host_and_port(address);
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection, which closes when `sender` is dropped.
    tokio::spawn(connection);
    let request = http::Request::get(path)
        .header(http::header::HOST, address)
        .header(http::header::CONNECTION, "close")
        .body(Empty::<hawser_proto::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let mut body = Limited::new(response.into_body(), HTTP_BODY_LEN_BYTES_MAX);
    // Joined as it comes: pieces of one byte each would take fifty times their length.
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(HttpError::Body)?.data_ref() {
            bytes.extend_from_slice(data);
        }
    }
    Ok(HttpResponse { status, body: String::from_utf8_lossy(&bytes).into_owned() })
}

/// Returns the unmet conditions of a readiness page, each with its reason; the page itself if it
/// is no such page.
pub(crate) fn unmet_conditions(readiness: &str) -> String {
    let page: serde_json::Value = serde_json::from_str(readiness).unwrap_or_default();
    let conditions = page["conditions"].as_array().into_iter().flatten();
    let unmet: Vec<String> = conditions
        .filter(|condition| condition["met"] == false)
        .map(|condition| {
            let text = |field: &str| output::printable(condition[field].as_str().unwrap_or("?"));
            format!("{}: {}", text("name"), text("reason"))
        })
        .collect();
    if unmet.is_empty() { output::printable(readiness) } else { unmet.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port_or_urls() {
        let uri = |address| url_of(address).map(|url| url.to_string());
        assert_eq!(uri("127.0.0.1:5050").unwrap(), "http://127.0.0.1:5050/");
        assert_eq!(uri("http://node:5050").unwrap(), "http://node:5050/");
        assert_eq!(uri("http://node").unwrap(), "http://node/");
        assert_eq!(uri("https://node:5050").unwrap(), "https://node:5050/");
        for wrong in ["node", "ftp://a:1", "a b:1", ""] {
            assert_eq!(uri(wrong).unwrap_err().kind, RunErrorKind::Usage, "{wrong}");
        }
    }

    /// Errors get into the logs of those who run commands at intervals.
    #[tokio::test]
    async fn a_key_in_an_address_is_not_shown() {
        for bare in ["127.0.0.1:5050", "http://node:5050", "https://node/", "http://[::1]:1", "a b"]
        {
            assert_eq!(shown_address(bare), bare);
        }
        let keyed = [
            "http://user:hunter2@127.0.0.1:1",
            "user:hunter2@127.0.0.1:1",
            "http://127.0.0.1:1/hunter2",
            "http://127.0.0.1:1?key=hunter2",
        ];
        for address in keyed {
            let text = connect(address).await.err().unwrap().text;
            assert!(text.contains("http://127.0.0.1:1") && !text.contains("hunter2"), "{text}");
        }
        let other_scheme = connect("ftp://user:hunter2@host:1").await.err().unwrap();
        let no_port = require_address("http://user:hunter2@host/hunter2").unwrap_err();
        let with_user = require_address("http://user:hunter2@host:1").unwrap_err();
        for refused in [other_scheme, no_port, with_user] {
            assert_eq!(refused.kind, RunErrorKind::Usage);
            assert!(!refused.text.contains("hunter2"), "{}", refused.text);
        }
    }

    #[test]
    fn an_address_of_metrics_has_a_port() {
        for right in ["127.0.0.1:8008", "[::1]:8008", "node:8008", "http://node:8008/"] {
            assert!(require_address(right).is_ok(), "{right}");
        }
        for wrong in ["", "node", "node:", "node:http", "node:65536", "http://node/"] {
            assert_eq!(require_address(wrong).unwrap_err().kind, RunErrorKind::Usage, "{wrong}");
        }
    }

    #[test]
    fn refusals_and_failures_have_their_exit_codes() {
        assert_eq!(output::exit_code(reason_of(Code::InvalidArgument)), 3);
        assert_eq!(output::exit_code(reason_of(Code::Unavailable)), 1);
        assert_eq!(output::exit_code(reason_of(Code::NotFound)), 4);
        let failure = failure(&Status::invalid_argument("no"));
        assert_eq!(failure.text, "INVALID_ARGUMENT: no");
        let of_gateway = super::failure(&Status::unimplemented("no such method"));
        assert_eq!(of_gateway.text, format!("UNIMPLEMENTED: no such method ({NO_SUCH_CALL})"));
    }

    #[tokio::test]
    async fn a_node_that_never_answers_holds_no_command_for_ever() {
        let silent = std::future::pending::<Result<Response<()>, Status>>();
        let status = whole_within(Duration::ZERO, silent).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let answer = async { Ok(Response::new(7)) };
        assert_eq!(whole_within(Duration::ZERO, answer).await.unwrap().into_inner(), 7);
    }

    #[test]
    fn the_text_of_a_node_does_not_control_the_terminal() {
        let failed = failure(&Status::internal("gone\u{1b}[2J\nverdict: clean"));
        assert_eq!(failed.text, "INTERNAL: gone [2J verdict: clean");
        let page = HttpResponse { status: 503, body: "\u{9b}2J{\n".to_owned() };
        assert_eq!(page.reason(), " 2J{");
    }

    #[test]
    fn the_reason_of_a_page_is_told_in_words() {
        let page = |body: &str| HttpResponse { status: 503, body: body.to_owned() }.reason();
        assert_eq!(page("{\n  \"error\": \"not read yet\"\n}\n"), "not read yet");
        assert_eq!(page("there is no such report here\n"), "there is no such report here");
        assert_eq!(page("[7]"), "[7]");
    }

    #[test]
    fn unmet_conditions_are_told_in_words() {
        let page = r#"{"conditions":[{"name":"a","met":true,"reason":null},
            {"name":"log_writable","met":false,"reason":"a write has failed"}]}"#;
        assert_eq!(unmet_conditions(page), "log_writable: a write has failed");
        assert_eq!(unmet_conditions("strange"), "strange");
        let page = r#"{"conditions":[{"name":"a\nb","met":false,"reason":"c\u001b[2J"}]}"#;
        assert_eq!(unmet_conditions(page), "a b: c [2J", "they begin no line");
        assert_eq!(unmet_conditions("one\ntwo"), "one two");
    }
}
