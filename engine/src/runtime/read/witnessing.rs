//! Answers to logs that ask this process, a witness, for cosignatures (C2SP `tlog-witness`).

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint, WitnessCosignature, WitnessName};
use hawser_proto::merkle::{ConsistencyProof, ProofError};
use hawser_storage::{ReadError, Snapshot};

use super::proofs::ProofReader;
use crate::read::error::QueryError;
use crate::replication::{StoredTrees, Trees as _};

/// Number of newest checkpoints that are searched for the last one with the witness's cosignature. A guess: a
/// witness cosigns the largest of those that it is shown within a quarter of a second.
const LOOKED_AT_MAX: usize = 64;

/// The name and the key id of a witness.
pub type WitnessId<'a> = (&'a WitnessName, [u8; 4]);

/// The state of a checkpoint that a log wants to have cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WitnessState {
    /// It is cosigned.
    Cosigned(WitnessCosignature),
    /// This is the size that was cosigned last. The log stated another size.
    OtherSize(u64),
    /// The proof does not lead from the tree that was cosigned last to this one.
    Unproven(ProofError),
    /// The tree that is held here has another root.
    OtherTree,
    /// A larger one of its node and strand is held, so it is never cosigned.
    Overtaken,
    /// No known fact contradicts the checkpoint. The exchange of checkpoints, which sees everything that peers show,
    /// decides on cosigning, and waits for envelopes that this node lacks.
    Open,
}

impl ProofReader {
    /// Returns the state of a checkpoint whose signature the caller has verified. `old_size` and `proof` are the log's.
    ///
    /// Blocks on the disk, as all methods here.
    ///
    /// # Errors
    /// [`QueryError`] if a row cannot be read.
    pub fn witness_state(
        &self,
        of: &Checkpoint,
        old_size: u64,
        proof: &ConsistencyProof,
        witness: WitnessId<'_>,
    ) -> Result<WitnessState, QueryError> {
        let snapshot = self.store().snapshot();
        let last = last_cosigned(&snapshot, of.originator, of.node, witness)?;
        if old_size != last {
            return Ok(WitnessState::OtherSize(last));
        }
        let trees = StoredTrees(&snapshot);
        let held = trees.root(of.originator, of.size);
        if held.is_some_and(|root| root != of.root) {
            return Ok(WitnessState::OtherTree);
        }
        if let Some(cosigned) = cosigned(&snapshot, of, witness)? {
            return Ok(WitnessState::Cosigned(cosigned));
        }
        let shown = match (old_size, trees.root(of.originator, old_size)) {
            (0, _) if proof.0.is_empty() => Ok(()),
            (0, _) => Err(ProofError::Length(proof.0.len())),
            (_, Some(root)) => proof.verify(old_size, of.size, root, of.root),
            // The tree was cut below the old size since. The exchange compares cosigned checkpoints with the new tree.
            (_, None) => Ok(()),
        };
        if let Err(error) = shown {
            return Ok(WitnessState::Unproven(error));
        }
        let newest = snapshot.checkpoint(of.originator, of.node, u64::MAX)?;
        let is_overtaken = newest.is_some_and(|newest| newest.signed.checkpoint.size > of.size);
        Ok(if is_overtaken { WitnessState::Overtaken } else { WitnessState::Open })
    }

    /// Returns the cosignature of a witness for a checkpoint, if there is one.
    ///
    /// # Errors
    /// [`QueryError`] if a row cannot be read.
    pub fn witnessed(
        &self,
        of: &Checkpoint,
        witness: WitnessId<'_>,
    ) -> Result<Option<WitnessCosignature>, QueryError> {
        Ok(cosigned(&self.store().snapshot(), of, witness)?)
    }
}

fn line(of: &CosignedCheckpoint, witness: WitnessId<'_>) -> Option<WitnessCosignature> {
    of.witnesses.iter().find(|it| it.signer() == witness).cloned()
}

fn cosigned(
    snapshot: &Snapshot<'_>,
    of: &Checkpoint,
    witness: WitnessId<'_>,
) -> Result<Option<WitnessCosignature>, ReadError> {
    let held = snapshot.checkpoint_at(of.originator, of.node, of.size)?;
    Ok(held.filter(|it| it.signed.checkpoint.root == of.root).and_then(|it| line(&it, witness)))
}

/// Returns the size of the last checkpoint that the witness has cosigned; 0 if there is none among the newest.
fn last_cosigned(
    snapshot: &Snapshot<'_>,
    originator: OriginatorId,
    node: OriginatorId,
    witness: WitnessId<'_>,
) -> Result<u64, ReadError> {
    let mut size_max = u64::MAX;
    for _ in 0..LOOKED_AT_MAX {
        let Some(it) = snapshot.checkpoint(originator, node, size_max)? else { return Ok(0) };
        let size = it.signed.checkpoint.size;
        if line(&it, witness).is_some() {
            return Ok(size);
        }
        let Some(below) = size.checked_sub(1) else { return Ok(0) };
        size_max = below;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::merkle::TreeHash;
    use hawser_rules::PicoDollarPrice;
    use hawser_storage::{Store, StoreIdentity};

    use super::*;

    #[test]
    fn what_is_smaller_than_a_checkpoint_that_is_held_is_overtaken() {
        let (key, node) = (SecretKey::from_bytes(&[1; 32]).unwrap(), OriginatorId(100));
        let public_key = key.public_key();
        let identity =
            StoreIdentity { network: "test".into(), node: OriginatorId::REPLICA, public_key };
        let store = Store::in_memory(identity, |_, _| PicoDollarPrice(0)).unwrap();
        let checkpoint = |size| {
            let root = TreeHash([1; 32]);
            Checkpoint { node, originator: node, size, root, time_ns: 1 }
        };
        let (reader, name) =
            (ProofReader::new(store.clone()), WitnessName::new("w.example/1").unwrap());
        let state = |size| {
            let none = ConsistencyProof(Vec::new());
            reader.witness_state(&checkpoint(size), 0, &none, (&name, [1; 4])).unwrap()
        };
        assert_eq!(state(7), WitnessState::Open);
        store.put_checkpoint(&checkpoint(8).sign(&key).into()).unwrap();
        assert_eq!(state(7), WitnessState::Overtaken);
        for size in [8, 9] {
            assert_eq!(state(size), WitnessState::Open, "{size}");
        }
    }
}
