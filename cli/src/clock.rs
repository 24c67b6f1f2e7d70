//! The time of this machine. A clock before 1970 counts as 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time, unix seconds.
pub(crate) fn now_unix_s() -> u64 {
    since_1970().as_secs()
}

/// Returns the time, unix nanoseconds.
pub(crate) fn now_ns() -> i64 {
    i64::try_from(since_1970().as_nanos()).unwrap_or(i64::MAX)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
