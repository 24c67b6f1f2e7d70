//! What the engine wants to know of the world at every moment: the time, and whether a key
//! package is one.

use std::time::{SystemTime, UNIX_EPOCH};

use hawser_engine::ports::{Clock, PayloadValidator};
use hawser_engine::rules;
use hawser_proto::Bytes;

/// The clock of this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct SystemClock;

impl Clock for SystemClock {
    fn now_ns(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }
}

/// Takes every key package that parses to its end, whatever time it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct FormOnly;

impl PayloadValidator for FormOnly {
    fn key_package(&self, tls_bytes: &Bytes) -> Result<(), String> {
        rules::key_package_form(tls_bytes)
    }
}
