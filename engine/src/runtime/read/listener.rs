//! One listener of the hub: its queue behind a lock, and a wake-up for its subscription.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hawser_proto::EnvelopeId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::committed::Committed;
use crate::read::limits::BatchLimits;
use crate::read::queue::{PopOutcome, Pushed, Queue};
use crate::runtime::counters::StreamCounters;

/// Bytes in all queues together above which a queue that is not empty is dropped, and its stream
/// continues from disk. Without this bound, streams that are not read would hold committed envelopes for
/// as long as they last. A guess: an eighth of the memory of callers.
pub(super) const ALL_QUEUES_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Bytes that each queue may hold regardless of that bound, which counts an envelope for each queue that it is in. So a
/// thousand streams that are not read cannot send all others to the disk with one envelope. A guess: a few messages;
/// ten thousand streams hold 40 MiB at most, and mostly the same ones.
const SPARED_BYTES: u64 = 4 * 1024;

/// Queue that the committer fills and one subscription empties. Never blocks on the subscription.
#[derive(Debug)]
pub(crate) struct Listener {
    queue: Mutex<Queue>,
    filled: Notify,
    /// The last sweep that has found something waiting; 0 if something was taken out since.
    seen_by: AtomicU64,
    counters: Arc<StreamCounters>,
}

impl Listener {
    /// Creates a listener with an empty queue.
    pub(crate) fn new(limits: BatchLimits, counters: Arc<StreamCounters>) -> Self {
        let queue = Mutex::new(Queue::new(limits));
        Self { queue, filled: Notify::new(), seen_by: AtomicU64::new(0), counters }
    }

    /// Takes envelopes in, or drops everything that waits if that is too much. Wakes its subscription
    /// once at most.
    pub(crate) fn push(&self, items: &[Arc<Committed>]) {
        self.change(|queue| {
            if self.counters.waiting_bytes.get() > ALL_QUEUES_BYTES_MAX
                && queue.waiting_bytes() > 0
                && queue.waiting_bytes() + bytes_of(items) > SPARED_BYTES
            {
                let lost = queue.lose();
                self.count(lost);
                return lost != Pushed::Ignored;
            }
            let mut is_first = false;
            for item in items {
                let pushed = queue.push(item);
                if let Pushed::First | Pushed::Behind = pushed {
                    self.counters.waiting_bytes.inc_by(item.bytes.len() as u64);
                }
                is_first |= pushed == Pushed::First;
                if let Pushed::Overflowed { .. } = pushed {
                    // It may have been empty before this call, and nothing has woken its reader yet.
                    self.count(pushed);
                    return true;
                }
            }
            is_first
        });
    }

    /// Notes that a chain strand has reached a place for which the subscription waits.
    pub(crate) fn push_reached(&self, reached: EnvelopeId) {
        self.change(|queue| queue.push_reached(reached) == Pushed::First);
    }

    /// Drops everything that waits: an envelope could not be handed in.
    pub(crate) fn lose(&self) {
        self.change(|queue| {
            let lost = queue.lose();
            self.count(lost);
            lost != Pushed::Ignored
        });
    }

    /// Drops everything that waits, if nothing was taken out since an earlier sweep that has found something. Sweeps
    /// have ascending numbers from 1 on. A listener of several interests is visited several times in each.
    pub(crate) fn lose_stuck(&self, sweep: u64) {
        if self.seen_by.load(Ordering::Relaxed) == sweep {
            return;
        }
        self.change(|queue| {
            let is_waiting = queue.waiting_bytes() > 0;
            let seen_by = self.seen_by.swap(if is_waiting { sweep } else { 0 }, Ordering::Relaxed);
            if !is_waiting || seen_by == 0 || seen_by == sweep {
                return false;
            }
            let lost = queue.lose();
            self.count(lost);
            lost != Pushed::Ignored
        });
    }

    /// Drops everything that waits, and takes nothing in any more: the subscription has ended.
    pub(crate) fn end(&self) {
        self.change(|queue| {
            if let Pushed::Overflowed { dropped_bytes } = queue.lose() {
                self.counters.waiting_bytes.dec_by(dropped_bytes);
            }
            false
        });
    }

    fn count(&self, pushed: Pushed) {
        if let Pushed::Overflowed { dropped_bytes } = pushed {
            self.counters.waiting_bytes.dec_by(dropped_bytes);
            self.counters.demotions.inc();
        }
    }

    /// Changes the queue, and wakes the subscription if `change` returns true. Bytes are counted under the
    /// lock: envelopes that are popped before they are counted would make the level negative.
    fn change(&self, change: impl FnOnce(&mut Queue) -> bool) {
        let wakes = change(&mut self.queue.lock());
        // Released before the wake-up: the woken task would only wait for it.
        if wakes {
            self.filled.notify_one();
        }
    }

    /// Takes out what fits into `limits`, at least one envelope if there is one.
    pub(crate) fn pop(&self, limits: BatchLimits) -> PopOutcome {
        let mut queue = self.queue.lock();
        self.seen_by.store(0, Ordering::Relaxed);
        let popped = queue.pop(limits);
        if let PopOutcome::Items(items, _) = &popped {
            self.counters.waiting_bytes.dec_by(bytes_of(items));
        }
        popped
    }

    /// Waits until there is something to pop. For one task at a time. Cancel safe.
    pub(crate) async fn filled(&self) {
        while !self.queue.lock().is_ready() {
            self.filled.notified().await;
        }
    }

    /// Keeps the queue from every other thread until the result is dropped.
    #[cfg(test)]
    pub(crate) fn block(&self) -> parking_lot::MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Returns the length of the waiting envelopes on the wire, in bytes.
    pub(crate) fn len_bytes(&self) -> usize {
        self.queue.lock().len_bytes()
    }
}

/// Returns the sum of the envelopes' lengths.
fn bytes_of(items: &[Arc<Committed>]) -> u64 {
    items.iter().map(|item| item.bytes.len() as u64).sum()
}

impl Drop for Listener {
    fn drop(&mut self) {
        let waiting_bytes = self.queue.lock().waiting_bytes();
        self.counters.waiting_bytes.dec_by(waiting_bytes);
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};

    use super::*;
    use crate::read::testing::queued;

    #[test]
    fn waiting_bytes_and_demotions_are_counted_over_all_listeners() {
        let counters = Arc::new(StreamCounters::default());
        let three = BatchLimits { envelopes: 3, len_bytes: usize::MAX };
        let [first, second] = [(); 2].map(|()| Listener::new(three, counters.clone()));
        (1..=3).for_each(|sequence| first.push(&[queued(sequence, 10)]));
        second.push(&[queued(1, 5)]);
        assert_eq!(counters.waiting_bytes.get(), 35);
        let _ = first.pop(BatchLimits { envelopes: 1, len_bytes: usize::MAX });
        assert_eq!((counters.waiting_bytes.get(), counters.demotions.get()), (25, 0));
        (4..=6).for_each(|sequence| first.push(&[queued(sequence, 10)]));
        assert_eq!((counters.waiting_bytes.get(), counters.demotions.get()), (5, 1));
        drop(second);
        assert_eq!(counters.waiting_bytes.get(), 0);
    }

    #[test]
    fn all_queues_together_are_bounded_and_empty_ones_go_on() {
        let counters = Arc::new(StreamCounters::default());
        let listeners = [(); 40].map(|()| Listener::new(BatchLimits::QUEUE, counters.clone()));
        let mib = queued(1, 1024 * 1024);
        for sequence in 2..=3 {
            listeners.iter().for_each(|listener| listener.push(std::slice::from_ref(&mib)));
            assert!(
                counters.waiting_bytes.get() <= ALL_QUEUES_BYTES_MAX + 8 * 1024 * 1024,
                "{sequence}"
            );
        }
        assert!(counters.demotions.get() > 0);
        let idle = Listener::new(BatchLimits::QUEUE, counters.clone());
        idle.push(std::slice::from_ref(&mib));
        assert!(
            matches!(idle.pop(BatchLimits::STREAM), PopOutcome::Items(items, _) if items.len() == 1)
        );
    }

    /// Streams that are not read share one envelope of a topic of their own, whose bytes count for each of them.
    #[test]
    fn streams_that_are_not_read_send_none_that_holds_a_few_messages_to_the_disk() {
        let counters = Arc::new(StreamCounters::default());
        let still = [(); 40].map(|()| Listener::new(BatchLimits::QUEUE, counters.clone()));
        let mib = queued(1, 1024 * 1024);
        still.iter().for_each(|listener| listener.push(std::slice::from_ref(&mib)));
        assert!(counters.waiting_bytes.get() > ALL_QUEUES_BYTES_MAX);
        let read = Listener::new(BatchLimits::QUEUE, counters.clone());
        (1..=3).for_each(|sequence| read.push(&[queued(sequence, 1_000)]));
        assert!(
            matches!(read.pop(BatchLimits::STREAM), PopOutcome::Items(items, _) if items.len() == 3)
        );
        assert_eq!(counters.demotions.get(), 0);
        (4..=9).for_each(|sequence| read.push(&[queued(sequence, 1_000)]));
        assert_eq!(counters.demotions.get(), 1, "it holds too much as well");
    }

    /// They hold one envelope for as long as they like, and nothing is ever pushed to them again.
    #[test]
    fn queues_from_which_nothing_is_taken_are_dropped_by_the_second_sweep() {
        let counters = Arc::new(StreamCounters::default());
        let still = [(); 40].map(|()| Listener::new(BatchLimits::QUEUE, counters.clone()));
        let mib = queued(1, 1024 * 1024);
        still.iter().for_each(|listener| listener.push(std::slice::from_ref(&mib)));
        let read = Listener::new(BatchLimits::QUEUE, counters.clone());
        read.push(&[queued(1, 1_000)]);
        let sweep = |number| still.iter().chain([&read]).for_each(|it| it.lose_stuck(number));
        (0..2).for_each(|_| sweep(1)); // each listener is visited twice
        let _ = read.pop(BatchLimits::STREAM);
        read.push(&[queued(2, 1_000)]);
        assert_eq!(counters.demotions.get(), 0);
        sweep(2);
        assert_eq!((counters.demotions.get(), counters.waiting_bytes.get()), (40, 1_000));
        assert!(matches!(still[0].pop(BatchLimits::STREAM), PopOutcome::Overflowed));
        (3..=9).for_each(|sequence| read.push(&[queued(sequence, 1_000)]));
        assert_eq!(counters.demotions.get(), 40, "there is room again");
    }

    #[test]
    fn the_queue_of_a_stream_that_has_ended_takes_nothing_in() {
        let counters = Arc::new(StreamCounters::default());
        let listener = Listener::new(BatchLimits::QUEUE, counters.clone());
        listener.push(&[queued(1, 1_000)]);
        listener.end();
        listener.push(&[queued(2, 1_000)]);
        assert_eq!((counters.waiting_bytes.get(), counters.demotions.get()), (0, 0));
        drop(listener);
        assert_eq!(counters.waiting_bytes.get(), 0);
    }

    #[tokio::test]
    async fn a_waiting_subscription_wakes_up_for_an_envelope_and_for_an_overflow() {
        let one = BatchLimits { envelopes: 1, len_bytes: usize::MAX };
        let place = EnvelopeId::new(OriginatorId(0), SequenceId(1));
        let listener = Arc::new(Listener::new(one, Arc::default()));
        let waiting = tokio::spawn({
            let listener = Arc::clone(&listener);
            async move { listener.filled().await }
        });
        tokio::task::yield_now().await;
        listener.push(&[queued(1, 1)]);
        waiting.await.unwrap();
        listener.push(&[queued(2, 1)]);
        listener.filled().await;
        assert!(matches!(listener.pop(one), PopOutcome::Overflowed));
        listener.push_reached(place);
        listener.filled().await;
        assert!(
            matches!(listener.pop(one), PopOutcome::Items(items, places) if items.is_empty() && places == [place])
        );
        listener.lose();
        listener.filled().await;
        assert!(matches!(listener.pop(one), PopOutcome::Overflowed));
    }
}
