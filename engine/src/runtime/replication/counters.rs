//! Counters of replication.

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
    refused_after: Mutex<Option<SequenceId>>,
    searched_through: Mutex<Option<SequenceId>>,
}

impl StrandCounters {
    /// Returns the peer that is asked for everything that comes next; `None` while there is none.
    #[must_use]
    pub fn source(&self) -> Option<OriginatorId> {
        *self.source.lock()
    }

    /// Returns the place behind which a peer has last sent an envelope that no node takes; `None` if none has. While
    /// the strand ends there, it may be the strand's own node that keeps it from going on.
    #[must_use]
    pub fn refused_after(&self) -> Option<SequenceId> {
        *self.refused_after.lock()
    }

    /// Notes that a peer has sent such an envelope behind this place.
    pub(super) fn note_refused(&self, after: SequenceId) {
        *self.refused_after.lock() = Some(after);
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
