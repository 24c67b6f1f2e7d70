//! Evidence against nodes: each fact once, within bounds, and for the promised time.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use hawser_proto::{OriginatorId, StatementDifference};
use hawser_storage::{Evidence, EvidenceTime, Misbehavior, Store, StoredEvidence};

const DAY_NS: u64 = 24 * 60 * 60 * 1_000_000_000;
const START: EvidenceTime = EvidenceTime { server_time_ns: 0, counter: 0 };

fn evidence(misbehavior: Misbehavior, sequence: u64) -> Evidence {
    let envelopes = vec![signed("one", 1), signed("another", 1)];
    Evidence { misbehavior, at: id(PEER, sequence), from: Some(OWN), envelopes }
}

fn two_statements(sequence: u64) -> Evidence {
    evidence(Misbehavior::TwoStatements(StatementDifference::Content), sequence)
}

fn all(store: &Store) -> Vec<StoredEvidence> {
    store.snapshot().evidence(START, usize::MAX, usize::MAX).unwrap()
}

fn counted(store: &Store, accused: OriginatorId) -> (u64, u64) {
    store.evidence_counts().get(&accused).map_or((0, 0), |it| (it.proven(), it.claims()))
}

#[test]
fn a_fact_is_stored_once_and_read_in_order() {
    on_each(|store| {
        assert_eq!(store.record_evidence(7, &[]).unwrap(), []);
        let (first, back) = (two_statements(1), evidence(Misbehavior::TimeBack, 1));
        let again = Evidence { from: None, ..two_statements(1) };
        let recorded = store.record_evidence(7, &[first.clone(), again.clone()]).unwrap();
        assert_eq!(recorded, std::slice::from_ref(&first));
        let recorded = store.record_evidence(8, &[again, back.clone()]).unwrap();
        assert_eq!(recorded, std::slice::from_ref(&back));
        // The clock has gone back: the order of storing stays.
        let ahead = evidence(Misbehavior::TimeAhead, 1);
        store.record_evidence(3, std::slice::from_ref(&ahead)).unwrap();
        let found = all(store);
        let stored: Vec<_> = found.iter().map(|it| it.evidence.clone()).collect();
        assert_eq!(stored, [first, back, ahead]);
        assert_eq!(counted(store, PEER), (2, 1));
        assert_eq!(counted(store, OWN), (0, 0));
        let rest = store.snapshot().evidence(found[0].at, usize::MAX, usize::MAX).unwrap();
        assert_eq!(rest, found[1..]);
        assert_eq!(store.snapshot().evidence(START, 2, usize::MAX).unwrap(), found[..2]);
        assert_eq!(store.snapshot().evidence(START, 9, 1).unwrap(), found[..1], "at least one");
    });
}

/// Played by a disk whose sync hangs. Operators look at the node then.
#[test]
fn evidence_is_counted_while_a_write_of_it_hangs() {
    on_each(|store| {
        store.record_evidence(7, &[two_statements(1)]).unwrap();
        let hangs = Arc::new((Barrier::new(2), Barrier::new(2)));
        let at_write = hangs.clone();
        store.set_write_faults(Some(Arc::new(move || {
            at_write.0.wait();
            at_write.1.wait();
            None
        })));
        let meanwhile = std::thread::scope(|scope| {
            let writing = scope.spawn(|| store.record_evidence(8, &[two_statements(2)]));
            hangs.0.wait();
            let (tell, told) = mpsc::channel();
            scope.spawn(move || {
                let shown = (store.evidence_left_out().len(), store.evidence_unreadable());
                tell.send((counted(store, PEER), shown))
            });
            // So long only if the reader waits for the write.
            let meanwhile = told.recv_timeout(Duration::from_secs(60));
            hangs.1.wait();
            assert_eq!(writing.join().unwrap().unwrap().len(), 1);
            meanwhile
        });
        store.set_write_faults(None);
        assert_eq!(meanwhile, Ok(((1, 0), (0, 0))), "what is not durable does not count");
        assert_eq!(counted(store, PEER), (2, 0));
    });
}

#[test]
fn evidence_outlives_restarts_rebuilds_and_its_envelopes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, PEER, 3);
    store.record_evidence(7, &[two_statements(2)]).unwrap();
    let before = all(&store);
    store.rebuild(&|_, _, _| None, &mut |_| {}).unwrap();
    assert_eq!(all(&store), before);
    drop(store);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(all(&store), before);
    assert_eq!(counted(&store, PEER), (1, 0));
    assert_eq!(store.record_evidence(9, &[two_statements(2)]).unwrap(), [], "known already");
    store.record_evidence(1, &[two_statements(3)]).unwrap();
    assert!(all(&store)[1].at > before[0].at);
    // Both statements stand in the evidence, so no place of the log is needed for it.
    assert_eq!(before[0].evidence.envelopes.len(), 2);
}

#[test]
fn claims_make_room_for_themselves_and_proofs_do_not() {
    let store = in_memory();
    let many = |kind, from: u64, to: u64| -> Vec<Evidence> {
        let piece = |sequence| Evidence {
            envelopes: vec![Bytes::from_static(b"an envelope")],
            ..evidence(kind, sequence)
        };
        (from..=to).map(piece).collect()
    };
    let claims = |from, to| many(Misbehavior::TimeAhead, from, to);
    assert_eq!(store.record_evidence(1, &claims(1, 10_000)).unwrap().len(), 10_000);
    assert_eq!(counted(&store, PEER), (0, 10_000));
    store.record_evidence(2, &claims(10_001, 10_001)).unwrap();
    assert_eq!(counted(&store, PEER), (0, 9_000), "the oldest ones are gone");
    assert_eq!(all(&store)[0].evidence.at, id(PEER, 1_002));

    let proofs = |from, to| many(Misbehavior::TimeBack, from, to);
    assert_eq!(store.record_evidence(3, &proofs(1, 10_000)).unwrap().len(), 10_000);
    assert_eq!(store.evidence_left_out(), BTreeMap::new());
    assert_eq!(store.record_evidence(4, &proofs(10_001, 10_005)).unwrap(), []);
    assert_eq!(
        store.evidence_left_out(),
        BTreeMap::from([(PEER, 5)]),
        "and what is left out is counted"
    );
    assert_eq!(store.record_evidence(4, &proofs(1, 5)).unwrap(), [], "known already");
    assert_eq!(store.evidence_left_out()[&PEER], 5);
    assert_eq!(counted(&store, PEER), (10_000, 9_000));
    let other = Evidence { at: id(OWN, 1), ..two_statements(1) };
    assert_eq!(store.record_evidence(5, &[other]).unwrap().len(), 1, "each node has its own share");

    // Claims of more than 30 days are removed once there are too many of them.
    store.record_evidence(31 * DAY_NS, &claims(20_001, 21_001)).unwrap();
    assert_eq!(counted(&store, PEER).1, 1_001, "all old ones are gone at once");
}

#[test]
fn claims_are_forgotten_after_thirty_days_although_there_is_room() {
    let store = in_memory();
    store
        .record_evidence(DAY_NS, &[two_statements(1), evidence(Misbehavior::TimeAhead, 2)])
        .unwrap();
    store.record_evidence(2 * DAY_NS, &[evidence(Misbehavior::TimeAhead, 3)]).unwrap();
    store.forget_old_claims(31 * DAY_NS).unwrap();
    assert_eq!(counted(&store, PEER), (1, 2), "not one moment earlier");
    store.forget_old_claims(31 * DAY_NS + 1).unwrap();
    assert_eq!(counted(&store, PEER), (1, 1));
    let kept: Vec<_> = all(&store).into_iter().map(|stored| stored.evidence.at).collect();
    assert_eq!(kept, [id(PEER, 1), id(PEER, 3)]);
    store.forget_old_claims(u64::MAX).unwrap();
    assert_eq!(counted(&store, PEER), (1, 0), "proofs stay for ever");
    let again = evidence(Misbehavior::TimeAhead, 2);
    assert_eq!(store.record_evidence(90 * DAY_NS, &[again]).unwrap().len(), 1, "a new claim");
}

/// A node that provokes a few large claims about itself must not empty the list of those before.
#[test]
fn large_claims_take_the_room_of_a_few_old_ones() {
    let store = in_memory();
    let claim = |sequence, len| Evidence {
        envelopes: vec![Bytes::from(vec![7; len])],
        ..evidence(Misbehavior::TimeAhead, sequence)
    };
    for sequence in 1..=32 {
        store.record_evidence(sequence, &[claim(sequence, 8 * 1024 * 1024)]).unwrap();
    }
    // The bytes around an envelope count too: the last one is above 256 MiB, and makes room for 25.6.
    assert_eq!(counted(&store, PEER), (0, 28));
    assert_eq!(all(&store)[0].evidence.at, id(PEER, 5), "the oldest four are gone");
}

fn of_severity(severity: StatementDifference, sequence: u64) -> Evidence {
    evidence(Misbehavior::TwoStatements(severity), sequence)
}

#[test]
fn a_harmless_variant_of_a_place_does_not_keep_out_the_graver_one() {
    let store = in_memory();
    let [encoding, metadata, content] =
        StatementDifference::ALL.map(|severity| of_severity(severity, 1));
    let record = |it: &Evidence| store.record_evidence(1, std::slice::from_ref(it)).unwrap().len();
    assert_eq!(record(&encoding), 1);
    assert_eq!(record(&content), 1, "another message for the same place");
    assert_eq!([&encoding, &metadata, &content].map(record), [0, 0, 0], "nothing graver");
    assert_eq!(counted(&store, PEER), (2, 0));
    // The same within one call.
    let both = [
        of_severity(StatementDifference::Content, 2),
        of_severity(StatementDifference::Encoding, 2),
    ];
    assert_eq!(store.record_evidence(2, &both).unwrap(), both[..1]);
}

#[test]
fn cheap_faults_leave_room_for_equivocation() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    // By their bytes, as a node with the largest envelopes fills the room.
    let large = Bytes::from(vec![7; 60 << 20]);
    let back = |sequence| Evidence {
        envelopes: vec![large.clone()],
        ..evidence(Misbehavior::TimeBack, sequence)
    };
    for sequence in 1..=5 {
        let recorded = store.record_evidence(1, &[back(sequence)]).unwrap();
        assert_eq!(recorded.len(), usize::from(sequence <= 4), "4 times 60 MiB fit");
    }
    assert_eq!(store.record_evidence(2, &[two_statements(1)]).unwrap().len(), 1);
    let leaf = evidence(Misbehavior::OtherLeaf, 2);
    assert_eq!(store.record_evidence(2, &[leaf]).unwrap().len(), 1, "operators are alerted to it");
    assert_eq!(counted(&store, PEER), (6, 0));
    // By their number, with variants that say the same; on a store that has been opened anew.
    drop(store);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(store.record_evidence(3, &[back(6)]).unwrap(), [], "no room was won");
    let of_other = |severity, sequence| Evidence {
        at: id(OWN, sequence),
        envelopes: vec![Bytes::from_static(b"an envelope")],
        ..of_severity(severity, sequence)
    };
    let variants: Vec<_> =
        (1..=10_001).map(|it| of_other(StatementDifference::Encoding, it)).collect();
    assert_eq!(store.record_evidence(4, &variants).unwrap().len(), 10_000);
    assert_eq!(
        store.record_evidence(5, &[of_other(StatementDifference::Content, 10_001)]).unwrap().len(),
        1
    );
    let contents: Vec<_> =
        (1..=10_000).map(|it| of_other(StatementDifference::Content, it)).collect();
    assert_eq!(store.record_evidence(6, &contents).unwrap().len(), 9_999, "they end too");
}
