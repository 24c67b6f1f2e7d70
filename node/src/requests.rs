//! Requests of blocking code to external services: waiting for them, and recognising those that stay on this machine.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_net::is_this_machine;
use reqwest::Url;
use tokio::runtime::{Builder, Runtime};

/// A function that returns true if work with a service has to stop. Called several times a second.
pub type StopCheck = Arc<dyn Fn() -> bool + Send + Sync>;

/// The interval at which the stop is checked. A guess.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A runtime that transfers bytes for blocking threads. It is separate, so that commands without a runtime and
/// threads of a node can use it alike.
pub(crate) struct Requests {
    runtime: Option<Runtime>,
    stop: StopCheck,
}

impl Drop for Requests {
    fn drop(&mut self) {
        // A task must not wait for the runtime's threads, but a task may hold the last handle.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Requests {
    /// Starts the thread that transfers bytes. `stop` ends waiting.
    ///
    /// # Errors
    /// Fails when the system cannot start a thread.
    pub(crate) fn new(stop: StopCheck) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { runtime: Some(runtime), stop })
    }

    /// Waits for a request, at most until `longer` after the work has to stop.
    ///
    /// # Errors
    /// Fails when the work has to stop.
    pub(crate) fn wait<T>(
        &self,
        longer: Duration,
        request: impl Future<Output = T>,
    ) -> io::Result<T> {
        let runtime = self.runtime.as_ref().expect("it is there until the end");
        runtime.block_on(async {
            let mut request = std::pin::pin!(request);
            let mut stopped: Option<Instant> = None;
            loop {
                if (self.stop)() && stopped.get_or_insert_with(Instant::now).elapsed() >= longer {
                    return Err(io::Error::other("the command was stopped before it was done"));
                }
                // The timeout only triggers a check; the request continues.
                if let Ok(done) = tokio::time::timeout(LOOK_EVERY, &mut request).await {
                    return Ok(done);
                }
            }
        })
    }
}

/// Parses the URL of a service that an operator names. It has a host, and no user, password, query or fragment. Plain
/// HTTP to other machines requires `allow_http`.
///
/// # Errors
/// The sentence about the first defect: `secret` for a user or a password, and `plain` for plain HTTP.
pub(crate) fn service_url(
    given: &str,
    allow_http: bool,
    [secret, plain]: [&'static str; 2],
) -> Result<Url, &'static str> {
    let url: Url = given.parse().map_err(|_| "it is no URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(secret);
    }
    if url.query().is_some() || url.fragment().is_some() || url.host_str().is_none() {
        return Err("it needs a host, and may have no query");
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if allow_http || is_loopback(&url) => Ok(url),
        "http" => Err(plain),
        _ => Err("its scheme must be https or http"),
    }
}

/// Returns true for a URL of this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    is_this_machine(url.host_str().unwrap_or_default())
}
