//! A temporary charge of memory: for the translation of a call, or for a head that is not whole.

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

    /// Takes `bytes` more.
    ///
    /// # Errors
    /// [`OverloadedError`]; nothing was taken then.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), OverloadedError> {
        self.share.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for ChargedBytes {
    fn drop(&mut self) {
        self.share.give_back(self.bytes);
    }
}
