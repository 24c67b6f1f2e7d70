//! The statements of a snapshot about void places, which a node takes as from a peer.
//!
//! The maker of a snapshot may add statements that no node has signed, that are dated ahead, or without end. A manifest
//! has at most 64 for each strand.

use hawser_engine::misbehavior::is_ahead;
use hawser_engine::replication::KnownVoids;
use hawser_proto::void::VoidStatement;
use hawser_rules::Registry;
use hawser_storage::{BootstrapManifest, BootstrapStrand, Store};

use super::error::BootstrapFetchError;

/// Requires that the strand's node has signed the statements about it, if the registry has its key.
///
/// # Errors
/// [`BootstrapFetchError::ForgedVoid`] for the first one that it has not signed.
pub(super) fn require_signed(
    strand: &BootstrapStrand,
    registry: &Registry,
) -> Result<(), BootstrapFetchError> {
    let Some(record) = registry.node(strand.originator) else { return Ok(()) };
    for signed in &strand.voids {
        if signed.verify(&record.public_key).is_err() {
            let VoidStatement { node: originator, from, through, .. } = signed.statement;
            return Err(BootstrapFetchError::ForgedVoid { originator, from, through });
        }
    }
    Ok(())
}

/// Records the statements of a snapshot that passed [`require_signed`], beside those that earlier runs have recorded.
/// As for statements of peers, their nodes must be or have been in the network, and their times must not be ahead.
/// Keeps the first 64 of each node. One about the new node's own strand counts too: the node continues behind its
/// places.
///
/// # Errors
/// When the database fails.
pub(super) fn record(
    manifest: &BootstrapManifest,
    registry: &Registry,
    now_unix_s: u64,
    store: &Store,
) -> Result<(), BootstrapFetchError> {
    let now_ns = i64::try_from(now_unix_s).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    let mut known = KnownVoids::of_recorded(store.identity().node, store.void_statements()?);
    let before = known.all().len();
    for signed in manifest.strands.iter().flat_map(|strand| &strand.voids) {
        let VoidStatement { node, time_ns, .. } = signed.statement;
        let is_of_future = i64::try_from(time_ns).map_or(true, |ns| is_ahead(ns, now_ns));
        if registry.has_been_member(node) && !is_of_future {
            known.add(*signed);
        }
    }
    if known.all().len() > before {
        store.record_void_statements(known.all())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hawser_proto::void::SignedVoid;
    use hawser_proto::{OriginatorId, SequenceId};
    use hawser_storage::{Change, SkipReason};

    use super::super::checkpoints::Evidence;
    use super::super::testing::{Maker, OWN, key, open, registry};
    use super::super::verify;
    use super::*;

    const NOW_S: u64 = 1_750_000_000;

    /// The statement of a node about these places of its strand, signed with the key of `by`.
    fn declared(node: u32, from: u64, by: u32, time_s: u64) -> SignedVoid {
        let (node, from, through) = (OriginatorId(node), SequenceId(from), SequenceId(from + 4));
        let time_ns = time_s * 1_000_000_000;
        VoidStatement { node, from, through, time_ns, incarnation: [4; 16] }.sign(&key(by))
    }

    /// A maker that has strands of nodes 200 and 400, and keeps these statements.
    fn maker(kept: &[SignedVoid]) -> Maker {
        let maker = Maker::new();
        for originator in [OriginatorId(200), OWN] {
            let (from, through, reason) = (SequenceId(1), SequenceId(9), SkipReason::Missing);
            maker.store.commit(&[Change::Skip { originator, from, through, reason }]).unwrap();
        }
        maker.store.record_void_statements(kept).unwrap();
        maker
    }

    #[test]
    fn a_new_node_gets_the_statements_that_the_maker_keeps_once() {
        let (one, own) = (declared(200, 1, 200, NOW_S), declared(OWN.0, 1, OWN.0, NOW_S));
        // Of a node whose strand the maker does not have, and one that is dated ahead of the new node's clock.
        let (unheld, ahead) = (declared(300, 1, 300, NOW_S), declared(200, 2, 200, NOW_S + 301));
        let maker = maker(&[one, unheld, ahead, own]);
        let manifest = maker.copy();
        let all = [100, 200, 300, 400];
        Evidence::of(&manifest, &registry(&all)).unwrap();
        let store = open(&maker.folder, "new", OWN.0);
        for _ in 0..2 {
            record(&manifest, &registry(&all), NOW_S, &store).unwrap();
            assert_eq!(store.void_statements().unwrap(), [one, own]);
        }
        record(&manifest, &registry(&all), NOW_S + 1, &store).unwrap();
        assert_eq!(store.void_statements().unwrap(), [one, own, ahead]);
        // A node that never was in the network.
        let other = open(&maker.folder, "other", OWN.0);
        record(&manifest, &registry(&[400]), NOW_S, &other).unwrap();
        assert_eq!(other.void_statements().unwrap(), [own]);
    }

    #[test]
    fn a_snapshot_with_a_statement_that_the_node_has_not_signed_is_refused() {
        let maker = maker(&[declared(200, 1, 300, NOW_S)]);
        let manifest = maker.copy();
        let known = registry(&[100, 200, 300, 400]);
        let refused = |error: BootstrapFetchError| {
            matches!(
                error,
                BootstrapFetchError::ForgedVoid {
                    originator: OriginatorId(200),
                    from: SequenceId(1),
                    through: SequenceId(5),
                }
            )
        };
        assert!(refused(Evidence::of(&manifest, &known).unwrap_err()));
        let read = |registry| verify(&maker.place, &manifest, registry, &mut |_| {});
        assert!(refused(read(Some(&known)).unwrap_err()));
        assert!(read(None).is_ok(), "without keys nothing is judged");
    }
}
