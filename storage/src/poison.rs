//! The switch that stops all writes after one write has failed.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::CommitError;

/// Set by the first failed write. After a failed sync the bytes on disk are unknown, so only reading the log again
/// shows which writes it has: see [`Store::reopen`](crate::Store::reopen).
#[derive(Debug, Default)]
pub(crate) struct Poison {
    cause: Mutex<Option<Arc<str>>>,
}

impl Poison {
    /// Starts with a cause.
    pub(crate) fn with(cause: &str) -> Self {
        Self { cause: Mutex::new(Some(cause.into())) }
    }

    /// Refuses a commit after a failed write.
    pub(crate) fn check(&self) -> Result<(), CommitError> {
        match &*self.cause.lock() {
            None => Ok(()),
            Some(cause) => Err(CommitError::Poisoned { cause: Arc::clone(cause) }),
        }
    }

    /// Returns the first cause.
    pub(crate) fn cause(&self) -> Option<Arc<str>> {
        self.cause.lock().clone()
    }

    /// Refuses all commits from now on. The first cause is kept.
    pub(crate) fn set(&self, cause: &str) {
        self.cause.lock().get_or_insert_with(|| cause.into());
    }

    /// Lets commits pass.
    pub(crate) fn clear(&self) {
        *self.cause.lock() = None;
    }
}
