//! Everything that is injected into the engine when it starts.

use std::sync::Arc;

use hawser_rules::{RateTable, Registry};
use tokio::sync::watch;

use crate::ports::{Clock, IdentityJudge, PayloadValidator};

/// The capabilities and values that the engine needs from outside.
///
/// The runtime reads the newest registry and price list when a decision needs them, and hands them
/// over as values: a decision sees no channel.
#[derive(Clone)]
pub struct Ports {
    /// The wall clock: times of envelopes, expiries and rates depend on it.
    pub clock: Arc<dyn Clock>,
    /// Judges key packages.
    pub validator: Arc<dyn PayloadValidator>,
    /// Judges identity updates.
    pub identities: Arc<dyn IdentityJudge>,
    /// The registry, kept current by its owner.
    pub registry: watch::Receiver<Arc<Registry>>,
    /// The price list, kept current by its owner.
    pub rates: watch::Receiver<Arc<RateTable>>,
}
