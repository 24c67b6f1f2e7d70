//! Reasons for which a payer report cannot be judged yet.

use hawser_proto::{EnvelopeId, SequenceId};

/// The reason a report cannot be judged yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UndecidedError {
    /// This node does not hold the strand up to the end of the report.
    #[error("this node has the strand only up to {head}")]
    Behind {
        /// The last envelope that is held without gap.
        head: SequenceId,
    },
    /// The envelope at one of the report's ends is not held.
    #[error("this node does not have envelope {0}")]
    NoEnvelope(EnvelopeId),
    /// Places of the range are missing in this node's copy of the strand, or had expired before it was made.
    #[error("this node lacks envelopes {0} to {1}")]
    Missing(SequenceId, SequenceId),
    /// The minute in which the report ends may get further envelopes.
    #[error(
        "minute {0}, in which the report ends, may get further envelopes: none of a later minute follows"
    )]
    Filling(u32),
    /// Amounts of the range are being corrected.
    #[error(
        "amounts of this originator are still being corrected: a rate or an envelope came late"
    )]
    Unpriced,
}
