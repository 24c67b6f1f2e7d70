//! The Merkle tree over the leaves of a report, and proofs of consecutive leaves.
//!
//! Leaves fill the tree from the left. A node without a right sibling is hashed alone, without padding. The root also
//! covers the number of leaves. The contract settles leaves in order, so a proof is about a range of leaves, and its
//! first element is the number of all leaves.

use std::collections::BTreeMap;
use std::ops::Range;

use hawser_proto::sign::keccak256;

const LEAF: &[u8] = b"leaf|";
const NODE: &[u8] = b"node|";
const ROOT: &[u8] = b"root|";

/// A hash of the tree: keccak-256 (`docs/protocol/payer-reports.md`, Tree and id).
pub type Hash = [u8; 32];

/// The root of a tree without leaves.
pub const EMPTY_ROOT: Hash = [0; 32];

/// The largest number of leaves of a tree in a proof. Specified: the contract counts them in 32 bits.
pub const LEAVES_MAX: u64 = u32::MAX as u64;

/// Error of verifying a proof. The contract refuses the proof with the error of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeafProofError {
    /// The proof is empty, without even the number of leaves.
    #[error("the proof is empty")]
    NoProofElements,
    /// The proof is of no leaves, but the tree has some.
    #[error("no leaves are proven")]
    NoLeaves,
    /// The number of leaves is above [`LEAVES_MAX`].
    #[error("the proof claims more leaves than a report can have")]
    TooManyLeaves,
    /// An element is missing. The contract then reads past the end of its list.
    #[error("the proof has too few elements")]
    TooShort,
    /// The leaves are not at this index of the tree with this root.
    #[error("the proof does not lead to the root")]
    InvalidProof,
}

/// Returns the hash of an encoded leaf: keccak-256 over `leaf|` and its bytes.
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    keccak256(&[LEAF, leaf]).0
}

fn node_hash(left: &Hash, right: Option<&Hash>) -> Hash {
    match right {
        Some(right) => keccak256(&[NODE, left, right]).0,
        None => keccak256(&[NODE, left]).0,
    }
}

fn root_hash(leaves: u64, top: &Hash) -> Hash {
    keccak256(&[ROOT, &word(leaves), top]).0
}

/// Encodes a number as 32 big-endian bytes.
#[must_use]
pub fn word(number: u64) -> [u8; 32] {
    let mut word = [0; 32];
    word[24..].copy_from_slice(&number.to_be_bytes());
    word
}

/// Decodes 32 big-endian bytes; `None` if the number does not fit.
fn number(word: &Hash) -> Option<u64> {
    let (high, low) = word.split_at(24);
    let low = low.try_into().ok()?;
    high.iter().all(|byte| *byte == 0).then(|| u64::from_be_bytes(low))
}

/// Returns the number of levels between the leaves and the top, for at least one leaf. A single leaf has
/// one level, as two leaves have.
fn depth(leaves: u64) -> u32 {
    leaves.max(2).next_power_of_two().trailing_zeros()
}

/// Returns the root of the tree over these leaves, as [`Tree::root`] does. Holds one hash for each level.
#[must_use]
pub fn root_of<L: AsRef<[u8]>>(leaves: impl IntoIterator<Item = L>) -> Hash {
    // By level, the node without right sibling so far, over as many leaves as a node of that level can have.
    let mut left: Vec<Option<Hash>> = Vec::new();
    let mut count = 0;
    for leaf in leaves {
        let (mut hash, mut level) = (leaf_hash(leaf.as_ref()), 0);
        while let Some(sibling) = left.get_mut(level).and_then(Option::take) {
            hash = node_hash(&sibling, Some(&hash));
            level += 1;
        }
        match left.get_mut(level) {
            Some(place) => *place = Some(hash),
            None => left.push(Some(hash)),
        }
        count += 1;
    }
    if count == 0 {
        return EMPTY_ROOT;
    }
    let top = depth(count) as usize;
    let mut last: Option<Hash> = None;
    for level in 0..top {
        last = match (left.get(level).copied().flatten(), last) {
            (Some(sibling), last) => Some(node_hash(&sibling, last.as_ref())),
            (None, Some(last)) => Some(node_hash(&last, None)),
            (None, None) => None,
        };
    }
    let top = last.or(left.get(top).copied().flatten()).expect("a tree of some leaves has a top");
    root_hash(count, &top)
}

/// The tree over the leaves of one report. Holds all its hashes: about 64 bytes for each leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The levels of hashes, from the leaves to the single hash at the top; empty without leaves.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// Builds the tree with two hashes per leaf.
    #[must_use]
    pub fn new<L: AsRef<[u8]>>(leaves: impl IntoIterator<Item = L>) -> Self {
        let leaves: Vec<Hash> = leaves.into_iter().map(|leaf| leaf_hash(leaf.as_ref())).collect();
        if leaves.is_empty() {
            return Self { levels: Vec::new() };
        }
        let depth = depth(leaves.len() as u64) as usize;
        let mut levels = vec![leaves];
        for level in 0..depth {
            let below: &Vec<Hash> = &levels[level];
            let above = below.chunks(2).map(|pair| node_hash(&pair[0], pair.get(1))).collect();
            levels.push(above);
        }
        Self { levels }
    }

    /// Returns the number of leaves.
    #[must_use]
    pub fn len(&self) -> usize {
        self.levels.first().map_or(0, Vec::len)
    }

    /// Returns true if the tree has no leaves.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Returns the root, which contains the number of leaves; [`EMPTY_ROOT`] without leaves.
    #[must_use]
    pub fn root(&self) -> Hash {
        match self.levels.last() {
            Some(top) => root_hash(self.len() as u64, &top[0]),
            None => EMPTY_ROOT,
        }
    }

    /// Returns the root of the tree that has these other leaves at their indexes, from 0, with at most one hash per
    /// level and leaf; `None` if the tree lacks one of them, or the list is empty.
    #[must_use]
    pub(crate) fn root_with<L: AsRef<[u8]>>(&self, changed: &[(usize, L)]) -> Option<Hash> {
        let (_, below_top) = self.levels.split_last()?;
        if changed.iter().any(|(index, _)| *index >= self.len()) {
            return None;
        }
        let leaves = changed.iter().map(|(index, leaf)| (*index, leaf_hash(leaf.as_ref())));
        let mut hashes: BTreeMap<usize, Hash> = leaves.collect();
        for level in below_top {
            let hash_at = |index: usize| hashes.get(&index).or_else(|| level.get(index));
            let mut above = BTreeMap::new();
            for parent in hashes.keys().map(|index| index / 2) {
                let (left, right) = (hash_at(2 * parent)?, hash_at(2 * parent + 1));
                above.insert(parent, node_hash(left, right));
            }
            hashes = above;
        }
        hashes.get(&0).map(|top| root_hash(self.len() as u64, top))
    }

    /// Returns the proof of a range of leaves, by index from 0. That of an empty range in a tree with leaves holds the
    /// hash at the top; the contract takes no such proof.
    ///
    /// # Panics
    /// Panics if the range exceeds the number of leaves; the caller derives it from [`Self::len`].
    #[must_use]
    pub fn proof(&self, range: Range<usize>) -> LeafProof {
        let mut elements = vec![word(self.len() as u64)];
        assert!(range.end <= self.len(), "{range:?} is in the tree");
        if range.is_empty() {
            elements.extend(self.levels.last().map(|top| top[0]));
            return LeafProof(elements);
        }
        let (mut left, mut right) = (range.start, range.end - 1);
        let below_top = self.levels.len() - 1;
        for level in &self.levels[..below_top] {
            // The contract reads the right neighbour of a level before the left one.
            if right.is_multiple_of(2)
                && let Some(neighbour) = level.get(right + 1)
            {
                elements.push(*neighbour);
            }
            if !left.is_multiple_of(2) {
                elements.push(level[left - 1]);
            }
            (left, right) = (left / 2, right / 2);
        }
        LeafProof(elements)
    }
}

/// A proof that leaves are consecutive in a tree: the number of leaves, and the hashes that are
/// missing on the path to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafProof(pub Vec<Hash>);

impl LeafProof {
    /// Verifies that `leaves` are those from index `start` on (from 0) of the tree with this root. Like the contract,
    /// it ignores superfluous elements at the end.
    ///
    /// # Errors
    /// [`LeafProofError`] with the contract's reason to refuse the proof.
    pub fn verify<L: AsRef<[u8]>>(
        &self,
        root: Hash,
        start: u64,
        leaves: &[L],
    ) -> Result<(), LeafProofError> {
        let (first, rest) = self.0.split_first().ok_or(LeafProofError::NoProofElements)?;
        let total = number(first);
        if leaves.is_empty() {
            return match (start, total) {
                (0, Some(0)) if root == EMPTY_ROOT => Ok(()),
                (0, Some(0)) => Err(LeafProofError::InvalidProof),
                _ => Err(LeafProofError::NoLeaves),
            };
        }
        let total = total.ok_or(LeafProofError::TooManyLeaves)?;
        let end = start.checked_add(leaves.len() as u64);
        if end.is_none_or(|end| end > total) {
            return Err(LeafProofError::InvalidProof);
        }
        if total > LEAVES_MAX {
            return Err(LeafProofError::TooManyLeaves);
        }
        let known = leaves.iter().map(|leaf| leaf_hash(leaf.as_ref())).collect();
        match root_hash(total, &climb(known, start, total, rest)?) == root {
            true => Ok(()),
            false => Err(LeafProofError::InvalidProof),
        }
    }
}

/// Returns the top hash over known consecutive hashes of leaves that begin at `left`; the tree has `leaves` leaves.
/// `known` is not empty and ends within them. Takes the missing hashes from `elements`, in the order of
/// [`Tree::proof`].
fn climb(
    mut known: Vec<Hash>,
    mut left: u64,
    leaves: u64,
    elements: &[Hash],
) -> Result<Hash, LeafProofError> {
    let mut elements = elements.iter();
    let mut len = leaves;
    for _ in 0..depth(leaves) {
        let right = left + known.len() as u64 - 1;
        let mut row = Vec::with_capacity(known.len() + 2);
        let after = match right.is_multiple_of(2) && right + 1 < len {
            true => Some(*elements.next().ok_or(LeafProofError::TooShort)?),
            false => None,
        };
        if !left.is_multiple_of(2) {
            row.push(*elements.next().ok_or(LeafProofError::TooShort)?);
        }
        row.extend(known);
        row.extend(after);
        known = row.chunks(2).map(|pair| node_hash(&pair[0], pair.get(1))).collect();
        left /= 2;
        len = len.div_ceil(2);
    }
    Ok(known[0])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::testing::{bytes, list, number, vectors, word as golden};
    use super::*;

    fn leaves_of(value: &Value) -> Vec<Vec<u8>> {
        value.as_array().unwrap().iter().map(bytes).collect()
    }

    fn elements(value: &Value) -> LeafProof {
        LeafProof(value.as_array().unwrap().iter().map(golden).collect())
    }

    #[test]
    fn prefixes_are_those_of_the_constants() {
        let prefixes = &vectors("constants")["merkle_prefixes"];
        for (prefix, name) in [(LEAF, "leaf"), (NODE, "node"), (ROOT, "root")] {
            assert_eq!(prefix, bytes(&prefixes[name]));
        }
        assert_eq!(EMPTY_ROOT, golden(&prefixes["empty_root"]));
    }

    #[test]
    fn hashes_are_those_of_the_contract() {
        let vectors = vectors("merkle");
        for case in list(&vectors["primitives"]["leaf"]) {
            assert_eq!(
                leaf_hash(case["in_utf8"].as_str().unwrap().as_bytes()),
                golden(&case["out"])
            );
        }
        for case in list(&vectors["primitives"]["pair"]) {
            let (left, right) = (golden(&case["left"]), golden(&case["right"]));
            assert_eq!(node_hash(&left, Some(&right)), golden(&case["out"]));
        }
        for case in list(&vectors["primitives"]["pairless"]) {
            assert_eq!(node_hash(&golden(&case["in"]), None), golden(&case["out"]));
        }
        for case in list(&vectors["primitives"]["root"]) {
            let root = root_hash(
                super::super::testing::number(&case["leaf_count"]),
                &golden(&case["subroot"]),
            );
            assert_eq!(root, golden(&case["out"]));
        }
    }

    #[test]
    fn trees_and_proofs_are_those_of_the_contract() {
        let vectors = vectors("merkle");
        for case in list(&vectors["trees"]) {
            let count = usize::try_from(number(&case["leaf_count"])).unwrap();
            let leaves = match case["leaves"].as_array() {
                Some(_) => leaves_of(&case["leaves"]),
                None => (0..count).map(made).collect(),
            };
            assert_eq!(leaves.len(), count);
            let tree = Tree::new(&leaves);
            assert_eq!(tree.root(), golden(&case["root"]), "{count} leaves");
            assert_eq!(root_of(&leaves), golden(&case["root"]), "{count} leaves");
            let top = tree.levels.last().map(|top| top[0]);
            let subroot = case["subroot"].as_str().map(|_| golden(&case["subroot"]));
            assert_eq!(top, subroot, "{count} leaves");
            let width = if count == 0 { 0 } else { 1_u64 << depth(count as u64) };
            assert_eq!(width, number(&case["balanced_leaf_count"]), "{count} leaves");
            for proof in case["proofs"].as_array().unwrap() {
                let start = usize::try_from(number(&proof["start"])).unwrap();
                let range = start..start + usize::try_from(number(&proof["count"])).unwrap();
                let golden = elements(&proof["proof_elements"]);
                assert_eq!(tree.proof(range.clone()), golden, "{range:?} of {count}");
                if proof["on_chain"] == "NoLeaves()" {
                    let none = golden.verify(tree.root(), start as u64, &leaves[range]);
                    assert_eq!(none, Err(LeafProofError::NoLeaves));
                    continue;
                }
                let verified = golden.verify(tree.root(), start as u64, &leaves[range]);
                assert_eq!(verified, Ok(()));
            }
        }
        for case in list(&vectors["known_samples"]) {
            let leaves = leaves_of(&case["leaves"]);
            let start = usize::try_from(number(&case["start"])).unwrap();
            let range = start..start + usize::try_from(number(&case["count"])).unwrap();
            let tree = Tree::new(&leaves);
            assert_eq!(tree.root(), golden(&case["root"]));
            assert_eq!(tree.proof(range), elements(&case["proof_elements"]));
        }
    }

    fn made(index: usize) -> Vec<u8> {
        keccak256(&[format!("xmtp vector leaf {index}").as_bytes()]).0.to_vec()
    }

    #[test]
    fn the_root_without_the_tree_is_that_of_the_tree() {
        let leaves: Vec<Vec<u8>> = (0..300).map(made).collect();
        for count in 0..=leaves.len() {
            assert_eq!(root_of(&leaves[..count]), Tree::new(&leaves[..count]).root(), "{count}");
        }
    }

    /// The vectors have no trees of these sizes. Another program computed the roots from the specification.
    #[test]
    fn roots_of_other_sizes_are_those_that_another_program_computes() {
        for (count, root) in [
            (4, "5f5d5d0cd5fa334ed4e2ee7b08e0be226d5aca24942d1864f0b3959c9bd904e1"),
            (6, "7d47a4a65aa4061131408a3ce43551bc341aed7e78f165012a22993fe506f4a9"),
            (7, "b2f9f62ffbdce23ba129464ed001a69805fdd7f0b4e0e2e1905b9b33cbe4668d"),
            (9, "024032ef7c8e38bc06e2bda025597fb9ffbd74ea365fcd6a70e200b29ebf55f9"),
            (16, "6a65694ecf793ff5f24ff2de87a5906558acf20ff3c232f23255ddc453183005"),
            (17, "307237fbbb24919f08a8c9f13e7d7ce02252b9a404b445e0ab6a98bdc5a5080c"),
            (33, "9dcaa5a2000448afff22a26c526b6f56c97a9b4484b090bd61307848c098e0cd"),
            (64, "9aa303f2807b8c5826a01a3d88bc27a5e67d0d9458a57834eeca3250a9e87874"),
            (65, "aaf184b6fb3a2cc456dc3df73852f440000778a7f01ff30bf2404e74255e36ce"),
        ] {
            assert_eq!(hex::encode(root_of((0..count).map(made))), root, "{count} leaves");
        }
        // Leaves of any length: two of no bytes, and one of 65.
        let odd = [vec![], vec![], vec![b'a'; 65]];
        let root = "d60c1cb1ff8f797a4a21d072a09df8186380994d84c8f20ec1c41490b507eadb";
        assert_eq!(hex::encode(root_of(&odd)), root);
    }

    /// Keccak-256 over the elements of the proofs of all ranges, which another program computed from the specification.
    #[test]
    fn proofs_of_all_ranges_of_small_trees_are_those_that_another_program_computes() {
        let mut elements: Vec<[u8; 32]> = Vec::new();
        for count in 1..18 {
            let tree = Tree::new((0..count).map(made));
            for start in 0..count {
                for end in start + 1..=count {
                    elements.extend(tree.proof(start..end).0);
                }
            }
        }
        let digest = "ba414a3b7de9b57c94b0fd0ded3e3978625b8e539f6fcb8f971fecb97afc53b6";
        assert_eq!(elements.len(), 3894);
        assert_eq!(hex::encode(keccak256(&[elements.as_flattened()]).0), digest);
    }

    #[test]
    fn wrong_proofs_are_refused_for_the_reason_of_the_contract() {
        for case in list(&vectors("merkle")["rejections"]) {
            let proof = elements(&case["proof_elements"]);
            let leaves = leaves_of(&case["leaves"]);
            let verified = proof.verify(golden(&case["root"]), number(&case["start"]), &leaves);
            let expected = match case["on_chain"].as_str().unwrap() {
                "ok" => Ok(()),
                "NoProofElements()" => Err(LeafProofError::NoProofElements),
                "NoLeaves()" => Err(LeafProofError::NoLeaves),
                "InvalidProof()" => Err(LeafProofError::InvalidProof),
                "InvalidBitCount32Input()" => Err(LeafProofError::TooManyLeaves),
                other if other.starts_with("Panic(") => Err(LeafProofError::TooShort),
                other => panic!("{other} has no counterpart: {case}"),
            };
            assert_eq!(verified, expected, "{case}");
        }
    }

    #[test]
    fn a_claim_of_many_leaves_allocates_nothing() {
        let huge = LeafProof(vec![word(LEAVES_MAX)]);
        assert_eq!(huge.verify(EMPTY_ROOT, 0, &[[1_u8]]), Err(LeafProofError::TooShort));
        let beyond = LeafProof(vec![[0xff; 32]]);
        assert_eq!(beyond.verify(EMPTY_ROOT, 0, &[[1_u8]]), Err(LeafProofError::TooManyLeaves));
        let end = LeafProof(vec![word(5)]);
        assert_eq!(end.verify(EMPTY_ROOT, u64::MAX, &[[1_u8]]), Err(LeafProofError::InvalidProof));
    }

    proptest! {
        /// Each range of each tree is proven only at its own index and with its own leaves.
        #[test]
        fn a_range_is_proven_at_its_place_alone(
            count in 1_usize..70, start in 0_usize..70, len in 1_usize..70, changed in any::<u8>(),
        ) {
            let leaves: Vec<Vec<u8>> = (0..count).map(made).collect();
            let start = start % count;
            let end = (start + len).min(count);
            let tree = Tree::new(&leaves);
            let proof = tree.proof(start..end);
            let shown = &leaves[start..end];
            prop_assert_eq!(proof.verify(tree.root(), start as u64, shown), Ok(()));
            prop_assert!(proof.verify(tree.root(), start as u64 + 1, shown).is_err());
            let mut forged = shown.to_vec();
            forged[0].push(changed);
            prop_assert!(proof.verify(tree.root(), start as u64, &forged).is_err());
        }
    }
}
