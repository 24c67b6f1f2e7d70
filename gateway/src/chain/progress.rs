//! The progress of a payload, as the requests see it that wait for it.

use tokio::sync::watch;

use super::item::ChainResult;
use super::waiting::Waiting;
use super::writer::ChainPublishError;

/// The progress of a payload.
#[derive(Debug, Clone)]
pub(super) enum Progress {
    /// The payload was not yet seen on the chain.
    Sending,
    /// The payload is on the chain, so the next payload of its topic comes after it.
    OnChain,
    /// The attempt has ended with this result.
    Done(ChainResult),
}

impl Progress {
    /// Returns true if the payload is on the chain.
    pub(super) fn is_on_chain(&self) -> bool {
        matches!(self, Self::OnChain | Self::Done(Ok(_) | Err(ChainPublishError::NotShown { .. })))
    }

    /// Returns true if nodes have shown or dropped the payload. The next one of its topic can then be judged after it.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::Done(Ok(_) | Err(ChainPublishError::Dropped { .. })))
    }

    /// Returns the result, if the attempt has ended.
    pub(super) fn result(&self) -> Option<ChainResult> {
        match self {
            Self::Sending | Self::OnChain => None,
            Self::Done(result) => Some(result.clone()),
        }
    }
}

/// An attempt to publish a payload. Requests with an equal payload wait for the same attempt.
#[derive(Debug, Clone)]
pub(super) struct PayloadAttempt {
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) waiting: Waiting,
    /// True if an earlier attempt has sent the payload, and this one finds out the outcome.
    pub(super) is_followed: bool,
}

impl PayloadAttempt {
    /// Returns true if the attempt has no result yet. One whose task a bug has ended will have none.
    pub(super) fn is_open(&self) -> bool {
        let goes_on = self.progress.has_changed().is_ok();
        goes_on && !matches!(*self.progress.borrow(), Progress::Done(_))
    }
}
