//! Checkpoints of a whole engine: its own strand and those of the chains, and never two stories.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hawser_engine::checkpoints::ObserverPace;
use hawser_engine::own_strand::OwnStrandStatus;
use hawser_engine::replication::SHOWN_TO_SIGNER;
use hawser_engine::runtime::replication::{Replication, ReplicationSettings};
use hawser_engine::runtime::{start_checkpoint_task, start_checkpoint_task_with_pace};
use hawser_proto::checkpoint::{Checkpoint, SignedCheckpoint};
use hawser_proto::merkle::TreeHash;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{Change, Family, LogEntry, SkipReason, Store};

use crate::common::{NODE, START_NS, message, node_key, payer, start, store};
use crate::follow::{Follower, OTHER, SOURCE, key};

const CHAIN: OriginatorId = OriginatorId::GROUP_MESSAGES;
/// Time after which a checkpoint counts as missing.
const WAIT_MAX: Duration = Duration::from_secs(120);

fn latest(store: &Store, originator: OriginatorId) -> Option<SignedCheckpoint> {
    let found = store.snapshot().checkpoint(originator, NODE, u64::MAX).unwrap();
    found.map(|found| found.signed)
}

/// Waits until the latest checkpoint has a size, and verifies it against the tree.
async fn signed(store: &Store, originator: OriginatorId, size: u64) -> Checkpoint {
    let find = async {
        loop {
            if let Some(found) = latest(store, originator).filter(|it| it.checkpoint.size >= size) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(WAIT_MAX, find).await.expect("a checkpoint is signed");
    assert_eq!(found.verify(&node_key().public_key()), Ok(()));
    let of = found.checkpoint;
    assert_eq!((of.node, of.originator, of.size), (NODE, originator, size));
    assert_eq!(store.snapshot().root(originator, size).unwrap(), of.root);
    of
}

fn on_chain(store: &Store, places: std::ops::RangeInclusive<u64>, text: &str) {
    let append = |sequence| {
        let id = EnvelopeId::new(CHAIN, SequenceId(sequence));
        Change::Append(LogEntry::waiting(id, format!("{text} {id}").into_bytes().into()))
    };
    store.commit(&places.map(append).collect::<Vec<_>>()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_strand_that_grows_is_signed_and_one_that_rests_is_not_signed_again() {
    let store = store();
    let node = start(store.clone());
    let task = start_checkpoint_task(&node.engine, node_key());
    node.engine.publish(vec![message(1, "a"), message(1, "b")]).await.unwrap();
    let first = signed(&store, NODE, 2).await;
    assert!(first.time_ns >= u64::try_from(START_NS).unwrap());
    on_chain(&store, 1..=3, "event");
    node.engine.heads().announce(EnvelopeId::new(CHAIN, SequenceId(3)));
    assert!(signed(&store, CHAIN, 3).await.is_observers());
    node.engine.publish(vec![message(1, "c")]).await.unwrap();
    // The clock of this test does not move, and times have to ascend nevertheless.
    let second = signed(&store, NODE, 3).await;
    assert!(second.time_ns > first.time_ns);
    let proof = store.snapshot().consistency(NODE, 2, 3).unwrap();
    assert_eq!(proof.verify(2, 3, first.root, second.root), Ok(()));
    task.stop().await;

    let again = start(store.clone());
    let task = start_checkpoint_task(&again.engine, node_key());
    again.engine.publish(vec![message(1, "d")]).await.unwrap();
    signed(&store, NODE, 4).await;
    assert_eq!(again.engine.counters().checkpoints.get(), 1, "what rests is not signed again");
    task.stop().await;
}

/// Time moves by itself while the task waits, so it has looked many times.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_far_ahead_dates_no_checkpoint() {
    const HOUR_NS: i64 = 3_600_000_000_000;
    let store = store();
    let node = start(store.clone());
    node.engine.publish(vec![message(1, "a")]).await.unwrap();
    let start_s = u64::try_from(START_NS / 1_000_000_000).unwrap();
    node.engine.note_block("app", start_s, Instant::now());
    node.clock.0.store(START_NS + HOUR_NS, Ordering::Relaxed);
    let task = start_checkpoint_task(&node.engine, node_key());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(latest(&store, NODE), None);
    node.clock.0.store(START_NS, Ordering::Relaxed);
    let first = signed(&store, NODE, 1).await;
    assert!(first.time_ns < u64::try_from(START_NS + HOUR_NS).unwrap());
    task.stop().await;
}

/// The case of a machine that was set back: its host knows the folder, and a checkpoint of its tree would be dated
/// behind that of a larger one. Time moves by itself while the task waits.
#[tokio::test(start_paused = true)]
async fn nothing_is_signed_before_peers_are_asked() {
    let store = store();
    let node = start(store.clone());
    node.engine.publish(vec![message(1, "a")]).await.unwrap();
    node.engine.wait_for_replication();
    let task = start_checkpoint_task(&node.engine, node_key());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(latest(&store, NODE), None);
    assert!(node.engine.publish(vec![message(1, "b")]).await.is_err());
    // There is no other node to ask.
    let (_replication, tasks) = Replication::start(&node.engine, ReplicationSettings::default());
    node.engine.publish(vec![message(1, "b")]).await.unwrap();
    signed(&store, NODE, 2).await;
    task.stop().await;
    tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_chain_that_tells_another_story_is_signed_no_further() {
    let store = store();
    let node = start(store.clone());
    let head = |sequence| EnvelopeId::new(CHAIN, SequenceId(sequence));
    on_chain(&store, 1..=5, "first");
    node.engine.heads().announce(head(5));
    let task = start_checkpoint_task(&node.engine, node_key());
    let first = signed(&store, CHAIN, 5).await;
    store.truncate_strand(head(4), None).unwrap();
    // No checkpoint is published before the projections are rebuilt. Waiting envelopes have no rows in them.
    store.rebuild(&|_, _, _| None, &mut |_| {}).unwrap();
    on_chain(&store, 4..=9, "second");
    node.engine.heads().announce(head(9));
    // The own strand is looked at after the chain's, in each look.
    for text in ["a", "b", "c"] {
        node.engine.publish(vec![message(1, text)]).await.unwrap();
        signed(&store, NODE, node.engine.heads().get().get(NODE).0).await;
    }
    assert_eq!(latest(&store, CHAIN).unwrap().checkpoint, first, "no second story is signed");
    task.stop().await;
}

/// This node and node 200 have signed trees of the strand that was cut since, and node 300 the one that grows there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_signed_of_a_strand_before_it_was_cut_is_shown_to_its_signer_alone() {
    let [store, grown] = [store(), store()];
    on_chain(&grown, 1..=5, "second");
    let later = grown.snapshot().root(CHAIN, 5).unwrap();
    let before = TreeHash([1; 32]);
    for (node, size, root) in [(NODE, 3, before), (OTHER, 3, before), (SOURCE, 5, later)] {
        let of = Checkpoint { node, originator: CHAIN, size, root, time_ns: size };
        store.put_checkpoint(&of.sign(&key(node)).into()).unwrap();
    }
    let follower = Follower::start(store.clone());
    on_chain(&store, 1..=3, "second");
    follower.engine().heads().announce(EnvelopeId::new(CHAIN, SequenceId(3)));
    let shown = |node: OriginatorId| {
        let offers = follower.replication.checkpoint_offers();
        [0, SHOWN_TO_SIGNER].map(|number| offers.contains_key(&(node, CHAIN, number)))
    };
    follower.until("it is known", || shown(SOURCE) == [false, true]).await;
    assert_eq!([NODE, OTHER].map(shown), [[false, true]; 2]);
    on_chain(&store, 4..=5, "second");
    follower.until("the tree is that of node 300 now", || shown(SOURCE) == [true, false]).await;
    assert_eq!([NODE, OTHER].map(shown), [[false, true]; 2]);
    follower.stop().await;
}

/// The disk fails to read a part of the tree for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_checkpoint_of_a_tree_that_cannot_be_read_now_is_shown_to_all_once_it_can() {
    let store = store();
    let follower = Follower::start(store.clone());
    on_chain(&store, 1..=3, "event");
    let root = store.snapshot().root(CHAIN, 3).unwrap();
    let of = Checkpoint { node: SOURCE, originator: CHAIN, size: 3, root, time_ns: 1 };
    store.put_checkpoint(&of.sign(&key(SOURCE)).into()).unwrap();
    let place = SequenceId(2);
    let leaf = store.snapshot().leaf(EnvelopeId::new(CHAIN, place)).unwrap().unwrap();
    let row = [&CHAIN.0.to_be_bytes()[..], &place.0.to_be_bytes()].concat();
    store.put_raw_row(Family::Leaf, &row, b"damaged");
    follower.engine().heads().announce(EnvelopeId::new(CHAIN, SequenceId(3)));
    let shown = || {
        let offers = follower.replication.checkpoint_offers();
        [0, SHOWN_TO_SIGNER].map(|number| offers.contains_key(&(SOURCE, CHAIN, number)))
    };
    follower.until("it is loaded", || shown() == [false, true]).await;
    store.put_raw_row(Family::Leaf, &row, &leaf.0);
    follower.until("the tree is read", || shown() == [true, false]).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_left_out_places_after_a_restore_signs_no_checkpoint_of_its_own_strand() {
    let store = store();
    let before = start(store.clone());
    before.engine.publish(vec![message(1, "a")]).await.unwrap();
    drop(before);
    let (from, through) = (SequenceId(2), SequenceId(1_000));
    let reason = SkipReason::Missing;
    store.commit(&[Change::Skip { originator: NODE, from, through, reason }]).unwrap();
    let node = start(store.clone());
    node.engine.publish(vec![message(1, "b")]).await.unwrap();
    on_chain(&store, 1..=1, "event");
    node.engine.heads().announce(EnvelopeId::new(CHAIN, SequenceId(1)));
    let task = start_checkpoint_task(&node.engine, node_key());
    signed(&store, CHAIN, 1).await;
    // The own strand was looked at after the chain's.
    on_chain(&store, 2..=2, "event");
    node.engine.heads().announce(EnvelopeId::new(CHAIN, SequenceId(2)));
    signed(&store, CHAIN, 2).await;
    assert_eq!(latest(&store, NODE), None, "an earlier checkpoint may have been larger");
    task.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_signed_beyond_a_place_that_is_missing() {
    let store = store();
    let node = start(store.clone());
    let task = start_checkpoint_task(&node.engine, node_key());
    on_chain(&store, 1..=2, "event");
    let (from, through) = (SequenceId(3), SequenceId(3));
    let reason = SkipReason::Missing;
    store.commit(&[Change::Skip { originator: CHAIN, from, through, reason }]).unwrap();
    on_chain(&store, 4..=5, "event");
    node.engine.heads().announce(EnvelopeId::new(CHAIN, SequenceId(5)));
    signed(&store, CHAIN, 2).await;
    node.engine.publish(vec![message(1, "a")]).await.unwrap();
    signed(&store, NODE, 1).await;
    assert_eq!(latest(&store, CHAIN).unwrap().checkpoint.size, 2);
    on_chain(&store, 3..=3, "event");
    while !store.extend_trees(1).unwrap() {}
    signed(&store, CHAIN, 5).await;
    task.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_strand_whose_checkpoint_is_damaged_keeps_no_other_one_from_being_signed() {
    let store = store();
    let node = start(store.clone());
    on_chain(&store, 1..=2, "event");
    node.engine.heads().announce(EnvelopeId::new(CHAIN, SequenceId(2)));
    // The chain's strand is looked at before the own one.
    let row = [&CHAIN.0.to_be_bytes()[..], &NODE.0.to_be_bytes(), &2_u64.to_be_bytes()].concat();
    store.put_raw_row(Family::Checkpoint, &row, b"damaged");
    let task = start_checkpoint_task(&node.engine, node_key());
    node.engine.publish(vec![message(1, "a")]).await.unwrap();
    signed(&store, NODE, 1).await;
    assert!(store.snapshot().checkpoint(CHAIN, NODE, u64::MAX).is_err(), "it is not replaced");
    task.stop().await;
}

/// Other nodes sign nothing, and the row that says how much of a strand is verified is damaged for one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_strand_whose_size_is_damaged_keeps_no_other_one_from_being_observed() {
    let store = store();
    let node = start(store.clone());
    let (damaged, other) = (OriginatorId(300), OriginatorId(400));
    for strand in [damaged, other] {
        let id = EnvelopeId::new(strand, SequenceId(1));
        let entry = LogEntry::waiting(id, format!("of {id}").into_bytes().into());
        store.commit(&[Change::Append(entry)]).unwrap();
        node.engine.heads().announce(id);
    }
    let row = [&b"in_doubt"[..], &damaged.0.to_be_bytes()[..]].concat();
    store.put_raw_row(Family::Cursor, &row, b"damaged");
    let pace = ObserverPace { after: Duration::ZERO, every: Duration::ZERO };
    let task = start_checkpoint_task_with_pace(&node.engine, node_key(), pace);
    assert!(signed(&store, other, 1).await.is_observers());
    task.stop().await;
}

/// A checkpoint of the own strand that this process signs, as a peer has it: later than another process may have
/// signed.
fn own_checkpoint(store: &Store, size: u64) -> Checkpoint {
    let minute_ns = 60_000_000_000;
    Checkpoint {
        node: NODE,
        originator: NODE,
        size,
        root: store.snapshot().root(NODE, size).unwrap(),
        time_ns: u64::try_from(START_NS).unwrap() + minute_ns + size,
    }
}

/// Time moves by itself, so that rounds of the exchange come one right after the other.
#[tokio::test(start_paused = true)]
async fn a_node_is_shown_its_own_checkpoints_at_once_and_takes_them_for_no_other_process() {
    const ALL: u64 = 900;
    let store = store();
    let node = start(store.clone());
    let (replication, tasks) = Replication::start(&node.engine, ReplicationSettings::default());
    let (done, is_done) = tokio::sync::oneshot::channel();
    let signing = std::thread::spawn(move || {
        for size in 1..=ALL {
            let id = EnvelopeId::new(NODE, SequenceId(size));
            let entry = LogEntry::waiting(id, format!("own {id}").into_bytes().into());
            store.commit(&[Change::Append(entry)]).unwrap();
            let signed = own_checkpoint(&store, size).sign(&node_key());
            store.put_checkpoint(&signed.into()).unwrap();
            // One that finds no room is dropped.
            _ = replication.show_checkpoint(signed.into());
        }
        let next = Checkpoint { size: ALL + 1, ..own_checkpoint(&store, ALL) };
        let forged = next.sign(&payer(0));
        while !replication.show_checkpoint(forged.into()) {
            std::thread::yield_now();
        }
        done.send(()).unwrap();
    });
    is_done.await.unwrap();
    signing.join().unwrap();
    // They are looked at in turn.
    while node.engine.counters().checkpoint_exchange.forged.get() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..100 {
        assert_ne!(node.engine.own_strand_status(), OwnStrandStatus::Stopped);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tasks.stop().await;
}

/// The case of a restored backup whose peers have what it lacks. The next checkpoint is dated behind the newest one
/// that is stored, so a later one that is lost must be stored again: two whose times do not follow their sizes prove a
/// fault.
#[tokio::test(start_paused = true)]
async fn a_lost_checkpoint_of_the_own_strand_that_agrees_with_the_tree_is_kept() {
    let store = store();
    let node = start(store.clone());
    let (replication, tasks) = Replication::start(&node.engine, ReplicationSettings::default());
    for size in 1..=3 {
        let id = EnvelopeId::new(NODE, SequenceId(size));
        let entry = LogEntry::waiting(id, format!("own {id}").into_bytes().into());
        store.commit(&[Change::Append(entry)]).unwrap();
    }
    let lost = own_checkpoint(&store, 3);
    assert!(replication.show_checkpoint(lost.sign(&node_key()).into()));
    let kept = async {
        loop {
            let newest = store.snapshot().checkpoint(NODE, NODE, u64::MAX).unwrap();
            if newest.is_some_and(|it| it.signed.checkpoint == lost) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), kept).await.unwrap();
    tasks.stop().await;
}
