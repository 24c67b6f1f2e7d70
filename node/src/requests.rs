//! Requests of blocking code to services of others: how they are waited for, and which of them stay on this machine.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::runtime::{Builder, Runtime};

/// Returns true if work with a service has to stop. Called several times a second.
pub type StopCheck = Arc<dyn Fn() -> bool + Send + Sync>;

/// Time between two looks if the work has to stop. A guess.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Moves bytes for threads that block. Its own runtime, so that a command without one and a thread of a node use it alike.
pub(crate) struct Requests {
    runtime: Option<Runtime>,
    stop: StopCheck,
}

impl Drop for Requests {
    fn drop(&mut self) {
        // Waiting for its threads is forbidden to tasks, and one of them may hold the last handle.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Requests {
    /// Starts the thread that moves bytes. `stop` ends waiting.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub(crate) fn new(stop: StopCheck) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { runtime: Some(runtime), stop })
    }

    /// Waits for a request, or until `longer` after the work has to stop.
    ///
    /// # Errors
    /// When the work has to stop.
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
                // An end of the time is a look, and the request goes on.
                if let Ok(done) = tokio::time::timeout(LOOK_EVERY, &mut request).await {
                    return Ok(done);
                }
            }
        })
    }
}

/// Returns true for an address of this machine. A name may be resolved to any address, so `localhost` is the only
/// one that counts.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback())
}
