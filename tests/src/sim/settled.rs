//! The state that a network must reach once nothing goes wrong any more.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::LogItem;

use super::members::LIAR;
use super::world::Sim;

/// Longer than anything takes: searches for gaps one after the other, and the rounds over what is
/// missing.
const SETTLED_AFTER: Duration = Duration::from_secs(2_000);

/// Longer than a peer is kept out, several searches for gaps, and a round over what is missing.
const SETTLED_WITH_HOSTILE_AFTER: Duration = Duration::from_secs(800);

impl Sim {
    /// Lets the network come to rest without further faults, and checks its promises.
    ///
    /// # Panics
    /// Panics if a promise is not kept.
    pub fn settle(&mut self) {
        self.calm();
        self.run_for(SETTLED_AFTER);
        self.assert_invariants();
        for originator in self.honest() {
            let origin = self.held(originator, originator);
            for node in self.honest() {
                assert_eq!(self.held(node, originator), origin, "{node}: {originator}");
            }
        }
        for originator in self.members.clone() {
            let head = self.nodes[&originator].head(originator);
            // A place that stays empty is passed over once an envelope follows it.
            let end = self.held(originator, originator).keys().copied().max().unwrap_or_default();
            for node in self.members.clone() {
                let reached = self.nodes[&node].head(originator);
                // The liar may have signed more than it has kept.
                let head = if originator == LIAR { SequenceId::MAX } else { head };
                assert!((end..=head).contains(&reached), "{node}: {originator} at {reached}");
            }
        }
        let places = |node| self.held(node, LIAR).into_keys().collect::<Vec<_>>();
        for node in self.honest() {
            assert_eq!(places(OriginatorId(100)), places(node), "late finds reach every node");
        }
        self.assert_all_verified();
        self.assert_equal_trees();
    }

    /// Lets the network's own faults end while the hostile node goes on, and holds the honest nodes to what
    /// they promise. Then the hostile node becomes honest, too.
    ///
    /// # Panics
    /// Panics if a promise is not kept.
    pub fn settle_hostile(&mut self) {
        self.mend();
        self.run_for(SETTLED_WITH_HOSTILE_AFTER);
        self.assert_all_running();
        self.assert_invariants();
        self.assert_equal_strands();
        self.assert_acknowledged_everywhere();
        self.assert_readable();
        self.assert_equal_tallies();
        self.assert_all_verified();
        self.assert_equal_trees();
    }

    /// Lets the network of a node that has left come to rest, and holds the others to what they promise.
    /// Returns how many envelopes they hold of its strand, from before it left and from after.
    ///
    /// # Panics
    /// Panics if a promise is not kept.
    pub fn settle_departed(&mut self) -> [usize; 2] {
        self.mend();
        self.run_for(SETTLED_AFTER);
        for node in self.remaining() {
            assert!(self.nodes[&node].is_running, "{node} has stopped");
        }
        self.assert_invariants();
        let counts = self.assert_departed_strand();
        for originator in self.remaining() {
            let origin = self.held(originator, originator);
            for node in self.remaining() {
                assert_eq!(self.held(node, originator), origin, "{node}: {originator}");
            }
        }
        self.assert_tallies_of_departed();
        counts
    }

    /// Returns the part of a strand that a node holds, by place.
    #[must_use]
    pub fn held(
        &self,
        node: OriginatorId,
        originator: OriginatorId,
    ) -> BTreeMap<SequenceId, Bytes> {
        let items = self.nodes[&node].log(originator, SequenceId::NONE).into_iter();
        let envelope = |item| match item {
            LogItem::Envelope { id, bytes, .. } => Some((id.sequence, bytes)),
            LogItem::Skipped { .. } => None,
        };
        items.filter_map(envelope).collect()
    }
}
