//! The switch that ends all writing after one write failed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::commit::CommitError;
use crate::error::DatabaseError;

/// Set once, by the first failed write, and never cleared: after a failed sync nobody can say
/// which bytes the disk has, so only reading the log anew, at the next start, tells the truth.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    cause: OnceLock<Arc<str>>,
    fail_next: AtomicBool,
}

impl Poison {
    pub(crate) fn check(&self) -> Result<(), CommitError> {
        match self.cause.get() {
            None => Ok(()),
            Some(cause) => Err(CommitError::Poisoned { cause: Arc::clone(cause) }),
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.cause.get().is_some()
    }

    /// Keeps the first cause.
    pub(crate) fn set(&self, cause: &DatabaseError) {
        let _ = self.cause.set(cause.to_string().into());
    }

    /// Makes the next write fail.
    pub(crate) fn inject(&self) {
        self.fail_next.store(true, Ordering::SeqCst);
    }

    pub(crate) fn take_injected(&self) -> bool {
        self.fail_next.swap(false, Ordering::SeqCst)
    }
}
