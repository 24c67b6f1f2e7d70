//! Checkpoints: what a node signs about the tree of a strand, as `docs/protocol/checkpoints.md` lays it down.
//!
//! - [`Checkpoint`] and [`SignedCheckpoint`]: the statement of a node, about its own strand or, as an observer,
//!   about another one;
//! - [`Cosignature`]: the statement of another node that the checkpoint agrees with all that it saw before;
//! - [`WitnessCosignature`]: the same statement of a witness without a node, with Ed25519;
//! - [`CosignedCheckpoint`]: all of these together, in binary form and as a note;
//! - [`SignedPrefix`]: the beginning of a strand, shown to be that of a signed tree;
//! - [`CheckpointSubmission`]: a checkpoint on its way to a witness, and the answer.

mod codec;
mod cosigned;
mod names;
mod note;
mod prefix;
mod statement;
mod submission;
#[cfg(test)]
mod tests;
mod witness;

pub use codec::{CHECKPOINT_LEN, CODEC_LEN_BYTES_MAX, CheckpointCodecError};
pub use cosigned::{COSIGNATURES_MAX, CosignedCheckpoint, WITNESSES_MAX};
pub use names::{
    LogPath, NETWORK_LEN_MAX, WITNESS_NAME_LEN_MAX, WitnessName, cosigner_name, log_of_path,
    note_text, origin,
};
pub use note::{NOTE_LEN_BYTES_MAX, NoteError};
pub use prefix::{PREFIX_LEN_MAX, SignedPrefix};
pub use statement::{Checkpoint, CheckpointError, Cosignature, SignedCheckpoint};
pub use submission::{
    ANSWER_LEN_BYTES_MAX, CheckpointSubmission, SIZE_MEDIA_TYPE, SUBMISSION_LEN_BYTES_MAX,
    SUBMISSION_PATH, SubmissionError, cosignature_lines, read_cosignature_lines,
};
pub use witness::{WitnessCosignature, WitnessError, WitnessKey, WitnessSigner};
