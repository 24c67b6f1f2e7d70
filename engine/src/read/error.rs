//! Errors of reading.

use hawser_proto::EnvelopeId;

/// A query or a subscription could not be served. The cause is always this node, never the reader.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] hawser_storage::ReadError),
    /// The topic index names an envelope that the log does not hold.
    #[error("envelope {0} is indexed and not in the log")]
    Absent(EnvelopeId),
    /// The bytes that the log holds there are no envelope.
    #[error("envelope {0} in the log does not decode")]
    Undecodable(EnvelopeId),
}
