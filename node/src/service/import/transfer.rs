//! Reads, checks and writes strands, each step concurrently with the others.

use std::collections::BTreeMap;

use hawser_engine::replication::EnvelopeVerifier;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{ReadError, Store};

use super::batches::{BatchResults, RowBatches, joined};
use super::error::ImportError;
use super::source::SourceDatabase;
use super::strand::{CheckedRow, OfRows, RowError, StrandImport, StrandReport, check_rows};
use crate::service::blocking;

/// Checks all rows of strands, and writes those that the log lacks. Calls `note` with the number of rows read.
///
/// # Errors
/// Fails when a row is bad, or database or log fail. The log then contains a part of the strands.
pub(super) async fn take(
    source: &SourceDatabase,
    store: &Store,
    verifiers: BTreeMap<OriginatorId, EnvelopeVerifier>,
    note: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<StrandReport>, ImportError> {
    let originators: Vec<_> = verifiers.keys().copied().collect();
    let strands = {
        let snapshot = store.snapshot();
        let begin = |it: &OriginatorId| Ok((*it, StrandImport::new(*it, snapshot.head(*it)?)));
        originators.iter().map(begin).collect::<Result<BTreeMap<_, _>, ReadError>>()?
    };
    let (batches, results) =
        RowBatches::new(move |originator, rows| check_rows(&verifiers[&originator], &rows));
    let writing = tokio::spawn(write(strands, results, store.clone()));
    let read = read(source, &originators, &batches, note).await;
    drop(batches);
    // A bad row, and a write that fails, make the reading end too, so the writer has the reason.
    let taken = joined(writing).await?;
    read?;
    Ok(taken)
}

/// Takes over checked rows until there are no more.
async fn write(
    mut strands: BTreeMap<OriginatorId, StrandImport>,
    mut results: BatchResults<OfRows<CheckedRow>>,
    store: Store,
) -> Result<Vec<StrandReport>, ImportError> {
    while let Some((originator, rows)) = results.next().await {
        let strand = strands.get_mut(&originator).expect("rows of the strands that are taken");
        let changes = strand.take(rows).map_err(|bad| row_error(originator, bad))?;
        if !changes.is_empty() {
            let store = store.clone();
            blocking(move || store.commit(&changes)).await?;
        }
    }
    Ok(strands.into_values().map(StrandImport::finish).collect())
}

/// Reads strands from their first places on.
async fn read<T: Send + 'static>(
    source: &SourceDatabase,
    originators: &[OriginatorId],
    batches: &RowBatches<T>,
    note: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ImportError> {
    for &originator in originators {
        let mut after = SequenceId::NONE;
        while let Some(through) = source.next_page(originator, after).await? {
            let is_over = source.read_page(originator, after, through, batches, note).await?;
            if is_over {
                return Ok(());
            }
            after = through;
        }
    }
    Ok(())
}

fn row_error(originator: OriginatorId, (sequence, source): (i64, RowError)) -> ImportError {
    ImportError::Row { originator, sequence, source }
}
