//! The two logs of a comparison, and the error of one of them.

use serde::Serialize;

use crate::replay::SourceError;

/// One of the two logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The log that the other one is compared with.
    First,
    /// The other log.
    Second,
}

impl Side {
    /// Both logs, in the order of their [indexes](Self::index).
    pub(super) const BOTH: [Self; 2] = [Self::First, Self::Second];

    /// Returns the index of this log in a list of both.
    pub(super) fn index(self) -> usize {
        match self {
            Self::First => 0,
            Self::Second => 1,
        }
    }
}

/// The error of one of the logs.
#[derive(Debug)]
pub(super) struct SideError {
    pub(super) side: Side,
    pub(super) error: SourceError,
}
