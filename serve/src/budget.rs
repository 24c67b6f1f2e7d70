//! How much of unfinished requests is kept in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Requests that are on their way, over one connection and over all. A connection may so have two
/// of the largest messages under way at once, and many small ones.
const CONNECTION_BYTES_MAX: usize = 64 * 1024 * 1024;
const ALL_BYTES_MAX: usize = 512 * 1024 * 1024;
/// What each request may keep regardless, so that large ones do not stand in the way of small ones.
const FREE_BYTES: usize = 64 * 1024;

/// What one connection has under way. Cheap to clone; all clones are the same connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budget {
    connection: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

impl Budget {
    /// That of another connection to the same listener.
    pub(crate) fn for_connection(&self) -> Self {
        Self { connection: Arc::default(), all: self.all.clone() }
    }

    /// A request that has nothing under way yet.
    pub(crate) fn request(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

/// What one request has under way; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    bytes: usize,
}

impl Share {
    /// Counts `bytes` more in. False if that is too much.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        let connection = self.budget.connection.fetch_add(bytes, Relaxed) + bytes;
        let all = self.budget.all.fetch_add(bytes, Relaxed) + bytes;
        let fits = connection <= CONNECTION_BYTES_MAX && all <= ALL_BYTES_MAX;
        fits || self.bytes <= FREE_BYTES
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.connection.fetch_sub(self.bytes, Relaxed);
        self.budget.all.fetch_sub(self.bytes, Relaxed);
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
