//! The time of this machine.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time, unix seconds. A clock before 1970 counts as 1970.
pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
