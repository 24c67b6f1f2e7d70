//! State of a backlog that several peers send at once.

use std::collections::VecDeque;
use std::time::Instant;

use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::LogEntry;

/// Bounds of a split backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitLimits {
    /// The least number of places beyond the accepted ones that the source and another peer must claim before a
    /// backlog is split. A quarter of it is left to the source at the end.
    pub backlog_min: u64,
    /// Places of a peer's first part. Each part that it completes doubles the next one.
    pub first_part_places: u64,
    /// Places of a part, at most.
    pub part_places_max: u64,
    /// Bytes of envelopes that wait for their turn, at most.
    pub held_bytes_max: usize,
}

impl Default for SplitLimits {
    /// Guessed: a backlog of some seconds, and parts that take a fraction of a second.
    fn default() -> Self {
        Self {
            backlog_min: 16_384,
            first_part_places: 256,
            part_places_max: 4_096,
            held_bytes_max: 16 * 1024 * 1024,
        }
    }
}

/// State of a backlog that is split.
///
/// Invariant: the parts are contiguous, and the first one begins right after what was accepted.
#[derive(Debug)]
pub(super) struct Split {
    pub(super) parts: VecDeque<BacklogPart>,
    /// The last place that belongs to a part, or was accepted.
    pub(super) given: SequenceId,
    /// Bytes of all entries that wait.
    pub(super) held_bytes: usize,
    /// Number of envelopes that parts have brought, and their bytes.
    pub(super) seen: (u64, u64),
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
    pub(super) asked_at: Instant,
    /// The last time that the peer has shown something.
    pub(super) moved_at: Instant,
    /// Peers that are not asked for this part again.
    pub(super) avoided: Vec<OriginatorId>,
    /// Those of the avoided peers that left out a place of this part.
    pub(super) left_out_by: Vec<OriginatorId>,
}

impl BacklogPart {
    /// A part of which nothing has come yet.
    pub(super) fn new(now: Instant, after: SequenceId, through: SequenceId) -> Self {
        Self {
            position: after,
            through,
            held: Vec::new(),
            is_heavy: false,
            asked: None,
            asked_at: now,
            moved_at: now,
            avoided: Vec::new(),
            left_out_by: Vec::new(),
        }
    }
}
