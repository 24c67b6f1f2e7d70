//! The decision what a node signs about a tree, as `docs/protocol/checkpoints.md` lays it down.

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::merkle::TreeHash;

/// A strand's tree, as the node holds it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeState {
    /// Number of leaves.
    pub size: u64,
    /// The root.
    pub root: TreeHash,
    /// The root at the size of the last checkpoint; `None` if the tree is smaller.
    pub root_at_last: Option<TreeHash>,
}

/// A decision about one strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointDecision {
    /// There is nothing new to sign.
    Nothing,
    /// The node signs this.
    Sign(Checkpoint),
    /// The tree is not a continuation of what the node has signed. It must never sign anything about this strand
    /// again.
    Contradiction {
        /// The size that was signed.
        size: u64,
    },
}

/// Decides what `node` signs about the strand of `originator` after its `last` checkpoint of it. `now_ns` is the
/// node's clock in unix nanoseconds, which may step back.
#[must_use]
pub fn decide(
    node: OriginatorId,
    originator: OriginatorId,
    last: Option<&Checkpoint>,
    tree: TreeState,
    now_ns: u64,
) -> CheckpointDecision {
    let TreeState { size, root, root_at_last } = tree;
    let Some(last) = last else {
        let first = Checkpoint { node, originator, size, root, time_ns: now_ns };
        return if size == 0 {
            CheckpointDecision::Nothing
        } else {
            CheckpointDecision::Sign(first)
        };
    };
    assert_eq!((last.node, last.originator), (node, originator), "the last one is of this strand");
    if root_at_last.is_some_and(|root| root != last.root) {
        return CheckpointDecision::Contradiction { size: last.size };
    }
    // A smaller tree was cut, and may still grow into the one that was signed.
    if size <= last.size || root_at_last.is_none() {
        return CheckpointDecision::Nothing;
    }
    let time_ns = now_ns.max(last.time_ns.saturating_add(1));
    CheckpointDecision::Sign(Checkpoint { node, originator, size, root, time_ns })
}

#[cfg(test)]
mod tests {
    use hawser_proto::merkle::{LeafData, leaf_hash};

    use super::*;

    const NODE: OriginatorId = OriginatorId(100);

    fn root(of: u8) -> TreeHash {
        leaf_hash(LeafData::Signed(&[of]))
    }

    fn signed(size: u64, of: u8, time_ns: u64) -> Checkpoint {
        Checkpoint { node: NODE, originator: NODE, size, root: root(of), time_ns }
    }

    fn after(
        last: Option<Checkpoint>,
        size: u64,
        at_last: Option<u8>,
        now: u64,
    ) -> CheckpointDecision {
        let tree = TreeState { size, root: root(9), root_at_last: at_last.map(root) };
        decide(NODE, NODE, last.as_ref(), tree, now)
    }

    #[test]
    fn a_strand_is_signed_when_it_has_grown() {
        assert_eq!(after(None, 0, None, 5), CheckpointDecision::Nothing);
        assert_eq!(after(None, 7, None, 5), CheckpointDecision::Sign(signed(7, 9, 5)));
        let last = Some(signed(7, 1, 5));
        assert_eq!(after(last, 7, Some(1), 6), CheckpointDecision::Nothing);
        assert_eq!(after(last, 8, Some(1), 6), CheckpointDecision::Sign(signed(8, 9, 6)));
    }

    #[test]
    fn the_time_ascends_when_the_clock_does_not() {
        let last = Some(signed(7, 1, 5));
        for now in [0, 4, 5] {
            assert_eq!(after(last, 8, Some(1), now), CheckpointDecision::Sign(signed(8, 9, 6)));
        }
    }

    #[test]
    fn nothing_that_contradicts_an_earlier_checkpoint_is_signed() {
        let last = Some(signed(7, 1, 5));
        let contradiction = CheckpointDecision::Contradiction { size: 7 };
        assert_eq!(after(last, 8, Some(2), 6), contradiction);
        assert_eq!(after(last, 7, Some(2), 6), contradiction);
        assert_eq!(after(last, 6, None, 6), CheckpointDecision::Nothing);
    }
}
