//! Whether this node still has all of its own strand: if not, it must not publish.

use std::sync::Arc;
use std::time::Duration;

use hawser_proto::{OriginatorId, SequenceId};
use tokio::sync::watch;

use super::PublishError;

/// What is known of the end of this node's own strand. Cheap to clone; all clones are the same.
///
/// A node whose folder was set back in time, as by a restored backup, would give sequence ids out
/// twice. Its peers have seen the first ones.
#[derive(Debug, Clone)]
pub(super) struct OwnStrand {
    standing: Arc<watch::Sender<Standing>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody is known to hold more of it than this node.
    Whole,
    /// A peer says that it holds more. That is no proof, so it is asked to show it.
    Asking {
        /// Who says so.
        peer: OriginatorId,
        /// Up to where, by its own word.
        head: SequenceId,
    },
    /// A peer has shown what this node signed and does not hold. Lasts until the process ends.
    SetBack {
        /// Whether a peer that is connected says it holds more than has been fetched.
        is_behind: bool,
    },
}

impl Default for OwnStrand {
    fn default() -> Self {
        Self { standing: Arc::new(watch::Sender::new(Standing::Whole)) }
    }
}

impl OwnStrand {
    fn get(&self) -> Standing {
        *self.standing.borrow()
    }

    /// Takes over what is known now. That the strand was set back stays known.
    pub(super) fn note(&self, standing: Standing) {
        self.standing.send_if_modified(|known| {
            let is_set_back = |standing: &Standing| matches!(standing, Standing::SetBack { .. });
            let is_news = *known != standing && (!is_set_back(known) || is_set_back(&standing));
            if is_news {
                *known = standing;
            }
            is_news
        });
    }

    /// Whether a peer has shown that the strand was set back.
    pub(super) fn is_set_back(&self) -> bool {
        matches!(self.get(), Standing::SetBack { .. })
    }

    /// Returns once it is known that the strand was set back.
    pub(super) async fn set_back(&self) {
        let mut changes = self.standing.subscribe();
        let set_back = |standing: &Standing| matches!(standing, Standing::SetBack { .. });
        changes.wait_for(set_back).await.map(drop).expect("the sender is held here");
    }

    /// Whether new places may be given out.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] with why not.
    pub(super) fn may_grow(&self) -> Result<(), PublishError> {
        let (reason, retry_after_s) = match self.get() {
            Standing::Whole => return Ok(()),
            Standing::Asking { peer, head } => {
                let reason = format!(
                    "node {peer} says that it holds this node's own strand up to {head}, which is \
                     more than there is here: it is being asked for it"
                );
                (reason, 5)
            }
            Standing::SetBack { is_behind: true } => {
                let reason = "this node has lost the end of its own strand, as a restored backup \
                              has: it is being fetched from peers";
                (reason.to_owned(), 60)
            }
            Standing::SetBack { is_behind: false } => {
                let reason = "this node had lost the end of its own strand and has fetched what \
                              connected peers hold of it: make sure that no other process uses \
                              its key, then restart it to publish again";
                (reason.to_owned(), 60)
            }
        };
        Err(PublishError::Unavailable { reason, retry_after: Duration::from_secs(retry_after_s) })
    }
}
