//! The clock by which key packages are validated.

use std::time::{SystemTime, UNIX_EPOCH};

/// A source of unix time in seconds.
pub type UnixClock = dyn Fn() -> u64 + Send + Sync;

/// Returns the unix time of this machine in seconds; 0 for a clock before 1970.
pub(crate) fn system_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
