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

    /// Puts a job before the others of its caller, at the caller's next turn.
    pub(super) fn push_first(&self, caller: PublishCaller, job: J) {
        self.jobs.lock().put_back(caller.site, caller.address, job);
        self.announce.send(()).expect(THREADS_LIVE);
    }
}

impl<J> CallerJobs<J> {
    /// Takes the job of the caller whose turn it is, after one was announced.
    pub(super) fn take(&self) -> J {
        self.jobs.lock().pop().expect("each message announces a job")
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;
    use crate::runtime::{Priority, Workers};

    /// A caller in a site of its own.
    fn alone(number: usize) -> PublishCaller {
        PublishCaller { site: number, address: number }
    }

    /// A caller can send any number of repeats beside a large request.
    #[test]
    fn a_look_ahead_goes_before_its_callers_other_look_ups_and_takes_no_turn_of_others() {
        let workers = Workers::start(1);
        let (sender, order) = unbounded();
        let (go, wait) = bounded::<()>(0);
        let (begin, begun) = bounded::<()>(1);
        workers.spawn(Priority::LookUp(alone(0)), move || {
            begin.send(()).unwrap();
            wait.recv().unwrap();
        });
        begun.recv().unwrap();
        let spawn = |priority, name| {
            let sender = sender.clone();
            workers.spawn(priority, move || sender.send(name).unwrap());
        };
        (0..3).for_each(|_| spawn(Priority::LookUp(alone(1)), "repeat"));
        spawn(Priority::LookUp(alone(2)), "other");
        spawn(Priority::LookUp(alone(2)), "other");
        spawn(Priority::LookAhead(alone(1)), "ahead");
        go.send(()).unwrap();
        let order: Vec<_> = order.iter().take(6).collect();
        assert_eq!(order, ["ahead", "other", "repeat", "other", "repeat", "repeat"]);
    }
}
