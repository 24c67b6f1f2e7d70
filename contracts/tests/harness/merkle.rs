//! Lists of leaves, their roots, and proofs of ranges, written top down from the definition and
//! independently of the contracts.

use alloy::primitives::{B256, Bytes, U256, keccak256};

/// The Merkle tree of a list of leaves.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    leaf_count: usize,
    /// The hashes of each level, leaves first. The last level has one.
    levels: Vec<Vec<B256>>,
}

impl Tree {
    pub(crate) fn new(leaves: &[Bytes]) -> Self {
        let hashes: Vec<B256> = leaves.iter().map(|leaf| tagged(b"leaf|", &[leaf])).collect();
        let mut levels = vec![hashes];
        // A single leaf has a parent as well.
        while levels.len() < 2 || levels[levels.len() - 1].len() > 1 {
            let parents = levels[levels.len() - 1].chunks(2).map(parent).collect();
            levels.push(parents);
        }
        Self { leaf_count: leaves.len(), levels }
    }

    /// Returns the root; zero for an empty list.
    pub(crate) fn root(&self) -> B256 {
        if self.leaf_count == 0 {
            return B256::ZERO;
        }
        let count = self.count_word();
        tagged(b"root|", &[count.as_slice(), self.levels[self.levels.len() - 1][0].as_slice()])
    }

    /// Returns the proof of a range of leaves: the leaf count, then from each level the hashes that cannot be
    /// computed, right neighbour first.
    pub(crate) fn proof(&self, range: std::ops::Range<usize>) -> Vec<B256> {
        let mut proof = vec![self.count_word()];
        let (mut first, mut last) = (range.start, range.end - 1);
        for level in &self.levels[..self.levels.len() - 1] {
            if last.is_multiple_of(2) && last + 1 < level.len() {
                proof.push(level[last + 1]);
            }
            if !first.is_multiple_of(2) {
                proof.push(level[first - 1]);
            }
            (first, last) = (first / 2, last / 2);
        }
        proof
    }

    fn count_word(&self) -> B256 {
        U256::from(self.leaf_count).into()
    }
}

fn parent(children: &[B256]) -> B256 {
    let parts: Vec<&[u8]> = children.iter().map(|child| child.as_slice()).collect();
    tagged(b"node|", &parts)
}

fn tagged(tag: &[u8], parts: &[&[u8]]) -> B256 {
    keccak256([&[tag], parts].concat().concat())
}
