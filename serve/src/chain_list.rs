//! Status of a list that is periodically read from a chain as a whole: the node registry, the rates.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::metrics::Exposition;

/// Status of a list that is periodically read from a chain as a whole.
///
/// The last successfully read content stays in use while the list cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainListStatus {
    /// `node_registry` or `rate_registry`: a closed set, used as a label.
    pub name: &'static str,
    /// Time since the last successful read.
    pub age: Duration,
    /// Time for which reads have failed; `None` if the last one succeeded or none was tried.
    pub failing_for: Option<Duration>,
    /// The longest `failing_for` after which the content still counts as up to date.
    pub failing_max: Duration,
    /// The error of the last read, if it failed.
    pub fault: Option<String>,
    /// Failed reads since the start.
    pub failures: u64,
}

impl ChainListStatus {
    /// Checks that reads have not failed for longer than they may. After that the content may be out of date.
    ///
    /// # Errors
    /// A text for operators with the list's name, its age and the last error.
    pub fn read_lately(&self) -> Result<(), String> {
        if self.failing_for.is_none_or(|failing| failing <= self.failing_max) {
            return Ok(());
        }
        let (name, age_s) = (self.name, self.age.as_secs());
        let fault = self.fault.as_deref().unwrap_or("it is not known why");
        Err(format!("the {name} was last read {age_s} s ago: {fault}"))
    }

    /// Writes `xmtp_chain_list_age_seconds` and `xmtp_chain_list_failures` for each of `lists`.
    ///
    /// # Errors
    /// The errors of the encoder.
    pub fn encode_all(lists: &[&Self], out: &mut Exposition<'_>) -> fmt::Result {
        out.gauges(
            "xmtp_chain_list_age_seconds",
            "Time since the list was last read, seconds",
            lists.iter().map(|list| ([("list", list.name)], list.age.as_secs_f64())),
        )?;
        out.counters(
            "xmtp_chain_list_failures",
            "Failed attempts to read the list",
            lists.iter().map(|list| ([("list", list.name)], list.failures)),
        )
    }
}

/// A view of the lists that are read from a chain.
pub trait ChainListsView: Send + Sync + 'static {
    /// Returns the status of each list.
    fn lists(&self) -> Vec<ChainListStatus>;
}

/// A chain list in `/status`.
#[derive(Debug, Clone, Serialize)]
pub struct ChainListReport {
    name: &'static str,
    /// Seconds since the last successful read.
    age_s: f64,
    failures: u64,
    fault: Option<String>,
}

impl From<&ChainListStatus> for ChainListReport {
    fn from(list: &ChainListStatus) -> Self {
        Self {
            name: list.name,
            age_s: list.age.as_secs_f64(),
            failures: list.failures,
            fault: list.fault.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_overdue_only_while_readings_fail() {
        let secs = Duration::from_secs;
        let mut list = ChainListStatus {
            name: "rate_registry",
            age: secs(90),
            failing_for: None,
            failing_max: secs(60),
            fault: None,
            failures: 0,
        };
        assert_eq!(list.read_lately(), Ok(()), "old, but nothing has failed");
        (list.failing_for, list.fault) = (Some(secs(61)), Some("refused".to_owned()));
        let overdue = list.read_lately().unwrap_err();
        assert_eq!(overdue, "the rate_registry was last read 90 s ago: refused");
    }
}
