//! Where events go.

use super::event::Mark;
use super::walk::Batch;

/// Stores events. The calls block, and come one after another.
pub trait Sink: Send + Sync + 'static {
    /// Up to where everything is stored; `None` if nothing is.
    ///
    /// # Errors
    /// When it cannot be read.
    fn position(&self) -> Result<Option<Mark>, SinkError>;

    /// The place of the last payload that is stored; 0 if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn last_place(&self) -> Result<u64, SinkError>;

    /// Stores events with the position, together. Events may come again: at least once is what is
    /// promised, in the order of the chain. After a reorganisation a batch begins at or below the
    /// position, and its own position may be lower: see [`Batch::from_block`].
    ///
    /// # Errors
    /// Nothing was stored then.
    fn take(&self, batch: &Batch) -> Result<(), SinkError>;
}

/// Why events were not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The same events may be taken later.
    #[error("{0}")]
    Retry(String),
    /// Events before these are missing: they have to be read again.
    #[error("{0}")]
    Gap(String),
    /// These events contradict what is stored. Nothing more is to be read until somebody has
    /// decided.
    #[error("{0}")]
    Stop(String),
}
