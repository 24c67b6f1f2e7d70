//! Disks that lie under a running engine: what they have damaged is found, and fetched again from peers, which may lie
//! as well.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hawser_engine::chain_strand::ChainEvent;
use hawser_engine::facts;
use hawser_engine::price;
use hawser_engine::replication::StrandItem;
use hawser_engine::runtime::{
    PublishError, ScrubDone, ScrubMode, ScrubSettings, start_disk_task, start_scrub_task,
};
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{PicoDollarPrice, Rate};
use hawser_storage::{
    CACHE_BYTES_MIN, Change, Damage, Durability, LogEntry, OpenError, SkipReason, Store,
    StoreIdentity, StoreSettings, Validity,
};
use tokio::task::JoinHandle;

use crate::common::{self, NODE, START_NS, rate, record_rates};
use crate::follow::{Follower, OTHER, Peer, SOURCE, envelope, priced, strand};

/// Places of the strand that is damaged: some blocks.
const PLACES: u64 = 90;
/// The place that is damaged.
const DAMAGED: u64 = 45;
/// Longer than anything takes that works, also on a busy machine.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// A strand that a chain orders.
const CHAIN: OriginatorId = OriginatorId::GROUP_MESSAGES;

/// A folder on disk that goes with its test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scrub-{name}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> Store {
        let public_key = common::node_key().public_key();
        let identity = StoreIdentity { network: "test".into(), node: NODE, public_key };
        let settings = StoreSettings {
            path: self.0.join("data"),
            identity,
            durability: Durability::Fsync,
            price: price::price,
            host: None,
            open_files_max: 64,
            cache_bytes: CACHE_BYTES_MIN,
        };
        // Threads of the engine before let go of it a moment after it has stopped.
        loop {
            match Store::open(&settings) {
                Err(OpenError::Held { .. }) => std::thread::sleep(Duration::from_millis(5)),
                opened => return opened.unwrap(),
            }
        }
    }

    /// Opens the folder, and has compactions rest of what is damaged as after a scrub that has found the damage.
    pub fn open_damaged(&self) -> Store {
        let store = self.open();
        let cause = || "damaged by this test".to_owned();
        let damages = ["log", "topic"].map(|family| Damage {
            family,
            first: None,
            last: None,
            file: None,
            cause: cause(),
        });
        store.hold_compactions(&damages);
        store
    }

    /// Opens the stopped folder until RocksDB has merged the files that it wants to merge, also those that it merges
    /// when it opens them again: a merge that meets damage ends all writes.
    fn settle(&self) {
        let _store = self.open();
        let files = || -> BTreeSet<_> {
            fs::read_dir(self.0.join("data")).unwrap().map(|it| it.unwrap().file_name()).collect()
        };
        let (mut seen, mut same) = (files(), 0);
        while same < 25 {
            std::thread::sleep(Duration::from_millis(20));
            let now = files();
            same = if now == seen { same + 1 } else { 0 };
            seen = now;
        }
    }

    /// Takes away the file of large envelopes: each read of one fails, and nothing is damaged. Returns where it was and
    /// where it is. RocksDB must not have read it before, because it keeps files open.
    pub fn take_large_away(&self) -> (PathBuf, PathBuf) {
        let files = fs::read_dir(self.0.join("data")).unwrap().map(|it| it.unwrap().path());
        let is_blob = |it: &PathBuf| it.extension().is_some_and(|it| it == "blob");
        let blobs: Vec<_> = files.filter(is_blob).collect();
        let [blob] = &blobs[..] else { panic!("large envelopes have one file: {blobs:?}") };
        let away = self.0.join("away");
        fs::rename(blob, &away).unwrap();
        (blob.clone(), away)
    }

    /// Flips a bit of an envelope in the table file of the log, in place. Returns the file as it was.
    pub fn damage(&self, envelope: &Bytes) -> (PathBuf, Vec<u8>) {
        self.damage_in("log", envelope)
    }

    /// Flips a bit of an envelope in the table file of a family, in place. Returns the file as it was.
    pub fn damage_in(&self, family: &str, envelope: &Bytes) -> (PathBuf, Vec<u8>) {
        let properties = format!("name{family}");
        for file in fs::read_dir(self.0.join("data")).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|it| it != "sst") {
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            // The properties at a table file's end name its family; those of log and topics have the envelope.
            let is_family = bytes.windows(properties.len()).any(|it| it == properties.as_bytes());
            let at = bytes.windows(envelope.len()).position(|it| it == envelope);
            let Some(at) = at.filter(|_| is_family) else { continue };
            let writer = fs::File::options().write(true).open(&path).unwrap();
            writer.write_all_at(&[bytes[at + 9] ^ 4], u64::try_from(at + 9).unwrap()).unwrap();
            return (path, bytes);
        }
        panic!("no table file of {family} has it");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A folder with a strand of a peer, damaged, and a store on it with empty caches.
fn damaged(name: &str) -> (Folder, Store, (PathBuf, Vec<u8>)) {
    let folder = Folder::new(name);
    let store = folder.open();
    record_rates(&store, &[rate()]);
    let envelopes = strand(SOURCE, &(1..=PLACES).collect::<Vec<_>>());
    let append = |(place, bytes): (u64, Bytes)| {
        let validity = Validity::Valid;
        let facts = facts::of_stored(&bytes, validity, NODE);
        let id = EnvelopeId::new(SOURCE, SequenceId(place));
        Change::Append(LogEntry { id, bytes, validity, facts })
    };
    let damaged = envelopes[usize::try_from(DAMAGED).unwrap() - 1].clone();
    store.commit(&(1..).zip(envelopes).map(append).collect::<Vec<_>>()).unwrap();
    store.flush().unwrap();
    drop(store);
    folder.settle();
    let file = folder.damage(&damaged);
    let store = folder.open_damaged();
    (folder, store, file)
}

/// Returns true if the file is byte for byte as it was, or a compaction has taken its rows over: it can read them then.
fn is_as_before(file: &Path, before: &[u8]) -> bool {
    fs::read(file).map_or_else(|error| error.kind() == ErrorKind::NotFound, |bytes| bytes == before)
}

fn repair(follower: &Follower) -> JoinHandle<ScrubDone> {
    let scrubs = follower.engine().scrubs().clone();
    tokio::task::spawn_blocking(move || {
        scrubs.run(ScrubMode::Repair, &mut |_| ControlFlow::Continue(())).unwrap()
    })
}

/// The want for damaged places, which has an end.
async fn asked_for_damage(peer: &mut Peer, originator: OriginatorId) -> Vec<u64> {
    loop {
        if let (after, Some(up_to)) = peer.want(originator).await {
            return (after + 1..=up_to).collect();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_has_damaged_is_fetched_from_the_peer_that_does_not_lie() {
    let (_folder, store, (file, before)) = damaged("liar");
    let follower = Follower::start(store);
    let claims = [(SOURCE, PLACES)];
    let mut liar = follower.connect(OTHER, &claims);
    let scrub = repair(&follower);

    let places = asked_for_damage(&mut liar, SOURCE).await;
    // After the liar is asked, because a search draws its order.
    let mut honest = follower.connect(SOURCE, &claims);
    assert!(places.contains(&DAMAGED) && places.len() < 60, "a block: {places:?}");
    let store = follower.engine().store().clone();
    let read =
        store.snapshot().log(EnvelopeId::new(SOURCE, SequenceId::NONE), SequenceId(PLACES)).last();
    assert!(matches!(read, Some(Err(_))), "readers get an error meanwhile: {read:?}");
    // Just as well signed, and another story.
    liar.send(places.iter().map(|&place| envelope(SOURCE, place, "other"))).await;
    liar.answer(vec![StrandItem::End]).await;
    // Publishing goes on.
    follower.publish("meanwhile").await.unwrap();
    assert_eq!(asked_for_damage(&mut honest, SOURCE).await, places);
    honest.send(strand(SOURCE, &places)).await;

    let done = scrub.await.unwrap();
    assert_eq!((done.repaired, done.report.damages.len(), &done.left), (1, 1, &vec![]), "{done:?}");
    assert!(is_as_before(&file, &before), "byte for byte");
    assert_eq!(follower.held(SOURCE), strand(SOURCE, &(1..=PLACES).collect::<Vec<_>>()));
    let counters = &follower.engine().counters().scrub;
    assert_eq!((counters.damages.get(), counters.repaired.get(), counters.left.get()), (1, 1, 0));

    // The strand is followed again.
    while honest.want(SOURCE).await != (PLACES, None) {}
    honest.send(strand(SOURCE, &[PLACES + 1])).await;
    follower.wait_for(SOURCE, PLACES + 1).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_no_peer_can_mend_stays_told_until_one_comes_also_after_a_restart() {
    let (folder, store, (file, before)) = damaged("alone");
    let follower = Follower::start(store);
    let disk = start_disk_task(follower.engine());
    let done = repair(&follower).await.unwrap();
    assert_eq!((done.repaired, done.left.len()), (0, 1), "{done:?}");
    let status = follower.engine().scrubs().status();
    assert_eq!((status.left_count, status.is_running), (1, false));
    assert!(status.left[0].reason.contains("no peer"), "{status:?}");
    // A compaction may have met the damage before the scrub did.
    let is_writable = || !follower.engine().store().is_poisoned();
    follower.until("the log is read again", is_writable).await;
    follower.publish("all the same").await.unwrap();
    let mut silent = follower.connect(OTHER, &[(SOURCE, PLACES)]);
    let scrub = repair(&follower);
    asked_for_damage(&mut silent, SOURCE).await;
    // The node ends in the middle of it.
    drop(silent);
    assert_eq!(scrub.await.unwrap().left.len(), 1);
    disk.stop().await;
    drop(follower.stop().await);

    let follower = Follower::start(folder.open_damaged());
    let disk = start_disk_task(follower.engine());
    let mut honest = follower.connect(OTHER, &[(SOURCE, PLACES)]);
    let settings = ScrubSettings { every: Duration::from_millis(1), bytes_per_s: 0 };
    let task = start_scrub_task(follower.engine(), settings);
    let places = asked_for_damage(&mut honest, SOURCE).await;
    honest.send(strand(SOURCE, &places)).await;
    let repaired = || follower.engine().counters().scrub.repaired.get() == 1;
    follower.until("it is repaired in the background", repaired).await;
    let is_whole = || {
        let status = follower.engine().scrubs().status();
        status.left_count == 0 && status.finished_unix_s.is_some()
    };
    follower.until("nothing is left", is_whole).await;
    assert!(is_as_before(&file, &before), "byte for byte");
    task.stop().await;
    disk.stop().await;
    follower.stop().await;
}

fn ordered(sequence: u64) -> ChainEvent {
    let payload =
        common::group_payload(common::frame(1, 3, format!("event {sequence}").as_bytes()));
    ChainEvent {
        sequence: SequenceId(sequence),
        block_time_s: 1_750_000_000 + sequence,
        transaction_hash: [7; 32],
        client_bytes: common::client(&common::group_topic(1), None, payload),
        topic_identifier: Some(Bytes::copy_from_slice(&[1; 16])),
        bootstrapped: false,
    }
}

/// No key signs what a chain orders: the tree of the strand is the proof.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_chain_has_ordered_is_fetched_from_the_peer_that_has_it_as_the_tree_says() {
    let folder = Folder::new("chain");
    let follower = Follower::start(folder.open());
    let chain = follower.engine().chain_appender();
    chain.append(CHAIN, &(1..=PLACES).map(ordered).collect::<Vec<_>>(), None).unwrap();
    let held = follower.held(CHAIN);
    assert_eq!(held.len() as u64, PLACES);
    drop(chain);
    let store = follower.stop().await;
    store.flush().unwrap();
    drop(store);
    folder.settle();
    let (file, before) = folder.damage(&held[usize::try_from(DAMAGED).unwrap() - 1]);

    let follower = Follower::start(folder.open_damaged());
    let disk = start_disk_task(follower.engine());
    let claims = [(CHAIN, PLACES)];
    let mut liar = follower.connect(OTHER, &claims);
    let scrub = repair(&follower);
    let places = asked_for_damage(&mut liar, CHAIN).await;
    assert!(places.contains(&DAMAGED) && places.len() < 60, "a block: {places:?}");
    // As canonical, and of another transaction.
    let other = |place: &u64| {
        let (statement, _) =
            OriginatorEnvelope::open(held[usize::try_from(*place).unwrap() - 1].clone()).unwrap();
        OriginatorEnvelope::encode(statement, Proof::Transaction([8; 32]))
    };
    liar.send(places.iter().map(other)).await;
    let mut honest = follower.connect(SOURCE, &claims);
    liar.answer(vec![StrandItem::End]).await;
    assert_eq!(asked_for_damage(&mut honest, CHAIN).await, places);
    honest
        .send(places.iter().map(|place| held[usize::try_from(*place).unwrap() - 1].clone()))
        .await;

    let done = scrub.await.unwrap();
    assert_eq!((done.repaired, &done.left), (1, &vec![]), "{done:?}");
    assert!(is_as_before(&file, &before), "byte for byte");
    assert_eq!(follower.held(CHAIN), held);
    disk.stop().await;
    follower.stop().await;
}

/// Starts a follower of a strand whose places 1 and 2 are missing, for which it asks two peers.
async fn missing_places(folder: &Folder) -> (Store, Follower, Peer, Peer) {
    let store = folder.open_damaged();
    record_rates(&store, &[rate()]);
    let (from, through) = (SequenceId(1), SequenceId(2));
    let skip = Change::Skip { originator: SOURCE, from, through, reason: SkipReason::Missing };
    let (id, bytes) = (EnvelopeId::new(SOURCE, SequenceId(3)), envelope(SOURCE, 3, "true"));
    let entry = LogEntry { id, bytes, validity: Validity::Valid, facts: None };
    store.commit(&[skip, Change::Append(entry)]).unwrap();
    let follower = Follower::start(store.clone());
    let mut other = follower.connect(OTHER, &[]);
    let mut third = follower.connect(OriginatorId(400), &[]);
    assert_eq!(other.want(SOURCE).await, (0, Some(2)));
    assert_eq!(third.want(SOURCE).await, (0, Some(2)));
    (store, follower, other, third)
}

/// A peer shows another envelope for place 1, which cannot be read. Its strand grows all the same.
async fn goes_on_without_the_place(follower: Follower, third: Peer) {
    third.send([envelope(SOURCE, 1, "other")]).await;
    let unreadable = || follower.engine().counters().evidence_unreadable.get() == 1;
    follower.until("the place is given up", unreadable).await;
    let mut source = follower.connect(SOURCE, &[(SOURCE, 4)]);
    assert_eq!(source.want(SOURCE).await, (3, None));
    source.send(strand(SOURCE, &[4])).await;
    follower.wait_for(SOURCE, 4).await;
    assert_eq!(follower.replication.counters().conflicts.get(), 0, "nothing was compared");
    drop(follower.stop().await);
}

/// A peer sends another statement for a place whose envelope is damaged, so nothing shows that it is another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_for_a_damaged_place_holds_up_no_strand() {
    let folder = Folder::new("compared");
    let (store, follower, other, third) = missing_places(&folder).await;
    other.send(strand(SOURCE, &[1])).await;
    follower.until("the find is stored", || follower.held(SOURCE).len() == 2).await;
    store.flush().unwrap();
    folder.damage(&envelope(SOURCE, 1, "true"));

    goes_on_without_the_place(follower, third).await;
}

/// The disk fails each read of the envelope at a place for which a peer sends another statement.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_for_ever_holds_up_its_strand_for_some_tries() {
    let folder = Folder::new("unread");
    let (store, follower, other, third) = missing_places(&folder).await;
    // Long enough for a file of its own.
    other.send([envelope(SOURCE, 1, &"long".repeat(2000))]).await;
    follower.until("the find is stored", || follower.held(SOURCE).len() == 2).await;
    store.flush().unwrap();
    folder.take_large_away();

    goes_on_without_the_place(follower, third).await;
}

/// Two fees wait to be judged, and the disk damages the envelope of one of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_envelope_keeps_no_other_fee_from_being_judged() {
    let folder = Folder::new("doubted");
    let store = folder.open_damaged();
    record_rates(&store, &[rate()]);
    let follower = Follower::start(store.clone());
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    let expensive = |place| {
        priced(SOURCE, place, "true", Rate { message_fee: PicoDollarPrice(2000), ..rate() })
    };
    let cheap = strand(SOURCE, &(2..PLACES).collect::<Vec<_>>());
    source.send([expensive(1)].into_iter().chain(cheap).chain([expensive(PLACES)])).await;
    follower.wait_for(SOURCE, PLACES).await;
    store.flush().unwrap();
    folder.damage(&expensive(PLACES));

    let confirmed = follower.node.rates.borrow().confirmed(START_NS + 1_000);
    follower.node.rates.send_replace(Arc::new(confirmed));
    let proven = || store.evidence_counts().get(&SOURCE).map_or(0, |it| it.proven());
    follower.until("the readable one is judged", || proven() == 1).await;
    let unreadable = || follower.engine().counters().evidence_unreadable.get();
    follower.until("the damaged one is counted", || unreadable() == 1).await;
    drop(follower.stop().await);
}

/// A stopped folder with a strand of its node, which the node has published.
async fn own_strand(name: &str) -> (Folder, Vec<Bytes>) {
    let folder = Folder::new(name);
    let store = folder.open();
    record_rates(&store, &[rate()]);
    let follower = Follower::start(store);
    let mut published = Vec::new();
    for text in 0..PLACES {
        published.push(follower.publish(&format!("{text}")).await.unwrap());
    }
    let store = follower.stop().await;
    store.flush().unwrap();
    drop(store);
    folder.settle();
    (folder, published)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_of_the_own_strand_comes_back_as_this_node_signed_it() {
    let (folder, published) = own_strand("own").await;
    let (file, before) = folder.damage(&published[usize::try_from(DAMAGED).unwrap() - 1]);

    let follower = Follower::start(folder.open_damaged());
    let disk = start_disk_task(follower.engine());
    let mut peer = follower.connect(OTHER, &[(NODE, PLACES)]);
    let scrub = repair(&follower);
    let places = asked_for_damage(&mut peer, NODE).await;
    let held = places.iter().map(|&place| published[usize::try_from(place).unwrap() - 1].clone());
    peer.send(held).await;
    let done = scrub.await.unwrap();
    assert_eq!((done.repaired, &done.left), (1, &vec![]), "{done:?}");
    assert!(is_as_before(&file, &before), "byte for byte");
    assert_eq!(follower.held(NODE), published);
    follower.publish("afterwards").await.unwrap();
    disk.stop().await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_end_of_its_own_strand_a_node_signs_nothing_until_a_peer_has_brought_it() {
    let (folder, mut published) = own_strand("own-end").await;
    let (file, before) = folder.damage(&published[published.len() - 1]);

    let follower = Follower::start(folder.open_damaged());
    let disk = start_disk_task(follower.engine());
    let end = EnvelopeId::new(NODE, SequenceId(PLACES));
    let status = follower.engine().scrubs().status();
    assert_eq!((status.left_count, status.left[0].damage.last), (1, Some(end)), "{status:?}");
    let mut peer = follower.connect(OTHER, &[(NODE, PLACES)]);
    let refused = follower.publish("too early").await.unwrap_err().to_string();
    assert!(refused.contains("cannot be read"), "{refused}");
    assert!(follower.engine().may_sign().is_err());
    let read = follower.engine().reader().query_originators(&[NODE], &Cursor::new(), 3).unwrap();
    assert_eq!(read, published[..3], "what is readable is served");

    let settings = ScrubSettings { every: Duration::from_millis(1), bytes_per_s: 0 };
    let task = start_scrub_task(follower.engine(), settings);
    let places = asked_for_damage(&mut peer, NODE).await;
    assert!(places.contains(&PLACES) && places.len() < 60, "a block: {places:?}");
    let held = places.iter().map(|&place| published[usize::try_from(place).unwrap() - 1].clone());
    peer.send(held).await;
    follower.until("it publishes again", || follower.complaint().is_none()).await;
    assert!(is_as_before(&file, &before), "byte for byte");
    published.push(follower.publish("afterwards").await.unwrap());
    assert_eq!(follower.held(NODE), published, "no place is given out twice");
    let is_repaired = || follower.engine().scrubs().status().left_count == 0;
    follower.until("nothing is left", is_repaired).await;
    task.stop().await;
    disk.stop().await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_projections_are_made_anew_and_no_reader_gets_a_part_of_them() {
    let (folder, mut published) = own_strand("projections").await;
    folder.damage_in("topic", &published[usize::try_from(DAMAGED).unwrap()]);

    let follower = Follower::start(folder.open_damaged());
    let disk = start_disk_task(follower.engine());
    let reader = follower.engine().reader().clone();
    let topics = [common::group_topic(1)];
    let read = || reader.query_topics(&topics, &Cursor::new(), 0);
    assert!(read().is_err(), "damaged rows are no answer");
    let scrub = repair(&follower);
    while !scrub.is_finished() {
        if let Ok(rows) = read() {
            assert_eq!(rows, published, "all rows or none");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let done = scrub.await.unwrap();
    assert_eq!((done.repaired, &done.left), (1, &vec![]), "{done:?}");
    assert_eq!(read().unwrap(), published);
    published.push(follower.publish("afterwards").await.unwrap());
    assert_eq!(read().unwrap(), published);
    let clean = repair(&follower).await.unwrap();
    assert_eq!((clean.report.damages, clean.repaired), (Vec::new(), 0));
    disk.stop().await;
    follower.stop().await;
}

/// Condemns the projection in this family, and waits until the log has been read again without it.
async fn condemn(follower: &Follower, family: &str) {
    let store = follower.engine().store();
    store.condemn_damaged(&[family]).unwrap();
    follower.until("the log is read again", || !store.is_poisoned()).await;
}

/// Publishes once the log has been read again by all who sign. `None` if projections that publishing needs are not made
/// yet.
async fn publish_again(follower: &Follower, text: &str) -> Option<Bytes> {
    let publish = async {
        loop {
            match follower.publish(text).await {
                Ok(envelope) => return Some(envelope),
                Err(PublishError::Unavailable { reason, .. }) if reason.contains("rebuilt") => {
                    return None;
                }
                Err(PublishError::Unavailable { .. }) => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(other) => panic!("{other}"),
            }
        }
    };
    tokio::time::timeout(WAIT_MAX, publish).await.expect("the log is read again")
}

/// Without receipts a repeat would be charged again.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_publishes_without_topics_and_not_without_receipts() {
    let (folder, mut published) = own_strand("parts").await;
    let follower = Follower::start(folder.open());
    let disk = start_disk_task(follower.engine());
    let reader = follower.engine().reader().clone();
    let topics = [common::group_topic(1)];
    let read = || reader.query_topics(&topics, &Cursor::new(), 0);
    condemn(&follower, "topic").await;
    published.push(publish_again(&follower, "without topics").await.unwrap());
    assert!(read().is_err(), "it has no rows");
    condemn(&follower, "receipt").await;
    assert_eq!(publish_again(&follower, "without receipts").await, None);
    let done = repair(&follower).await.unwrap();
    assert_eq!(done.left, vec![], "{done:?}");
    assert_eq!(read().unwrap(), published);
    published.push(publish_again(&follower, "afterwards").await.unwrap());
    assert_eq!(read().unwrap(), published);
    disk.stop().await;
    follower.stop().await;
}
