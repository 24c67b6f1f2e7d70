//! What replication counts.

use std::sync::{Mutex, PoisonError};

use hawser_proto::OriginatorId;

use crate::runtime::counters::Counter;

/// Everything that the followers count, for whoever exports it.
#[derive(Debug, Default)]
pub struct ReplicationCounters {
    /// Envelopes of other nodes that were checked and may be stored.
    pub verified: Counter,
    /// Envelopes that were refused, and the connection with them.
    pub forged: Counter,
    /// Envelopes that were put off because the price list may be older than they are. One counts
    /// each time it comes.
    pub undecided: Counter,
    /// Envelopes stored, valid or marked invalid.
    pub stored: Counter,
    /// Envelopes that were stored in a place that had been marked missing, or came again.
    pub compared: Counter,
    /// Places marked missing.
    pub missing: Counter,
    /// Second statements that an originator signed for one sequence id. The first one is kept.
    pub conflicts: Counter,
}

/// What is counted of one strand that is followed.
#[derive(Debug, Default)]
pub struct StrandCounters {
    /// Its envelopes that peers sent and that were checked, also those that came before.
    pub received: Counter,
    source: Mutex<Option<OriginatorId>>,
}

impl StrandCounters {
    /// The peer that is asked for whatever comes next; `None` while there is none.
    #[must_use]
    pub fn source(&self) -> Option<OriginatorId> {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This peer is asked from now on.
    pub(super) fn asks(&self, peer: OriginatorId) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
    }

    /// This peer is asked no more.
    pub(super) fn leaves(&self, peer: OriginatorId) {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        source.take_if(|source| *source == peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_whoever_was_asked_last_and_not_left_since() {
        let (source, other) = (OriginatorId(200), OriginatorId(300));
        let strand = StrandCounters::default();
        assert_eq!(strand.source(), None);
        strand.asks(source);
        strand.leaves(other);
        assert_eq!(strand.source(), Some(source));
        strand.asks(other);
        strand.leaves(source);
        assert_eq!(strand.source(), Some(other));
        strand.leaves(other);
        assert_eq!(strand.source(), None);
    }
}
