//! Why something could not be read.

use hawser_proto::EnvelopeId;

/// Why a query or a subscription could not be served. Never the reader's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] hawser_storage::ReadError),
    /// The topic index names an envelope that the log does not hold.
    #[error("envelope {0} is indexed and not in the log")]
    Absent(EnvelopeId),
    /// What the log holds there is no envelope.
    #[error("envelope {0} in the log does not decode")]
    Undecodable(EnvelopeId),
}
