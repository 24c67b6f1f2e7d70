//! The queue of jobs in which callers take turns.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::grouped_queue::GroupedQueue;

pub(super) const THREADS_LIVE: &str = "the threads live as long as their handles";

/// A caller that publishes, by numbers. Callers take turns by their sites, and those of a site by their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishCaller {
    /// Number of the site, equal for all its addresses: an IPv4 address, or an IPv6 /48, whose owner has thousands of
    /// addresses.
    pub site: usize,
    /// Number of the address. No two sites have an address in common.
    pub address: usize,
}

/// The sending end of a queue in which callers take turns.
pub(super) struct CallerQueue<J> {
    /// One message for each job in `jobs`.
    pub(super) announce: Sender<()>,
    jobs: Arc<Mutex<GroupedQueue<usize, J>>>,
}

/// The receiving end of a [`CallerQueue`].
pub(super) struct CallerJobs<J> {
    pub(super) announced: Receiver<()>,
    jobs: Arc<Mutex<GroupedQueue<usize, J>>>,
}

// A derived one would require a job that can be cloned.
impl<J> Clone for CallerJobs<J> {
    fn clone(&self) -> Self {
        Self { announced: self.announced.clone(), jobs: self.jobs.clone() }
    }
}

impl<J> CallerQueue<J> {
    pub(super) fn new() -> (Self, CallerJobs<J>) {
        let (announce, announced) = unbounded();
        let jobs = Arc::<Mutex<GroupedQueue<usize, J>>>::default();
        (Self { announce, jobs: jobs.clone() }, CallerJobs { announced, jobs })
    }

    pub(super) fn push(&self, caller: PublishCaller, job: J) {
        self.jobs.lock().push(caller.site, caller.address, job);
        self.announce.send(()).expect(THREADS_LIVE);
    }
}

impl<J> CallerJobs<J> {
    /// Takes the job of the caller whose turn it is, after one was announced.
    pub(super) fn take(&self) -> J {
        self.jobs.lock().pop().expect("each message announces a job")
    }
}
