//! Times of the chain strands: an envelope should not seem older than the commit it depends on.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{ReadError, Store};

use crate::sequencer::is_followed;

/// Times of the chain strands. Cheap to clone; all clones are the same.
///
/// Times of a chain do not fall, so the newest one mostly shows that no other is ahead of this node's
/// clock. Only if the newest one is ahead, the log is read.
#[derive(Clone)]
pub(super) struct ChainClock {
    store: Store,
    /// The latest times of strands 0 and 1, unix nanoseconds.
    newest_ns: Arc<[AtomicI64; 2]>,
    /// The ends of strands that could not be read at the start.
    unread: Arc<[(EnvelopeId, ReadError)]>,
}

impl ChainClock {
    /// Starts from the newest envelopes of the log. Where one cannot be read, every time of its strand is read from the
    /// log until the next event.
    ///
    /// # Errors
    /// When the heads cannot be read.
    pub(super) fn load(store: Store) -> Result<Self, ReadError> {
        let newest_ns = Arc::new([AtomicI64::new(0), AtomicI64::new(0)]);
        let mut clock = Self { store, newest_ns, unread: Arc::default() };
        let mut unread = Vec::new();
        for originator in OriginatorId::CHAINS {
            let head = clock.store.snapshot().head(originator)?;
            // The last place may be void: then every time is read from the log until the next event.
            let is_empty = head == SequenceId::NONE;
            let end = EnvelopeId::new(originator, head);
            let newest_ns = clock.time_ns(end).unwrap_or_else(|error| {
                unread.push((end, error));
                None
            });
            clock.note(originator, newest_ns.unwrap_or(if is_empty { 0 } else { i64::MAX }));
        }
        clock.unread = unread.into();
        Ok(clock)
    }

    /// Returns the ends of strands that could not be read at the start.
    pub(super) fn unread(&self) -> &[(EnvelopeId, ReadError)] {
        &self.unread
    }

    /// Notes that an envelope of this time comes into the strand.
    pub(super) fn note(&self, originator: OriginatorId, originator_ns: i64) {
        let newest_ns = newest_of(&self.newest_ns, originator);
        newest_ns.into_iter().for_each(|it| _ = it.fetch_max(originator_ns, Ordering::Relaxed));
    }

    /// Returns the time of the newest envelope of a chain's strand, unix nanoseconds; `None` for another strand.
    pub(super) fn newest_ns(&self, originator: OriginatorId) -> Option<i64> {
        newest_of(&self.newest_ns, originator).map(|newest_ns| newest_ns.load(Ordering::Relaxed))
    }

    /// Returns the latest time of `ids`, if one of them may be later than `now_ns`. An envelope that
    /// cannot be read has no time: an order in time is worth less than a publish.
    pub(super) fn latest_ns(&self, ids: &[EnvelopeId], now_ns: i64) -> Option<i64> {
        let may_be_later = |id: &&EnvelopeId| {
            newest_of(&self.newest_ns, id.originator)
                .is_some_and(|newest_ns| newest_ns.load(Ordering::Relaxed) > now_ns)
        };
        ids.iter().filter(may_be_later).filter_map(|&id| self.time_ns(id).ok().flatten()).max()
    }

    /// Returns the latest time that honest nodes give now, apart from differences of their clocks: that of
    /// this node's clock, or of a chain whose clock is ahead and that nodes follow.
    pub(super) fn ahead_of(&self, now_ns: i64) -> i64 {
        let times_ns = self.newest_ns.iter().map(|newest_ns| newest_ns.load(Ordering::Relaxed));
        times_ns.filter(|&ns| is_followed(ns, now_ns)).fold(now_ns, i64::max)
    }

    fn time_ns(&self, id: EnvelopeId) -> Result<Option<i64>, ReadError> {
        let stored = self.store.snapshot().get(id)?;
        Ok(stored.and_then(|bytes| OriginatorEnvelope::stated_ns(&bytes)))
    }
}

fn newest_of(newest_ns: &[AtomicI64; 2], originator: OriginatorId) -> Option<&AtomicI64> {
    newest_ns.get(usize::try_from(originator.0).ok()?)
}
