//! Tests of logs whose keeper has cut a chain's strand and read it again after a reorganisation of the chain. It still
//! holds what nodes signed before.

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::merkle::TreeHash;

use super::dependency_tests::LogWithChain;
use super::testing::{MemoryLog, NODE, WITNESS, key, ns_of, settings};
use super::tests::{named, replay};
use super::*;
use crate::compare::{ComparedBy, StrandDifference, compare};
use crate::html::{self, PageFacts};

const CHAIN: OriginatorId = OriginatorId::GROUP_MESSAGES;

/// A log with nine places of the chain, before a reorganisation from the fourth place on or after it.
fn chain(is_reorganised: bool) -> LogWithChain {
    let ns = |at: u64| ns_of(at) + if is_reorganised && at > 3 { 1_000_000_000 } else { 0 };
    let times: Vec<i64> = (1..=9).map(ns).collect();
    LogWithChain::new(&times, MemoryLog::honest(20))
}

/// The checkpoint with which the node has signed the first places of the chain in a log.
fn observed(log: &LogWithChain, size: u64) -> CosignedCheckpoint {
    let root = log.chain.root(size).unwrap().unwrap();
    let time_ns = ns_of(size).unsigned_abs();
    Checkpoint { node: NODE, originator: CHAIN, size, root, time_ns }.sign(&key(1)).into()
}

/// Replays a log to its end, and returns the report and the state.
fn replayed(log: &LogWithChain, state: Option<ReplayState>) -> (ReplayReport, ReplayState) {
    let settings = settings();
    let mut replay = Replay::new(log, &settings, state).unwrap();
    let report = replay.run(|_, _| true).unwrap().expect("nothing pauses it");
    (report, ReplayState::parse(&replay.state().to_text().unwrap()).unwrap())
}

#[test]
fn what_nodes_signed_before_a_reorganisation_makes_no_log_faulty() {
    let (before, mut after) = (chain(false), chain(true));
    after.chain.checkpoints = vec![observed(&after, 3), observed(&before, 6), observed(&before, 8)];
    let (report, _) = replayed(&after, None);
    let other = |at| (FaultKind::OtherChain, at, None);
    assert_eq!((named(&report), report.verdict()), (vec![other(6), other(8)], "claim"));
    let facts = PageFacts { keys: "the network's", tool: "a test", now_ns: settings().now_ns };
    assert!(html::page(&report, facts).contains("<title>Audit: claim</title>"));
}

/// Two nodes have cut the strand, and keep different checkpoints.
#[test]
fn logs_with_checkpoints_from_before_and_after_a_reorganisation_are_equal() {
    let (before, mut one, mut two) = (chain(false), chain(true), chain(true));
    two.chain.checkpoints = vec![observed(&one, 6)];
    one.chain.checkpoints = vec![observed(&before, 6)];
    let differences = compare(&one, &two, ComparedBy::Rows).unwrap();
    assert_eq!(differences.len(), 2);
    assert!(differences.iter().all(StrandDifference::is_equal), "{differences:?}");
}

/// The node has signed a tree, and then a larger one that does not begin with it.
#[test]
fn two_trees_of_a_chain_that_one_node_has_signed_are_named() {
    let (before, mut after) = (chain(false), chain(true));
    after.chain.checkpoints = vec![observed(&before, 5), observed(&after, 8)];
    let (report, _) = replayed(&after, None);
    let other = vec![(FaultKind::OtherChain, 5, None)];
    assert_eq!((named(&report), report.verdict()), (other, "claim"));
    assert_eq!(FaultKind::OtherChain.party(), "signer or keeper, as a claim");
}

/// The liar says that the chain was reorganised.
#[test]
fn no_reorganisation_excuses_another_tree_of_a_nodes_strand() {
    let (size, root, time_ns) = (40, TreeHash([4; 32]), ns_of(40).unsigned_abs());
    let signers = [(NODE, 1, FaultKind::CheckpointRoot), (WITNESS, 2, FaultKind::OtherTree)];
    for (node, seed, kind) in signers {
        let of = Checkpoint { node, originator: NODE, size, root, time_ns };
        let mut log = MemoryLog::honest(60);
        log.checkpoints[3] = of.sign(&key(seed)).into();
        let report = replay(&log, &settings());
        assert_eq!((named(&report), report.verdict()), (vec![(kind, 40, None)], "faulty"));
    }
}

/// The tree of the state is that of the chain before.
#[test]
fn a_replay_that_continues_begins_the_strand_anew_that_was_cut_since() {
    let (before, after) = (chain(false), chain(true));
    let (report, state) = replayed(&before, None);
    assert_eq!(named(&report), []);
    let (report, _) = replayed(&after, Some(state));
    assert_eq!((named(&report), report.verdict()), (Vec::new(), "clean"));
    assert_eq!(report.strands[0].root, after.chain.root.to_string());
}
