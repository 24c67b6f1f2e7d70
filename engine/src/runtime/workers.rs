//! One thread per core for work that is all computing: signatures, mostly. Look-ups that may wait for the disk have
//! threads of their own.
//!
//! Urgent work goes first. Signing is urgent, because the log waits for it; checking new arrivals is not. Requests of
//! callers have a separate queue, so that no number of them delays the strands of other nodes, and callers take turns
//! in it. Large requests of callers, and envelopes that readers already have, are checked by workers of a lower
//! priority: separate threads, with a nice value that is higher by 5 on Linux. Large requests have every second one of
//! these threads, so that they leave half of the cores to publishers, whatever the system makes of priorities.

use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::caller_queue::{CallerJobs, CallerQueue, PublishCaller, THREADS_LIVE};

type WorkerJob = Box<dyn FnOnce(WorkerBefore) + Send>;

/// The state of a worker before it took a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkerBefore {
    /// The worker slept, because there was no job. The job has waited for a core since it was queued.
    Slept,
    /// The worker was at work, or the job was queued before it slept.
    Worked,
}

static BEGIN: OnceLock<fn()> = OnceLock::new();
static BEGIN_BEHIND: OnceLock<fn()> = OnceLock::new();

/// Sets the function that each thread of the publish path calls first, for the whole process: for example, one that
/// asks the system for a core without delay. These are the threads that check, sequence, sign and commit. Only the
/// first call has an effect.
pub fn at_begin_of_publish_threads(begin: fn()) {
    let _ = BEGIN.set(begin); // a second node of the process wants the same
}

/// Sets the function that each thread of lower priority calls first, for the whole process: for example, one that lets
/// all other threads have the cores before it. These threads check large requests, and envelopes that readers have
/// already. Only the first call has an effect.
pub fn at_begin_of_threads_behind(begin: fn()) {
    let _ = BEGIN_BEHIND.set(begin); // a second node of the process wants the same
}

/// Begins a thread that a publish passes. To be called by the thread.
pub(super) fn begin_publish_thread() {
    if let Some(begin) = BEGIN.get() {
        begin();
    }
}

/// A handle to the threads. They end when the last handle is dropped.
#[derive(Clone)]
pub struct Workers {
    pool: Arc<WorkerPool>,
}

struct WorkerPool {
    urgent: Sender<WorkerJob>,
    normal: Sender<WorkerJob>,
    callers: CallerQueue<WorkerJob>,
    threads: usize,
    handles: Vec<JoinHandle<()>>,
    /// Started when it is first needed, which is never on most nodes.
    behind: OnceLock<ThreadsBehind>,
    /// Started when it is first needed.
    look_ups: OnceLock<LookUpThreads>,
}

/// The threads of [`Priority::LargeOfCaller`] and [`Priority::Behind`].
struct ThreadsBehind {
    /// `None` if the system gave no thread.
    queues: Option<QueuesBehind>,
    handles: Vec<JoinHandle<()>>,
}

/// The queues of [`ThreadsBehind`].
struct QueuesBehind {
    callers: CallerQueue<WorkerJob>,
    strands: Sender<WorkerJob>,
}

/// The threads of [`Priority::LookUp`], as many as the others. A guess: a slow disk answers so many reads at once.
struct LookUpThreads {
    /// `None` if the system gave no thread.
    callers: Option<CallerQueue<WorkerJob>>,
    handles: Vec<JoinHandle<()>>,
}

/// The queue that a job waits in, and so the jobs that go before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// The log waits for it.
    Urgent,
    /// Strands of other nodes and of chains are checked.
    Normal,
    /// Publishes of a caller are checked. Takes turns with those of others, and with [`Self::Normal`] where both wait.
    Caller(PublishCaller),
    /// A large request of a caller is checked, or looked up again. Callers take turns with their large requests, on the
    /// threads of [`Self::Behind`]. So large requests leave the cores to requests of a few envelopes.
    LargeOfCaller(PublishCaller),
    /// Earlier publishes of a caller's envelopes, or their payer's balance, are looked up on the disk. Callers take
    /// turns at these, on separate threads: any caller can cause such look-ups, and they must not hold up other checks.
    LookUp(PublishCaller),
    /// Envelopes that readers have already are checked. There are threads for it, as many as for the others, because a
    /// job holds its thread for milliseconds: the system can give the core to other threads meanwhile.
    Behind,
}

impl Workers {
    /// Starts `threads` threads.
    ///
    /// # Panics
    /// If the system refuses a thread.
    #[must_use]
    pub fn start(threads: usize) -> Self {
        // Unbounded, because every caller is bounded: publishes by the bytes in flight, each followed
        // strand by one batch, chain strands by one batch.
        let (urgent, urgent_jobs) = unbounded();
        let (normal, normal_jobs) = unbounded();
        let (callers, of_callers) = CallerQueue::<WorkerJob>::new();
        let start = |index| {
            let jobs = (urgent_jobs.clone(), normal_jobs.clone(), of_callers.clone());
            std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    begin_publish_thread();
                    run(&jobs.0, &jobs.1, &jobs.2);
                })
                .expect("the system gives us a thread at start")
        };
        let handles = (0..threads).map(start).collect();
        let (behind, look_ups) = (OnceLock::new(), OnceLock::new());
        let pool = WorkerPool { urgent, normal, callers, threads, handles, behind, look_ups };
        Self { pool: Arc::new(pool) }
    }

    /// Returns the number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.threads
    }

    /// Runs `job` on one of the threads.
    pub fn spawn(&self, priority: Priority, job: impl FnOnce() + Send + 'static) {
        self.spawn_told(priority, move |_| job());
    }

    /// Runs `job` on one of the threads, and tells it the state of the thread before. Threads of a lower priority
    /// always get [`WorkerBefore::Worked`], because they are to wait for a core. Threads for look-ups always get it
    /// too, because nearly all of their requests store nothing.
    pub(super) fn spawn_told(
        &self,
        priority: Priority,
        job: impl FnOnce(WorkerBefore) + Send + 'static,
    ) {
        let pool = &*self.pool;
        let queue = match priority {
            Priority::Urgent => &pool.urgent,
            Priority::Normal => &pool.normal,
            Priority::Caller(caller) => return pool.callers.push(caller, Box::new(job)),
            Priority::LargeOfCaller(caller) => {
                let callers = self.behind().map_or(&pool.callers, |behind| &behind.callers);
                return callers.push(caller, Box::new(job));
            }
            Priority::LookUp(caller) => {
                let callers = self.look_ups().unwrap_or(&pool.callers);
                return callers.push(caller, Box::new(job));
            }
            Priority::Behind => self.behind().map_or(&pool.normal, |behind| &behind.strands),
        };
        queue.send(Box::new(job)).expect(THREADS_LIVE);
    }

    /// Returns the queues of the workers of a lower priority, and starts these threads if there are none. `None` if the
    /// system gives none.
    fn behind(&self) -> Option<&QueuesBehind> {
        let behind = self.pool.behind.get_or_init(|| ThreadsBehind::start(self.threads()));
        behind.queues.as_ref()
    }

    /// Returns the queue of the threads for look-ups, and starts these threads if there are none. `None` if the system
    /// gives none.
    fn look_ups(&self) -> Option<&CallerQueue<WorkerJob>> {
        let look_ups = self.pool.look_ups.get_or_init(|| LookUpThreads::start(self.threads()));
        look_ups.callers.as_ref()
    }

    /// Maps `items` on all cores and waits; keeps their order. Blocks, so it must not be called by
    /// async tasks or by the workers themselves. The calling thread does few items alone, and the
    /// first part of many.
    pub fn map<T, R>(
        &self,
        priority: Priority,
        mut items: Vec<T>,
        work: impl Fn(Vec<T>) -> Vec<R> + Send + Sync + 'static,
    ) -> Vec<R>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let len = items.len();
        if len < 4 || self.threads() < 2 {
            return work(items);
        }
        let work = Arc::new(work);
        let chunk = len.div_ceil(self.threads());
        let (done, results) = bounded(self.threads());
        let mut parts = 0;
        while items.len() > chunk {
            let tail = items.split_off(items.len() - chunk);
            let (work, done) = (work.clone(), done.clone());
            let part = parts;
            self.spawn(priority, move || {
                // The receiver waits for every part, unless it panicked.
                let _ = done.send((part, work(tail)));
            });
            parts += 1;
        }
        drop(done);
        let mut mapped = work(items);
        let mut tails: Vec<(usize, Vec<R>)> = results.iter().collect();
        assert_eq!(tails.len(), parts, "a worker panicked");
        // Parts were cut off the end, the last one first.
        tails.sort_unstable_by_key(|(part, _)| std::cmp::Reverse(*part));
        mapped.extend(tails.into_iter().flat_map(|(_, tail)| tail));
        mapped
    }
}

impl ThreadsBehind {
    fn start(threads: usize) -> Self {
        // Unbounded: each followed strand has at most two batches here, and the bytes in flight bound publishes.
        let (strands, of_strands) = unbounded::<WorkerJob>();
        let (callers, of_callers) = CallerQueue::<WorkerJob>::new();
        let mut handles = Vec::new();
        for index in 0..threads {
            let strands = of_strands.clone();
            // Counted by the threads that there are: callers have the first one.
            let callers = handles.len().is_multiple_of(2).then(|| of_callers.clone());
            let work = move || {
                BEGIN_BEHIND.get().into_iter().for_each(|begin| begin());
                run_behind(&strands, callers.as_ref());
            };
            handles.extend(
                std::thread::Builder::new().name(format!("behind-{index}")).spawn(work).ok(),
            );
        }
        let queues = QueuesBehind { callers, strands };
        Self { queues: (!handles.is_empty()).then_some(queues), handles }
    }
}

impl LookUpThreads {
    fn start(threads: usize) -> Self {
        // Unbounded, because publishes are bounded by the bytes in flight.
        let (callers, of_callers) = CallerQueue::<WorkerJob>::new();
        let mut handles = Vec::new();
        for index in 0..threads {
            let callers = of_callers.clone();
            let work = move || {
                begin_publish_thread();
                while callers.announced.recv().is_ok() {
                    callers.take()(WorkerBefore::Worked);
                }
            };
            handles.extend(
                std::thread::Builder::new().name(format!("look-up-{index}")).spawn(work).ok(),
            );
        }
        Self { callers: (!handles.is_empty()).then_some(callers), handles }
    }
}

/// Runs the jobs of strands, and those of `callers` if the thread is one for them.
fn run_behind(strands: &Receiver<WorkerJob>, callers: Option<&CallerJobs<WorkerJob>>) {
    let Some(callers) = callers else {
        return strands.iter().for_each(|job| job(WorkerBefore::Worked));
    };
    loop {
        // If both have jobs, one is taken at random.
        let job = crossbeam_channel::select! {
            recv(strands) -> job => match job { Ok(job) => job, Err(_) => return },
            recv(callers.announced) -> announced => match announced {
                Ok(()) => callers.take(),
                Err(_) => return,
            },
        };
        job(WorkerBefore::Worked);
    }
}

fn run(
    urgent: &Receiver<WorkerJob>,
    normal: &Receiver<WorkerJob>,
    callers: &CallerJobs<WorkerJob>,
) {
    loop {
        if let Ok(job) = urgent.try_recv() {
            job(WorkerBefore::Worked);
            continue;
        }
        let before = match normal.is_empty() && callers.announced.is_empty() {
            true => WorkerBefore::Slept,
            false => WorkerBefore::Worked,
        };
        // If jobs wait in several queues, one queue is chosen at random.
        let job = crossbeam_channel::select! {
            recv(urgent) -> job => match job { Ok(job) => job, Err(_) => return },
            recv(normal) -> job => match job { Ok(job) => job, Err(_) => return },
            recv(callers.announced) -> announced => match announced {
                Ok(()) => callers.take(),
                Err(_) => return,
            },
        };
        job(before);
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        for queue in [&mut self.urgent, &mut self.normal] {
            *queue = unbounded().0;
        }
        self.callers.announce = unbounded().0;
        let mut behind = self.behind.take();
        let of_behind = behind.iter_mut().flat_map(|behind| {
            behind.queues = None;
            behind.handles.drain(..)
        });
        let mut look_ups = self.look_ups.take();
        let of_look_ups = look_ups.iter_mut().flat_map(|look_ups| {
            look_ups.callers = None;
            look_ups.handles.drain(..)
        });
        let here = std::thread::current().id();
        for handle in self.handles.drain(..).chain(of_behind).chain(of_look_ups) {
            // The last handle may be dropped by a job.
            if handle.thread().id() != here {
                // A panic has already ended the process by its hook, or is the caller's.
                let _ = handle.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A caller in a site of its own.
    fn alone(number: usize) -> PublishCaller {
        PublishCaller { site: number, address: number }
    }

    #[test]
    fn mapping_keeps_the_order_whatever_the_size() {
        let workers = Workers::start(3);
        for len in [0u64, 1, 3, 4, 5, 100, 1001] {
            let items: Vec<u64> = (0..len).collect();
            let doubled = workers.map(Priority::Urgent, items.clone(), |items| {
                items.into_iter().map(|item| item * 2).collect()
            });
            assert_eq!(doubled, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        }
    }

    /// A job that waits for another one does not wait for a core.
    #[test]
    fn a_job_is_told_that_its_worker_slept_only_if_no_job_came_before_it() {
        let workers = Workers::start(1);
        let (sender, told) = unbounded();
        let spawn = |priority| {
            let sender = sender.clone();
            workers.spawn_told(priority, move |before| sender.send(before).unwrap());
        };
        let (go, wait) = bounded::<()>(0);
        workers.spawn(Priority::Urgent, move || (0..2).for_each(|_| wait.recv().unwrap()));
        // The thread works from here on. Before this, the thread may look for jobs, find none, and take one of the jobs
        // below.
        go.send(()).unwrap();
        let caller = Priority::Caller(alone(1));
        for priority in [Priority::Urgent, Priority::Normal, caller, Priority::Behind] {
            spawn(priority);
        }
        go.send(()).unwrap();
        assert!(told.iter().take(4).all(|before| before == WorkerBefore::Worked));
        // The thread may not sleep yet when a job comes.
        loop {
            std::thread::sleep(std::time::Duration::from_millis(1));
            spawn(caller);
            if told.recv().unwrap() == WorkerBefore::Slept {
                break;
            }
        }
    }

    #[test]
    fn urgent_work_overtakes() {
        let workers = Workers::start(1);
        let (sender, order) = unbounded();
        let (go, wait) = bounded::<()>(0);
        workers.spawn(Priority::Normal, move || wait.recv().unwrap());
        for (priority, name) in [(Priority::Normal, "normal"), (Priority::Urgent, "urgent")] {
            let sender = sender.clone();
            workers.spawn(priority, move || sender.send(name).unwrap());
        }
        go.send(()).unwrap();
        assert_eq!(order.iter().take(2).collect::<Vec<_>>(), ["urgent", "normal"]);
    }

    #[test]
    fn what_is_checked_behind_holds_no_other_work_up() {
        let workers = Workers::start(1);
        let (go, wait) = bounded::<()>(0);
        let (sender, order) = unbounded();
        let behind = sender.clone();
        workers.spawn(Priority::Behind, move || {
            wait.recv().unwrap();
            behind.send("behind").unwrap();
        });
        workers.spawn(Priority::Normal, move || {
            sender.send("normal").unwrap();
            go.send(()).unwrap();
        });
        assert_eq!(order.iter().collect::<Vec<_>>(), ["normal", "behind"]);
    }

    #[test]
    fn large_requests_hold_no_small_one_up_and_take_turns() {
        let workers = Workers::start(1);
        let (go, wait) = bounded::<()>(0);
        let (sender, order) = unbounded();
        let first = sender.clone();
        workers.spawn(Priority::LargeOfCaller(alone(1)), move || {
            wait.recv().unwrap();
            first.send("large").unwrap();
        });
        for (caller, name) in [(1, "large"), (1, "large"), (2, "other")] {
            let sender = sender.clone();
            let caller = Priority::LargeOfCaller(alone(caller));
            workers.spawn(caller, move || sender.send(name).unwrap());
        }
        workers.spawn(Priority::Caller(alone(1)), move || {
            sender.send("small").unwrap();
            go.send(()).unwrap();
        });
        let order: Vec<_> = order.iter().collect();
        assert_eq!((order[0], order.len()), ("small", 5));
        let turn = order.iter().position(|name| *name == "other").unwrap();
        assert!(turn <= 3, "a caller has its turn before all of another one: {order:?}");
    }

    /// Repeats of old envelopes cost their caller nothing, and each is checked.
    #[test]
    fn large_requests_of_many_callers_leave_half_of_the_threads() {
        let workers = Workers::start(2);
        let (go, wait) = unbounded::<()>();
        let (sender, order) = unbounded();
        let first = sender.clone();
        workers.spawn(Priority::LargeOfCaller(alone(0)), move || {
            wait.recv().unwrap();
            first.send("first").unwrap();
        });
        for caller in 1..=20 {
            let sender = sender.clone();
            let priority = Priority::LargeOfCaller(alone(caller));
            workers.spawn(priority, move || sender.send("other").unwrap());
        }
        workers.spawn(Priority::Behind, move || {
            sender.send("strand").unwrap();
            go.send(()).unwrap();
        });
        let order: Vec<_> = order.iter().collect();
        assert_eq!(order[..2], ["strand", "first"]);
        assert_eq!(order.len(), 22);
    }

    #[test]
    fn a_flood_of_callers_does_not_stand_before_other_strands() {
        const FLOOD: usize = 10_000;
        let workers = Workers::start(1);
        let (sender, order) = unbounded();
        let (go, wait) = bounded::<()>(0);
        workers.spawn(Priority::Urgent, move || wait.recv().unwrap());
        for _ in 0..FLOOD {
            let sender = sender.clone();
            workers.spawn(Priority::Caller(alone(1)), move || sender.send("caller").unwrap());
        }
        workers.spawn(Priority::Normal, move || sender.send("strand").unwrap());
        go.send(()).unwrap();
        let before = order.iter().position(|name| name == "strand").unwrap();
        assert!(before < 100, "{before} of {FLOOD} went first");
    }

    #[test]
    fn a_flood_of_one_caller_does_not_stand_before_another_caller() {
        const FLOOD: usize = 10_000;
        let workers = Workers::start(1);
        let (sender, order) = unbounded();
        let (go, wait) = bounded::<()>(0);
        workers.spawn(Priority::Urgent, move || wait.recv().unwrap());
        let callers = std::iter::repeat_n(1, FLOOD).chain([2]);
        for caller in callers {
            let sender = sender.clone();
            let priority = Priority::Caller(alone(caller));
            workers.spawn(priority, move || sender.send(caller).unwrap());
        }
        go.send(()).unwrap();
        let before = order.iter().position(|caller| caller == 2).unwrap();
        // One more if the thread had not begun when the jobs came: it takes one at random then.
        assert!(before <= 2, "{before} of {FLOOD} went first");
    }

    #[test]
    fn look_ups_take_turns_on_threads_of_their_own() {
        let workers = Workers::start(1);
        let (sender, order) = unbounded();
        let (go, wait) = bounded::<()>(0);
        workers.spawn(Priority::LookUp(alone(0)), move || wait.recv().unwrap());
        for caller in std::iter::repeat_n(1, 1000).chain([2]) {
            let sender = sender.clone();
            let priority = Priority::LookUp(alone(caller));
            workers.spawn(priority, move || sender.send(caller).unwrap());
        }
        let first = sender.clone();
        workers.spawn(Priority::Caller(alone(1)), move || {
            first.send(3).unwrap();
            go.send(()).unwrap();
        });
        drop(sender);
        let order: Vec<_> = order.iter().collect();
        assert_eq!((&order[..3], order.len()), (&[3, 1, 2][..], 1002));
    }

    /// The owner of an IPv6 /48 has 65,536 addresses.
    #[test]
    fn a_flood_of_all_addresses_of_a_site_does_not_stand_before_another_site() {
        const FLOOD: usize = 10_000;
        let workers = Workers::start(1);
        let (sender, order) = unbounded();
        let (go, wait) = bounded::<()>(0);
        workers.spawn(Priority::Urgent, move || wait.recv().unwrap());
        let flood = (0..FLOOD).map(|number| PublishCaller { site: 1, address: 10 + number });
        for caller in flood.chain([alone(2)]) {
            let sender = sender.clone();
            workers.spawn(Priority::Caller(caller), move || sender.send(caller.site).unwrap());
        }
        go.send(()).unwrap();
        let before = order.iter().position(|site| site == 2).unwrap();
        // One more if the thread had not begun when the jobs came: it takes one at random then.
        assert!(before <= 2, "{before} of {FLOOD} went first");
    }
}
