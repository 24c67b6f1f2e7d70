//! The choice of the checkpoint that a proof carries: the one that the most nodes have signed.

use std::cmp::Reverse;

use hawser_audit::proof::signers;
use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::Registry;

/// Checkpoints that are compared, newest first. A guess: a node signs up to four a second, and others cosign only the
/// newest one that they have seen, so the last ones of some seconds may have no cosignature. Of a node that runs, each
/// costs a call, and a caller may be limited to 60 in a minute.
pub(super) const COMPARED_MAX: usize = 16;

/// Returns, of the `compared_max` newest checkpoints of a node that cover a place, the one that the most nodes have
/// validly signed; of several, the newest. `up_to` returns the node's largest checkpoint up to a size.
///
/// # Errors
/// That of `up_to`.
pub(super) fn strongest<E>(
    place: SequenceId,
    registry: &Registry,
    compared_max: usize,
    up_to: impl Fn(u64) -> Result<Option<CosignedCheckpoint>, E>,
) -> Result<Option<CosignedCheckpoint>, E> {
    let (mut strongest, mut most) = (None, 0);
    let mut size_max = SequenceId::MAX.0;
    for _ in 0..compared_max {
        let Some(found) = up_to(size_max)? else { break };
        let size = found.signed.checkpoint.size;
        // A node may answer with another size than it was asked for.
        if size < place.0 || size > size_max || size == 0 {
            break;
        }
        let count = signers(&found, registry);
        if strongest.is_none() || count > most {
            (strongest, most) = (Some(found), count);
        }
        if most >= registry.nodes().count() {
            break; // no other one has more
        }
        size_max = size - 1;
    }
    Ok(strongest)
}

/// Sorts checkpoints of several nodes: the one that the most nodes have validly signed first, and of several that of
/// the strand's originator.
pub(super) fn sort(
    checkpoints: &mut [CosignedCheckpoint],
    originator: OriginatorId,
    registry: &Registry,
) {
    checkpoints.sort_by_cached_key(|it| {
        let is_observers = it.signed.checkpoint.node != originator;
        (Reverse(signers(it, registry)), is_observers)
    });
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hawser_proto::checkpoint::Checkpoint;
    use hawser_proto::merkle::TreeHash;
    use hawser_proto::{Address, SecretKey};
    use hawser_rules::NodeRecord;

    use super::*;

    const NODE: u32 = 100;

    fn key(node: u32) -> SecretKey {
        SecretKey::from_bytes(&[u8::try_from(node / 100).unwrap(); 32]).unwrap()
    }

    fn registry() -> Registry {
        let record = |node: u32| NodeRecord {
            id: OriginatorId(node),
            public_key: key(node).public_key(),
            owner: Address([0; 20]),
            http_address: None,
            quic_address: None,
            canonical: true,
        };
        [100, 200, 300].map(record).into_iter().collect()
    }

    /// A checkpoint of the strand of `NODE` by a node, with the cosignatures of others.
    fn checkpoint(node: u32, size: u64, cosigners: &[u32]) -> CosignedCheckpoint {
        let of = Checkpoint {
            node: OriginatorId(node),
            originator: OriginatorId(NODE),
            size,
            root: TreeHash([1; 32]),
            time_ns: size,
        };
        let mut cosigned = CosignedCheckpoint::from(of.sign(&key(node)));
        for cosigner in cosigners {
            let cosignature = of.cosign(OriginatorId(*cosigner), size, &key(*cosigner));
            assert!(cosigned.add_cosignature(cosignature));
        }
        cosigned
    }

    fn strongest_of(place: u64, stored: &[CosignedCheckpoint]) -> Option<u64> {
        let up_to = |size_max: u64| {
            let fits = stored.iter().filter(|it| it.signed.checkpoint.size <= size_max);
            Ok::<_, Infallible>(fits.max_by_key(|it| it.signed.checkpoint.size).cloned())
        };
        let found = strongest(SequenceId(place), &registry(), COMPARED_MAX, up_to).unwrap();
        found.map(|it| it.signed.checkpoint.size)
    }

    #[test]
    fn a_cosigned_checkpoint_goes_before_newer_ones_that_fewer_nodes_have_signed() {
        let mut forged = checkpoint(NODE, 9, &[200, 300]);
        for cosignature in &mut forged.cosignatures {
            cosignature.time_ns += 1; // of a liar who adds names
        }
        let stored = [
            checkpoint(NODE, 5, &[200, 300]),
            checkpoint(NODE, 6, &[200, 300]),
            checkpoint(NODE, 8, &[200]),
            forged,
            checkpoint(NODE, 10, &[]),
        ];
        assert_eq!(strongest_of(3, &stored), Some(6));
        assert_eq!(strongest_of(7, &stored), Some(8), "the others do not cover place 7");
        assert_eq!(strongest_of(9, &stored), Some(10));
        assert_eq!(strongest_of(11, &stored), None);
    }

    #[test]
    fn checkpoints_are_compared_in_a_bounded_number() {
        let asked = std::cell::Cell::new(0);
        let up_to = |size_max: u64| {
            asked.set(asked.get() + 1);
            Ok::<_, Infallible>(Some(checkpoint(NODE, size_max.min(1 << 40), &[])))
        };
        strongest(SequenceId(1), &registry(), COMPARED_MAX, up_to).unwrap();
        assert_eq!(asked.get(), COMPARED_MAX);
        // A node that answers with one checkpoint whatever it is asked for is not asked for ever.
        let same = |_: u64| Ok::<_, Infallible>(Some(checkpoint(NODE, 5, &[])));
        let found = strongest(SequenceId(1), &registry(), COMPARED_MAX, same).unwrap();
        assert_eq!(found.map(|it| it.signed.checkpoint.size), Some(5));
    }

    #[test]
    fn of_equally_many_signers_those_of_the_originator_go_first() {
        let first = |mut all: Vec<CosignedCheckpoint>| {
            sort(&mut all, OriginatorId(NODE), &registry());
            all[0].signed.checkpoint.node.0
        };
        assert_eq!(first(vec![checkpoint(200, 9, &[]), checkpoint(NODE, 5, &[])]), NODE);
        assert_eq!(first(vec![checkpoint(NODE, 5, &[]), checkpoint(200, 9, &[300])]), 200);
    }
}
