//! The tests can fail: each fault of `hawser_storage::faults` breaks an invariant, and the test that
//! holds the invariant notices it. What is asserted here is the message of that invariant, because another one may
//! notice a fault first.
//!
//! A program of its own, because a fault is in the whole process. Compiled with the feature `faults` only:
//! `scripts/test-faults`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use hawser_proto::OriginatorId;
use hawser_storage::faults::{self, SeededFault};
use hawser_tests::harness::envelopes::{group_message, payer, sign};
use hawser_tests::harness::network::Network;
use hawser_tests::harness::outage::is_answer_synced;
use hawser_tests::harness::power::SyncLog;
use hawser_tests::harness::seed;
use hawser_tests::sim::{Behaviour, Faults, Sim};

/// Seeds until a fault has to be noticed. A guess: twice the seeds that the slowest fault of today needs.
const SEEDS: u64 = 40;

const LOSSY: Faults = Faults {
    delay_ms_max: 80,
    breaks_one_in: 25,
    resets_one_in: 25,
    crashes_one_in: 60,
    burns_ids: true,
    lies: true,
    ..Faults::NONE
};

/// Links and nodes that stay up.
const STEADY: Faults = Faults { delay_ms_max: 80, ..Faults::NONE };

/// Returns the message of the first panic of `run` over the seeds, with its seed.
fn first_failure(fault: SeededFault, run: impl Fn(u64)) -> Option<(u64, String)> {
    (0..SEEDS).find_map(|seed| {
        let outcome = catch_unwind(AssertUnwindSafe(|| faults::with(fault, || run(seed))));
        let panic = outcome.err()?;
        let text = panic.downcast_ref::<String>().cloned();
        Some((seed, text.or_else(|| panic.downcast_ref().map(|text: &&str| (*text).to_owned()))?))
    })
}

/// Asserts that a run fails with the fault, and says so, and that it holds without the fault.
fn assert_noticed(fault: SeededFault, said: &str, run: impl Fn(u64)) {
    let (seed, text) =
        first_failure(fault, &run).unwrap_or_else(|| panic!("no seed notices {fault:?}"));
    assert!(text.contains(said), "{fault:?} breaks something else at seed {seed}: {text}");
    println!("{fault:?} is noticed at seed {seed}: {text}");
    run(seed);
}

fn simulate(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, LOSSY);
    sim.publish(20, Duration::from_secs(30));
    sim.run_for(Duration::from_secs(40));
    sim.assert_invariants();
    sim.settle();
    sim
}

/// A network in which node 300 plays a role, until its lies have arrived.
fn scripted(seed: u64) -> Sim {
    let mut sim = Sim::scripted(seed);
    sim.publish(12, Duration::from_secs(30));
    sim.run_for(Duration::from_secs(45));
    sim
}

/// A network in which node 100 has acknowledged some envelopes, and no other node has got them.
fn acknowledged(seed: u64) -> Sim {
    let mut sim = Sim::five(seed, STEADY);
    (0..4).for_each(|_| sim.publish_now(OriginatorId(100)));
    sim
}

#[test]
fn without_a_fault_the_simulation_holds() {
    (0..3).for_each(|seed| _ = simulate(seed));
}

#[test]
fn other_bytes_in_the_log_are_noticed() {
    let run = |seed| acknowledged(seed).assert_nothing_forged();
    assert_noticed(SeededFault::ChangedBytes, "was not signed", run);
}

#[test]
fn an_acknowledged_envelope_that_the_log_lacks_is_noticed() {
    let run = |seed| acknowledged(seed).assert_nothing_acknowledged_lost();
    assert_noticed(SeededFault::LostEnvelope, "has lost", run);
}

#[test]
fn a_mark_that_ends_too_early_is_noticed() {
    assert_noticed(SeededFault::ShortMark, "has a gap", |seed| {
        let mut sim = acknowledged(seed);
        sim.leave_many_empty(OriginatorId(100), 3);
        sim.assert_no_gap();
    });
}

#[test]
fn a_place_that_is_passed_over_is_noticed() {
    assert_noticed(SeededFault::SkippedPlace, "without a hole", |seed| _ = simulate(seed));
}

#[test]
fn a_head_that_runs_ahead_of_the_disk_is_noticed() {
    assert_noticed(SeededFault::AcceptedIsDurable, "does not hold", |seed| _ = simulate(seed));
}

#[test]
fn an_unchecked_signature_is_noticed() {
    let run = |seed| _ = simulate(seed);
    assert_noticed(SeededFault::UncheckedSignature, "holds something else", run);
}

/// The same bound as in `replication_sim.rs`: over enough seeds, two statements for a place are met.
#[test]
fn a_conflict_that_is_not_reported_is_noticed() {
    let conflicts = |fault: Option<SeededFault>| -> u64 {
        let run = |seed| match fault {
            Some(fault) => faults::with(fault, || simulate(seed).conflicts()),
            None => simulate(seed).conflicts(),
        };
        (0..SEEDS).map(run).sum()
    };
    assert_eq!(conflicts(Some(SeededFault::HiddenConflict)), 0);
    assert!(conflicts(None) > 0, "without the fault, conflicts are reported");
}

#[test]
fn a_late_envelope_that_is_dropped_is_noticed() {
    let [cut_off, holder, liar] = [100, 200, 300].map(OriginatorId);
    let said = "late finds reach every node";
    assert_noticed(SeededFault::DroppedLateEnvelope, said, |seed| {
        let mut sim = Sim::new(seed, Faults { withholds_from: Some(cut_off), ..Faults::NONE });
        sim.cut(cut_off, holder);
        sim.publish(20, Duration::from_secs(30));
        sim.run_for(Duration::from_secs(300));
        sim.settle();
        assert_eq!(sim.held(cut_off, liar), sim.held(holder, liar));
    });
}

/// Node 300 leaves out places of node 400's strand, and is the only one that brings them to node 100. The nodes that
/// hold them too come back later.
#[test]
fn a_late_envelope_of_an_honest_node_that_is_dropped_is_noticed() {
    let [reader, strand] = [100, 400].map(OriginatorId);
    let away = [200, 500].map(OriginatorId);
    assert_noticed(SeededFault::DroppedLateEnvelope, "holds another strand", |seed| {
        let mut sim = Sim::beside(seed, STEADY, Behaviour::LeftOutPlaces);
        sim.publish(4, Duration::from_secs(5));
        sim.run_for(Duration::from_secs(10));
        away.into_iter().for_each(|node| sim.lose(node));
        sim.cut(reader, strand);
        sim.publish(12, Duration::from_secs(20));
        sim.run_for(Duration::from_secs(240));
        away.into_iter().for_each(|node| sim.join(node));
        sim.run_for(Duration::from_secs(300));
        sim.assert_equal_strands();
    });
}

#[test]
fn a_claim_that_is_kept_too_high_is_noticed() {
    assert_noticed(SeededFault::ClaimTooHigh, "and holds", |seed| {
        let mut sim = Sim::five(seed, STEADY);
        sim.publish(4, Duration::from_secs(5));
        sim.run_for(Duration::from_secs(20));
        sim.assert_invariants();
    });
}

/// Node 400 leaves a place empty, so that all others search for it.
#[test]
fn a_search_that_does_not_end_is_noticed() {
    let strand = OriginatorId(400);
    assert_noticed(SeededFault::EndlessSearch, "does not reach the end", |seed| {
        let mut sim = Sim::five(seed, STEADY);
        sim.run_for(Duration::from_secs(5));
        sim.leave_empty(strand);
        sim.publish_now(strand);
        sim.run_for(Duration::from_secs(5));
        sim.assert_all_running();
    });
}

/// Node 500 joins late, and half of the seeds have it show what strands' nodes have signed before it verifies that.
#[test]
fn a_shown_envelope_that_is_never_verified_is_noticed() {
    let late = OriginatorId(500);
    assert_noticed(SeededFault::UnverifiedEnd, "still shows these", |seed| {
        let mut sim = Sim::five(seed, STEADY);
        sim.show_first(seed);
        sim.lose(late);
        sim.publish(40, Duration::from_secs(20));
        sim.run_for(Duration::from_secs(25));
        sim.join(late);
        sim.run_for(Duration::from_secs(200));
        sim.assert_all_verified();
    });
}

#[test]
fn an_envelope_that_no_page_has_is_noticed() {
    assert_noticed(SeededFault::PassedRow, "does not show all of the topic", |seed| {
        let mut sim = Sim::five(seed, STEADY);
        sim.publish(12, Duration::from_secs(10));
        sim.run_for(Duration::from_secs(60));
        sim.assert_readable();
    });
}

/// Honest clocks differ by minutes.
#[test]
fn an_honest_node_that_is_accused_is_noticed() {
    let run = |seed| scripted(seed).assert_invariants();
    assert_noticed(SeededFault::ForgottenLead, "accuses", run);
}

#[test]
fn evidence_that_proves_nothing_is_noticed() {
    let run = |seed| scripted(seed).assert_evidence_verifies();
    assert_noticed(SeededFault::OtherEvidence, "the evidence of", run);
}

#[test]
fn a_liar_that_is_not_named_is_noticed() {
    let run = |seed| _ = scripted(seed).assert_liar_named();
    assert_noticed(SeededFault::UnjudgedFees, "no node has named", run);
}

/// Node 300 claims places of more originators than a node may keep of one peer.
#[test]
fn claims_without_a_bound_are_noticed() {
    assert_noticed(SeededFault::UnboundedClaims, "claims of", |seed| {
        let mut sim = Sim::beside(seed, STEADY, Behaviour::InventedOriginators);
        sim.publish(2, Duration::from_secs(5));
        sim.run_for(Duration::from_secs(10));
        sim.assert_invariants();
    });
}

/// Node 300 leaves out places of node 400's strand, which node 100 gets from it alone: the nodes that hold them cannot
/// be reached, and are waited for.
#[test]
fn a_search_that_ends_with_the_first_answer_is_noticed() {
    let reader = OriginatorId(100);
    let relayed = |seed| {
        let mut sim = Sim::beside(seed, STEADY, Behaviour::LeftOutPlaces);
        [200, 400, 500].into_iter().for_each(|it| sim.cut(reader, OriginatorId(it)));
        sim.publish(12, Duration::from_secs(20));
        for _ in 0..30 {
            sim.run_for(Duration::from_secs(1));
            sim.assert_none_passed_over();
        }
    };
    assert_noticed(SeededFault::FirstAnswerEnds, "has passed over", relayed);
}

/// Publishes at a node with a fault, and returns true if each answer was covered by a sync.
async fn is_every_answer_synced(fault: Option<SeededFault>) -> bool {
    let mut network = Network::new(1);
    let log = SyncLog::new(network.nodes[0].folder().join("syncs"));
    network.nodes[0].sync_log = Some(log.clone());
    network.nodes[0].fault = fault.map(SeededFault::name);
    network.start_all().await;
    let node = &network.nodes[0];
    let mut rng = seed::rng(seed::seed(), 0);
    let client = node.client();
    let mut is_covered = true;
    for _ in 0..10 {
        let message = group_message([3; 16], 100, &mut rng);
        is_covered &= is_answer_synced(node, &client, &log, &message).await;
    }
    is_covered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_sync_is_noticed() {
    assert!(is_every_answer_synced(None).await);
    assert!(!is_every_answer_synced(Some(SeededFault::LostSync)).await);
}

/// An id that is given out twice never reaches a payer: either the sequencer's or the store's
/// assertion stops the node, or the publish fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubled_id_is_noticed() {
    let mut network = Network::new(1);
    network.nodes[0].fault = Some(SeededFault::DoubledId.name());
    network.start_all().await;
    let node = &network.nodes[0];
    let mut rng = seed::rng(seed::seed(), 0);
    let mut publish = async || {
        let message = group_message([3; 16], 100, &mut rng);
        node.client().publish(vec![sign(&message, node.id, &payer(1))]).await
    };
    publish().await.expect("the first id is free");
    let second = tokio::time::timeout(Duration::from_secs(20), publish()).await;
    assert!(!matches!(second, Ok(Ok(_))), "the same id was acknowledged twice");
}
