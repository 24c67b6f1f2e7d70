//! Runs that a strand's node has signed, and every lie about them.

use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::merkle::{ConsistencyProof, ProofError, Subtree, consistency_proof, node_hash};
use hawser_proto::{EnvelopeId, SecretKey};
use hawser_storage::InvalidRule;

use super::*;

const STRAND: OriginatorId = OriginatorId(200);
const OTHER: OriginatorId = OriginatorId(300);

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32]).unwrap()
}

/// The leaf of a place; each story has other ones from place 6 on.
fn leaf(story: u8, sequence: u64) -> TreeHash {
    let mut leaf = [0; 32];
    leaf[..8].copy_from_slice(&sequence.to_be_bytes());
    leaf[8] = if sequence >= 6 { story } else { 0 };
    TreeHash(leaf)
}

fn subtree(story: u8, at: Subtree) -> Result<TreeHash, ProofError> {
    if at.level == 0 {
        return Ok(leaf(story, at.index + 1));
    }
    let child = |index| subtree(story, Subtree { level: at.level - 1, index });
    Ok(node_hash(child(at.index * 2)?, child(at.index * 2 + 1)?))
}

fn edge(size: u64) -> CompactRange {
    CompactRange::load(size, |at| subtree(1, at)).unwrap()
}

fn read(places: std::ops::RangeInclusive<u64>) -> Vec<(LogEntry, TreeHash)> {
    let entry = |sequence| {
        let id = EnvelopeId::new(STRAND, SequenceId(sequence));
        (LogEntry::invalid(id, vec![1].into(), InvalidRule(1)), leaf(1, sequence))
    };
    places.map(entry).collect()
}

fn checkpoint(story: u8, size: u64) -> Checkpoint {
    let root = CompactRange::load(size, |at| subtree(story, at)).unwrap().root();
    Checkpoint { node: STRAND, originator: STRAND, size, root, time_ns: 5 }
}

/// The words of an honest peer about the first `size` places: they begin the tree of 20.
fn prefix(size: u64) -> SignedPrefix {
    let proof = consistency_proof(size, 20, |at| subtree(1, at)).unwrap();
    SignedPrefix { size, signed: checkpoint(1, 20).sign(&key(2)), proof }
}

fn runs() -> SignedRuns {
    SignedRuns::new(STRAND, key(2).public_key())
}

fn accept(prefix: &SignedPrefix, read: Vec<(LogEntry, TreeHash)>) -> Option<AcceptedRun> {
    runs().judge(SequenceId(4)).with_tree(edge(4)).accept(prefix, read)
}

#[test]
fn runs_that_begin_a_signed_tree_follow_one_another() {
    let mut runs = runs();
    let first = runs.judge(SequenceId::NONE);
    assert!(first.needs_tree());
    let first = first.with_tree(edge(0)).accept(&prefix(4), read(1..=4)).unwrap();
    assert_eq!(runs.note(OTHER, first).len(), 4);
    assert!(runs.end_at(SequenceId(4)) && !runs.end_at(SequenceId(3)));
    let second = runs.judge(SequenceId(4));
    assert!(!second.needs_tree(), "the tree goes on from the run before");
    // To the end of the signed tree, where the proof is empty.
    let second = second.accept(&prefix(20), read(5..=20)).unwrap();
    assert_eq!(runs.note(STRAND, second).len(), 16);
    let senders = [1, 4, 5, 20, 21].map(|place| runs.sender_of(SequenceId(place)));
    assert_eq!(senders, [Some(OTHER), Some(OTHER), Some(STRAND), Some(STRAND), None]);
    runs.clear();
    assert!(runs.judge(SequenceId(20)).needs_tree());
    assert_eq!(runs.sender_of(SequenceId(1)), None);
}

#[test]
fn a_run_that_its_node_has_not_signed_is_refused() {
    assert!(accept(&prefix(9), read(5..=9)).is_some());
    // Other envelopes, too few, too many, none, or not the next ones.
    let mut other = read(5..=9);
    other[2].1 = leaf(2, 7);
    assert_eq!(accept(&prefix(9), other), None);
    for places in [5..=8, 5..=10, 6..=9, 4..=9, std::ops::RangeInclusive::new(5, 4)] {
        assert_eq!(accept(&prefix(9), read(places.clone())), None, "{places:?}");
    }
    let mut swapped = read(5..=9);
    swapped.swap(1, 2);
    assert_eq!(accept(&prefix(9), swapped), None);
    // Another proof, or another tree.
    let proof = ConsistencyProof(prefix(9).proof.0.into_iter().rev().collect());
    assert_eq!(accept(&SignedPrefix { proof, ..prefix(9) }, read(5..=9)), None);
    let signed = checkpoint(2, 20).sign(&key(2));
    assert_eq!(accept(&SignedPrefix { signed, ..prefix(9) }, read(5..=9)), None);
    // Another signer, a checkpoint of an observer, and one of another strand.
    let of = checkpoint(1, 20);
    for signed in [
        of.sign(&key(3)),
        Checkpoint { node: OTHER, ..of }.sign(&key(2)),
        Checkpoint { node: OTHER, originator: OTHER, ..of }.sign(&key(2)),
        Checkpoint { originator: OTHER, ..of }.sign(&key(2)),
    ] {
        assert_eq!(accept(&SignedPrefix { signed, ..prefix(9) }, read(5..=9)), None);
    }
}

/// A hole below keeps the stored tree behind the strand.
#[test]
fn a_run_behind_a_tree_that_ends_elsewhere_is_refused() {
    let judge = || runs().judge(SequenceId(4));
    assert_eq!(judge().accept(&prefix(9), read(5..=9)), None, "no tree");
    assert_eq!(judge().with_tree(edge(3)).accept(&prefix(9), read(4..=9)), None);
    assert_eq!(judge().with_tree(edge(5)).accept(&prefix(9), read(6..=9)), None);
}

#[test]
fn a_checkpoint_that_was_verified_is_not_trusted_for_another() {
    let mut runs = runs();
    let run = runs.judge(SequenceId(4)).with_tree(edge(4)).accept(&prefix(9), read(5..=9));
    runs.note(OTHER, run.unwrap());
    let forged = SignedPrefix { signed: checkpoint(1, 20).sign(&key(3)), ..prefix(12) };
    assert_eq!(runs.judge(SequenceId(9)).accept(&forged, read(10..=12)), None);
    assert!(runs.judge(SequenceId(9)).accept(&prefix(12), read(10..=12)).is_some());
}

#[test]
fn senders_are_remembered_up_to_a_bound() {
    let mut runs = runs();
    for place in 1..=20 {
        let judge = runs.judge(SequenceId(place - 1)).with_tree(edge(place - 1));
        let run = judge.accept(&prefix(place), read(place..=place)).unwrap();
        runs.note(OriginatorId(100 + u32::try_from(place).unwrap()), run);
    }
    let sender = |runs: &SignedRuns, place| runs.sender_of(SequenceId(place)).map(|it| it.0);
    assert_eq!((sender(&runs, 1), sender(&runs, 7)), (Some(101), Some(107)));
    runs.note_verified(SequenceId(6));
    assert_eq!((sender(&runs, 6), sender(&runs, 7)), (None, Some(107)));
    let last = 21 + 10 * u64::try_from(SENDERS_MAX).unwrap();
    for place in 21..=last {
        let entries = read(place..=place).into_iter().map(|(entry, _)| entry).collect();
        let run = AcceptedRun { entries, edge: edge(place), prefix: prefix(20) };
        // Never the same twice.
        runs.note(OriginatorId(1_000 + u32::try_from(place).unwrap()), run);
    }
    assert_eq!(runs.senders.len(), SENDERS_MAX);
    // The earliest are not remembered, and their places are not held against others.
    assert_eq!((sender(&runs, 7), sender(&runs, 21)), (None, None));
    assert_eq!(sender(&runs, last), u32::try_from(1_000 + last).ok());
}
