//! The clock of the system, as an implementation of the clock port.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::ports::Clock;

/// The clock of this machine as the engine's clock port.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ns(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }
}
