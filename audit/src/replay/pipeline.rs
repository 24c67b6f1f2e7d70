//! A bounded pipeline: one thread reads rows, all cores work on them, and the caller takes the results in order.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::item::{SourceError, StrandRow};

/// Rows of a batch. Measured for signatures: larger batches cost at most a sixth less for each.
const BATCH_ROWS: usize = 512;
/// Bytes of envelopes of a batch. A guess: envelopes may have 25 MiB each.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Batches that wait for a thread, and that wait behind it. Two keep it busy.
const WAITING: usize = 2;

/// A row that a thread works on.
pub(crate) trait PipelineRow: Send {
    /// Returns the length of its envelope, in bytes.
    fn len_bytes(&self) -> usize;
}

impl PipelineRow for StrandRow {
    fn len_bytes(&self) -> usize {
        match self {
            Self::Envelope { bytes, .. } => bytes.len(),
            Self::Gap { .. } | Self::Pruned { .. } | Self::Leaf { .. } => 0,
        }
    }
}

/// Rows, or the error at which reading ended.
type Batch<T> = Result<Vec<T>, SourceError>;

/// Gives all rows to `work` on `threads` threads and passes the results to `each` in their order, batch by batch. Ends
/// with the first error, of the source or of `each`.
///
/// # Errors
/// See above.
pub(crate) fn run<R: PipelineRow, T: Send, E: From<SourceError>>(
    work: &(impl Fn(Vec<R>) -> Vec<T> + Sync),
    threads: usize,
    rows: impl Iterator<Item = Result<R, SourceError>> + Send,
    each: impl FnMut(Vec<T>) -> Result<(), E>,
) -> Result<(), E> {
    run_in_batches(BATCH_ROWS, work, threads, rows, each)
}

/// Does the same as [`run`] with up to `batch_rows` rows in a batch. The bound on the bytes of a batch stays.
///
/// # Errors
/// See [`run`].
pub(crate) fn run_in_batches<R: PipelineRow, T: Send, E: From<SourceError>>(
    batch_rows: usize,
    work: &(impl Fn(Vec<R>) -> Vec<T> + Sync),
    threads: usize,
    rows: impl Iterator<Item = Result<R, SourceError>> + Send,
    mut each: impl FnMut(Vec<T>) -> Result<(), E>,
) -> Result<(), E> {
    thread::scope(|scope| {
        // Batch n goes to thread n modulo the number of threads, and the caller takes it from there, so the order needs
        // no numbers.
        let (mut jobs, mut results) = (Vec::new(), Vec::new());
        for _ in 0..threads.max(1) {
            let (job, waiting) = sync_channel(WAITING);
            let (done, result) = sync_channel(WAITING);
            scope.spawn(move || serve(work, &waiting, &done));
            jobs.push(job);
            results.push(result);
        }
        scope.spawn(move || read(batch_rows, rows, &jobs));
        for result in results.iter().cycle() {
            match result.recv() {
                Ok(batch) => each(batch?)?,
                Err(_) => break, // this thread's queue has ended, so the reader has
            }
        }
        Ok(())
    })
}

fn serve<R, T>(
    work: &impl Fn(Vec<R>) -> Vec<T>,
    waiting: &Receiver<Batch<R>>,
    done: &SyncSender<Batch<T>>,
) {
    for batch in waiting {
        if done.send(batch.map(work)).is_err() {
            return;
        }
    }
}

/// Reads rows into batches until they end, or the caller takes no more.
fn read<R: PipelineRow>(
    batch_rows: usize,
    rows: impl Iterator<Item = Result<R, SourceError>>,
    jobs: &[SyncSender<Batch<R>>],
) {
    let mut turns = jobs.iter().cycle();
    let mut send = |batch| turns.next().is_some_and(|job| job.send(batch).is_ok());
    let (mut batch, mut len_bytes) = (Vec::new(), 0);
    for row in rows {
        match row {
            Ok(row) => {
                len_bytes += row.len_bytes();
                batch.push(row);
            }
            Err(error) => {
                let _ = send(Ok(std::mem::take(&mut batch))) && send(Err(error));
                return;
            }
        }
        if batch.len() >= batch_rows || len_bytes >= BATCH_BYTES {
            len_bytes = 0;
            if !send(Ok(std::mem::take(&mut batch))) {
                return;
            }
        }
    }
    if !batch.is_empty() {
        let _ = send(Ok(batch));
    }
}
