//! Requests of blocking code to external services: waiting for them, and recognising those that stay on this machine.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// Returns true for an address of this machine. Only the name `localhost` counts, because any
/// other may resolve to any address.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback())
}
