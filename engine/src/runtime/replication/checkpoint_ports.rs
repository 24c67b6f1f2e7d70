//! Queues that carry checkpoints from the sessions with peers to the exchange, and back.

use std::sync::Arc;
use std::time::Instant;

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::CosignedCheckpoint;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::replication::{CheckpointOffers, ShownCheckpoints};

/// Checkpoints of all peers that one round looks at; the others wait for the next round. A guess: as many as sixteen
/// peers may show within a round.
const IN_ROUND_MAX: usize = 1024;

/// The id whose queue and allowance hold the checkpoints that callers submit to a witness. It is no peer's, so that
/// callers do not use up a peer's allowance.
const SUBMITTED: OriginatorId = OriginatorId::REPLICA;

/// The queues of checkpoints into the exchange and out of it.
#[derive(Default)]
pub(super) struct CheckpointPorts {
    shown: Mutex<ShownCheckpoints>,
    offers: watch::Sender<Arc<CheckpointOffers>>,
}

impl CheckpointPorts {
    /// Hands over a checkpoint that a peer has sent, unchecked. Returns false if it is dropped.
    pub(super) fn show(&self, peer: OriginatorId, checkpoint: CosignedCheckpoint) -> bool {
        self.shown.lock().show(Instant::now(), peer, checkpoint)
    }

    /// Hands over a checkpoint that a client has submitted. Returns false if it is dropped.
    pub(super) fn submit(&self, checkpoint: CosignedCheckpoint) -> bool {
        self.show(SUBMITTED, checkpoint)
    }

    /// Takes the checkpoints to examine now, each with the peer that sent it; for a submitted one, with the node that
    /// it names.
    pub(super) fn take_shown(&self) -> Vec<(OriginatorId, CosignedCheckpoint)> {
        let taken = self.shown.lock().take(Instant::now(), IN_ROUND_MAX);
        let named = |(by, it): (OriginatorId, CosignedCheckpoint)| {
            (if by == SUBMITTED { it.signed.checkpoint.node } else { by }, it)
        };
        taken.into_iter().map(named).collect()
    }

    /// Replaces what peers are to be shown.
    pub(super) fn set_offers(&self, offers: CheckpointOffers) {
        self.offers.send_replace(Arc::new(offers));
    }

    /// Returns what peers are to be shown.
    pub(super) fn offers(&self) -> Arc<CheckpointOffers> {
        self.offers.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::checkpoint::Checkpoint;
    use hawser_proto::merkle::TreeHash;

    use super::*;

    #[test]
    fn submissions_take_no_room_of_the_node_that_signed_them() {
        let (ports, node) = (CheckpointPorts::default(), OriginatorId(100));
        let of =
            Checkpoint { node, originator: node, size: 9, root: TreeHash([1; 32]), time_ns: 1 };
        let of: CosignedCheckpoint = of.sign(&SecretKey::from_bytes(&[7; 32]).unwrap()).into();
        let submitted = (0..5_000).filter(|_| ports.submit(of.clone())).count();
        assert!((1..IN_ROUND_MAX).contains(&submitted), "{submitted}");
        assert!(ports.show(node, of), "the node has its own queue and allowance");
        let taken = ports.take_shown();
        assert_eq!(taken.len(), submitted + 1);
        assert!(taken.iter().all(|(by, _)| *by == node));
    }
}
