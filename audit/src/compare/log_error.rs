//! The error of a log that is compared with another one.

use crate::replay::SourceError;

/// The error of one of the logs, with its index.
pub(super) type LogError = (usize, SourceError);
