//! Opening the database of a stopped node, and rebuilding its projections from the log.

use std::path::Path;
use std::time::{Duration, Instant};

use hawser_engine::{facts, price};
use hawser_storage::{
    OpenError, RebuildError, RebuildProgress, RebuildReport, Store, StoreIdentity,
};

/// Time between two log lines about a rebuild. A guess: often enough to see that it goes on.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Opens the database of a stopped node, of any owner.
///
/// # Errors
/// As [`Store::open_existing`].
pub fn open_existing(path: &Path) -> Result<(Store, StoreIdentity), OpenError> {
    Store::open_existing(path, price::price)
}

/// Opens the database in a folder for reading only, of any owner.
///
/// # Errors
/// As [`Store::open_read_only`].
pub fn open_read_only(path: &Path) -> Result<(Store, StoreIdentity), OpenError> {
    Store::open_read_only(path, price::price)
}

/// Drops every projection of `store` and derives it anew from the log. Calls `progress` now and
/// then.
///
/// # Errors
/// When the log cannot be read or the rows cannot be written.
pub fn rebuild(
    store: &Store,
    progress: &mut dyn FnMut(RebuildProgress),
) -> Result<RebuildReport, RebuildError> {
    let own = store.identity().node;
    let derive = |_, bytes: &_, validity| facts::of_stored(bytes, validity, own);
    store.rebuild(&derive, progress)
}

/// Returns a progress callback that writes a log line every few seconds.
pub(super) fn log_progress() -> impl FnMut(RebuildProgress) {
    let mut next = Instant::now() + LOG_EVERY;
    move |RebuildProgress { done, total_estimate }| {
        if Instant::now() >= next {
            next = Instant::now() + LOG_EVERY;
            tracing::info!(done, total_estimate, "rebuilding the projections from the log");
        }
    }
}
