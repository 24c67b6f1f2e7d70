//! A bounded pipeline: one thread reads rows, all cores work on them, and the caller takes the results in order.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use hawser_proto::Bytes;
use hawser_proto::decoding::decodable_at_once;

use super::item::{SourceError, StrandRow};

/// Rows of a batch. Measured for signatures: larger batches cost at most a sixth less for each.
const BATCH_ROWS: usize = 512;
/// Bytes of envelopes of a batch. A guess: envelopes may have 25 MiB each.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Batches that wait for a thread, and that wait behind it. Two keep it busy.
const WAITING: usize = 2;

/// A row that a thread works on.
pub(crate) trait PipelineRow: Send {
    /// Returns its envelope, if it has one.
    fn envelope(&self) -> Option<&Bytes>;
}

impl PipelineRow for StrandRow {
    fn envelope(&self) -> Option<&Bytes> {
        match self {
            Self::Envelope { bytes, .. } => Some(bytes),
            Self::Gap { .. } | Self::Pruned { .. } | Self::Leaf { .. } => None,
        }
    }
}

/// Rows, or the error at which reading ended.
type Batch<T> = Result<Vec<T>, SourceError>;

/// Gives all rows to `work` on `threads` threads and passes the results to `each` in their order, batch by batch. Ends
/// with the first error, of the source or of `each`.
///
/// `work` may hold the envelopes of its rows decoded: it gets as many rows of a batch as may be decoded at once, and
/// returns a result for each.
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

fn serve<R: PipelineRow, T>(
    work: &impl Fn(Vec<R>) -> Vec<T>,
    waiting: &Receiver<Batch<R>>,
    done: &SyncSender<Batch<T>>,
) {
    for batch in waiting {
        if done.send(batch.map(|rows| work_in_parts(work, rows))).is_err() {
            return;
        }
    }
}

/// Works on the rows that may be decoded at once, and then on those behind them.
fn work_in_parts<R: PipelineRow, T>(work: &impl Fn(Vec<R>) -> Vec<T>, mut rows: Vec<R>) -> Vec<T> {
    let mut results = Vec::with_capacity(rows.len());
    while !rows.is_empty() {
        let behind = rows.split_off(decodable_at_once(rows.iter().map(R::envelope)));
        results.append(&mut work(rows));
        rows = behind;
    }
    results
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
                len_bytes += row.envelope().map_or(0, Bytes::len);
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

#[cfg(test)]
mod tests {
    use hawser_proto::envelope::Payload;
    use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;

    use super::super::item::StoredMark;
    use super::super::testing::{MemoryLog, draft_of};
    use super::*;

    /// An empty action takes two hundred times its bytes once it is decoded.
    #[test]
    fn a_batch_of_long_updates_is_worked_on_in_parts_and_in_order() {
        let update = |at: u64| {
            let actions = vec![Default::default(); 40_000];
            let update = IdentityUpdate { actions, ..Default::default() };
            let draft = draft_of(at, &[2, 7], Payload::IdentityUpdate(update), &[], 30);
            (draft.seal(), StoredMark::Valid)
        };
        let worked_on = |log: MemoryLog| {
            let (mut places, mut parts) = (Vec::new(), Vec::new());
            let work = |rows: Vec<StrandRow>| {
                let count = rows.len();
                rows.into_iter().map(|row| (row, count)).collect::<Vec<_>>()
            };
            let rows = log.rows.into_iter().map(Ok);
            let each = |batch: Vec<(StrandRow, usize)>| {
                for (row, count) in batch {
                    let StrandRow::Envelope { sequence, .. } = row else { panic!("{row:?}") };
                    places.push(sequence.0);
                    parts.push(count);
                }
                Ok(())
            };
            run::<_, _, SourceError>(&work, 2, rows, each).unwrap();
            assert!(places.iter().copied().eq(1..=8), "{places:?}");
            parts
        };
        assert_eq!(
            worked_on(MemoryLog::of((1..=8).map(update).collect())),
            [3, 3, 3, 3, 3, 3, 2, 2]
        );
        assert_eq!(worked_on(MemoryLog::honest(8)), [8; 8]);
    }
}
