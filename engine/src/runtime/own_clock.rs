//! This node's wall clock beside those of others, as the publish path, the tasks of replication and the
//! readers of chains share it.

use std::sync::Arc;
use std::time::Instant;

use hawser_proto::{Cursor, OriginatorId, SequenceId};
use parking_lot::Mutex;

use crate::own_clock::{ClockAheadError, ClockLead, OtherClocks};

/// Handle to the clocks of others. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnClock(Arc<Mutex<OtherClocks>>);

impl OwnClock {
    /// Checks that envelopes may be dated by a wall clock that shows `wall_ns` now, unix nanoseconds.
    ///
    /// # Errors
    /// [`ClockAheadError`] if it is too far ahead of others.
    pub(super) fn check(&self, wall_ns: i64) -> Result<(), ClockAheadError> {
        self.0.lock().check(now(), wall_ns)
    }

    /// Returns the lead of a wall clock that shows `wall_ns` now over the clocks of others, as
    /// [`OtherClocks::leads`] does.
    pub(super) fn leads(&self, wall_ns: i64) -> Vec<ClockLead> {
        self.0.lock().leads(now(), wall_ns)
    }

    /// Returns the latest time that most peers have passed, as [`OtherClocks::majority_time_ns`] does.
    pub(super) fn majority_time_ns(&self, wall_ns: i64) -> i64 {
        self.0.lock().majority_time_ns(now(), wall_ns)
    }

    /// Notes a block that appeared at the head of a chain at the moment `at`.
    pub(super) fn note_block(&self, chain: &'static str, time_ns: i64, at: Instant) {
        self.0.lock().note_block(chain, time_ns, at);
    }

    /// Notes that a peer has connected, with its first claims.
    pub(super) fn note_peer_up(&self, peer: OriginatorId, claims: &Cursor) {
        self.0.lock().note_peer_up(peer, claims.get(peer));
    }

    /// Notes that a peer is gone.
    pub(super) fn note_peer_down(&self, peer: OriginatorId) {
        self.0.lock().note_peer_down(peer);
    }

    /// Notes further claims of a connected peer.
    pub(super) fn note_claims(&self, peer: OriginatorId, claims: &Cursor) {
        self.0.lock().note_head(peer, claims.get(peer), now());
    }

    /// Notes verified envelopes of its own strand that a peer has sent itself, with their times.
    pub(super) fn note_envelopes(
        &self,
        peer: OriginatorId,
        envelopes: impl IntoIterator<Item = (SequenceId, i64)>,
    ) {
        let mut clocks = self.0.lock();
        envelopes.into_iter().for_each(|(place, ns)| clocks.note_envelope(peer, place, ns));
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
