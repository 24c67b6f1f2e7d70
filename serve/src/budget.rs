//! The memory budget for requests that are still arriving.
//!
//! The decoder behind [`RequestBody`](crate::request::RequestBody) sees whole messages only, so unfinished ones wait here.
//! Worst-case memory is `ALL_BYTES_MAX` plus `FREE_BYTES` for each open call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes of unfinished requests of one connection: two of the largest messages (25 MiB) at once,
/// and many small ones. Specified in `docs/protocol/api.md`; the value is a guess.
const CONNECTION_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of unfinished requests of all connections: eight times the above, which a small machine
/// can spare. Specified in `docs/protocol/api.md`; the value is a guess.
const ALL_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Bytes that each request may keep regardless, so that large requests do not starve small ones:
/// more than a usual publish takes. A guess.
const FREE_BYTES: usize = 64 * 1024;

/// Bytes of unfinished requests of one connection. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budget {
    connection: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

impl Budget {
    /// Returns the budget of another connection to the same listener.
    pub(crate) fn for_connection(&self) -> Self {
        Self { connection: Arc::default(), all: self.all.clone() }
    }

    /// Returns the empty share of a new request.
    pub(crate) fn request(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

/// The bytes that one request takes of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    bytes: usize,
}

impl Share {
    /// Takes `bytes` more. Returns false if the request must be refused; they count until it is
    /// dropped all the same.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        // Add first, compare then: concurrent requests may both be refused, never both let through.
        let connection = self.budget.connection.fetch_add(bytes, Relaxed) + bytes;
        let all = self.budget.all.fetch_add(bytes, Relaxed) + bytes;
        let fits = connection <= CONNECTION_BYTES_MAX && all <= ALL_BYTES_MAX;
        fits || self.bytes <= FREE_BYTES
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let connection = self.budget.connection.fetch_sub(self.bytes, Relaxed);
        let all = self.budget.all.fetch_sub(self.bytes, Relaxed);
        debug_assert!(connection >= self.bytes && all >= self.bytes, "a share is given back once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_connection_cannot_take_everything_and_small_requests_always_fit() {
        let listener = Budget::default();
        let one = listener.for_connection();
        let (mut first, mut second) = (one.request(), one.request());
        assert!(first.take(CONNECTION_BYTES_MAX));
        assert!(second.take(FREE_BYTES));
        assert!(!second.take(1));
        assert!(listener.for_connection().request().take(CONNECTION_BYTES_MAX));
        drop((first, second));
        assert!(one.request().take(CONNECTION_BYTES_MAX), "given back");
    }

    #[test]
    fn all_connections_together_are_bounded() {
        let listener = Budget::default();
        let mut shares = Vec::new();
        loop {
            let mut share = listener.for_connection().request();
            if !share.take(CONNECTION_BYTES_MAX) {
                break;
            }
            shares.push(share);
        }
        assert_eq!(shares.len(), ALL_BYTES_MAX / CONNECTION_BYTES_MAX);
    }
}
