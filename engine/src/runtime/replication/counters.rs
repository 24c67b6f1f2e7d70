//! Counters of replication.

use hawser_proto::OriginatorId;
use parking_lot::Mutex;

use crate::runtime::counters::Counter;

/// Counters over all followed strands. The exporter of metrics reads them.
#[derive(Debug, Default)]
pub struct ReplicationCounters {
    /// Envelopes of other nodes that were checked and may be stored.
    pub verified: Counter,
    /// Envelopes that were refused, each with the connection that brought it.
    pub forged: Counter,
    /// Envelopes stored, valid or marked invalid.
    pub stored: Counter,
    /// Envelopes that came again, or fill a place that had been marked missing.
    pub compared: Counter,
    /// Places marked missing.
    pub missing: Counter,
    /// Second statements that an originator signed for one sequence id. The first one is kept.
    pub conflicts: Counter,
}

/// Counters of one followed strand.
#[derive(Debug, Default)]
pub struct StrandCounters {
    /// Envelopes of the strand that peers sent and that were checked, repeats included.
    pub received: Counter,
    source: Mutex<Option<OriginatorId>>,
}

impl StrandCounters {
    /// Returns the peer that is asked for everything that comes next; `None` while there is none.
    #[must_use]
    pub fn source(&self) -> Option<OriginatorId> {
        *self.source.lock()
    }

    /// Notes that `peer` is asked from now on.
    pub(super) fn set_source(&self, peer: OriginatorId) {
        *self.source.lock() = Some(peer);
    }

    /// Notes that `peer` is no longer asked, if it was.
    pub(super) fn clear_source(&self, peer: OriginatorId) {
        self.source.lock().take_if(|source| *source == peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_the_peer_that_was_set_last_and_not_cleared_since() {
        let (own_node, other) = (OriginatorId(200), OriginatorId(300));
        let strand = StrandCounters::default();
        assert_eq!(strand.source(), None);
        strand.set_source(own_node);
        strand.clear_source(other);
        assert_eq!(strand.source(), Some(own_node));
        strand.set_source(other);
        strand.clear_source(own_node);
        assert_eq!(strand.source(), Some(other));
        strand.clear_source(other);
        assert_eq!(strand.source(), None);
    }
}
