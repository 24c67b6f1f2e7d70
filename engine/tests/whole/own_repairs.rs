//! Damaged places of a node's own strand, which are fetched while the guard of the strand has work, too; and a disk
//! that hangs while a peer has more of the strand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hawser_engine::own_strand::OwnStrandStatus;
use hawser_engine::replication::{LinkCommand, StrandItem};
use hawser_proto::{Bytes, EnvelopeId, SequenceId};
use hawser_storage::{Change, LogEntry, SkipReason, Store, Validity};
use tokio::task::JoinHandle;

use crate::common::{self, NODE, message};
use crate::follow::{Follower, OTHER, SOURCE, envelope, strand};
use crate::voids::{declared, kept};

fn append(place: u64) -> Change {
    let id = EnvelopeId::new(NODE, SequenceId(place));
    let (bytes, validity) = (envelope(NODE, place, "true"), Validity::Valid);
    Change::Append(LogEntry { id, bytes, validity, facts: None })
}

/// Returns the log of a node that has left out the places 1 to 3 of its strand, and has signed place 4.
fn behind_a_gap() -> Store {
    let store = common::store();
    let (from, through) = (SequenceId(1), SequenceId(3));
    let skip = Change::Skip { originator: NODE, from, through, reason: SkipReason::Missing };
    store.commit(&[skip, append(4)]).unwrap();
    store
}

/// Fetches a place as the repair of a damaged one does.
fn fetch(follower: &Follower, place: u64) -> JoinHandle<BTreeMap<SequenceId, Bytes>> {
    let replication = follower.replication.clone();
    let wanted = [(SequenceId(place), None)].into();
    tokio::spawn(async move { replication.fetch(NODE, wanted).await })
}

/// Returns true while a peer is asked for what it claims.
fn is_claimed(follower: &Follower) -> bool {
    matches!(follower.engine().own_strand_status(), OwnStrandStatus::Claimed { .. })
}

/// A disk whose writes hang until this is dropped.
struct HungDisk {
    hangs: Arc<AtomicBool>,
    is_met: Arc<AtomicBool>,
}

impl HungDisk {
    fn of(store: &Store) -> Self {
        let (hangs, is_met) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let (hanging, met) = (hangs.clone(), is_met.clone());
        store.set_write_faults(Some(Arc::new(move || {
            met.store(true, Ordering::SeqCst);
            while hanging.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            None
        })));
        Self { hangs, is_met }
    }

    /// Returns true once a write hangs.
    fn is_met(&self) -> bool {
        self.is_met.load(Ordering::SeqCst)
    }
}

impl Drop for HungDisk {
    fn drop(&mut self) {
        self.hangs.store(false, Ordering::SeqCst);
    }
}

/// The places of a gap are looked for as long as the node runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_place_is_fetched_while_a_gap_of_the_strand_is_looked_for() {
    let follower = Follower::start(behind_a_gap());
    // The search begins anew when the node begins to publish, and an answer to a want from before it counts no more.
    follower.until("the node publishes", || follower.complaint().is_none()).await;
    let mut other = follower.connect(OTHER, &[(NODE, 4)]);
    assert_eq!(other.want(NODE).await, (0, Some(3)), "the gap");
    let search = fetch(&follower, 4);
    while other.want(NODE).await != (3, Some(4)) {}
    other.send(strand(NODE, &[4])).await;
    assert_eq!(search.await.unwrap(), [(SequenceId(4), envelope(NODE, 4, "true"))].into());
    while other.want(NODE).await != (0, Some(3)) {}
    other.answer(vec![StrandItem::Envelope(envelope(NODE, 2, "true")), StrandItem::End]).await;
    let found = || follower.held(NODE) == strand(NODE, &[2, 4]);
    follower.until("the find is stored", found).await;
    follower.stop().await;
}

/// The search for a damaged place begins before the node publishes.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_looked_for_once_a_search_for_damaged_places_is_over() {
    let follower = Follower::start(behind_a_gap());
    let mut other = follower.connect(OTHER, &[(NODE, 4)]);
    let search = fetch(&follower, 4);
    while other.want(NODE).await != (3, Some(4)) {}
    follower.until("the node publishes", || follower.complaint().is_none()).await;
    follower.publish("behind the gap").await.unwrap();
    other.send(strand(NODE, &[4])).await;
    search.await.unwrap();
    while other.want(NODE).await != (0, Some(3)) {}
    follower.stop().await;
}

/// A machine was set back, and its disk is damaged. One peer answers no search, and another one has the strand's end.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_for_damaged_places_ends_when_a_peer_has_more_of_the_strand() {
    let store = common::store();
    store.commit(&[append(1)]).unwrap();
    let follower = Follower::start(store);
    let mut silent = follower.connect(OTHER, &[(NODE, 1)]);
    let search = fetch(&follower, 1);
    assert_eq!(silent.want(NODE).await, (0, Some(1)));
    let mut source = follower.connect(SOURCE, &[(NODE, 3)]);
    assert_eq!(source.want(NODE).await, (1, None), "before its claim counts no more");
    assert!(search.await.unwrap().is_empty());
    source.send(strand(NODE, &[2, 3])).await;
    follower.wait_for(NODE, 3).await;
    assert_eq!(follower.held(NODE), strand(NODE, &[1, 2, 3]));
    follower.stop().await;
}

/// A machine was set back. The disk hangs with a find of the gap when a peer comes that has the strand's end.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_ends_publishing_before_a_search_for_the_gap_has_ended() {
    let store = behind_a_gap();
    let follower = Follower::start(store.clone());
    follower.until("the node publishes", || follower.complaint().is_none()).await;
    let mut other = follower.connect(OTHER, &[(NODE, 4)]);
    assert_eq!(other.want(NODE).await, (0, Some(3)));
    let disk = HungDisk::of(&store);
    other.answer(vec![StrandItem::Envelope(envelope(NODE, 2, "true")), StrandItem::End]).await;
    follower.until("the find is on its way to the disk", || disk.is_met()).await;
    let mut source = follower.connect(SOURCE, &[(NODE, 6)]);
    follower.until("the gate is closed", || is_claimed(&follower)).await;
    drop(disk);
    while source.want(NODE).await != (4, None) {}
    follower.stop().await;
}

/// Another folder of this node has gone on, and the disk hangs with the statement that shows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_about_the_own_strand_ends_publishing_before_it_is_recorded() {
    let store = common::store();
    let follower = Follower::start(store.clone());
    follower.publish("one").await.unwrap();
    let disk = HungDisk::of(&store);
    let other = follower.connect(OTHER, &[]);
    // About a place that this folder has: only its record waits for the disk.
    other.link.note_void(declared(NODE, 1, 1, NODE));
    follower.until("the record is on its way to the disk", || disk.is_met()).await;
    let status = || follower.engine().own_strand_status();
    assert_eq!(status(), OwnStrandStatus::Ready);
    other.link.note_void(declared(NODE, 2, 1_000, NODE));
    follower.until("the gate is closed", || status() == OwnStrandStatus::Stopped).await;
    assert!(kept(&follower).is_empty(), "nothing is recorded yet");
    drop(disk);
    follower.until("both are recorded", || kept(&follower).len() == 2).await;
    drop(other);
    follower.stop().await;
}

/// The same while the node publishes. On a clock that only moves while all tasks wait, or when the test moves it.
#[tokio::test(start_paused = true)]
async fn a_claim_does_not_run_out_before_its_peer_is_asked() {
    let store = common::store();
    store.commit(&[append(1)]).unwrap();
    let follower = Follower::start(store.clone());
    follower.until("the node publishes", || follower.complaint().is_none()).await;
    let disk = HungDisk::of(&store);
    let engine = follower.engine().clone();
    let publish = tokio::spawn(async move { engine.publish(vec![message(1, "a")]).await });
    while !disk.is_met() {
        tokio::task::yield_now().await;
    }
    let mut source = follower.connect(SOURCE, &[(NODE, 5)]);
    while !is_claimed(&follower) {
        tokio::task::yield_now().await;
    }
    // Longer than a claim counts.
    tokio::time::advance(Duration::from_secs(60)).await;
    drop(disk);
    publish.await.unwrap().unwrap();
    let want = loop {
        tokio::select! {
            command = source.link.command() => match command.expect("the link stands") {
                LinkCommand::Want { want, .. } if want.originator == NODE => break want,
                _ => {}
            },
            () = tokio::time::sleep(Duration::from_millis(10)) => {
                assert!(is_claimed(&follower), "it goes on though it has not asked");
            }
        }
    };
    assert_eq!((want.after, want.up_to()), (SequenceId(2), None));
    tokio::time::resume();
    follower.stop().await;
}

/// The node is stopped while it takes its strand from a peer. On a clock that only moves while all tasks wait.
#[tokio::test(start_paused = true)]
async fn a_search_for_damaged_places_waits_for_no_guard_that_has_ended() {
    let store = common::store();
    store.commit(&[append(1)]).unwrap();
    let follower = Follower::start(store);
    let source = follower.connect(SOURCE, &[(NODE, 3)]);
    follower.until("the peer is asked", || is_claimed(&follower)).await;
    let replication = follower.replication.clone();
    follower.stop().await;
    drop(source);
    tokio::select! {
        biased;
        found = replication.fetch(NODE, [(SequenceId(1), None)].into()) => assert!(found.is_empty()),
        () = tokio::time::sleep(Duration::from_secs(1)) => panic!("the stop of the node waits for it"),
    }
}
