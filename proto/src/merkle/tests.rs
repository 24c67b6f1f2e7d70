//! Proofs of every size up to 300 verify and mutated ones do not; the shapes are those of RFC 6962.

use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::ids::SequenceId;

/// Sizes of which all proofs are tried.
const SIZE_MAX: u64 = 300;

/// Returns the root as RFC 6962 §2.1 defines it, slowly.
fn defined(leaves: &[TreeHash]) -> TreeHash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(defined(left), defined(right))
        }
    }
}

fn leaf(index: u64) -> TreeHash {
    leaf_hash(LeafData::Signed(&index.to_be_bytes()))
}

/// A tree with all its complete subtrees stored.
struct Tree {
    leaves: Vec<TreeHash>,
    stored: BTreeMap<Subtree, TreeHash>,
    edge: CompactRange,
}

#[derive(Debug, PartialEq)]
struct ReadNodeError(ProofError);

impl From<ProofError> for ReadNodeError {
    fn from(error: ProofError) -> Self {
        Self(error)
    }
}

impl Tree {
    fn new(size: u64) -> Self {
        let (stored, edge) = (BTreeMap::new(), CompactRange::default());
        let mut tree = Self { leaves: Vec::new(), stored, edge };
        for index in 0..size {
            tree.leaves.push(leaf(index));
            tree.stored.insert(Subtree { level: 0, index }, leaf(index));
            tree.edge.append(leaf(index), |at, hash| {
                assert_eq!(tree.stored.insert(at, hash), None, "{at:?} is complete once");
            });
        }
        tree
    }

    fn node(&self, at: Subtree) -> Result<TreeHash, ReadNodeError> {
        Ok(self.stored[&at])
    }

    fn root(&self, size: u64) -> TreeHash {
        root(size, |at| Ok::<_, Infallible>(self.stored[&at])).unwrap()
    }
}

fn changed(hash: TreeHash, bit: usize) -> TreeHash {
    let mut bytes = hash.0;
    bytes[bit / 8 % 32] ^= 1 << (bit % 8);
    TreeHash(bytes)
}

#[test]
fn roots_are_those_that_the_definition_gives() {
    let tree = Tree::new(SIZE_MAX);
    for size in 0..=SIZE_MAX {
        let expected = defined(&tree.leaves[..usize::try_from(size).unwrap()]);
        assert_eq!(tree.root(size), expected, "{size} leaves");
        assert_eq!(Tree::new(size).edge.root(), expected, "{size} leaves, added one by one");
        let loaded = CompactRange::load(size, |at| tree.node(at)).unwrap();
        assert_eq!((loaded.root(), loaded.size()), (expected, size));
        assert_eq!(loaded, Tree::new(size).edge);
    }
}

#[test]
fn every_leaf_of_every_size_is_proved_and_nothing_else_is() {
    let tree = Tree::new(SIZE_MAX);
    for size in 1..=SIZE_MAX {
        let root = tree.root(size);
        for index in 0..size {
            let proof = inclusion_proof(index, size, |at| tree.node(at)).unwrap();
            assert_eq!(proof.verify(leaf(index), index, size, root), Ok(()), "{index} of {size}");
            let other = leaf(index + 1);
            assert_eq!(proof.verify(other, index, size, root), Err(ProofError::OtherRoot));
            assert!(proof.verify(leaf(index), index ^ 1, size, root).is_err());
            let mut longer = proof.clone();
            longer.0.push(root);
            assert_eq!(
                longer.verify(leaf(index), index, size, root),
                Err(ProofError::Length(longer.0.len()))
            );
            let mut shorter = proof;
            if shorter.0.pop().is_some() {
                assert_eq!(
                    shorter.verify(leaf(index), index, size, root),
                    Err(ProofError::Length(shorter.0.len()))
                );
            }
        }
    }
}

/// The subtrees of the earlier tree alone are read.
#[test]
fn a_leaf_of_every_size_is_proved_in_every_larger_one_by_the_proof_of_its_beginning() {
    const TO_MAX: u64 = 70;
    let tree = Tree::new(TO_MAX);
    for from in 1..=TO_MAX {
        let earlier = Tree::new(from);
        for to in from..=TO_MAX {
            let beginning = consistency_proof(from, to, |at| tree.node(at)).unwrap();
            let of = |index, sizes, beginning: &_| {
                inclusion_in_later(index, sizes, beginning, |at| earlier.node(at))
            };
            for index in 0..from {
                let expected = inclusion_proof(index, to, |at| tree.node(at));
                assert_eq!(
                    of(index, (from, to), &beginning),
                    expected,
                    "{index} of {from} in {to}"
                );
            }
            let none = ProofError::NoSuchLeaf { index: from, size: from };
            assert_eq!(of(from, (from, to), &beginning), Err(ReadNodeError(none)));
            let mut longer = beginning.clone();
            longer.0.push(leaf(0));
            let length = Err(ReadNodeError(ProofError::Length(longer.0.len())));
            assert_eq!(of(0, (from, to), &longer), length);
            let mut shorter = beginning;
            if shorter.0.pop().is_some() {
                let length = Err(ReadNodeError(ProofError::Length(shorter.0.len())));
                assert_eq!(of(0, (from, to), &shorter), length, "{from} in {to}");
            }
        }
    }
    let shrinks = ReadNodeError(ProofError::Shrinks { from: 3, to: 2 });
    let none = ConsistencyProof(Vec::new());
    assert_eq!(inclusion_in_later(0, (3, 2), &none, |at| tree.node(at)), Err(shrinks));
}

#[test]
fn every_size_is_proved_to_begin_every_larger_one_and_nothing_else_is() {
    let tree = Tree::new(SIZE_MAX);
    for to in 0..=SIZE_MAX {
        for from in 0..=to {
            let (earlier, later) = (tree.root(from), tree.root(to));
            let proof = consistency_proof(from, to, |at| tree.node(at)).unwrap();
            assert_eq!(proof.verify(from, to, earlier, later), Ok(()), "{from} to {to}");
            let wrong = changed(earlier, 9);
            assert!(proof.verify(from, to, wrong, later).is_err(), "{from} to {to}");
            // Every tree begins with the empty one, for any root.
            let wrong = changed(later, 9);
            assert_eq!(proof.verify(from, to, earlier, wrong).is_ok(), from == 0 && to != 0);
            let mut longer = proof.clone();
            longer.0.push(later);
            assert!(longer.verify(from, to, earlier, later).is_err());
            let mut shorter = proof;
            if shorter.0.pop().is_some() {
                assert!(shorter.verify(from, to, earlier, later).is_err());
            }
        }
    }
}

#[test]
fn the_proofs_of_rfc_6962_have_its_shape() {
    // The tree of seven leaves in RFC 6962 §2.1.3, whose nodes are named a to k there.
    let tree = Tree::new(7);
    let at = |level, index| tree.stored[&Subtree { level, index }];
    let (g, h, i, j) = (at(1, 0), at(1, 1), at(1, 2), leaf(6));
    let (c, d) = (leaf(2), leaf(3));
    let (k, l) = (at(2, 0), node_hash(i, j));
    let inclusion = |index| inclusion_proof(index, 7, |at| tree.node(at)).unwrap().0;
    assert_eq!(inclusion(0), [leaf(1), h, l]);
    assert_eq!(inclusion(3), [c, g, l]);
    assert_eq!(inclusion(4), [leaf(5), j, k]);
    assert_eq!(inclusion(6), [i, k]);
    let consistency = |from| consistency_proof(from, 7, |at| tree.node(at)).unwrap().0;
    assert_eq!(consistency(3), [c, d, g, l]);
    assert_eq!(consistency(4), [l]);
    assert_eq!(consistency(6), [i, j, k]);
}

#[test]
fn equal_leaves_make_the_tree_that_they_make_one_by_one() {
    let void = leaf_hash(LeafData::Void);
    for size in 0..40 {
        let mut one_by_one = Tree::new(size).edge;
        for count in 0..70 {
            let mut together = Tree::new(size).edge;
            together.append_equal(void, count);
            assert_eq!(together, one_by_one, "{count} behind {size}");
            one_by_one.append(void, |_, _| {});
        }
    }
    let mut most = CompactRange::default();
    most.append_equal(void, u64::MAX);
    assert_eq!((most.size(), most.peaks().len()), (u64::MAX, 64));
}

#[test]
fn requests_that_no_tree_can_answer_are_refused_with_the_reason() {
    let tree = Tree::new(4);
    let none = |at| tree.node(at);
    let no_leaf = ProofError::NoSuchLeaf { index: 4, size: 4 };
    assert_eq!(inclusion_proof(4, 4, none), Err(ReadNodeError(no_leaf)));
    let shrinks = ProofError::Shrinks { from: 5, to: 4 };
    assert_eq!(consistency_proof(5, 4, |at| tree.node(at)), Err(ReadNodeError(shrinks)));
    let root = tree.root(4);
    assert_eq!(InclusionProof(vec![]).verify(root, 4, 4, root), Err(no_leaf));
    assert_eq!(ConsistencyProof(vec![]).verify(5, 4, root, root), Err(shrinks));
    let error = CompactRangeError { size: 6, peaks: 1 };
    assert_eq!(CompactRange::new(6, vec![root]), Err(error));
}

#[test]
fn void_places_and_transactions_are_other_leaves() {
    let transaction = [7; 32];
    let void = leaf_hash(LeafData::Void);
    assert_eq!(void, TreeHash(blake3::hash(&[0]).into()));
    assert_ne!(void, empty_root());
    let on_chain = leaf_hash(LeafData::OnChain(b"unsigned", &transaction));
    let joined = [&b"\0unsigned"[..], &transaction].concat();
    assert_eq!(on_chain, TreeHash(blake3::hash(&joined).into()));
    assert_ne!(on_chain, leaf_hash(LeafData::Signed(b"unsigned")));
}

/// A large tree whose leaves are all equal, so that a complete subtree's hash follows from its level.
fn uniform(levels: &[TreeHash], at: Subtree) -> Result<TreeHash, ReadNodeError> {
    Ok(levels[usize::from(at.level)])
}

fn uniform_levels() -> Vec<TreeHash> {
    let next = |below: &TreeHash| Some(node_hash(*below, *below));
    std::iter::successors(Some(leaf(0)), next).take(64).collect()
}

proptest! {
    #[test]
    fn large_trees_are_proved(size in 2..=SequenceId::MAX.0, index: u64, from: u64, bit: usize) {
        let levels = uniform_levels();
        let node = |at| uniform(&levels, at);
        let (index, from) = (index % size, from % size + 1);
        let later = root(size, node).unwrap();
        let proof = inclusion_proof(index, size, node).unwrap();
        prop_assert!(proof.0.len() <= PROOF_LEN_MAX);
        prop_assert_eq!(proof.verify(leaf(0), index, size, later), Ok(()));
        let mut wrong = proof;
        let place = bit % wrong.0.len();
        wrong.0[place] = changed(wrong.0[place], bit);
        prop_assert_eq!(wrong.verify(leaf(0), index, size, later), Err(ProofError::OtherRoot));

        let earlier = root(from, node).unwrap();
        let mut proof = consistency_proof(from, size, node).unwrap();
        prop_assert!(proof.0.len() <= PROOF_LEN_MAX);
        prop_assert_eq!(proof.verify(from, size, earlier, later), Ok(()));
        if !proof.0.is_empty() {
            let place = bit % proof.0.len();
            proof.0[place] = changed(proof.0[place], bit);
            prop_assert!(proof.verify(from, size, earlier, later).is_err());
        }
    }

    #[test]
    fn hostile_proofs_are_refused(
        hashes in prop::collection::vec(any::<[u8; 32]>(), 0..80),
        index: u64, size: u64, from: u64, hash: [u8; 32],
    ) {
        let (hashes, hash) = (hashes.into_iter().map(TreeHash).collect::<Vec<_>>(), TreeHash(hash));
        let inclusion = InclusionProof(hashes.clone());
        prop_assert!(inclusion.verify(hash, index, size, empty_root()).is_err());
        let consistency = ConsistencyProof(hashes);
        prop_assert!(consistency.verify(from | 1, size, hash, empty_root()).is_err());
    }
}
