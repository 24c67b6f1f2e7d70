//! A process that rebuilds the projections of a folder, and may be cut off in the middle.

use std::ops::ControlFlow;
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
    let mut go_on = |RebuildProgress { done, total_estimate }| {
        if part < 100 && done * 100 >= total_estimate * part {
            // Not an exit: that would run destructors beside threads that are at work.
            std::process::abort();
        }
        ControlFlow::Continue(())
    };
    store.rebuild_many(&|stored| facts::of_stored_many(stored, own), &mut go_on)?;
    Ok(store.flush()?)
}
