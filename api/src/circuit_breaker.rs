//! A circuit breaker: after several failures in a row a service is not called for a while. A plain value; time is
//! an argument.
//!
//! Not taken from a library: those of the field wrap calls or layers of a service and read the clock themselves, for a
//! counter and a time. A property test compares the states with their definition.

/// The settings of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BreakerSettings {
    /// Failures in a row that open it; above 0.
    pub(crate) failures_max: u32,
    /// Time for which it then stays open, milliseconds.
    pub(crate) cooldown_ms: u64,
}

/// The state of a breaker, with its value in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakerState {
    /// The service is called.
    Closed = 0,
    /// The next calls try whether the service works again.
    HalfOpen = 1,
    /// The service is not called.
    Open = 2,
}

/// A breaker; closed at first.
#[derive(Debug)]
pub(crate) struct Breaker {
    settings: BreakerSettings,
    failures: u32,
    opened_ms: Option<u64>,
}

impl Breaker {
    pub(crate) fn new(settings: BreakerSettings) -> Self {
        Self { settings, failures: 0, opened_ms: None }
    }

    pub(crate) fn state(&self, now_ms: u64) -> BreakerState {
        match self.opened_ms {
            None => BreakerState::Closed,
            Some(opened_ms) if now_ms < opened_ms.saturating_add(self.settings.cooldown_ms) => {
                BreakerState::Open
            }
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// Records a success, which closes the breaker.
    pub(crate) fn worked(&mut self) {
        (self.failures, self.opened_ms) = (0, None);
    }

    /// Records a failure. Returns true if it opens the breaker.
    pub(crate) fn failed(&mut self, now_ms: u64) -> bool {
        self.failures = self.failures.saturating_add(1);
        let opens = match self.state(now_ms) {
            BreakerState::Closed => self.failures >= self.settings.failures_max,
            BreakerState::HalfOpen => true,
            BreakerState::Open => false, // a call that had begun before
        };
        if opens {
            self.opened_ms = Some(now_ms);
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_one_success() {
        let mut breaker = Breaker::new(BreakerSettings { failures_max: 3, cooldown_ms: 100 });
        assert!(!breaker.failed(0) && !breaker.failed(1));
        breaker.worked();
        assert!(!breaker.failed(2) && !breaker.failed(3), "not in a row");
        assert!(breaker.failed(4));
        assert_eq!(breaker.state(103), BreakerState::Open);
        assert!(!breaker.failed(50), "it is open already");
        assert_eq!(breaker.state(104), BreakerState::HalfOpen);
        assert!(breaker.failed(104), "one failure opens it again");
        assert_eq!(breaker.state(203), BreakerState::Open);
        breaker.worked();
        assert_eq!(breaker.state(203), BreakerState::Closed);
    }

    proptest! {
        #[test]
        fn it_is_open_for_the_cooldown_after_each_failure_that_opens_it(
            results in proptest::collection::vec((any::<bool>(), 0u64..60), 1..60),
        ) {
            let mut breaker = Breaker::new(BreakerSettings { failures_max: 3, cooldown_ms: 100 });
            let (mut now_ms, mut failures_in_a_row) = (0_u64, 0_u32);
            let mut open_until_ms: Option<u64> = None;
            for (works, pause_ms) in results {
                now_ms += pause_ms;
                if works {
                    breaker.worked();
                    (failures_in_a_row, open_until_ms) = (0, None);
                } else {
                    failures_in_a_row += 1;
                    let is_open = open_until_ms.is_some_and(|until_ms| now_ms < until_ms);
                    let opens = !is_open && failures_in_a_row >= 3;
                    prop_assert_eq!(breaker.failed(now_ms), opens);
                    if opens {
                        open_until_ms = Some(now_ms + 100);
                    }
                }
                let state = match open_until_ms {
                    None => BreakerState::Closed,
                    Some(until_ms) if now_ms < until_ms => BreakerState::Open,
                    Some(_) => BreakerState::HalfOpen,
                };
                prop_assert_eq!(breaker.state(now_ms), state);
            }
        }
    }
}
