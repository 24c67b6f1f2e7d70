//! Makes writes fail, for tests and simulations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use rocksdb::WriteBatch;

/// The effect of a failed write on the disk.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// The write is lost: the disk has none of it.
    Lost,
    /// The disk has the whole write: reading the log again finds it.
    Kept,
}

/// Decides for each write if it fails. May block, like a sync that hangs.
pub(crate) type FaultHook = Arc<dyn Fn() -> Option<WriteFault> + Send + Sync>;

/// The faults of the next writes.
#[derive(Default)]
pub(crate) struct WriteFaults {
    fail_next: AtomicBool,
    hook: RwLock<Option<FaultHook>>,
    /// Failed writes that the disk has nevertheless. Readers see them after the log is read again.
    kept: Mutex<Vec<WriteBatch>>,
}

impl WriteFaults {
    /// Makes the next write fail.
    pub(crate) fn inject(&self) {
        self.fail_next.store(true, Ordering::SeqCst);
    }

    pub(crate) fn set_hook(&self, hook: Option<FaultHook>) {
        *self.hook.write() = hook;
    }

    /// Returns the fault of the current write.
    pub(crate) fn next(&self) -> Option<WriteFault> {
        if self.fail_next.swap(false, Ordering::SeqCst) {
            return Some(WriteFault::Lost);
        }
        let hook = self.hook.read().clone();
        hook.and_then(|hook| hook())
    }

    pub(crate) fn keep(&self, batch: WriteBatch) {
        self.kept.lock().push(batch);
    }

    /// Removes and returns the failed writes that reading the log again must find.
    pub(crate) fn take_kept(&self) -> Vec<WriteBatch> {
        std::mem::take(&mut self.kept.lock())
    }
}
