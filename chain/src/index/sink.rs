//! The port through which events are stored.

use hawser_proto::SequenceId;

use super::event::{BlockRef, IndexedEvent};
use super::walk::EventBatch;

/// A store for the events of one contract. Its methods block. None is called while another one runs, except for
/// [`known`](Self::known).
pub trait Sink: Send + Sync + 'static {
    /// Returns the last block whose events are stored together with those of all blocks before it;
    /// `None` if nothing is stored.
    ///
    /// # Errors
    /// Fails when the position cannot be read.
    fn position(&self) -> Result<Option<BlockRef>, SinkError>;

    /// Returns a block that was read long ago, by which a chain that was started anew is told from the former one;
    /// `None` if the sink keeps none, as one that notices other events by their sequence ids.
    ///
    /// # Errors
    /// Fails when it cannot be read.
    fn old_block(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(None)
    }

    /// Returns the highest stored sequence id; 0 if there is none.
    ///
    /// # Errors
    /// Fails when it cannot be read.
    fn last_sequence_id(&self) -> Result<SequenceId, SinkError>;

    /// Stores the events and the new position atomically.
    ///
    /// Events come in the order of the chain, each at least once. After a reorganisation, a batch starts at or below
    /// the stored position and may end below it: see [`EventBatch::from_block`].
    ///
    /// # Errors
    /// The events were not stored. The variant decides how the reader continues.
    fn store(&self, batch: &EventBatch) -> Result<(), SinkError>;

    /// Returns the first block that is not rechecked, as noted last; `None` if the sink notes none. Called once, before
    /// reading begins.
    ///
    /// # Errors
    /// Fails when it cannot be read.
    fn recheck_from(&self) -> Result<Option<u64>, SinkError> {
        Ok(None)
    }

    /// Notes the first block that is not rechecked. It may be lost in a crash, but not after a later
    /// [`store`](Self::store).
    ///
    /// # Errors
    /// Fails when it cannot be noted.
    fn note_recheck_from(&self, _block: u64) -> Result<(), SinkError> {
        Ok(())
    }

    /// Returns for each event, in order, whether it is stored or can never be. `None` if the sink notices missing
    /// events by itself, as one does that stores events by their sequence ids.
    ///
    /// The blocks of the events are read and stored. An endpoint may have made the events up.
    ///
    /// # Errors
    /// Fails when the stored events cannot be read.
    fn known(&self, _events: &[IndexedEvent]) -> Result<Option<Vec<bool>>, SinkError> {
        Ok(None)
    }
}

/// Error of a sink; nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The sink cannot store the batch now, but may later.
    #[error("{0}")]
    Retry(String),
    /// Earlier events are missing and have to be read again.
    #[error("{0}")]
    Gap(String),
    /// The events contradict stored ones. Reading stops until an operator decides.
    #[error("{0}")]
    Stop(String),
}
