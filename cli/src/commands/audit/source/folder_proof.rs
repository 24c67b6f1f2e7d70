//! The proof that an envelope in a data folder is part of its strand.

use hawser_audit::proof::EnvelopeProof;
use hawser_node::error::RunError;
use hawser_proto::EnvelopeId;
use hawser_rules::Registry;
use hawser_storage::Store;

use super::{NEXT_CHECKPOINT, strongest};

/// Proves that an envelope is part of its strand, by the checkpoint that the most nodes have signed, of the newest ones
/// of each node: of its originator, and of nodes that observe the strand. A chain's strand may have been cut since one
/// was signed. If the registry confirms none of them, the proof is by the first one, and is refuted.
///
/// # Errors
/// When the folder does not hold the envelope, or no checkpoint covers it.
pub(in super::super) fn prove(
    store: &Store,
    id: EnvelopeId,
    registry: &Registry,
) -> Result<EnvelopeProof, RunError> {
    let snapshot = store.snapshot();
    let envelope = snapshot.get(id).map_err(RunError::failed)?;
    let envelope = envelope
        .ok_or_else(|| RunError::not_found(format!("the folder does not have envelope {id}")))?;
    if snapshot.verified_head(id.originator).map_err(RunError::failed)? < id.sequence {
        let later = "start the node, which verifies it, and try again";
        return Err(RunError::not_found(format!("{id} is not verified yet: {later}")));
    }
    let (mut checkpoints, mut unread) = (Vec::new(), None);
    for node in snapshot.checkpoint_nodes(id.originator).map_err(RunError::failed)? {
        let up_to = |size_max| snapshot.standing_checkpoint(id.originator, node, size_max);
        match strongest::strongest(id.sequence, registry, up_to) {
            Ok(found) => checkpoints.extend(found),
            Err(error) => unread = unread.or(Some(error)), // another node's may do
        }
    }
    strongest::sort(&mut checkpoints, id.originator, registry);
    let mut refuted = None;
    for checkpoint in checkpoints {
        let Ok(inclusion) = snapshot.inclusion(id, checkpoint.signed.checkpoint.size) else {
            continue;
        };
        let proof = EnvelopeProof { envelope: envelope.clone(), inclusion, checkpoint };
        if proof.verify(registry).is_ok() {
            return Ok(proof);
        }
        refuted.get_or_insert(proof);
    }
    let uncovered = || RunError::not_found(format!("no checkpoint covers {id}: {NEXT_CHECKPOINT}"));
    refuted.ok_or_else(|| unread.map_or_else(uncovered, RunError::failed))
}

#[cfg(test)]
mod tests {
    use hawser_node::error::RunErrorKind;
    use hawser_proto::checkpoint::Checkpoint;
    use hawser_proto::merkle::TreeHash;
    use hawser_proto::{Bytes, OriginatorId, SecretKey, SequenceId};
    use hawser_rules::PicoDollarPrice;
    use hawser_storage::{Change, InvalidRule, LogEntry, StoreIdentity};

    use super::*;

    /// The operator has cut a chain's strand below the newest checkpoint, and the node has read another branch since.
    #[test]
    fn a_checkpoint_from_before_a_cut_makes_no_proof() {
        let (key, node) = (SecretKey::from_bytes(&[7; 32]).unwrap(), OriginatorId(100));
        let identity = StoreIdentity { network: "test".into(), node, public_key: key.public_key() };
        let store = Store::in_memory(identity, |_, _| PicoDollarPrice(0)).unwrap();
        let originator = OriginatorId::GROUP_MESSAGES;
        let id = |place: u64| EnvelopeId::new(originator, SequenceId(place));
        let append = |place: u64| {
            let bytes = Bytes::from_static(b"envelope");
            Change::Append(LogEntry::invalid(id(place), bytes, InvalidRule(1)))
        };
        store.commit(&[append(1), append(2), append(3)]).unwrap();
        let standing = store.snapshot().root(originator, 2).unwrap();
        for (size, root) in [(2, standing), (3, TreeHash([1; 32]))] {
            let of = Checkpoint { node, originator, size, root, time_ns: size };
            store.put_checkpoint(&of.sign(&key).into()).unwrap();
        }
        let proven = prove(&store, id(1), &Registry::default())
            .map(|it| it.checkpoint.signed.checkpoint.size);
        assert_eq!(proven.map_err(|error| error.text), Ok(2));
        let unproven =
            prove(&store, id(3), &Registry::default()).map(|_| ()).map_err(|error| error.kind);
        assert_eq!(unproven, Err(RunErrorKind::NotFound));
    }
}
