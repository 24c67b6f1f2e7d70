//! The error of a run.

/// Ends a run. `hawser-bench` prints it and does not handle it otherwise.
pub(crate) type BenchError = Box<dyn std::error::Error + Send + Sync>;
