//! What the engine needs from outside, as small traits and plain values.
//!
//! The registry and the rates are values that somebody else keeps current: the engine gets the
//! receiving end of a watch channel and reads the newest state when it decides.

use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use tokio::sync::watch;

pub use hawser_rules::{NodeRecord, Registry};

use hawser_rules::RateTable;

/// Wall clock time. Injected, so that a seeded test decides what time it is.
pub trait Clock: Send + Sync + 'static {
    /// Unix nanoseconds. May step back; whoever needs order has to make it.
    fn now_ns(&self) -> i64;
}

/// Judges payloads whose rules need more than their framing.
pub trait PayloadValidator: Send + Sync + 'static {
    /// A key package as it was uploaded, TLS-serialized. Must be a pure function of the bytes and
    /// of the validator's own clock, bounded in time and memory.
    ///
    /// # Errors
    /// A sentence for the publisher.
    fn key_package(&self, tls_bytes: &Bytes) -> Result<(), String>;
}

/// Judges identity updates against the state of their inbox before them.
pub trait IdentityJudge: Send + Sync + 'static {
    /// `earlier` are the valid updates of this inbox so far, in order. Blocks for computing only,
    /// never for a network, and is called on several threads at once. The same arguments must get
    /// the same verdict on every node, except that what was [`IdentityVerdict::Waiting`] may become
    /// known.
    fn judge(
        &self,
        inbox: [u8; 32],
        earlier: &[IdentityUpdate],
        update: &IdentityUpdate,
    ) -> IdentityVerdict;
}

/// What an identity update is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityVerdict {
    /// It changes its inbox as it says.
    Valid,
    /// It breaks a rule, which the text names for people: nobody gets to see it.
    Invalid(String),
    /// It cannot be known yet, for the reason given: a contract wallet's chain has to be asked.
    Waiting(String),
}

/// Takes every identity update: for closed networks whose chain file holds valid ones only, and
/// for tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct TrustingJudge;

impl IdentityJudge for TrustingJudge {
    fn judge(&self, _: [u8; 32], _: &[IdentityUpdate], _: &IdentityUpdate) -> IdentityVerdict {
        IdentityVerdict::Valid
    }
}

/// What is injected into the engine when it starts.
#[derive(Clone)]
pub struct Ports {
    /// Wall clock.
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
