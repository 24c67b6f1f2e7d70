//! Batches of rows on their way through an import. Each batch has a thread of its own, several at once, and the results
//! are taken in order. Meanwhile the next batches are read.

use std::sync::Arc;

use hawser_proto::OriginatorId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::strand::SourceRow;

/// The maximum number of batches that threads work on at once, whatever the number of cores. Bounds the memory. A
/// guess: one session of Postgres delivers fewer rows than eight cores check.
const THREADS_MAX: usize = 8;

/// The receiver of a pass over the database: hands each batch of rows to a thread.
pub(super) struct RowBatches<T> {
    running_to: mpsc::Sender<(OriginatorId, JoinHandle<T>)>,
    work: Arc<dyn Fn(OriginatorId, Vec<SourceRow>) -> T + Send + Sync>,
}

/// The results of the batches, in the order of the rows.
pub(super) struct BatchResults<T>(mpsc::Receiver<(OriginatorId, JoinHandle<T>)>);

impl<T: Send + 'static> RowBatches<T> {
    /// Applies `work` to each batch.
    pub(super) fn new(
        work: impl Fn(OriginatorId, Vec<SourceRow>) -> T + Send + Sync + 'static,
    ) -> (Self, BatchResults<T>) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (running_to, running) = mpsc::channel(threads.min(THREADS_MAX));
        (Self { running_to, work: Arc::new(work) }, BatchResults(running))
    }

    /// Hands over the next rows of a strand when a thread is free. Returns false if no results are wanted any more.
    pub(super) async fn send(&self, originator: OriginatorId, rows: Vec<SourceRow>) -> bool {
        let Ok(free) = self.running_to.reserve().await else { return false };
        let work = Arc::clone(&self.work);
        free.send((originator, tokio::task::spawn_blocking(move || work(originator, rows))));
        true
    }
}

impl<T> BatchResults<T> {
    /// Returns the result of the next batch; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<(OriginatorId, T)> {
        let (originator, running) = self.0.recv().await?;
        Some((originator, joined(running).await))
    }
}

/// Returns the result of a task. Panics if the task has panicked, and never returns if it was aborted.
pub(super) async fn joined<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}
