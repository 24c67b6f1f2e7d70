//! State of a backlog that several peers send at once.

use std::collections::VecDeque;
use std::time::Instant;

use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::LogEntry;

/// Bounds of a split backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitLimits {
    /// The least number of places beyond the accepted ones that the source and another peer must claim before a
    /// backlog is split. A quarter of it is left to the source at the end. After a part that no peer sends as a whole,
    /// the source sends as many places alone, or more after several in a row.
    pub backlog_min: u64,
    /// Places of a peer's first part. Each part that it completes doubles the next one, or halves it if other peers had
    /// to wait for it.
    pub first_part_places: u64,
    /// Places of a part, at most.
    pub part_places_max: u64,
    /// Bytes of envelopes that wait for their turn, at most.
    pub held_bytes_max: usize,
}

impl Default for SplitLimits {
    /// Guessed: a backlog of some seconds, and parts that take a fraction of a second. Four pages of a peer over gRPC
    /// have the places of a part.
    fn default() -> Self {
        Self {
            backlog_min: 16_384,
            first_part_places: 256,
            part_places_max: 4_000,
            held_bytes_max: 16 * 1024 * 1024,
        }
    }
}

/// State of a backlog that is split.
///
/// Invariant: the parts are contiguous, and the first one begins right after the accepted places.
#[derive(Debug)]
pub(super) struct Split {
    /// At most `PARTS_MAX` parts, in the order of their places.
    pub(super) parts: VecDeque<BacklogPart>,
    /// The last place that had been accepted when it began.
    pub(super) began: SequenceId,
    /// The last place that belongs to a part, or was accepted.
    pub(super) assigned: SequenceId,
    /// Bytes of all entries that wait; at most [`SplitLimits::held_bytes_max`].
    pub(super) held_bytes: usize,
    /// The envelopes that parts have brought.
    pub(super) received: ReceivedTotal,
}

/// A number of envelopes and their length.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ReceivedTotal {
    pub(super) envelopes: u64,
    pub(super) bytes: u64,
}

impl ReceivedTotal {
    /// Counts an envelope.
    pub(super) fn add(&mut self, len_bytes: usize) {
        self.envelopes += 1;
        self.bytes = self.bytes.saturating_add(len_bytes as u64);
    }

    /// Returns the number of envelopes of the mean length so far that `bytes` hold, at least 1; `None` before the first
    /// envelope.
    pub(super) fn envelopes_in(self, bytes: u64) -> Option<u64> {
        let Self { envelopes, bytes: received } = self;
        (envelopes > 0).then(|| (bytes.saturating_mul(envelopes) / received.max(1)).max(1))
    }
}

/// A part of the backlog.
#[derive(Debug)]
pub(super) struct BacklogPart {
    /// Everything up to this place has come.
    pub(super) position: SequenceId,
    /// The last place.
    pub(super) through: SequenceId,
    /// Entries that wait for the parts before. Empty in the first part.
    pub(super) held: Vec<LogEntry>,
    /// There was no room for the next envelope. The rest is asked for when this is the first part.
    pub(super) is_heavy: bool,
    /// The peer that is asked for the rest.
    pub(super) asked: Option<OriginatorId>,
    /// The time at which that peer was asked.
    pub(super) asked_at: Instant,
    /// The last time that the peer has shown something.
    pub(super) moved_at: Instant,
    /// The last time that the peer was asked or has shown an envelope.
    pub(super) shown_at: Instant,
    /// Peers that are not asked for this part again.
    pub(super) avoided: Vec<OriginatorId>,
    /// The avoided peers that left out a place of this part.
    pub(super) left_out_by: Vec<OriginatorId>,
}

impl BacklogPart {
    /// Creates the part after `after` and up to `through`. Nothing of it has come yet.
    pub(super) fn new(now: Instant, after: SequenceId, through: SequenceId) -> Self {
        Self {
            position: after,
            through,
            held: Vec::new(),
            is_heavy: false,
            asked: None,
            asked_at: now,
            moved_at: now,
            shown_at: now,
            avoided: Vec::new(),
            left_out_by: Vec::new(),
        }
    }
}
