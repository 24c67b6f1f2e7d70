//! Errors of appending to a chain strand.

use hawser_proto::{Bytes, EnvelopeId, SequenceId};
use hawser_storage::{CommitError, ReadError};

use crate::chain_strand::ChainEvent;

/// Chain events were not appended.
#[derive(Debug, thiserror::Error)]
pub enum ChainAppendError {
    /// The strand cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The strand cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The contract numbers its events without gaps, unless they were bootstrapped.
    #[error("event {got} cannot follow {head}: events are missing between them")]
    Gap {
        /// The last event held.
        head: EnvelopeId,
        /// The event that came.
        got: SequenceId,
    },
    /// The chain has a different event at a place that is already stored: the chain was reorganised
    /// below it, or the endpoint lies. The strand keeps the stored event and halts.
    #[error(
        "the chain has another event at {} than the log holds: it was reorganised below what is \
             stored, or an endpoint lies; compare endpoints before anything else", .0.at
    )]
    Conflict(Box<ChainConflict>),
}

impl ChainAppendError {
    /// Returns true if the same events may be appended later, when the disk allows.
    #[must_use]
    pub fn is_of_disk(&self) -> bool {
        match self {
            Self::Read(_) => true,
            Self::Commit(error) => error.is_of_disk(),
            Self::Gap { .. } | Self::Conflict(_) => false,
        }
    }
}

/// Two events in one place: the evidence of a reorganisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainConflict {
    /// The place.
    pub at: EnvelopeId,
    /// The originator envelope that the log holds; `None` where the place was declared void.
    pub held: Option<Bytes>,
    /// The event that the chain has there now.
    pub came: ChainEvent,
}
