//! A gate that delays reading the chains until their strands are filled from a snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The longest time after the start for which a snapshot delays publishing and reading the chains. A guess.
pub(in crate::service) const HOLD_MAX: Duration = Duration::from_secs(3600);

/// A gate that is shut while chain strands are filled. Their readers start where filling has ended, and not before.
#[derive(Debug, Clone, Default)]
pub(in crate::service) struct ChainGate {
    is_shut: Arc<AtomicBool>,
    /// The time at which it opens in any case; `None` if it was never shut.
    until: Option<Instant>,
}

/// A shut gate, which opens when this value is dropped.
#[derive(Debug)]
pub(in crate::service) struct ShutChainGate(ChainGate);

impl ChainGate {
    /// Returns true while the chains must not be read.
    pub(in crate::service) fn is_shut(&self, now: Instant) -> bool {
        self.is_shut.load(Ordering::Acquire) && self.until.is_some_and(|until| now < until)
    }
}

impl ShutChainGate {
    /// Creates a gate that is shut for a limited time.
    pub(in crate::service) fn new(now: Instant) -> Self {
        let is_shut = Arc::new(AtomicBool::new(true));
        Self(ChainGate { is_shut, until: Some(now + HOLD_MAX) })
    }

    /// Returns the gate.
    pub(in crate::service) fn gate(&self) -> ChainGate {
        self.0.clone()
    }
}

impl Drop for ShutChainGate {
    fn drop(&mut self) {
        self.0.is_shut.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_opens_when_filling_ends_and_after_an_hour_in_any_case() {
        let now = Instant::now();
        assert!(!ChainGate::default().is_shut(now));
        let shut = ShutChainGate::new(now);
        let gate = shut.gate();
        assert!(gate.is_shut(now + HOLD_MAX - Duration::from_nanos(1)));
        assert!(!gate.is_shut(now + HOLD_MAX));
        drop(shut);
        assert!(!gate.is_shut(now));
    }
}
