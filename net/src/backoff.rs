//! How long to wait before a peer is dialled again.

use std::time::Duration;

/// After the first failure.
const FIRST: Duration = Duration::from_millis(100);
/// After many.
const LAST: Duration = Duration::from_secs(10);

/// Doubles from failure to failure, and is spread, so that nodes that lost each other at the same
/// moment do not dial in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The connection has served for a while: the next failure is a first one.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// How long to wait now. `spread` is in 0..1, drawn at random.
    pub(crate) fn pause(&mut self, spread: f64) -> Duration {
        let pause = spread_out(self.next, spread);
        self.next = (self.next * 2).min(LAST);
        pause
    }
}

/// How long a peer is left alone that was refused, or that refuses us.
pub(crate) fn long_pause(spread: f64) -> Duration {
    spread_out(LAST, spread)
}

/// Half of it, up to all of it.
fn spread_out(pause: Duration, spread: f64) -> Duration {
    pause.mul_f64(0.5 + spread.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_ten_seconds_and_begin_again_after_a_success() {
        let mut backoff = Backoff::new();
        let pauses: Vec<u128> = (0..9).map(|_| backoff.pause(1.0).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        backoff.reset();
        assert_eq!(backoff.pause(0.0), Duration::from_millis(50));
    }
}
