//! A whole engine over a disk that fails for a while, or is full: everything goes on by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hawser_engine::runtime::{PublishError, start_disk_task};
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{PicoDollarPrice, Rate};
use hawser_storage::{
    Change, DiskReserveSettings, EvidenceTime, LogEntry, Misbehavior, SkipReason, Store, Validity,
    WriteFault,
};
use parking_lot::Mutex;

use crate::common::{NODE, Node, START_NS, message, rate, start, store};
use crate::follow::{Follower, OTHER, SOURCE, dated, envelope, priced, strand};

/// Nothing takes this long that happens at all.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// The outcome of the writes from now on: `None` for success.
fn fail(store: &Store, fault: Option<WriteFault>) {
    store.set_write_faults(Some(Arc::new(move || fault)));
}

fn id(bytes: &Bytes) -> u64 {
    OriginatorEnvelope::parse(bytes.clone()).unwrap().id().sequence.0
}

/// Publishes until that is possible. Returns the place.
async fn publish(node: &Node, text: &str) -> u64 {
    let publish = async {
        loop {
            match node.engine.publish(vec![message(1, text)]).await {
                Ok(answer) => return id(&answer[0]),
                Err(PublishError::Unavailable { .. }) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(other) => panic!("{other}"),
            }
        }
    };
    tokio::time::timeout(WAIT_MAX, publish).await.expect("publishing goes on")
}

fn refused(answer: Result<Vec<Bytes>, PublishError>) -> String {
    match answer {
        Err(PublishError::Unavailable { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_goes_on_after_a_failed_write_whatever_the_disk_has_of_it() {
    let node = start(store());
    let disk = start_disk_task(&node.engine);
    let store = node.engine.store().clone();
    assert_eq!(publish(&node, "before").await, 1);
    for (fault, place) in [(WriteFault::Lost, 2), (WriteFault::Kept, 3)] {
        let text = format!("{fault:?}");
        fail(&store, Some(fault));
        let unwritten = refused(node.engine.publish(vec![message(1, &text)]).await);
        let other = refused(node.engine.publish(vec![message(1, "other")]).await);
        assert_eq!(other, "log is read-only");
        // The database's text is for the operator: on a disk that fails it names files of the host.
        assert!(!unwritten.contains("injected"), "{unwritten}");
        assert_eq!(store.snapshot().head(NODE).unwrap(), SequenceId(place - 1));
        fail(&store, None);
        // An envelope that is on the disk is found again, and another one gets the next place.
        assert_eq!(publish(&node, &text).await, place);
        assert_eq!(node.engine.heads().get().get(NODE), SequenceId(place));
    }
    assert_eq!(publish(&node, "after").await, 4);
    disk.stop().await;
    node.engine.drain();
    node.threads.join();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_behind_a_sync_that_hangs_and_fails_is_not_acknowledged() {
    let node = start(store());
    let disk = start_disk_task(&node.engine);
    let store = node.engine.store().clone();
    let (hang, hung) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Mutex::new(released);
    store.set_write_faults(Some(Arc::new(move || {
        let _ = hang.send(());
        released.lock().recv().is_ok().then_some(WriteFault::Lost)
    })));
    let first = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.publish(vec![message(1, "a")]).await }
    });
    tokio::task::spawn_blocking(move || hung.recv().map(|()| hung)).await.unwrap().unwrap();
    let repeat = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.publish(vec![message(1, "a")]).await }
    });
    // Long enough to get behind the first one; if it does not, it is refused as well.
    tokio::time::sleep(Duration::from_millis(100)).await;
    release.send(()).unwrap();
    refused(first.await.unwrap());
    refused(repeat.await.unwrap());
    drop(release);
    fail(&store, None);
    assert_eq!(publish(&node, "b").await, 1, "no publisher was promised this place");
    assert_eq!(publish(&node, "a").await, 2);
    disk.stop().await;
    node.engine.drain();
    node.threads.join();
}

/// A large request is written in pieces. One whose later piece fails is not acknowledged; its repeat finds the pieces
/// that are stored, and gives places to the others once.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_that_fails_in_a_later_piece_is_completed_by_its_repeat() {
    let node = start(store());
    let disk = start_disk_task(&node.engine);
    let store = node.engine.store().clone();
    let writes = AtomicU64::new(0);
    store.set_write_faults(Some(Arc::new(move || {
        (writes.fetch_add(1, Ordering::Relaxed) >= 4).then_some(WriteFault::Lost)
    })));
    let request = || (0..400).map(|number| message(1, &number.to_string())).collect();
    let reason = refused(node.engine.publish(request()).await);
    assert!(reason.contains("envelopes of the request may be stored"), "{reason}");
    fail(&store, None);
    let between = publish(&node, "another").await;
    assert!((2..400).contains(&between), "a part is stored: {between}");
    let repeat = node.engine.publish(request()).await.unwrap();
    let ids: Vec<u64> = repeat.iter().map(id).collect();
    let expected: Vec<u64> = (1..=401).filter(|id| *id != between).collect();
    assert_eq!(ids, expected);
    assert_eq!(store.snapshot().head(NODE).unwrap(), SequenceId(401));
    disk.stop().await;
    node.engine.drain();
    node.threads.join();
}

/// Repeats of stored envelopes take no turn of the threads behind which publishers wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_what_is_stored_is_answered_while_a_sync_hangs() {
    let node = start(store());
    let store = node.engine.store().clone();
    let first = node.engine.publish(vec![message(1, "a"), message(1, "b")]).await.unwrap();
    let (hang, hung) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Mutex::new(released);
    store.set_write_faults(Some(Arc::new(move || {
        let _ = hang.send(());
        let _ = released.lock().recv();
        None
    })));
    let new = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.publish(vec![message(1, "c")]).await }
    });
    tokio::task::spawn_blocking(move || hung.recv().map(|()| hung)).await.unwrap().unwrap();
    let repeat = node.engine.publish(vec![message(1, "b"), message(1, "a")]);
    let repeat = tokio::time::timeout(WAIT_MAX, repeat).await.expect("it waits for no sync");
    assert_eq!(repeat.unwrap(), [first[1].clone(), first[0].clone()]);
    assert!(!new.is_finished(), "the sync still hangs");
    assert_eq!(node.engine.counters().replayed.get(), 2);
    drop(release);
    assert_eq!(id(&new.await.unwrap().unwrap()[0]), 3);
    node.engine.drain();
    node.threads.join();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_strand_goes_on_after_failed_writes_and_a_full_disk() {
    let follower = Follower::start(store());
    let disk = start_disk_task(follower.engine());
    let store = follower.engine().store().clone();
    let free = Arc::new(AtomicU64::new(u64::MAX));
    let seen = Arc::clone(&free);
    let free_bytes = Arc::new(move || Some(seen.load(Ordering::SeqCst)));
    store.keep_room(DiskReserveSettings { free_bytes_min: 1 << 30, free_bytes });
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    let mut next = 1;
    for fault in [Some(WriteFault::Lost), Some(WriteFault::Kept), None] {
        fail(&store, fault);
        free.store(if fault.is_none() { 0 } else { u64::MAX }, Ordering::SeqCst);
        source.send(strand(SOURCE, &[next, next + 1])).await;
        let is_stopped = || store.is_poisoned() || !store.has_room();
        follower.until("the disk is met", is_stopped).await;
        assert!(follower.engine().ready_to_publish().is_err());
        fail(&store, None);
        free.store(u64::MAX, Ordering::SeqCst);
        // The same task stores what it had, and what comes next in answer to the same want.
        follower.wait_for(SOURCE, next + 1).await;
        next += 2;
    }
    let all: Vec<u64> = (1..next).collect();
    assert_eq!(follower.held(SOURCE), strand(SOURCE, &all));
    follower.until("publishing goes on", || follower.complaint().is_none()).await;
    disk.stop().await;
    follower.stop().await;
}

/// Loses all writes that come after the one of this place of the source, as a kill behind that write does.
fn kill_behind(store: &Store, place: u64) {
    let (watched, at) = (store.clone(), EnvelopeId::new(SOURCE, SequenceId(place)));
    store.set_write_faults(Some(Arc::new(move || {
        watched.snapshot().get(at).unwrap().map(|_| WriteFault::Lost)
    })));
}

/// The kinds of evidence on the disk, oldest first, with their places.
fn evidence(store: &Store) -> Vec<(Misbehavior, u64)> {
    let all = store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    all.into_iter().map(|it| (it.evidence.misbehavior, it.evidence.at.sequence.0)).collect()
}

/// The follower goes on behind the envelopes after the next start, so nothing would show their faults again.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_behind_the_write_of_envelopes_loses_no_evidence_that_they_are() {
    let follower = Follower::start(store());
    let store = follower.engine().store().clone();
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    kill_behind(&store, 2);
    let hour_ns = 3_600_000_000_000;
    source.send([dated(SOURCE, 1, START_NS), dated(SOURCE, 2, START_NS - hour_ns)]).await;
    follower.wait_for(SOURCE, 2).await;
    assert_eq!(evidence(&store), [(Misbehavior::TimeBack, 2)]);
    fail(&store, None);
    follower.stop().await;
}

/// The price list is confirmed no more in the run that stores the envelope, and no peer sends the envelope again.
#[tokio::test(flavor = "multi_thread")]
async fn fees_that_wait_are_on_the_disk_before_their_envelope_and_judged_after_a_restart() {
    let store = store();
    let at = EnvelopeId::new(SOURCE, SequenceId(1));
    let (watched, is_first) = (store.clone(), Arc::new(AtomicBool::new(false)));
    let noted = is_first.clone();
    store.set_write_faults(Some(Arc::new(move || {
        let is_written = watched.snapshot().get(at).unwrap().is_some();
        if !is_written && watched.doubted_fees().unwrap() == [at] {
            noted.store(true, Ordering::SeqCst);
        }
        None
    })));
    let follower = Follower::start(store.clone());
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    let expensive = Rate { message_fee: PicoDollarPrice(2000), ..rate() };
    source.send([priced(SOURCE, 1, "true", expensive)]).await;
    follower.wait_for(SOURCE, 1).await;
    assert!(is_first.load(Ordering::SeqCst), "a kill behind the envelope loses nothing");
    fail(&store, None);
    follower.stop().await;
    assert_eq!((evidence(&store), store.doubted_fees().unwrap()), (vec![], vec![at]));

    // The list of the next start decides.
    let again = Follower::start(store.clone());
    again.until("the fee is judged", || evidence(&store) == [(Misbehavior::Fee, 1)]).await;
    again.until("nothing waits", || store.doubted_fees().unwrap().is_empty()).await;
    again.stop().await;
}

/// A late find fills a place, so no peer is asked for it again, and none sends the second statement again.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_behind_the_write_of_late_finds_loses_no_second_statement() {
    let store = store();
    let (from, through) = (SequenceId(1), SequenceId(2));
    let skip = Change::Skip { originator: SOURCE, from, through, reason: SkipReason::Missing };
    let (at, bytes) = (EnvelopeId::new(SOURCE, SequenceId(3)), envelope(SOURCE, 3, "true"));
    let entry = LogEntry { id: at, bytes, validity: Validity::Valid, facts: None };
    store.commit(&[skip, Change::Append(entry)]).unwrap();
    let follower = Follower::start(store.clone());
    let mut other = follower.connect(OTHER, &[]);
    let mut third = follower.connect(OriginatorId(400), &[]);
    assert_eq!(other.want(SOURCE).await, (0, Some(2)));
    assert_eq!(third.want(SOURCE).await, (0, Some(2)));
    other.send(strand(SOURCE, &[1])).await;
    follower.until("the find is stored", || follower.held(SOURCE).len() == 2).await;
    kill_behind(&store, 2);
    third.send([envelope(SOURCE, 1, "other"), envelope(SOURCE, 2, "true")]).await;
    follower.until("the other find is stored", || follower.held(SOURCE).len() == 3).await;
    assert!(matches!(evidence(&store)[..], [(Misbehavior::TwoStatements(_), 1)]));
    fail(&store, None);
    follower.stop().await;
}

/// A kill before the envelopes are written makes them come again.
#[tokio::test(flavor = "multi_thread")]
async fn evidence_that_was_recorded_before_a_failed_write_is_recorded_once() {
    let follower = Follower::start(store());
    let disk = start_disk_task(follower.engine());
    let store = follower.engine().store().clone();
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    let watched = store.clone();
    store.set_write_faults(Some(Arc::new(move || {
        (!evidence(&watched).is_empty()).then_some(WriteFault::Lost)
    })));
    let hour_ns = 3_600_000_000_000;
    source.send([dated(SOURCE, 1, START_NS), dated(SOURCE, 2, START_NS - hour_ns)]).await;
    follower.until("the envelopes are lost", || store.is_poisoned()).await;
    assert_eq!(evidence(&store), [(Misbehavior::TimeBack, 2)]);
    assert_eq!(store.snapshot().head(SOURCE).unwrap(), SequenceId::NONE);
    fail(&store, None);
    follower.wait_for(SOURCE, 2).await;
    assert_eq!(evidence(&store), [(Misbehavior::TimeBack, 2)]);
    disk.stop().await;
    follower.stop().await;
}

/// Peers ask for the strand again each second, and a hostile peer hundreds of times.
#[tokio::test(start_paused = true)]
async fn a_strand_that_cannot_be_sent_fills_no_log() {
    let follower = Follower::start(store());
    let replication = follower.replication.clone();
    let lines = |strand| (0..1_000).filter_map(|_| replication.count_unreadable(strand)).count();
    assert_eq!([lines(SOURCE), lines(SOURCE), lines(OTHER)], [8, 0, 8]);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(replication.count_unreadable(SOURCE), Some(1_992), "they are stated later");
    tokio::time::resume();
    follower.stop().await;
}
