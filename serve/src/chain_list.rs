//! Status of a list that is read whole from a chain, again and again: the node registry, the rates.

use std::time::Duration;

/// Status of a list that is read whole from a chain, again and again.
///
/// The last good reading stays in force while the list cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainListStatus {
    /// `node_registry` or `rate_registry`: a closed set, used as a label.
    pub name: &'static str,
    /// Time since the last good reading.
    pub age: Duration,
    /// Time for which readings have failed; `None` if the last one succeeded or none was tried.
    pub failing_for: Option<Duration>,
    /// The last reading's error, if it failed.
    pub fault: Option<String>,
    /// Failed readings since the start.
    pub failures: u64,
}

impl ChainListStatus {
    /// Checks that readings have not failed for longer than `failing_max`: from then on the
    /// content may be out of date.
    ///
    /// # Errors
    /// A text for operators with the list's name, its age and the last error.
    pub fn read_lately(&self, failing_max: Duration) -> Result<(), String> {
        if self.failing_for.is_none_or(|failing| failing <= failing_max) {
            return Ok(());
        }
        let (name, age_s) = (self.name, self.age.as_secs());
        let fault = self.fault.as_deref().unwrap_or("it is not known why");
        Err(format!("the {name} was last read {age_s} s ago: {fault}"))
    }
}
