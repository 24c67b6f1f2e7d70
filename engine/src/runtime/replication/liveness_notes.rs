//! Notes of the tasks of replication about nodes that do not answer as they should.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;
use parking_lot::Mutex;

use crate::liveness::OtherNode;

/// Events about other nodes, by node. Bounded by the registry: a node is noted after a connection to it or an attempt
/// at one, or when the operator names it.
#[derive(Debug, Default)]
pub(super) struct LivenessNotes(Mutex<BTreeMap<OriginatorId, OtherNode>>);

impl LivenessNotes {
    /// Notes that the connection to a node has ended, and no other one has taken its place.
    pub(super) fn note_lost(&self, peer: OriginatorId, now: Instant) {
        self.0.lock().entry(peer).or_default().lost_at = Some(now);
    }

    /// Notes that this node ends a connection for a rule that the peer broke.
    pub(super) fn note_sent_away(&self, peer: OriginatorId, now: Instant) {
        self.0.lock().entry(peer).or_default().sent_away_at = Some(now);
    }

    /// Notes that this node does not dial an address of a node, by a rule or a setting of its own.
    pub(super) fn note_not_dialled(&self, peer: OriginatorId, now: Instant) {
        self.0.lock().entry(peer).or_default().not_dialled_at = Some(now);
    }

    /// Notes that an address that the record of a node names was dialled, and no session came of it.
    pub(super) fn note_dialled(&self, peer: OriginatorId, now: Instant) {
        self.0.lock().entry(peer).or_default().dialled_at = Some(now);
    }

    /// Notes the time until which the operator keeps this node apart from another one; `None` if the order has ended.
    pub(super) fn note_partition(&self, peer: OriginatorId, until: Option<Instant>) {
        self.0.lock().entry(peer).or_default().partitioned_until = until;
    }

    /// Notes that a node claims envelopes of its strand, was asked for them, and has sent nothing.
    pub(super) fn note_stalled(&self, peer: OriginatorId, now: Instant) {
        self.0.lock().entry(peer).or_default().stalled_at = Some(now);
    }

    /// Notes that a request to a node ended with an error after `took`.
    pub(super) fn note_failed(&self, peer: OriginatorId, now: Instant, took: Duration) {
        self.0.lock().entry(peer).or_default().failed = Some((now, took));
    }

    /// Returns the recorded observations about a node.
    pub(super) fn of(&self, peer: OriginatorId) -> OtherNode {
        self.0.lock().get(&peer).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_to_stay_apart_is_noted_until_it_is_taken_back() {
        let (notes, until) = (LivenessNotes::default(), Some(Instant::now()));
        let (peer, other) = (OriginatorId(200), OriginatorId(300));
        notes.note_partition(peer, until);
        assert_eq!(
            (notes.of(peer).partitioned_until, notes.of(other).partitioned_until),
            (until, None)
        );
        notes.note_partition(peer, None);
        assert_eq!(notes.of(peer), OtherNode::default());
    }
}
