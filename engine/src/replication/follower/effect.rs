//! The effects that a follower asks its driver for.

use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{Change, LogEntry};

use crate::replication::link::{PeerViolation, RequestId, Want};

/// A write to one strand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrandWrite {
    /// Commit these changes in this order, after all writes before them; then call
    /// [`Follower::handle_durable`](super::Follower::handle_durable) with `through`.
    Append {
        /// The next changes of the strand, contiguous.
        changes: Vec<Change>,
        /// The last place that the changes fill.
        through: SequenceId,
    },
    /// Compare these entries with the stored ones, after all appends before them. The same
    /// statement changes nothing, another one is a conflict, and a place marked missing is filled.
    Compare {
        /// The peer that sent them.
        from: OriginatorId,
        /// The entries, of places that the strand has passed.
        entries: Vec<LogEntry>,
    },
}

/// One thing for the driver to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write to the log, in the order of the effects.
    Write(StrandWrite),
    /// Send a want to a peer. Everything that answers it comes back under `request`.
    Want {
        /// The peer to ask.
        peer: OriginatorId,
        /// Identifies the response.
        request: RequestId,
        /// The places to ask for.
        want: Want,
    },
    /// Cancel the open want at a peer.
    Stop {
        /// The peer that was asked.
        peer: OriginatorId,
    },
    /// A peer has shown envelopes of this strand that are not held, in answer to a want. Only
    /// for a follower that [reports finds](super::Follower::reporting_finds).
    Found {
        /// The peer.
        peer: OriginatorId,
        /// The highest place of them.
        sequence: SequenceId,
        /// The latest of their times; `None` if no time is known.
        originator_ns: Option<i64>,
    },
    /// Bytes of an answer to a want have arrived, of which nothing is whole yet. Only for a follower that
    /// [reports finds](super::Follower::reporting_finds).
    Arriving {
        /// The peer.
        peer: OriginatorId,
    },
    /// Read the highest ranges of the strand that are marked missing, of those that begin below this place, or of all.
    /// Read as many as a follower keeps in memory. Then call
    /// [`Follower::handle_missing`](super::Follower::handle_missing).
    ReadMissing {
        /// The lowest place that was in memory; `None` to begin at the top.
        below: Option<SequenceId>,
    },
    /// The strand's own node states that it no longer keeps these places, which are marked missing. Mark them expired
    /// if they can have expired, and then call [`Follower::handle_expired`](super::Follower::handle_expired).
    Expired {
        /// The first place.
        from: SequenceId,
        /// The last place.
        through: SequenceId,
    },
    /// Close the connection to a peer.
    Disconnect {
        /// The peer at fault.
        peer: OriginatorId,
        /// The rule that it broke.
        violation: PeerViolation,
    },
}
