//! How far each strand is durable, and how tasks wait for it to grow.

use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId};
use tokio::sync::watch;

/// How far each strand is durable on this node, for everyone who waits for it.
///
/// Invariant: an id at or below the announced cursor can be read from the store.
#[derive(Debug, Clone)]
pub struct Heads {
    sender: Arc<watch::Sender<Arc<Cursor>>>,
}

impl Heads {
    /// Starts from what the store holds.
    #[must_use]
    pub fn new(stored: Cursor) -> Self {
        Self { sender: Arc::new(watch::Sender::new(Arc::new(stored))) }
    }

    /// The newest cursor.
    #[must_use]
    pub fn get(&self) -> Arc<Cursor> {
        self.sender.borrow().clone()
    }

    /// Wakes up whenever a strand has grown. Changes coalesce.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Cursor>> {
        self.sender.subscribe()
    }

    /// Announces that the strand of `id` is durable up to `id`.
    pub fn announce(&self, id: EnvelopeId) {
        self.sender.send_modify(|cursor| Arc::make_mut(cursor).advance(id));
    }
}
