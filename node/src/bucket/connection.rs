//! The way to a bucket: its client, its keys, and the threads that move bytes.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{BackoffConfig, RetryConfig};

use super::client;
use super::settings::{BucketError, BucketSettings};
use crate::requests::{Requests, StopCheck, is_loopback};

/// Attempts after the first one. A guess: services ask for a pause when they are busy.
const RETRIES_MAX: usize = 4;
/// The longest pause before another attempt. A guess.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Time after which no further attempt is made. A guess.
const RETRY_MAX: Duration = Duration::from_secs(180);
/// Time that a request of [`BucketConnection::wait_final`] has after the work has to stop. A guess: what stays otherwise keeps
/// others out for hours, and the end of a node waits.
const FINAL_MAX: Duration = Duration::from_secs(5);

/// The way to a bucket. Every call blocks, so none is made from a task.
pub(super) struct BucketConnection {
    pub(super) store: AmazonS3,
    pub(super) settings: BucketSettings,
    requests: Requests,
    /// True if the last request was not answered.
    is_silent: Arc<AtomicBool>,
}

impl fmt::Debug for BucketConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BucketConnection").field(&self.settings.name()).finish()
    }
}

impl BucketConnection {
    /// Prepares requests. Nothing is sent yet.
    ///
    /// # Errors
    /// [`BucketError`].
    pub(super) fn new(settings: &BucketSettings, stop: StopCheck) -> Result<Self, BucketError> {
        let endpoint = settings.check()?;
        let is_https = endpoint.as_ref().is_none_or(|url| url.scheme() == "https");
        let connector = client::connector(is_https, endpoint.as_ref().is_some_and(is_loopback))?;
        let is_silent = connector.is_silent();
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: PAUSE_MAX, ..BackoffConfig::default() },
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_MAX,
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_retry(retry)
            .with_allow_http(!is_https)
            // Not every service knows the request that removes many at once.
            .with_disable_bulk_delete(true)
            .with_http_connector(connector);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        builder = match &settings.keys {
            None => builder.with_skip_signature(true),
            Some(keys) => {
                let builder =
                    builder.with_access_key_id(&keys.id).with_secret_access_key(&keys.secret);
                match &keys.token {
                    None => builder,
                    Some(token) => builder.with_token(token),
                }
            }
        };
        let store = builder.build().map_err(|error| BucketError::Client(error.to_string()))?;
        let requests =
            Requests::new(stop).map_err(|error| BucketError::Client(error.to_string()))?;
        Ok(Self { store, settings: settings.clone(), requests, is_silent })
    }

    /// Waits for a request, or until the work has to stop.
    pub(super) fn wait<T>(
        &self,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> io::Result<T> {
        self.wait_after_stop(Duration::ZERO, request)
    }

    /// Waits for a request that cleans up: some seconds longer than the work has.
    pub(super) fn wait_final<T>(
        &self,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> io::Result<T> {
        self.wait_after_stop(FINAL_MAX, request)
    }

    fn wait_after_stop<T>(
        &self,
        longer: Duration,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> io::Result<T> {
        self.requests.wait(longer, request)?.map_err(|error| self.io_error(&error))
    }

    /// Returns the name of an object in the bucket.
    pub(super) fn path(&self, name: &str) -> io::Result<Path> {
        let path = match self.settings.prefix.as_str() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        };
        Path::parse(path).map_err(io::Error::other)
    }

    fn io_error(&self, error: &object_store::Error) -> io::Error {
        use object_store::Error::{
            AlreadyExists, Generic, NotFound, PermissionDenied, Unauthenticated,
        };
        let kind = match error {
            NotFound { .. } => ErrorKind::NotFound,
            AlreadyExists { .. } => ErrorKind::AlreadyExists,
            PermissionDenied { .. } | Unauthenticated { .. } => ErrorKind::PermissionDenied,
            Generic { .. } if self.is_silent.load(Ordering::Relaxed) => ErrorKind::HostUnreachable,
            _ => ErrorKind::Other,
        };
        let keys = self.settings.keys.as_ref();
        let secret = keys.map_or("", |it| it.secret.as_str());
        let token = keys.and_then(|it| it.token.as_deref()).unwrap_or_default();
        io::Error::new(kind, client::text_of(error, &[secret, token]))
    }
}
