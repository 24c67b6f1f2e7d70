//! The number of events that a peer may still cause.
//!
//! Written here because a request of this node allows its peer more events at once ([`EventsLeft::add`]), and the usual
//! rate limiters add events by time alone. `hawser-serve` has a bucket, but crates that dial do not use that one. A
//! property test checks the bound.

use std::time::{Duration, Instant};

/// The events that a peer may still cause: a number at once, and one more after each interval.
#[derive(Debug)]
pub struct EventsLeft {
    left: u32,
    most: u32,
    every: Duration,
    /// The time up to which events were added.
    filled_at: Instant,
}

impl EventsLeft {
    /// Creates the count with `most` events left, which is also its upper bound. One event is added after each `every`,
    /// which must not be 0.
    #[must_use]
    pub fn new(most: u32, every: Duration, now: Instant) -> Self {
        Self { left: most, most, every, filled_at: now }
    }

    /// Adds events, up to the bound.
    pub fn add(&mut self, events: u32) {
        self.left = self.left.saturating_add(events).min(self.most);
    }

    /// Takes one event. Returns false if none is left.
    #[must_use]
    pub fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at);
        let events = passed.as_nanos() / self.every.as_nanos();
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        self.filled_at += self.every.saturating_mul(events);
        self.add(events);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_more_events_pass_than_there_were_and_were_added(
            steps in proptest::collection::vec((0_u64..50, 0_u32..3, 0_u32..20), 1..100),
        ) {
            let (start, every_ms) = (Instant::now(), 7);
            let mut left = EventsLeft::new(10, Duration::from_millis(every_ms), start);
            let (mut passed_ms, mut added, mut taken) = (0, 0, 0);
            for (pause_ms, more, tries) in steps {
                passed_ms += pause_ms;
                left.add(more);
                added += u64::from(more);
                let now = start + Duration::from_millis(passed_ms);
                taken += (0..tries).map(|_| u64::from(left.take(now))).sum::<u64>();
                prop_assert!(taken <= 10 + added + passed_ms / every_ms);
            }
        }
    }
}
