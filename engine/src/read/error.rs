//! Errors of reading.

use hawser_proto::EnvelopeId;

/// A query or a subscription could not be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] hawser_storage::ReadError),
    /// The topic index names an envelope that the log does not hold.
    #[error("envelope {0} is indexed and not in the log")]
    Absent(EnvelopeId),
    /// The bytes that the log holds there are no envelope.
    #[error("envelope {0} in the log does not decode")]
    Undecodable(EnvelopeId),
    /// The answer would be larger than a message may be.
    #[error("the answer would take {0} bytes")]
    TooLarge(usize),
    /// The reader may not have the memory for its answer now.
    #[error("no memory for an answer of {0} bytes now")]
    NoMemory(usize),
}
