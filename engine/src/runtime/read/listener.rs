//! One listener of the hub: its queue behind a lock, and a wake-up for its subscription.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::committed::Committed;
use crate::read::limits::BatchLimits;
use crate::read::queue::{Popped, Pushed, Queue};
use crate::runtime::counters::StreamCounters;

/// Queue that the committer fills and one subscription empties. Never blocks on the subscription.
#[derive(Debug)]
pub(crate) struct Listener {
    queue: Mutex<Queue>,
    filled: Notify,
    counters: Arc<StreamCounters>,
}

impl Listener {
    /// Creates a listener with an empty queue.
    pub(crate) fn new(limits: BatchLimits, counters: Arc<StreamCounters>) -> Self {
        Self { queue: Mutex::new(Queue::new(limits)), filled: Notify::new(), counters }
    }

    /// Takes an envelope in, or drops everything that waits if that is too much.
    pub(crate) fn push(&self, item: &Arc<Committed>) {
        let mut queue = self.lock();
        let pushed = queue.push(item);
        // Counted under the lock: bytes that are popped before they are counted would make the
        // level negative.
        match pushed {
            Pushed::First | Pushed::Behind => {
                self.counters.waiting_bytes.inc_by(item.bytes.len() as u64);
            }
            Pushed::Overflowed { dropped_bytes } => {
                self.counters.waiting_bytes.dec_by(dropped_bytes);
                self.counters.demotions.inc();
            }
            Pushed::Ignored => {}
        }
        // Released before the wake-up: the woken task would only wait for it.
        drop(queue);
        if pushed == Pushed::First {
            self.filled.notify_one();
        }
    }

    /// Takes out what fits into `limits`, at least one envelope if there is one.
    pub(crate) fn pop(&self, limits: BatchLimits) -> Popped {
        let mut queue = self.lock();
        let popped = queue.pop(limits);
        if let Popped::Items(items) = &popped {
            let len_bytes: usize = items.iter().map(|item| item.bytes.len()).sum();
            self.counters.waiting_bytes.dec_by(len_bytes as u64);
        }
        popped
    }

    /// Waits until there is something to pop. For one task at a time. Cancel safe.
    pub(crate) async fn filled(&self) {
        while !self.lock().is_ready() {
            self.filled.notified().await;
        }
    }

    /// Returns what the waiting envelopes would take on the wire.
    #[cfg(test)]
    pub(crate) fn len_bytes(&self) -> usize {
        self.lock().len_bytes()
    }

    /// A queue is whole after each call, so a lock that a panic has poisoned can be used on.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let waiting_bytes = self.lock().waiting_bytes();
        self.counters.waiting_bytes.dec_by(waiting_bytes);
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

    #[test]
    fn waiting_bytes_and_demotions_are_counted_over_all_listeners() {
        let counters = Arc::new(StreamCounters::default());
        let three = BatchLimits { envelopes: 3, len_bytes: usize::MAX };
        let [first, second] = [(); 2].map(|()| Listener::new(three, counters.clone()));
        (1..=3).for_each(|sequence| first.push(&item(sequence, 10)));
        second.push(&item(1, 5));
        assert_eq!(counters.waiting_bytes.get(), 35);
        let _ = first.pop(BatchLimits { envelopes: 1, len_bytes: usize::MAX });
        assert_eq!((counters.waiting_bytes.get(), counters.demotions.get()), (25, 0));
        (4..=6).for_each(|sequence| first.push(&item(sequence, 10)));
        assert_eq!((counters.waiting_bytes.get(), counters.demotions.get()), (5, 1));
        drop(second);
        assert_eq!(counters.waiting_bytes.get(), 0);
    }

    #[tokio::test]
    async fn a_waiting_subscription_wakes_up_for_an_envelope_and_for_an_overflow() {
        let one = BatchLimits { envelopes: 1, len_bytes: usize::MAX };
        let listener = Arc::new(Listener::new(one, Arc::default()));
        let waiting = tokio::spawn({
            let listener = Arc::clone(&listener);
            async move { listener.filled().await }
        });
        tokio::task::yield_now().await;
        listener.push(&item(1, 1));
        waiting.await.unwrap();
        listener.push(&item(2, 1));
        listener.filled().await;
        assert!(matches!(listener.pop(one), Popped::Overflowed));
    }
}
