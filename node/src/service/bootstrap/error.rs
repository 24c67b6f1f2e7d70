//! Why a copy was refused, or could not be taken over.

use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{BootstrapError, CommitError, DatabaseError, ReadError, TreeError};

use crate::error::RunError;
use crate::service::import::ImportError;
use crate::service::open::OpenNodeError;

/// Why a copy was refused, or could not be taken over. No node starts from the folder then.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapFetchError {
    /// A replica follows what its sources list, which no registry says.
    #[error(
        "a replica takes everything from its sources (--follow): a snapshot is for a node of the registry"
    )]
    Replica,
    /// The copy is of another network.
    #[error("the snapshot is of network {found:?}, not {wanted:?}. Nothing was written")]
    OtherNetwork {
        /// The network of the copy.
        found: String,
        /// The network of the settings.
        wanted: String,
    },
    /// A checkpoint bears the name of a node that has not signed it.
    #[error(
        "strand {originator}: node {node} has not signed the checkpoint that bears its name, so the snapshot was \
         altered: take another one. Nothing was written"
    )]
    ForgedCheckpoint {
        /// The strand.
        originator: OriginatorId,
        /// The node.
        node: OriginatorId,
    },
    /// The copy ends before the size that a node has signed.
    #[error(
        "strand {originator}: {signed} places were signed, and the snapshot ends at {head}: it was cut off. Take \
         another one. Nothing was written"
    )]
    Cut {
        /// The strand.
        originator: OriginatorId,
        /// The size that was signed.
        signed: u64,
        /// The end of the copy.
        head: SequenceId,
    },
    /// An envelope is not signed by the node of its strand.
    #[error(
        "strand {originator}, place {place}: the node has not signed this envelope, or it belongs to another place: \
         the snapshot was altered. Remove the data folder and take another one"
    )]
    Forged {
        /// The strand.
        originator: OriginatorId,
        /// The place, as the copy says.
        place: SequenceId,
    },
    /// The envelopes make another tree than a node has signed.
    #[error(
        "strand {originator}: the first {size} places make another tree than node {node} has signed: envelopes of the \
         snapshot were exchanged, or the node has signed two things. Remove the data folder and take another one"
    )]
    OtherTree {
        /// The strand.
        originator: OriginatorId,
        /// The node that signed the checkpoint.
        node: OriginatorId,
        /// The size that was signed.
        size: u64,
    },
    /// The copy cannot be read, or is damaged.
    #[error("the snapshot: {0}")]
    Snapshot(#[from] BootstrapError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(Box<ImportError>),
    /// Settings, registry or chains cannot be used.
    #[error(transparent)]
    Open(Box<OpenNodeError>),
    /// The log cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A tree cannot be read.
    #[error("a tree: {0}")]
    Tree(#[from] TreeError),
    /// The log cannot be brought to the disk.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<ImportError> for BootstrapFetchError {
    fn from(error: ImportError) -> Self {
        Self::Folder(Box::new(error))
    }
}

impl From<OpenNodeError> for BootstrapFetchError {
    fn from(error: OpenNodeError) -> Self {
        Self::Open(Box::new(error))
    }
}

impl From<BootstrapFetchError> for RunError {
    fn from(error: BootstrapFetchError) -> Self {
        match error {
            BootstrapFetchError::Open(error) => (*error).into(),
            BootstrapFetchError::Folder(error) => (*error).into(),
            BootstrapFetchError::Snapshot(error) => run_error(&error),
            BootstrapFetchError::Replica => Self::usage(error),
            BootstrapFetchError::OtherNetwork { .. }
            | BootstrapFetchError::ForgedCheckpoint { .. }
            | BootstrapFetchError::Cut { .. }
            | BootstrapFetchError::Forged { .. }
            | BootstrapFetchError::OtherTree { .. } => Self::refused(error),
            BootstrapFetchError::Commit(_)
            | BootstrapFetchError::Read(_)
            | BootstrapFetchError::Tree(_)
            | BootstrapFetchError::Database(_) => Self::failed(error),
        }
    }
}

/// Converts the error of work on copies.
#[must_use]
pub fn run_error(error: &BootstrapError) -> RunError {
    match error {
        BootstrapError::None { .. } | BootstrapError::NotFound { .. } => RunError::not_found(error),
        BootstrapError::Stopped => RunError::refused(error),
        _ => RunError::failed(error),
    }
}
