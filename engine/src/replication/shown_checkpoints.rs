//! Checkpoints that nodes have shown, until they are examined.
//!
//! A node can flood, and come back under the same id for a new allowance. So the allowance belongs to the id that
//! it has proved, not to its connection; each id has a queue of its own; and the queues have their turns.
//! Checkpoints that callers submit to a witness count under an id that no peer has.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Instant;

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::CosignedCheckpoint;

use super::checkpoint_pace::CheckpointAllowance;

/// Checkpoints of one node that wait. A guess: twice what an honest one shows in a second, which is four rounds.
const OF_NODE_MAX: usize = 256;
/// Nodes that are remembered. A guess: far more than a network has. Of more, those that show nothing are forgotten as
/// soon as their allowance is full again, and new ones are dropped until then.
const NODES_MAX: usize = 4096;

/// The queues of all nodes. Does no I/O and reads no clock. Memory is bounded by the number of nodes that have shown
/// something within the last seconds.
#[derive(Debug, Default)]
pub struct ShownCheckpoints {
    nodes: BTreeMap<OriginatorId, OfNode>,
    /// The node that had the last turn.
    last: Option<OriginatorId>,
}

#[derive(Debug)]
struct OfNode {
    allowance: CheckpointAllowance,
    waiting: VecDeque<CosignedCheckpoint>,
}

impl ShownCheckpoints {
    /// Puts a checkpoint into the queue of the node that shows it. Returns false if it is dropped: the node has used
    /// up its allowance, or has too many that wait. Honest nodes show everything again after a while.
    pub fn show(&mut self, now: Instant, by: OriginatorId, checkpoint: CosignedCheckpoint) -> bool {
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&by) {
            self.forget(now);
            if self.nodes.len() >= NODES_MAX {
                return false;
            }
        }
        let of_node = self.nodes.entry(by).or_insert_with(|| OfNode {
            allowance: CheckpointAllowance::new(now),
            waiting: VecDeque::new(),
        });
        let has_room = of_node.waiting.len() < OF_NODE_MAX;
        // A checkpoint without room is charged too, so that a flood does not keep its allowance for later.
        let is_taken = of_node.allowance.take(now, &checkpoint) && has_room;
        if is_taken {
            of_node.waiting.push_back(checkpoint);
        }
        is_taken
    }

    /// Takes up to `count` checkpoints, one of each node in turn. The next call continues behind the last one's turn.
    pub fn take(&mut self, now: Instant, count: usize) -> Vec<(OriginatorId, CosignedCheckpoint)> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let from = self.last.map_or(Bound::Unbounded, Bound::Excluded);
            let to = self.last.map_or(Bound::Unbounded, Bound::Included);
            let waits = |(_, it): &(&OriginatorId, &mut OfNode)| !it.waiting.is_empty();
            let next = match self.nodes.range_mut((from, Bound::Unbounded)).find(waits) {
                Some((node, _)) => Some(*node),
                None => self.nodes.range_mut((Bound::Unbounded, to)).find(waits).map(|it| *it.0),
            };
            let Some(node) = next else { break };
            self.last = Some(node);
            let checkpoint = self.nodes.get_mut(&node).and_then(|it| it.waiting.pop_front());
            taken.extend(checkpoint.map(|checkpoint| (node, checkpoint)));
        }
        self.forget(now);
        taken
    }

    /// Forgets the nodes whose allowance equals a new one.
    fn forget(&mut self, now: Instant) {
        self.nodes.retain(|_, it| !it.waiting.is_empty() || !it.allowance.is_full(now));
    }
}

#[cfg(test)]
mod tests;
