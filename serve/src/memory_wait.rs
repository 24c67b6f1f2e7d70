//! The wait of a request for the memory that decoding it takes.
//!
//! That memory comes and goes within milliseconds, while most of a caller's share may be held by its open streams. So a
//! request that finds too little waits for a moment before it is refused. It has arrived to its last byte by then:
//! the memory that it holds is charged, and its peer can send nothing more on it. Newcomers ask once before they wait,
//! so a small request does not stand behind a large one that does not fit. A stream of requests reads on while it
//! waits, so that what its peer sends meanwhile is charged, too. The reasons are in
//! `docs/decisions/0083-a-request-waits-before-it-is-refused.md`.
//!
//! A change of an open stream also waits for memory that stays spare for the stream's state, and for other changes of
//! its address that are [under way](crate::budget::changes). Such memory becomes free later than the memory of a
//! request, so changes wait in a line of their own.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use crate::budget::ConnectionShare;
use crate::budget::changes::ChangeUnderWay;
use crate::call_bytes::MemorySource;
use crate::overloaded::OverloadedError;

/// The longest wait. A guess: more than ten thousand streams take to open on two cores, less than clients wait for an
/// answer.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The longest further wait of a change for others of its address that are under way. A guess: as long as a stream may
/// stand still because its client does not read.
const TURN_WAIT_MAX: Duration = Duration::from_secs(25);
/// Pauses between two tries of a connection: each is twice as long as the one before it. Guesses: the first is about
/// the time of a turn on disk. With the last, 10,000 connections take some percent of a core to try.
// Not `backon`: nothing is drawn at random here, and each wait would hold a random generator.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(160);
/// Part of the limit, as a divisor, that a request may wait for. A larger one is refused at once, because it would have
/// to wait for the end of streams. A guess: 4.5 MiB by default.
const WAITS_DIVISOR: usize = 64;
/// Part of the limit, as a divisor, that is left beside a decoded request for the state that its handler makes of it.
/// A guess: 72 KiB by default, for a dozen streams of a hundred topics that open at the same moment.
const LEAVES_DIVISOR: usize = 4096;
/// Memory to decode a message, in bytes, from which it waits for the state of its stream too. A guess: less is a ping,
/// or a change of a dozen topics.
const CHANGE_BYTES_MIN: usize = 4 * 1024;
/// Part of the limit, as a divisor, up to which a message waits for that state: a larger one would have to wait for the
/// end of other streams. A guess: 288 KiB by default, some thousand topics.
const CHANGE_DIVISOR: usize = 1024;
/// Memory that a stream takes for a change until it has caught up, as a multiple of that for decoding it. Calculated:
/// 282 bytes for a topic and 80 for its cursor, after 144 to 280 for decoding both.
const STATE_PER_DECODED: usize = 2;

/// Returns the end of a wait that begins now.
pub(crate) fn wait_end() -> Instant {
    Instant::now() + WAIT_MAX
}

/// Returns the end of the waits of a call that begins now, if its caller waits for its answer no longer than
/// `time_limit`: half of that time. So a refusal comes in time, and the caller may try again elsewhere.
pub(crate) fn wait_end_within(time_limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(time_limit / 2)
}

/// Takes `bytes` for decoding messages that change an open stream. The stream keeps a part of the decoded messages, and
/// reads the past of their topics at once, so usual messages wait until there is room for that too and their address
/// has few such changes under way. If there is no room at the `end` of the wait, only the bytes themselves count: they
/// are taken as soon as the address has few changes under way, or after a further wait. Returns the change, if it
/// counts among these. Dropping the future leaves the line; a later call with the same `end` continues the wait.
///
/// # Errors
/// [`OverloadedError`]: nothing was taken, and the stream must end.
pub(crate) async fn take_for_change(
    end: Instant,
    share: &ConnectionShare,
    bytes: usize,
) -> Result<Option<ChangeUnderWay>, OverloadedError> {
    let usual = CHANGE_BYTES_MIN..share.limit_bytes() / CHANGE_DIVISOR;
    if !usual.contains(&bytes) {
        return take(end, share, bytes).await.map(|()| None);
    }
    if let Some(begun) = try_change(share, bytes) {
        return Ok(Some(begun));
    }
    let waited = wait(end, &share.waiting_changes, || try_change(share, bytes)).await;
    if waited.is_some() {
        return Ok(waited);
    }
    let begin = || share.begin_change(bytes * STATE_PER_DECODED);
    let mut begun = begin();
    if begun.is_none() {
        begun = wait(end + TURN_WAIT_MAX, &share.waiting_changes, begin).await;
    }
    take(end, share, bytes).await.map(|()| begun)
}

/// Begins a change, and takes `bytes` for decoding it, if there is room for its state too. Returns `None`, and takes
/// nothing, if it has to wait.
fn try_change(share: &ConnectionShare, bytes: usize) -> Option<ChangeUnderWay> {
    let state_bytes = bytes * STATE_PER_DECODED;
    let begun = share.begin_change(state_bytes)?;
    (has_spare(share, state_bytes) && share.try_take(bytes, 0)).then_some(begun)
}

/// Takes `bytes` as [`take_until`] does, with a wait that ends at `end`.
///
/// # Errors
/// The errors of [`take_until`].
async fn take(end: Instant, share: &ConnectionShare, bytes: usize) -> Result<(), OverloadedError> {
    take_until(|| end, share, bytes).await
}

/// Takes `bytes` for decoding a request. If they do not fit now, waits for them until `end`, behind earlier requests of
/// the same connection that wait. Asks for the end only then: most requests find the memory, and read no clock.
/// Dropping the future ends the wait.
///
/// # Errors
/// [`OverloadedError`]: nothing was taken, and the caller must be refused.
pub(crate) async fn take_until(
    end: impl FnOnce() -> Instant,
    share: &ConnectionShare,
    bytes: usize,
) -> Result<(), OverloadedError> {
    let beside = share.limit_bytes() / LEAVES_DIVISOR;
    let try_take = || share.try_take(bytes, beside).then_some(());
    if try_take().is_some() {
        return Ok(());
    }
    let may_wait = bytes <= share.limit_bytes() / WAITS_DIVISOR;
    // Boxed, so that a request that need not wait keeps no memory for the wait.
    if may_wait && Box::pin(wait(end(), &share.waiting_requests, try_take)).await.is_some() {
        return Ok(());
    }
    Err(share.refuse())
}

/// Repeats `try_take`, as the first of its line, until it returns a value. Returns `None` if it does not before `end`.
async fn wait<T>(
    end: Instant,
    line: &Mutex<()>,
    mut try_take: impl FnMut() -> Option<T>,
) -> Option<T> {
    let taken = async {
        let _first = line.lock().await;
        let mut pause = PAUSE_MIN;
        loop {
            if let Some(taken) = try_take() {
                break taken;
            }
            sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    };
    timeout_at(end, taken).await.ok()
}

/// Returns true if a stream could now take `bytes` for its state without taking room from requests and answers.
fn has_spare(share: &ConnectionShare, bytes: usize) -> bool {
    match share.take_spare(bytes) {
        None => return false,
        Some(MemorySource::Share) => share.give_back(bytes),
        Some(MemorySource::Lent) => share.give_back_lent(bytes),
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::iter;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;
    use tokio::time::timeout;

    use super::*;
    use crate::budget::{CALLERS_BYTES_MAX, MemoryBudget};
    use crate::call_share::CallCharge;

    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;
    const LIMIT: usize = 64 * MIB;
    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// Takes what is left of a connection's share.
    fn fill(share: &ConnectionShare) {
        while share.take(4 * KIB).is_ok() {}
    }

    fn connection(budget: &MemoryBudget) -> Arc<ConnectionShare> {
        budget.connection(ADDRESS, budget.account(None)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_memory_that_is_given_back_and_is_not_refused() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        fill(&share);
        let before = budget.used_bytes();
        let giving = async {
            sleep(Duration::from_secs(1)).await;
            assert_eq!(budget.used_bytes(), before, "a request that waits takes nothing");
            share.give_back(MIB);
        };
        let (taken, ()) = tokio::join!(take(wait_end(), &share, 100 * KIB), giving);
        assert_eq!(taken, Ok(()));
        assert_eq!(budget.used_bytes(), before - MIB + 100 * KIB);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_and_what_could_never_fit_does_not_wait() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        fill(&share);
        let before = budget.used_bytes();
        let began = Instant::now();
        assert_eq!(take(wait_end(), &share, 2 * MIB).await, Err(OverloadedError));
        assert_eq!(began.elapsed(), Duration::ZERO, "a large one is refused at once");
        assert_eq!(take(wait_end(), &share, 100 * KIB).await, Err(OverloadedError));
        assert!(began.elapsed() >= WAIT_MAX && began.elapsed() < 2 * WAIT_MAX);
        assert_eq!(budget.used_bytes(), before, "nothing was taken");
    }

    /// Fifty requests of a connection whose share has room for some of them at a time are all served, in their order.
    #[tokio::test(start_paused = true)]
    async fn requests_of_a_connection_are_served_in_their_order() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        fill(&share);
        share.give_back(MIB);
        let served = parking_lot::Mutex::new(Vec::new());
        let requests = (0..50_usize).map(|number| {
            let (share, served) = (&share, &served);
            async move {
                take(wait_end(), share, 64 * KIB).await.expect("it waits for those before it");
                served.lock().push(number);
                sleep(Duration::from_millis(1)).await;
                share.give_back(64 * KIB);
            }
        });
        join_all(requests).await;
        let served = served.into_inner();
        assert_eq!(served.len(), 50);
        assert!(served.is_sorted(), "{served:?}");
    }

    /// Leaves memory that is enough to decode a change of a stream, but not for the state that it becomes.
    #[tokio::test(start_paused = true)]
    async fn a_change_of_a_stream_waits_for_room_for_its_state() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        let mut lasting = Vec::new();
        while let Some(source) = share.take_spare(64 * KIB) {
            lasting.push(source);
        }
        assert!(lasting.contains(&MemorySource::Lent), "some of it is lent");
        let before = budget.used_bytes();
        let mut changing = std::pin::pin!(take_for_change(wait_end(), &share, 32 * KIB));
        assert!(changing.as_mut().now_or_never().is_none(), "it waits");
        assert_eq!(budget.used_bytes(), before, "and takes nothing");
        let ping = take_for_change(wait_end(), &share, KIB);
        assert!(ping.now_or_never().is_some_and(|it| it.is_ok()), "a ping does not");
        share.give_back_lent(256 * KIB);
        assert!(changing.await.is_ok());
        assert_eq!(budget.used_bytes(), before + 33 * KIB - 256 * KIB);
    }

    /// A change that fits without its state is taken at the end of its wait.
    #[tokio::test(start_paused = true)]
    async fn a_change_that_has_waited_is_taken_if_it_fits_alone() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        while share.take_spare(64 * KIB).is_some() {}
        let began = Instant::now();
        assert!(take_for_change(wait_end(), &share, 32 * KIB).await.is_ok());
        assert_eq!(began.elapsed().as_secs(), WAIT_MAX.as_secs());
    }

    /// Neither the state of a change nor the change itself fits.
    #[tokio::test(start_paused = true)]
    async fn a_change_does_not_wait_a_second_time_for_its_bytes_alone() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        fill(&share);
        let began = Instant::now();
        assert!(take_for_change(wait_end(), &share, 32 * KIB).await.is_err());
        assert_eq!(began.elapsed().as_secs(), WAIT_MAX.as_secs());
    }

    /// A change waits for the memory of its state. The memory that is given back meanwhile is too little for it, and
    /// enough for a request that came later.
    #[tokio::test(start_paused = true)]
    async fn a_request_does_not_stand_behind_a_change_that_waits_for_its_state() {
        let budget = MemoryBudget::new(LIMIT);
        let others: Vec<_> = (1..3_u8)
            .map(|last| budget.connection([127, 0, 1, last].into(), budget.account(None)).unwrap())
            .collect();
        others.iter().for_each(|other| fill(other));
        let share = connection(&budget);
        fill(&share);
        assert_eq!(share.take_spare(4 * KIB), None, "nothing can be lent");
        let mut change = std::pin::pin!(take_for_change(wait_end(), &share, 32 * KIB));
        assert!(change.as_mut().now_or_never().is_none(), "it waits");
        let mut request = std::pin::pin!(take(wait_end(), &share, 100 * KIB));
        assert!(request.as_mut().now_or_never().is_none(), "it waits, too");
        share.give_back(256 * KIB);
        let first = tokio::select! {
            biased;
            _ = change => "change",
            taken = request => if taken.is_ok() { "request" } else { "refusal" },
        };
        assert_eq!(first, "request");
    }

    /// A tenth of the streams that a server of an application has, in a tenth of the memory. Most of them arrive while
    /// the past of others is read, more slowly than they come.
    #[test]
    fn streams_that_arrive_while_others_of_their_address_read_their_past_have_room() {
        const STREAMS: usize = 1000;
        const MESSAGE_BYTES: usize = 3 * KIB;
        const DECODED_BYTES: usize = 27 * KIB + KIB / 2;
        const READING_BYTES: usize = 37_000;
        const LIVE_BYTES: usize = 9_000;
        for (coming, read) in [(10, 2), (50, 2), (3, 2), (STREAMS, 2), (10, 10)] {
            let budget = MemoryBudget::new(CALLERS_BYTES_MAX / 10);
            let connections: Vec<_> = (0..10).map(|_| connection(&budget)).collect();
            let (mut arrived, mut live) = (0, Vec::new());
            let (mut waiting, mut reading) = (VecDeque::new(), VecDeque::new());
            while live.len() < STREAMS {
                for _ in 0..coming.min(STREAMS - arrived) {
                    let call = CallCharge::new(Arc::clone(&connections[arrived % 10]));
                    arrived += 1;
                    call.take_anyway(2 * KIB); // heads and the library's state
                    call.take_for_stream(6 * KIB).expect("the call has room");
                    call.take_lasting(3 * KIB).expect("its stream has room");
                    call.keep_of_request(MESSAGE_BYTES).expect("its message has room");
                    waiting.push_back(call);
                }
                while let Some(call) = waiting.front()
                    && let Some(begun) = try_change(call.connection(), DECODED_BYTES)
                {
                    call.take_lasting(READING_BYTES).expect("its topics have room");
                    call.connection().give_back(DECODED_BYTES);
                    call.keep_of_request(0).unwrap();
                    reading.push_back((waiting.pop_front().unwrap(), begun));
                }
                assert!(!reading.is_empty(), "nothing goes on behind {} streams", live.len());
                let now = reading.len().min(read);
                for (call, begun) in reading.drain(..now) {
                    call.give_back_lasting(READING_BYTES - LIVE_BYTES);
                    drop(begun);
                    live.push(call);
                }
            }
            drop((live, connections));
            assert_eq!(budget.used_bytes(), 0);
        }
    }

    /// Returns changes of an address that holds much, as many as may be under way at a time.
    fn changes_under_way(share: &ConnectionShare) -> Vec<ChangeUnderWay> {
        share.take(LIMIT / 4).unwrap();
        let changes: Vec<_> = iter::from_fn(|| try_change(share, 32 * KIB)).collect();
        assert_eq!(changes.len(), 32, "a thirty-second of the limit, with their state");
        assert!(has_spare(share, MIB), "there is memory for more");
        changes
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_waits_while_an_address_that_holds_much_has_many_under_way() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        let free: Vec<_> = (0..40).map(|_| try_change(&share, 32 * KIB)).collect();
        assert!(free.iter().all(Option::is_some), "those of one that holds little do not");
        drop(free);
        let mut under_way = changes_under_way(&share);
        let same = connection(&budget);
        let mut waiting = std::pin::pin!(take_for_change(wait_end(), &same, 32 * KIB));
        assert!(waiting.as_mut().now_or_never().is_none(), "it waits");
        let other = budget.connection([127, 0, 1, 1].into(), budget.account(None)).unwrap();
        other.take(LIMIT / 4).unwrap();
        assert!(try_change(&other, 32 * KIB).is_some(), "others do not wait behind it");
        assert!(take(wait_end(), &same, 32 * KIB).await.is_ok(), "nor do its own requests");
        let ping = take_for_change(wait_end(), &same, KIB);
        assert!(ping.now_or_never().is_some_and(|taken| taken.is_ok()), "nor its pings");
        under_way.pop();
        assert!(waiting.await.is_ok_and(|begun| begun.is_some()), "one has ended");
    }

    /// Otherwise all changes that have waited for their time would begin together.
    #[tokio::test(start_paused = true)]
    async fn a_change_waits_longer_for_others_of_its_address_than_for_memory() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        let under_way = changes_under_way(&share);
        let began = Instant::now();
        let ending = async {
            sleep(2 * WAIT_MAX).await;
            drop(under_way);
        };
        let (taken, ()) = tokio::join!(take_for_change(wait_end(), &share, 32 * KIB), ending);
        assert!(taken.is_ok_and(|begun| begun.is_some()));
        assert_eq!(began.elapsed().as_secs(), 2 * WAIT_MAX.as_secs());
    }

    /// A client of the address has streams that never come to the end of their past.
    #[tokio::test(start_paused = true)]
    async fn a_change_does_not_wait_for_ever_for_others_of_its_address() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        let _never_end = changes_under_way(&share);
        let began = Instant::now();
        let taken = take_for_change(wait_end(), &share, 32 * KIB).await;
        assert!(taken.is_ok_and(|begun| begun.is_none()), "its bytes fit");
        assert_eq!(began.elapsed().as_secs(), (WAIT_MAX + TURN_WAIT_MAX).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_request_does_not_stand_behind_one_that_does_not_fit() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        fill(&share);
        share.give_back(256 * KIB);
        let mut large = std::pin::pin!(take(wait_end(), &share, MIB));
        assert!(large.as_mut().now_or_never().is_none(), "it waits");
        assert_eq!(take(wait_end(), &share, 16 * KIB).now_or_never(), Some(Ok(())));
        share.give_back(2 * MIB);
        assert_eq!(large.await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_dropped_leaves_its_place_to_the_next() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        fill(&share);
        let first = timeout(Duration::from_millis(50), take(wait_end(), &share, 512 * KIB));
        let second = async {
            sleep(Duration::from_millis(10)).await;
            take(wait_end(), &share, 64 * KIB).await
        };
        let giving = async {
            sleep(Duration::from_millis(100)).await;
            share.give_back(256 * KIB);
        };
        let (first, second, ()) = tokio::join!(first, second, giving);
        assert!(first.is_err(), "its caller has left");
        assert_eq!(second, Ok(()));
    }
}
