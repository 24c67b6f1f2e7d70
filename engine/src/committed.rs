//! An envelope that is in the log, as the rest of the node passes it on.

use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, Topic};
use hawser_storage::{Facts, LogEntry, Validity};
use tokio::sync::watch;

/// A durable, valid envelope on its way to readers. Shared, never copied.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its place.
    pub id: EnvelopeId,
    /// Where clients look for it.
    pub topic: Topic,
    /// Its originator's time, unix nanoseconds.
    pub originator_ns: i64,
    /// Chain envelopes that must be known before clients may see it; mostly none or one.
    pub depends_on: Vec<EnvelopeId>,
    /// The signed originator envelope, as stored.
    pub bytes: Bytes,
}

impl Committed {
    /// Takes over a stored entry; `None` for one that readers do not get.
    #[must_use]
    pub fn from_entry(entry: LogEntry) -> Option<Self> {
        let LogEntry { id, bytes, validity, facts } = entry;
        let facts = facts.filter(|_| validity == Validity::Valid)?;
        let Facts { topic, originator_ns, depends_on, .. } = facts;
        Some(Self { id, topic, originator_ns, depends_on, bytes })
    }
}

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
