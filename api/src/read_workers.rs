//! The threads that answer queries: a fixed number, with bounded queues, fair between sites, and between the addresses
//! of each. A site is an IPv4 address, or an IPv6 /48, whose owner has more addresses than there are places.
//!
//! Publishing, other nodes' strands, streams and health have threads of their own, so no amount of
//! queries delays them.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hawser_engine::read::{QueryError, ReadMemory, ReaderId};
use hawser_engine::runtime::{GroupedQueue, begin_reader_thread};
use hawser_serve::{CallCharge, OverloadedError};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::callers::PaidTurns;
use crate::error::CallError;

/// Largest number of waiting queries of all callers. A guess: seconds of work. A further query then evicts one of the
/// site with the most waiting queries, if that site has at least two more than the query's own site. Otherwise it
/// evicts one of the caller with the most in its own site, by the same rule. Without evictions, a few sites or
/// addresses could keep the queue full and shut out all others.
const WAITING_MAX: usize = 4096;
/// Largest number of waiting queries of one address. A guess: some proxies do not forward client addresses, so all
/// their clients have one.
const WAITING_OF_CALLER_MAX: usize = 1024;

/// The work of a waiting query. Called once, at the end of its wait.
type Job = Box<dyn FnOnce(WaitEnd) + Send>;

/// A waiting query.
struct WaitingRead {
    job: Job,
    /// Held by the call for as long as it waits.
    call: Weak<()>,
}

/// The end of a query's wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitEnd {
    /// It is the query's turn.
    Turn,
    /// Another caller's query has taken its place.
    Displaced,
}

/// A handle to the threads. They end when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct ReadWorkers(Arc<ReadWorkersHandle>);

struct ReadWorkersHandle(Arc<ReadWorkersState>);

struct ReadWorkersState {
    waiting: Mutex<WaitingReads>,
    filled: Condvar,
}

/// The caller of a query, by the numbers of its address and of its site.
#[derive(Debug, Clone, Copy)]
struct QueryCaller {
    site: usize,
    caller: usize,
}

#[derive(Default)]
struct WaitingReads {
    jobs: GroupedQueue<usize, WaitingRead>,
    closed: bool,
}

/// The place of a query in the queue. Dropping it frees the place and the memory of the query, so that callers who have
/// gone keep out no others of their address.
#[must_use = "the query leaves the queue when this is dropped"]
struct QueuedRead<'a> {
    state: &'a ReadWorkersState,
    by: QueryCaller,
    /// `None` once the query has left the queue.
    call: Option<Arc<()>>,
}

impl QueuedRead<'_> {
    /// Records that the query has had its turn, or has lost its place.
    fn leave(mut self) {
        self.call = None;
    }
}

impl Drop for QueuedRead<'_> {
    fn drop(&mut self) {
        if self.call.take().is_some() {
            let QueryCaller { site, caller } = self.by;
            let waits = |read: &WaitingRead| read.call.strong_count() > 0;
            self.state.waiting.lock().jobs.retain_of(site, caller, waits);
        }
    }
}

impl WaitingReads {
    /// Queues a query behind the others of its caller. Returns the query that it evicts, if the queue was full.
    ///
    /// # Errors
    /// [`OverloadedError`] if too many wait.
    fn push(
        &mut self,
        by: QueryCaller,
        read: WaitingRead,
    ) -> Result<Option<WaitingRead>, OverloadedError> {
        let QueryCaller { site, caller } = by;
        if self.jobs.len_of(site, caller) >= WAITING_OF_CALLER_MAX {
            return Err(OverloadedError);
        }
        let mut displaced = None;
        if self.jobs.len() >= WAITING_MAX {
            displaced = Some(self.jobs.pop_for(site, caller).ok_or(OverloadedError)?);
        }
        self.jobs.push(site, caller, read);
        Ok(displaced)
    }
}

impl ReadWorkers {
    /// Starts `threads` threads.
    pub(crate) fn start(threads: usize) -> Self {
        let state =
            Arc::new(ReadWorkersState { waiting: Mutex::default(), filled: Condvar::new() });
        for index in 0..threads {
            let state = state.clone();
            std::thread::Builder::new()
                .name(format!("read-{index}"))
                .spawn(move || {
                    begin_reader_thread();
                    state.run();
                })
                .expect("the system gives us a thread at start");
        }
        Self(Arc::new(ReadWorkersHandle(state)))
    }

    /// Runs a read on one of the threads, in its caller's turn. A read whose call ends before leaves the queue.
    ///
    /// # Errors
    /// The read's; [`CallError::Overloaded`] if too many wait, or if a read of a caller with fewer takes its place;
    /// [`CallError::Interrupted`] if it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        charge: &CallCharge,
        read: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, CallError> {
        let (answer, answered) = oneshot::channel();
        // The read's memory stays charged to its call until the read has ended, even if the call ends earlier.
        let held = charge.clone();
        let job = move |end: WaitEnd| {
            if answer.is_closed() {
                return;
            }
            let began = held.begin_work();
            let result = match end {
                WaitEnd::Turn => read().map_err(CallError::from),
                WaitEnd::Displaced => Err(CallError::Overloaded(OverloadedError)),
            };
            held.end_work(began);
            drop(held);
            let _ = answer.send(result);
        };
        let by = QueryCaller { site: charge.site(), caller: charge.caller() };
        let queued = self.0.0.push(by, Box::new(job))?;
        let answered = answered.await;
        queued.leave();
        answered.map_err(|_| CallError::Interrupted)?
    }
}

impl ReadWorkers {
    /// Runs a read in turns. The caller is charged for each turn before it starts. Other reads, also small ones of the
    /// same caller, run between two turns. `turn` returns the answer when the read is done.
    ///
    /// # Errors
    /// The errors of [`run`](Self::run), and an error if the caller cannot pay.
    pub(crate) async fn in_turns<T: Send + 'static>(
        &self,
        charge: &CallCharge,
        mut paid: PaidTurns<'_>,
        mut turn: impl FnMut() -> Result<Option<T>, QueryError> + Send + 'static,
    ) -> Result<T, CallError> {
        loop {
            paid.pay().await?;
            let read = move || {
                let answer = turn()?;
                Ok((turn, answer))
            };
            let (again, answer) = self.run(charge, read).await?;
            match answer {
                Some(answer) => return Ok(answer),
                None => turn = again,
            }
        }
    }
}

impl ReadWorkersState {
    /// Puts a query into the queue.
    ///
    /// # Errors
    /// [`OverloadedError`] if too many wait.
    fn push(&self, by: QueryCaller, job: Job) -> Result<QueuedRead<'_>, OverloadedError> {
        let call = Arc::new(());
        let read = WaitingRead { job, call: Arc::downgrade(&call) };
        let displaced = self.waiting.lock().push(by, read)?;
        self.filled.notify_one();
        if let Some(displaced) = displaced {
            (displaced.job)(WaitEnd::Displaced);
        }
        Ok(QueuedRead { state: self, by, call: Some(call) })
    }

    fn run(&self) {
        while let Some(job) = self.next() {
            // The panic hook has logged it, and the caller gets the error `CallError::Interrupted`.
            let _ = std::panic::catch_unwind(AssertUnwindSafe(move || job(WaitEnd::Turn)));
        }
    }

    fn next(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(read) = waiting.jobs.pop() {
                return Some(read.job);
            }
            if waiting.closed {
                return None;
            }
            self.filled.wait(&mut waiting);
        }
    }
}

impl Drop for ReadWorkersHandle {
    fn drop(&mut self) {
        self.0.waiting.lock().closed = true;
        self.0.filled.notify_all();
    }
}

/// The memory of one call, for the engine.
#[derive(Debug)]
pub(crate) struct CallMemory(pub(crate) CallCharge);

impl ReadMemory for CallMemory {
    fn take(&self, bytes: usize) -> bool {
        self.0.take(bytes).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.give_back(bytes);
    }

    fn take_lasting(&self, bytes: usize) -> bool {
        self.0.take_lasting(bytes).is_ok()
    }

    fn take_spare(&self, bytes: usize) -> bool {
        self.0.take_spare(bytes)
    }

    fn give_back_lasting(&self, bytes: usize) {
        self.0.give_back_lasting(bytes);
    }

    fn begin_work(&self) -> Duration {
        self.0.begin_work()
    }

    fn end_work(&self, began: Duration) {
        self.0.end_work(began);
    }

    fn reader(&self) -> ReaderId {
        let (site, address) = (self.0.site(), self.0.caller());
        ReaderId { site, address, connection: self.0.connection_number() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A caller in a site of its own.
    fn alone(number: usize) -> QueryCaller {
        QueryCaller { site: number, caller: number }
    }

    /// A query that does nothing.
    fn read() -> WaitingRead {
        WaitingRead { job: Box::new(|_| ()), call: Weak::new() }
    }

    fn push(queue: &mut WaitingReads, caller: usize) -> Result<(), OverloadedError> {
        queue.push(alone(caller), read()).map(drop)
    }

    /// Returns a queue in which four callers have taken all places.
    fn full() -> WaitingReads {
        let mut queue = WaitingReads::default();
        for caller in 0..4 {
            let taken =
                std::iter::repeat_with(|| push(&mut queue, caller)).take_while(Result::is_ok);
            assert_eq!(taken.count(), WAITING_OF_CALLER_MAX);
        }
        assert_eq!(queue.jobs.len(), WAITING_MAX);
        queue
    }

    #[test]
    fn one_caller_and_all_callers_are_bounded() {
        let mut queue = full();
        for caller in 4..WAITING_MAX + 10 {
            let _ = push(&mut queue, caller);
        }
        assert_eq!(queue.jobs.len(), WAITING_MAX);
        // Each caller has one query now, and no query is evicted.
        assert!(push(&mut queue, 3 * WAITING_MAX).is_err());
        drop(queue.jobs.pop().unwrap());
        assert!(push(&mut queue, 3 * WAITING_MAX).is_ok());
    }

    #[test]
    fn callers_that_take_all_places_leave_some_to_others() {
        let mut queue = full();
        let taken = std::iter::repeat_with(|| push(&mut queue, 4)).take_while(Result::is_ok);
        assert_eq!(taken.count(), WAITING_MAX / 5);
        assert_eq!(queue.jobs.len(), WAITING_MAX);
        for caller in 0..4 {
            assert!((819..=820).contains(&queue.jobs.len_of(caller, caller)));
        }
    }

    /// The owner of an IPv6 /48 has 65,536 addresses, each of which sends a single query.
    #[test]
    fn all_addresses_of_a_site_leave_places_and_turns_to_others() {
        let mut queue = WaitingReads::default();
        let flood = |caller| QueryCaller { site: 1, caller };
        let taken = (0..2 * WAITING_MAX).filter(|&caller| {
            let caller = flood(10 + caller);
            queue.push(caller, read()).is_ok()
        });
        assert_eq!(taken.count(), WAITING_MAX);
        for caller in [2, 3] {
            push(&mut queue, caller).unwrap();
        }
        assert_eq!(queue.jobs.len(), WAITING_MAX);
        let order: Vec<_> = (0..3)
            .map(|_| {
                drop(queue.jobs.pop());
                [2, 3].map(|caller| queue.jobs.len_of(caller, caller))
            })
            .collect();
        assert_eq!(order, [[1, 1], [0, 1], [0, 0]], "its turn comes after one of the flood");
    }

    #[test]
    fn a_query_that_loses_its_place_is_told_so() {
        let waiting = Mutex::new(full());
        let state = ReadWorkersState { waiting, filled: Condvar::new() };
        let (displaced, mut queued) = (Arc::new(AtomicUsize::new(0)), Vec::new());
        // The last query of the caller that has most.
        drop(state.waiting.lock().jobs.pop().unwrap());
        for caller in 5..7 {
            let displaced = displaced.clone();
            let count = move |end: WaitEnd| {
                assert_eq!(end, WaitEnd::Displaced);
                displaced.fetch_add(1, Ordering::Relaxed);
            };
            for _ in 0..500 {
                queued.extend(state.push(alone(caller), Box::new(count.clone())).ok());
            }
        }
        assert_eq!(displaced.load(Ordering::Relaxed), 0, "of callers with few queries none");
        for caller in 7..4000 {
            queued.push(state.push(alone(caller), Box::new(|_| ())).unwrap());
        }
        assert!(displaced.load(Ordering::Relaxed) > 900, "{displaced:?}");
    }

    /// Played by strangers who share an address with an honest caller, ask as much as they may, and hang up.
    #[test]
    fn queries_whose_callers_have_gone_keep_no_place_and_no_memory() {
        let state = ReadWorkersState { waiting: Mutex::default(), filled: Condvar::new() };
        let memory = Arc::new(());
        let ask = || {
            let held = memory.clone();
            state.push(alone(1), Box::new(move |_| drop(held)))
        };
        let mut asked: Vec<_> = std::iter::repeat_with(ask).map_while(Result::ok).collect();
        assert_eq!(asked.len(), WAITING_OF_CALLER_MAX);
        assert!(ask().is_err(), "no further query of the address has a place");
        let first = asked.swap_remove(0);
        drop(asked);
        assert_eq!(state.waiting.lock().jobs.len_of(1, 1), 1, "the one whose caller waits stays");
        assert_eq!(Arc::strong_count(&memory), 2, "it alone holds memory");
        let honest = ask().expect("a query has a place at once");
        assert_eq!(state.waiting.lock().jobs.len(), 2);
        for queued in [first, honest] {
            (state.waiting.lock().jobs.pop().unwrap().job)(WaitEnd::Turn);
            queued.leave();
        }
        assert_eq!(Arc::strong_count(&memory), 1);
    }
}
