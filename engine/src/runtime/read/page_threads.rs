//! The threads that read for callers: how they begin, and those that read pages for streams.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Condvar, Mutex};

use crate::read::ReaderId;
use crate::runtime::FairQueue;

/// Pages that all streams together read from disk at one time: enough to keep disk and cores
/// busy, and queries keep their threads however many streams catch up. Guessed.
pub(super) const STREAM_PAGES_AT_ONCE: usize = 16;

/// The maximum number of topics of a small job. A guess: looking at all of them is about the work of one turn.
const SMALL_TOPICS_MAX: usize = 500;

/// A job of a reader.
struct PageJob {
    work: Box<dyn FnOnce() + Send>,
    /// The stream that waits for it, if nothing is to be done once that has ended.
    waiter: Option<Weak<()>>,
}

impl PageJob {
    fn is_wanted(&self) -> bool {
        self.waiter.as_ref().is_none_or(|waiter| waiter.strong_count() > 0)
    }
}

/// The size of the stream of a job. Small and large ones of an address have every other turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobSize {
    Small,
    Large,
}

impl JobSize {
    /// Returns the size of a job of a stream that reads this number of topics.
    pub(super) fn of_topics(topics: usize) -> Self {
        if topics > SMALL_TOPICS_MAX { Self::Large } else { Self::Small }
    }
}

static BEGIN: OnceLock<fn()> = OnceLock::new();

/// Sets the function that each thread which reads for callers calls first, for the whole process: for example, one that
/// lets other threads have the cores before it. Only the first call has an effect.
pub fn at_begin_of_reader_threads(begin: fn()) {
    let _ = BEGIN.set(begin); // a second node of the process wants the same
}

/// Begins a thread that reads for callers. To be called by the thread.
pub fn begin_reader_thread() {
    if let Some(begin) = BEGIN.get() {
        begin();
    }
}

/// The threads that read pages for streams, at most [`STREAM_PAGES_AT_ONCE`]. They are started when they are needed,
/// and end with the last clone.
///
/// A job is a stream's turn, or the end of a stream of many topics. Turns go round between sites, between the addresses
/// of each site, and between the connections of each address; small streams of an address do not wait behind its large
/// ones. A turn needs nothing of its stream's task, so a stream that is not polled takes no thread from the others.
#[derive(Clone)]
pub(super) struct PageThreads(Arc<ThreadsHandle>);

struct ThreadsHandle(Arc<PageQueue>);

#[derive(Default)]
struct PageQueue {
    jobs: Mutex<PageJobs>,
    filled: Condvar,
}

/// Unbounded: a stream has at most one job, and one more when it ends, and each stream is charged for.
#[derive(Default)]
struct PageJobs {
    /// The sites with jobs, in the order of their turns.
    turns: VecDeque<usize>,
    waiting: HashMap<usize, SiteJobs>,
    len: usize,
    started: usize,
    /// Threads that wait for a job.
    idle: usize,
    closed: bool,
}

/// The jobs of a site, by address.
#[derive(Default)]
struct SiteJobs {
    /// The addresses with jobs, in the order of their turns.
    turns: VecDeque<usize>,
    waiting: HashMap<usize, AddressJobs>,
}

impl SiteJobs {
    fn push(&mut self, reader: ReaderId, size: JobSize, job: PageJob) {
        let of_address = self.waiting.entry(reader.address).or_default();
        if of_address.is_empty() {
            self.turns.push_back(reader.address);
        }
        of_address.push(reader.connection, size, job);
    }

    /// Takes the job whose turn it is. Counts it, and those that are dropped before it, in `taken`.
    fn pop(&mut self, taken: &mut usize) -> Option<PageJob> {
        while let Some(address) = self.turns.pop_front() {
            let of_address = self.waiting.get_mut(&address)?;
            let job = of_address.pop_wanted(taken);
            if of_address.is_empty() {
                self.waiting.remove(&address);
            } else {
                self.turns.push_back(address);
            }
            if job.is_some() {
                return job;
            }
        }
        None
    }
}

/// The jobs of an address, by connection.
#[derive(Default)]
struct AddressJobs {
    small: FairQueue<u64, PageJob>,
    large: FairQueue<u64, PageJob>,
    /// The last turn was a small job's.
    was_small: bool,
}

impl AddressJobs {
    fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty()
    }

    fn push(&mut self, connection: u64, size: JobSize, job: PageJob) {
        match size {
            JobSize::Small => self.small.push(connection, job),
            JobSize::Large => self.large.push(connection, job),
        }
    }

    /// Takes the first job of a stream that has not ended. Drops those of others before it: none of them is a turn, so
    /// that a client which opens and ends streams without end leaves no more of them here than between two turns.
    fn pop_wanted(&mut self, taken: &mut usize) -> Option<PageJob> {
        loop {
            let job = self.pop()?;
            *taken += 1;
            if job.is_wanted() {
                return Some(job);
            }
        }
    }

    fn pop(&mut self) -> Option<PageJob> {
        let is_large = self.was_small && !self.large.is_empty();
        self.was_small = !is_large && !self.small.is_empty();
        if self.was_small { self.small.pop() } else { self.large.pop() }
    }
}

impl PageJobs {
    fn push(&mut self, reader: ReaderId, size: JobSize, job: PageJob) {
        let of_site = self.waiting.entry(reader.site).or_default();
        if of_site.waiting.is_empty() {
            self.turns.push_back(reader.site);
        }
        of_site.push(reader, size, job);
        self.len += 1;
    }

    /// Takes the job whose turn it is.
    fn pop(&mut self) -> Option<PageJob> {
        while let Some(site) = self.turns.pop_front() {
            let of_site = self.waiting.get_mut(&site)?;
            let mut taken = 0;
            let job = of_site.pop(&mut taken);
            self.len -= taken;
            if of_site.waiting.is_empty() {
                self.waiting.remove(&site);
            } else {
                self.turns.push_back(site);
            }
            if job.is_some() {
                return job;
            }
        }
        None
    }

    /// Counts one more thread as started if all idle threads have jobs already. Returns the thread's number; the caller
    /// starts it.
    fn claim_thread(&mut self) -> Option<usize> {
        let index = self.started;
        let lacks = self.len > self.idle && index < STREAM_PAGES_AT_ONCE;
        self.started += usize::from(lacks);
        lacks.then_some(index)
    }
}

impl PageThreads {
    pub(super) fn new() -> Self {
        Self(Arc::new(ThreadsHandle(Arc::default())))
    }

    /// Runs a job on one of the threads, in the reader's turn.
    pub(super) fn run(&self, reader: ReaderId, size: JobSize, job: impl FnOnce() + Send + 'static) {
        self.queue(reader, size, PageJob { work: Box::new(job), waiter: None });
    }

    /// Runs a job as [`run`](Self::run) does, unless the `waiter` has ended before its turn.
    pub(super) fn run_for(
        &self,
        waiter: Weak<()>,
        reader: ReaderId,
        size: JobSize,
        job: impl FnOnce() + Send + 'static,
    ) {
        self.queue(reader, size, PageJob { work: Box::new(job), waiter: Some(waiter) });
    }

    fn queue(&self, reader: ReaderId, size: JobSize, job: PageJob) {
        let queue = &self.0.0;
        let lacking = {
            let mut jobs = queue.jobs.lock();
            jobs.push(reader, size, job);
            jobs.claim_thread()
        };
        queue.filled.notify_one();
        if let Some(index) = lacking {
            let of_thread = Arc::clone(queue);
            let thread = std::thread::Builder::new().name(format!("stream-{index}"));
            let spawned = thread.spawn(move || of_thread.work());
            if spawned.is_err() {
                // Others go on with the job; without any, the next stream tries again.
                queue.jobs.lock().started -= 1;
            }
        }
    }
}

impl PageQueue {
    fn work(&self) {
        begin_reader_thread();
        while let Some(job) = self.next() {
            // The panic hook has logged it, and the stream panics in turn.
            let _ = std::panic::catch_unwind(AssertUnwindSafe(job.work));
        }
    }

    /// Waits for the next job; `None` at the end.
    fn next(&self) -> Option<PageJob> {
        let mut jobs = self.jobs.lock();
        loop {
            if let Some(job) = jobs.pop() {
                return Some(job);
            }
            if jobs.closed {
                return None;
            }
            jobs.idle += 1;
            self.filled.wait(&mut jobs);
            jobs.idle -= 1;
        }
    }
}

impl Drop for ThreadsHandle {
    fn drop(&mut self) {
        self.0.jobs.lock().closed = true;
        self.0.filled.notify_all();
    }
}

impl fmt::Debug for PageThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageThreads").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};

    use super::*;

    const READER: ReaderId = ReaderId { site: 1, address: 1, connection: 1 };

    fn job(work: impl FnOnce() + Send + 'static) -> PageJob {
        PageJob { work: Box::new(work), waiter: None }
    }

    #[test]
    fn jobs_run_at_once_and_no_more_than_there_are_threads() {
        let threads = PageThreads::new();
        let barrier = Arc::new(Barrier::new(STREAM_PAGES_AT_ONCE + 1));
        for _ in 0..STREAM_PAGES_AT_ONCE {
            let barrier = Arc::clone(&barrier);
            threads.run(READER, JobSize::Small, move || _ = barrier.wait());
        }
        barrier.wait();
        let (done, ended) = mpsc::channel();
        for job in 0..1000 {
            let done = done.clone();
            threads.run(READER, JobSize::Large, move || {
                assert_ne!(job, 7, "a job that panics ends no thread");
                done.send(job).unwrap();
            });
        }
        drop(done);
        assert_eq!(ended.iter().count(), 999);
        assert_eq!(threads.0.0.jobs.lock().started, STREAM_PAGES_AT_ONCE);
    }

    #[test]
    fn turns_go_round_between_addresses_and_then_between_connections() {
        let mut jobs = PageJobs::default();
        let (done, ended) = mpsc::channel();
        for reader in [(1, 1), (1, 1), (1, 1), (1, 2), (2, 3), (1, 2)] {
            let (done, (address, connection)) = (done.clone(), reader);
            let job = job(move || done.send(reader).unwrap());
            jobs.push(ReaderId { site: address, address, connection }, JobSize::Small, job);
        }
        drop(done);
        std::iter::from_fn(|| jobs.pop()).for_each(|job| (job.work)());
        let order: Vec<(usize, u64)> = ended.iter().collect();
        assert_eq!(order, [(1, 1), (2, 3), (1, 2), (1, 1), (1, 2), (1, 1)]);
        assert!(jobs.len == 0 && jobs.turns.is_empty() && jobs.waiting.is_empty());
    }

    /// The owner of an IPv6 /48 has 65,536 addresses.
    #[test]
    fn turns_go_round_between_sites_before_the_addresses_of_each() {
        let mut jobs = PageJobs::default();
        let (done, ended) = mpsc::channel();
        for (site, address) in [(1, 10), (1, 11), (1, 12), (1, 10), (2, 20), (2, 20)] {
            let done = done.clone();
            let job = job(move || done.send(address).unwrap());
            jobs.push(ReaderId { site, address, connection: 1 }, JobSize::Small, job);
        }
        drop(done);
        std::iter::from_fn(|| jobs.pop()).for_each(|job| (job.work)());
        let order: Vec<usize> = ended.iter().collect();
        assert_eq!(order, [10, 20, 11, 20, 12, 10]);
        assert!(jobs.len == 0 && jobs.turns.is_empty() && jobs.waiting.is_empty());
    }

    #[test]
    fn small_streams_of_an_address_do_not_wait_behind_its_large_ones() {
        let mut jobs = PageJobs::default();
        let (done, ended) = mpsc::channel();
        for topics in [9_000, 8_000, 7_000, 6_000, 1, 2, 500] {
            let done = done.clone();
            let job = job(move || done.send(topics).unwrap());
            jobs.push(READER, JobSize::of_topics(topics), job);
        }
        drop(done);
        std::iter::from_fn(|| jobs.pop()).for_each(|job| (job.work)());
        let order: Vec<usize> = ended.iter().collect();
        assert_eq!(order, [1, 9_000, 2, 8_000, 500, 7_000, 6_000]);
    }

    /// A client can open streams and end them while they wait, faster than their turns come.
    #[test]
    fn jobs_of_streams_that_have_ended_leave_in_one_turn() {
        let mut jobs = PageJobs::default();
        let (done, ended) = mpsc::channel();
        let waiter = Arc::new(());
        for connection in 0..1000 {
            let of_ended = PageJob { waiter: Some(Arc::downgrade(&waiter)), ..job(|| ()) };
            jobs.push(ReaderId { connection, ..READER }, JobSize::Small, of_ended);
            let other = ReaderId { address: 2, ..READER };
            let of_ended = PageJob { waiter: Some(Arc::downgrade(&waiter)), ..job(|| ()) };
            jobs.push(other, JobSize::Large, of_ended);
        }
        drop(waiter);
        for (site, address) in [(1, 1), (3, 3), (1, 1)] {
            let done = done.clone();
            let job = job(move || done.send(site).unwrap());
            jobs.push(ReaderId { site, address, connection: 7 }, JobSize::Small, job);
        }
        assert_eq!(jobs.len, 2003);
        let first = jobs.pop().unwrap();
        assert!(jobs.len <= 1002, "{} jobs are left", jobs.len);
        (first.work)();
        std::iter::from_fn(|| jobs.pop()).for_each(|job| (job.work)());
        drop(done);
        assert_eq!(ended.iter().collect::<Vec<_>>(), [1, 3, 1]);
        assert!(jobs.len == 0 && jobs.turns.is_empty() && jobs.waiting.is_empty());
    }

    #[test]
    fn threads_end_with_the_last_handle() {
        let threads = PageThreads::new();
        let queue: Weak<PageQueue> = Arc::downgrade(&threads.0.0);
        let (done, ended) = mpsc::channel();
        threads.clone().run(READER, JobSize::Small, move || done.send(()).unwrap());
        ended.recv().unwrap();
        drop(threads);
        while queue.strong_count() > 0 {
            std::thread::yield_now();
        }
    }
}
