//! The ways of checkpoints from the sessions with peers into the exchange, and back.

use std::sync::Arc;

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::CosignedCheckpoint;
use tokio::sync::{mpsc, watch};

use crate::replication::CheckpointOffers;

/// Checkpoints of all peers that wait for the next round. A guess: what sixteen peers may show within one.
pub(super) const WAITING_MAX: usize = 1024;

/// A checkpoint that a peer has shown. Nothing of it is checked.
pub(super) struct ShownCheckpoint {
    pub(super) peer: OriginatorId,
    pub(super) checkpoint: CosignedCheckpoint,
}

/// The ways of checkpoints into the exchange and out of it.
pub(super) struct CheckpointPorts {
    shown: mpsc::Sender<ShownCheckpoint>,
    offers: watch::Sender<Arc<CheckpointOffers>>,
}

impl CheckpointPorts {
    pub(super) fn new() -> (Self, mpsc::Receiver<ShownCheckpoint>) {
        let (shown, receiver) = mpsc::channel(WAITING_MAX);
        (Self { shown, offers: watch::Sender::default() }, receiver)
    }

    /// Hands over what a peer has shown. Returns false if there is no room.
    pub(super) fn show(&self, shown: ShownCheckpoint) -> bool {
        self.shown.try_send(shown).is_ok()
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
