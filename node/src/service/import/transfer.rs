//! Reads, checks and writes strands, each step concurrently with the others.

use std::collections::BTreeMap;

use hawser_engine::replication::EnvelopeVerifier;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::RateTable;
use hawser_storage::{Change, Store};

use super::batches::{BatchResults, RowBatches, joined};
use super::error::ImportError;
use super::source::SourceDatabase;
use super::strand::{CheckedRow, RowError, RowResults, StrandImport, StrandReport, check_rows};
use crate::service::blocking;
use crate::service::strand_faults::StrandFaults;

/// The facts by which the nodes of the strands are judged.
pub(super) struct JudgingFacts {
    pub(super) rates: RateTable,
    pub(super) now_unix_s: u64,
}

/// One strand on its way into the log.
struct StrandTransfer {
    import: StrandImport,
    /// Records evidence against the strand's node. `None` for the own strand and for those of the older network, whose
    /// signer is no node of the registry.
    faults: Option<StrandFaults>,
}

impl StrandTransfer {
    /// Continues after the head of the strand in the log.
    fn begin(
        store: &Store,
        verifier: &EnvelopeVerifier,
        facts: &JudgingFacts,
    ) -> Result<Self, ImportError> {
        let originator = verifier.originator;
        let import = StrandImport::new(originator, store.snapshot().head(originator)?);
        let faults = if originator == verifier.own || originator.is_migrated() {
            None
        } else {
            let rates = facts.rates.clone();
            Some(StrandFaults::after_log(store, originator, rates, facts.now_unix_s)?)
        };
        Ok(Self { import, faults })
    }
}

/// Checks all rows of strands, and writes those that the log lacks. Calls `note` with the number of rows read.
///
/// # Errors
/// Fails when a row is bad, or database or log fail. The log then contains a part of the strands.
pub(super) async fn take(
    source: &SourceDatabase,
    store: &Store,
    verifiers: BTreeMap<OriginatorId, EnvelopeVerifier>,
    facts: &JudgingFacts,
    note: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<StrandReport>, ImportError> {
    let originators: Vec<_> = verifiers.keys().copied().collect();
    let strands = begin(store, &verifiers, facts)?;
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

fn begin(
    store: &Store,
    verifiers: &BTreeMap<OriginatorId, EnvelopeVerifier>,
    facts: &JudgingFacts,
) -> Result<BTreeMap<OriginatorId, StrandTransfer>, ImportError> {
    let mut strands = BTreeMap::new();
    for (&originator, verifier) in verifiers {
        strands.insert(originator, StrandTransfer::begin(store, verifier, facts)?);
    }
    Ok(strands)
}

/// Takes over checked rows until there are no more.
async fn write(
    mut strands: BTreeMap<OriginatorId, StrandTransfer>,
    mut results: BatchResults<RowResults<CheckedRow>>,
    store: Store,
) -> Result<Vec<StrandReport>, ImportError> {
    while let Some((originator, rows)) = results.next().await {
        let strand = strands.get_mut(&originator).expect("rows of the strands that are taken");
        let changes = strand.import.take(rows).map_err(|bad| row_error(originator, bad))?;
        if !changes.is_empty() {
            let (store, faults) = (store.clone(), strand.faults.take());
            strand.faults = blocking(move || commit(&store, faults, &changes)).await?;
        }
    }
    Ok(strands.into_values().map(|strand| strand.import.finish()).collect())
}

/// Records the faults that changes show, if the strand's node is judged, and commits the changes.
fn commit(
    store: &Store,
    faults: Option<StrandFaults>,
    changes: &[Change],
) -> Result<Option<StrandFaults>, ImportError> {
    let Some(mut faults) = faults else {
        store.commit(changes)?;
        return Ok(None);
    };
    faults.commit(store, changes)?;
    Ok(Some(faults))
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

#[cfg(test)]
mod tests {
    use hawser_proto::envelope::UnsealedEnvelope;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_rules::{Absences, PicoDollarPrice, PicoDollarsPerByteDay, Rate};
    use hawser_storage::Misbehavior;

    use super::super::strand::SourceRow;
    use super::*;
    use crate::service::testing::{evidence, key, open, places_of};

    const OWN: OriginatorId = OriginatorId(100);
    const OTHER: OriginatorId = OriginatorId(200);

    fn verifier(originator: OriginatorId) -> EnvelopeVerifier {
        let key = key(originator.0).public_key();
        EnvelopeVerifier { originator, key, own: OWN, absences: Absences::NONE }
    }

    /// Returns the row of an envelope that breaks a rule, dated so many seconds after 1970.
    fn row(originator: OriginatorId, sequence: u64, second: i64) -> SourceRow {
        let expiry = second + 60 * 86_400;
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: originator.0,
            originator_sequence_id: sequence,
            originator_ns: second * 1_000_000_000,
            payer_envelope_bytes: "no payer's envelope".into(),
            base_fee_picodollars: 0,
            congestion_fee_picodollars: 0,
            expiry_unixtime: u64::try_from(expiry).unwrap(),
        };
        SourceRow {
            sequence: i64::try_from(sequence).unwrap(),
            is_long: false,
            topic: Vec::new(),
            expiry,
            payer: None,
            envelope: Some(UnsealedEnvelope::new(&statement).seal(&key(originator.0))),
        }
    }

    /// Takes over both strands, each with rows of these places and times.
    async fn taken(store: &Store, facts: &JudgingFacts, rows: &[(u64, i64)]) -> Vec<StrandReport> {
        let verifiers: BTreeMap<_, _> = [OWN, OTHER].map(|it| (it, verifier(it))).into();
        let strands = begin(store, &verifiers, facts).unwrap();
        let (batches, results) = RowBatches::new(|originator, rows: Vec<SourceRow>| {
            check_rows(&verifier(originator), &rows)
        });
        let writing = tokio::spawn(write(strands, results, store.clone()));
        for originator in [OWN, OTHER] {
            let rows: Vec<_> =
                rows.iter().map(|(place, second)| row(originator, *place, *second)).collect();
            assert!(batches.send(originator, rows).await);
        }
        drop(batches);
        writing.await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn faults_of_other_nodes_are_evidence_as_when_peers_bring_their_strands() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, "new", OWN.0);
        let (message_fee, storage_fee, congestion_fee, target_rate_per_minute) = (0, 0, 0, 0);
        let rate = Rate {
            start_unix_s: 0,
            message_fee: PicoDollarPrice(message_fee),
            storage_fee: PicoDollarsPerByteDay(storage_fee),
            congestion_fee: PicoDollarPrice(congestion_fee),
            target_rate_per_minute,
        };
        let rates = RateTable::new(vec![rate], None).unwrap();
        let facts = JudgingFacts { rates, now_unix_s: 1000 };
        taken(&store, &facts, &[(1, 500), (2, 400)]).await;
        // A run that continues checks all rows again, and records what the other rows show.
        let reports = taken(&store, &facts, &[(1, 500), (2, 400), (3, 300)]).await;
        assert_eq!(reports.iter().map(|it| it.envelopes).collect::<Vec<_>>(), [3, 3]);
        let all = evidence(&store);
        assert!(all.iter().all(|it| it.evidence.at.originator == OTHER), "{all:?}");
        assert_eq!(places_of(&all, Misbehavior::Invalid(1)), [1, 2, 3]);
        assert_eq!(places_of(&all, Misbehavior::TimeBack), [2, 3]);
        assert_eq!(all.len(), 5);
    }
}
