//! A temporary charge of memory: for the translation of a call, an answer that is not passed on yet, or a head that is
//! not whole.

use std::sync::Arc;

use crate::budget::ConnectionShare;
use crate::overloaded::OverloadedError;

/// Bytes that are charged to a connection until this value is dropped.
pub(crate) struct ChargedBytes {
    share: Arc<ConnectionShare>,
    bytes: usize,
}

impl ChargedBytes {
    pub(crate) fn new(share: Arc<ConnectionShare>) -> Self {
        Self { share, bytes: 0 }
    }

    /// Charges `bytes` that are allocated already.
    pub(crate) fn allocated(share: Arc<ConnectionShare>, bytes: usize) -> Self {
        share.take_anyway(bytes);
        Self { share, bytes }
    }

    /// Charges `bytes` if they are free. Returns `None`, and counts no refusal, if they are not.
    pub(crate) fn if_free(share: Arc<ConnectionShare>, bytes: usize) -> Option<Self> {
        share.try_take(bytes, 0).then(|| Self { share, bytes })
    }

    /// Takes `bytes` more.
    ///
    /// # Errors
    /// [`OverloadedError`]; nothing was taken then.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), OverloadedError> {
        self.share.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Changes the charge to `bytes`, which are allocated already. Touches no share if that is no change: all cores
    /// count on them.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.share.take_anyway(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.share.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for ChargedBytes {
    fn drop(&mut self) {
        self.set(0);
    }
}
