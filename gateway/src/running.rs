//! Counts the tasks that continue after their callers have hung up, so that a shutdown can wait for them.

use std::sync::Arc;

use tokio::sync::watch;

/// A counter of running tasks. Clones share one count.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunningTasks(Arc<watch::Sender<()>>);

/// Counts one task until it is dropped.
#[derive(Debug)]
pub(crate) struct RunningTask {
    _counted: watch::Receiver<()>,
}

impl RunningTasks {
    /// Counts one more task.
    pub(crate) fn begin(&self) -> RunningTask {
        RunningTask { _counted: self.0.subscribe() }
    }

    /// Waits until no counted task is left. Returns at once if there is none.
    pub(crate) async fn ended(&self) {
        self.0.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_end_comes_with_the_last_task() {
        let running = RunningTasks::default();
        assert!(running.ended().now_or_never().is_some());
        let (one, other) = (running.begin(), running.clone().begin());
        drop(one);
        assert!(running.ended().now_or_never().is_none());
        drop(other);
        assert!(running.ended().now_or_never().is_some());
    }
}
