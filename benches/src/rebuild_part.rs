//! A process that rebuilds the projections of a folder, and may be cut off in the middle.

use std::path::Path;

use hawser_engine::{facts, price};
use hawser_storage::{RebuildProgress, Store};

use crate::error::BenchError;

/// The signal by which a process ends that is cut off: SIGABRT, on Linux.
pub(crate) const CUT_OFF: i32 = 6;

/// Rebuilds what is missing. Ends the process at once, as a kill does, when `part` percent of the envelopes are done.
pub(crate) fn run(folder: &Path, part: u64) -> Result<(), BenchError> {
    let (store, identity) = Store::open_existing(folder, price::price)?;
    let own = identity.node;
    let derive = |_, bytes: &_, validity| facts::of_stored(bytes, validity, own);
    store.rebuild(&derive, &mut |RebuildProgress { done, total_estimate }| {
        if part < 100 && done * 100 >= total_estimate * part {
            // Not an exit: that would run destructors beside threads that are at work.
            std::process::abort();
        }
    })?;
    Ok(store.flush()?)
}
