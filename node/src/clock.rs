//! The time of this machine. A clock before 1970 counts as 1970.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time, unix seconds.
pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Returns the time, unix seconds, as a number from which a later time is subtracted.
pub(crate) fn signed_now_unix_s() -> i64 {
    i64::try_from(now_unix_s()).unwrap_or(i64::MAX)
}
