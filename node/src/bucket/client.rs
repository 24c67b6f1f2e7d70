//! An HTTP client for buckets with bounded responses.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hawser_proto::one_line_of;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};

use http::StatusCode;

use super::settings::BucketError;

/// The longest response in bytes: a block of an object, or a page of a list. S3's pages have a
/// thousand names of at most 1024 bytes.
pub(super) const ANSWER_LEN_BYTES_MAX: usize = 16 << 20;
/// The time limit of connecting. A guess.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The time limit of one request with its response, which have at most some MiB. A guess for a slow line of 1 Mbit/s.
const REQUEST_MAX: Duration = Duration::from_secs(120);
/// The longest error text that is shown, in bytes. A guess: a URL of a bucket, and the reason behind it.
const TEXT_LEN_BYTES_MAX: usize = 400;

/// Creates the client.
///
/// # Errors
/// Fails when the system's TLS roots cannot be used.
pub(super) fn connector(
    is_https: bool,
    is_loopback: bool,
) -> Result<BoundedConnector, BucketError> {
    // An error means that the process has already installed another one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_MAX)
        .timeout(REQUEST_MAX)
        // A redirect would send the session token to a host that the operator has not named.
        .redirect(reqwest::redirect::Policy::none())
        .https_only(is_https);
    if is_loopback {
        builder = builder.no_proxy();
    }
    let client = builder.build().map_err(|error| BucketError::Client(error.to_string()))?;
    let is_silent = Arc::new(AtomicBool::new(false));
    Ok(BoundedConnector { client: HttpClient::new(client), is_silent })
}

/// A connector that always returns the same client.
#[derive(Debug)]
pub(super) struct BoundedConnector {
    client: HttpClient,
    /// True if the last request got no response from the service itself: no connection, a partial response, or an HTTP
    /// status of a busy or broken service.
    is_silent: Arc<AtomicBool>,
}

impl BoundedConnector {
    /// Returns the flag that shows if the last request was answered, which the library's errors do not show.
    pub(super) fn is_silent(&self) -> Arc<AtomicBool> {
        self.is_silent.clone()
    }
}

impl HttpConnector for BoundedConnector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let (client, is_silent) = (self.client.clone(), self.is_silent.clone());
        Ok(HttpClient::new(BoundedService { client, is_silent }))
    }
}

/// A client whose responses fail at [`ANSWER_LEN_BYTES_MAX`].
#[derive(Debug)]
struct BoundedService {
    client: HttpClient,
    is_silent: Arc<AtomicBool>,
}

impl HttpService for BoundedService {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> BoxFuture<'b, Result<HttpResponse, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            self.is_silent.store(true, Ordering::Relaxed);
            let (parts, body) = self.client.execute(request).await?.into_parts();
            let is_busy =
                parts.status.is_server_error() || parts.status == StatusCode::TOO_MANY_REQUESTS;
            self.is_silent.store(is_busy, Ordering::Relaxed);
            let is_silent = self.is_silent.clone();
            let body = Limited::new(body, ANSWER_LEN_BYTES_MAX).map_err(move |error| {
                is_silent.store(!error.is::<LengthLimitError>(), Ordering::Relaxed);
                HttpError::new_boxed(HttpErrorKind::Decode, error)
            });
            Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
        })
    }
}

/// Returns the text of an error, which may come from the service: short, on one line, and without `secrets`,
/// because a service could echo them.
pub(super) fn text_of(error: &object_store::Error, secrets: &[&str]) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    for secret in secrets.iter().filter(|it| !it.is_empty()) {
        text = text.replace(secret, "…");
    }
    one_line_of(&text, TEXT_LEN_BYTES_MAX)
}
