//! The calls of a connection, and the time for which it has had none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// The open calls of a connection, and the time since which it has none.
#[derive(Debug)]
pub(crate) struct Activity {
    calls: AtomicUsize,
    idle_since: Mutex<Instant>,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { calls: AtomicUsize::new(0), idle_since: Mutex::new(Instant::now()) }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.calls.load(Ordering::Acquire) > 0
    }

    /// Completes when the connection has had no call for `limit`.
    pub(crate) async fn idle_for(&self, limit: Duration) {
        loop {
            let since = *self.idle_since.lock();
            let idle = !self.is_busy();
            if idle && since.elapsed() >= limit {
                return;
            }
            let busy_until = Instant::now() + limit.max(Duration::from_millis(100));
            sleep_until(if idle { since + limit } else { busy_until }).await;
        }
    }
}

/// An open call. Its connection is busy until this is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Busy {
    pub(crate) fn new(activity: Arc<Activity>) -> Self {
        activity.calls.fetch_add(1, Ordering::AcqRel);
        Self(activity)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.idle_since.lock() = Instant::now();
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}
