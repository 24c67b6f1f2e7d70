//! Families that could not be read when the database was opened, and that it does without.

use crate::error::ReadError;
use crate::family::Family;

/// A family that could not be read to its end when the database was opened. What is kept in memory of it is a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadFamily {
    /// The column family.
    pub family: &'static str,
    /// The failure.
    pub cause: ReadError,
}

impl UnreadFamily {
    /// Notes a failure, and returns what was read all the same.
    pub(crate) fn note<T>(
        family: Family,
        (read, result): (T, Result<(), ReadError>),
        unread: &mut Vec<Self>,
    ) -> T {
        if let Err(cause) = result {
            unread.push(Self { family: family.name(), cause });
        }
        read
    }
}
