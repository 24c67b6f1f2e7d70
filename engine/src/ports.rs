//! Capabilities that the engine needs from outside, as small traits.
//!
//! The registry and the price list are plain values of `hawser-rules`. Their owners keep them
//! current, and [`runtime::Ports`](crate::runtime::Ports) holds the receiving ends: a decision gets
//! the newest value as an argument.

use bytes::Bytes;
use hawser_proto::InboxId;
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;

pub use hawser_rules::{NodeRecord, Registry};

/// Wall clock. Injected, so that a seeded test decides the time.
pub trait Clock: Send + Sync + 'static {
    /// Returns the time in unix nanoseconds. The clock may step back; a caller that needs order has
    /// to make it.
    fn now_ns(&self) -> i64;
}

/// Judge of payloads whose rules need more than their framing.
pub trait PayloadValidator: Send + Sync + 'static {
    /// Judges a key package as it was uploaded, TLS-serialized. Must be a pure function of the
    /// bytes and of the validator's own clock, bounded in time and memory.
    ///
    /// # Errors
    /// A sentence for the publisher.
    fn key_package(&self, tls_bytes: &Bytes) -> Result<(), String>;
}

/// Judge of identity updates against the state of their inbox before them.
pub trait IdentityJudge: Send + Sync + 'static {
    /// Judges an update. `earlier` are the valid updates of this inbox so far, in order; `event_ns` is
    /// the time of the update's block, unix nanoseconds.
    ///
    /// Blocks for computing only, never for a network, and is called on several threads at once.
    /// The same arguments must get the same verdict on every node, except that an update which was
    /// [`IdentityVerdict::Waiting`] may get its final verdict later, and that
    /// [`IdentityVerdict::Unanswered`] depends on what a node can reach.
    fn judge(
        &self,
        inbox: InboxId,
        earlier: &[IdentityUpdate],
        update: &IdentityUpdate,
        event_ns: i64,
    ) -> IdentityVerdict;
}

/// The verdict on an identity update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityVerdict {
    /// The update changes its inbox as it says.
    Valid,
    /// The update breaks a rule, which the text names for the log. Readers never get it.
    Invalid(String),
    /// A contract wallet that decides could not be asked in the time that the protocol gives: the update
    /// counts as invalid, for the reason given. Other nodes may have had the answer.
    Unanswered(String),
    /// The verdict is not known yet, for the reason given: a contract wallet's chain has to be
    /// asked.
    Waiting(String),
}

/// Judge that accepts every identity update: for closed networks whose chain file holds valid ones
/// only, and for tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct TrustingJudge;

impl IdentityJudge for TrustingJudge {
    fn judge(
        &self,
        _: InboxId,
        _: &[IdentityUpdate],
        _: &IdentityUpdate,
        _: i64,
    ) -> IdentityVerdict {
        IdentityVerdict::Valid
    }
}
