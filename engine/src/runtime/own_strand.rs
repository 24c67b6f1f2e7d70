//! Status of this node's own strand. While a peer may hold more of it, the node must not publish.

use std::sync::Arc;
use std::time::Duration;

use hawser_proto::{OriginatorId, SequenceId};
use tokio::sync::watch;

/// A claim about the own strand is settled within seconds: the peer shows what it holds, or is not
/// believed any more.
const RETRY_CLAIMED: Duration = Duration::from_secs(5);
/// A strand that was set back takes at least a restart. Guessed.
const RETRY_SET_BACK: Duration = Duration::from_secs(60);

/// Knowledge about the end of this node's own strand. Cheap to clone; all clones are the same.
///
/// A node whose folder was set back in time, as by a restored backup, would give sequence ids out
/// twice. Its peers have seen the first ones.
#[derive(Debug, Clone)]
pub(super) struct OwnStrand {
    status: Arc<watch::Sender<OwnStrandStatus>>,
}

/// Status of a node's own strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnStrandStatus {
    /// No peer is known to hold more of it than this node.
    Whole,
    /// A peer claims that it holds more. That is no proof, so it is asked to show it.
    Claimed {
        /// The peer that claims it.
        peer: OriginatorId,
        /// The head that it claims.
        head: SequenceId,
    },
    /// A peer has shown what this node signed and does not hold. Lasts until the process ends.
    SetBack {
        /// A connected peer claims to hold more than has been fetched.
        is_behind: bool,
    },
}

/// This node must not give out places in its own strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum OwnStrandError {
    /// A peer claims to hold more of it, and is asked to show it.
    #[error(
        "node {peer} says that it holds this node's own strand up to {head}, which is more than \
         there is here: it is being asked for it"
    )]
    Claimed {
        /// The peer that claims it.
        peer: OriginatorId,
        /// The head that it claims.
        head: SequenceId,
    },
    /// The strand was set back, and its end is being fetched.
    #[error(
        "this node has lost the end of its own strand, as a restored backup has: it is being \
         fetched from peers"
    )]
    Behind,
    /// The strand was set back, and its end has been fetched from the connected peers.
    #[error(
        "this node had lost the end of its own strand and has fetched what connected peers hold of \
         it: make sure that no other process uses its key, then restart it to publish again"
    )]
    SetBack,
}

impl OwnStrandError {
    /// Returns the time after which a publisher may try again.
    pub(super) fn retry_after(self) -> Duration {
        match self {
            Self::Claimed { .. } => RETRY_CLAIMED,
            Self::Behind | Self::SetBack => RETRY_SET_BACK,
        }
    }
}

impl Default for OwnStrand {
    fn default() -> Self {
        Self { status: Arc::new(watch::Sender::new(OwnStrandStatus::Whole)) }
    }
}

impl OwnStrand {
    /// Takes a status over. Once the strand is known to have been set back, only another
    /// [`OwnStrandStatus::SetBack`] replaces that.
    pub(super) fn note(&self, status: OwnStrandStatus) {
        self.status.send_if_modified(|known| {
            let changes = *known != status && (!is_set_back(known) || is_set_back(&status));
            if changes {
                *known = status;
            }
            changes
        });
    }

    /// Returns true if a peer has shown that the strand was set back.
    pub(super) fn is_set_back(&self) -> bool {
        is_set_back(&self.status.borrow())
    }

    /// Returns once a peer has shown that the strand was set back. Cancel safe.
    pub(super) async fn set_back(&self) {
        let mut changes = self.status.subscribe();
        changes.wait_for(is_set_back).await.map(drop).expect("the sender is held here");
    }

    /// Checks that new places may be given out.
    ///
    /// # Errors
    /// [`OwnStrandError`] while this node may hold less of its strand than a peer.
    pub(super) fn check(&self) -> Result<(), OwnStrandError> {
        match *self.status.borrow() {
            OwnStrandStatus::Whole => Ok(()),
            OwnStrandStatus::Claimed { peer, head } => Err(OwnStrandError::Claimed { peer, head }),
            OwnStrandStatus::SetBack { is_behind: true } => Err(OwnStrandError::Behind),
            OwnStrandStatus::SetBack { is_behind: false } => Err(OwnStrandError::SetBack),
        }
    }
}

fn is_set_back(status: &OwnStrandStatus) -> bool {
    matches!(status, OwnStrandStatus::SetBack { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strand_that_was_set_back_is_never_whole_again() {
        let strand = OwnStrand::default();
        let (peer, head) = (OriginatorId(200), SequenceId(7));
        assert_eq!(strand.check(), Ok(()));
        strand.note(OwnStrandStatus::Claimed { peer, head });
        assert_eq!(strand.check(), Err(OwnStrandError::Claimed { peer, head }));
        strand.note(OwnStrandStatus::Whole);
        assert_eq!(strand.check(), Ok(()), "the claim was not proved");
        strand.note(OwnStrandStatus::SetBack { is_behind: true });
        strand.note(OwnStrandStatus::Whole);
        strand.note(OwnStrandStatus::Claimed { peer, head });
        assert_eq!(strand.check(), Err(OwnStrandError::Behind));
        strand.note(OwnStrandStatus::SetBack { is_behind: false });
        assert_eq!(strand.check(), Err(OwnStrandError::SetBack));
    }
}
