//! The order in which the tasks of connections run: tasks of publishing connections go first.
//!
//! All tasks share the threads of one runtime, which polls them in the order in which they were woken. So
//! a caller with many connections would make every publish wait for a turn of each of them. Instead, a
//! stored publish earns [`PAID_TIME`] for its connection. While a connection has time left, its tasks are
//! *paid*: a task of another connection that is polled while a paid one waits lets it go first, at most
//! [`DEFERRED_MAX`] times. Nothing slows down while no paid task waits. The number of paid turns is bounded by the
//! envelopes: a turn is charged by its time, up to [`TURN_CHARGE_MAX`]. A connection that has earned time is a
//! publisher's until [`UNPAID_TURNS_MAX`] of its turns in a row were not paid; `task_threads` gives it other threads.
//! While publishers' tasks are late, other connections rest between their turns (`pace`).

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::address::ClientAddress;
use crate::pace::{NextTurn, RestPace, Rests};

/// The time on the runtime's threads that one stored envelope pays for: ten turns at their highest charge. A publish of
/// one envelope has seven turns (traced), most of them interrupted beside a flood.
const PAID_TIME: Duration = Duration::from_millis(1);
/// Largest unused time of a connection. A guess: the time that a burst of 20 publishes pays for.
const PAID_TIME_MAX: Duration = Duration::from_millis(20);
/// The most time that one turn is charged: more than a turn of a publish works (traced: 10 to 90 µs). The system may
/// give the core to another thread in the middle of a turn, for milliseconds beside a flood, or to the client that a
/// written answer wakes. That time is not the connection's: charged in full, a publisher would have lost its place
/// before the flood in most of its turns. A turn that works longer costs no more; its work is bounded otherwise.
const TURN_CHARGE_MAX: Duration = Duration::from_micros(100);
/// Largest number of turns in a row that a task leaves to paid tasks before it runs. Bounds the delay that paying
/// callers can cause to other callers, and the cost of a deferred task. A guess.
const DEFERRED_MAX: u8 = 4;
/// The longest time of a turn that counts before rests begin: a longer turn was interrupted by other threads, mostly.
/// While there are rests, the thread's own time counts. Reading it takes a call of the system. A guess.
const REST_FOR_MAX: Duration = Duration::from_micros(500);
/// Number of unpaid turns in a row after which a connection no longer counts as a publisher's. Bounds the work on
/// publishers' threads that a caller gets for one stored envelope. A guess: a client that publishes reads some messages
/// between.
const UNPAID_TURNS_MAX: u32 = 32;

/// Returns the time that the calling thread has worked in all, without the time in which other threads had its core.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (time.tv_sec.try_into(), time.tv_nsec.try_into());
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

/// No place of an address: the address of a new connection is not known yet.
const UNKNOWN: usize = usize::MAX;
/// No place of an address: the connection never rests.
const EXEMPT: usize = usize::MAX - 1;

/// The runtimes whose threads run the tasks of connections.
#[derive(Debug, Clone)]
pub(crate) struct TaskRuntimes {
    /// The runtime of all connections that are no publisher's.
    pub(crate) all: Handle,
    pub(crate) publishers: Handle,
}

/// The paid tasks of a process that wait for their turn, and the pace of all others.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    waiting: AtomicUsize,
    pace: RestPace,
    rests: Rests,
}

impl Turns {
    /// Returns the rest of connections that do not publish, in multiples of their turns; 0: none.
    pub(crate) fn rest_multiple(&self) -> i64 {
        self.pace.multiple(self.pace.now_ns()).try_into().unwrap_or(i64::MAX)
    }
}

/// The time that one connection has paid for and not used.
#[derive(Debug)]
pub(crate) struct PaidTime {
    left_ns: AtomicI64,
    /// Turns since time was earned that were not paid, up to [`UNPAID_TURNS_MAX`]. Below it the connection is a
    /// publisher's.
    unpaid_turns: AtomicU32,
    /// The place of the address with which the connection rests, [`UNKNOWN`] or [`EXEMPT`].
    place: AtomicUsize,
    turns: Arc<Turns>,
    /// `None`: all tasks run on the runtime that starts them.
    runtimes: Option<TaskRuntimes>,
}

impl PaidTime {
    /// Creates the account of a connection; nothing is paid for yet.
    pub(crate) fn new(turns: Arc<Turns>, runtimes: Option<TaskRuntimes>) -> Self {
        let unpaid_turns = AtomicU32::new(UNPAID_TURNS_MAX);
        Self {
            left_ns: AtomicI64::new(0),
            unpaid_turns,
            place: AtomicUsize::new(UNKNOWN),
            turns,
            runtimes,
        }
    }

    /// Lets the connection or call rest together with all others of its address.
    pub(crate) fn rest_with(&self, address: ClientAddress) {
        self.place.store(self.turns.rests.place_of(address), Ordering::Relaxed);
    }

    /// Returns the next turn of the address; `None` if turns are followed by no rests.
    pub(crate) fn next_turn(&self) -> Option<&NextTurn> {
        self.turns.rests.next_turn(self.place.load(Ordering::Relaxed))
    }

    /// Exempts the connection from rests, also from one that has begun when its task is woken. It is another node's, or
    /// the calls of many callers come through it, which rest by themselves, or it is closed to free memory.
    pub(crate) fn never_rest(&self) {
        self.place.store(EXEMPT, Ordering::Relaxed);
    }

    /// Returns true if turns are followed by rests while publishers are late.
    pub(crate) fn may_rest(&self) -> bool {
        self.place.load(Ordering::Relaxed) != EXEMPT
    }

    /// Returns true if the connection waits for the end of a rest. One that publishes does not, even if it owes time.
    fn waits_for_rests(&self) -> bool {
        self.may_rest() && !self.is_publishers()
    }

    /// Returns the end of the address's rest, or `None` if it may have a turn.
    fn rests_until(&self) -> Option<Instant> {
        let pace = &self.turns.pace;
        if !pace.is_slow() || !self.waits_for_rests() {
            return None;
        }
        let at_ns = self.next_turn()?.after(pace.now_ns())?;
        Some(pace.moment(at_ns))
    }

    /// Records a turn that was not paid, or work of another thread, and the rest after it. Turns of a publisher do not
    /// count: a publisher does not rest for them, so other callers would have to rest in its place.
    pub(crate) fn rest(&self, took: Duration) {
        self.put_off(took, RestPace::rest_after, NextTurn::put_off);
    }

    /// Records useless work as [`rest`](Self::rest) does. The address may owe more than one rest for it.
    pub(crate) fn rest_for_nothing(&self, took: Duration) {
        self.put_off(took, RestPace::rest_after, NextTurn::owe);
    }

    /// Has the address rest as after useless work that took `time`. No thread has done that work, so it delays no
    /// publisher.
    pub(crate) fn rest_without_work(&self, time: Duration) {
        self.put_off(time, RestPace::rest_for, NextTurn::owe);
    }

    /// Puts the next turn of the address off: `add` adds the rest that `rest_of` makes of a time, in nanoseconds.
    fn put_off(
        &self,
        time: Duration,
        rest_of: fn(&RestPace, u64, u64) -> u64,
        add: fn(&NextTurn, u64, u64),
    ) {
        if !self.waits_for_rests() {
            return;
        }
        let pace = &self.turns.pace;
        let now_ns = pace.now_ns();
        let rest_ns = rest_of(pace, now_ns, time.as_nanos().try_into().unwrap_or(u64::MAX));
        if let Some(next_turn) = self.next_turn().filter(|_| rest_ns > 0) {
            add(next_turn, now_ns, rest_ns);
        }
    }

    /// Records the time in which the threads behind the tasks began with a publish that is stored, in all.
    pub(crate) fn publish_waited(&self, waited: Duration) {
        let pace = &self.turns.pace;
        pace.publish_waited(pace.now_ns(), waited.as_nanos().try_into().unwrap_or(u64::MAX));
    }

    /// Begins rests, each as long as the turn before it, of all connections with these turns.
    #[cfg(test)]
    pub(crate) fn begin_rests(&self) {
        self.turns.pace.begin();
    }

    /// Returns the runtimes of the connection's tasks; `None`: they run on the runtime that starts them.
    pub(crate) fn runtimes(&self) -> Option<&TaskRuntimes> {
        self.runtimes.as_ref()
    }

    /// Returns true if the connection is a publisher's.
    pub(crate) fn is_publishers(&self) -> bool {
        self.unpaid_turns.load(Ordering::Relaxed) < UNPAID_TURNS_MAX
    }

    /// Counts a turn that was not paid.
    fn take_unpaid_turn(&self) {
        if self.is_publishers() {
            self.unpaid_turns.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds the time that `envelopes` stored envelopes pay for.
    pub(crate) fn earn(&self, envelopes: usize) {
        let earned =
            nanoseconds(PAID_TIME).saturating_mul(envelopes.try_into().unwrap_or(i64::MAX));
        let add = |left: i64| Some(left.saturating_add(earned).min(nanoseconds(PAID_TIME_MAX)));
        let _ = self.left_ns.try_update(Ordering::Relaxed, Ordering::Relaxed, add);
        if envelopes > 0 {
            self.unpaid_turns.store(0, Ordering::Relaxed);
        }
    }

    /// Returns true if some of the time is left.
    pub(crate) fn is_left(&self) -> bool {
        self.left_ns.load(Ordering::Relaxed) > 0
    }

    /// Charges a turn that has lasted for `time`, at most [`TURN_CHARGE_MAX`].
    fn spend_turn(&self, time: Duration) {
        self.spend(time.min(TURN_CHARGE_MAX));
    }

    /// Charges work on other threads that has lasted for `time`, at most [`PAID_TIME_MAX`].
    pub(crate) fn spend(&self, time: Duration) {
        self.left_ns.fetch_sub(nanoseconds(time.min(PAID_TIME_MAX)), Ordering::Relaxed);
    }
}

fn nanoseconds(time: Duration) -> i64 {
    time.as_nanos().try_into().unwrap_or(i64::MAX)
}

thread_local! {
    /// True if the task that has a turn on this thread asks for no rest before its next one ([`without_rest`]).
    static ASKS_FOR_NO_REST: Cell<bool> = const { Cell::new(false) };
}

/// Waits for a place that the task holds from the moment at which it is woken, while other callers wait for it. The
/// turn that begins to use the place comes without a rest.
pub async fn without_rest<F: Future>(wait: F) -> F::Output {
    let mut wait = pin!(wait);
    std::future::poll_fn(|context| {
        let polled = wait.as_mut().poll(context);
        if polled.is_pending() {
            ask_for_no_rest();
        }
        polled
    })
    .await
}

/// Asks for no rest before the next turn of the task that has its turn.
pub(crate) fn ask_for_no_rest() {
    ASKS_FOR_NO_REST.set(true);
}

/// The turns of a task, of those that are not paid, that come after the rest of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RestingTurns {
    All,
    AllButFirst,
    None,
}

/// Runs the task of a connection in its turn.
pub(crate) fn in_turn<F: Future>(
    account: Arc<PaidTime>,
    task: F,
) -> impl Future<Output = F::Output> {
    in_turns(account, task, RestingTurns::All)
}

/// Runs the task of a call in its turn. Its first turn comes without a rest: while many calls have had none, no
/// connection reads heads of further ones (`unflushed`), and publishers would wait for the rests of a flood.
pub(crate) fn call_in_turn<F: Future>(
    account: Arc<PaidTime>,
    task: F,
) -> impl Future<Output = F::Output> {
    in_turns(account, task, RestingTurns::AllButFirst)
}

/// Runs the task of a publish in its turn, without rests. It may hold a part of what all publishes share, and nothing
/// is paid for before it has ended. Its turns cause rests of its address, which bounds their number.
pub(crate) fn publish_in_turn<F: Future>(
    account: Arc<PaidTime>,
    task: F,
) -> impl Future<Output = F::Output> {
    in_turns(account, task, RestingTurns::None)
}

/// Runs a task in its turn.
async fn in_turns<F: Future>(account: Arc<PaidTime>, task: F, resting: RestingTurns) -> F::Output {
    let mut task = pin!(task);
    let guard = CountGuard(Arc::new(PaidWaker {
        turns: account.turns.clone(),
        state: AtomicU8::new(WAITING),
        woken_ns: AtomicU64::new(0),
        waker: AtomicWaker::new(),
    }));
    let paid_waker = Waker::from(guard.0.clone());
    let mut deferred = 0;
    let mut rest: Option<Pin<Box<Sleep>>> = None;
    let mut may_rest = resting == RestingTurns::All;
    let mut polled_by: Option<Waker> = None;
    std::future::poll_fn(move |context| {
        let is_paid = account.is_left();
        // Before a rest and for unpaid turns, too: wakers of earlier turns may still wake the task, and each wake takes
        // the registered waker.
        guard.0.waker.register(context.waker());
        // Read once for the wait before this turn and for the turn: with what is between, neither is longer by much.
        let began = Instant::now();
        guard.0.has_its_turn(began);
        // The events for which the task waits hold the waker of its last turn. A task that has moved to another runtime
        // has a new waker, so no event would end its rest. `will_wake` also compares tables of functions, which the
        // compiler may duplicate; the waker that is kept keeps its data from being those of another task.
        let data = context.waker().data();
        let has_moved = polled_by.as_ref().is_some_and(|by| by.data() != data);
        let rests = !is_paid && !has_moved && account.waits_for_rests();
        rest = rest.take().filter(|_| rests);
        if rest.is_none() && rests && may_rest {
            rest = account.rests_until().map(|at| Box::pin(sleep_until(at)));
        }
        if rest.as_mut().is_some_and(|rest| rest.as_mut().poll(context).is_pending()) {
            return Poll::Pending;
        }
        // Paid tasks that go first now must not lead to another rest.
        may_rest &= rest.take().is_none();
        if !is_paid && deferred < DEFERRED_MAX && account.turns.waiting.load(Ordering::Relaxed) > 0
        {
            deferred += 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        deferred = 0;
        if polled_by.is_none() || has_moved {
            polled_by = Some(context.waker().clone());
        }
        let worked = (!is_paid && account.turns.pace.is_slow()).then(thread_time);
        ASKS_FOR_NO_REST.set(false); // of a task that has had a turn on this thread before
        let polled = if is_paid {
            task.as_mut().poll(&mut Context::from_waker(&paid_waker))
        } else {
            account.take_unpaid_turn();
            task.as_mut().poll(context)
        };
        may_rest = resting != RestingTurns::None && !ASKS_FOR_NO_REST.get();
        if is_paid {
            account.spend_turn(began.elapsed());
        } else {
            account.rest(match worked {
                Some(worked) => thread_time().saturating_sub(worked),
                None => began.elapsed().min(REST_FOR_MAX),
            });
        }
        polled
    })
    .await
}

/// The task waits for an event.
const WAITING: u8 = 0;
/// The task was woken and waits for its turn. It is counted in [`Turns`].
const WOKEN: u8 = 1;
/// The task has ended. Wakers may outlive it.
const ENDED: u8 = 2;

/// The waker of a paid task. Counts the task as waiting until it has its turn.
struct PaidWaker {
    turns: Arc<Turns>,
    state: AtomicU8,
    /// The time of the wake that the task has not had a turn for, by the clock of the pace.
    woken_ns: AtomicU64,
    waker: AtomicWaker,
}

impl PaidWaker {
    fn has_its_turn(&self, now: Instant) {
        if self.leave(WAITING) {
            let now_ns = self.turns.pace.ns_of(now);
            let waited_ns = now_ns.saturating_sub(self.woken_ns.load(Ordering::Relaxed));
            self.turns.pace.publisher_had_its_turn(now_ns, waited_ns);
        }
    }

    /// Leaves the current state. Returns true if the task was counted as waiting for its turn.
    fn leave(&self, next: u8) -> bool {
        let waited = self.state.swap(next, Ordering::AcqRel) == WOKEN;
        if waited {
            self.turns.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        waited
    }
}

impl Wake for PaidWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.load(Ordering::Relaxed) == WAITING {
            self.woken_ns.store(self.turns.pace.now_ns(), Ordering::Relaxed);
        }
        // Incremented before the state changes, so that a concurrent decrement never takes the count below zero.
        self.turns.waiting.fetch_add(1, Ordering::Relaxed);
        let changed =
            self.state.compare_exchange(WAITING, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if changed.is_err() {
            self.turns.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.waker.wake();
    }
}

/// A guard that uncounts a dropped task, even one that waits.
struct CountGuard(Arc<PaidWaker>);

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.leave(ENDED);
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
