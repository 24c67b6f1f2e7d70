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
            // In this order: the last call sets the time before it ends, and a time from before it may be long ago.
            let idle = !self.is_busy();
            let since = *self.idle_since.lock();
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
    /// Ends the call. Only the last one of the connection sets the time since which there is none, before it ends: with
    /// 64 calls under way, most ends read no clock and take no lock.
    fn drop(&mut self) {
        let Activity { calls, idle_since } = &*self.0;
        let mut open = calls.load(Ordering::Acquire);
        loop {
            if open == 1 {
                *idle_since.lock() = Instant::now();
            }
            let end =
                calls.compare_exchange_weak(open, open - 1, Ordering::AcqRel, Ordering::Acquire);
            match end {
                Ok(_) => return,
                Err(now) => open = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_call_on() {
        let activity = Arc::new(Activity::new());
        let [first, second] = [(); 2].map(|()| Busy::new(activity.clone()));
        tokio::time::advance(LIMIT).await;
        drop(second);
        assert!(activity.is_busy());
        tokio::time::advance(LIMIT).await;
        drop(first);
        assert!(!activity.is_busy());
        let ended = Instant::now();
        activity.idle_for(LIMIT).await;
        assert!(ended.elapsed() >= LIMIT, "{:?}", ended.elapsed());
    }
}
