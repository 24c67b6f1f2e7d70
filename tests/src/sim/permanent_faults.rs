//! Networks with permanent faults: links that are cut or dead, nodes that are lost, and nodes that join later.
//! Followers have to take strands from nodes other than their originators.

use std::time::Duration;

use hawser_proto::OriginatorId;

use super::wire::Event;
use super::world::{Faults, Sim};

/// Time until nothing changes any more: longer than a node is down, and than all pauses and searches for gaps.
const SETTLED_APART_AFTER: Duration = Duration::from_secs(800);

impl Sim {
    /// Drops all frames between two nodes from now on, without an error to either.
    pub fn deaden(&mut self, a: OriginatorId, b: OriginatorId) {
        self.dead.insert([a, b]);
    }

    /// Breaks dead links with an error to both nodes, which then connect again.
    pub fn revive_links(&mut self) {
        for [a, b] in std::mem::take(&mut self.dead) {
            for path in self.paths().into_iter().filter(|path| path.joins(a, b)) {
                self.break_off(path, 100);
            }
        }
    }

    /// Ends a node for good. Its signed but unsent envelopes are lost.
    pub fn lose(&mut self, node: OriginatorId) {
        self.gone.insert(node);
        self.crash(node);
    }

    /// Lets a node join that was [lost](Self::lose) before.
    pub fn join(&mut self, node: OriginatorId) {
        self.gone.remove(&node);
        self.restart(node);
    }

    /// Ends all faults except cuts and losses, and waits until nothing changes any more.
    pub fn settle_apart(&mut self) {
        self.faults = Faults { lies: self.faults.lies, ..Faults::NONE };
        for path in self.paths() {
            self.plan(1, Event::Up { path });
        }
        self.run_for(SETTLED_APART_AFTER);
        self.assert_invariants();
    }

    /// Asserts that all honest nodes hold the same of every honest strand: as much as its own node, or if that is lost,
    /// as much as any of them. Returns the number of envelopes of strands whose node is gone.
    pub fn assert_same_strands(&self) -> usize {
        let present: Vec<_> =
            self.honest().into_iter().filter(|node| !self.gone.contains(node)).collect();
        let mut orphaned = 0;
        for originator in self.honest() {
            let is_gone = self.gone.contains(&originator);
            let holder = if is_gone { present[0] } else { originator };
            let wanted = self.held(holder, originator);
            for &node in &present {
                let held = self.held(node, originator);
                assert!(self.nodes[&node].is_running, "{node} has stopped");
                assert_eq!(held, wanted, "{node}: {originator}");
            }
            orphaned += if is_gone { wanted.len() } else { 0 };
        }
        orphaned
    }

    /// Returns the peer from which a node follows a strand.
    #[must_use]
    pub fn source(&self, node: OriginatorId, originator: OriginatorId) -> Option<OriginatorId> {
        self.nodes[&node].following.get(&originator)?.follower.source()
    }
}
