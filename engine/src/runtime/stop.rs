//! The signal that ends tasks and the work that they do.

use tokio::sync::watch;

/// Ends the tasks that hold its signal, when `stop` is called or the value is dropped.
#[derive(Debug)]
pub(super) struct StopSender(watch::Sender<bool>);

/// The signal that ends a task, or work on a thread that may block. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct StopSignal(watch::Receiver<bool>);

/// Creates a sender and its signal.
pub(super) fn channel() -> (StopSender, StopSignal) {
    let (sender, receiver) = watch::channel(false);
    (StopSender(sender), StopSignal(receiver))
}

impl StopSender {
    /// Asks the tasks to end.
    pub(super) fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl StopSignal {
    /// Returns once the task has to end. Cancel safe.
    pub(super) async fn stopped(&mut self) {
        // An error means that the sender is gone, which stops the task too.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }

    /// Returns true once the task has to end. For work that cannot wait for that.
    pub(super) fn is_stopped(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
