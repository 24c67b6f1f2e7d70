//! What a node knows of the network, kept current: from files, from the chains, or from both.

pub(super) mod chains;
pub(super) mod files;
pub(super) mod sights;
mod sinks;

use std::sync::Arc;

use hawser_engine::ports::{Clock as _, Registry};
use hawser_proto::OriginatorId;
use hawser_rules::fees::{Rate, RateTable, RateTableError};
use hawser_storage::{CommitError, RateRow, ReadError, Store};
use tokio::sync::watch;

use super::ports::SystemClock;
use crate::files::rates::rows;

/// Why a price list was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It contradicts what was recorded, or that could not be done.
    #[error("the price list cannot be recorded: {0}")]
    Record(#[from] CommitError),
    /// What was recorded could not be read.
    #[error("the recorded rates cannot be read: {0}")]
    Read(#[from] ReadError),
    /// What was recorded is no price list.
    #[error("the recorded rates are no price list: {0}")]
    Table(#[from] RateTableError),
}

/// Records a price list, and returns all that is recorded, confirmed as of `read_ns`: a price once
/// known is never forgotten, because envelopes of its time are judged by it.
///
/// # Errors
/// When it contradicts what was recorded.
pub(super) fn record_rates(
    table: &RateTable,
    read_ns: i64,
    store: &Store,
) -> Result<RateTable, RecordError> {
    store.record_rates(&rows(table))?;
    let recorded = store.snapshot().rates()?;
    Ok(RateTable::new(recorded.iter().map(rate).collect(), Some(read_ns))?)
}

fn rate(row: &RateRow) -> Rate {
    Rate {
        start_unix_s: row.start_unix_s,
        message_fee: row.message_fee,
        storage_fee: row.storage_fee,
        congestion_fee: row.congestion_fee,
        target_rate_per_minute: row.target_rate_per_minute,
    }
}

/// Where the engine looks. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(super) struct Outlets {
    pub(super) own: OriginatorId,
    pub(super) store: Store,
    pub(super) registry: Arc<watch::Sender<Arc<Registry>>>,
    pub(super) rates: Arc<watch::Sender<Arc<RateTable>>>,
}

impl Outlets {
    /// What is known at the start.
    pub(super) fn new(own: OriginatorId, store: Store, known: Registry, rates: RateTable) -> Self {
        let registry = Arc::new(watch::Sender::new(Arc::new(known)));
        let rates = Arc::new(watch::Sender::new(Arc::new(rates)));
        Self { own, store, registry, rates }
    }

    /// Takes over a registry that was read, if it is another one.
    ///
    /// # Errors
    /// Keys never change: says whose key would. What was known stays then.
    fn take_registry(&self, new: Registry) -> Result<(), OriginatorId> {
        let known = self.registry.borrow().clone();
        if new == *known {
            return Ok(());
        }
        if let Some(node) = changed_key(&known, &new) {
            return Err(node);
        }
        match new.node(self.own) {
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

    /// Takes over a price list that was read.
    ///
    /// # Errors
    /// When it cannot be recorded. What was known stays then.
    fn take_rates(&self, table: &RateTable, read_ns: i64) -> Result<(), RecordError> {
        let new = record_rates(table, read_ns, &self.store)?;
        if new.rates() == self.rates.borrow().rates() {
            self.confirm_rates(read_ns);
        } else {
            tracing::info!(rates = new.rates().len(), "the price list has changed");
            self.rates.send_replace(Arc::new(new));
        }
        Ok(())
    }

    /// The price list is known to be what it was.
    fn confirm_rates(&self, read_ns: i64) {
        self.rates.send_modify(|rates| *rates = Arc::new(rates.confirmed(read_ns)));
    }
}

/// A node whose key is not what it was.
fn changed_key(known: &Registry, new: &Registry) -> Option<OriginatorId> {
    let changed = |id, key| new.node(id).is_some_and(|record| record.public_key != key);
    known.nodes().find(|record| changed(record.id, record.public_key)).map(|record| record.id)
}

/// Now, by this machine's clock.
fn now_ns() -> i64 {
    SystemClock.now_ns()
}
