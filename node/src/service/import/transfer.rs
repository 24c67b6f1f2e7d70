//! Reads and checks all strands, and later reads and writes them: each step concurrently with the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_engine::replication::EnvelopeVerifier;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{LogEntry, ReadError, Store};

use super::batches::{BatchResults, RowBatches, joined};
use super::error::ImportError;
use super::source::SourceDatabase;
use super::strand::{
    CheckedRow, CheckedStrand, OfRows, RowError, StrandCheck, StrandConversion, check_rows,
    entries_of,
};
use crate::service::blocking;

/// Checks strands, and writes nothing. Calls `note` with the number of rows read.
///
/// # Errors
/// Fails when a row is bad, or the database fails.
pub(super) async fn check(
    source: &SourceDatabase,
    verifiers: &BTreeMap<OriginatorId, EnvelopeVerifier>,
    note: &mut (dyn FnMut(u64) + Send),
) -> Result<BTreeMap<OriginatorId, CheckedStrand>, ImportError> {
    let starts: Vec<_> = verifiers.keys().map(|it| (*it, SequenceId::NONE)).collect();
    let of = verifiers.iter().map(|(it, verifier)| (*it, without_receipts(verifier)));
    let of: BTreeMap<_, _> = of.collect();
    let (batches, results) =
        RowBatches::new(move |originator, rows| check_rows(&of[&originator], &rows));
    let checks = verifiers.keys().map(|it| (*it, StrandCheck::new(*it))).collect();
    let checking = tokio::spawn(take_checked(checks, results));
    let read = read(source, &starts, &batches, note).await;
    drop(batches);
    // A bad row makes the reading end too, so the check has the reason.
    let checked = joined(checking).await?;
    read?;
    Ok(checked)
}

/// Returns the verifier of a node whose own strand is not imported. Its results lack the receipts of this node's
/// envelopes and are otherwise the same. A pass that stores nothing has no use for receipts, and each costs another
/// hash of its payload.
fn without_receipts(verifier: &EnvelopeVerifier) -> EnvelopeVerifier {
    EnvelopeVerifier { own: OriginatorId::GROUP_MESSAGES, ..verifier.clone() }
}

async fn take_checked(
    mut checks: BTreeMap<OriginatorId, StrandCheck>,
    mut results: BatchResults<OfRows<CheckedRow>>,
) -> Result<BTreeMap<OriginatorId, CheckedStrand>, ImportError> {
    while let Some((originator, rows)) = results.next().await {
        let check = checks.get_mut(&originator).expect("rows of the strands that are checked");
        check.note(rows).map_err(|bad| row_error(originator, bad))?;
    }
    Ok(checks.into_iter().map(|(originator, check)| (originator, check.finish())).collect())
}

/// Writes what the log lacks of checked strands. Calls `note` with the number of rows read.
///
/// # Errors
/// Fails when database or log fail. The log then contains a part of the strands.
pub(super) async fn write(
    source: &SourceDatabase,
    store: &Store,
    verifiers: &BTreeMap<OriginatorId, EnvelopeVerifier>,
    checked: &Arc<BTreeMap<OriginatorId, CheckedStrand>>,
    note: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ImportError> {
    let starts = {
        let snapshot = store.snapshot();
        let starts = verifiers.keys().map(|it| Ok((*it, snapshot.head(*it)?)));
        starts.collect::<Result<Vec<_>, ReadError>>()?
    };
    let (of, checked) = (verifiers.clone(), Arc::clone(checked));
    let (batches, results) = RowBatches::new(move |originator, rows| {
        entries_of(&of[&originator], &checked[&originator], &rows)
    });
    let strands = starts.iter().map(|(it, held)| (*it, StrandConversion::new(*it, *held)));
    let writing = tokio::spawn(take_entries(strands.collect(), results, store.clone()));
    let read = read(source, &starts, &batches, note).await;
    drop(batches);
    // A write that fails makes the reading end too, so the writer has the reason.
    joined(writing).await?;
    read
}

async fn take_entries(
    mut strands: BTreeMap<OriginatorId, StrandConversion>,
    mut results: BatchResults<OfRows<LogEntry>>,
    store: Store,
) -> Result<(), ImportError> {
    while let Some((originator, entries)) = results.next().await {
        let strand = strands.get_mut(&originator).expect("rows of the strands that are written");
        let changes = strand.changes(entries).map_err(|bad| row_error(originator, bad))?;
        let store = store.clone();
        blocking(move || store.commit(&changes)).await?;
    }
    Ok(())
}

/// Reads strands, each from the place after the one beside it.
async fn read<T: Send + 'static>(
    source: &SourceDatabase,
    starts: &[(OriginatorId, SequenceId)],
    batches: &RowBatches<T>,
    note: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ImportError> {
    for &(originator, mut after) in starts {
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
