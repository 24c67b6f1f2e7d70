//! A circuit breaker: after several failures in a row a service is not called for a while. A plain value; time is
//! an argument.

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
}
