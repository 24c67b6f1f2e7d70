//! The switch that stops all writes after one write has failed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::{CommitError, DatabaseError};

/// Set by the first failed write and never cleared. After a failed sync the bytes on disk are
/// unknown, so only reading the log again, at the next start, shows what was kept.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    cause: OnceLock<Arc<str>>,
    fail_next: AtomicBool,
}

impl Poison {
    /// Refuses a commit after a failed write.
    pub(crate) fn check(&self) -> Result<(), CommitError> {
        match self.cause.get() {
            None => Ok(()),
            Some(cause) => Err(CommitError::Poisoned { cause: Arc::clone(cause) }),
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.cause.get().is_some()
    }

    /// Refuses all commits from now on. The first cause is kept.
    pub(crate) fn set(&self, cause: &DatabaseError) {
        let _ = self.cause.set(cause.to_string().into());
    }

    /// Makes the next write fail.
    pub(crate) fn inject(&self) {
        self.fail_next.store(true, Ordering::SeqCst);
    }

    /// Returns true once after [`Poison::inject`].
    pub(crate) fn take_injected(&self) -> bool {
        self.fail_next.swap(false, Ordering::SeqCst)
    }
}
