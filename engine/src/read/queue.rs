//! Queue of committed envelopes that one listener has not taken yet, as a plain value.
//!
//! [`Listener`](crate::runtime::read::listener::Listener) puts it behind a lock and wakes its
//! subscription.

use std::collections::VecDeque;
use std::sync::Arc;

use hawser_proto::EnvelopeId;

use super::limits::{BatchLimits, BatchSize};
use crate::committed::Committed;

/// Entries for which a queue keeps its memory when it is empty. A guess: a few messages. That of a thousand would be
/// four times the charge of a stream.
const KEPT_ROOM: usize = 16;

/// Bounded queue between the committer and one listener.
///
/// When the listener is too slow for its limits, the queue drops everything that it holds and reports
/// that at the next [`pop`](Self::pop): the listener then reads from disk. So no commit waits.
///
/// Between the envelopes are the places of chain strands that the listener waits for. Once the listener
/// has popped the entries before such a place, it has everything up to that place.
///
/// Invariant: the queue holds at most what its limits allow, or one envelope of any size, and the
/// places that were asked for.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: BatchLimits,
    entries: VecDeque<Entry>,
    size: BatchSize,
    waiting_bytes: u64,
    overflowed: bool,
}

#[derive(Debug)]
enum Entry {
    Envelope(Arc<Committed>),
    Reached(EnvelopeId),
}

/// Effect of a [`Queue::push`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The envelope is the only one in the queue: its listener has to be woken.
    First,
    /// Other envelopes are before it in the queue: its listener was woken for them already.
    Behind,
    /// The queue was full and has dropped these bytes of envelopes, besides the new one.
    Overflowed {
        /// Sum of the dropped envelopes' lengths.
        dropped_bytes: u64,
    },
    /// The queue has overflowed before, and its listener has not learned of it yet.
    Ignored,
}

/// Result of a [`Queue::pop`].
#[derive(Debug)]
pub(crate) enum PopOutcome {
    /// Envelopes in the order of commits, and the places that have been reached with them; both empty
    /// if the queue is.
    Items(Vec<Arc<Committed>>, Vec<EnvelopeId>),
    /// Envelopes were dropped. From here on the queue keeps envelopes again: a listener that reads
    /// the heads after this, and then disk up to them, has missed nothing.
    Overflowed,
}

impl Queue {
    /// Creates an empty queue.
    pub(crate) fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
            size: BatchSize::default(),
            waiting_bytes: 0,
            overflowed: false,
        }
    }

    /// Takes an envelope in, or drops everything if that is too much.
    pub(crate) fn push(&mut self, item: &Arc<Committed>) -> Pushed {
        if self.overflowed {
            return Pushed::Ignored;
        }
        let is_first = self.entries.is_empty();
        if !self.size.try_add(self.limits, item.bytes.len()) {
            return self.lose();
        }
        self.entries.push_back(Entry::Envelope(Arc::clone(item)));
        self.waiting_bytes += item.bytes.len() as u64;
        if is_first { Pushed::First } else { Pushed::Behind }
    }

    /// Notes that a chain strand has reached a place, after all envelopes that are in the queue.
    pub(crate) fn push_reached(&mut self, reached: EnvelopeId) -> Pushed {
        if self.overflowed {
            return Pushed::Ignored;
        }
        let is_first = self.entries.is_empty();
        self.entries.push_back(Entry::Reached(reached));
        if is_first { Pushed::First } else { Pushed::Behind }
    }

    /// Drops everything, because an envelope is missing in it.
    pub(crate) fn lose(&mut self) -> Pushed {
        if self.overflowed {
            return Pushed::Ignored;
        }
        let dropped_bytes = self.waiting_bytes;
        *self = Self { overflowed: true, ..Self::new(self.limits) };
        Pushed::Overflowed { dropped_bytes }
    }

    /// Takes out what fits into `limits`, at least one envelope if there is one.
    pub(crate) fn pop(&mut self, limits: BatchLimits) -> PopOutcome {
        if std::mem::take(&mut self.overflowed) {
            return PopOutcome::Overflowed;
        }
        let mut popped = BatchSize::default();
        let (mut items, mut reached) = (Vec::new(), Vec::new());
        while let Some(entry) = self.entries.front() {
            if let Entry::Envelope(item) = entry
                && !popped.try_add(limits, item.bytes.len())
            {
                break;
            }
            match self.entries.pop_front() {
                Some(Entry::Envelope(item)) => {
                    self.size.remove(item.bytes.len());
                    self.waiting_bytes -= item.bytes.len() as u64;
                    items.push(item);
                }
                Some(Entry::Reached(place)) => reached.push(place),
                None => break,
            }
        }
        if self.entries.is_empty() {
            self.entries.shrink_to(KEPT_ROOM);
        }
        PopOutcome::Items(items, reached)
    }

    /// Returns true if the next [`pop`](Self::pop) returns something.
    pub(crate) fn is_ready(&self) -> bool {
        self.overflowed || !self.entries.is_empty()
    }

    /// Returns the sum of the waiting envelopes' lengths.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// Returns the length of the waiting envelopes on the wire, in bytes.
    pub(crate) fn len_bytes(&self) -> usize {
        self.size.len_bytes()
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};

    use super::*;
    use crate::read::testing::queued;

    fn sequences(popped: PopOutcome) -> Option<Vec<u64>> {
        match popped {
            PopOutcome::Items(items, _) => {
                Some(items.iter().map(|item| item.id.sequence.0).collect())
            }
            PopOutcome::Overflowed => None,
        }
    }

    const ALL: BatchLimits = BatchLimits { envelopes: usize::MAX, len_bytes: usize::MAX };

    #[test]
    fn envelopes_are_popped_in_order_and_in_bounded_pieces() {
        let mut queue = Queue::new(BatchLimits::QUEUE);
        assert_eq!(queue.push(&queued(1, 98)), Pushed::First);
        (2..=5).for_each(|sequence| assert_eq!(queue.push(&queued(sequence, 98)), Pushed::Behind));
        let two = BatchLimits { envelopes: 2, len_bytes: 1000 };
        assert_eq!(sequences(queue.pop(two)), Some(vec![1, 2]));
        assert_eq!(queue.waiting_bytes(), 3 * 98);
        let one = BatchLimits { envelopes: 9, len_bytes: 150 };
        assert_eq!(sequences(queue.pop(one)), Some(vec![3]));
        assert_eq!(sequences(queue.pop(ALL)), Some(vec![4, 5]));
        assert!(!queue.is_ready());
        assert_eq!(sequences(queue.pop(ALL)), Some(vec![]));
        assert_eq!((queue.len_bytes(), queue.waiting_bytes()), (0, 0));
    }

    #[test]
    fn a_place_is_told_once_everything_before_it_is_popped() {
        let place = EnvelopeId::new(OriginatorId(0), SequenceId(7));
        let mut queue = Queue::new(BatchLimits::QUEUE);
        assert_eq!(queue.push_reached(place), Pushed::First);
        assert!(
            matches!(queue.pop(ALL), PopOutcome::Items(items, places) if items.is_empty() && places == [place])
        );
        (1..=3).for_each(|sequence| _ = queue.push(&queued(sequence, 98)));
        assert_eq!(queue.push_reached(place), Pushed::Behind);
        let two = BatchLimits { envelopes: 2, len_bytes: usize::MAX };
        assert!(
            matches!(queue.pop(two), PopOutcome::Items(items, places) if items.len() == 2 && places.is_empty())
        );
        assert!(
            matches!(queue.pop(two), PopOutcome::Items(items, places) if items.len() == 1 && places == [place])
        );
        assert!(!queue.is_ready());
        assert_eq!(queue.lose(), Pushed::Overflowed { dropped_bytes: 0 });
        assert_eq!(queue.push_reached(place), Pushed::Ignored);
        assert!(matches!(queue.pop(ALL), PopOutcome::Overflowed));
    }

    /// Played by a client that lets the queues of its streams run full, one after the other, and keeps these open.
    #[test]
    fn a_queue_that_was_full_keeps_little_memory() {
        let mut queue = Queue::new(BatchLimits::QUEUE);
        (1..=1000).for_each(|sequence| _ = queue.push(&queued(sequence, 98)));
        let _ = queue.pop(ALL);
        let room = queue.entries.capacity();
        assert!(room < 4 * KEPT_ROOM, "{room}");
    }

    #[test]
    fn overflow_by_count_or_bytes_drops_everything_and_is_told_once() {
        for (limits, fits) in [
            (BatchLimits { envelopes: 3, len_bytes: usize::MAX }, 3),
            (BatchLimits { envelopes: usize::MAX, len_bytes: 250 }, 2),
        ] {
            let mut queue = Queue::new(limits);
            (1..=fits).for_each(|sequence| _ = queue.push(&queued(sequence, 98)));
            assert!(queue.len_bytes() > 0);
            let overflowed = Pushed::Overflowed { dropped_bytes: fits * 98 };
            assert_eq!(queue.push(&queued(fits + 1, 98)), overflowed);
            assert_eq!(queue.push(&queued(fits + 2, 98)), Pushed::Ignored);
            assert_eq!(queue.len_bytes(), 0, "memory is given back at once");
            assert!(queue.is_ready());
            assert_eq!(sequences(queue.pop(ALL)), None);
            assert_eq!(queue.push(&queued(fits + 3, 98)), Pushed::First);
            assert_eq!(sequences(queue.pop(ALL)), Some(vec![fits + 3]));
        }
    }
}
