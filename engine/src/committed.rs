//! A durable envelope on its way to readers.

use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId, Topic};
use hawser_storage::{Facts, LogEntry, Validity};

use crate::read::limits::is_deliverable;

/// A durable and valid envelope on its way to readers. They share its bytes.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Originator and sequence id.
    pub id: EnvelopeId,
    /// The topic that clients query or subscribe to, with a name of its own.
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
    /// no answer has room for it. The topic of an entry that was published here is a part of its request, which a payer
    /// may fill with megabytes that cost nothing, and the queues of streams count only the bytes of envelopes.
    #[must_use]
    pub(crate) fn from_entry(entry: LogEntry) -> Option<Self> {
        let LogEntry { id, bytes, validity, facts } = entry;
        let is_read = validity == Validity::Valid && is_deliverable(bytes.len());
        let facts = facts.filter(|_| is_read)?;
        let Facts { topic, originator_ns, depends_on, .. } = facts;
        Some(Self { id, topic: with_own_name(&topic?), originator_ns, depends_on, bytes })
    }

    /// Returns its strand and time.
    pub(crate) fn dated(&self) -> (OriginatorId, i64) {
        (self.id.originator, self.originator_ns)
    }
}

/// Returns a topic with a name of its own. The name may be a part of what it came in: an envelope, a page or a request,
/// which would stay in memory as long as the topic.
pub(crate) fn with_own_name(topic: &Topic) -> Topic {
    let name = Bytes::copy_from_slice(topic.as_bytes());
    Topic::parse(name).expect("it is the name of a topic")
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

    /// Played by a payer who fills requests of one small envelope with fields that no node knows, while streams of its
    /// topic are not read.
    #[test]
    fn an_envelope_on_its_way_to_readers_keeps_nothing_of_its_request() {
        let request = Bytes::from([&topic(1).as_bytes()[..], &[7; 1000]].concat());
        let name = request.slice(..topic(1).as_bytes().len());
        let of_request = Committed {
            topic: Topic::parse(name).unwrap(),
            ..committed(id(100, 1), topic(1), 7, vec![])
        };
        let Change::Append(entry) = append(&of_request) else {
            panic!("an envelope is appended");
        };
        drop(of_request);
        let shown = Committed::from_entry(entry).expect("readers get it");
        assert_eq!(shown.topic, topic(1));
        assert!(request.is_unique(), "the topic is a part of the request");
    }
}
