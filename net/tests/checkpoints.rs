//! Checkpoints between nodes: shown, compared, cosigned and passed on, and nothing believed that a peer makes up.

use std::time::Duration;

use crate::common::envelopes::{NOW_NS, envelope, key, message, sign, statement as statement_of};
use crate::common::network::{Network, Node, UNREACHABLE, eventually};
use crate::common::raw::{RawPeer, Strand};
use bytes::Bytes;
use hawser_engine::checkpoints::ObserverPace;
use hawser_engine::misbehavior::{EvidenceTime, Misbehavior};
use hawser_engine::own_strand::OwnStrandStatus;
use hawser_engine::runtime::{
    StoppableTask, start_checkpoint_task, start_checkpoint_task_with_pace,
};
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint, SignedCheckpoint};
use hawser_proto::frame::{ControlFrame, FEATURE_CHECKPOINTS};
use hawser_proto::merkle::TreeHash;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::Contradiction;
use hawser_rules::misbehavior::{MisbehaviorVerdict, TreeEvidence, TreeFault, verify_trees};
use hawser_storage::UnknownFolder;
use prost::Message as _;

pub(crate) const LIAR: OriginatorId = OriginatorId(300);

fn now_ns() -> u64 {
    u64::try_from(NOW_NS).expect("a time after 1970")
}

/// The newest checkpoint that a node holds of another one's own strand.
fn newest(node: &Node, of: u32) -> Option<CosignedCheckpoint> {
    let of = OriginatorId(of);
    node.engine.store().snapshot().checkpoint(of, of, u64::MAX).expect("it is in memory")
}

fn cosigners(checkpoint: &CosignedCheckpoint) -> Vec<u32> {
    let of = &checkpoint.signed.checkpoint;
    for it in &checkpoint.cosignatures {
        assert_eq!(it.verify(of, &key(it.cosigner).public_key()), Ok(()));
    }
    checkpoint.cosignatures.iter().map(|it| it.cosigner.0).collect()
}

/// Waits until a node holds a checkpoint with these cosignatures.
pub(crate) async fn wait_for(node: &Node, of: u32, size: u64, by: &[u32]) {
    let what = format!("{} holds {of} at {size}, cosigned by {by:?}", node.id);
    let is_so = || {
        newest(node, of).is_some_and(|it| it.signed.checkpoint.size == size && cosigners(&it) == by)
    };
    eventually(&what, is_so).await;
}

/// Waits until a node may sign, and so cosigns. Peers that send no clock hold its own strand up for a second.
pub(crate) async fn until_it_may_sign(node: &Node) {
    eventually("it may sign", || node.engine.may_sign().is_ok()).await;
}

/// Evidence that a node keeps against another one.
pub(crate) fn evidence(node: &Node, accused: OriginatorId) -> Vec<Misbehavior> {
    let snapshot = node.engine.store().snapshot();
    let found = snapshot
        .evidence(EvidenceTime::default(), usize::MAX, usize::MAX)
        .expect("it is in memory");
    let of_accused = found.iter().filter(|it| it.evidence.at.originator == accused);
    of_accused.map(|it| it.evidence.misbehavior).collect()
}

pub(crate) fn statement(node: OriginatorId, size: u64, root: TreeHash) -> SignedCheckpoint {
    let time_ns = now_ns() - 3_600_000_000_000 + size;
    Checkpoint { node, originator: node, size, root, time_ns }.sign(&key(node))
}

/// A statement of a node that no registry has.
fn of_a_stranger() -> SignedCheckpoint {
    let of = statement(LIAR, 1, TreeHash([7; 32])).checkpoint;
    Checkpoint { node: OriginatorId(900), ..of }.sign(&key(LIAR))
}

pub(crate) async fn show(peer: &mut RawPeer, signed: SignedCheckpoint) {
    peer.say(ControlFrame::Checkpoint(Box::new(signed.into()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_cosign_what_agrees_with_their_trees_and_hold_all_cosignatures() {
    let mut network = Network::new();
    let nodes = [100, 200, 400].map(|id| network.start(id));
    let tasks = nodes.each_ref().map(|it| start_checkpoint_task(&it.engine, key(it.id)));
    for text in 0..3 {
        nodes[0].publish(text).await;
    }
    for node in &nodes {
        wait_for(node, 100, 3, &[200, 400]).await;
    }
    let cosigned = &nodes[1].engine.counters().checkpoint_exchange;
    assert!(cosigned.cosigned.get() >= 1);
    nodes[0].publish(3).await;
    nodes[1].publish(4).await;
    for node in &nodes {
        wait_for(node, 100, 4, &[200, 400]).await;
        wait_for(node, 200, 1, &[100, 400]).await;
        for refused in ["differing", "contradicting", "forged", "unknown", "dropped"] {
            let counters = &node.engine.counters().checkpoint_exchange;
            let count = match refused {
                "differing" => &counters.differing,
                "contradicting" => &counters.contradicting,
                "forged" => &counters.forged,
                "unknown" => &counters.unknown,
                _ => &counters.dropped,
            };
            assert_eq!(count.get(), 0, "{refused} at {}", node.id);
        }
    }
    for task in tasks {
        task.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cosigned_before_a_restart_is_shown_after_it() {
    let mut network = Network::new();
    let (first, second) = (network.start(100), network.start(200));
    let task = start_checkpoint_task(&first.engine, key(first.id));
    first.publish(0).await;
    wait_for(&first, 100, 1, &[200]).await;
    task.stop().await;
    let store = second.stop().await;
    let second = network.start_on(store, "127.0.0.1:0");
    let third = network.start(400);
    wait_for(&third, 100, 1, &[200, 400]).await;
    wait_for(&second, 100, 1, &[200, 400]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_peer_is_shown_none_and_goes_on_as_before() {
    let (_network, node) = Network::with_peer(LIAR);
    let task = start_checkpoint_task(&node.engine, key(node.id));
    node.publish(0).await;
    eventually("it is signed", || newest(&node, 100).is_some()).await;
    let mut old = RawPeer::join(&node, 300).await;
    show(&mut old, statement(LIAR, 1, TreeHash([7; 32]))).await;
    let _strand = old.answer(300, &[envelope(LIAR, 1)]).await;
    node.wait_for(300, 1).await;
    // Two clocks later it has been shown nothing, and nothing of it was looked at.
    for text in 1..3 {
        node.publish(text).await;
        loop {
            match old.hear().await {
                ControlFrame::Checkpoint(shown) => panic!("{shown:?}"),
                ControlFrame::Clock(clock) if clock.entries.get(node.id).0 > text => break,
                _ => {}
            }
        }
    }
    assert_eq!(evidence(&node, LIAR), []);
    task.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_lies_costs_little_and_leaves_nothing() {
    let (_network, node) = Network::with_peer(LIAR);
    node.publish(0).await;
    let mut peer = RawPeer::join_with(&node, 300, FEATURE_CHECKPOINTS).await;
    let counters = node.engine.counters().clone();
    let counters = &counters.checkpoint_exchange;
    let root = TreeHash([7; 32]);
    // Of a node that no registry has, of strands that are not watched or that nothing orders, and with another key.
    show(&mut peer, of_a_stranger()).await;
    for originator in [node.id, OriginatorId(2), OriginatorId(99)] {
        let unwatched = Checkpoint { originator, ..statement(LIAR, 1, root).checkpoint };
        show(&mut peer, unwatched.sign(&key(LIAR))).await;
    }
    show(&mut peer, statement(node.id, 1, root).checkpoint.sign(&key(LIAR))).await;
    let mut forged = statement(LIAR, 1, root);
    forged.checkpoint.time_ns += 1;
    show(&mut peer, forged).await;
    eventually("each is counted", || (counters.unknown.get(), counters.forged.get()) == (4, 2))
        .await;
    // Sizes that no strand has, far more of them than are kept.
    let sizes: Vec<_> =
        (0..3_000).map(|below| statement(LIAR, SequenceId::MAX.0 - below, root)).collect();
    // However slow this machine is: some arrive faster than they may.
    while counters.dropped.get() == 0 {
        for signed in &sizes {
            show(&mut peer, *signed).await;
        }
    }
    let _strand = peer.answer(300, &[envelope(LIAR, 1)]).await;
    node.wait_for(300, 1).await;
    assert_eq!(newest(&node, 300), None);
    node.publish(1).await;
    assert_eq!(node.engine.own_strand_status(), OwnStrandStatus::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_that_comes_back_gets_no_new_allowance_and_keeps_no_other_peer_out() {
    const AT_ONCE: u64 = 1_024;
    let mut network = Network::new();
    for peer in [LIAR, OriginatorId(200)] {
        network.register(peer, UNREACHABLE);
    }
    let node = network.start(100);
    let counters = node.engine.counters().clone();
    let counters = &counters.checkpoint_exchange;
    let started = std::time::Instant::now();
    while counters.dropped.get() < 4 * AT_ONCE {
        let before = counters.dropped.get() + counters.unknown.get();
        let mut liar = RawPeer::join_with(&node, 300, FEATURE_CHECKPOINTS).await;
        for _ in 0..AT_ONCE {
            show(&mut liar, of_a_stranger()).await;
        }
        eventually("some of them have arrived", || {
            counters.dropped.get() + counters.unknown.get() > before
        })
        .await;
    }
    // Another peer is heard at once, though the liar has shown thousands before.
    let mut other = RawPeer::join_with(&node, 200, FEATURE_CHECKPOINTS).await;
    let mut forged = statement(OriginatorId(200), 1, TreeHash([7; 32]));
    forged.checkpoint.time_ns += 1;
    show(&mut other, forged).await;
    eventually("it was looked at", || counters.forged.get() == 1).await;
    let most = AT_ONCE + 256 * (started.elapsed().as_secs() + 1);
    assert!(counters.unknown.get() <= most, "{} of at most {most}", counters.unknown.get());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_shows_two_checkpoints_to_two_peers_is_proven_a_liar_at_both() {
    let mut network = Network::new();
    network.register(LIAR, UNREACHABLE);
    let nodes = [network.start(100), network.start(200)];
    let mut liar = Vec::new();
    let mut strands = Vec::new();
    for node in &nodes {
        let mut peer = RawPeer::join_with(node, 300, FEATURE_CHECKPOINTS).await;
        let envelopes: Vec<_> = (1..=4).map(|place| envelope(LIAR, place)).collect();
        strands.push(peer.answer(300, &envelopes).await);
        liar.push(peer);
    }
    for node in &nodes {
        node.wait_for(300, 4).await;
        until_it_may_sign(node).await;
    }
    let root = nodes[0].engine.store().snapshot().root(LIAR, 4).unwrap();
    show(&mut liar[0], statement(LIAR, 4, root)).await;
    eventually("the true one is cosigned", || {
        newest(&nodes[0], 300).is_some_and(|it| cosigners(&it).contains(&100))
    })
    .await;
    show(&mut liar[1], statement(LIAR, 4, TreeHash([0xbd; 32]))).await;
    for node in &nodes {
        let what = format!("{} has the proof", node.id);
        eventually(&what, || evidence(node, LIAR).contains(&Misbehavior::TwoCheckpoints)).await;
        let snapshot = node.engine.store().snapshot();
        let found = snapshot.evidence(EvidenceTime::default(), usize::MAX, usize::MAX).unwrap();
        let found = found.iter().find(|it| it.evidence.misbehavior == Misbehavior::TwoCheckpoints);
        let pieces = &found.unwrap().evidence.envelopes;
        let [one, other] = [0, 1].map(|at: usize| SignedCheckpoint::decode(&pieces[at]).unwrap());
        let proof = Contradiction::between(&one, &other).unwrap();
        assert_eq!(proof.verify(&key(LIAR).public_key()), Ok(()));
        // A reader who has only the registry comes to the same judgement.
        let pieces = pieces.clone();
        let held = TreeEvidence { fault: TreeFault::TwoCheckpoints, pieces };
        let judgement = verify_trees(&held, &node.engine.ports().registry.borrow());
        assert_eq!(
            (judgement.verdict, judgement.accused),
            (MisbehaviorVerdict::Proven, Some(LIAR))
        );
    }
    // Its envelopes go on, and nothing that it says is cosigned any more.
    let cosigned = nodes[0].engine.counters().checkpoint_exchange.cosigned.get();
    strands[0].send_batch(&[envelope(LIAR, 5)]).await;
    nodes[0].wait_for(300, 5).await;
    let root = nodes[0].engine.store().snapshot().root(LIAR, 5).unwrap();
    show(&mut liar[0], statement(LIAR, 5, root)).await;
    show(&mut liar[0], of_a_stranger()).await;
    let counters = nodes[0].engine.counters().clone();
    let counters = &counters.checkpoint_exchange;
    eventually("both were looked at", || counters.unknown.get() == 1).await;
    assert_eq!(counters.cosigned.get(), cosigned);

    // Neither does the other one after a restart, which has only the evidence.
    let [first, second] = nodes;
    let store = second.stop().await;
    let second = network.start_on(store, "127.0.0.1:0");
    second.wait_for(300, 5).await;
    let mut peer = RawPeer::join_with(&second, 300, FEATURE_CHECKPOINTS).await;
    show(&mut peer, statement(LIAR, 5, root)).await;
    show(&mut peer, of_a_stranger()).await;
    let counters = &second.engine.counters().checkpoint_exchange;
    eventually("both were looked at", || counters.unknown.get() == 1).await;
    assert_eq!(counters.cosigned.get(), 0);
    drop(first);
}

/// The envelope of another story for a place.
pub(crate) fn other_envelope(place: u64) -> Bytes {
    let original = statement_of(LIAR, place);
    let payer = message(LIAR, place + 1_000).encode_to_vec().into();
    sign(&pb::UnsignedOriginatorEnvelope { payer_envelope_bytes: payer, ..original }, LIAR)
}

/// True if a node holds two statements of node 300 for one place.
pub(crate) fn has_two_statements(node: &Node) -> bool {
    evidence(node, LIAR).iter().any(|it| matches!(it, Misbehavior::TwoStatements(_)))
}

/// Starts two nodes that sign nothing, and a silent one, which gives each of them envelopes.
pub(crate) async fn told(
    network: &mut Network,
    stories: [&[Bytes]; 2],
) -> ([Node; 2], Vec<(RawPeer, Strand)>) {
    network.register(LIAR, UNREACHABLE);
    let nodes = [network.start(100), network.start(200)];
    let mut wants = Vec::new();
    for node in &nodes {
        let mut peer = RawPeer::join(node, 300).await;
        let want = peer.hear_want(300).await;
        wants.push((peer, want));
    }
    // Both have asked the node itself, before one of them could show it to the other.
    let mut silent = Vec::new();
    for ((peer, want), story) in wants.into_iter().zip(stories) {
        let mut strand = peer.open(want.originator, want.after).await;
        strand.send_batch(story).await;
        silent.push((peer, strand));
    }
    for (node, story) in nodes.iter().zip(stories) {
        node.wait_for(300, story.len() as u64).await;
    }
    (nodes, silent)
}

/// Starts two nodes that observe silent nodes at once, and a silent one, which gives each of them envelopes.
async fn observed(
    network: &mut Network,
    stories: [&[Bytes]; 2],
) -> ([Node; 2], Vec<StoppableTask>, Vec<(RawPeer, Strand)>) {
    let (nodes, silent) = told(network, stories).await;
    let tasks = observe(&nodes);
    (nodes, tasks, silent)
}

/// Lets nodes observe silent nodes at once.
pub(crate) fn observe(nodes: &[Node]) -> Vec<StoppableTask> {
    let pace = ObserverPace { after: Duration::ZERO, every: Duration::ZERO };
    let start = |node: &Node| start_checkpoint_task_with_pace(&node.engine, key(node.id), pace);
    nodes.iter().map(start).collect()
}

/// The newest checkpoint that a node holds of what another one observes of the silent node.
fn observation(node: &Node, by: u32) -> Option<CosignedCheckpoint> {
    let snapshot = node.engine.store().snapshot();
    snapshot.checkpoint(LIAR, OriginatorId(by), u64::MAX).expect("it is in memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_strand_of_a_node_that_signs_nothing_is_signed_and_cosigned_by_those_who_hold_it() {
    let mut network = Network::new();
    let story: Vec<_> = (1..=4).map(|place| envelope(LIAR, place)).collect();
    let (nodes, tasks, mut silent) = observed(&mut network, [&story, &story]).await;
    for (node, other) in [(&nodes[0], 200), (&nodes[1], 100)] {
        eventually("it holds the other's observation", || {
            observation(node, other).is_some_and(|it| cosigners(&it) == [node.id.0])
        })
        .await;
        let of = observation(node, other).unwrap().signed;
        assert_eq!((of.checkpoint.originator, of.checkpoint.size), (LIAR, 4));
        assert_eq!(of.verify(&key(of.checkpoint.node).public_key()), Ok(()));
        assert_eq!(evidence(node, LIAR), []);
    }
    // Once the node signs itself, it is observed no further while it keeps up.
    let root = nodes[0].engine.store().snapshot().root(LIAR, 4).unwrap();
    let (old, _) = silent.remove(0);
    drop(old);
    let mut peer = RawPeer::join_with(&nodes[0], 300, FEATURE_CHECKPOINTS).await;
    show(&mut peer, statement(LIAR, 4, root)).await;
    wait_for(&nodes[1], 300, 4, &[100, 200]).await;
    for task in tasks {
        task.stop().await;
    }
    let start = |after| {
        let pace = ObserverPace { after, every: Duration::ZERO };
        start_checkpoint_task_with_pace(&nodes[1].engine, key(nodes[1].id), pace)
    };
    let task = start(Duration::from_secs(3_600));
    for (_, strand) in &mut silent {
        strand.send_batch(&[envelope(LIAR, 5)]).await;
    }
    nodes[1].wait_for(300, 5).await;
    nodes[1].publish(0).await;
    wait_for(&nodes[0], 200, 1, &[100]).await;
    assert_eq!(observation(&nodes[1], 200).unwrap().signed.checkpoint.size, 4);
    task.stop().await;
    // One that has signed once and goes on without is observed again.
    let task = start(Duration::ZERO);
    let size = || observation(&nodes[1], 200).unwrap().signed.checkpoint.size;
    eventually("it is observed beyond what it has signed", || size() == 5).await;
    task.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_contradicts_itself_is_accused_and_not_whom_it_observes() {
    let mut network = Network::new();
    let observed = OriginatorId(200);
    for peer in [LIAR, observed] {
        network.register(peer, UNREACHABLE);
    }
    let node = network.start(100);
    let mut peer = RawPeer::join_with(&node, 300, FEATURE_CHECKPOINTS).await;
    for root in [1, 2] {
        let of = statement(LIAR, 5, TreeHash([root; 32])).checkpoint;
        show(&mut peer, Checkpoint { originator: observed, ..of }.sign(&key(LIAR))).await;
    }
    eventually("it is kept", || evidence(&node, LIAR) == [Misbehavior::TwoObservations]).await;
    assert_eq!(evidence(&node, observed), []);
    let snapshot = node.engine.store().snapshot();
    let found = snapshot.evidence_about(LIAR, Misbehavior::TwoObservations, 9).unwrap();
    let held =
        TreeEvidence { fault: TreeFault::TwoCheckpoints, pieces: found[0].envelopes.clone() };
    let judgement = verify_trees(&held, &node.engine.ports().registry.borrow());
    assert_eq!((judgement.verdict, judgement.accused), (MisbehaviorVerdict::Claim, Some(LIAR)));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stories_of_a_node_that_signs_no_checkpoints_are_noticed_by_its_observers() {
    let mut network = Network::new();
    let story: Vec<_> = (1..=4).map(|place| envelope(LIAR, place)).collect();
    let mut other = story.clone();
    other[2] = other_envelope(3);
    let (nodes, tasks, _silent) = observed(&mut network, [&story, &other]).await;
    for node in &nodes {
        let what = format!("{} has noticed it", node.id);
        eventually(&what, || evidence(node, LIAR).contains(&Misbehavior::OtherTree)).await;
        // The observers are not accused, and the kept evidence is only a claim, also for other readers.
        assert_eq!(evidence(node, OriginatorId(100)), []);
        assert_eq!(evidence(node, OriginatorId(200)), []);
        let snapshot = node.engine.store().snapshot();
        let found = snapshot.evidence(EvidenceTime::default(), usize::MAX, usize::MAX).unwrap();
        let found = found.iter().find(|it| it.evidence.misbehavior == Misbehavior::OtherTree);
        let pieces = found.unwrap().evidence.envelopes.clone();
        let held = TreeEvidence { fault: TreeFault::OtherTree, pieces };
        let judgement = verify_trees(&held, &node.engine.ports().registry.borrow());
        assert_eq!((judgement.verdict, judgement.accused), (MisbehaviorVerdict::Claim, Some(LIAR)));
        // It asks the other observer for its envelopes, and these are proof.
        eventually("both statements are held", || has_two_statements(node)).await;
    }
    for task in tasks {
        task.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_set_back_is_noticed_by_a_checkpoint_that_a_peer_holds() {
    let mut network = Network::new();
    let (first, second) = (network.start(100), network.start(200));
    for text in 0..3 {
        first.publish(text).await;
    }
    second.wait_for(100, 3).await;
    let id = first.id;
    let (store, other) = (first.stop().await, second.stop().await);
    // The peer was shown five places, holds three, and so does the folder.
    let lost = statement(id, 5, TreeHash([9; 32]));
    other.put_checkpoint(&lost.into()).unwrap();
    let _second = network.start_on(other, "127.0.0.1:0");
    let first = network.start_on(store, "127.0.0.1:0");
    eventually("it is in quarantine", || {
        matches!(first.engine.own_strand_status(),
            OwnStrandStatus::Quarantined(it) if it.reason == UnknownFolder::Contradicted)
    })
    .await;
    assert!(first.engine.may_sign().is_err());
    assert_eq!(first.engine.heads().get().get(id), SequenceId(3), "nothing is signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_that_signs_another_tree_stops_the_node() {
    let (_network, node) = Network::with_peer(LIAR);
    for text in 0..3 {
        node.publish(text).await;
    }
    let mut peer = RawPeer::join_with(&node, 300, FEATURE_CHECKPOINTS).await;
    // The node's own checkpoint, and an older one of itself, are no news to it.
    let snapshot = node.engine.store().snapshot();
    let true_root = snapshot.root(node.id, 2).unwrap();
    drop(snapshot);
    show(&mut peer, statement(node.id, 2, true_root)).await;
    show(&mut peer, of_a_stranger()).await;
    let counters = &node.engine.counters().checkpoint_exchange;
    eventually("both were looked at", || counters.unknown.get() == 1).await;
    node.publish(3).await;
    show(&mut peer, statement(node.id, 2, TreeHash([8; 32]))).await;
    eventually("it has stopped", || node.engine.own_strand_status() == OwnStrandStatus::Stopped)
        .await;
}

/// A restored folder lacks what its node has signed as an observer. Peers show it, and the node may not sign another
/// root for that size.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_back_what_it_has_signed_as_an_observer() {
    let (_network, node) = Network::with_peer(LIAR);
    node.publish(0).await;
    let mut peer = RawPeer::join_with(&node, 300, FEATURE_CHECKPOINTS).await;
    let chain = OriginatorId(0);
    let observed = |size, root| {
        let of = statement(node.id, size, TreeHash([root; 32])).checkpoint;
        Checkpoint { originator: chain, ..of }.sign(&key(node.id))
    };
    let (signed, smaller) = (observed(7, 1), observed(6, 2));
    show(&mut peer, signed).await;
    let held = || node.engine.store().snapshot().checkpoint(chain, node.id, u64::MAX).unwrap();
    eventually("it is kept", || held().is_some_and(|held| held.signed == signed)).await;
    show(&mut peer, smaller).await;
    show(&mut peer, of_a_stranger()).await;
    let counters = &node.engine.counters().checkpoint_exchange;
    eventually("both were looked at", || counters.unknown.get() == 1).await;
    assert_eq!(held().unwrap().signed, signed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_signs_nothing_beside_what_it_has_signed_from_a_folder_that_is_lost() {
    let (_network, node) = Network::with_peer(LIAR);
    node.publish(0).await;
    let mut peer = RawPeer::join_with(&node, 300, FEATURE_CHECKPOINTS).await;
    let of = statement(node.id, 2, TreeHash([1; 32])).checkpoint;
    let lost = Checkpoint { originator: LIAR, ..of }.sign(&key(node.id));
    show(&mut peer, lost).await;
    eventually("it is kept", || observation(&node, 100).is_some_and(|it| it.signed == lost)).await;
    let envelopes: Vec<_> = (1..=4).map(|place| envelope(LIAR, place)).collect();
    let _strand = peer.answer(300, &envelopes).await;
    node.wait_for(300, 4).await;
    let pace = ObserverPace { after: Duration::ZERO, every: Duration::ZERO };
    let task = start_checkpoint_task_with_pace(&node.engine, key(node.id), pace);
    // Each look signs the own strand first, so when the second one is there, the first look is over.
    for size in [1, 2] {
        eventually("it signs its own strand", || {
            newest(&node, 100).is_some_and(|it| it.signed.checkpoint.size == size)
        })
        .await;
        node.publish(size).await;
    }
    task.stop().await;
    assert_eq!(observation(&node, 100).unwrap().signed, lost);
}
