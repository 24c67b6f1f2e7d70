//! Errors of reading.

use hawser_proto::{EnvelopeId, Topic};

/// A query or a subscription could not be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The store failed.
    #[error(transparent)]
    Storage(hawser_storage::ReadError),
    /// The rows are being rebuilt from the log, because the disk has damaged them. The answer would be incomplete.
    #[error("this node is rebuilding its index `{0}` from the log: ask another node meanwhile")]
    Rebuilding(&'static str),
    /// The topic index names an envelope that the log does not hold.
    #[error("envelope {0} is in an index, but not in the log")]
    Absent(EnvelopeId),
    /// The answer would be larger than a message may be.
    #[error("the answer would have {0} bytes, which is too many: ask for less at once")]
    TooLarge(usize),
    /// The logs of several inboxes fit into no answer together. Names the topic of the first one whose log is cut.
    #[error(
        "the logs of these inboxes are longer than an answer may be, and {0} is the first one that does not fit: ask for \
         fewer of them, or for pages with a limit"
    )]
    LogsTooLarge(Topic),
    /// The reader may not have the memory for its answer now.
    #[error("this node has no memory for an answer of {0} bytes now: try again later")]
    NoMemory(usize),
}

impl From<hawser_storage::ReadError> for QueryError {
    fn from(error: hawser_storage::ReadError) -> Self {
        match error {
            hawser_storage::ReadError::Rebuilding { family } => Self::Rebuilding(family),
            error => Self::Storage(error),
        }
    }
}
