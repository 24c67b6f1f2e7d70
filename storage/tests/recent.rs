//! Topics of the envelopes that were written last are cached, and read again after a start.

use crate::support::*;
use bytes::Bytes;
use hawser_proto::checkpoint::{Checkpoint, SignedPrefix};
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::merkle::{ConsistencyProof, TreeHash};
use hawser_proto::{OriginatorId, SequenceId, Topic};
use hawser_storage::{Change, Facts, Family, LogEntry, RecentTopicsWalk, Store};

/// Returns the topic of an envelope by the facts of these tests.
fn topic_of(bytes: &Bytes) -> Option<Topic> {
    let (statement, _) = OriginatorEnvelope::open(bytes.clone()).ok()?;
    let text = std::str::from_utf8(&statement).ok()?;
    let sequence = text.rsplit_once(':')?.1.parse().ok()?;
    facts(id(PEER, sequence)).topic
}

fn has_news(store: &Store, name: &str, after: u64) -> bool {
    let snapshot = store.snapshot();
    let ends = [id(PEER, snapshot.head(PEER).unwrap().0)];
    snapshot.topics().probe_newer(topic(name).as_bytes(), &|_| SequenceId(after), &ends)
}

fn remember(store: &Store, topic_of: impl Fn(&Bytes) -> Option<Topic>) -> usize {
    let (mut walk, mut steps) = (RecentTopicsWalk::default(), 0);
    while store.remember_topics(&mut walk, &topic_of).unwrap() {
        steps += 1;
    }
    steps
}

/// Otherwise readers of all strands would search the disk after each start.
#[test]
fn a_strand_that_cannot_be_read_keeps_no_other_from_being_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    let last = OriginatorId(300);
    for strand in [OWN, PEER, last] {
        store.commit(&(1..=10).map(|at| append(strand, at)).collect::<Vec<_>>()).unwrap();
    }
    for strand in [OWN, last] {
        let key = [&strand.0.to_be_bytes()[..], &5_u64.to_be_bytes()].concat();
        store.put_raw_row(Family::Mark, &key, &[0xff]);
    }
    drop(store);

    let store = Store::open(&settings(folder.path())).unwrap();
    let (mut walk, mut failed) = (RecentTopicsWalk::default(), 0);
    loop {
        match store.remember_topics(&mut walk, topic_of) {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) => failed += 1,
        }
    }
    assert_eq!(failed, 2, "each once");
    assert!(!has_news(&store, "other", 0), "the readable strand is remembered");
}

#[test]
fn topics_of_the_last_envelopes_are_known_again_after_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    store.commit(&(1..=1000).map(|at| append(PEER, at)).collect::<Vec<_>>()).unwrap();
    assert!(!has_news(&store, "other", 0), "all of it was written here");
    drop(store);

    let store = Store::open(&settings(folder.path())).unwrap();
    assert!(has_news(&store, "other", 999) && !has_news(&store, "other", 1000));
    assert_eq!(remember(&store, |_| None), 200, "as many steps as it takes at most");
    assert!(has_news(&store, "other", 999), "an envelope without a topic hides nothing");
    drop(store);

    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(remember(&store, topic_of), 2);
    assert!(!has_news(&store, "other", 0));
    assert!(has_news(&store, "t2", 997) && !has_news(&store, "t2", 998));
    store.commit(&[append(PEER, 1001)]).unwrap();
    assert!(has_news(&store, "t2", 998) && !has_news(&store, "t2", 1001));
    store.rebuild(&|at, _, _| Some(facts(at)), &mut |_| {}).unwrap();
    assert!(has_news(&store, "other", 0), "a rebuild writes all rows");
}

/// Shows a peer's places, with a tree that has so many places behind them.
fn show_by(store: &Store, places: std::ops::RangeInclusive<u64>, further: u64) {
    let (size, root) = (places.end() + further, TreeHash([1; 32]));
    let of = Checkpoint { node: PEER, originator: PEER, size, root, time_ns: 1 };
    let proof = ConsistencyProof(Vec::new());
    let prefix = SignedPrefix { size: *places.end(), signed: of.sign(&key(3)), proof };
    let shown = |sequence| {
        let at = id(PEER, sequence);
        let plain = Facts { addresses: Vec::new(), receipt: None, ..facts(at) };
        Change::Append(LogEntry { facts: Some(plain.unbooked()), ..entry(at) })
    };
    store.commit_shown_by(&places.map(shown).collect::<Vec<_>>(), &prefix, &[]).unwrap();
}

/// Topics of earlier parts would be forgotten before readers come who lack only the newest envelopes.
#[test]
fn topics_of_a_shown_backlog_are_remembered_from_its_last_part_on() {
    const REMEMBERED: u64 = 100_000;
    let store = in_memory();
    show_by(&store, 1..=10, REMEMBERED + 1);
    assert!(has_news(&store, "other", 9), "the disk has to be asked");
    assert!(!has_news(&store, "other", 10));
    show_by(&store, 11..=20, REMEMBERED);
    assert!(has_news(&store, "other", 9) && !has_news(&store, "other", 10));
    assert!(has_news(&store, "t1", 18) && !has_news(&store, "t1", 19));
    // What was left out can be read back, as after a start.
    assert_eq!(remember(&store, topic_of), 1);
    assert!(!has_news(&store, "other", 0) && has_news(&store, "t1", 0));
}
