//! Opens the database of a stopped node, and rebuilds projections from the log.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use hawser_engine::{facts, price};
use hawser_storage::{
    OpenError, RebuildError, RebuildProgress, RebuildReport, RollbackError, RollbackReport, Store,
    StoreIdentity,
};

use super::service_manager::ServiceManager;
use super::unfinished_import::{UnfinishedImportError, require_finished};

/// The interval of log lines about a rebuild. A guess: often enough to show progress.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Error of opening the database of a stopped node.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoppedError {
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The folder contains an unfinished import.
    #[error(transparent)]
    Import(#[from] UnfinishedImportError),
}

/// Opens the database of a stopped node, whatever node owns it.
///
/// An unfinished import is refused: its chain events may not be verified yet, and a backup or copy of
/// the folder would not show that.
///
/// # Errors
/// The errors of [`Store::open_existing`], and an error for an unfinished import.
pub fn open_existing(path: &Path) -> Result<(Store, StoreIdentity), OpenStoppedError> {
    let opened = Store::open_existing(path, price::price)?;
    // This is checked under the database lock, so that an import cannot start afterwards.
    require_finished(path)?;
    keep_tallies(&opened.0);
    Ok(opened)
}

/// Returns the database of a stopped node to its format before the last upgrade.
///
/// # Errors
/// The errors of [`hawser_storage::roll_back`].
pub fn roll_back(path: &Path) -> Result<RollbackReport, RollbackError> {
    hawser_storage::roll_back(path, price::price)
}

/// Takes over tallies of an older version that are as this one makes them, so that they need no rebuild.
pub(super) fn keep_tallies(store: &Store) {
    if let Err(error) = store.keep_tallies(&facts::is_booked_since) {
        tracing::warn!(%error, "tallies of an older version cannot be taken over, so they have to be rebuilt");
    }
}

/// Opens the database of a stopped node for reading only, to make a snapshot of its log for new nodes.
///
/// An unfinished import is refused as by [`open_existing`]: the snapshot would look like that of a whole log. No lock
/// is taken, so an import may have begun, or ended, while the database was opened.
///
/// # Errors
/// The errors of [`open_existing`].
pub fn open_for_bootstrap(path: &Path) -> Result<(Store, StoreIdentity), OpenStoppedError> {
    require_finished(path)?;
    let opened = open_read_only(path)?;
    require_finished(path)?;
    Ok(opened)
}

/// Refuses a data folder with an unfinished import.
///
/// # Errors
/// When the folder has one, or does not say so.
pub fn require_finished_import(path: &Path) -> Result<(), UnfinishedImportError> {
    require_finished(path)
}

/// Opens the database in a folder for reading only, whatever node owns it.
///
/// # Errors
/// The errors of [`Store::open_read_only`].
pub fn open_read_only(path: &Path) -> Result<(Store, StoreIdentity), OpenError> {
    Store::open_read_only(path, price::price)
}

/// Drops every projection of `store` and rebuilds it from the log. Calls `progress` at intervals.
///
/// # Errors
/// Fails when the log cannot be read or the rows cannot be written.
pub fn rebuild(
    store: &Store,
    progress: &mut dyn FnMut(RebuildProgress),
) -> Result<RebuildReport, RebuildError> {
    let own = store.identity().node;
    let mut go_on = |made| {
        progress(made);
        ControlFlow::Continue(())
    };
    store.rebuild_many(&|stored| facts::of_stored_many(stored, own), &mut go_on)
}

/// Rebuilds the projections of a starting node. Reports progress to the log and the service manager every few seconds,
/// and calls `tell` with each step.
///
/// # Errors
/// The errors of [`rebuild`].
pub(super) fn rebuild_before_start(
    store: &Store,
    tell: &dyn Fn(String),
) -> Result<RebuildReport, RebuildError> {
    let service_manager = ServiceManager::from_env();
    let notify = |status: &str| service_manager.iter().for_each(|it| it.working(status));
    let begun = status_of("begun");
    notify(&begun);
    tell(begun);
    let mut next = Instant::now() + LOG_EVERY;
    let report = rebuild(store, &mut |RebuildProgress { done, total_estimate }| {
        let status = status_of(&format!("{done} of about {total_estimate} envelopes"));
        if Instant::now() >= next {
            next = Instant::now() + LOG_EVERY;
            tracing::info!(done, total_estimate, "rebuilding the projections from the log");
            notify(&status);
        }
        tell(status);
    });
    // Damage and a full disk do not end the start.
    let status = if report.is_ok() { REBUILT } else { NOT_REBUILT };
    notify(status);
    tell(status.to_owned());
    report
}

/// The status of a start after a rebuild.
const REBUILT: &str = "rebuilt the projections, starting";
/// The status of a start after a rebuild that has failed.
const NOT_REBUILT: &str = "the projections are not rebuilt, and the log says why";

fn status_of(made: &str) -> String {
    format!("rebuilding the projections from the log, not serving yet: {made}")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::Ipv4Addr;

    use hawser_api::RebuildPages;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::service::testing::{open, page};

    #[test]
    fn while_projections_are_rebuilt_the_operators_port_says_how_far_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, "data", 100);
        let runtime = Runtime::new().unwrap();
        let pages = RebuildPages::begin((Ipv4Addr::LOCALHOST, 0).into(), 7);
        let pages = runtime.block_on(pages).unwrap();
        let counted = Cell::new(false);
        rebuild_before_start(&store, &|step: String| {
            pages.tell(step.clone());
            let shown = page(pages.address(), "/readyz");
            assert!(shown.starts_with("HTTP/1.1 503 "), "{shown}");
            assert!(shown.contains(&format!("\"{step}\"")), "{shown}");
            assert!(page(pages.address(), "/livez").starts_with("HTTP/1.1 200 "));
            counted.set(counted.get() || step.ends_with(" envelopes"));
        })
        .unwrap();
        assert!(counted.get(), "a step with its envelopes");
        runtime.block_on(pages.end());
    }
}
