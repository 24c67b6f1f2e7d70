//! What waits in memory for one listener.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::limits::{Limits, Taken};
use crate::committed::Committed;
use crate::runtime::counters::StreamCounters;

/// A bounded queue between those who commit and one listener. When the listener is too slow,
/// everything in it is dropped and the listener is told so: it then reads from disk, and nobody
/// has waited.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: Limits,
    state: Mutex<State>,
    filled: Notify,
    counters: Arc<StreamCounters>,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Arc<Committed>>,
    taken: Taken,
    overflowed: bool,
}

impl State {
    fn waiting_bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes.len() as u64).sum()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let waiting_bytes = self.lock().waiting_bytes();
        self.counters.waiting_bytes.take(waiting_bytes);
    }
}

/// What a listener gets.
#[derive(Debug)]
pub(crate) enum Popped {
    /// In the order of commits; empty if there is nothing.
    Items(Vec<Arc<Committed>>),
    /// Envelopes were dropped. From here on they are kept again: whoever reads the heads after
    /// this and reads from disk up to them has missed nothing.
    Overflowed,
}

impl Queue {
    pub(crate) fn new(limits: Limits, counters: Arc<StreamCounters>) -> Self {
        Self { limits, state: Mutex::default(), filled: Notify::new(), counters }
    }

    /// Takes an envelope in, or gives everything up. Never blocks on the listener.
    pub(crate) fn push(&self, item: &Arc<Committed>) {
        let mut state = self.lock();
        if state.overflowed {
            return;
        }
        let wake = state.items.is_empty();
        if state.taken.take(self.limits, item.bytes.len()) {
            state.items.push_back(Arc::clone(item));
            self.counters.waiting_bytes.add(item.bytes.len() as u64);
        } else {
            self.counters.waiting_bytes.take(state.waiting_bytes());
            self.counters.demotions.add(1);
            *state = State { overflowed: true, ..State::default() };
        }
        drop(state);
        if wake {
            self.filled.notify_one();
        }
    }

    /// Takes out what fits into `limits`, at least one if there is one.
    pub(crate) fn pop(&self, limits: Limits) -> Popped {
        let mut state = self.lock();
        if std::mem::take(&mut state.overflowed) {
            return Popped::Overflowed;
        }
        let mut popped = Taken::default();
        let mut items = Vec::new();
        while let Some(item) = state.items.front() {
            let len_bytes = item.bytes.len();
            if !popped.take(limits, len_bytes) {
                break;
            }
            state.taken.give_back(len_bytes);
            self.counters.waiting_bytes.take(len_bytes as u64);
            items.extend(state.items.pop_front());
        }
        Popped::Items(items)
    }

    /// Waits until there is something to pop. For one listener at a time; may be dropped while it
    /// waits.
    pub(crate) async fn filled(&self) {
        while !self.has_something() {
            self.filled.notified().await;
        }
    }

    fn has_something(&self) -> bool {
        let state = self.lock();
        state.overflowed || !state.items.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn len_bytes(&self) -> usize {
        self.lock().taken.len_bytes()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, Topic};

    use super::*;

    fn item(sequence: u64, len_bytes: usize) -> Arc<Committed> {
        Arc::new(Committed {
            id: EnvelopeId::new(OriginatorId(100), SequenceId(sequence)),
            topic: Topic::parse(vec![0, 1].into()).unwrap(),
            originator_ns: 0,
            depends_on: Vec::new(),
            bytes: vec![0; len_bytes].into(),
        })
    }

    fn sequences(popped: Popped) -> Option<Vec<u64>> {
        match popped {
            Popped::Items(items) => Some(items.iter().map(|item| item.id.sequence.0).collect()),
            Popped::Overflowed => None,
        }
    }

    const ALL: Limits = Limits { envelopes: usize::MAX, len_bytes: usize::MAX };

    #[test]
    fn what_is_pushed_is_popped_in_order_and_in_bounded_pieces() {
        let queue = Queue::new(Limits::QUEUE, Arc::default());
        (1..=5).for_each(|sequence| queue.push(&item(sequence, 98)));
        let two = Limits { envelopes: 2, len_bytes: 1000 };
        assert_eq!(sequences(queue.pop(two)), Some(vec![1, 2]));
        let one = Limits { envelopes: 9, len_bytes: 150 };
        assert_eq!(sequences(queue.pop(one)), Some(vec![3]));
        assert_eq!(sequences(queue.pop(ALL)), Some(vec![4, 5]));
        assert_eq!(sequences(queue.pop(ALL)), Some(vec![]));
        assert_eq!(queue.len_bytes(), 0);
    }

    #[test]
    fn overflow_by_count_or_bytes_drops_everything_and_is_told_once() {
        for (limits, fits) in [
            (Limits { envelopes: 3, len_bytes: usize::MAX }, 3),
            (Limits { envelopes: usize::MAX, len_bytes: 250 }, 2),
        ] {
            let queue = Queue::new(limits, Arc::default());
            (1..=fits).for_each(|sequence| queue.push(&item(sequence, 98)));
            assert!(queue.len_bytes() > 0);
            queue.push(&item(fits + 1, 98));
            queue.push(&item(fits + 2, 98));
            assert_eq!(queue.len_bytes(), 0, "memory is given back at once");
            assert_eq!(sequences(queue.pop(ALL)), None);
            queue.push(&item(fits + 3, 98));
            assert_eq!(sequences(queue.pop(ALL)), Some(vec![fits + 3]));
        }
    }

    #[test]
    fn what_waits_is_counted_over_all_queues_and_so_are_those_that_are_too_slow() {
        let counters = Arc::new(StreamCounters::default());
        let three = Limits { envelopes: 3, len_bytes: usize::MAX };
        let [first, second] = [(); 2].map(|()| Queue::new(three, counters.clone()));
        (1..=3).for_each(|sequence| first.push(&item(sequence, 10)));
        second.push(&item(1, 5));
        assert_eq!(counters.waiting_bytes.get(), 35);
        let _ = first.pop(Limits { envelopes: 1, len_bytes: usize::MAX });
        assert_eq!((counters.waiting_bytes.get(), counters.demotions.get()), (25, 0));
        (4..=6).for_each(|sequence| first.push(&item(sequence, 10)));
        assert_eq!((counters.waiting_bytes.get(), counters.demotions.get()), (5, 1));
        drop(second);
        assert_eq!(counters.waiting_bytes.get(), 0);
    }

    #[tokio::test]
    async fn a_waiting_listener_wakes_up_for_an_envelope_and_for_an_overflow() {
        let queue =
            Arc::new(Queue::new(Limits { envelopes: 1, len_bytes: usize::MAX }, Arc::default()));
        let waiting = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.filled().await }
        });
        tokio::task::yield_now().await;
        queue.push(&item(1, 1));
        waiting.await.unwrap();
        queue.push(&item(2, 1));
        queue.filled().await;
        assert_eq!(sequences(queue.pop(ALL)), None);
    }
}
