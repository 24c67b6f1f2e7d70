//! Decides which checkpoint a node signs about a tree, as specified in `docs/protocol/checkpoints.md`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::merkle::TreeHash;

/// A strand's tree, as the node holds it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeState {
    /// Number of leaves: the tree covers the places from 1 to this one.
    pub size: u64,
    /// The root of that tree.
    pub root: TreeHash,
    /// The root at the size of the last checkpoint; `None` if the tree is smaller.
    pub root_at_last: Option<TreeHash>,
}

/// A decision about signing a checkpoint of one strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointDecision {
    /// There is nothing new to sign.
    Nothing,
    /// The node signs this checkpoint.
    Sign(Checkpoint),
    /// The tree does not continue the tree that the node has signed. The node must never sign a checkpoint of this
    /// strand again.
    Contradiction {
        /// The size that was signed.
        size: u64,
    },
}

/// The pace at which a node signs as an observer of strands whose nodes sign no checkpoints. [`Default`] gives the
/// documented one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObserverPace {
    /// Time for which a part of a strand has been held without a checkpoint of its node that covers it. A node that
    /// signs shows one within seconds.
    pub after: Duration,
    /// Time between two looks at such strands.
    pub every: Duration,
}

impl Default for ObserverPace {
    /// Half a minute, and five seconds (`docs/protocol/checkpoints.md`). Guesses: two histories are noticed soon, and
    /// many observers of many strands cost their peers few signatures.
    fn default() -> Self {
        Self { after: Duration::from_secs(30), every: Duration::from_secs(5) }
    }
}

/// A strand of another node, and the part of it that its node has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldStrand {
    /// The node that orders the strand.
    pub originator: OriginatorId,
    /// Number of leaves of the tree that is held here.
    pub size: u64,
    /// The size of the node's newest checkpoint that is held; 0 without one.
    pub signed: u64,
}

/// Strands of other nodes that are held without a checkpoint of their node which covers them. Such a node runs other
/// software or an older version, or has stopped signing. Reads no clock.
#[derive(Debug, Default)]
pub struct SilentStrands {
    pace: ObserverPace,
    /// A size that the node has not signed, and the time since when it is held.
    unsigned: BTreeMap<OriginatorId, (u64, Instant)>,
    looked_at: Option<Instant>,
}

impl SilentStrands {
    /// Begins without a strand. The first call of [`due`](Self::due) looks at all of them.
    #[must_use]
    pub fn new(pace: ObserverPace) -> Self {
        Self { pace, ..Self::default() }
    }

    /// Returns those of the strands that are to be signed as an observer now. `held` gives each strand of another node;
    /// it is not read between two looks.
    ///
    /// # Errors
    /// The error of `held`.
    pub fn due<E>(
        &mut self,
        now: Instant,
        held: impl FnOnce() -> Result<Vec<HeldStrand>, E>,
    ) -> Result<Vec<OriginatorId>, E> {
        let is_due =
            self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= self.pace.every);
        if !is_due {
            return Ok(Vec::new());
        }
        let held = held()?;
        self.looked_at = Some(now);
        let mut due = Vec::new();
        for HeldStrand { originator, size, signed } in held {
            if signed >= size {
                self.unsigned.remove(&originator);
                continue;
            }
            // The time counts for one size until the node signs it. If it began anew with each envelope, a strand that
            // grows all the time would never be due.
            let unsigned = self.unsigned.entry(originator).or_insert((size, now));
            if signed >= unsigned.0 {
                *unsigned = (size, now);
            }
            if now.saturating_duration_since(unsigned.1) >= self.pace.after {
                due.push(originator);
            }
        }
        Ok(due)
    }
}

/// Decides which checkpoint `node` signs about the strand of `originator` after its `last` one. `now_ns` is the
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
mod tests;
