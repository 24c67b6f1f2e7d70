//! Proofs about the trees of strands, from one snapshot.

use hawser_proto::checkpoint::SignedPrefix;
use hawser_proto::merkle::{
    ConsistencyProof, InclusionProof, ProofError, TILE_LEVELS, TILE_WIDTH, Tile, TreeHash,
    consistency_proof, inclusion_in_later, inclusion_proof, leaf_index, root,
};
use hawser_proto::{EnvelopeId, OriginatorId};
use rocksdb::ReadOptions;

use crate::error::ReadError;
use crate::family::Family;
use crate::keys::leaf::LeafKey;
use crate::snapshot::Snapshot;
use crate::tree_rows::TreeRows;

/// The reason for which a proof was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The tree does not have this size yet.
    #[error("the tree of the strand has only {held} leaves, and {size} were asked for")]
    Beyond {
        /// The requested size.
        size: u64,
        /// The size of the tree.
        held: u64,
    },
    /// There is no such proof.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// A row could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Snapshot<'_> {
    /// Returns the number of leaves of a strand's tree: 0 for an unknown originator. May be below the strand's head.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn tree_size(&self, originator: OriginatorId) -> Result<u64, ReadError> {
        self.tree_rows(originator).size()
    }

    /// Returns the hash of the leaf of a place; `None` beyond the tree. It outlives the envelope.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn leaf(&self, id: EnvelopeId) -> Result<Option<TreeHash>, ReadError> {
        self.row(LeafKey(id), TreeHash::from_slice)
    }

    /// Returns the root that a strand's tree had at a size.
    ///
    /// # Errors
    /// [`TreeError::Beyond`], or when a row cannot be read.
    pub fn root(&self, originator: OriginatorId, size: u64) -> Result<TreeHash, TreeError> {
        let mut rows = self.tree_rows_up_to(originator, size)?;
        Ok(root(size, |at| rows.node(at))?)
    }

    /// Proves that an envelope is in the tree of `size` leaves.
    ///
    /// # Errors
    /// [`TreeError::Beyond`], [`TreeError::Proof`] for an envelope that is not in it, or when a row cannot be read.
    pub fn inclusion(&self, id: EnvelopeId, size: u64) -> Result<InclusionProof, TreeError> {
        let mut rows = self.tree_rows_up_to(id.originator, size)?;
        let none = ProofError::NoSuchLeaf { index: u64::MAX, size };
        let index = leaf_index(id.sequence).ok_or(none)?;
        inclusion_proof(index, size, |at| Ok(rows.node(at)?))
    }

    /// Proves that an envelope is in a signed tree that extends the one stored here, provided that the prefix is
    /// correct.
    ///
    /// # Errors
    /// The errors of [`Self::inclusion`]; [`TreeError::Beyond`] if the tree does not reach the end of the prefix.
    pub fn inclusion_in_signed(
        &self,
        id: EnvelopeId,
        prefix: &SignedPrefix,
    ) -> Result<InclusionProof, TreeError> {
        let sizes = (prefix.size, prefix.signed.checkpoint.size);
        let mut rows = self.tree_rows_up_to(id.originator, prefix.size)?;
        let none = ProofError::NoSuchLeaf { index: u64::MAX, size: prefix.size };
        let index = leaf_index(id.sequence).ok_or(none)?;
        inclusion_in_later(index, sizes, &prefix.proof, |at| Ok(rows.node(at)?))
    }

    /// Proves that the tree of `to` leaves extends the tree of `from` leaves.
    ///
    /// # Errors
    /// [`TreeError::Beyond`], [`TreeError::Proof`] if `from` is larger, or when a row cannot be read.
    pub fn consistency(
        &self,
        originator: OriginatorId,
        from: u64,
        to: u64,
    ) -> Result<ConsistencyProof, TreeError> {
        let mut rows = self.tree_rows_up_to(originator, to)?;
        consistency_proof(from, to, |at| Ok(rows.node(at)?))
    }

    /// Returns the hashes of a tile; `None` if the tree lacks any of them.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn tile(
        &self,
        originator: OriginatorId,
        tile: Tile,
    ) -> Result<Option<Vec<TreeHash>>, ReadError> {
        let mut rows = self.tree_rows(originator);
        if tile.end() > rows.size()? {
            return Ok(None);
        }
        let first = tile.index() * u64::from(TILE_WIDTH);
        rows.level(tile.level() * TILE_LEVELS, first, tile.width().into()).map(Some)
    }

    fn tree_rows(&self, originator: OriginatorId) -> TreeRows<'_> {
        let rows = |family| self.rows(family, ReadOptions::default());
        TreeRows::new(originator, rows(Family::Leaf), rows(Family::Tree))
    }

    fn tree_rows_up_to(
        &self,
        originator: OriginatorId,
        size: u64,
    ) -> Result<TreeRows<'_>, TreeError> {
        let mut rows = self.tree_rows(originator);
        let held = rows.size()?;
        if size > held { Err(TreeError::Beyond { size, held }) } else { Ok(rows) }
    }
}
