//! Growing pauses between attempts, as [`backon`] computes them.
//!
//! `backon` retries a whole future. Here other work happens between two attempts (choosing another endpoint, waiting
//! for a stop signal), so only its sequence of delays is used. All retry pauses of this crate come from here, except
//! those of the nonce decisions, which must be deterministic.
//!
//! `hawser-net` has pauses of its own, whose random part its callers pass in, because the protocol specifies them and
//! tests check them exactly. The two crates may not use each other: see `ARCHITECTURE.md`.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// A sequence of pauses that double with each failure, up to a bound, and start over after a success.
///
/// Each pause lies between half of its nominal length and the whole of it, so that several processes that lost the same
/// provider at the same time do not return to it at the same time.
#[derive(Debug)]
pub(crate) struct Pauses {
    builder: ExponentialBuilder,
    delays: ExponentialBackoff,
    taken: u32,
}

impl Pauses {
    /// Creates pauses whose nominal length grows from `first` to `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        // `backon` adds up to the base length as jitter, so the base is half of the nominal length.
        let builder = ExponentialBuilder::new()
            .with_min_delay(first / 2)
            .with_max_delay(longest / 2)
            .without_max_times()
            .with_jitter();
        Self { builder, delays: builder.build(), taken: 0 }
    }

    /// Returns the next pause, which is nominally twice the one before.
    pub(crate) fn next(&mut self) -> Duration {
        self.taken = self.taken.saturating_add(1);
        self.delays.next().expect("the number of delays is not limited")
    }

    /// Returns the number of pauses since the last success.
    pub(crate) fn taken(&self) -> u32 {
        self.taken
    }

    /// Starts over after a success.
    pub(crate) fn reset(&mut self) {
        if self.taken > 0 {
            (self.delays, self.taken) = (self.builder.build(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_double_within_their_bounds_and_start_over(
            first_ms in 1_u32..1000,
            factor in 1_u32..1000,
            attempts in 1_u32..40,
        ) {
            let first = Duration::from_millis(first_ms.into());
            let longest = first * factor;
            let mut pauses = Pauses::new(first, longest);
            for round in 0..2 {
                for attempt in 0..attempts {
                    prop_assert_eq!(pauses.taken(), attempt);
                    let nominal = first.saturating_mul(1 << attempt.min(20)).min(longest);
                    let pause = pauses.next();
                    // `backon` computes in 32-bit floats.
                    let tolerance = nominal / 1000 + Duration::from_micros(1);
                    prop_assert!(pause + tolerance >= nominal / 2, "{round}: {pause:?} of {nominal:?}");
                    prop_assert!(pause <= nominal + tolerance, "{round}: {pause:?} of {nominal:?}");
                }
                pauses.reset();
            }
        }
    }
}
