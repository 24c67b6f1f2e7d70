//! The thread that passes committed envelopes on to the streams.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::Cursor;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::hub::Hub;
use crate::committed::Committed;
use crate::read::backlog::{Audience, Backlog, HubBatch};

/// Time between two sweeps for queues from which nothing is taken. A guess: longer than clients need that read.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// The thread between committers and the hub, so that a commit and its answer never wait for
/// streams, however many there are.
///
/// Bounded: if the thread falls behind too far, every stream reads from disk for a while. Cheap to
/// clone; the thread ends with the last clone.
#[derive(Clone)]
pub(crate) struct FanOut {
    shared: Arc<FanOutHandle>,
}

struct FanOutHandle {
    queue: Arc<FanOutQueue>,
}

#[derive(Default)]
struct FanOutQueue {
    work: Mutex<FanOutWork>,
    filled: Condvar,
}

#[derive(Default)]
struct FanOutWork {
    backlog: Backlog,
    /// Notified once the backlog has been handed to the hub.
    settling: Vec<oneshot::Sender<()>>,
    closed: bool,
}

impl FanOut {
    /// Starts the thread.
    pub(crate) fn start(hub: Hub) -> Self {
        let queue = Arc::new(FanOutQueue::default());
        let ours = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("fan-out".into())
            .spawn(move || run(&ours, &hub))
            .expect("the system gives us a thread at start");
        Self { shared: Arc::new(FanOutHandle { queue }) }
    }

    /// Hands over durable, or verified, envelopes for readers and the new heads of their strands, in the order of
    /// commits. Returns at once. One caller at a time for each strand.
    pub(crate) fn publish(
        &self,
        audience: Audience,
        committed: Vec<Arc<Committed>>,
        ends: &Cursor,
    ) {
        let queue = &self.shared.queue;
        queue.work.lock().backlog.push(audience, committed, ends);
        queue.filled.notify_one();
    }

    /// Makes every stream read from disk up to `ends`, because commits up to there were not published to the hub.
    pub(crate) fn lose(&self, ends: &Cursor) {
        let queue = &self.shared.queue;
        queue.work.lock().backlog.lose(ends);
        queue.filled.notify_one();
    }

    /// Waits until streams have been handed everything that was published before.
    pub(crate) async fn settled(&self) {
        let (sender, settled) = oneshot::channel();
        let queue = &self.shared.queue;
        queue.work.lock().settling.push(sender);
        queue.filled.notify_one();
        settled.await.expect("the thread lives as long as its handles");
    }
}

impl Drop for FanOutHandle {
    fn drop(&mut self) {
        self.queue.work.lock().closed = true;
        self.queue.filled.notify_one();
    }
}

impl FanOutQueue {
    /// Waits for something to do; `None` at the end.
    fn next(&self) -> Option<(HubBatch, Vec<oneshot::Sender<()>>)> {
        let mut work = self.work.lock();
        loop {
            let settling = std::mem::take(&mut work.settling);
            match work.backlog.take() {
                Some(published) => return Some((published, settling)),
                None if !settling.is_empty() => return Some((HubBatch::default(), settling)),
                None if work.closed => return None,
                None => self.filled.wait(&mut work),
            }
        }
    }
}

/// The sweeps for queues from which nothing is taken.
#[derive(Default)]
struct QueueSweeps {
    count: u64,
    last_at: Option<Instant>,
}

impl QueueSweeps {
    /// Returns the number of the sweep that is due now; `None` if none is.
    fn next(&mut self, now: Instant, holds_too_much: bool) -> Option<u64> {
        let since = |at: Instant| now.saturating_duration_since(at);
        if !holds_too_much || self.last_at.is_some_and(|at| since(at) < SWEEP_EVERY) {
            return None;
        }
        self.last_at = Some(now);
        self.count += 1;
        Some(self.count)
    }
}

fn run(queue: &FanOutQueue, hub: &Hub) {
    let mut sweeps = QueueSweeps::default();
    while let Some((HubBatch { committed, ends, lost }, settling)) = queue.next() {
        if lost {
            tracing::warn!("streams have missed commits, and continue from disk");
            hub.lose();
        }
        for (audience, run) in &committed {
            hub.pass(*audience, run);
        }
        hub.reach(&ends);
        if let Some(sweep) = sweeps.next(Instant::now(), hub.holds_too_much()) {
            hub.lose_stuck(sweep);
        }
        // Fails only if the caller no longer waits.
        settling.into_iter().for_each(|settled| _ = settled.send(()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::read::feed::Interest;
    use crate::read::limits::BatchLimits;
    use crate::read::queue::PopOutcome;
    use crate::read::testing::{append, committed, cursor, id, store, topic};
    use crate::runtime::counters::Counters;
    use crate::runtime::{Committer, Heads};

    /// Long enough for any machine: a test that fails does not hang.
    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn a_sweep_is_due_while_too_much_waits_and_the_last_one_was_a_while_ago() {
        let (mut sweeps, start) = (QueueSweeps::default(), Instant::now());
        assert_eq!(sweeps.next(start, false), None);
        assert_eq!(sweeps.next(start, true), Some(1));
        assert_eq!(sweeps.next(start + SWEEP_EVERY / 2, true), None);
        assert_eq!(sweeps.next(start + SWEEP_EVERY, false), None);
        assert_eq!(sweeps.next(start + SWEEP_EVERY, true), Some(2));
    }

    #[tokio::test]
    async fn a_commit_returns_while_no_stream_can_be_reached() {
        let (hub, heads, store) = (Hub::new(), Heads::new(Cursor::new()), store());
        let fan_out = FanOut::start(hub.clone());
        let committer =
            Committer::new(store, [&heads, &heads], fan_out.clone(), Arc::new(Counters::default()));
        let listener = hub.listener();
        hub.listen(Interest::Topic(topic(1)), &listener);
        let blocked = listener.block();
        let (done, committed_all) = mpsc::channel();
        std::thread::spawn(move || {
            for sequence in 1..=100 {
                let envelope = committed(id(100, sequence), topic(1), 0, vec![]);
                committer.commit(vec![append(&envelope)]).unwrap();
            }
            done.send(()).unwrap();
        });
        committed_all.recv_timeout(DEADLINE).expect("commits wait for no stream");
        assert_eq!(*heads.get(), cursor(&[(100, 100)]));
        drop(blocked);
        fan_out.settled().await;
        assert!(
            matches!(listener.pop(BatchLimits::STREAM), PopOutcome::Items(items, _) if items.len() == 100)
        );
    }

    #[tokio::test]
    async fn streams_that_hold_the_thread_up_go_on_from_disk_and_memory_stays_bounded() {
        let hub = Hub::new();
        let fan_out = FanOut::start(hub.clone());
        let listener = hub.listener();
        hub.listen(Interest::Everything, &listener);
        let blocked = listener.block();
        let bytes: bytes::Bytes = vec![0; 1 << 20].into();
        for sequence in 1..=100 {
            let item = committed(id(100, sequence), topic(1), 0, vec![]);
            let item = Arc::new(Committed { bytes: bytes.clone(), ..item });
            fan_out.publish(Audience::All, vec![item], &cursor(&[(100, sequence)]));
        }
        let waiting = fan_out.shared.queue.work.lock().backlog.len_bytes();
        assert!(waiting <= BatchLimits::BACKLOG.len_bytes, "{waiting} bytes");
        drop(blocked);
        fan_out.settled().await;
        assert!(matches!(listener.pop(BatchLimits::STREAM), PopOutcome::Overflowed));
    }

    #[tokio::test]
    async fn ten_thousand_listeners_share_the_bytes_of_an_envelope() {
        let hub = Hub::new();
        let fan_out = FanOut::start(hub.clone());
        let listeners: Vec<_> = (0..10_000).map(|_| hub.listener()).collect();
        listeners.iter().for_each(|listener| hub.listen(Interest::Everything, listener));
        let item = Arc::new(committed(id(100, 1), topic(1), 0, vec![]));
        fan_out.publish(Audience::All, vec![Arc::clone(&item)], &cursor(&[(100, 1)]));
        fan_out.settled().await;
        for listener in &listeners {
            let PopOutcome::Items(items, _) = listener.pop(BatchLimits::STREAM) else {
                panic!("one is not too much")
            };
            assert!(Arc::ptr_eq(&items[0], &item) && items.len() == 1);
            hub.unlisten(&Interest::Everything, listener);
        }
        assert_eq!(hub.registrations(), 0);
    }
}
