//! A bounded queue whose jobs can be withdrawn. A withdrawn job frees its memory and its place at once. Otherwise,
//! while a node is silent, requests of callers who have hung up would keep out those of callers who wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The sending end of the queue. Clones share the queue.
pub(super) struct JobQueue<T>(Arc<QueueState<T>>);

/// The receiving end of the queue, first in, first out. Dropping it closes the queue and drops its jobs.
pub(super) struct JobTaker<T>(Arc<QueueState<T>>);

/// A handle to a job in the queue. Dropping it withdraws the job.
pub(super) struct QueuedJob<T> {
    queue: Arc<QueueState<T>>,
    number: u64,
}

struct QueueState<T> {
    waiting: Mutex<WaitingJobs<T>>,
    /// The free places.
    places: Arc<Semaphore>,
    /// Notified when a job was put in.
    come: Notify,
}

struct WaitingJobs<T> {
    /// Each job with its place, by order of arrival.
    jobs: BTreeMap<u64, (T, OwnedSemaphorePermit)>,
    /// The number of the next job.
    next: u64,
    is_closed: bool,
}

/// The error of a closed queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueClosedError;

/// Creates a queue with this many places.
pub(super) fn job_queue<T>(places: usize) -> (JobQueue<T>, JobTaker<T>) {
    let waiting = WaitingJobs { jobs: BTreeMap::new(), next: 0, is_closed: false };
    let state = Arc::new(QueueState {
        waiting: Mutex::new(waiting),
        places: Arc::new(Semaphore::new(places)),
        come: Notify::new(),
    });
    (JobQueue(state.clone()), JobTaker(state))
}

impl<T> Clone for JobQueue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> JobQueue<T> {
    /// Waits for a place and puts a job in. If the future is dropped, the job is not in the queue.
    ///
    /// # Errors
    /// [`QueueClosedError`] if the receiving end was dropped; the job is dropped, too.
    pub(super) async fn put(&self, job: T) -> Result<QueuedJob<T>, QueueClosedError> {
        let place = self.0.places.clone().acquire_owned().await.map_err(|_| QueueClosedError)?;
        let number = {
            let mut waiting = self.0.waiting.lock();
            if waiting.is_closed {
                return Err(QueueClosedError);
            }
            let number = waiting.next;
            waiting.next += 1;
            waiting.jobs.insert(number, (job, place));
            number
        };
        self.0.come.notify_one();
        Ok(QueuedJob { queue: self.0.clone(), number })
    }
}

impl<T> JobTaker<T> {
    /// Waits for a job, and takes the first one out.
    pub(super) async fn next(&mut self) -> T {
        loop {
            if let Some(job) = self.next_if(|_| true) {
                return job;
            }
            self.0.come.notified().await;
        }
    }

    /// Waits until this many jobs are in the queue. Takes none out: each can still be withdrawn. The future may be
    /// dropped.
    pub(super) async fn wait_for(&mut self, jobs: usize) {
        while self.0.waiting.lock().jobs.len() < jobs {
            self.0.come.notified().await;
        }
    }

    /// Takes the first job out, if there is one and `fits` returns true for it.
    pub(super) fn next_if(&mut self, fits: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut waiting = self.0.waiting.lock();
        let first = waiting.jobs.first_entry()?;
        fits(&first.get().0).then(|| first.remove().0)
    }
}

impl<T> Drop for JobTaker<T> {
    fn drop(&mut self) {
        // Jobs are dropped without the lock: a dropped job may run code of its own.
        let left = {
            let mut waiting = self.0.waiting.lock();
            waiting.is_closed = true;
            std::mem::take(&mut waiting.jobs)
        };
        drop(left);
        self.0.places.close();
    }
}

impl<T> QueuedJob<T> {
    /// Withdraws the job. Returns false if it has left the queue before.
    pub(super) fn give_up(&self) -> bool {
        let job = self.queue.waiting.lock().jobs.remove(&self.number);
        job.is_some()
    }
}

impl<T> Drop for QueuedJob<T> {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn put(queue: &JobQueue<Arc<u8>>, job: u8) -> QueuedJob<Arc<u8>> {
        queue.put(Arc::new(job)).now_or_never().unwrap().unwrap()
    }

    #[test]
    fn a_job_that_is_given_up_leaves_its_memory_and_its_place_to_others() {
        let (queue, mut taker) = job_queue(2);
        let silent = Arc::new(1);
        let first = queue.put(silent.clone()).now_or_never().unwrap().unwrap();
        let second = put(&queue, 2);
        let mut third = Box::pin(queue.put(Arc::new(3)));
        assert!((&mut third).now_or_never().is_none(), "all places are taken");
        assert!(first.give_up() && !first.give_up());
        assert_eq!(Arc::strong_count(&silent), 1, "nothing holds it any more");
        let third = third.now_or_never().unwrap().unwrap();
        assert_eq!(taker.next().now_or_never().as_deref(), Some(&2));
        assert!(!second.give_up(), "it is with the node");
        drop(third);
        assert!(
            taker.next().now_or_never().is_none(),
            "a job leaves with the one that waits for it"
        );
    }

    #[test]
    fn jobs_are_taken_out_in_their_order_and_one_that_does_not_fit_stays_the_first() {
        let (queue, mut taker) = job_queue(10);
        let waiting: Vec<_> = (0..5).map(|job| put(&queue, job)).collect();
        waiting[1].give_up();
        assert_eq!(taker.next().now_or_never().as_deref(), Some(&0));
        assert!(taker.next_if(|job| **job < 2).is_none(), "number 1 has gone");
        let rest: Vec<u8> =
            std::iter::from_fn(|| taker.next_if(|_| true)).map(|job| *job).collect();
        assert_eq!(rest, [2, 3, 4]);
    }

    #[tokio::test]
    async fn the_taker_is_woken_by_a_job_that_comes() {
        let (queue, mut taker) = job_queue::<Arc<u8>>(1);
        let taking = tokio::spawn(async move { *taker.next().await });
        tokio::task::yield_now().await; // it waits by now, on the one thread of the test
        let _waiting = queue.put(Arc::new(7)).await.unwrap();
        assert_eq!(taking.await.unwrap(), 7);
    }

    #[test]
    fn jobs_that_wait_for_others_can_be_withdrawn() {
        let (queue, mut taker) = job_queue(10);
        let waiting = [put(&queue, 1), put(&queue, 2)];
        assert!(taker.wait_for(3).now_or_never().is_none());
        assert!(taker.wait_for(2).now_or_never().is_some());
        assert!(waiting[0].give_up());
        assert!(taker.wait_for(2).now_or_never().is_none(), "one has gone");
        let _third = put(&queue, 3);
        assert!(taker.wait_for(2).now_or_never().is_some());
        assert_eq!(taker.next().now_or_never().as_deref(), Some(&2));
    }

    #[test]
    fn a_queue_without_a_taker_takes_and_keeps_nothing() {
        let (queue, taker) = job_queue(1);
        let (job, late) = (Arc::new(1), Arc::new(2));
        let waiting = queue.put(job.clone()).now_or_never().unwrap().unwrap();
        let mut blocked = Box::pin(queue.put(late.clone()));
        assert!((&mut blocked).now_or_never().is_none());
        drop(taker);
        assert_eq!(blocked.now_or_never().unwrap().err(), Some(QueueClosedError));
        assert!(!waiting.give_up());
        assert_eq!((Arc::strong_count(&job), Arc::strong_count(&late)), (1, 1));
        let mut after = Box::pin(queue.put(late));
        assert_eq!((&mut after).now_or_never().unwrap().err(), Some(QueueClosedError));
    }
}
