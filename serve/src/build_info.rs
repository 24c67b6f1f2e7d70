//! Version and start time of this process.

use std::fmt;

use crate::metrics::Exposition;

/// Version, commit and start time of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildInfo {
    /// SemVer, without a leading `v`.
    pub version: String,
    /// The commit that it was built from; empty if unknown.
    pub commit: String,
    /// Start time, unix nanoseconds.
    pub started_ns: i64,
}

impl BuildInfo {
    /// Returns the start time, unix seconds.
    #[must_use]
    pub fn started_unix_s(&self) -> i64 {
        self.started_ns / 1_000_000_000
    }

    /// Writes `xmtp_build_info`.
    ///
    /// # Errors
    /// The errors of the encoder.
    pub fn encode_build(&self, out: &mut Exposition<'_>) -> fmt::Result {
        out.gauges(
            "xmtp_build_info",
            "Always 1; the labels say what runs",
            [([("version", self.version.as_str()), ("commit", self.commit.as_str())], 1)],
        )
    }

    /// Writes `xmtp_start_time_seconds`.
    ///
    /// # Errors
    /// The errors of the encoder.
    pub fn encode_start_time(&self, out: &mut Exposition<'_>) -> fmt::Result {
        out.gauge(
            "xmtp_start_time_seconds",
            "When this process began to serve, unix seconds",
            Some(self.started_ns as f64 / 1e9),
        )
    }
}
