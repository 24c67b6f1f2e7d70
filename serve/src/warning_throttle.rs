//! Warnings that callers can cause at will, such as those about connections that are not accepted or are closed. A
//! flood repeats their cause, but not their line in the log: a kind of warning has one line a minute.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Least time between two log lines of one kind. A guess: a flood must not fill the disk.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The warnings of a listener about connections that are not accepted.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    pub(crate) full: WarningThrottle,
    pub(crate) failed: WarningThrottle,
}

/// The time of the last warning of one kind, of which a log has one a minute.
#[derive(Debug, Default)]
pub struct WarningThrottle(Mutex<Option<Instant>>);

impl WarningThrottle {
    /// Returns true if a minute has passed since the last warning, and records this one.
    pub fn is_due(&self) -> bool {
        let mut last = self.0.lock();
        let is_due = last.is_none_or(|last| last.elapsed() >= WARN_EVERY);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}
