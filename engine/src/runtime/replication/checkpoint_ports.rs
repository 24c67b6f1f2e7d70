//! The ways of checkpoints from the sessions with peers into the exchange, and back.

use std::sync::Arc;
use std::time::Instant;

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::CosignedCheckpoint;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::replication::{CheckpointOffers, ShownCheckpoints};

/// Checkpoints of all peers that are looked at in one round; the others wait for the next one. A guess: what sixteen
/// peers may show within one.
const IN_ROUND_MAX: usize = 1024;

/// The ways of checkpoints into the exchange and out of it.
#[derive(Default)]
pub(super) struct CheckpointPorts {
    shown: Mutex<ShownCheckpoints>,
    offers: watch::Sender<Arc<CheckpointOffers>>,
}

impl CheckpointPorts {
    /// Hands over what a peer has shown, of which nothing is checked. Returns false if it is dropped.
    pub(super) fn show(&self, peer: OriginatorId, checkpoint: CosignedCheckpoint) -> bool {
        self.shown.lock().show(Instant::now(), peer, checkpoint)
    }

    /// Takes what is to be looked at now, each with the peer that has shown it.
    pub(super) fn take_shown(&self) -> Vec<(OriginatorId, CosignedCheckpoint)> {
        self.shown.lock().take(Instant::now(), IN_ROUND_MAX)
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
