//! Capabilities that the engine needs from outside, as small traits.
//!
//! The registry and the price list are plain values of `hawser-rules`. Their owners keep them
//! current, and [`runtime::Ports`](crate::runtime::Ports) holds the receiving ends: a decision gets
//! the newest value as an argument.

use bytes::Bytes;
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;

pub use hawser_rules::{NodeRecord, Registry};

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
