//! Chain events on their way into the log, through the same commits as everything else.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{CommitError, ReadError, SkipReason, Store};

use super::committer::{Addition, Committer};
use crate::chain_strand::{ChainEntry, ChainEvent, entry};
use crate::facts;

/// Why chain events could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum ChainAppendError {
    /// The strand cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The strand cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The contract numbers its events without gaps.
    #[error("event {got} cannot follow {head}: events are missing between them")]
    Gap {
        /// The last event held.
        head: EnvelopeId,
        /// The one that came.
        got: SequenceId,
    },
}

/// Appends events to the two chain strands. Used by one caller at a time.
#[derive(Clone)]
pub struct ChainAppender {
    store: Store,
    committer: Committer,
}

impl ChainAppender {
    /// Puts the parts together.
    #[must_use]
    pub fn new(store: Store, committer: Committer) -> Self {
        Self { store, committer }
    }

    /// Appends `events`, ascending, to a chain strand. What is held already is left out, so that
    /// giving the same events again is harmless. Blocks for a sync of the disk.
    ///
    /// # Errors
    /// Nothing was written then.
    pub fn append(
        &self,
        originator: OriginatorId,
        events: &[ChainEvent],
    ) -> Result<(), ChainAppendError> {
        let mut head = self.store.snapshot().head(originator)?;
        let mut additions = Vec::with_capacity(events.len());
        for event in events {
            if event.sequence <= head {
                self.compare(originator, event)?;
                continue;
            }
            if event.sequence != head.next() {
                let head = EnvelopeId::new(originator, head);
                return Err(ChainAppendError::Gap { head, got: event.sequence });
            }
            additions.push(self.addition(originator, event));
            head = event.sequence;
        }
        Ok(self.committer.commit(additions)?)
    }

    fn addition(&self, originator: OriginatorId, event: &ChainEvent) -> Addition {
        match entry(originator, event) {
            ChainEntry::Envelope(envelope) => {
                let own = self.store.identity().node;
                let facts = facts::of_statement(envelope.unsigned(), None, own);
                Addition::envelope(envelope.unsigned(), envelope.as_bytes().clone(), facts)
            }
            ChainEntry::Void(id) => Addition::Skip {
                originator,
                from: id.sequence,
                through: id.sequence,
                reason: SkipReason::Void,
            },
        }
    }

    /// A place that is taken keeps what it holds; that something else came for it is said.
    fn compare(&self, originator: OriginatorId, event: &ChainEvent) -> Result<(), ReadError> {
        let id = EnvelopeId::new(originator, event.sequence);
        let held = self.store.snapshot().get(id)?;
        let came = match entry(originator, event) {
            ChainEntry::Envelope(envelope) => Some(envelope.as_bytes().clone()),
            ChainEntry::Void(_) => None,
        };
        if held != came {
            tracing::warn!(%id, "a chain event differs from what the log holds in its place; kept");
        }
        Ok(())
    }
}
