//! An envelope that is in the log, as the rest of the node passes it on.

use bytes::Bytes;
use hawser_proto::{EnvelopeId, Topic};
use hawser_storage::{Facts, LogEntry, Validity};

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
