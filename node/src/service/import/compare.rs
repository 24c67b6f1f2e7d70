//! The final comparison of database and log after an import.

use hawser_engine::ports::NodeRecord;
use hawser_proto::{EnvelopeId, OriginatorId};
use hawser_storage::{Change, LogItem, ReadError, SkipReason, Store};

use super::check::ImportPlan;
use super::error::ImportError;
use super::strand::{StrandDigest, StrandReport};
use crate::service::blocking;

/// Requires that an earlier run has written no strand that this one leaves out. A part of it would stay, and nothing
/// would compare it with the database.
///
/// # Errors
/// [`ImportError::OtherStrand`], or when the log cannot be read.
pub(super) fn require_planned(
    store: &Store,
    own: OriginatorId,
    plan: &ImportPlan,
) -> Result<(), ImportError> {
    let heads = store.snapshot().heads()?;
    // The own strand may have no envelope, and ends above every sequence id that was assigned.
    let is_planned = |it: OriginatorId| it == own || plan.strands.contains_key(&it);
    match heads.iter().map(|head| head.originator).find(|it| !is_planned(*it)) {
        Some(originator) => Err(ImportError::OtherStrand { originator }),
        None => Ok(()),
    }
}

/// Moves the end of the own strand above every sequence id that was ever assigned, so that none is assigned again even
/// if the operator confirms the folder as complete. Syncs everything to the disk.
///
/// # Errors
/// Fails when the log cannot be written.
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

/// Reads the log and compares each strand with the content of the database.
///
/// # Errors
/// [`ImportError::Differs`], or when the log cannot be read.
pub(super) async fn require_same(
    store: &Store,
    strands: Vec<StrandReport>,
) -> Result<Vec<StrandReport>, ImportError> {
    let store = store.clone();
    blocking(move || {
        for (there, held) in strands.iter().zip(all_held(&store, &strands)) {
            let (envelopes, digest) = held?;
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

/// The count and the digest of a strand in the log.
type CountAndDigest = Result<(u64, [u8; 32]), ReadError>;

/// Reads strands in the log, as many concurrently as there are cores.
fn all_held(store: &Store, strands: &[StrandReport]) -> Vec<CountAndDigest> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = Vec::with_capacity(strands.len());
    for some in strands.chunks(threads) {
        std::thread::scope(|scope| {
            let running: Vec<_> =
                some.iter().map(|strand| scope.spawn(move || held(store, strand))).collect();
            all.extend(running.into_iter().map(|it| match it.join() {
                Ok(held) => held,
                Err(panic) => std::panic::resume_unwind(panic),
            }));
        });
    }
    all
}

/// Returns the count and the digest of a strand in the log.
fn held(store: &Store, strand: &StrandReport) -> CountAndDigest {
    let snapshot = store.snapshot();
    let (mut envelopes, mut digest) = (0, StrandDigest::default());
    let start = EnvelopeId::new(strand.originator, hawser_proto::SequenceId::NONE);
    for item in snapshot.log(start, snapshot.head(strand.originator)?) {
        if let LogItem::Envelope { id, bytes, .. } = item? {
            digest.add(id.sequence, &blake3::hash(&bytes));
            envelopes += 1;
        }
    }
    Ok((envelopes, digest.finish()))
}

fn text(envelopes: u64, digest: &[u8; 32]) -> String {
    format!("{envelopes} envelopes with digest {}", hex::encode(digest))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hawser_proto::{SecretKey, SequenceId};
    use hawser_rules::PicoDollarPrice;
    use hawser_storage::StoreIdentity;

    use super::super::check::PlannedStrand;
    use super::super::strand::gap;
    use super::*;

    const OWN: OriginatorId = OriginatorId(100);
    const OLDER: OriginatorId = OriginatorId(10);

    /// The first run was given the signer of the older network, and the second one is not.
    #[test]
    fn a_strand_of_an_earlier_run_is_not_left_behind_in_part() {
        let key = SecretKey::from_bytes(&[1; 32]).unwrap().public_key();
        let identity = StoreIdentity { network: "test".to_owned(), node: OWN, public_key: key };
        let store = Store::in_memory(identity, |_, _| PicoDollarPrice(0)).unwrap();
        for originator in [OWN, OLDER] {
            let places = gap(originator, SequenceId::NONE, SequenceId(6)).unwrap();
            store.commit(&[places]).unwrap();
        }
        let plan = |strands: &[OriginatorId]| {
            let head = SequenceId(5);
            let planned = |it: &OriginatorId| (*it, PlannedStrand { key, envelopes: 5, head });
            let strands = strands.iter().map(planned).collect::<BTreeMap<_, _>>();
            ImportPlan { strands, left_out: Vec::new(), counter: SequenceId(5) }
        };
        assert!(require_planned(&store, OWN, &plan(&[OWN, OLDER])).is_ok());
        assert!(require_planned(&store, OWN, &plan(&[OLDER])).is_ok());
        let refused = require_planned(&store, OWN, &plan(&[OWN])).unwrap_err();
        assert!(matches!(refused, ImportError::OtherStrand { originator: OLDER }), "{refused}");
    }
}
