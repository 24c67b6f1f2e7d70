//! Reads and checks one strand, and later reads and writes it: each step concurrently, on its own thread.

use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{Change, CommitError, Store};
use tokio::sync::mpsc;

use super::error::ImportError;
use super::source::SourceDatabase;
use super::strand::{CheckedStrand, RowError, SourceRow, StrandCheck, StrandConversion};
use crate::service::blocking;

/// The number of batches that wait between two steps, besides the one in progress. A guess: enough that no step waits
/// for another one's pauses.
const WAITING: usize = 2;

/// Checks one strand and writes nothing. Calls `note` with the number of rows read.
///
/// # Errors
/// Fails when a row is bad, or the database fails.
pub(super) async fn check(
    source: &SourceDatabase,
    strand: StrandCheck,
    note: &mut (dyn FnMut(u64) + Send),
) -> Result<CheckedStrand, ImportError> {
    let start = (strand.originator(), SequenceId::NONE);
    let (rows_to, rows) = mpsc::channel(WAITING);
    let checking = tokio::spawn(blocking(move || check_rows(strand, rows)));
    let read = read(source, start, &rows_to, note).await;
    drop(rows_to);
    // A bad row makes the reading end too, so the check has the reason.
    let checked = joined(checking).await?;
    read?;
    Ok(checked)
}

/// Writes one checked strand. Calls `note` with the number of rows read.
///
/// # Errors
/// Fails when database or log fail. The log then contains a part of the strand.
pub(super) async fn write(
    source: &SourceDatabase,
    store: Store,
    strand: StrandConversion,
    note: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ImportError> {
    let start = (strand.originator(), strand.last());
    let (rows_to, rows) = mpsc::channel(WAITING);
    let (changes_to, changes) = mpsc::channel(WAITING);
    let converting = tokio::spawn(blocking(move || convert_rows(strand, rows, &changes_to)));
    let writing = tokio::spawn(blocking(move || write_changes(&store, changes)));
    let read = read(source, start, &rows_to, note).await;
    drop(rows_to);
    let (converted, written) = (joined(converting).await, joined(writing).await);
    // A step that fails makes the preceding steps end too, so the last step has the reason.
    written?;
    converted?;
    read
}

async fn joined<T>(task: tokio::task::JoinHandle<T>) -> T {
    match task.await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}

async fn read(
    source: &SourceDatabase,
    (originator, mut after): (OriginatorId, SequenceId),
    rows_to: &mpsc::Sender<Vec<SourceRow>>,
    note: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ImportError> {
    while let Some(through) = source.next_page(originator, after).await? {
        let is_over = source.read_page(originator, after, through, rows_to, note).await?;
        if is_over {
            break;
        }
        after = through;
    }
    Ok(())
}

fn check_rows(
    mut strand: StrandCheck,
    mut rows: mpsc::Receiver<Vec<SourceRow>>,
) -> Result<CheckedStrand, ImportError> {
    let (threads, originator) = (threads(), strand.originator());
    while let Some(batch) = rows.blocking_recv() {
        strand.take(&batch, threads).map_err(|bad| row_error(originator, bad))?;
    }
    Ok(strand.finish())
}

fn convert_rows(
    mut strand: StrandConversion,
    mut rows: mpsc::Receiver<Vec<SourceRow>>,
    changes_to: &mpsc::Sender<Vec<Change>>,
) -> Result<(), ImportError> {
    let (threads, originator) = (threads(), strand.originator());
    while let Some(batch) = rows.blocking_recv() {
        let changes = strand.take(&batch, threads).map_err(|bad| row_error(originator, bad))?;
        if changes_to.blocking_send(changes).is_err() {
            break;
        }
    }
    Ok(())
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn row_error(originator: OriginatorId, (sequence, source): (i64, RowError)) -> ImportError {
    ImportError::Row { originator, sequence, source }
}

fn write_changes(
    store: &Store,
    mut changes: mpsc::Receiver<Vec<Change>>,
) -> Result<(), CommitError> {
    while let Some(batch) = changes.blocking_recv() {
        if !batch.is_empty() {
            store.commit(&batch)?;
        }
    }
    Ok(())
}
