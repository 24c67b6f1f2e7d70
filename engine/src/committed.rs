//! A durable envelope on its way to readers.

use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId, Topic};
use hawser_storage::{Facts, LogEntry, Validity};

use crate::read::limits::is_deliverable;

/// A durable and valid envelope on its way to readers. Its parts are shared, never copied.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Originator and sequence id.
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
    /// Converts an entry that is on disk; `None` for one that readers do not get: it is not valid, or
    /// no answer has room for it.
    #[must_use]
    pub(crate) fn from_entry(entry: LogEntry) -> Option<Self> {
        let LogEntry { id, bytes, validity, facts } = entry;
        let is_read = validity == Validity::Valid && is_deliverable(bytes.len());
        let facts = facts.filter(|_| is_read)?;
        let Facts { topic, originator_ns, depends_on, .. } = facts;
        Some(Self { id, topic: topic?, originator_ns, depends_on, bytes })
    }

    /// Returns its strand and time.
    pub(crate) fn dated(&self) -> (OriginatorId, i64) {
        (self.id.originator, self.originator_ns)
    }
}

#[cfg(test)]
mod tests {
    use hawser_storage::{Change, InvalidRule};

    use super::*;
    use crate::read::PAGE_LEN_BYTES_MAX;
    use crate::read::testing::{append, committed, id, topic};

    #[test]
    fn readers_get_what_is_valid_and_fits_into_an_answer() {
        let Change::Append(entry) = append(&committed(id(100, 1), topic(1), 7, vec![])) else {
            panic!("an envelope is appended");
        };
        let shown = |entry: &LogEntry| Committed::from_entry(entry.clone()).is_some();
        assert!(shown(&entry));
        let validity = Validity::Invalid(InvalidRule(1));
        assert!(!shown(&LogEntry { validity, ..entry.clone() }));
        assert!(!shown(&LogEntry { bytes: vec![0; PAGE_LEN_BYTES_MAX + 1024].into(), ..entry }));
    }
}
