//! Marks that follow a rule about times or other rules than before, and their effect on rows. Functions of the place
//! stand in for the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{EnvelopeId, SequenceId, minute_of};
use hawser_storage::{
    Change, Facts, HiddenRules, InvalidRule, JudgedMarks, LogEntry, Store, TimeRule, Validity,
    WriteFault,
};

use crate::support::*;

const ABSENT: InvalidRule = InvalidRule(17);
/// A mark with which an envelope is still charged.
const BOOKED: InvalidRule = InvalidRule(6);
/// A mark with which an envelope is not charged.
const FREE: InvalidRule = InvalidRule(3);
const SECOND: i64 = 1_000_000_000;
const PLACES: u64 = 12;

/// Returns the validity of an envelope without absences: every third one is marked and charged, every fourth one
/// marked and not charged.
fn otherwise(sequence: SequenceId) -> Validity {
    match sequence.0 {
        it if it % 4 == 0 => Validity::Invalid(FREE),
        it if it % 3 == 0 => Validity::Invalid(BOOKED),
        _ => Validity::Valid,
    }
}

fn ns(sequence: SequenceId) -> i64 {
    i64::try_from(sequence.0).unwrap() * 20 * SECOND
}

fn derive(at: EnvelopeId, _: &Bytes, validity: Validity) -> Option<Facts> {
    let facts = Facts { originator_ns: ns(at.sequence), addresses: Vec::new(), ..facts(at) };
    match validity {
        Validity::Valid => Some(facts),
        Validity::Invalid(BOOKED) => Some(facts.hidden()),
        Validity::Invalid(_) | Validity::Waiting => None,
    }
}

fn entry_at(sequence: u64, validity: Validity) -> Change {
    let at = id(PEER, sequence);
    let bytes = timed(at, ns(at.sequence).unsigned_abs());
    let facts = derive(at, &bytes, validity);
    Change::Append(LogEntry { id: at, bytes, validity, facts })
}

fn sequence_of(bytes: &Bytes) -> SequenceId {
    let (statement, _) = OriginatorEnvelope::open(bytes.clone()).unwrap();
    OriginatorEnvelope::statement(statement).unwrap().0.sequence
}

fn judge(store: &Store, basis: u8, is_broken_at: &dyn Fn(i64) -> bool) -> JudgedMarks {
    let rule = TimeRule {
        originator: PEER,
        rule: ABSENT,
        is_broken_at,
        replaces: &|rule| rule == BOOKED,
        judge: &|bytes| otherwise(sequence_of(bytes)),
        basis: &[basis],
    };
    let judged = store.judge_times(&rule, &derive).unwrap();
    while store.reprice(&derive, 100).unwrap() == 100 {}
    judged
}

/// Returns the strand as stored by a node that knew of the absence before the envelopes.
fn judged_at_arrival(is_broken_at: &dyn Fn(i64) -> bool) -> Store {
    let store = in_memory();
    let change = |sequence: u64| {
        let otherwise = otherwise(SequenceId(sequence));
        let is_replaced = matches!(otherwise, Validity::Valid | Validity::Invalid(BOOKED));
        let is_absent = is_replaced && is_broken_at(ns(SequenceId(sequence)));
        entry_at(sequence, if is_absent { Validity::Invalid(ABSENT) } else { otherwise })
    };
    store.commit(&(1..=PLACES).map(change).collect::<Vec<_>>()).unwrap();
    store
}

fn assert_equal(store: &Store, expected: &Store) {
    let (snapshot, other) = (store.snapshot(), expected.snapshot());
    for sequence in 1..=PLACES {
        let at = id(PEER, sequence);
        assert_eq!(snapshot.mark(at).unwrap(), other.mark(at).unwrap(), "{at}");
    }
    let digests = snapshot.projection_digests().unwrap();
    assert_eq!(digests, other.projection_digests().unwrap());
    drop(snapshot);
    store.rebuild(&derive, &mut |_| {}).unwrap();
    assert_eq!(store.snapshot().projection_digests().unwrap(), digests, "and of a rebuild");
}

#[test]
fn an_absence_takes_the_place_of_booked_marks_and_gives_them_back() {
    let (never, later) = (|_: i64| false, |ns: i64| ns >= 100 * SECOND);
    let store = judged_at_arrival(&never);
    // Of places 5 to 12: 5, 7, 10 and 11 are valid, 6 and 9 marked and charged, 8 and 12 marked and not charged.
    let judged = judge(&store, 1, &later);
    assert_eq!(judged, JudgedMarks { marked: 4, unmarked: 0, remarked: 2 });
    assert_equal(&store, &judged_at_arrival(&later));
    let judged = judge(&store, 2, &never);
    assert_eq!(judged, JudgedMarks { marked: 0, unmarked: 4, remarked: 2 });
    assert_equal(&store, &judged_at_arrival(&never));
}

#[test]
fn a_marked_envelope_is_booked_and_has_no_other_row() {
    let store = in_memory();
    let entries = [1, 2, 3, 4].map(|sequence| entry_at(sequence, otherwise(SequenceId(sequence))));
    store.commit(&entries).unwrap();
    let snapshot = store.snapshot();
    let usage = snapshot.usage(PEER, minute_of(ns(SequenceId(3))), charge(7, 10).payer).unwrap();
    // Place 3 is alone in its minute, with place 4, which is not booked.
    assert_eq!(usage.unwrap().messages, 1);
    let topic = facts(id(PEER, 3)).topic.unwrap();
    let mut topics = snapshot.topics();
    let row = topics.seek(topic.as_bytes(), EnvelopeId::default()).unwrap();
    assert_eq!(row.map(|row| row.id), None, "no topic has it");
}

#[test]
#[should_panic(expected = "readers would get it")]
fn a_marked_envelope_with_rows_for_readers_is_not_stored() {
    let Change::Append(entry) = entry_at(1, Validity::Valid) else { unreachable!() };
    let entry = LogEntry { validity: Validity::Invalid(BOOKED), ..entry };
    _ = in_memory().commit(&[Change::Append(entry)]);
}

/// Envelopes of a strand that takes several steps to judge.
const LONG: u64 = 5_000;

fn in_one_minute(sequence: u64) -> Change {
    let at = id(PEER, sequence);
    let bytes = timed(at, ns(SequenceId(1)).unsigned_abs() + sequence);
    let facts = derive_in_one_minute(at, &bytes, Validity::Valid);
    Change::Append(LogEntry { id: at, bytes, validity: Validity::Valid, facts })
}

fn derive_in_one_minute(at: EnvelopeId, _: &Bytes, validity: Validity) -> Option<Facts> {
    let originator_ns = ns(SequenceId(1)) + i64::try_from(at.sequence.0).unwrap();
    let charge = Some(charge(u8::from(at.sequence.0 == LONG), 10));
    let facts = Facts { originator_ns, charge, addresses: Vec::new(), ..facts(at) };
    (validity == Validity::Valid).then_some(facts)
}

/// A hostile node signs its whole strand into one minute before it is removed. The work is linear in the strand's
/// length, and other work on the strand waits for one step at most.
#[test]
fn a_strand_in_one_minute_is_judged_in_steps_and_counted_once() {
    on_each(|store| {
        store.commit(&(1..=LONG).map(in_one_minute).collect::<Vec<_>>()).unwrap();
        let (derived, begun) = (AtomicU64::new(0), AtomicBool::new(false));
        let committed = AtomicBool::new(false);
        let is_absent = |_: i64| true;
        std::thread::scope(|scope| {
            let counting = |at: EnvelopeId, bytes: &Bytes, validity| {
                if derived.fetch_add(1, Ordering::Relaxed) == 0 {
                    scope.spawn(|| {
                        begun.store(true, Ordering::Release);
                        store.commit(&[in_one_minute(LONG + 1)]).unwrap();
                        committed.store(true, Ordering::Release);
                    });
                    while !begun.load(Ordering::Acquire) {
                        std::thread::yield_now();
                    }
                }
                // The commit needs a core to come to the lock, which is free between two steps.
                let is_pause = derived.load(Ordering::Relaxed).is_multiple_of(100);
                if is_pause && !committed.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                if derived.load(Ordering::Relaxed) > LONG / 2 && store.has_unpriced() {
                    // Half of the strand is judged, so its amounts are wrong and have to stay marked.
                    assert_eq!(store.reprice(&derive_in_one_minute, 1).unwrap(), 0);
                    assert!(store.has_unpriced());
                }
                derive_in_one_minute(at, bytes, validity)
            };
            let rule = TimeRule {
                originator: PEER,
                rule: ABSENT,
                is_broken_at: &is_absent,
                replaces: &|_| false,
                judge: &|_| Validity::Valid,
                basis: &[1],
            };
            let judged = store.judge_times(&rule, &counting).unwrap();
            assert_eq!(judged.marked, LONG + 1, "a commit between two steps is judged too");
            while store.reprice(&counting, 1).unwrap() == 1 {}
        });
        let derived = derived.into_inner();
        assert!(derived <= 2 * (LONG + 1), "{derived} envelopes looked at");
        assert!(!store.has_unpriced());
        let snapshot = store.snapshot();
        let minute = minute_of(ns(SequenceId(1)));
        assert_eq!(snapshot.congestion(PEER, minute).unwrap(), 0);
        for payer in [0, 1] {
            let usage = snapshot.usage(PEER, minute, charge(payer, 10).payer).unwrap();
            assert_eq!(usage, None, "payer {payer}");
        }
        let digests = snapshot.projection_digests().unwrap();
        drop(snapshot);
        store.rebuild(&derive_in_one_minute, &mut |_| {}).unwrap();
        assert_eq!(store.snapshot().projection_digests().unwrap(), digests, "those of a rebuild");
    });
}

/// The enemy is age: an earlier version knew less, and has hidden all that it did not know. Some of it was booked.
#[test]
fn what_earlier_rules_have_hidden_is_as_if_it_had_come_today() {
    let store = in_memory();
    let older = |sequence: u64| {
        let is_unbooked = sequence.is_multiple_of(2) && sequence != 8;
        Validity::Invalid(if is_unbooked { FREE } else { BOOKED })
    };
    store.commit(&(1..=PLACES).map(|it| entry_at(it, older(it))).collect::<Vec<_>>()).unwrap();
    let is_followed = |version| store.snapshot().follows_rules(PEER, version).unwrap();
    assert!(!is_followed(1));
    assert!(store.snapshot().follows_rules(OWN, 1).unwrap(), "a strand without marks");
    let judge = |bytes: &Bytes| otherwise(sequence_of(bytes));
    let rules = HiddenRules { originator: PEER, version: 1, judge: &judge };
    let judged = store.judge_hidden(&rules, &derive).unwrap();
    // Places 6 and 8 break another rule than before. 3, 4, 9 and 12 break the same one.
    assert_eq!(judged, JudgedMarks { marked: 0, unmarked: 6, remarked: 2 });
    assert!(is_followed(1) && !is_followed(2));
    while store.reprice(&derive, 100).unwrap() == 100 {}
    assert_equal(&store, &judged_at_arrival(&|_| false));
}

#[test]
fn a_walk_over_hidden_envelopes_that_was_interrupted_has_only_the_rest_to_change() {
    let (store, expected) = (in_memory(), in_memory());
    let valid: Vec<_> = (1..=LONG).map(in_one_minute).collect();
    let hidden = |change: &Change| {
        let Change::Append(entry) = change.clone() else { unreachable!() };
        Change::Append(LogEntry::invalid(entry.id, entry.bytes, FREE))
    };
    store.commit(&valid.iter().map(hidden).collect::<Vec<_>>()).unwrap();
    expected.commit(&valid).unwrap();
    let rules = HiddenRules { originator: PEER, version: 1, judge: &|_| Validity::Valid };
    let written = AtomicU64::new(0);
    store.set_write_faults(Some(Arc::new(move || {
        (written.fetch_add(1, Ordering::SeqCst) == 1).then_some(WriteFault::Lost)
    })));
    store.judge_hidden(&rules, &derive_in_one_minute).unwrap_err();
    store.set_write_faults(None);
    store.reopen().unwrap();
    store.accept_writes();
    assert!(!store.snapshot().follows_rules(PEER, 1).unwrap());

    let JudgedMarks { unmarked, .. } = store.judge_hidden(&rules, &derive_in_one_minute).unwrap();
    assert!(0 < unmarked && unmarked < LONG, "{unmarked}");
    while store.reprice(&derive_in_one_minute, 100).unwrap() == 100 {}
    assert!(store.snapshot().follows_rules(PEER, 1).unwrap());
    let digests = |store: &Store| store.snapshot().projection_digests().unwrap();
    assert_eq!(digests(&store), digests(&expected));
}
