//! Proofs about strands for readers, each over one snapshot.

use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::merkle::{ConsistencyProof, InclusionProof, ProofError, Tile, TreeHash};
use hawser_proto::void::SignedVoid;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{ReadError, Snapshot, Store, TreeError};

use crate::read::error::QueryError;

/// Reads trees and checkpoints. Cheap to clone.
#[derive(Clone)]
pub struct ProofReader {
    store: Store,
}

/// The reason there is no proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoProofError {
    /// This node holds no such checkpoint.
    #[error("this node holds no such checkpoint of strand {0}")]
    NoCheckpoint(OriginatorId),
    /// The tree that is held here is not the one that was signed: its strand was cut off since.
    #[error("this node's tree of strand {0} differs from the signed one")]
    OtherTree(OriginatorId),
    /// The tree is not that large, or not yet.
    #[error(
        "this node's tree of strand {originator} has only {held} leaves, and {size} were asked for"
    )]
    Beyond {
        /// The originator of the strand.
        originator: OriginatorId,
        /// The size asked for.
        size: u64,
        /// The size of the tree.
        held: u64,
    },
    /// The place of the envelope is 0.
    #[error("places of a strand begin at 1, and a proof of place 0 was asked for")]
    PlaceZero,
    /// The tree has no such proof.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// An answer of the reader: the proof, or the reason there is none.
pub type ProofAnswer<T> = Result<T, NoProofError>;

/// The proof that an envelope is in a strand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownInclusion {
    /// Number of leaves of the tree.
    pub size: u64,
    /// The hash of the envelope's leaf.
    pub leaf: TreeHash,
    /// The path from the leaf to the root of that tree.
    pub proof: InclusionProof,
    /// A checkpoint of this size, if this node holds one.
    pub checkpoint: Option<CosignedCheckpoint>,
}

/// The proof that a strand was only added to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownConsistency {
    /// Number of leaves of the later tree.
    pub to_size: u64,
    /// The proof that the later tree begins with the earlier one.
    pub proof: ConsistencyProof,
    /// A checkpoint of the later size, if this node holds one.
    pub checkpoint: Option<CosignedCheckpoint>,
}

impl ProofReader {
    /// Makes proofs from the trees and checkpoints of this store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the checkpoint with the largest size up to `size_max` that `node` signed of a strand. `None` means the
    /// originator or, if this node has no checkpoint of the originator, this node as an observer. Of a chain's strand
    /// only those count that are of the tree held here, because the strand may have been cut since.
    ///
    /// Blocks on the disk, as all methods here.
    ///
    /// # Errors
    /// [`QueryError`] if a row cannot be read.
    pub fn checkpoint(
        &self,
        originator: OriginatorId,
        node: Option<OriginatorId>,
        size_max: u64,
    ) -> Result<ProofAnswer<CosignedCheckpoint>, QueryError> {
        let (snapshot, own) = (self.store.snapshot(), self.store.identity().node);
        let signer = node.unwrap_or(originator);
        let found = match snapshot.standing_checkpoint(originator, signer, size_max)? {
            None if node.is_none() => snapshot.standing_checkpoint(originator, own, size_max)?,
            found => found,
        };
        Ok(found.ok_or(NoProofError::NoCheckpoint(originator)))
    }

    /// Returns the statements of a strand's node about void places that this node keeps, in the order in which they
    /// became known.
    ///
    /// # Errors
    /// [`QueryError`] if the row cannot be read.
    pub fn void_statements(&self, originator: OriginatorId) -> Result<Vec<SignedVoid>, QueryError> {
        Ok(self.store.void_statements_of(originator)?)
    }

    /// Proves that an envelope is in the tree of `size` leaves, or in that of the latest checkpoint.
    ///
    /// # Errors
    /// [`QueryError`] if a row cannot be read.
    pub fn inclusion(
        &self,
        id: EnvelopeId,
        size: Option<u64>,
    ) -> Result<ProofAnswer<ShownInclusion>, QueryError> {
        if id.sequence == SequenceId::NONE {
            return Ok(Err(NoProofError::PlaceZero));
        }
        let snapshot = self.store.snapshot();
        let (size, checkpoint) = match self.size(&snapshot, id.originator, size)? {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let proof = match shown(id.originator, snapshot.inclusion(id, size))? {
            Ok(proof) => proof,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let leaf = snapshot.leaf(id)?.ok_or_else(|| ReadError::unreadable_envelope(id))?;
        Ok(Ok(ShownInclusion { size, leaf, proof, checkpoint }))
    }

    /// Proves that the tree of `to` leaves, or that of the latest checkpoint, begins with the one of `from` leaves.
    ///
    /// # Errors
    /// [`QueryError`] if a row cannot be read.
    pub fn consistency(
        &self,
        originator: OriginatorId,
        from: u64,
        to: Option<u64>,
    ) -> Result<ProofAnswer<ShownConsistency>, QueryError> {
        let snapshot = self.store.snapshot();
        let (to_size, checkpoint) = match self.size(&snapshot, originator, to)? {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let proof = shown(originator, snapshot.consistency(originator, from, to_size))?;
        Ok(proof.map(|proof| ShownConsistency { to_size, proof, checkpoint }))
    }

    /// Returns the newest checkpoint of `node` for a strand, among the last few, that another node has cosigned; the
    /// newest one if there is none.
    ///
    /// # Errors
    /// [`QueryError`] if a row cannot be read.
    pub fn cosigned(
        &self,
        originator: OriginatorId,
        node: OriginatorId,
    ) -> Result<ProofAnswer<CosignedCheckpoint>, QueryError> {
        let found = self.store.snapshot().cosigned_checkpoint(originator, node)?;
        Ok(found.ok_or(NoProofError::NoCheckpoint(originator)))
    }

    /// Returns the hashes of a tile, as far as `node` has signed them: its newest checkpoint covers them, and is of the
    /// tree that is held here. The oldest kept checkpoint has to be of that tree, too: a strand may be
    /// cut and read again while the node continues to sign.
    ///
    /// # Errors
    /// [`QueryError`] if a row cannot be read.
    pub fn tile(
        &self,
        originator: OriginatorId,
        node: OriginatorId,
        tile: Tile,
    ) -> Result<ProofAnswer<Vec<TreeHash>>, QueryError> {
        let snapshot = self.store.snapshot();
        let Some(newest) = snapshot.standing_checkpoint(originator, node, u64::MAX)? else {
            return Ok(Err(NoProofError::NoCheckpoint(originator)));
        };
        let signed = newest.signed.checkpoint;
        let beyond = |held| NoProofError::Beyond { originator, size: tile.end(), held };
        if tile.end() > signed.size {
            return Ok(Err(beyond(signed.size)));
        }
        let oldest = snapshot.checkpoint_after(originator, node, 0)?;
        let oldest =
            oldest.map(|oldest| oldest.signed.checkpoint).filter(|it| it.size < signed.size);
        for it in std::iter::once(signed).chain(oldest) {
            match shown(originator, snapshot.root(originator, it.size))? {
                Ok(root) if root == it.root => {}
                Ok(_) => return Ok(Err(NoProofError::OtherTree(originator))),
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        Ok(snapshot.tile(originator, tile)?.ok_or_else(|| beyond(0)))
    }

    /// Returns the size that is asked for, or that of the latest checkpoint, with the checkpoint of this size. A
    /// checkpoint of another tree than the one that is held here was signed before the strand was cut. It stands beside
    /// no proof: readers would take this node for a liar.
    fn size(
        &self,
        snapshot: &Snapshot<'_>,
        originator: OriginatorId,
        size: Option<u64>,
    ) -> Result<ProofAnswer<(u64, Option<CosignedCheckpoint>)>, ReadError> {
        let size_max = size.unwrap_or(u64::MAX);
        let found = match snapshot.checkpoint(originator, originator, size_max)? {
            None => snapshot.checkpoint(originator, self.store.identity().node, size_max)?,
            found => found,
        };
        let latest = found.as_ref().map(|found| found.signed.checkpoint);
        let Some(wanted) = size.or(latest.map(|latest| latest.size)) else {
            return Ok(Err(NoProofError::NoCheckpoint(originator)));
        };
        let Some(signed) = latest.filter(|latest| latest.size == wanted) else {
            return Ok(Ok((wanted, None)));
        };
        Ok(match shown(originator, snapshot.root(originator, wanted))? {
            Ok(root) if root == signed.root => Ok((wanted, found)),
            Ok(_) if size.is_some() => Ok((wanted, None)),
            Ok(_) => Err(NoProofError::OtherTree(originator)),
            Err(refusal) => Err(refusal),
        })
    }
}

/// Distinguishes a proof that the tree does not have from a failed read.
fn shown<T>(
    originator: OriginatorId,
    result: Result<T, TreeError>,
) -> Result<ProofAnswer<T>, ReadError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(TreeError::Read(error)) => Err(error),
        Err(TreeError::Beyond { size, held }) => {
            Ok(Err(NoProofError::Beyond { originator, size, held }))
        }
        Err(TreeError::Proof(error)) => Ok(Err(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::checkpoint::Checkpoint;
    use hawser_proto::{Bytes, SecretKey};
    use hawser_storage::{Change, InvalidRule, LogEntry};

    use super::*;
    use crate::read::testing;

    /// The operator has cut a chain's strand below a checkpoint, and the node has read another branch of the chain
    /// since.
    #[test]
    fn a_checkpoint_from_before_a_cut_stands_beside_no_proof() {
        let store = testing::store();
        let (own, chain) = (store.identity().node, OriginatorId::GROUP_MESSAGES);
        let append = |place: u64| {
            let id = EnvelopeId::new(chain, SequenceId(place));
            let bytes = Bytes::from_static(b"envelope");
            Change::Append(LogEntry::invalid(id, bytes, InvalidRule(1)))
        };
        store.commit(&[append(1), append(2), append(3)]).unwrap();
        let root = |size: u64| store.snapshot().root(chain, size).unwrap();
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let sign = |size: u64, root: TreeHash| {
            let of = Checkpoint { node: own, originator: chain, size, root, time_ns: size };
            store.put_checkpoint(&of.sign(&key).into()).unwrap();
        };
        let reader = ProofReader::new(store.clone());
        let first = EnvelopeId::new(chain, SequenceId(1));
        let inclusion = |size: Option<u64>| reader.inclusion(first, size).unwrap();
        let consistency = |size: Option<u64>| reader.consistency(chain, 1, size).unwrap();
        sign(2, root(2));
        assert!(inclusion(None).unwrap().checkpoint.is_some());
        assert!(consistency(None).unwrap().checkpoint.is_some());

        sign(3, TreeHash([1; 32]));
        let other = NoProofError::OtherTree(chain);
        assert_eq!(inclusion(None), Err(other.clone()));
        assert_eq!(consistency(None), Err(other));
        let shown = inclusion(Some(3)).unwrap();
        assert_eq!(shown.proof.verify(shown.leaf, 0, 3, root(3)), Ok(()));
        assert_eq!(shown.checkpoint, None);
        assert_eq!(consistency(Some(3)).unwrap().checkpoint, None);
        // Nor is it shown as this node's newest one.
        let shown = |node, size_max| {
            let shown = reader.checkpoint(chain, node, size_max).unwrap().unwrap();
            shown.signed.checkpoint.size
        };
        assert_eq!([(None, u64::MAX), (Some(own), 3)].map(|(node, max)| shown(node, max)), [2, 2]);
        assert_eq!(reader.cosigned(chain, own).unwrap().unwrap().signed.checkpoint.size, 2);
        let tile = |width| reader.tile(chain, own, Tile::new(0, 0, width).unwrap()).unwrap();
        assert_eq!(tile(2).map(|hashes| hashes.len()), Ok(2));
        assert_eq!(tile(3), Err(NoProofError::Beyond { originator: chain, size: 3, held: 2 }));
        assert!(inclusion(Some(2)).unwrap().checkpoint.is_some(), "that is still true");
    }
}
