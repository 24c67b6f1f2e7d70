//! A durable envelope on its way to readers.

use bytes::Bytes;
use hawser_proto::{EnvelopeId, Topic};
use hawser_storage::{Facts, LogEntry, Validity};

/// A durable and valid envelope on its way to readers. Its parts are shared, never copied.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its place.
    pub id: EnvelopeId,
    /// The topic that clients query or subscribe to.
    pub topic: Topic,
    /// The originator's time, unix nanoseconds.
    pub originator_ns: i64,
    /// Chain envelopes that a client must have received before this one; mostly none or one.
    pub depends_on: Vec<EnvelopeId>,
    /// The signed originator envelope, as stored.
    pub bytes: Bytes,
}

impl Committed {
    /// Converts an entry that is on disk; `None` for one that readers do not get.
    #[must_use]
    pub fn from_entry(entry: LogEntry) -> Option<Self> {
        let LogEntry { id, bytes, validity, facts } = entry;
        let facts = facts.filter(|_| validity == Validity::Valid)?;
        let Facts { topic, originator_ns, depends_on, .. } = facts;
        Some(Self { id, topic, originator_ns, depends_on, bytes })
    }
}
