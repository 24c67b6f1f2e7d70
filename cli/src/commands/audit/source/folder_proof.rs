//! The proof that an envelope in a data folder is part of its strand.

use hawser_audit::proof::EnvelopeProof;
use hawser_node::error::RunError;
use hawser_proto::EnvelopeId;
use hawser_storage::Store;

use super::NEXT_CHECKPOINT;

/// Proves that an envelope is part of its strand, by the newest checkpoint: that of its originator, or else of a node
/// that observes the strand.
///
/// # Errors
/// When the folder does not hold the envelope, or no checkpoint covers it.
pub(in super::super) fn prove(store: &Store, id: EnvelopeId) -> Result<EnvelopeProof, RunError> {
    let snapshot = store.snapshot();
    let envelope = snapshot.get(id).map_err(RunError::failed)?;
    let envelope = envelope
        .ok_or_else(|| RunError::not_found(format!("the folder does not have envelope {id}")))?;
    if snapshot.verified_head(id.originator).map_err(RunError::failed)? < id.sequence {
        let later = "start the node, which verifies it, and try again";
        return Err(RunError::not_found(format!("{id} is not verified yet: {later}")));
    }
    let mut nodes = snapshot.checkpoint_nodes(id.originator).map_err(RunError::failed)?;
    nodes.sort_by_key(|node| *node != id.originator);
    for node in nodes {
        let newest = snapshot.checkpoint(id.originator, node, u64::MAX);
        let Some(checkpoint) = newest.map_err(RunError::failed)? else { continue };
        let size = checkpoint.signed.checkpoint.size;
        if size >= id.sequence.0
            && let Ok(inclusion) = snapshot.inclusion(id, size)
        {
            return Ok(EnvelopeProof { envelope, inclusion, checkpoint });
        }
    }
    Err(RunError::not_found(format!("no checkpoint covers {id}: {NEXT_CHECKPOINT}")))
}
