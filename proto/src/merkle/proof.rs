//! Proofs: made from stored subtrees, verified as RFC 9162 §2.1.3.2 and §2.1.4.2 say.

use super::hash::{TreeHash, empty_root, node_hash};
use super::subtree::{Subtree, subtrees};

/// The maximum number of hashes of a proof: the height of a tree of less than 2^63 leaves ([`crate::SequenceId::MAX`]),
/// and one more for the smaller tree of a consistency proof.
pub const PROOF_LEN_MAX: usize = 64;

/// The reason a proof is not valid, or cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf is not in a tree of this size.
    #[error("a tree of {size} leaves has no leaf {index}")]
    NoSuchLeaf {
        /// Index of the leaf, from 0.
        index: u64,
        /// Number of leaves.
        size: u64,
    },
    /// The earlier tree is larger than the later one.
    #[error("a tree of {from} leaves cannot have grown into one of {to}")]
    Shrinks {
        /// Number of leaves of the earlier tree.
        from: u64,
        /// Number of leaves of the later tree.
        to: u64,
    },
    /// The proof has another number of hashes than the sizes require.
    #[error("the proof has {0} hashes, and a proof for these sizes has another number")]
    Length(usize),
    /// The proof leads to another root of the tree, or of the later tree.
    #[error("the proof leads to another root")]
    OtherRoot,
    /// The proof leads to another root of the earlier tree.
    #[error("the proof leads to another root of the earlier tree")]
    OtherEarlierRoot,
}

/// Hashes which show that a leaf is in a tree, from the lowest up (RFC 9162 §2.1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof(pub Vec<TreeHash>);

/// Hashes which show that one tree is the beginning of another, from the lowest up (RFC 9162 §2.1.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyProof(pub Vec<TreeHash>);

impl InclusionProof {
    /// Checks that `leaf` is the leaf with this index in the tree of `size` leaves with this root.
    ///
    /// # Errors
    /// The first reason why the proof is not valid.
    pub fn verify(
        &self,
        leaf: TreeHash,
        index: u64,
        size: u64,
        root: TreeHash,
    ) -> Result<(), ProofError> {
        match self.root(leaf, index, size)? == root {
            true => Ok(()),
            false => Err(ProofError::OtherRoot),
        }
    }

    /// Returns the root that the proof computes from `leaf`, taken as the leaf with this index in a tree of `size`
    /// leaves. The result is a claim of the proof's maker until the caller compares it with a trusted root.
    ///
    /// # Errors
    /// Returns an error if the proof has another number of hashes than this index and size require.
    pub fn root(&self, leaf: TreeHash, index: u64, size: u64) -> Result<TreeHash, ProofError> {
        if index >= size {
            return Err(ProofError::NoSuchLeaf { index, size });
        }
        let length = || ProofError::Length(self.0.len());
        let (mut at, mut last, mut hash) = (index, size - 1, leaf);
        for &sibling in &self.0 {
            if last == 0 {
                return Err(length());
            }
            if at & 1 == 1 || at == last {
                hash = node_hash(sibling, hash);
                // The node has no right sibling on these levels.
                let levels = at.trailing_zeros().min(63);
                (at, last) = (at >> levels, last >> levels);
            } else {
                hash = node_hash(hash, sibling);
            }
            (at, last) = (at >> 1, last >> 1);
        }
        if last != 0 {
            return Err(length());
        }
        Ok(hash)
    }
}

impl ConsistencyProof {
    /// Checks that the tree of `from` leaves with the root `earlier` is the beginning of the tree of `to` leaves with
    /// the root `later`. The proof is empty when the sizes are equal, or `from` is 0.
    ///
    /// # Errors
    /// The first reason why the proof is not valid.
    pub fn verify(
        &self,
        from: u64,
        to: u64,
        earlier: TreeHash,
        later: TreeHash,
    ) -> Result<(), ProofError> {
        if from > to {
            return Err(ProofError::Shrinks { from, to });
        }
        let length = || ProofError::Length(self.0.len());
        if from == 0 || from == to {
            return match (self.0.is_empty(), from) {
                (false, _) => Err(length()),
                (true, 0) if earlier != empty_root() => Err(ProofError::OtherEarlierRoot),
                (true, _) if from == to && earlier != later => Err(ProofError::OtherRoot),
                (true, _) => Ok(()),
            };
        }
        let (mut at, mut last) = (from - 1, to - 1);
        let levels = at.trailing_ones();
        (at, last) = (at >> levels, last >> levels);
        let mut hashes = self.0.iter().copied();
        // An earlier tree that is one complete subtree is its own beginning.
        let first = if from.is_power_of_two() { Some(earlier) } else { hashes.next() };
        let first = first.ok_or_else(length)?;
        let (mut old, mut new) = (first, first);
        for sibling in hashes {
            if last == 0 {
                return Err(length());
            }
            if at & 1 == 1 || at == last {
                (old, new) = (node_hash(sibling, old), node_hash(sibling, new));
                let levels = at.trailing_zeros().min(63);
                (at, last) = (at >> levels, last >> levels);
            } else {
                new = node_hash(new, sibling);
            }
            (at, last) = (at >> 1, last >> 1);
        }
        match (last == 0, old == earlier, new == later) {
            (false, _, _) => Err(length()),
            (true, false, _) => Err(ProofError::OtherEarlierRoot),
            (true, true, false) => Err(ProofError::OtherRoot),
            (true, true, true) => Ok(()),
        }
    }
}

/// Returns the root of the tree of `size` leaves, from its stored subtrees.
///
/// # Errors
/// Returns an error if a subtree cannot be read.
pub fn root<E>(
    size: u64,
    mut node: impl FnMut(Subtree) -> Result<TreeHash, E>,
) -> Result<TreeHash, E> {
    if size == 0 {
        return Ok(empty_root());
    }
    part(&mut node, 0, size)
}

/// Makes the proof that a leaf is in the tree of `size` leaves.
///
/// # Errors
/// [`ProofError::NoSuchLeaf`], or when a subtree cannot be read.
pub fn inclusion_proof<E: From<ProofError>>(
    index: u64,
    size: u64,
    mut node: impl FnMut(Subtree) -> Result<TreeHash, E>,
) -> Result<InclusionProof, E> {
    if index >= size {
        return Err(ProofError::NoSuchLeaf { index, size }.into());
    }
    let parts = inclusion_parts(index, size).into_iter();
    let hashes = parts.rev().map(|(begin, end)| part(&mut node, begin, end));
    hashes.collect::<Result<_, E>>().map(InclusionProof)
}

/// Returns the parts of the tree of `size` leaves beside the way to a leaf, from the largest to the smallest.
fn inclusion_parts(index: u64, size: u64) -> Vec<(u64, u64)> {
    let (mut begin, mut end, mut parts) = (0, size, Vec::new());
    while end - begin > 1 {
        let middle = begin + half(end - begin);
        if index < middle {
            parts.push((middle, end));
            end = middle;
        } else {
            parts.push((begin, middle));
            begin = middle;
        }
    }
    parts
}

/// Makes the proof that a leaf of the tree of `from` leaves is in the tree of `to` leaves: from the stored subtrees of
/// the earlier tree, and a proof that the later tree begins with it. If that proof is not valid, the result is not
/// either.
///
/// # Errors
/// [`ProofError::NoSuchLeaf`] if the earlier tree has no such leaf, [`ProofError::Shrinks`], [`ProofError::Length`] for
/// a proof that does not fit the sizes, or the error of reading a subtree.
pub fn inclusion_in_later<E: From<ProofError>>(
    index: u64,
    (from, to): (u64, u64),
    beginning: &ConsistencyProof,
    mut node: impl FnMut(Subtree) -> Result<TreeHash, E>,
) -> Result<InclusionProof, E> {
    if index >= from {
        return Err(ProofError::NoSuchLeaf { index, size: from }.into());
    }
    if from > to {
        return Err(ProofError::Shrinks { from, to }.into());
    }
    // The parts behind the earlier tree, from the largest to the smallest.
    let mut behind = Vec::new();
    let (mut begin, mut end, mut hashes) = (0, to, beginning.0.iter().rev());
    while from != end {
        let hash = *hashes.next().ok_or(ProofError::Length(beginning.0.len()))?;
        let middle = begin + half(end - begin);
        if from <= middle {
            behind.push((middle, end, hash));
            end = middle;
        } else {
            begin = middle;
        }
    }
    if hashes.len() != usize::from(begin != 0) {
        return Err(ProofError::Length(beginning.0.len()).into());
    }
    let mut later = |begin, end| later_part(&mut node, from, &behind, (begin, end));
    inclusion_parts(index, to)
        .into_iter()
        .rev()
        .map(|(begin, end)| later(begin, end))
        .collect::<Result<_, E>>()
        .map(InclusionProof)
}

/// Makes the proof that the tree of `from` leaves is the beginning of the tree of `to` leaves.
///
/// # Errors
/// [`ProofError::Shrinks`], or when a subtree cannot be read.
pub fn consistency_proof<E: From<ProofError>>(
    from: u64,
    to: u64,
    mut node: impl FnMut(Subtree) -> Result<TreeHash, E>,
) -> Result<ConsistencyProof, E> {
    if from > to {
        return Err(ProofError::Shrinks { from, to }.into());
    }
    if from == 0 || from == to {
        return Ok(ConsistencyProof(Vec::new()));
    }
    let (mut begin, mut end, mut parts) = (0, to, Vec::new());
    while from != end {
        let middle = begin + half(end - begin);
        if from <= middle {
            parts.push((middle, end));
            end = middle;
        } else {
            parts.push((begin, middle));
            begin = middle;
        }
    }
    // The earlier tree itself is known to the verifier.
    if begin != 0 {
        parts.push((begin, end));
    }
    let hashes = parts.into_iter().rev().map(|(begin, end)| part(&mut node, begin, end));
    hashes.collect::<Result<_, E>>().map(ConsistencyProof)
}

/// Returns the largest power of two below `len`, which is at least 2.
fn half(len: u64) -> u64 {
    1 << (len - 1).ilog2()
}

/// Returns the hash over a part of a tree that begins with a tree of `from` leaves, whose subtrees are stored. `behind`
/// has the hashes of the parts after that tree.
fn later_part<E>(
    node: &mut impl FnMut(Subtree) -> Result<TreeHash, E>,
    from: u64,
    behind: &[(u64, u64, TreeHash)],
    (begin, end): (u64, u64),
) -> Result<TreeHash, E> {
    if end <= from {
        return part(node, begin, end);
    }
    if let Some((.., hash)) = behind.iter().find(|it| (it.0, it.1) == (begin, end)) {
        return Ok(*hash);
    }
    // This part has the earlier tree's last leaf and later leaves, so it is split further: its right half, or a part of
    // that, lies after the earlier tree.
    let middle = begin + half(end - begin);
    let left = later_part(node, from, behind, (begin, middle))?;
    Ok(node_hash(left, later_part(node, from, behind, (middle, end))?))
}

/// Returns the hash over the leaves from `begin` up to, not including, `end`: a part of a tree that ends on its
/// right side, or a complete subtree.
fn part<E>(
    node: &mut impl FnMut(Subtree) -> Result<TreeHash, E>,
    begin: u64,
    end: u64,
) -> Result<TreeHash, E> {
    let mut peaks = subtrees(begin, end).rev();
    let smallest = peaks.next().expect("a part has at least one leaf");
    let mut hash = node(smallest)?;
    for peak in peaks {
        hash = node_hash(node(peak)?, hash);
    }
    Ok(hash)
}
