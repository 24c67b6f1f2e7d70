//! Reads, verifies and writes one strand concurrently, each on its own thread.

use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{Change, CommitError, Store};
use tokio::sync::mpsc;

use super::error::ImportError;
use super::source::SourceDatabase;
use super::strand::{SourceRow, StrandImport, StrandReport};
use crate::service::blocking;

/// The number of batches that wait between two steps, besides the one in progress.
const WAITING: usize = 2;

/// Imports one strand. Calls `note` with the number of rows read.
///
/// # Errors
/// Fails when a row is invalid, or database or log fail. The log then contains a part of the strand.
pub(super) async fn transfer(
    source: &SourceDatabase,
    store: Store,
    strand: StrandImport,
    note: &mut (dyn FnMut(u64) + Send),
) -> Result<StrandReport, ImportError> {
    let originator = strand.originator();
    let (rows_to, rows) = mpsc::channel(WAITING);
    let (changes_to, changes) = mpsc::channel(WAITING);
    let checking = tokio::spawn(blocking(move || check(strand, rows, &changes_to)));
    let writing = tokio::spawn(blocking(move || write(&store, changes)));
    let read = read(source, originator, &rows_to, note).await;
    drop(rows_to);
    let (checked, written) = (joined(checking).await, joined(writing).await);
    // A step that fails makes the preceding steps end too, so the last step has the reason.
    written?;
    let report = checked?;
    read?;
    Ok(report)
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
    originator: OriginatorId,
    rows_to: &mpsc::Sender<Vec<SourceRow>>,
    note: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ImportError> {
    let mut after = SequenceId::NONE;
    while let Some(through) = source.next_page(originator, after).await? {
        let is_over = source.read_page(originator, after, through, rows_to, note).await?;
        if is_over {
            break;
        }
        after = through;
    }
    Ok(())
}

fn check(
    mut strand: StrandImport,
    mut rows: mpsc::Receiver<Vec<SourceRow>>,
    changes_to: &mpsc::Sender<Vec<Change>>,
) -> Result<StrandReport, ImportError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let originator = strand.originator();
    while let Some(batch) = rows.blocking_recv() {
        let changes = strand
            .take(batch, threads)
            .map_err(|(sequence, source)| ImportError::Row { originator, sequence, source })?;
        if changes_to.blocking_send(changes).is_err() {
            break;
        }
    }
    Ok(strand.finish())
}

fn write(store: &Store, mut changes: mpsc::Receiver<Vec<Change>>) -> Result<(), CommitError> {
    while let Some(batch) = changes.blocking_recv() {
        if !batch.is_empty() {
            store.commit(&batch)?;
        }
    }
    Ok(())
}
