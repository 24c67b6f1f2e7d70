//! Durable heads of all strands, and how tasks wait for them to grow.

use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId};
use tokio::sync::watch;

/// Durable head of each strand on this node. Cheap to clone; all clones are the same.
///
/// Invariant: an id at or below the announced cursor can be read from the store.
#[derive(Debug, Clone)]
pub struct Heads {
    sender: Arc<watch::Sender<Arc<Cursor>>>,
}

impl Heads {
    /// Starts from the heads that the store holds.
    #[must_use]
    pub fn new(stored: Cursor) -> Self {
        Self { sender: Arc::new(watch::Sender::new(Arc::new(stored))) }
    }

    /// Returns the newest heads.
    #[must_use]
    pub fn get(&self) -> Arc<Cursor> {
        self.sender.borrow().clone()
    }

    /// Returns a receiver that wakes up when a strand has grown. Changes coalesce.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Cursor>> {
        self.sender.subscribe()
    }

    /// Announces that the strand of `id` is durable up to `id`. To be called after the sync, by the
    /// committer of the strand.
    pub fn announce(&self, id: EnvelopeId) {
        self.sender.send_modify(|cursor| Arc::make_mut(cursor).advance(id));
    }
}
