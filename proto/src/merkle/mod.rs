//! The Merkle tree over a strand: RFC 6962 with BLAKE3, as `docs/protocol/checkpoints.md` lays it down.
//!
//! The envelope with sequence id n is the leaf with index n − 1. A tree only grows at its right end, so a
//! complete subtree never changes. That makes it possible to store complete subtrees alone, and to serve
//! them from any cache.
//!
//! - [`leaf_hash`], [`node_hash`], [`empty_root`]: the hashes;
//! - [`CompactRange`]: adds leaves with one hash each on average, and knows the root;
//! - [`root`], [`inclusion_proof`], [`consistency_proof`], [`inclusion_in_later`]: made from stored subtrees;
//! - [`InclusionProof::verify`], [`ConsistencyProof::verify`]: functions of untrusted proofs. They end at the
//!   height of the tree, however long a proof is;
//! - [`Tile`]: the hashes of complete subtrees in pieces of one size, and their paths.

mod hash;
mod proof;
mod range;
mod subtree;
#[cfg(test)]
mod tests;
mod tile;

pub use hash::{LeafData, TreeHash, empty_root, envelope_leaf, leaf_hash, leaf_index, node_hash};
pub use proof::{
    ConsistencyProof, InclusionProof, PROOF_LEN_MAX, ProofError, consistency_proof,
    inclusion_in_later, inclusion_proof, root,
};
pub use range::{CompactRange, CompactRangeError};
pub use subtree::Subtree;
pub use tile::{TILE_LEVELS, TILE_WIDTH, Tile};
