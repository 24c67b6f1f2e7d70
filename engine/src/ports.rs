//! Capabilities that the engine needs from outside, as small traits.
//!
//! The registry and the price list are plain values of `hawser-rules`. Their owners keep them
//! current, and [`runtime::Ports`](crate::runtime::Ports) holds the receiving ends: a decision gets
//! the newest value as an argument.

use bytes::Bytes;
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::{InboxId, SequenceId};

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

/// Judge of identity updates against the state of their inbox before them. May remember states of inboxes, so that
/// the log of an inbox is not read for each update.
pub trait IdentityJudge: Send + Sync + 'static {
    /// Returns the judge of one inbox, with the state that was remembered of it or none. Until it is
    /// dropped or [kept](InboxJudge::keep), the engine does not open the same inbox again.
    fn open(&self, inbox: InboxId) -> Box<dyn InboxJudge>;

    /// Forgets everything that was remembered of inboxes: the log below them may be another one now.
    fn forget_all(&self);

    /// Asks for [`ChainAppender::judge_waiting`](crate::runtime::ChainAppender::judge_waiting) soon: an inbox waits
    /// until its log has been read.
    fn judge_soon(&self);

    /// Begins to request the data that the verdict on `update` needs. The update waits behind another one of its inbox;
    /// `event_ns` is the time of its block, unix nanoseconds. Without this call, each waiting update would begin its
    /// requests only after the verdict on the one before it, and several in a row would hold the inbox for the sum of
    /// their time limits. Does not block.
    fn look_ahead(&self, update: &IdentityUpdate, event_ns: i64);
}

/// Judge of the updates of one inbox, in their order. Blocks for computing only, never for a network.
pub trait InboxJudge: Send {
    /// Returns the place of the last valid update that the state has; [`SequenceId::NONE`] for a state
    /// without updates.
    fn known(&self) -> SequenceId;

    /// Forgets the state.
    fn start_over(&mut self);

    /// Adds the valid update at `at` of the log, which is the next one after [`known`](Self::known). Returns the number
    /// of signatures from which it had to find the signer, because each costs far more than the bytes of the update.
    fn add(&mut self, at: SequenceId, update: &IdentityUpdate) -> usize;

    /// Judges the update at `at`, and adds it if it is valid. All valid updates before it have been added;
    /// `event_ns` is the time of the update's block, unix nanoseconds.
    ///
    /// The same updates must get the same verdict on every node, except that an update which was
    /// [`IdentityVerdict::Waiting`] may get its final verdict later, and that
    /// [`IdentityVerdict::Unanswered`] depends on the endpoints that a node reaches.
    fn judge(&mut self, at: SequenceId, update: &IdentityUpdate, event_ns: i64) -> IdentityVerdict;

    /// Remembers the state. To be called when the log holds every update that it has; a judge that is
    /// dropped instead is forgotten.
    fn keep(self: Box<Self>);
}

/// The verdict on an identity update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityVerdict {
    /// The update is valid in the present state of its inbox.
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
    fn open(&self, _: InboxId) -> Box<dyn InboxJudge> {
        Box::new(TrustingInbox(SequenceId::NONE))
    }

    fn forget_all(&self) {}

    fn judge_soon(&self) {}

    fn look_ahead(&self, _: &IdentityUpdate, _: i64) {}
}

/// An inbox of [`TrustingJudge`]: the place of its last update.
struct TrustingInbox(SequenceId);

impl InboxJudge for TrustingInbox {
    fn known(&self) -> SequenceId {
        self.0
    }

    fn start_over(&mut self) {
        self.0 = SequenceId::NONE;
    }

    fn add(&mut self, at: SequenceId, _: &IdentityUpdate) -> usize {
        self.0 = at;
        0
    }

    fn judge(&mut self, at: SequenceId, _: &IdentityUpdate, _: i64) -> IdentityVerdict {
        self.0 = at;
        IdentityVerdict::Valid
    }

    fn keep(self: Box<Self>) {}
}
