//! A connection to a bucket: its client, its credentials, and the threads that transfer bytes.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectMeta, ObjectStoreExt as _, RetryConfig};

use super::client;
use super::settings::{BucketError, BucketSettings};
use crate::requests::{Requests, StopCheck, is_loopback};

/// The number of attempts after the first one. A guess: busy services ask clients to retry later.
const RETRIES_MAX: usize = 4;
/// The longest pause before another attempt. A guess.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The time after which no further attempt is made. A guess.
const RETRY_MAX: Duration = Duration::from_secs(180);
/// The time that a request of [`BucketConnection::wait_final`] has after the work has to stop. A guess: a remaining
/// lock excludes others for hours, but the node's stop has to wait.
const FINAL_MAX: Duration = Duration::from_secs(5);

/// A connection to a bucket. Every call blocks, so it must not be used on an async task.
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
    /// Prepares requests without sending any.
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
            // Some services do not support the request that removes many objects at once.
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

    /// Waits for a request that cleans up, for some seconds after the work has to stop.
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

    /// Returns what the service says about an object; `None` if there is none.
    pub(super) fn find(&self, path: &Path) -> io::Result<Option<ObjectMeta>> {
        match self.wait(self.store.head(path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    /// Returns the full name of an object in the bucket.
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
