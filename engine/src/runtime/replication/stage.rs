//! The stages of a strand that readers may be shown before it is verified.

use hawser_proto::SequenceId;

/// The stage of a strand. It changes only while nothing of the strand is checked or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Everything accepted is verified.
    Verified,
    /// Readers are shown what is not verified; a job behind verifies it.
    Shown {
        /// Everything up to this place is verified.
        verified: SequenceId,
    },
    /// An unverified place has a bad outer layer, so what is not verified is asked for again, and verified as it comes.
    AskedAgain {
        /// The last place that readers are shown.
        head: SequenceId,
    },
}
