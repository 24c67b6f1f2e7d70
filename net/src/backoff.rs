//! Pauses before a peer is dialled again.
//!
//! Not `backon`, which draws the random part of a pause itself: here the caller passes the random number, so that tests
//! choose it. A pause is half to all of its step, so it never exceeds the last step.
//!
//! `hawser-chain` has pauses of its own. Of the two crates that both use, `hawser-proto` knows only bytes, and
//! `hawser-dial` has no source of random numbers. The pauses also differ. `docs/protocol/replication.md` specifies how
//! pauses between dials grow, and that a time without violations ends those after violations. Pauses of endpoints count
//! failures.

use std::time::{Duration, Instant};

/// The step after the first failure. Guessed: a restarting peer is back within a few of these.
const FIRST_STEP: Duration = Duration::from_millis(100);
/// The longest step. Guessed: a peer that comes back waits at most this long for its session.
const LAST_STEP: Duration = Duration::from_secs(10);

/// The step after the first failure over gRPC, and the longest one. Specified in `docs/protocol/replication.md`,
/// section *Over gRPC*: a call costs a peer more than a datagram.
const GRPC_FIRST_STEP: Duration = Duration::from_secs(1);
const GRPC_LAST_STEP: Duration = Duration::from_secs(60);

/// The longest step after violations, and the time without one after which the first step counts again. Specified in
/// `docs/protocol/replication.md`: as long as over gRPC, and as the pauses of a peer that is doubted.
const VIOLATION_LAST_STEP: Duration = Duration::from_secs(60);
const VIOLATION_FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Growing pauses between attempts to reach one peer.
///
/// The step grows with each failure. The jitter keeps nodes that lost each other at the same
/// moment from dialling in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    step: Duration,
    first: Duration,
    last: Duration,
    factor: f64,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { step: FIRST_STEP, first: FIRST_STEP, last: LAST_STEP, factor: 2.0 }
    }

    /// Pauses between attempts over gRPC.
    pub(crate) fn grpc() -> Self {
        let (first, last) = (GRPC_FIRST_STEP, GRPC_LAST_STEP);
        Self { step: first, first, last, factor: 1.5 }
    }

    /// Starts over: the connection has served for a while, so the next failure is a first one.
    pub(crate) fn reset(&mut self) {
        self.step = self.first;
    }

    /// Returns the pause after another failure. `jitter` is a random number in 0..1.
    pub(crate) fn next_pause(&mut self, jitter: f64) -> Duration {
        let pause = with_jitter(self.step, jitter);
        self.step = self.step.mul_f64(self.factor).min(self.last);
        pause
    }
}

/// Growing pauses after sessions that one peer has ended by breaking a rule: each session has some work done for
/// nothing.
#[derive(Debug, Default)]
pub(crate) struct ViolationPauses {
    /// The time of the last violation, and its step.
    last: Option<(Instant, Duration)>,
}

impl ViolationPauses {
    /// Returns the pause after another violation. `jitter` is a random number in 0..1.
    pub(crate) fn next_pause(&mut self, now: Instant, jitter: f64) -> Duration {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < VIOLATION_FORGOTTEN_AFTER;
        let before = self.last.filter(|(at, _)| is_recent(*at));
        let step = before.map_or(LAST_STEP, |(_, step)| (step * 2).min(VIOLATION_LAST_STEP));
        self.last = Some((now, step));
        with_jitter(step, jitter)
    }
}

/// Returns the pause after a failure that an immediate retry would most likely repeat.
pub(crate) fn long_pause(jitter: f64) -> Duration {
    with_jitter(LAST_STEP, jitter)
}

/// Returns half of the step for a jitter of 0, all of it for 1.
fn with_jitter(step: Duration, jitter: f64) -> Duration {
    step.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_double_up_to_ten_seconds_and_begin_again_after_a_success() {
        let mut backoff = Backoff::new();
        let pauses: Vec<u128> = (0..9).map(|_| backoff.next_pause(1.0).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        backoff.reset();
        assert_eq!(backoff.next_pause(0.0), Duration::from_millis(50));
    }

    #[test]
    fn pauses_after_violations_double_up_to_a_minute_and_are_forgotten() {
        let (mut now, mut pauses) = (Instant::now(), ViolationPauses::default());
        for seconds in [10, 20, 40, 60, 60] {
            let pause = pauses.next_pause(now, 1.0);
            assert_eq!(pause, Duration::from_secs(seconds));
            now += pause;
        }
        now += VIOLATION_FORGOTTEN_AFTER;
        assert_eq!(pauses.next_pause(now, 0.0), Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn a_pause_is_half_to_all_of_a_step_that_never_shrinks(
            jitters in proptest::collection::vec(-1.0..2.0f64, 1..40),
        ) {
            let mut backoff = Backoff::new();
            for jitter in jitters {
                let step = backoff.step;
                let pause = backoff.next_pause(jitter);
                prop_assert!(step / 2 <= pause && pause <= step);
                prop_assert!((FIRST_STEP..=LAST_STEP).contains(&step));
                prop_assert!(step <= backoff.step && backoff.step <= LAST_STEP);
                prop_assert!(LAST_STEP / 2 <= long_pause(jitter) && long_pause(jitter) <= LAST_STEP);
            }
        }
    }
}
