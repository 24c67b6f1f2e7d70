//! The share of the recent calls to a node that failed. A plain value; time is an argument.

use std::time::{Duration, Instant};

/// Length of a period. A guess: long enough for some calls, and a node that works again is soon named again.
const PERIOD: Duration = Duration::from_secs(60);
/// Smallest number of calls by which a node is judged. A guess: one broken connection ends fewer.
const CALLS_MIN: u32 = 10;

/// The calls of a period.
#[derive(Debug, Clone, Copy, Default)]
struct CallCount {
    all: u32,
    failed: u32,
}

/// The calls to a node in the current period and in the one before.
#[derive(Debug, Default)]
pub(crate) struct RecentCalls {
    /// The start of the current period; `None` before the first call.
    began: Option<Instant>,
    current: CallCount,
    last: CallCount,
}

impl RecentCalls {
    /// Records a call that has ended.
    pub(crate) fn record(&mut self, has_failed: bool, now: Instant) {
        self.turn_to(now);
        self.current.all = self.current.all.saturating_add(1);
        self.current.failed = self.current.failed.saturating_add(has_failed.into());
    }

    /// Returns true if more than half of the recent calls failed, of at least [`CALLS_MIN`].
    pub(crate) fn mostly_failed(&mut self, now: Instant) -> bool {
        self.turn_to(now);
        let all = self.current.all.saturating_add(self.last.all);
        let failed = self.current.failed.saturating_add(self.last.failed);
        all >= CALLS_MIN && failed > all / 2
    }

    /// Begins another period if the current one is over, and forgets what is older than two.
    fn turn_to(&mut self, now: Instant) {
        match self.began {
            Some(began) if now < began + PERIOD => {}
            Some(began) if now < began + 2 * PERIOD => {
                self.last = std::mem::take(&mut self.current);
                self.began = Some(began + PERIOD);
            }
            _ => *self = Self { began: Some(now), ..Self::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_calls_judge_a_node_and_more_than_half_of_them() {
        let (mut calls, now) = (RecentCalls::default(), Instant::now());
        for _ in 0..CALLS_MIN - 1 {
            calls.record(true, now);
            assert!(!calls.mostly_failed(now), "too few");
        }
        calls.record(true, now);
        assert!(calls.mostly_failed(now));
        for _ in 0..CALLS_MIN {
            calls.record(false, now);
        }
        assert!(!calls.mostly_failed(now), "half of them");
        calls.record(true, now);
        assert!(calls.mostly_failed(now));
    }

    #[test]
    fn what_failed_is_forgotten_after_two_periods_whether_or_not_the_node_is_called() {
        let (mut calls, start) = (RecentCalls::default(), Instant::now());
        (0..CALLS_MIN).for_each(|_| calls.record(true, start));
        assert!(calls.mostly_failed(start + PERIOD));
        assert!(!calls.mostly_failed(start + 2 * PERIOD));
        let mut idle = RecentCalls::default();
        (0..CALLS_MIN).for_each(|_| idle.record(true, start));
        assert!(!idle.mostly_failed(start + 10 * PERIOD));
    }
}
