//! The changes of open streams that are under way: decoded, and not read to the end of their past.
//!
//! Such a change takes more than twice the memory that its stream keeps. If thousands of one address were under way,
//! they would take the rest of its share, and calls of the address that arrive meanwhile would be refused. So a few are
//! under way at a time, and the others wait, with little more than their bytes. Addresses that hold little do not wait.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::ConnectionShare;
use super::addresses::AddressShare;

/// Part of the limit, as a divisor, that changes of one address which are under way may take. A guess: 9 MiB by
/// default, for 160 changes of a hundred topics. Sixteen turns on disk run at a time.
const CHANGING_DIVISOR: usize = 32;
/// Part of the limit, as a divisor, below which the changes of an address do not wait for each other. A guess: 72 MiB
/// by default. Otherwise one client of a network that shares an address could hold up the others with little.
const LARGE_DIVISOR: usize = 4;

/// A change that is under way. It ends when this is dropped.
#[must_use = "the change is under way for as long as this is held"]
pub(crate) struct ChangeUnderWay {
    address: Arc<AddressShare>,
    bytes: usize,
}

impl ConnectionShare {
    /// Begins a change whose stream takes `bytes` until it has caught up; `None` if it has to wait for other changes
    /// of the address. Takes no memory.
    pub(crate) fn begin_change(&self, bytes: usize) -> Option<ChangeUnderWay> {
        let limit_bytes = self.budget.limit_bytes;
        let is_large = self.address.held.used.load(Relaxed) >= limit_bytes / LARGE_DIVISOR;
        let most_bytes = if is_large { limit_bytes / CHANGING_DIVISOR } else { usize::MAX };
        let begun = self.address.changing_bytes.try_update(Relaxed, Relaxed, |all| {
            all.checked_add(bytes).filter(|all| *all <= most_bytes)
        });
        begun.is_ok().then(|| ChangeUnderWay { address: Arc::clone(&self.address), bytes })
    }
}

impl Drop for ChangeUnderWay {
    fn drop(&mut self) {
        self.address.changing_bytes.fetch_sub(self.bytes, Relaxed);
    }
}
