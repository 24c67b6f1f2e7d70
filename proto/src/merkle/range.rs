//! The right edge of a tree: the only subtrees that appending a leaf reads.

use super::hash::{TreeHash, empty_root, node_hash};
use super::subtree::{Subtree, subtrees};

/// The complete subtrees that a tree consists of, from the largest to the smallest: one for each one-bit of its
/// size, so 64 at most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompactRange {
    size: u64,
    peaks: Vec<TreeHash>,
}

/// The hashes are not those of a tree of the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tree of {size} leaves consists of {} complete subtrees, not {peaks}", size.count_ones())]
pub struct CompactRangeError {
    /// Number of leaves.
    pub size: u64,
    /// Number of hashes.
    pub peaks: usize,
}

impl CompactRange {
    /// Takes the hashes of a tree's complete subtrees, from the largest to the smallest.
    ///
    /// # Errors
    /// Returns an error if the number of hashes does not match the size.
    pub fn new(size: u64, peaks: Vec<TreeHash>) -> Result<Self, CompactRangeError> {
        if u32::try_from(peaks.len()) != Ok(size.count_ones()) {
            return Err(CompactRangeError { size, peaks: peaks.len() });
        }
        Ok(Self { size, peaks })
    }

    /// Reads the edge of a tree from its stored subtrees.
    ///
    /// # Errors
    /// Returns an error if a subtree cannot be read.
    pub fn load<E>(
        size: u64,
        mut node: impl FnMut(Subtree) -> Result<TreeHash, E>,
    ) -> Result<Self, E> {
        let peaks = subtrees(0, size).map(&mut node).collect::<Result<_, E>>()?;
        Ok(Self { size, peaks })
    }

    /// Returns the number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the hashes of the complete subtrees, from the largest to the smallest.
    #[must_use]
    pub fn peaks(&self) -> &[TreeHash] {
        &self.peaks
    }

    /// Adds a leaf. Passes every inner subtree that it completes to `emit`, from the lowest up.
    ///
    /// # Panics
    /// Panics if the tree has 2^64 − 1 leaves; sequence ids end far below.
    pub fn append(&mut self, leaf: TreeHash, mut emit: impl FnMut(Subtree, TreeHash)) {
        let (mut hash, mut index, mut level) = (leaf, self.size, 0);
        while index & 1 == 1 {
            let left = self.peaks.pop().expect("there is one for each one-bit of the size");
            hash = node_hash(left, hash);
            index >>= 1;
            level += 1;
            emit(Subtree { level, index }, hash);
        }
        self.peaks.push(hash);
        self.size = self.size.checked_add(1).expect("a strand ends before 2^63");
    }

    /// Adds `count` leaves that have one hash, in a time that grows with the logarithm of their number.
    ///
    /// # Panics
    /// Panics if the tree would have 2^64 leaves; sequence ids end far below.
    pub fn append_equal(&mut self, leaf: TreeHash, count: u64) {
        let end = self.size.checked_add(count).expect("a strand ends before 2^63");
        while self.size < end {
            // The largest complete subtree of such leaves that the next place and their number allow.
            let level = self.size.trailing_zeros().min((end - self.size).ilog2());
            let (mut hash, mut index) = (leaf, self.size >> level);
            for _ in 0..level {
                hash = node_hash(hash, hash);
            }
            while index & 1 == 1 {
                let left = self.peaks.pop().expect("there is one for each one-bit of the size");
                hash = node_hash(left, hash);
                index >>= 1;
            }
            self.peaks.push(hash);
            self.size += 1_u64 << level;
        }
    }

    /// Returns the root of the tree.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        let mut peaks = self.peaks.iter().rev().copied();
        let Some(smallest) = peaks.next() else { return empty_root() };
        peaks.fold(smallest, |right, left| node_hash(left, right))
    }
}
