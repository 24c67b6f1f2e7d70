//! The node's external inputs, kept up to date: registry, rates and chain strands, each from the chains or from a
//! file that substitutes for them.
//!
//! - [`NetworkState`]: the registry and the rates that the engine uses;
//! - `membership`: absences of nodes, from the registry's events; `changed_keys`: other keys than before;
//! - `kept_lists`: the lists that this host has last read, for a start without the chain;
//! - [`chains`]: both chains; `sinks`, `payer_reports`: the destinations of their events;
//!   [`status`]: the status for the API;
//! - [`stand_in_files`]: files that substitute for the chains.

pub(super) mod chains;
mod changed_keys;
mod kept_lists;
mod membership;
mod payer_reports;
mod sinks;
pub(super) mod stand_in_files;
pub(super) mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_engine::ports::{Clock as _, Registry};
use hawser_engine::runtime::SystemClock;
use hawser_proto::{OriginatorId, PublicKey};
use hawser_rules::fees::{RateTable, RateTableError};
use hawser_storage::{CommitError, ReadError, Store};
use parking_lot::Mutex;
use tokio::sync::watch;

pub(super) use membership::with_recorded;

/// The time as of which recorded rates are confirmed that the network may have added to, unix nanoseconds: none.
const UNCONFIRMED_NS: i64 = i64::MIN;
/// The time between two notices of a rates file that is complete for no longer than before, in nanoseconds. With each
/// notice, the envelopes whose fees wait for it are read again, and one liar can make a thousand of the longest
/// envelopes wait. A guess: as often as the rates of the chain are read.
const TOLD_EVERY_NS: i64 = 300 * 1_000_000_000;

/// Error of recording rates.
#[derive(Debug, thiserror::Error)]
pub enum RecordRatesError {
    /// The table contradicts the recorded rates, or the write failed.
    #[error("the price list cannot be recorded: {0}")]
    Record(#[from] CommitError),
    /// The recorded rates could not be read.
    #[error("the recorded rates cannot be read: {0}")]
    Read(#[from] ReadError),
    /// The recorded rates are not a valid table.
    #[error("the recorded rates are not a valid price list: {0}")]
    Table(#[from] RateTableError),
}

impl RecordRatesError {
    /// Returns true if the same table may be recorded later, because the error is a lack of disk space.
    pub(super) fn is_of_disk(&self) -> bool {
        match self {
            Self::Record(error) => error.is_of_disk(),
            Self::Read(_) => true,
            Self::Table(_) => false,
        }
    }
}

/// Records a rate table and returns all recorded rates, with the times of that table. Also notes the time up to which
/// they are complete. A running node deletes no rate, because envelopes of its time are checked against it.
///
/// # Errors
/// Fails when the table contradicts the recorded rates, or the database fails.
pub(super) fn record_rates(
    table: &RateTable,
    store: &Store,
) -> Result<RateTable, RecordRatesError> {
    store.record_rates(table.rates())?;
    let recorded = recorded_rates(store)?.as_of(table);
    if let Some(until_ns) = recorded.complete_until_ns()
        && let Err(error) = store.note_rates_complete(until_ns)
    {
        // Only audits of the folder need the time. The rates are in use also while the disk is full.
        tracing::debug!(%error, "the time of the price list cannot be noted");
    }
    Ok(recorded)
}

/// Records a rate table at the start like [`record_rates`]. If the disk does not permit it, returns the previously
/// recorded rates, or the table itself if there are none. Either is unconfirmed, so that nothing is published or judged
/// by it.
///
/// # Errors
/// Fails when the table contradicts the recorded rates, or they cannot be read.
pub(super) fn first_rates(table: &RateTable, store: &Store) -> Result<RateTable, RecordRatesError> {
    match record_rates(table, store) {
        Err(error) if error.is_of_disk() => {
            tracing::warn!(%error, "the new price list cannot be recorded now: tried again");
            match recorded_rates(store) {
                // The first start of a node.
                Err(RecordRatesError::Table(RateTableError::Empty)) => {
                    Ok(table.confirmed(UNCONFIRMED_NS))
                }
                recorded => Ok(recorded?.confirmed(UNCONFIRMED_NS)),
            }
        }
        recorded => recorded,
    }
}

fn recorded_rates(store: &Store) -> Result<RateTable, RecordRatesError> {
    Ok(RateTable::new(store.snapshot().rates()?, None)?)
}

/// The registry and the rates that the engine uses. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub(super) struct NetworkState {
    pub(super) own: OriginatorId,
    pub(super) store: Store,
    pub(super) registry: Arc<watch::Sender<Arc<Registry>>>,
    pub(super) rates: Arc<watch::Sender<Arc<RateTable>>>,
    /// A lock held while the registry is replaced, because records and absences come from different tasks.
    replacing: Arc<Mutex<()>>,
    /// The key of each node that a registry of this run has named, also of those that the current one lacks.
    keys: Arc<Mutex<BTreeMap<OriginatorId, PublicKey>>>,
}

impl NetworkState {
    /// Creates the state with the first registry and the first rates.
    pub(super) fn new(own: OriginatorId, store: Store, known: Registry, rates: RateTable) -> Self {
        let keys = Arc::new(Mutex::new(keys_of(&known).collect()));
        let registry = Arc::new(watch::Sender::new(Arc::new(known)));
        let rates = Arc::new(watch::Sender::new(Arc::new(rates)));
        Self { own, store, registry, rates, replacing: Arc::default(), keys }
    }

    /// Publishes new registry records, with the recorded absences.
    ///
    /// # Errors
    /// The errors of [`take_registry`](Self::take_registry).
    fn take_records(&self, new: Registry) -> Result<(), OriginatorId> {
        let _one_at_a_time = self.replacing.lock();
        let known = self.registry.borrow().clone();
        self.take_registry(new.with_absences_of(&known))
    }

    /// Publishes new registry records that may have other keys than before.
    fn take_other_keys(&self, new: Registry) {
        let _one_at_a_time = self.replacing.lock();
        self.keys.lock().extend(keys_of(&new));
        let known = self.registry.borrow().clone();
        self.take_registry(new.with_absences_of(&known)).expect("its keys are noted");
    }

    /// Publishes the recorded absences with the current records.
    ///
    /// # Errors
    /// Fails when they cannot be read.
    pub(super) fn take_absences(&self) -> Result<(), ReadError> {
        let _one_at_a_time = self.replacing.lock();
        let known = self.registry.borrow().clone();
        let new = membership::with_recorded(Registry::clone(&known), &self.store)?;
        self.take_registry(new).expect("the records are the same");
        Ok(())
    }

    /// Publishes a new registry, if it differs from the current one.
    ///
    /// # Errors
    /// The node whose key would change, also if it was away for a while. The current registry is kept.
    fn take_registry(&self, new: Registry) -> Result<(), OriginatorId> {
        let known = self.registry.borrow().clone();
        if new == *known {
            return Ok(());
        }
        self.take_keys(&new)?;
        match new.node(self.own) {
            None if self.own == OriginatorId::REPLICA => {}
            None => tracing::warn!(
                node_id = self.own.0,
                "this node is no longer in the registry: nothing can be published here"
            ),
            Some(record) if !record.canonical => tracing::warn!(
                node_id = self.own.0,
                "this node is not canonical: nothing can be published here"
            ),
            Some(_) => {}
        }
        tracing::info!(nodes = new.nodes().count(), "the registry has changed");
        self.registry.send_replace(Arc::new(new));
        Ok(())
    }

    /// Notes the keys of a registry.
    ///
    /// # Errors
    /// A node of which another key is noted; nothing is noted then.
    fn take_keys(&self, new: &Registry) -> Result<(), OriginatorId> {
        let mut known = self.keys.lock();
        let is_other =
            |(id, key): &(OriginatorId, PublicKey)| known.get(id).is_some_and(|it| it != key);
        if let Some((node, _)) = keys_of(new).find(is_other) {
            return Err(node);
        }
        known.extend(keys_of(new));
        Ok(())
    }

    /// Records and publishes a new rate table.
    ///
    /// # Errors
    /// [`RecordRatesError`] if the table cannot be recorded. The current table is kept.
    fn take_rates(&self, table: &RateTable) -> Result<(), RecordRatesError> {
        let new = record_rates(table, &self.store)?;
        if new.rates() != self.rates.borrow().rates() {
            tracing::info!(rates = new.rates().len(), "the price list has changed");
        }
        self.rates.send_replace(Arc::new(new));
        Ok(())
    }

    /// Confirms the current rates by `file`, a later reading of their file with the same rates. Notifies the waiting
    /// tasks if the file is complete up to a later time than before, and otherwise every [`TOLD_EVERY_NS`].
    fn confirm_rates(&self, file: &RateTable) {
        self.rates.send_if_modified(|rates| {
            let new = rates.as_of(file);
            let period = |table: &RateTable| table.refreshed_ns().map(|ns| ns / TOLD_EVERY_NS);
            let is_told = new.complete_until_ns() != rates.complete_until_ns()
                || period(&new) != period(rates);
            *rates = Arc::new(new);
            is_told
        });
    }
}

/// Returns the key of each node.
fn keys_of(registry: &Registry) -> impl Iterator<Item = (OriginatorId, PublicKey)> {
    registry.nodes().map(|record| (record.id, record.public_key))
}

/// Returns the current time in unix nanoseconds.
fn now_ns() -> i64 {
    SystemClock.now_ns()
}
