//! Checkpoints of other nodes: what proves that a node has lied, and what is noticed of it.

use std::cell::Cell;
use std::ops::RangeInclusive;

use hawser_engine::replication::{CheckpointWatch, Finding, Trees};
use hawser_proto::checkpoint::{Checkpoint, CheckpointError, CosignedCheckpoint, SignedCheckpoint};
use hawser_proto::merkle::{
    ConsistencyProof, ProofError, Subtree, TreeHash, consistency_proof, node_hash, root,
};
use hawser_proto::{OriginatorId, PublicKey, SecretKey};
use hawser_rules::{Contradiction, NoContradictionError};

const NODE: OriginatorId = OriginatorId(300);

/// The tree of a strand, one of whose two stories begins at a fork.
#[derive(Clone, Copy)]
struct Story {
    number: u8,
    fork: u64,
    size: u64,
}

impl Story {
    fn subtree(self, at: Subtree) -> Result<TreeHash, ProofError> {
        if at.level == 0 {
            let mut leaf = [0; 32];
            leaf[..8].copy_from_slice(&at.index.to_be_bytes());
            leaf[8] = if at.index >= self.fork { self.number } else { 0 };
            return Ok(TreeHash(leaf));
        }
        let child = |index| self.subtree(Subtree { level: at.level - 1, index });
        Ok(node_hash(child(at.index * 2)?, child(at.index * 2 + 1)?))
    }

    /// A checkpoint whose time is its size.
    fn checkpoint(self, size: u64) -> SignedCheckpoint {
        self.checkpoint_at(size, size)
    }

    fn checkpoint_at(self, size: u64, time_ns: u64) -> SignedCheckpoint {
        let root = root(size, |at| self.subtree(at)).unwrap();
        let key = SecretKey::from_bytes(&[3; 32]).unwrap();
        Checkpoint { node: NODE, originator: NODE, size, root, time_ns }.sign(&key)
    }
}

impl Trees for Story {
    fn size(&self, _: OriginatorId) -> u64 {
        self.size
    }

    fn root(&self, _: OriginatorId, size: u64) -> Option<TreeHash> {
        (size <= self.size).then(|| root(size, |at| self.subtree(at)).unwrap())
    }

    fn consistency(&self, _: OriginatorId, from: u64, to: u64) -> Option<ConsistencyProof> {
        (to <= self.size).then(|| consistency_proof(from, to, |at| self.subtree(at)).unwrap())
    }
}

fn key(seed: u8) -> PublicKey {
    SecretKey::from_bytes(&[seed; 32]).unwrap().public_key()
}

const OURS: Story = Story { number: 1, fork: 5, size: 10 };
const OTHER: Story = Story { number: 2, ..OURS };

fn take(watch: &mut CheckpointWatch, signed: SignedCheckpoint, trees: Story) -> Vec<Finding> {
    watch.handle(signed, &key(3), &trees).unwrap()
}

#[test]
fn the_newest_checkpoint_that_the_tree_has_reached_is_agreed_on() {
    let mut watch = CheckpointWatch::default();
    let [small, ahead, further] = [7, 12, 15].map(|size| OURS.checkpoint(size));
    assert_eq!(take(&mut watch, small, OURS), [Finding::Agrees(small)]);
    assert_eq!(take(&mut watch, small, OURS), [], "known");
    assert_eq!(take(&mut watch, ahead, OURS), [], "the tree has not reached it");
    assert_eq!(take(&mut watch, further, OURS), []);
    assert_eq!(watch.agreed().collect::<Vec<_>>(), [&small]);
    let grown = Story { size: 20, ..OURS };
    assert_eq!(watch.handle_growth(NODE, &grown), [Finding::Agrees(further)], "the last one only");
    assert_eq!(take(&mut watch, OURS.checkpoint(9), grown), [], "an older one that is true");
    assert_eq!(watch.agreed().collect::<Vec<_>>(), [&further]);
}

#[test]
fn a_checkpoint_that_its_node_did_not_sign_is_an_error_and_leaves_no_trace() {
    let mut watch = CheckpointWatch::default();
    let refused = watch.handle(OURS.checkpoint(7), &key(4), &OURS);
    assert_eq!(refused, Err(CheckpointError::OtherKey(NODE)));
    assert!(watch.is_empty());
}

#[test]
fn observers_are_compared_apart_from_the_originator_and_from_one_another() {
    let mut watch = CheckpointWatch::default();
    let observed = |observer: u8, story: Story, size| {
        let mut of = story.checkpoint(size).checkpoint;
        of.node = OriginatorId(u32::from(observer) * 100);
        of.sign(&SecretKey::from_bytes(&[observer; 32]).unwrap())
    };
    let [honest, lying] = [observed(4, OURS, 8), observed(5, OTHER, 8)];
    assert_eq!(watch.handle(honest, &key(4), &OURS), Ok(vec![Finding::Agrees(honest)]));
    assert_eq!(watch.handle(lying, &key(5), &OURS), Ok(vec![Finding::Disputed(lying)]));
    let own = OURS.checkpoint(7);
    assert_eq!(take(&mut watch, own, OURS), [Finding::Agrees(own)], "that of the originator");
    // The envelopes behind these are asked for.
    let agreed = [honest, lying].map(|it| watch.agreed_size(&it.checkpoint));
    assert_eq!(agreed, [8, 0]);
    // Or those behind what the strand's node has signed, if the observer has cosigned it.
    let mut held = CosignedCheckpoint::from(own);
    let by = lying.checkpoint.node;
    assert_eq!(watch.cosigned_size(&held, by), 0);
    let cosigner = SecretKey::from_bytes(&[5; 32]).unwrap();
    assert!(held.add_cosignature(own.checkpoint.cosign(by, 9, &cosigner)));
    assert_eq!(watch.cosigned_size(&held, by), 7);
    held.signed = OTHER.checkpoint(7);
    assert_eq!(watch.cosigned_size(&held, by), 0, "it does not agree with the tree held here");
    // A tree that grows decides those of all its observers.
    let ahead = [observed(4, OURS, 12), observed(6, OURS, 13)];
    for (signed, seed) in ahead.into_iter().zip([4, 6]) {
        assert_eq!(watch.handle(signed, &key(seed), &OURS), Ok(Vec::new()));
    }
    assert!(!watch.is_largest(&honest), "a larger one of the same observer waits");
    assert!(watch.is_largest(&own));
    let grown = Story { size: 20, ..OURS };
    let findings = watch.handle_growth(NODE, &grown);
    assert_eq!(findings, ahead.map(Finding::Agrees));
    assert!(watch.waiting().is_empty());
}

#[test]
fn pairs_of_nodes_and_strands_have_a_bound() {
    let mut watch = CheckpointWatch::default();
    for strand in 0..5_000 {
        let mut of = OURS.checkpoint(7);
        of.checkpoint.originator = OriginatorId(strand);
        watch.remember(of);
    }
    assert_eq!(watch.len(), 4096);
}

/// A chain strand may be cut and read again. Earlier signatures of its honest observers are then about another
/// tree, and no proof against them.
#[test]
fn a_strand_that_was_cut_and_read_again_proves_nothing_about_an_honest_node() {
    let mut watch = CheckpointWatch::default();
    let (agreed, older) = (OURS.checkpoint(9), OURS.checkpoint(8));
    assert_eq!(take(&mut watch, agreed, OURS), [Finding::Agrees(agreed)]);
    assert_eq!(take(&mut watch, older, OTHER), [Finding::Disputed(older)]);
}

#[test]
fn a_node_whose_checkpoints_agree_with_two_trees_of_a_strand_contradicts_itself() {
    let cut = Story { size: 20, ..OTHER };
    let (before, after) = (OURS.checkpoint(9), OTHER.checkpoint(12));
    for has_restarted in [false, true] {
        let mut watch = CheckpointWatch::default();
        if has_restarted {
            watch.remember_disputed(before);
        } else {
            assert_eq!(take(&mut watch, before, OURS), [Finding::Agrees(before)]);
        }
        let findings = take(&mut watch, after, cut);
        let [Finding::Contradicts(proof)] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!(proof.verify(&key(3)), Ok(()));
        assert_eq!(watch.agreed().count(), 0);
    }
}

/// The chain was reorganised below a tree that node 300 has signed as its observer. It may have signed a larger one,
/// too, that did not reach this node before its operator cut the strand.
#[test]
fn an_observer_is_accused_of_no_tree_from_before_a_cut() {
    let observed = |story: Story, size| {
        let of = story.checkpoint(size).checkpoint;
        let originator = OriginatorId::GROUP_MESSAGES;
        Checkpoint { originator, ..of }.sign(&SecretKey::from_bytes(&[3; 32]).unwrap())
    };
    let cut = Story { size: 20, ..OTHER };
    let (before, larger) = (observed(OURS, 8), observed(OURS, 9));
    for has_restarted in [false, true] {
        let mut watch = CheckpointWatch::default();
        if has_restarted {
            watch.remember_disputed(before);
        } else {
            assert_eq!(take(&mut watch, before, OURS), [Finding::Agrees(before)]);
        }
        assert_eq!(take(&mut watch, larger, cut), []);
        // Two trees of one size are two stories all the same.
        let findings = take(&mut watch, observed(OTHER, 9), cut);
        assert!(matches!(&findings[..], [Finding::Contradicts(_)]), "{findings:?}");
    }
    let mut watch = CheckpointWatch::default();
    assert_eq!(take(&mut watch, larger, cut), [Finding::Disputed(larger)], "no tree was cut here");
    // The strand of a node is not ordered by a chain.
    let (before, larger) = (OURS.checkpoint(8), OURS.checkpoint(9));
    watch.remember_disputed(before);
    assert_eq!(take(&mut watch, larger, cut), [Finding::Disputed(larger)]);
}

#[test]
fn what_differed_from_an_earlier_tree_and_begins_this_one_contradicts_nothing() {
    let mut watch = CheckpointWatch::default();
    let (early, later) = (OTHER.checkpoint(9), OTHER.checkpoint(12));
    assert_eq!(take(&mut watch, early, OURS), [Finding::Disputed(early)]);
    let cut = Story { size: 20, ..OTHER };
    assert_eq!(take(&mut watch, later, cut), [Finding::Agrees(later)]);
}

#[test]
fn two_stories_for_two_peers_are_proven_whichever_checkpoint_comes_first() {
    for ours_first in [true, false] {
        let mut watch = CheckpointWatch::default();
        let (ours, theirs) = (OURS.checkpoint(9), OTHER.checkpoint(8));
        let sent = if ours_first { [ours, theirs] } else { [theirs, ours] };
        let findings: Vec<_> = sent.into_iter().flat_map(|it| take(&mut watch, it, OURS)).collect();
        assert!(findings.contains(&Finding::Disputed(theirs)));
        let Some(Finding::Contradicts(proof)) = findings.last() else { panic!("{findings:?}") };
        assert_eq!(proof.verify(&key(3)), Ok(()));
        assert_eq!(watch.agreed().count(), 0, "nothing of that node is passed on");
        assert_eq!(take(&mut watch, OURS.checkpoint(10), OURS), []);
    }
}

#[test]
fn two_roots_of_one_size_are_proven_before_the_tree_is_there() {
    let mut watch = CheckpointWatch::default();
    assert_eq!(take(&mut watch, OURS.checkpoint(30), OURS), []);
    let findings = take(&mut watch, OTHER.checkpoint(30), OURS);
    let [Finding::Contradicts(proof)] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!(proof.verify(&key(3)), Ok(()));
}

#[test]
fn a_checkpoint_beyond_the_fork_is_disputed_until_the_node_says_more() {
    let mut watch = CheckpointWatch::default();
    let [before, theirs] = [OURS.checkpoint(6), OTHER.checkpoint(9)];
    take(&mut watch, before, OURS);
    assert_eq!(take(&mut watch, theirs, OURS), [Finding::Disputed(theirs)]);
    assert_eq!(take(&mut watch, theirs, OURS), [], "said once");
    let findings = take(&mut watch, OURS.checkpoint(10), OURS);
    assert!(matches!(&findings[..], [Finding::Contradicts(_)]), "{findings:?}");
}

#[test]
fn checkpoints_of_one_strand_have_a_bound() {
    let mut watch = CheckpointWatch::default();
    let empty = Story { size: 0, ..OURS };
    for size in (11..400).rev() {
        // Times fall with the sizes, so that none contradicts another.
        take(&mut watch, OURS.checkpoint(size), empty);
    }
    for size in 6..=10 {
        take(&mut watch, OTHER.checkpoint(size), OURS);
    }
    assert!(watch.len() <= 16 + 4 + 1, "{}", watch.len());
}

/// A tree whose roots of these sizes the disk has damaged.
struct Damaged {
    story: Story,
    unread: RangeInclusive<u64>,
}

impl Trees for Damaged {
    fn size(&self, originator: OriginatorId) -> u64 {
        self.story.size(originator)
    }

    fn root(&self, originator: OriginatorId, size: u64) -> Option<TreeHash> {
        self.story.root(originator, size).filter(|_| !self.unread.contains(&size))
    }

    fn consistency(&self, of: OriginatorId, from: u64, to: u64) -> Option<ConsistencyProof> {
        self.story.consistency(of, from, to).filter(|_| !self.unread.contains(&to))
    }
}

/// Otherwise nothing that the node signs later would be compared and passed on until the next start.
#[test]
fn a_root_that_cannot_be_read_holds_no_later_checkpoint_up() {
    let mut watch = CheckpointWatch::default();
    let damaged = Damaged { story: Story { size: 100, ..OURS }, unread: 20..=60 };
    let mut take = |signed: SignedCheckpoint| watch.handle(signed, &key(3), &damaged).unwrap();
    for size in 20..=60 {
        assert_eq!(take(OURS.checkpoint(size)), []);
    }
    let [first, next] = [61, 62].map(|size| OURS.checkpoint(size));
    assert_eq!(take(first), [Finding::Agrees(first)]);
    // As many wait as may: a smaller one is looked at all the same, and the node has told two stories.
    let found = take(OTHER.checkpoint_at(9, 9));
    assert!(matches!(&found[..], [Finding::Disputed(_), Finding::Contradicts(_)]), "{found:?}");
    assert_eq!(take(next), [], "nothing of that node is passed on");

    let mut watch = CheckpointWatch::default();
    for size in 20..=60 {
        watch.handle(OURS.checkpoint(size), &key(3), &damaged).unwrap();
    }
    assert_eq!(watch.len(), 16);
    let whole = Story { size: 60, ..OURS };
    let last = watch.handle_growth(NODE, &whole);
    assert!(matches!(&last[..], [Finding::Agrees(_)]), "they are compared once they can be read");
    assert!(watch.waiting().is_empty());
}

/// A tree that counts the roots that are read of it.
struct Counted {
    story: Story,
    roots: Cell<usize>,
}

impl Trees for Counted {
    fn size(&self, originator: OriginatorId) -> u64 {
        self.story.size(originator)
    }

    fn root(&self, originator: OriginatorId, size: u64) -> Option<TreeHash> {
        self.roots.set(self.roots.get() + 1);
        self.story.root(originator, size)
    }

    fn consistency(&self, of: OriginatorId, from: u64, to: u64) -> Option<ConsistencyProof> {
        self.story.consistency(of, from, to)
    }
}

/// Played by one node that signs a size of a chain's strand which the strand never has. Each round looks at what waits,
/// four times a second.
#[test]
fn a_size_that_no_strand_has_makes_no_round_read_the_trees_of_all_observers() {
    let mut watch = CheckpointWatch::default();
    let observed = |observer: u8, size| {
        let node = OriginatorId(u32::from(observer) * 100);
        let of = Checkpoint { node, originator: NODE, ..OURS.checkpoint(size).checkpoint };
        of.sign(&SecretKey::from_bytes(&[observer; 32]).unwrap())
    };
    for observer in 4..100 {
        let agrees = Ok(vec![Finding::Agrees(observed(observer, 8))]);
        assert_eq!(watch.handle(observed(observer, 8), &key(observer), &OURS), agrees);
    }
    assert_eq!(watch.handle(observed(100, 10_000), &key(100), &OURS), Ok(Vec::new()));
    assert!(watch.waiting().contains(&NODE));
    let counted = |size| Counted { story: Story { size, ..OURS }, roots: Cell::new(0) };
    let trees = counted(20);
    assert_eq!(watch.handle_growth(NODE, &trees), []);
    assert_eq!(trees.roots.get(), 0);
    let next = observed(4, 30);
    assert_eq!(watch.handle(next, &key(4), &OURS), Ok(Vec::new()));
    let trees = counted(40);
    assert_eq!(watch.handle_growth(NODE, &trees), [Finding::Agrees(next)], "others go on");
    assert!(trees.roots.get() <= 3, "{} for one observer", trees.roots.get());
}

/// Each finding is a line in the log, and a node may have its signatures checked all the time.
#[test]
fn a_root_that_is_signed_again_and_again_is_disputed_once() {
    let mut watch = CheckpointWatch::default();
    let first = OTHER.checkpoint_at(8, 100);
    assert_eq!(take(&mut watch, first, OURS), [Finding::Disputed(first)]);
    for time_ns in 101..200 {
        assert_eq!(take(&mut watch, OTHER.checkpoint_at(8, time_ns), OURS), []);
    }
    // Each peer that shows the other root can be asked for its envelopes, and none that shows the root held here.
    let is_disputed = |story: Story| watch.is_disputed(&story.checkpoint(8).checkpoint, &OURS);
    assert_eq!([OTHER, OURS].map(is_disputed), [true, false]);
    // What is signed again is compared with the others still.
    let larger = OTHER.checkpoint_at(9, 300);
    assert_eq!(take(&mut watch, larger, OURS), [Finding::Disputed(larger)]);
    let found = take(&mut watch, OTHER.checkpoint_at(8, 400), OURS);
    assert!(matches!(&found[..], [Finding::Contradicts(_)]), "{found:?}");
}

/// A checkpoint of one of two stories.
fn signed(story: u8, size: u64, time_ns: u64) -> SignedCheckpoint {
    Story { number: story, ..OURS }.checkpoint_at(size, time_ns)
}

#[test]
fn what_two_checkpoints_state_decides_if_they_contradict_each_other() {
    let first = signed(1, 8, 100);
    assert_eq!(Contradiction::between(&first, &signed(1, 8, 200)), None, "said twice");
    assert_eq!(Contradiction::between(&first, &signed(1, 9, 200)), None, "it has grown");
    let two_roots = Contradiction::between(&first, &signed(2, 8, 100)).unwrap();
    assert!(matches!(two_roots, Contradiction::TwoRoots { .. }));
    let shrinks = Contradiction::between(&first, &signed(1, 7, 101)).unwrap();
    assert!(matches!(shrinks, Contradiction::Shrinks { later, .. } if later.checkpoint.size == 7));
    // An observer that has lost its folder reads a chain's strand again.
    let observed = |mut it: SignedCheckpoint| {
        it.checkpoint.originator = OriginatorId::GROUP_MESSAGES;
        it
    };
    let again = observed(signed(1, 7, 101));
    assert_eq!(Contradiction::between(&observed(first), &again), None);
    let other = observed(signed(2, 8, 101));
    assert!(Contradiction::between(&observed(first), &other).is_some(), "two roots");
    for proof in [two_roots, shrinks] {
        assert_eq!(proof.verify(&key(3)), Ok(()));
        let other = proof.verify(&key(4));
        assert_eq!(other, Err(CheckpointError::OtherKey(NODE).into()), "another node's key");
    }
    let honest = Contradiction::TwoRoots { first, second: signed(1, 9, 200) };
    assert_eq!(honest.verify(&key(3)), Err(NoContradictionError::Consistent));
    let mut foreign = signed(2, 8, 100);
    foreign.checkpoint.originator = OriginatorId(400);
    assert_eq!(Contradiction::between(&first, &foreign), None);
    let mixed = Contradiction::TwoRoots { first, second: foreign };
    assert_eq!(mixed.verify(&key(3)), Err(NoContradictionError::OtherStrand));
}

#[test]
fn another_beginning_is_shown_by_a_proof_and_by_nothing_else() {
    let (smaller, larger) = (signed(2, 7, 100), signed(1, 12, 200));
    assert_eq!(Contradiction::between(&smaller, &larger), None, "sizes alone show nothing");
    let node = |at| OURS.subtree(at);
    let proof = consistency_proof(7, 12, node).unwrap();
    let begins_with = root(7, node).unwrap();
    let of = |smaller, root, proof| Contradiction::OtherBeginning { smaller, larger, root, proof };
    let verify = |it: Contradiction| it.verify(&key(3));
    assert_eq!(verify(of(smaller, begins_with, proof.clone())), Ok(()));
    let honest = of(signed(1, 7, 100), begins_with, proof.clone());
    assert_eq!(verify(honest), Err(NoContradictionError::Consistent));
    let invented = of(smaller, TreeHash([9; 32]), proof);
    assert!(matches!(verify(invented), Err(NoContradictionError::Proof(_))));
}
