//! The choice of the checkpoint that a proof carries: the one that the most nodes have signed.

use std::cmp::Reverse;
use std::iter;

use hawser_audit::proof::signers;
use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::Registry;

/// Checkpoints that are compared, newest first. A guess: a node signs up to four a second, and others cosign only the
/// newest one that they have seen, so the last ones of some seconds may have no cosignature. Of a node that runs, each
/// costs a call, and a caller may be limited to 60 in a minute.
const COMPARED_MAX: usize = 16;

/// Returns, of the newest checkpoints of a node that cover a place, the one that the most nodes have validly signed; of
/// several, the newest. `up_to` returns the node's largest checkpoint up to a size. One that cannot be had after
/// another one was ends the comparison.
///
/// # Errors
/// That of `up_to` for the newest checkpoint.
pub(super) fn strongest<E>(
    place: SequenceId,
    registry: &Registry,
    up_to: impl Fn(u64) -> Result<Option<CosignedCheckpoint>, E>,
) -> Result<Option<CosignedCheckpoint>, E> {
    let (mut strongest, mut most) = (None, 0);
    let mut size_max = SequenceId::MAX.0;
    for _ in 0..COMPARED_MAX {
        let found = match up_to(size_max) {
            Err(error) if strongest.is_none() => return Err(error),
            found => found.ok().flatten(),
        };
        let Some(found) = found else { break };
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

/// Returns the strongest checkpoint that a running node shows of a strand and that covers a place. `ask` returns the
/// largest checkpoint of a node up to a size. Without a node, those of the strand's originator are asked for, and if
/// the running node has none, its own about the strand. A replica signs none: it is asked for those of other nodes
/// about the strand of a chain.
///
/// Calls `ask` at most twice [`COMPARED_MAX`] times, whatever the registry names, and ends with the first call that
/// fails. Returns what was found by then.
pub(super) fn strongest_shown<E>(
    id: EnvelopeId,
    registry: &Registry,
    ask: impl Fn(Option<OriginatorId>, u64) -> Result<Option<CosignedCheckpoint>, E>,
) -> Option<CosignedCheckpoint> {
    let observers = registry.nodes().filter(|_| !id.originator.is_node());
    let observers = observers.map(|record| Some(record.id)).take(COMPARED_MAX - 1);
    for node in iter::once(None).chain(observers) {
        match strongest(id.sequence, registry, |size_max| ask(node, size_max)) {
            Ok(None) => {}
            // A node that does not answer is not waited for again and again.
            found => return found.ok().flatten(),
        }
    }
    None
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
    use std::cell::Cell;
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

    /// Returns a registry in which each node has the key of one that `key_of` names.
    fn registry_of(nodes: impl Iterator<Item = u32>, key_of: fn(u32) -> u32) -> Registry {
        let record = |node: u32| NodeRecord {
            id: OriginatorId(node),
            public_key: key(key_of(node)).public_key(),
            owner: Address([0; 20]),
            http_address: None,
            quic_address: None,
            canonical: true,
        };
        nodes.map(record).collect()
    }

    fn registry() -> Registry {
        registry_of([100, 200, 300].into_iter(), |node| node)
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
        let found = strongest(SequenceId(place), &registry(), up_to).unwrap();
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
        let asked = Cell::new(0);
        let up_to = |size_max: u64| {
            asked.set(asked.get() + 1);
            Ok::<_, Infallible>(Some(checkpoint(NODE, size_max.min(1 << 40), &[])))
        };
        strongest(SequenceId(1), &registry(), up_to).unwrap();
        assert_eq!(asked.get(), COMPARED_MAX);
        // A node that answers with one checkpoint whatever it is asked for is not asked for ever.
        let same = |_: u64| Ok::<_, Infallible>(Some(checkpoint(NODE, 5, &[])));
        let found = strongest(SequenceId(1), &registry(), same).unwrap();
        assert_eq!(found.map(|it| it.signed.checkpoint.size), Some(5));
    }

    /// A node that refuses further calls of this minute, or a damaged row.
    #[test]
    fn a_checkpoint_that_cannot_be_had_takes_no_other_one_away() {
        let failing_below = |least: u64| {
            move |size_max: u64| match size_max >= least {
                true => Ok(Some(checkpoint(NODE, size_max.min(9), &[]))),
                false => Err("refused"),
            }
        };
        let sizes = |least| {
            let found = strongest(SequenceId(1), &registry(), failing_below(least));
            found.map(|it| it.map(|it| it.signed.checkpoint.size))
        };
        assert_eq!(sizes(8), Ok(Some(9)));
        assert_eq!(sizes(u64::MAX), Err("refused"), "of none the cause is told");
    }

    /// A registry of a thousand nodes: the callers of a node may be limited to 60 calls in a minute.
    #[test]
    fn a_running_node_is_asked_for_few_checkpoints_whatever_the_registry_names() {
        let many = registry_of(100..1100, |_| NODE);
        let asked = Cell::new(0);
        let shown = |originator: OriginatorId, shown_of: Option<u32>| {
            asked.set(0);
            let found = strongest_shown(
                EnvelopeId::new(originator, SequenceId(1)),
                &many,
                |node, size_max| {
                    asked.set(asked.get() + 1);
                    let is_shown = node == shown_of.map(OriginatorId);
                    Ok::<_, Infallible>(
                        is_shown.then(|| checkpoint(NODE, size_max.min(1 << 40), &[])),
                    )
                },
            );
            (found.is_some(), asked.get())
        };
        let (chain, node) = (OriginatorId::GROUP_MESSAGES, OriginatorId(NODE));
        assert_eq!(shown(chain, None), (true, COMPARED_MAX), "those of the node that is asked");
        assert_eq!(shown(node, None), (true, COMPARED_MAX));
        assert_eq!(
            shown(chain, Some(102)),
            (true, 3 + COMPARED_MAX),
            "a replica has those of others"
        );
        assert_eq!(shown(chain, Some(1099)), (false, COMPARED_MAX));
        assert_eq!(shown(node, Some(102)), (false, 1));
        asked.set(0);
        let silent = |_: Option<OriginatorId>, _: u64| {
            asked.set(asked.get() + 1);
            Err("no answer in time")
        };
        let found = strongest_shown(EnvelopeId::new(chain, SequenceId(1)), &many, silent);
        assert_eq!((found.is_none(), asked.get()), (true, 1), "it is not waited for again");
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
