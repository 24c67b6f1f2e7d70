//! The pace of connections that do not publish, while publishers wait for a core.
//!
//! The order of turns and threads for publishers (`turns`, `task_threads`) leave one resource that a flood shares with
//! every publish: the cores. Each turn of a flood's connection takes a core for its time, and its answer gives one to
//! the flooding program if that runs on the same machine. So a connection that does not publish rests after its turns
//! while publishers' tasks are late. Its rest is a multiple of the time that its turns took. The multiple doubles
//! while a publisher's task is late, and falls slowly while none is. Without a late publisher nothing rests. While
//! connections take less than [`SHARE_DIVISOR`] allows, the multiple falls, too: they are not the reason. Publishers
//! are also late while threads of the service, behind the tasks, wait for a core with a publish ([`THREADS_LATE_NS`]).
//!
//! A flood that waits for answers, or whose socket is full, then needs few cores itself. All connections and calls of
//! an address rest together, so a caller gains nothing by some tens of them, or by connecting again and again. So do
//! those of an IPv6 /48, whose owner has 65,536 addresses: *address* stands for such a site here. However
//! late publishers are, an address has a 25th of a core: more than streams, or a few queries, need. It has more if one
//! turn of each of its connections and calls, in every [`REST_MAX_NS`], takes more: no rest is longer. A caller with
//! few calls does not notice: up to [`CREDIT_NS`] of rest are free after a pause.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::address::ClientAddress;

/// The longest time in nanoseconds in which a woken task of a publisher has its turn without being late. A publish has
/// seven turns. A guess: half of the time that a publish takes on an idle node.
const LATE_NS: u64 = 300_000;
/// The longest time in nanoseconds in which the threads behind the tasks begin with a publish that is not late, in all:
/// those that check, sequence and write. Only threads that sleep when they are needed count. A guess: a publish
/// wakes three of them, and each may take as long as a task. With less, readers of an idle machine would rest because
/// its processors sleep deeply: waking one then takes some tenths of a millisecond.
pub(crate) const THREADS_LATE_NS: u64 = 3 * LATE_NS;
/// The least time in nanoseconds between two steps up: a new multiple has to have an effect before it is judged. A
/// guess: a few publishes.
const RAISE_EVERY_NS: u64 = 4_000_000;
/// The time in nanoseconds for each step down: without a late task, or while connections that do not publish take
/// little. A guess: some twenty publishes, so that a few late tasks in a thousand keep the multiple where it is.
const LOWER_EVERY_NS: u64 = 20_000_000;
/// The time in nanoseconds after which a multiple ends when no publisher has had a turn.
const FORGET_NS: u64 = 1_000_000_000;
/// The part of one core that connections which do not publish always have: a late publisher is not their fault while
/// they take less. A guess, small enough for a machine of two cores.
const SHARE_DIVISOR: u64 = 10;
/// Steps of the multiple: it is counted in parts of this.
const PART: u64 = 16;
/// The largest multiple, in parts: an address that always wants a turn then has a 25th of a core. A guess: a stream of
/// all envelopes needs about a microsecond for each, and readers must not fall behind because publishers are late.
const REST_MAX: u64 = 24 * PART;
/// The rest in nanoseconds that an address may owe without resting. A guess: some twenty calls at the largest multiple.
pub(crate) const CREDIT_NS: u64 = 50_000_000;
/// The longest time in nanoseconds, from now on, until an address may have its next turn. A task that finds its address
/// resting waits until then, once, and then has its turn, even if others of the address have put off the next one
/// meanwhile. So each turn of a call comes at most this much later, and an address with `n` tasks that are woken has up
/// to `n` turns in this time. A guess: thousands of streams that come back at once must not wait for seconds.
pub(crate) const REST_MAX_NS: u64 = 100_000_000;
/// The longest time in nanoseconds that an address may owe for work for nothing. It is paid in rests of
/// [`REST_MAX_NS`], one before each turn. A guess: a flood ends dozens of requests or connections at once, and one rest
/// would forgive most of them. Work that its caller wanted is forgiven: thousands of streams come back at once, too.
const OWED_MAX_NS: u64 = 500_000_000;

/// Number of places for the rests of addresses. Addresses with the same place share it. A guess: 128 KiB, and a flood
/// of hundreds of addresses leaves most places alone.
const PLACES: usize = 16 * 1024;

/// The rest of connections that do not publish, in multiples of their turns.
///
/// Fields are updated without a lock, since a lost update only delays a step. They have cache lines of their own: each
/// wake and each turn reads them, and changes the count of waiting tasks beside them.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct RestPace {
    began: Instant,
    /// Rest for the time of a turn, in parts; 0: none.
    rest: AtomicU64,
    /// The time of the last step.
    window_began_ns: AtomicU64,
    /// Time of turns that were not paid since then.
    unpaid_ns: AtomicU64,
}

impl Default for RestPace {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            rest: AtomicU64::new(0),
            window_began_ns: AtomicU64::new(0),
            unpaid_ns: AtomicU64::new(0),
        }
    }
}

impl RestPace {
    /// Returns the time since the pace was made, in nanoseconds.
    pub(crate) fn now_ns(&self) -> u64 {
        self.ns_of(Instant::now())
    }

    /// Returns the time from the making of the pace to `moment`, in nanoseconds.
    pub(crate) fn ns_of(&self, moment: Instant) -> u64 {
        nanoseconds(moment.saturating_duration_since(self.began))
    }

    /// Returns the moment of `at_ns`.
    pub(crate) fn moment(&self, at_ns: u64) -> Instant {
        self.began + Duration::from_nanos(at_ns)
    }

    /// Returns the multiple, rounded up.
    pub(crate) fn multiple(&self, now_ns: u64) -> u64 {
        if self.is_over(now_ns) { 0 } else { self.rest.load(Relaxed).div_ceil(PART) }
    }

    /// Returns true if no publisher has had a turn for so long that the multiple has ended.
    fn is_over(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.window_began_ns.load(Relaxed)) > FORGET_NS
    }

    /// Records that a woken task of a publisher had its turn after `waited_ns`.
    pub(crate) fn publisher_had_its_turn(&self, now_ns: u64, waited_ns: u64) {
        self.step(now_ns, waited_ns > LATE_NS);
    }

    /// Records that the threads behind the tasks began with a stored publish after `waited_ns` in all.
    pub(crate) fn publish_waited(&self, now_ns: u64, waited_ns: u64) {
        self.step(now_ns, waited_ns > THREADS_LATE_NS);
    }

    /// Raises or lowers the multiple if it is time.
    fn step(&self, now_ns: u64, is_late: bool) {
        let began_ns = self.window_began_ns.load(Relaxed);
        let passed_ns = now_ns.saturating_sub(began_ns);
        let are_busy = self.unpaid_ns.load(Relaxed) >= passed_ns / SHARE_DIVISOR;
        let rest = self.rest.load(Relaxed);
        let next = if passed_ns > FORGET_NS {
            0 // it has ended, and turns of an hour ago would hide those of now
        } else if is_late && are_busy && passed_ns >= RAISE_EVERY_NS {
            (rest * 2).clamp(PART, REST_MAX)
        } else if (!is_late || !are_busy) && passed_ns >= LOWER_EVERY_NS {
            // A publisher may have a turn only now and then.
            let steps = passed_ns / LOWER_EVERY_NS;
            (0..steps).fold(rest, |rest, _| rest - rest.div_ceil(2 * PART))
        } else {
            return;
        };
        // One thread makes the step.
        let window = self.window_began_ns.compare_exchange(began_ns, now_ns, Relaxed, Relaxed);
        if window.is_err() {
            return;
        }
        self.unpaid_ns.store(0, Relaxed);
        self.rest.store(next, Relaxed);
    }

    /// Begins rests of the length of each turn, which do not end.
    #[cfg(test)]
    pub(crate) fn begin(&self) {
        self.rest.store(PART, Relaxed);
        self.window_began_ns.store(u64::MAX, Relaxed);
    }

    /// Returns true if connections rest after their turns.
    pub(crate) fn is_slow(&self) -> bool {
        self.rest.load(Relaxed) > 0
    }

    /// Records a turn that was not paid, and returns the rest in nanoseconds that it causes.
    pub(crate) fn rest_after(&self, now_ns: u64, took_ns: u64) -> u64 {
        self.unpaid_ns.fetch_add(took_ns, Relaxed);
        self.rest_for(now_ns, took_ns)
    }

    /// Returns the rest in nanoseconds for a time in which no thread has worked, so that publishers are not late
    /// because of it.
    pub(crate) fn rest_for(&self, now_ns: u64, time_ns: u64) -> u64 {
        let rest = self.rest.load(Relaxed);
        if rest == 0 {
            return 0;
        }
        if self.is_over(now_ns) {
            self.rest.store(0, Relaxed);
            return 0;
        }
        time_ns.saturating_mul(rest) / PART
    }
}

/// The time from which on the connections of an address may have their next turn, in nanoseconds of their [`RestPace`].
#[derive(Debug, Default)]
pub(crate) struct NextTurn(AtomicU64);

impl NextTurn {
    /// Returns the end of the rest before the next turn, or `None` if there is none.
    pub(crate) fn after(&self, now_ns: u64) -> Option<u64> {
        let owed = Some(self.0.load(Relaxed)).filter(|at| *at > now_ns);
        owed.map(|at| at.min(now_ns.saturating_add(REST_MAX_NS)))
    }

    /// Adds the rest for a turn.
    pub(crate) fn put_off(&self, now_ns: u64, rest_ns: u64) {
        self.add(now_ns, rest_ns, REST_MAX_NS);
    }

    /// Adds the rest for unpaid work. More of it may be owed than after paid turns: up to [`OWED_MAX_NS`].
    pub(crate) fn owe(&self, now_ns: u64, rest_ns: u64) {
        self.add(now_ns, rest_ns, OWED_MAX_NS);
    }

    /// Adds a rest that ends at most `most_ns` from now. What is owed already stays.
    fn add(&self, now_ns: u64, rest_ns: u64, most_ns: u64) {
        let add = |at: u64| {
            let from = at.max(now_ns.saturating_sub(CREDIT_NS));
            Some(from.saturating_add(rest_ns).min(now_ns.saturating_add(most_ns)).max(at))
        };
        let _ = self.0.try_update(Relaxed, Relaxed, add);
    }
}

/// The rests of all addresses.
#[derive(Debug)]
pub(crate) struct Rests {
    places: Box<[NextTurn]>,
    /// Callers cannot choose an address with a given place.
    keys: RandomState,
}

impl Default for Rests {
    fn default() -> Self {
        let places = (0..PLACES).map(|_| NextTurn::default()).collect();
        Self { places, keys: RandomState::new() }
    }
}

impl Rests {
    /// Returns the place of an address, which all addresses of its site have.
    pub(crate) fn place_of(&self, address: ClientAddress) -> usize {
        usize::try_from(self.keys.hash_one(address.site()) % PLACES as u64).unwrap_or_default()
    }

    /// Returns the next turn at a place; `None` if there is no such place.
    pub(crate) fn next_turn(&self, place: usize) -> Option<&NextTurn> {
        self.places.get(place)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A stranger whose connections are closed for a flood must not make readers rest beside a busy publisher.
    #[test]
    fn a_rest_without_work_does_not_raise_the_multiple() {
        let pace = RestPace::default();
        assert_eq!(pace.rest_for(5 * MS, 5 * MS), 0);
        pace.publisher_had_its_turn(10 * MS, 2 * LATE_NS);
        assert_eq!(pace.multiple(10 * MS), 0);
        assert_eq!(pace.rest_after(10 * MS, 5 * MS), 0);
        pace.publisher_had_its_turn(10 * MS, 2 * LATE_NS);
        assert_eq!(pace.multiple(10 * MS), 1);
        assert_eq!(pace.rest_for(10 * MS, 5 * MS), 5 * MS);
    }

    /// A machine with one core for turns that are not paid. A publisher is late while they take more than half of it.
    struct Machine {
        pace: RestPace,
        flood: Vec<NextTurn>,
        now_ns: u64,
    }

    impl Machine {
        fn new(flood: usize) -> Self {
            let flood = (0..flood).map(|_| NextTurn::default()).collect();
            Self { pace: RestPace::default(), flood, now_ns: 0 }
        }

        /// Lets a second pass with a publisher in each millisecond. Returns the part of it that the flood has used, in
        /// per cent, during the last half.
        fn second(&mut self, publishing: bool) -> u64 {
            let mut used_ns = 0;
            for ms in 0..1000 {
                let flood_ns = self.flood_for_a_millisecond();
                used_ns += if ms >= 500 { flood_ns } else { 0 };
                self.now_ns += MS;
                if publishing {
                    let waited_ns = if flood_ns > MS / 2 { 2 * LATE_NS } else { LATE_NS / 2 };
                    self.pace.publisher_had_its_turn(self.now_ns, waited_ns);
                }
            }
            used_ns / (5 * MS)
        }

        /// Gives turns to all addresses that do not rest, one after the other. Returns the time that they took.
        fn flood_for_a_millisecond(&self) -> u64 {
            let mut took_ns = 0;
            loop {
                let before_ns = took_ns;
                // Turns of different length, so that rests do not all end in the same millisecond.
                for (turn_ns, address) in (50_000_u64..100_000).step_by(4_000).zip(&self.flood) {
                    if took_ns < MS && address.after(self.now_ns).is_none() {
                        let turn_ns = turn_ns.min(MS - took_ns);
                        took_ns += turn_ns;
                        address.put_off(self.now_ns, self.pace.rest_after(self.now_ns, turn_ns));
                    }
                }
                if took_ns == before_ns {
                    return took_ns;
                }
            }
        }
    }

    #[test]
    fn a_flood_leaves_publishers_the_core() {
        for addresses in [4, 8, 12] {
            let mut machine = Machine::new(addresses);
            assert_eq!(machine.second(false), 100, "without publishers nothing rests");
            machine.second(true);
            let used = machine.second(true);
            assert!((5..=60).contains(&used), "{addresses} addresses use {used} %");
            machine.second(false);
            assert_eq!(machine.second(false), 100, "{addresses} addresses after the publishers");
        }
    }

    /// Publishers that fill the machine themselves are late all the time.
    #[test]
    fn readers_that_take_little_never_rest() {
        let pace = RestPace::default();
        for ms in 1..5_000 {
            assert_eq!(pace.rest_after(ms * MS, 90_000), 0, "9 % of a core");
            pace.publisher_had_its_turn(ms * MS, 20 * MS);
        }
        assert_eq!(pace.rest_after(5_000 * MS, 900_000), 0);
        pace.publisher_had_its_turn(5_004 * MS, 20 * MS);
        assert!(pace.rest_after(5_004 * MS, 900_000) > 0, "they take more");
    }

    /// Returns a pace beside a flood that has raised the multiple as far as it goes, and the time.
    fn raised() -> (RestPace, u64) {
        let pace = RestPace::default();
        for step in 1..=20 {
            pace.rest_after(4 * step * MS, 4 * MS);
            pace.publisher_had_its_turn(4 * step * MS, 20 * MS);
        }
        assert_eq!(pace.multiple(80 * MS), REST_MAX / PART);
        (pace, 80 * MS)
    }

    /// A flood of a moment must not make readers rest for minutes on a node with few publishes.
    #[test]
    fn a_multiple_falls_as_fast_beside_few_publishes_as_beside_many() {
        let (many, now_ns) = raised();
        for ms in 1..=800 {
            many.publisher_had_its_turn(now_ns + ms * MS, 0);
        }
        let (few, now_ns) = raised();
        for half in 1..=2 {
            few.publisher_had_its_turn(now_ns + half * 400 * MS, 0);
        }
        let end_ns = now_ns + 800 * MS;
        assert_eq!(few.multiple(end_ns), many.multiple(end_ns));
        assert!(many.multiple(end_ns) < REST_MAX / PART / 3);
    }

    /// Turns of tasks show nothing of publishers whose calls come through a proxy.
    #[test]
    fn a_multiple_follows_the_threads_behind_the_tasks_alone() {
        let pace = RestPace::default();
        for step in 1..=20 {
            pace.rest_after(4 * step * MS, 4 * MS);
            pace.publish_waited(4 * step * MS, THREADS_LATE_NS + 1);
        }
        assert_eq!(pace.multiple(80 * MS), REST_MAX / PART);
        for ms in 81..=880 {
            pace.rest_after(ms * MS, MS);
            pace.publish_waited(ms * MS, THREADS_LATE_NS);
        }
        assert!(pace.multiple(880 * MS) < REST_MAX / PART / 3);
    }

    /// A payer who keeps publishers late makes all readers slow only while they take their part of a core.
    #[test]
    fn readers_that_take_little_do_not_rest_for_a_flood_that_is_over() {
        let (pace, now_ns) = raised();
        for ms in 1..=10_000 {
            pace.rest_after(now_ns + ms * MS, 40_000);
            pace.publisher_had_its_turn(now_ns + ms * MS, 20 * MS);
        }
        assert_eq!(pace.multiple(now_ns + 10_000 * MS), 0);
    }

    #[test]
    fn a_multiple_has_ended_when_a_publisher_comes_later() {
        let (pace, now_ns) = raised();
        assert_eq!(pace.multiple(now_ns + FORGET_NS + MS), 0, "no connection has had a turn");
        pace.publisher_had_its_turn(now_ns + FORGET_NS + MS, 20 * MS);
        assert_eq!(pace.multiple(now_ns + FORGET_NS + 2 * MS), 0);
        assert_eq!(pace.rest_after(now_ns + FORGET_NS + 2 * MS, MS), 0);
    }

    #[test]
    fn few_addresses_share_their_rests() {
        let rests = Rests::default();
        let address = |last| ClientAddress::V4([198, 51, 100, last].into());
        let place = rests.place_of(address(0));
        assert_eq!(rests.place_of(address(0)), place);
        rests.next_turn(place).unwrap().put_off(100 * MS, CREDIT_NS + 10 * MS);
        let resting = (0..=200).filter(|last| {
            rests.next_turn(rests.place_of(address(*last))).unwrap().after(100 * MS).is_some()
        });
        assert!((1..10).contains(&resting.count()));
    }

    /// The owner of an IPv6 /48 could otherwise have the 25th of a core 65,536 times, and 50 ms of credit each time.
    #[test]
    fn all_addresses_of_a_site_rest_together() {
        let rests = Rests::default();
        let place_of = |site: u64, subnet| rests.place_of(ClientAddress::V6((site << 16) + subnet));
        assert!((0..=0xffff).all(|subnet| place_of(1, subnet) == place_of(1, 0)));
        let others = (2..=200).filter(|site| place_of(*site, 0) != place_of(1, 0));
        assert!(others.count() > 190, "few sites share a place");
    }

    #[test]
    fn a_caller_of_few_calls_has_credit_and_a_rest_is_bounded() {
        let address = NextTurn::default();
        let now_ns = 1_000 * MS;
        address.put_off(now_ns, CREDIT_NS);
        assert_eq!(address.after(now_ns), None);
        address.put_off(now_ns, MS);
        assert_eq!(address.after(now_ns), Some(now_ns + MS));
        address.put_off(now_ns, u64::MAX);
        assert_eq!(address.after(now_ns), Some(now_ns + REST_MAX_NS));
        assert_eq!(address.after(now_ns + REST_MAX_NS), None);
    }

    /// A flood leaves dozens of requests at once, whose rests together are longer than one may be.
    #[test]
    fn work_for_nothing_is_owed_for_longer_than_one_rest() {
        let address = NextTurn::default();
        let now_ns = 1_000 * MS;
        address.put_off(now_ns, u64::MAX);
        address.owe(now_ns, REST_MAX_NS / 2);
        address.owe(now_ns, REST_MAX_NS / 2);
        assert_eq!(address.after(now_ns), Some(now_ns + REST_MAX_NS), "no rest is longer");
        assert_eq!(address.after(now_ns + REST_MAX_NS), Some(now_ns + 2 * REST_MAX_NS));
        assert_eq!(address.after(now_ns + 2 * REST_MAX_NS), None);
        address.owe(now_ns, u64::MAX);
        address.put_off(now_ns, MS);
        let end_ns = now_ns + OWED_MAX_NS;
        assert_eq!(address.after(end_ns - 1), Some(end_ns), "a turn forgives nothing");
        assert_eq!(address.after(end_ns), None, "bounded");
    }
}
