//! Envelopes that are shown before they are verified have only the rows that readers need. After verification,
//! their rows equal those of envelopes that were verified first.

use crate::support::*;
use bytes::Bytes;
use hawser_proto::checkpoint::{Checkpoint, SignedPrefix};
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::merkle::{ConsistencyProof, TreeHash};
use hawser_proto::sign::originator_digest;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{
    Change, CommitError, Expiring, Facts, HashedEnvelope, InvalidRule, LogEntry, Mark, SkipReason,
    Store, Validity, VerifiedBatch,
};
use proptest::prelude::*;

/// A mark with which an envelope is not charged.
const BAD: InvalidRule = InvalidRule(2);
/// A mark with which an envelope is still charged.
const OWED: InvalidRule = InvalidRule(6);

/// Returns the facts of an envelope that a peer's strand can have: without inbox updates.
fn plain(at: EnvelopeId) -> Facts {
    Facts { addresses: Vec::new(), receipt: None, ..facts(at) }
}

fn derive(at: EnvelopeId, _: &Bytes, validity: Validity) -> Option<Facts> {
    match validity {
        Validity::Valid => Some(plain(at)),
        Validity::Invalid(OWED) => Some(plain(at).hidden()),
        Validity::Invalid(_) | Validity::Waiting => None,
    }
}

fn valid(sequence: u64) -> LogEntry {
    let at = id(PEER, sequence);
    LogEntry { facts: Some(plain(at)), ..entry(at) }
}

/// Returns the verdict on a place: two of seven break a rule that is checked late, and one of these is still
/// charged.
fn verdict(sequence: u64) -> LogEntry {
    let entry = valid(sequence);
    let rule = match sequence % 7 {
        3 => BAD,
        6 => OWED,
        _ => return entry,
    };
    let facts = derive(entry.id, &entry.bytes, Validity::Invalid(rule));
    LogEntry { facts, ..LogEntry::invalid(entry.id, entry.bytes, rule) }
}

fn shown(sequence: u64) -> Change {
    let entry = valid(sequence);
    Change::Append(LogEntry { facts: entry.facts.map(Facts::unbooked), ..entry })
}

fn show(store: &Store, places: std::ops::RangeInclusive<u64>) {
    store.commit_shown(&places.map(shown).collect::<Vec<_>>()).unwrap();
}

fn verify(
    store: &Store,
    places: std::ops::RangeInclusive<u64>,
) -> Result<VerifiedBatch, CommitError> {
    store.commit_verified(PEER, &places.map(verdict).collect::<Vec<_>>(), &derive)
}

/// Returns the same strand, verified before it was stored.
fn mirror(through: u64) -> Store {
    let store = in_memory();
    let changes: Vec<_> = (1..=through).map(|it| Change::Append(verdict(it))).collect();
    store.commit(&changes).unwrap();
    store
}

fn assert_equal(store: &Store, mirror: &Store) {
    let (a, b) = (store.snapshot(), mirror.snapshot());
    assert_eq!(a.projection_digests().unwrap(), b.projection_digests().unwrap());
    assert_eq!(pruning::expiring(store), pruning::expiring(mirror), "with their payers");
    let head = a.head(PEER).unwrap();
    assert_eq!(head, b.head(PEER).unwrap());
    for sequence in 1..=head.0 {
        assert_eq!(a.mark(id(PEER, sequence)).unwrap(), b.mark(id(PEER, sequence)).unwrap());
        assert_eq!(a.get(id(PEER, sequence)).unwrap(), b.get(id(PEER, sequence)).unwrap());
    }
    assert_eq!(a.root(PEER, head.0).unwrap(), b.root(PEER, head.0).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// For every sequence of showing, verifying and rebuilding. After each step the rows have to be right, because
    /// a crash may follow.
    #[test]
    fn what_is_verified_late_ends_as_what_was_verified_first(
        first in 0u64..20,
        turns in proptest::collection::vec((any::<bool>(), 1u64..30, 0u8..6), 1..12),
    ) {
        let store = mirror(first);
        let (mut head, mut verified) = (first, first);
        for (shows, count, rebuilds) in turns {
            if shows {
                show(&store, head + 1..=head + count);
                head += count;
            } else {
                let through = head.min(verified + count);
                // Envelopes that are verified already change nothing.
                let from = verified.saturating_sub(3).max(1);
                let done = verify(&store, from..=through).unwrap();
                prop_assert_eq!(done.through, SequenceId(through));
                verified = through;
            }
            if rebuilds == 0 {
                store.rebuild(&derive, &mut |_| {}).unwrap();
            }
            let expected = id(PEER, verified);
            let is_ahead = verified < head;
            prop_assert_eq!(store.unverified().unwrap(), is_ahead.then_some(expected).into_iter().collect::<Vec<_>>());
            prop_assert_eq!(store.snapshot().verified_head(PEER).unwrap(), expected.sequence);
            prop_assert_eq!(store.snapshot().head(PEER).unwrap(), SequenceId(head));
        }
        verify(&store, verified + 1..=head).unwrap();
        assert_equal(&store, &mirror(head));
        store.rebuild(&derive, &mut |_| {}).unwrap();
        assert_equal(&store, &mirror(head));
    }
}

#[test]
fn what_is_not_verified_is_read_and_charged_to_no_payer() {
    on_each(|store| {
        show(store, 1..=5);
        let snapshot = store.snapshot();
        assert!(last_of(&snapshot, topic("t2").as_bytes()).is_some());
        assert_eq!(snapshot.congestion(PEER, 0).unwrap(), 0);
        assert_eq!(snapshot.verified_head(PEER).unwrap(), SequenceId::NONE);
        let done = verify(store, 1..=4).unwrap();
        assert_eq!(done, VerifiedBatch { through: SequenceId(4), withdrawn: 1, invalid: 1 });
        let snapshot = store.snapshot();
        assert_eq!(snapshot.congestion(PEER, 0).unwrap(), 3);
        assert_eq!(snapshot.mark(id(PEER, 3)).unwrap(), Some(Mark::Invalid(BAD)));
        assert_eq!(last_of(&snapshot, topic("t0").as_bytes()), None, "place 3 is withdrawn");
    });
}

/// Hashes of other envelopes have no effect.
#[test]
fn envelopes_that_are_hashed_already_grow_the_same_tree() {
    let hashed = |change: &Change| match change {
        Change::Append(entry) => HashedEnvelope::new(&entry.bytes).unwrap(),
        Change::Skip { .. } => unreachable!("these changes are envelopes"),
    };
    let root = TreeHash([1; 32]);
    let of = Checkpoint { node: PEER, originator: PEER, size: 5, root, time_ns: 1 };
    let prefix =
        SignedPrefix { size: 5, signed: of.sign(&key(3)), proof: ConsistencyProof(vec![root]) };
    let changes: Vec<_> = (1..=5).map(shown).collect();
    let all: Vec<_> = changes.iter().map(hashed).collect();
    for known in [&all[..], &all[..2], &all[1..], &all[..0]] {
        let store = in_memory();
        store.commit_shown_by(&changes, &prefix, known).unwrap();
        verify(&store, 1..=5).unwrap();
        assert_equal(&store, &mirror(5));
    }
}

/// A place before them cannot be verified now.
#[test]
fn what_breaks_a_rule_may_be_withdrawn_before_it_is_verified() {
    on_each(|store| {
        show(store, 1..=8);
        verify(store, 1..=2).unwrap();
        // The first place is verified, and the last one does not exist.
        let broken = [(1, BAD), (3, BAD), (6, OWED), (9, BAD)];
        let broken = broken.map(|(place, rule)| (SequenceId(place), rule));
        assert_eq!(store.withdraw_shown(PEER, &broken, &derive).unwrap(), 2);
        assert_eq!(store.withdraw_shown(PEER, &broken, &derive).unwrap(), 0, "they are gone");
        store.rebuild(&derive, &mut |_| {}).unwrap();
        let snapshot = store.snapshot();
        let last = |name| last_of(&snapshot, topic(name).as_bytes()).map(|it| it.sequence.0);
        assert_eq!((last("t0"), last("t1"), last("t2")), (None, Some(7), Some(8)));
        assert_eq!(snapshot.congestion(PEER, 0).unwrap(), 2, "nothing of it is booked");
        assert_eq!(snapshot.verified_head(PEER).unwrap(), SequenceId(2));
        assert_eq!(snapshot.mark(id(PEER, 1)).unwrap(), None);
        assert!(snapshot.get(id(PEER, 3)).unwrap().is_some(), "its node has signed a tree with it");
        let done = verify(store, 3..=8).unwrap();
        let expected = VerifiedBatch { through: SequenceId(8), withdrawn: 0, invalid: 2 };
        assert_eq!(done, expected, "they count once");
        assert_equal(store, &mirror(8));
    });
}

/// Their originator no longer keeps them, so they are never verified.
#[test]
fn what_was_withdrawn_can_still_be_pruned() {
    on_each(|store| {
        show(store, 1..=8);
        let broken = [(3, BAD), (4, OWED)].map(|(place, rule)| (SequenceId(place), rule));
        assert_eq!(store.withdraw_shown(PEER, &broken, &derive).unwrap(), 2);
        assert_eq!(
            store.prune_shown(PEER, SequenceId(6), NOW_UNIX_S, &derive).unwrap(),
            SequenceId(6)
        );
        let snapshot = store.snapshot();
        for sequence in 1..=6 {
            let at = id(PEER, sequence);
            assert!(matches!(snapshot.mark(at).unwrap(), Some(Mark::Pruned { .. })), "{at}");
            assert_eq!(snapshot.get(at).unwrap(), None);
        }
        let log: Vec<_> = snapshot.log(id(PEER, 0), SequenceId(8)).map(Result::unwrap).collect();
        assert_eq!(log.len(), 3, "one range, and two envelopes: {log:?}");
    });
}

#[test]
fn unverified_places_are_known_after_the_folder_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    show(&store, 1..=9);
    verify(&store, 1..=2).unwrap();
    drop(store);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(store.unverified().unwrap(), [id(PEER, 2)]);
    verify(&store, 3..=9).unwrap();
    assert_eq!(store.unverified().unwrap(), []);
    assert_equal(&store, &mirror(9));
}

#[test]
fn verdicts_follow_one_another_and_end_with_the_strand() {
    let store = in_memory();
    show(&store, 1..=5);
    let (after, got) = (SequenceId::NONE, id(PEER, 2));
    assert_eq!(verify(&store, 2..=3), Err(CommitError::Gap { after, got }));
    assert_eq!(verify(&store, 1..=6), Err(CommitError::OutOfRange { at: id(PEER, 6) }));
    let at = id(PEER, 1);
    let other = LogEntry { bytes: signed("another statement", 1), ..valid(1) };
    assert_eq!(store.commit_verified(PEER, &[other], &derive), Err(CommitError::Conflict { at }));
    assert_eq!(store.snapshot().verified_head(PEER).unwrap(), SequenceId::NONE);
    verify(&store, 1..=5).unwrap();
    // Places beyond the shown ones are not verified.
    let done = verify(&store, 4..=9).unwrap();
    assert_eq!(done, VerifiedBatch { through: SequenceId(5), withdrawn: 0, invalid: 0 });
    assert_equal(&store, &mirror(5));
}

/// A relay may have put another signature on a statement that it had.
#[test]
fn the_envelope_that_its_originator_signed_takes_the_place_of_the_one_shown() {
    let store = in_memory();
    let relayed = |sequence| {
        let entry = valid(sequence);
        let (statement, _) = OriginatorEnvelope::open(entry.bytes).unwrap();
        let forged = key(9).sign(originator_digest(&statement));
        let bytes = OriginatorEnvelope::encode(statement, Proof::Signature(forged));
        Change::Append(LogEntry { bytes, facts: entry.facts.map(Facts::unbooked), ..entry })
    };
    store.commit_shown(&[shown(1), relayed(2), shown(3)]).unwrap();
    assert_ne!(store.snapshot().get(id(PEER, 2)).unwrap(), Some(valid(2).bytes));
    verify(&store, 1..=3).unwrap();
    assert_equal(&store, &mirror(3));
}

#[test]
fn what_is_not_verified_is_not_pruned() {
    let store = in_memory();
    show(&store, 1..=9);
    let expired = |sequence: u64| Expiring {
        expiry_unix_s: plain(id(PEER, sequence)).expiry_unix_s.unwrap(),
        id: id(PEER, sequence),
        payer: None,
        receipt: None,
    };
    verify(&store, 1..=2).unwrap();
    let done = store.prune(&[expired(1), expired(2), expired(4), expired(5)], &derive).unwrap();
    assert_eq!(done.pruned.iter().map(|(id, _)| id.sequence.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(done.refused, [id(PEER, 4), id(PEER, 5)]);
}

/// A time at which all envelopes of these tests have expired: place n does so n seconds after 1970.
const NOW_UNIX_S: u64 = 1_000;

#[test]
fn what_has_not_expired_by_its_own_statement_stays() {
    on_each(|store| {
        show(store, 1..=9);
        verify(store, 1..=2).unwrap();
        assert_eq!(store.prune_shown(PEER, SequenceId(9), 6, &derive).unwrap(), SequenceId(6));
        assert_eq!(store.prune_shown(PEER, SequenceId(9), 6, &derive).unwrap(), SequenceId(6));
        let snapshot = store.snapshot();
        assert_eq!(snapshot.get(id(PEER, 6)).unwrap(), None);
        assert!(snapshot.get(id(PEER, 7)).unwrap().is_some());
        let unread = |at: EnvelopeId, b: &Bytes, v| derive(at, b, v).filter(|_| at.sequence.0 != 8);
        let through = store.prune_shown(PEER, SequenceId(9), NOW_UNIX_S, &unread).unwrap();
        assert_eq!(through, SequenceId(7), "the next one cannot be read");
    });
}

/// Their originator no longer keeps them, so they are never verified.
#[test]
fn what_can_never_be_verified_ends_pruned_and_uncharged() {
    on_each(|store| {
        show(store, 1..=9);
        verify(store, 1..=2).unwrap();
        let pruned = store.prune_shown(PEER, SequenceId(5), NOW_UNIX_S, &derive).unwrap();
        assert_eq!(pruned, SequenceId(5));
        assert_eq!(store.unverified().unwrap(), [id(PEER, 5)]);
        // Verified and pruned envelopes stay unchanged.
        assert_eq!(
            store.prune_shown(PEER, SequenceId(5), NOW_UNIX_S, &derive).unwrap(),
            SequenceId(5)
        );
        let snapshot = store.snapshot();
        for sequence in 3..=5 {
            let at = id(PEER, sequence);
            assert!(matches!(snapshot.mark(at).unwrap(), Some(Mark::Pruned { .. })), "{at}");
            assert_eq!(snapshot.get(at).unwrap(), None);
        }
        assert_eq!(last_of(&snapshot, topic("t2").as_bytes()).map(|it| it.sequence.0), Some(8));
        assert_eq!(snapshot.congestion(PEER, 0).unwrap(), 2);
        assert_eq!(snapshot.root(PEER, 9).unwrap(), mirror(9).snapshot().root(PEER, 9).unwrap());
        verify(store, 6..=9).unwrap();
        assert_eq!(store.unverified().unwrap(), []);
        let digests = store.snapshot().projection_digests().unwrap();
        store.rebuild(&derive, &mut |_| {}).unwrap();
        assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
        // All shown places may be pruned, and the bound may be above the last of them.
        show(store, 10..=12);
        assert_eq!(
            store.prune_shown(PEER, SequenceId(99), NOW_UNIX_S, &derive).unwrap(),
            SequenceId(12)
        );
        assert_eq!(store.unverified().unwrap(), []);
        assert_eq!(
            store.prune_shown(PEER, SequenceId(99), NOW_UNIX_S, &derive).unwrap(),
            SequenceId(12)
        );
    });
}

#[test]
fn the_checkpoint_by_which_places_are_shown_is_kept_until_all_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    let signed = |size, root| {
        let root = TreeHash([root; 32]);
        let of = Checkpoint { node: PEER, originator: PEER, size, root, time_ns: 1 };
        let proof = ConsistencyProof(vec![root; 3]);
        SignedPrefix { size: size / 10, signed: of.sign(&key(3)), proof }
    };
    let changes = |places: std::ops::RangeInclusive<u64>| places.map(shown).collect::<Vec<_>>();
    store.commit_shown_by(&changes(1..=3), &signed(50, 1), &[]).unwrap();
    store.commit_shown_by(&changes(4..=5), &signed(70, 2), &[]).unwrap();
    verify(&store, 1..=4).unwrap();
    drop(store);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(store.snapshot().shown_by(PEER).unwrap(), Some(signed(70, 2)));
    // The peer's claim does not count as a checkpoint that this node has verified.
    assert_eq!(store.snapshot().checkpoint(PEER, PEER, u64::MAX).unwrap(), None);
    verify(&store, 5..=5).unwrap();
    assert_eq!(store.snapshot().shown_by(PEER).unwrap(), None);
    assert_equal(&store, &mirror(5));
}

/// Returns the proof by which places are loaded, which has no effect on their rows.
fn loaded_by() -> SignedPrefix {
    let root = TreeHash([1; 32]);
    let of = Checkpoint { node: PEER, originator: PEER, size: 50, root, time_ns: 1 };
    SignedPrefix { size: 50, signed: of.sign(&key(3)), proof: ConsistencyProof(Vec::new()) }
}

/// Writes unverified places in table files.
fn load(store: &Store, places: std::ops::RangeInclusive<u64>) -> Result<(), CommitError> {
    load_all(store, &places.map(shown).collect::<Vec<_>>(), Some(&loaded_by()))
}

fn load_all(
    store: &Store,
    changes: &[Change],
    shown_by: Option<&SignedPrefix>,
) -> Result<(), CommitError> {
    store.load(store.file(changes.to_vec(), Vec::new())?, shown_by)
}

#[test]
fn what_comes_in_table_files_ends_as_what_was_verified_first() {
    on_each(|store| {
        load_all(store, &[], Some(&loaded_by())).unwrap();
        assert_eq!(store.snapshot().shown_by(PEER).unwrap(), None, "nothing is shown");
        load(store, 1..=1).unwrap();
        load(store, 2..=7).unwrap();
        load(store, 8..=20).unwrap();
        let gap = load(store, 22..=23);
        assert!(matches!(gap, Err(CommitError::Gap { after: SequenceId(20), .. })), "{gap:?}");
        let snapshot = store.snapshot();
        assert_eq!(snapshot.verified_head(PEER).unwrap(), SequenceId::NONE);
        assert_eq!(snapshot.shown_by(PEER).unwrap(), Some(loaded_by()));
        for (name, last) in [("t0", 18), ("t1", 19), ("t2", 20)] {
            assert_eq!(last_of(&snapshot, topic(name).as_bytes()), Some(id(PEER, last)));
        }
        drop(snapshot);
        verify(store, 1..=20).unwrap();
        assert_equal(store, &mirror(20));
        store.rebuild(&derive, &mut |_| {}).unwrap();
        assert_equal(store, &mirror(20));
        // A strand whose first places are verified goes on in the same way.
        load(store, 21..=30).unwrap();
        assert_eq!(store.unverified().unwrap(), [id(PEER, 20)]);
        verify(store, 21..=30).unwrap();
        assert_equal(store, &mirror(30));
    });
}

/// Nothing prunes it, and its row has the payer, whom only a verdict names. A rebuild makes the same rows.
#[test]
fn what_is_not_verified_has_no_row_by_expiry() {
    on_each(|store| {
        let listed = || -> Vec<u64> {
            pruning::expiring(store).into_iter().map(|it| it.id.sequence.0).collect()
        };
        show(store, 1..=5);
        store.commit_shown_by(&[shown(6)], &loaded_by(), &[]).unwrap();
        load(store, 7..=9).unwrap();
        assert!(listed().is_empty());
        verify(store, 1..=4).unwrap();
        assert_eq!(listed(), [1, 2, 4], "place 3 breaks a rule");
        let digests = store.snapshot().projection_digests().unwrap();
        store.rebuild(&derive, &mut |_| {}).unwrap();
        assert_eq!(listed(), [1, 2, 4]);
        assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
        verify(store, 5..=9).unwrap();
        assert_equal(store, &mirror(9));
    });
}

/// A node starts from the folder without the call that was killed.
#[test]
fn rows_that_a_kill_has_left_above_a_head_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(&settings(folder.path())).unwrap();
    let store = open();
    load(&store, 1..=5).unwrap();
    assert_eq!(store.remove_above_head(PEER, &derive).unwrap(), 0);
    store.commit(&[append(OriginatorId(PEER.0 + 1), 1)]).unwrap();
    store.fail_next_write();
    load(&store, 6..=12).unwrap_err();
    drop(store);
    // RocksDB has not removed the first name of a file: as long as it is there, the file takes room.
    let left = folder.path().join("table-files");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("log.sst"), b"left").unwrap();
    let store = open();
    assert!(!left.exists());
    assert_eq!(store.remove_above_head(PEER, &derive).unwrap(), 7);
    assert_eq!(store.remove_above_head(PEER, &derive).unwrap(), 0);
    let snapshot = store.snapshot();
    assert_eq!(snapshot.last_held(PEER).unwrap().unwrap().0, id(PEER, 5));
    assert!(snapshot.get(id(OriginatorId(PEER.0 + 1), 1)).unwrap().is_some(), "of another strand");
    for (name, last) in [("t0", 3), ("t1", 4), ("t2", 5)] {
        let row = snapshot.topics().seek_back(topic(name).as_bytes(), id(PEER, u64::MAX)).unwrap();
        assert_eq!(row.unwrap().id, id(PEER, last));
    }
    drop(snapshot);
    verify(&store, 1..=5).unwrap();
    show(&store, 6..=7);
    verify(&store, 6..=7).unwrap();
    assert_eq!(store.snapshot().head(PEER).unwrap(), SequenceId(7));
}

#[test]
fn verified_places_and_gaps_come_in_table_files_too() {
    on_each(|store| {
        let verified = |places: std::ops::RangeInclusive<u64>| {
            places.map(|it| Change::Append(verdict(it))).collect::<Vec<_>>()
        };
        let gap = skip(PEER, 10, 12, SkipReason::Missing);
        let parts = [verified(1..=9), vec![gap.clone()], [vec![gap], verified(13..=15)].concat()];
        load_all(store, &parts[0], None).unwrap();
        load_all(store, &parts[1], None).unwrap();
        let below = load_all(store, &parts[2], None);
        assert!(matches!(below, Err(CommitError::Gap { after: SequenceId(12), .. })), "{below:?}");
        load_all(store, &parts[2][1..], None).unwrap();
        let mirror = in_memory();
        mirror.commit(&[&parts[0][..], &parts[2][..]].concat()).unwrap();
        let (a, b) = (store.snapshot(), mirror.snapshot());
        assert_eq!(a.projection_digests().unwrap(), b.projection_digests().unwrap());
        assert_eq!(pruning::expiring(store), pruning::expiring(&mirror), "with their payers");
        assert_eq!(a.verified_head(PEER).unwrap(), SequenceId(15));
        for sequence in 1..=15 {
            assert_eq!(a.mark(id(PEER, sequence)).unwrap(), b.mark(id(PEER, sequence)).unwrap());
            assert_eq!(a.get(id(PEER, sequence)).unwrap(), b.get(id(PEER, sequence)).unwrap());
        }
        assert_eq!((a.tree_size(PEER).unwrap(), b.tree_size(PEER).unwrap()), (9, 9));
    });
}

/// The rows of topics have no envelope then, and RocksDB would have kept those of the log in files of their own.
#[test]
fn long_envelopes_come_in_table_files_too() {
    let bytes = |sequence: u64| signed(&sequence.to_string().repeat(5000), 1);
    let long = |sequence| match shown(sequence) {
        Change::Append(entry) => Change::Append(LogEntry { bytes: bytes(sequence), ..entry }),
        Change::Skip { .. } => unreachable!("these changes are envelopes"),
    };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    let changes: Vec<_> = (1..=6).map(long).collect();
    load_all(&store, &changes, Some(&loaded_by())).unwrap();
    drop(store);
    let store = Store::open(&settings(folder.path())).unwrap();
    let snapshot = store.snapshot();
    for sequence in 1..=6 {
        assert_eq!(snapshot.get(id(PEER, sequence)).unwrap(), Some(bytes(sequence)));
    }
    assert_eq!(last_of(&snapshot, topic("t0").as_bytes()), Some(id(PEER, 6)));
}

/// RocksDB has taken over the files of a call, and the commit with the head is lost.
#[test]
fn a_kill_behind_table_files_leaves_the_head_before_them_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(&settings(folder.path())).unwrap();
    let ends = |store: &Store| {
        let snapshot = store.snapshot();
        (snapshot.head(PEER).unwrap().0, snapshot.tree_size(PEER).unwrap())
    };
    let killed = |store: Store, places| {
        store.fail_next_write();
        let failed = load(&store, places);
        assert!(matches!(failed, Err(CommitError::Write(_))), "{failed:?}");
        drop(store);
        open()
    };
    let last =
        |store: &Store| store.snapshot().last_held(PEER).unwrap().map(|(id, _)| id.sequence.0);
    let store = killed(open(), 1..=5);
    assert_eq!((ends(&store), last(&store)), ((0, 0), Some(5)), "the files came first");
    assert_eq!(store.unverified().unwrap(), []);
    load(&store, 1..=5).unwrap();
    let store = killed(store, 6..=12);
    assert_eq!((ends(&store), last(&store)), ((5, 5), Some(12)));
    assert_eq!(store.unverified().unwrap(), [id(PEER, 0)]);

    // A kill of that call before RocksDB has removed the first names of its files.
    let mut files: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().path()).collect();
    files.retain(|it| it.extension().is_some_and(|it| it == "sst"));
    files.sort();
    let left = folder.path().join("table-files");
    let of_call = left.join(format!("{}-6", PEER.0));
    std::fs::create_dir_all(&of_call).unwrap();
    for (file, name) in files.iter().zip(["log.sst", "topics.sst"]) {
        std::fs::hard_link(file, of_call.join(name)).unwrap();
    }
    load(&store, 6..=12).unwrap();
    assert!(!left.exists());
    drop(store);
    let store = open();
    verify(&store, 1..=12).unwrap();
    assert_equal(&store, &mirror(12));
}

/// An envelope that comes to a freed place was never checked, although another one was verified there before.
#[test]
fn a_strand_that_is_cut_has_no_verified_place_above_its_end() {
    const STRAND: OriginatorId = OriginatorId::MIGRATED[0];
    let entry_at = |sequence| {
        let at = id(STRAND, sequence);
        LogEntry { facts: Some(plain(at)), ..entry(at) }
    };
    let shown = |sequence| {
        let entry = entry_at(sequence);
        Change::Append(LogEntry { facts: entry.facts.map(Facts::unbooked), ..entry })
    };
    let show = |store: &Store, places: std::ops::RangeInclusive<u64>| {
        store.commit_shown(&places.map(shown).collect::<Vec<_>>()).unwrap();
    };
    on_each(|store| {
        let cut = |from| {
            store.truncate_strand(id(STRAND, from), None).unwrap();
            store.rebuild(&derive, &mut |_| {}).unwrap();
        };
        let verified = || store.snapshot().verified_head(STRAND).unwrap().0;
        show(store, 1..=10);
        let verdicts: Vec<_> = (1..=8).map(entry_at).collect();
        store.commit_verified(STRAND, &verdicts, &derive).unwrap();
        cut(5);
        assert_eq!(verified(), 4);
        assert_eq!(store.unverified().unwrap(), []);
        show(store, 5..=7);
        assert_eq!(verified(), 4, "the places are new");
        assert_eq!(store.unverified().unwrap(), [id(STRAND, 4)]);
        cut(7);
        assert_eq!(verified(), 4, "it is below the end");
        assert_eq!(store.unverified().unwrap(), [id(STRAND, 4)]);
        cut(5);
        assert_eq!(store.unverified().unwrap(), []);
    });
}
