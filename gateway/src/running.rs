//! The tasks that go on when their callers have hung up, counted for the shutdown.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts tasks. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunningTasks(Arc<watch::Sender<()>>);

/// One task for as long as it lives.
#[derive(Debug)]
pub(crate) struct RunningTask {
    _counted: watch::Receiver<()>,
}

impl RunningTasks {
    /// Counts one more task.
    pub(crate) fn begin(&self) -> RunningTask {
        RunningTask { _counted: self.0.subscribe() }
    }

    /// Waits until none is left.
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
