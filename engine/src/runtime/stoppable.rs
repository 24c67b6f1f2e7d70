//! Tasks that run until they are stopped, and work on threads that may block.

use std::panic::resume_unwind;

use tokio::task::JoinHandle;

use super::stop::{self, StopSender, StopSignal};

/// A task that runs until its owner stops it. Dropping this stops it as well, and does not wait.
#[derive(Debug)]
#[must_use = "the task runs until it is stopped"]
pub struct StoppableTask {
    stop: StopSender,
    task: JoinHandle<()>,
}

impl StoppableTask {
    /// Starts the task that `run` returns. The task has to return soon after its stop signal.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(super) fn start<F>(run: impl FnOnce(StopSignal) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, stopped) = stop::channel();
        Self { stop, task: tokio::spawn(run(stopped)) }
    }

    /// Stops the task and returns when it has ended.
    pub async fn stop(self) {
        self.stop.stop();
        // A task that panicked has been reported by the panic hook.
        let _ = self.task.await;
    }
}

/// Does work that blocks on a thread for such work, and returns its result. A panic of the work is resumed in the
/// caller. The work runs to its end even if this future is dropped.
///
/// # Panics
/// If the work panics, or the runtime shuts down.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| resume_unwind(error.into_panic()))
}
