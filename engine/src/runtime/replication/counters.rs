//! Counters of replication.

use std::collections::BTreeSet;

use hawser_proto::{OriginatorId, SequenceId};
use parking_lot::Mutex;

use crate::runtime::counters::Counter;

/// Counters over all followed strands. The exporter of metrics reads them.
#[derive(Debug, Default)]
pub struct ReplicationCounters {
    /// Envelopes of other nodes that were checked and may be stored.
    pub verified: Counter,
    /// Envelopes that were refused, most of them with the connection that brought them.
    pub forged: Counter,
    /// Envelopes that readers were shown by a checkpoint, and that were verified behind.
    pub verified_behind: Counter,
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
    /// Searches for places that the strand passed over. The first sign of a node that withholds envelopes.
    pub searches: Counter,
    source: Mutex<Option<OriginatorId>>,
    /// At most one peer for each node of the registry.
    refused: Mutex<Option<(SequenceId, BTreeSet<OriginatorId>)>>,
    searched_through: Mutex<Option<SequenceId>>,
}

impl StrandCounters {
    /// Returns the peer that is asked for everything that comes next; `None` while there is none.
    #[must_use]
    pub fn source(&self) -> Option<OriginatorId> {
        *self.source.lock()
    }

    /// Returns the place behind which peers have last sent envelopes that no node takes, and these peers; `None` if
    /// none has. While the strand ends there, it may be the strand's own node that keeps it from going on.
    #[must_use]
    pub fn refused(&self) -> Option<(SequenceId, Vec<OriginatorId>)> {
        let refused = self.refused.lock();
        refused.as_ref().map(|(after, peers)| (*after, peers.iter().copied().collect()))
    }

    /// Notes that this peer has sent such an envelope behind this place.
    pub(super) fn note_refused(&self, after: SequenceId, peer: OriginatorId) {
        let mut refused = self.refused.lock();
        let (place, peers) = refused.get_or_insert_with(|| (after, BTreeSet::new()));
        if *place != after {
            *place = after;
            peers.clear();
        }
        peers.insert(peer);
    }

    /// Returns the last place of the gap that holds the strand up; `None` while no search does.
    #[must_use]
    pub fn searched_through(&self) -> Option<SequenceId> {
        *self.searched_through.lock()
    }

    /// Notes the last place of that gap.
    pub(super) fn show_search(&self, through: Option<SequenceId>) {
        *self.searched_through.lock() = through;
    }

    /// Notes which peer is asked from now on.
    pub(super) fn show_source(&self, source: Option<OriginatorId>) {
        *self.source.lock() = source;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_that_were_refused_at_an_earlier_place_show_nothing_about_the_next_one() {
        let counters = StrandCounters::default();
        let [one, other] = [300, 400].map(OriginatorId);
        assert_eq!(counters.refused(), None);
        for peer in [other, one, one] {
            counters.note_refused(SequenceId(7), peer);
        }
        assert_eq!(counters.refused(), Some((SequenceId(7), vec![one, other])));
        counters.note_refused(SequenceId(8), other);
        assert_eq!(counters.refused(), Some((SequenceId(8), vec![other])));
    }
}
