//! A simulation of a reader with an honest endpoint and one that lies about heads, stands still, or steps back. Time is
//! injected.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{BEHIND_MAX, EndpointLag, NewestBlock};

const SEEDS: u64 = 400;
const TICK: Duration = Duration::from_millis(250);
/// Ten minutes.
const TICKS: u32 = 2400;
/// The time from which on a block of the honest endpoint is read: one tick for the rise of a lagging endpoint from a
/// lower block to its highest one, one to notice that its time has passed, and one to ask the other one.
const DELAY_TICKS: u128 = BEHIND_MAX.as_millis() / TICK.as_millis() + 3;
/// A head that no endpoint has.
const INVENTED: u64 = 1 << 40;
/// The longest pause of an endpoint that was left.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// An endpoint that lies.
#[derive(Debug, Clone, Copy)]
struct LyingEndpoint {
    /// The block above which it serves none.
    top: u64,
    /// True if it states a head of its own that it does not serve.
    states_invented: bool,
    /// True if its WebSocket announces a head that no endpoint has.
    announces_invented: bool,
    /// True if it states its newest block and the one before by turns.
    steps_back: bool,
}

struct Reading {
    lag: EndpointLag,
    /// The index of the honest endpoint, in order of preference.
    honest: usize,
    liar: LyingEndpoint,
    /// The end of the liar's pause, and the length of the next one.
    pause: (Option<Instant>, Duration),
    /// The newest block of the chain.
    head: u64,
    read: u64,
    /// True in every other step.
    is_back: bool,
}

impl Reading {
    fn new(random: &mut StdRng) -> Self {
        let head: u64 = random.random_range(100..200);
        let above: u64 = random.random_range(0..50);
        let top = if random.random() { u64::MAX } else { head + above - 25 };
        let liar = LyingEndpoint {
            top,
            states_invented: random.random(),
            announces_invented: random.random(),
            steps_back: random.random(),
        };
        let honest = random.random_range(0..2);
        let pause = (None, Duration::from_secs(5));
        let lag = EndpointLag::default();
        Self { lag, honest, liar, pause, head, read: 50, is_back: false }
    }

    /// Returns the newest block that the endpoint at `index` serves.
    fn newest(&self, index: usize) -> u64 {
        if index == self.honest { self.head } else { self.head.min(self.liar.top) }
    }

    /// Reads once from the endpoint in use, as `PageReader::missing` does.
    fn step(&mut self, now: Instant, seed: u64) {
        let is_paused = self.pause.0.is_some_and(|until| until > now);
        let active = if is_paused { self.honest } else { 0 };
        let is_honest = active == self.honest;
        let announces = self.liar.announces_invented || !is_honest && self.liar.states_invented;
        let announced = if announces { INVENTED } else { self.head };
        // Up to a head that the endpoint states and does not serve, no page is complete.
        if is_honest || !self.liar.states_invented {
            self.read = self.read.max(self.newest(active));
        }
        let shown =
            if is_honest || !self.liar.states_invented { self.newest(active) } else { self.read };
        self.is_back = !self.is_back;
        let is_back = self.is_back && self.liar.steps_back && !is_honest;
        let newest = NewestBlock { endpoint: active, number: shown - u64::from(is_back) };
        let Some(reason) = self.lag.reason(newest, announced, now) else { return };
        if self.newest(1 - active) < reason.lacks {
            return self.lag.refuted(reason);
        }
        assert!(
            !is_honest,
            "seed {seed}: the honest endpoint is left: {reason:?}, {:?}",
            self.liar
        );
        self.pause = (Some(now + self.pause.1), PAUSE_MAX.min(self.pause.1 * 2));
    }
}

/// A block of the honest endpoint is read after the time for which an endpoint may be behind, whatever the other one
/// states, and the honest endpoint is never left.
#[test]
fn a_lie_about_heads_delays_a_block_by_a_bounded_time() {
    let delay = usize::try_from(DELAY_TICKS).unwrap();
    for seed in 0..SEEDS {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut reading, mut now) = (Reading::new(&mut random), Instant::now());
        let one_in = random.random_range(1..80);
        let mut heads = Vec::new();
        for tick in 0..TICKS {
            if random.random_ratio(1, one_in) {
                reading.head += random.random_range(1..5);
            }
            heads.push(reading.head);
            reading.step(now, seed);
            now += TICK;
            let due = heads.len().checked_sub(delay + 1).map(|past| heads[past]);
            let Reading { read, liar, honest, .. } = &reading;
            assert!(
                due.is_none_or(|due| *read >= due),
                "seed {seed}, tick {tick}: {read} of {due:?}, honest {honest}, {liar:?}"
            );
        }
    }
}
