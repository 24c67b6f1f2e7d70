//! Counts the requests that wait for a payload of the chain.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts the requests that wait for a payload. Clones share one count.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting(Arc<watch::Sender<usize>>);

impl Waiting {
    /// Counts one more request until the guard is dropped.
    pub(super) fn wait(&self) -> WaitGuard {
        self.0.send_modify(|count| *count += 1);
        WaitGuard(self.clone())
    }

    /// Returns true if no request waits.
    pub(super) fn is_abandoned(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Waits until no request waits any more.
    pub(super) async fn abandoned(&self) {
        // Never fails: `self` keeps the sender.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// Counts one request that waits for a payload, until it is dropped.
pub(super) struct WaitGuard(Waiting);

impl Drop for WaitGuard {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
