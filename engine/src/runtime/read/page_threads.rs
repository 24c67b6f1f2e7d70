//! The threads that read for callers: how they begin, and those that read pages for streams.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, unbounded};

/// Pages that all streams together read from disk at one time: enough to keep disk and cores
/// busy, and queries keep their threads however many streams catch up. Guessed.
pub(super) const STREAM_PAGES_AT_ONCE: usize = 16;

type Job = Box<dyn FnOnce() + Send>;

static BEGIN: OnceLock<fn()> = OnceLock::new();

/// Sets what each thread that reads for callers does first, for the whole process: to let other threads have the
/// cores before it, for example. The first call counts.
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
#[derive(Debug, Clone)]
pub(super) struct PageThreads {
    jobs: Sender<Job>,
    waiting: Receiver<Job>,
    state: Arc<ThreadCounts>,
}

#[derive(Debug, Default)]
struct ThreadCounts {
    started: AtomicUsize,
    /// Jobs that wait or run.
    open: AtomicUsize,
}

impl PageThreads {
    pub(super) fn new() -> Self {
        // Unbounded, because streams have permits for their pages.
        let (jobs, waiting) = unbounded();
        Self { jobs, waiting, state: Arc::default() }
    }

    /// Runs a job on one of the threads.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let ThreadCounts { started, open } = &*self.state;
        let open = open.fetch_add(1, Ordering::SeqCst) + 1;
        self.jobs.send(Box::new(job)).expect("this handle has a receiver");
        let add = |threads| (threads < open.min(STREAM_PAGES_AT_ONCE)).then_some(threads + 1);
        if let Ok(index) = started.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add) {
            let (waiting, counts) = (self.waiting.clone(), Arc::clone(&self.state));
            let thread = std::thread::Builder::new().name(format!("stream-{index}"));
            let spawned = thread.spawn(move || work(&waiting, &counts.open));
            if spawned.is_err() {
                // Others go on with the job; without any, the next stream tries again.
                started.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

fn work(waiting: &Receiver<Job>, open: &AtomicUsize) {
    begin_reader_thread();
    while let Ok(job) = waiting.recv() {
        // The panic hook has logged it, and the stream panics in turn.
        let _ = std::panic::catch_unwind(AssertUnwindSafe(job));
        open.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, Weak, mpsc};

    use super::*;

    #[test]
    fn jobs_run_at_once_and_no_more_than_there_are_threads() {
        let threads = PageThreads::new();
        let barrier = Arc::new(Barrier::new(STREAM_PAGES_AT_ONCE + 1));
        for _ in 0..STREAM_PAGES_AT_ONCE {
            let barrier = Arc::clone(&barrier);
            threads.run(move || _ = barrier.wait());
        }
        barrier.wait();
        let (done, ended) = mpsc::channel();
        for job in 0..1000 {
            let done = done.clone();
            threads.run(move || {
                assert_ne!(job, 7, "a job that panics ends no thread");
                done.send(job).unwrap();
            });
        }
        drop(done);
        assert_eq!(ended.iter().count(), 999);
        assert_eq!(threads.state.started.load(Ordering::Relaxed), STREAM_PAGES_AT_ONCE);
    }

    #[test]
    fn threads_end_with_the_last_handle() {
        let threads = PageThreads::new();
        let counts: Weak<ThreadCounts> = Arc::downgrade(&threads.state);
        let (done, ended) = mpsc::channel();
        threads.clone().run(move || done.send(()).unwrap());
        ended.recv().unwrap();
        drop(threads);
        while counts.strong_count() > 0 {
            std::thread::yield_now();
        }
    }
}
