//! Both sides at the end of an import.

use hawser_engine::ports::NodeRecord;
use hawser_proto::EnvelopeId;
use hawser_storage::{Change, LogItem, ReadError, SkipReason, Store};

use super::check::ImportPlan;
use super::error::ImportError;
use super::strand::{StrandDigest, StrandReport};
use crate::service::blocking;

/// Moves the end of the own strand above every place that was ever given out, so that none is given out
/// again even if the operator confirms the folder as complete. Brings everything to the disk.
///
/// # Errors
/// When the log cannot be written.
pub(super) async fn seal(
    store: &Store,
    own: &NodeRecord,
    plan: &ImportPlan,
) -> Result<(), ImportError> {
    let (store, own, counter) = (store.clone(), own.id, plan.counter);
    blocking(move || {
        let head = store.snapshot().head(own)?;
        if head < counter {
            let (from, reason) = (head.next(), SkipReason::Missing);
            store.commit(&[Change::Skip { originator: own, from, through: counter, reason }])?;
        }
        Ok(store.flush()?)
    })
    .await
}

/// Reads the log, and compares each strand with what the database held.
///
/// # Errors
/// [`ImportError::Differs`], or when the log cannot be read.
pub(super) async fn require_same(
    store: &Store,
    strands: Vec<StrandReport>,
) -> Result<Vec<StrandReport>, ImportError> {
    let store = store.clone();
    blocking(move || {
        for there in &strands {
            let (envelopes, digest) = held(&store, there)?;
            if (envelopes, digest) != (there.envelopes, there.digest) {
                return Err(ImportError::Differs {
                    originator: there.originator,
                    there: text(there.envelopes, &there.digest),
                    here: text(envelopes, &digest),
                });
            }
        }
        Ok(strands)
    })
    .await
}

/// Returns count and digest of a strand in the log.
fn held(store: &Store, strand: &StrandReport) -> Result<(u64, [u8; 32]), ReadError> {
    let snapshot = store.snapshot();
    let (mut envelopes, mut digest) = (0, StrandDigest::default());
    let start = EnvelopeId::new(strand.originator, hawser_proto::SequenceId::NONE);
    for item in snapshot.log(start, snapshot.head(strand.originator)?) {
        if let LogItem::Envelope { id, bytes, .. } = item? {
            digest.add(id.sequence, &bytes);
            envelopes += 1;
        }
    }
    Ok((envelopes, digest.finish()))
}

fn text(envelopes: u64, digest: &[u8; 32]) -> String {
    format!("{envelopes} envelopes with digest {}", hex::encode(digest))
}
