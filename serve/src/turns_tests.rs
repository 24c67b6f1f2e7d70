//! Tests of the turns of connections, and of the rests between them.

use std::net::IpAddr;

use super::*;
use crate::budget::MemoryBudget;
use crate::call_share::CallCharge;
use crate::long_work::{self, WorkCaller};
use crate::pace::{CREDIT_NS, THREADS_LATE_NS};
use crate::publish_call::finished;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Runs tasks that wait for one signal on one thread. Returns the order of their turns after the signal.
fn order(paid: &[bool]) -> Vec<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (turns, signal) = (Arc::new(Turns::default()), Arc::new(Notify::new()));
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..paid.len())
            .map(|task| {
                let account = Arc::new(PaidTime::new(turns.clone(), None));
                account.earn(usize::from(paid[task]));
                let (signal, order) = (signal.clone(), order.clone());
                tokio::spawn(in_turn(account, async move {
                    signal.notified().await;
                    order.lock().push(task);
                }))
            })
            .collect();
        tokio::task::yield_now().await;
        signal.notify_waiters();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(turns.waiting.load(Ordering::Relaxed), 0);
        order.lock().clone()
    })
}

#[test]
fn paid_tasks_have_the_first_turns() {
    assert_eq!(order(&[false, false, true, false]), [2, 3, 0, 1]);
    assert_eq!(order(&[false, true, false, true]), [1, 3, 0, 2]);
    assert_eq!(order(&[false, false]), [0, 1]);
}

#[test]
fn time_is_used_up_and_bounded() {
    let account = PaidTime::new(Arc::default(), None);
    assert!(!account.is_left());
    account.earn(1_000_000);
    let turns = PAID_TIME_MAX.as_nanos() / TURN_CHARGE_MAX.as_nanos();
    (0..turns).for_each(|_| account.spend(TURN_CHARGE_MAX));
    assert!(!account.is_left(), "no more than the bound is kept");
    let of_one = PAID_TIME.as_nanos() / TURN_CHARGE_MAX.as_nanos();
    (0..of_one).for_each(|_| account.spend(TURN_CHARGE_MAX));
    account.earn(1);
    assert!(!account.is_left(), "what was used too much is owed");
    account.earn(1);
    assert!(account.is_left());
}

#[test]
fn a_turn_that_the_system_interrupts_costs_no_more_than_a_turn() {
    let account = PaidTime::new(Arc::default(), None);
    account.earn(1);
    (0..9).for_each(|_| account.spend_turn(Duration::from_millis(4)));
    assert!(account.is_left(), "a publish pays for its turns, however often they are interrupted");
    account.spend_turn(Duration::from_millis(4));
    assert!(!account.is_left());
}

#[test]
fn a_connection_is_a_publishers_until_it_has_had_too_many_unpaid_turns() {
    let account = PaidTime::new(Arc::default(), None);
    assert!(!account.is_publishers(), "nothing is stored yet");
    account.earn(0);
    assert!(!account.is_publishers(), "a repeat stores nothing");
    account.earn(1);
    (1..UNPAID_TURNS_MAX).for_each(|_| account.take_unpaid_turn());
    assert!(account.is_publishers());
    account.earn(1);
    (1..UNPAID_TURNS_MAX).for_each(|_| account.take_unpaid_turn());
    assert!(account.is_publishers(), "each stored envelope begins anew");
    (0..3).for_each(|_| account.take_unpaid_turn());
    assert!(!account.is_publishers());
    account.earn(1);
    assert!(account.is_publishers());
}

/// A payer stores one envelope for thirty turns, and lets tasks of its connection wait for each other.
#[test]
fn a_publisher_makes_no_other_connection_rest_for_its_own_turns() {
    let turns = Arc::new(Turns::default());
    let (now_ns, waited_ns) = (10_000_000, 9_000_000);
    let (publisher, other) =
        (PaidTime::new(turns.clone(), None), PaidTime::new(turns.clone(), None));
    publisher.earn(1);
    publisher.rest(Duration::from_millis(5));
    turns.pace.publisher_had_its_turn(now_ns, waited_ns);
    assert_eq!(turns.pace.multiple(now_ns), 0);
    other.rest(Duration::from_millis(5));
    turns.pace.publisher_had_its_turn(now_ns, waited_ns);
    assert_eq!(turns.pace.multiple(now_ns), 1);
}

/// The threads behind the tasks wait for cores that a flood has. A stranger, who pays for nothing, must not make
/// readers rest by requests that only repeat what is stored.
#[tokio::test(start_paused = true)]
async fn other_connections_rest_when_threads_begin_late_with_a_publish_that_is_stored() {
    let budget = MemoryBudget::new(64 * 1024 * 1024);
    let share = |last: u8| {
        let address = IpAddr::from([192, 0, 2, last]);
        budget.connection(address, budget.account(None)).unwrap()
    };
    let (publisher, reader) = (share(1), share(2));
    let turns = publisher.paid_time().turns.clone();
    let publish = CallCharge::new(publisher);
    tokio::time::advance(Duration::from_millis(10)).await;
    let in_time = Duration::from_nanos(THREADS_LATE_NS);
    let late = in_time + Duration::from_nanos(1);
    publish.stored(1, late);
    assert_eq!(turns.rest_multiple(), 0, "no other connection takes a core");
    reader.paid_time().rest(Duration::from_millis(5));
    publish.stored(0, late);
    assert_eq!(turns.rest_multiple(), 0, "it has stored nothing");
    publish.stored(1, in_time);
    assert_eq!(turns.rest_multiple(), 0, "it is not late");
    publish.stored(1, late);
    assert_eq!(turns.rest_multiple(), 1);
}

/// A stranger publishes other callers' envelopes again, each of which the node checks.
#[tokio::test(start_paused = true)]
async fn an_address_rests_for_envelopes_that_it_publishes_again() {
    let budget = MemoryBudget::new(64 * 1024 * 1024);
    let address = IpAddr::from([192, 0, 2, 1]);
    let connection = budget.connection(address, budget.account(None)).unwrap();
    let (account, call) = (connection.paid_time().clone(), CallCharge::new(connection));
    account.begin_rests();
    tokio::time::advance(Duration::from_secs(1)).await;
    let rests = || account.next_turn().unwrap().after(1_000_000_000).is_some();
    call.checked_for_nothing(20);
    assert!(!rests(), "a client has lost an answer");
    call.checked_for_nothing(10_000);
    assert!(rests());
}

/// Returns the account of a connection of the one address that these tests have.
fn account(turns: &Arc<Turns>) -> Arc<PaidTime> {
    let account = PaidTime::new(turns.clone(), None);
    account.rest_with(ClientAddress::V4([192, 0, 2, 1].into()));
    Arc::new(account)
}

/// Begins a rest of 8 ms, at least, of the account's address.
fn put_off(account: &PaidTime) {
    let now_ns = account.turns.pace.now_ns();
    account.next_turn().unwrap().put_off(now_ns, CREDIT_NS + 8_000_000);
}

/// Flooding connections beside publishers whose tasks are late.
#[tokio::test(start_paused = true)]
async fn a_connection_has_no_turn_while_it_rests_unless_it_publishes() {
    let turns = Arc::new(Turns::default());
    tokio::time::advance(Duration::from_millis(500)).await;
    turns.pace.begin();
    let [flooding, publishing, first, node, closed] = [(); 5].map(|()| account(&turns));
    put_off(&flooding);
    publishing.earn(1);
    node.never_rest();
    let began = Instant::now();
    in_turn(publishing, async {}).await;
    publish_in_turn(first, async {}).await;
    in_turn(node, async {}).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "in virtual time");
    in_turn(flooding.clone(), async {}).await;
    let rest = began.elapsed();
    assert!((8..15).contains(&rest.as_millis()), "{rest:?} in virtual time");
    let began = Instant::now();
    in_turn(flooding, async {}).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "the rest is over");
    put_off(&closed);
    let mut task = Box::pin(in_turn(closed.clone(), async {}));
    assert!(futures_util::poll!(&mut task).is_pending());
    closed.never_rest();
    assert!(futures_util::poll!(&mut task).is_ready(), "its rest ends at once");
}

/// Works until the calling thread has worked for `time`.
fn work_for(time: Duration) {
    let began = thread_time();
    while thread_time().saturating_sub(began) < time {
        std::hint::spin_loop();
    }
}

/// Threads that read for a caller take the cores for which publishers wait, as turns of its connections do.
#[tokio::test(start_paused = true)]
async fn an_address_rests_after_the_work_of_other_threads_for_its_calls() {
    let budget = MemoryBudget::new(64 * 1024 * 1024);
    let address = IpAddr::from([192, 0, 2, 1]);
    let connection = budget.connection(address, budget.account(None)).unwrap();
    let (account, call) = (connection.paid_time().clone(), CallCharge::new(connection));
    tokio::time::advance(Duration::from_millis(100)).await;
    account.begin_rests();
    call.end_work(call.begin_work());
    assert_eq!(account.rests_until(), None, "that was little");
    let began = call.begin_work();
    work_for(Duration::from_nanos(CREDIT_NS) + Duration::from_millis(2));
    call.end_work(began);
    let rest = account.rests_until().unwrap().duration_since(Instant::now());
    assert!((2..=100).contains(&rest.as_millis()), "{rest:?} in virtual time");
    account.earn(1);
    assert_eq!(account.rests_until(), None, "it publishes");
}

/// Requests of megabytes are scanned and decoded, and long answers encoded, by threads that take the cores for which
/// publishers wait, too.
#[tokio::test(start_paused = true)]
async fn an_address_rests_after_the_work_on_its_long_messages() {
    let budget = MemoryBudget::new(64 * 1024 * 1024);
    let address = IpAddr::from([192, 0, 2, 1]);
    let connection = budget.connection(address, budget.account(None)).unwrap();
    let account = connection.paid_time().clone();
    tokio::time::advance(Duration::from_millis(100)).await;
    account.begin_rests();
    let caller = || WorkCaller::of_connection(&connection);
    long_work::beside(caller(), (), || ()).await.unwrap();
    assert_eq!(account.rests_until(), None, "that was little");
    let long = Duration::from_nanos(CREDIT_NS) + Duration::from_millis(2);
    long_work::beside(caller(), (), move || work_for(long)).await.unwrap();
    assert!(account.rests_until().is_some());
}

/// Turns of a flood may be long: only the time in which other threads had the core is not the caller's.
#[tokio::test(start_paused = true)]
async fn a_long_turn_counts_with_all_of_its_work() {
    let turns = Arc::new(Turns::default());
    tokio::time::advance(Duration::from_millis(100)).await;
    turns.pace.begin();
    let [account, idle] = [(); 2].map(|()| account(&turns));
    in_turn(idle.clone(), async { std::thread::sleep(Duration::from_nanos(2 * CREDIT_NS)) }).await;
    assert_eq!(idle.rests_until(), None, "it has not worked");
    in_turn(account.clone(), async { work_for(Duration::from_nanos(CREDIT_NS + 2_000_000)) }).await;
    assert!(account.rests_until().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_task_rests_once_before_its_turn_although_paid_ones_go_first() {
    let turns = Arc::new(Turns::default());
    tokio::time::advance(Duration::from_millis(100)).await;
    turns.pace.begin();
    turns.waiting.store(1, Ordering::Relaxed);
    let account = account(&turns);
    put_off(&account);
    let mut task = Box::pin(in_turn(account.clone(), async {}));
    assert!(futures_util::poll!(&mut task).is_pending(), "it rests");
    tokio::time::sleep(Duration::from_millis(35)).await;
    for _ in 0..DEFERRED_MAX {
        put_off(&account); // another task of the connection has had a turn
        assert!(futures_util::poll!(&mut task).is_pending(), "a paid task goes first");
    }
    assert!(futures_util::poll!(&mut task).is_ready());
}

/// Nothing is paid for before a publish has ended, and it may hold a part of what all publishes share.
#[tokio::test(start_paused = true)]
async fn a_call_does_not_rest_while_it_waits_for_its_publish() {
    let turns = Arc::new(Turns::default());
    tokio::time::advance(Duration::from_millis(100)).await;
    turns.pace.begin();
    let account = account(&turns);
    let (store, stored) = tokio::sync::oneshot::channel::<()>();
    let publish = finished(account.clone(), async move { stored.await.unwrap() });
    let mut call = Box::pin(call_in_turn(account.clone(), publish));
    assert!(futures_util::poll!(&mut call).is_pending());
    put_off(&account);
    store.send(()).unwrap();
    assert!(futures_util::poll!(&mut call).is_ready(), "its next turn comes without a rest");
}

/// Heads whose calls have had no turn keep all connections from reading.
#[tokio::test(start_paused = true)]
async fn a_call_has_its_first_turn_without_a_rest() {
    let turns = Arc::new(Turns::default());
    tokio::time::advance(Duration::from_millis(100)).await;
    turns.pace.begin();
    let account = account(&turns);
    put_off(&account);
    let (had, (go_on, goes_on)) = (Arc::new(AtomicU8::new(0)), tokio::sync::oneshot::channel());
    let turns_of_call = had.clone();
    crate::task_threads::spawn(&account, async move {
        turns_of_call.store(1, Ordering::Relaxed);
        goes_on.await.unwrap();
        turns_of_call.store(2, Ordering::Relaxed);
    });
    tokio::task::yield_now().await;
    assert_eq!(had.load(Ordering::Relaxed), 1);
    go_on.send(()).unwrap();
    tokio::task::yield_now().await;
    assert_eq!(had.load(Ordering::Relaxed), 1, "the next one comes after the rest");
    tokio::time::sleep(Duration::from_millis(35)).await;
    assert_eq!(had.load(Ordering::Relaxed), 2);
}

/// A place at a gate is given to a task that waits, before its turn.
#[tokio::test(start_paused = true)]
async fn a_task_does_not_rest_with_a_place_for_which_others_wait() {
    for rests in [true, false] {
        let turns = Arc::new(Turns::default());
        tokio::time::advance(Duration::from_millis(100)).await;
        turns.pace.begin();
        let account = account(&turns);
        let (give, place) = tokio::sync::oneshot::channel();
        let mut task = Box::pin(in_turn(account.clone(), async move {
            let taken = if rests { place.await } else { without_rest(place).await };
            taken.unwrap();
        }));
        assert!(futures_util::poll!(&mut task).is_pending(), "there is no place yet");
        put_off(&account);
        give.send(()).unwrap();
        assert_eq!(futures_util::poll!(&mut task).is_pending(), rests);
    }
}

#[tokio::test]
async fn a_task_that_is_dropped_while_it_waits_is_not_counted_any_more() {
    let turns = Arc::new(Turns::default());
    let account = Arc::new(PaidTime::new(turns.clone(), None));
    account.earn(1);
    let kept: Arc<Mutex<Option<Waker>>> = Arc::default();
    let keep = kept.clone();
    let mut task = Box::pin(in_turn(
        account,
        std::future::poll_fn(move |context| {
            *keep.lock() = Some(context.waker().clone());
            Poll::<()>::Pending
        }),
    ));
    assert!(futures_util::poll!(&mut task).is_pending());
    let waker = kept.lock().take().unwrap();
    waker.wake_by_ref();
    assert_eq!(turns.waiting.load(Ordering::Relaxed), 1);
    drop(task);
    assert_eq!(turns.waiting.load(Ordering::Relaxed), 0);
    waker.wake();
    assert_eq!(turns.waiting.load(Ordering::Relaxed), 0);
}

/// A publisher's turns have used more time than it has earned.
#[tokio::test(start_paused = true)]
async fn a_stored_envelope_ends_a_rest_of_a_connection_that_still_owes_time() {
    let turns = Arc::new(Turns::default());
    tokio::time::advance(Duration::from_millis(100)).await;
    turns.pace.begin();
    let account = account(&turns);
    account.spend(3 * PAID_TIME);
    put_off(&account);
    let mut task = Box::pin(in_turn(account.clone(), async {}));
    assert!(futures_util::poll!(&mut task).is_pending(), "it rests");
    account.earn(1);
    assert!(!account.is_left());
    assert!(futures_util::poll!(&mut task).is_ready());
}

/// A waker that counts its wakes.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The events that the task waits for know the waker that it had on the other runtime.
#[tokio::test(start_paused = true)]
async fn a_task_that_has_moved_to_another_runtime_has_its_next_turn_without_a_rest() {
    let turns = Arc::new(Turns::default());
    tokio::time::advance(Duration::from_millis(100)).await;
    turns.pace.begin();
    let account = account(&turns);
    let had = Arc::new(AtomicUsize::new(0));
    let had_by_task = had.clone();
    let mut task = Box::pin(in_turn(
        account.clone(),
        std::future::poll_fn(move |_| {
            had_by_task.fetch_add(1, Ordering::Relaxed);
            Poll::<()>::Pending
        }),
    ));
    let [before, after] = [(); 2].map(|()| Waker::from(Arc::new(Wakes::default())));
    let mut turns_after_poll = |waker: &Waker| {
        assert!(task.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        had.load(Ordering::Relaxed)
    };
    assert_eq!(turns_after_poll(&before), 1);
    put_off(&account);
    assert_eq!(turns_after_poll(&before), 1, "it rests");
    turns.waiting.store(1, Ordering::Relaxed);
    for _ in 0..DEFERRED_MAX {
        assert_eq!(turns_after_poll(&after), 1, "a paid task goes first");
    }
    assert_eq!(turns_after_poll(&after), 2);
    turns.waiting.store(0, Ordering::Relaxed);
    put_off(&account);
    assert_eq!(turns_after_poll(&after), 2, "it rests where it is now");
}

/// While it is counted, tasks of all other connections let it go first.
#[tokio::test(start_paused = true)]
async fn each_wake_by_a_waker_of_a_paid_turn_wakes_a_task_that_rests() {
    let turns = Arc::new(Turns::default());
    tokio::time::advance(Duration::from_millis(100)).await;
    turns.pace.begin();
    let account = account(&turns);
    account.earn(1);
    let kept: Arc<Mutex<Option<Waker>>> = Arc::default();
    let keep = kept.clone();
    let mut task = Box::pin(in_turn(
        account.clone(),
        std::future::poll_fn(move |context| {
            *keep.lock() = Some(context.waker().clone());
            Poll::<()>::Pending
        }),
    ));
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut context = Context::from_waker(&waker);
    assert!(task.as_mut().poll(&mut context).is_pending());
    let paid_waker = kept.lock().take().unwrap();
    // It is no publisher's any more.
    account.spend(PAID_TIME_MAX);
    account.unpaid_turns.store(UNPAID_TURNS_MAX, Ordering::Relaxed);
    put_off(&account);
    for number in 1..=3 {
        paid_waker.wake_by_ref();
        assert_eq!(wakes.0.load(Ordering::Relaxed), number);
        assert_eq!(turns.waiting.load(Ordering::Relaxed), 1);
        assert!(task.as_mut().poll(&mut context).is_pending());
        assert_eq!(turns.waiting.load(Ordering::Relaxed), 0);
    }
    assert!(kept.lock().is_none(), "it rests");
}
