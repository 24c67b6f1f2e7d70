//! Commits to the strand of a chain: positions, envelopes that wait for a verdict, inboxes, and the
//! ledger beside it.

use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use crate::support::*;
use hawser_proto::price::{PicoDollarChange, SettledAmount};
use hawser_proto::{Address, EnvelopeId, InboxId, OriginatorId, SequenceId};
use hawser_storage::{
    AddressChange, ChainCommit, ChainPosition, Change, CommitError, Facts, Family, InvalidRule,
    LedgerEntry, LedgerEventId, LedgerKind, LogEntry, LogItem, Mark, PayerReportChange,
    PayerReportEvent, SkipReason, Store, Validity,
};

const STRAND: OriginatorId = OriginatorId::IDENTITY_UPDATES;

fn commit() -> ChainCommit {
    ChainCommit { originator: STRAND, changes: vec![], resolved: vec![], position: None }
}

fn place(sequence: u64) -> EnvelopeId {
    id(STRAND, sequence)
}

fn waiting(sequence: u64) -> Change {
    let id = place(sequence);
    Change::Append(LogEntry::waiting(id, entry(id).bytes))
}

fn valid(sequence: u64) -> LogEntry {
    let id = place(sequence);
    LogEntry::valid(id, entry(id).bytes, facts(id))
}

fn invalid(sequence: u64) -> LogEntry {
    let id = place(sequence);
    LogEntry::invalid(id, entry(id).bytes, InvalidRule(15))
}

fn position(block: u64) -> Option<ChainPosition> {
    Some(ChainPosition { block, hash: [9; 32] })
}

fn validities(store: &Store) -> Vec<Validity> {
    let snapshot = store.snapshot();
    let items = snapshot.log(place(0), snapshot.head(STRAND).unwrap());
    let validity = |item| match item {
        LogItem::Envelope { validity, .. } => validity,
        LogItem::Skipped { .. } => panic!("nothing is skipped here"),
    };
    items.map(|item| validity(item.unwrap())).collect()
}

#[test]
fn a_waiting_update_has_no_rows() {
    on_each(|store| {
        let changes = vec![append(STRAND, 1), waiting(2), waiting(3), append(STRAND, 4)];
        store.commit_chain(&ChainCommit { changes, position: position(5), ..commit() }).unwrap();
        let snapshot = store.snapshot();
        assert_eq!(snapshot.waiting(STRAND).unwrap(), [place(2), place(3)]);
        assert_eq!(snapshot.mark(place(2)).unwrap(), Some(Mark::Waiting));
        assert_eq!(snapshot.get(place(2)).unwrap(), Some(entry(place(2)).bytes));
        assert_eq!(snapshot.chain_position(STRAND).unwrap(), position(5));
        assert_eq!(last_of(&snapshot, topic("t2").as_bytes()), None);

        let resolved = vec![valid(2), invalid(3)];
        store.commit_chain(&ChainCommit { resolved, ..commit() }).unwrap();
        use Validity::{Invalid, Valid};
        assert_eq!(validities(store), [Valid, Valid, Invalid(InvalidRule(15)), Valid]);
        let snapshot = store.snapshot();
        assert_eq!(last_of(&snapshot, topic("t2").as_bytes()), Some(place(2)));
        assert_eq!(last_of(&snapshot, topic("t0").as_bytes()), None);
        assert_eq!(snapshot.chain_position(STRAND).unwrap(), position(5), "it stays");
        assert_eq!(snapshot.waiting(STRAND).unwrap(), []);

        // The result is the same as if all verdicts had been known at once.
        let at_once = in_memory();
        let changes = vec![
            append(STRAND, 1),
            append(STRAND, 2),
            append_invalid(STRAND, 3, 15),
            append(STRAND, 4),
        ];
        at_once.commit(&changes).unwrap();
        let expected = at_once.snapshot().projection_digests().unwrap();
        assert_eq!(snapshot.projection_digests().unwrap(), expected);
        let derive = |at, _: &_, validity| (validity == Validity::Valid).then(|| facts(at));
        store.rebuild(&derive, &mut |_| {}).unwrap();
        assert_eq!(store.snapshot().projection_digests().unwrap(), expected);
    });
}

#[test]
fn a_verdict_is_for_what_waits_and_comes_once() {
    on_each(|store| {
        let changes = vec![append(STRAND, 1), waiting(2), append_invalid(STRAND, 3, 15)];
        store.commit_chain(&ChainCommit { changes, ..commit() }).unwrap();
        let before = store.snapshot().projection_digests().unwrap();
        for resolved in [vec![valid(1)], vec![valid(3)], vec![valid(9)], vec![valid(2), valid(2)]] {
            let at = resolved.last().unwrap().id;
            let refused = ChainCommit { resolved, position: position(7), ..commit() };
            assert_eq!(store.commit_chain(&refused), Err(CommitError::NotWaiting { at }));
        }
        let other = LogEntry { bytes: signed("another statement", 2), ..valid(2) };
        let refused = ChainCommit { resolved: vec![other], position: position(7), ..commit() };
        assert_eq!(store.commit_chain(&refused), Err(CommitError::Conflict { at: place(2) }));
        let snapshot = store.snapshot();
        assert_eq!(snapshot.projection_digests().unwrap(), before, "all or nothing");
        assert_eq!(snapshot.chain_position(STRAND).unwrap(), None);
        // A commit may bring an envelope and its verdict.
        let both = ChainCommit { changes: vec![waiting(4)], resolved: vec![valid(4)], ..commit() };
        store.commit_chain(&both).unwrap();
        assert_eq!(validities(store)[3], Validity::Valid);
    });
}

#[test]
fn a_waiting_update_keeps_its_place() {
    on_each(|store| {
        store.commit(&[waiting(1)]).unwrap();
        store.commit(&[append(STRAND, 1)]).unwrap();
        assert_eq!(
            validities(store),
            [Validity::Waiting],
            "an event that comes again is no verdict"
        );
        let other = LogEntry { bytes: signed("another statement", 1), ..entry(place(1)) };
        let refused = store.commit(&[Change::Append(other)]);
        assert_eq!(refused, Err(CommitError::Conflict { at: place(1) }));
    });
}

#[test]
fn waiting_updates_and_reader_positions_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    let changes = vec![append(STRAND, 1), waiting(2)];
    store.commit_chain(&ChainCommit { changes, position: position(5), ..commit() }).unwrap();
    store.commit_chain(&ChainCommit { position: position(8), ..commit() }).unwrap();
    store.record_ledger(0, &[], position(3)).unwrap();
    drop(store);
    let store = Store::open(&settings(folder.path())).unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.waiting(STRAND).unwrap(), [place(2)]);
    assert_eq!(snapshot.chain_position(STRAND).unwrap(), position(8));
    assert_eq!(snapshot.chain_position(OriginatorId::GROUP_MESSAGES).unwrap(), None);
    assert_eq!(snapshot.ledger_position().unwrap(), position(3));
    assert_eq!(snapshot.heads().unwrap().iter().collect::<Vec<_>>(), [place(2)]);
}

#[test]
fn an_address_belongs_to_the_inbox_it_joined_last_whatever_the_order_of_commits() {
    let (one, other) = (Address([1; 20]), Address([2; 20]));
    let link = |address, inbox: u8, is_member| AddressChange {
        address,
        inbox: InboxId([inbox; 32]),
        is_member,
    };
    let update = |sequence, addresses| {
        append_with(STRAND, sequence, Facts { addresses, ..facts(place(sequence)) })
    };
    let updates = [
        update(1, vec![link(one, 1, true), link(other, 1, true)]),
        update(2, vec![link(one, 2, true), link(other, 3, false)]),
        update(3, vec![link(one, 2, false)]),
        update(4, vec![link(other, 1, false)]),
        update(5, vec![link(other, 1, true)]),
    ];
    on_each(|store| {
        let found = |address| store.snapshot().inbox(address).unwrap().map(|inbox| inbox.0[0]);
        assert_eq!((found(one), found(other)), (None, None));
        store.commit(&updates[..2]).unwrap();
        assert_eq!((found(one), found(other)), (Some(2), Some(1)));
        store.commit(&updates[2..4]).unwrap();
        assert_eq!((found(one), found(other)), (Some(1), None));
        store.commit(&updates[4..]).unwrap();
        assert_eq!((found(one), found(other)), (Some(1), Some(1)));
        let single = in_memory();
        single.commit(&updates).unwrap();
        let expected = single.snapshot().projection_digests().unwrap();
        assert_eq!(store.snapshot().projection_digests().unwrap(), expected);
    });
}

#[test]
fn a_ledger_keeps_the_order_of_each_payers_entries() {
    on_each(|store| {
        let payer = |name| Address([name; 20]);
        let entry = |number: u8| LedgerEntry {
            event: LedgerEventId([number; 32]),
            block: u64::from(number),
            kind: LedgerKind::WithdrawalRequested,
            picodollars: PicoDollarChange(-i128::from(number)),
        };
        // Events in no particular order, and payers with adjacent addresses.
        store
            .record_ledger(
                0,
                &[(payer(1), entry(9)), (payer(2), entry(3)), (payer(1), entry(4))],
                None,
            )
            .unwrap();
        store.record_ledger(0, &[(payer(1), entry(1))], position(6)).unwrap();
        let snapshot = store.snapshot();
        assert_eq!(snapshot.ledger(payer(1)).unwrap(), [entry(9), entry(4), entry(1)]);
        assert_eq!(snapshot.ledger(payer(2)).unwrap(), [entry(3)]);
        assert_eq!(snapshot.ledger(payer(3)).unwrap(), []);
        assert_eq!(snapshot.ledger_position().unwrap(), position(6));
        store.fail_next_write();
        assert!(store.record_ledger(0, &[(payer(1), entry(7))], None).is_err());
        assert_eq!(store.snapshot().ledger(payer(1)).unwrap().len(), 3);
    });
}

#[test]
fn a_damaged_entry_of_one_payer_is_no_error_of_its_neighbours() {
    let store = in_memory();
    let payer = |name| Address([name; 20]);
    let entry = |number: u8| LedgerEntry {
        event: LedgerEventId([number; 32]),
        block: u64::from(number),
        kind: LedgerKind::Deposit,
        picodollars: PicoDollarChange(i128::from(number)),
    };
    store.record_ledger(0, &[(payer(1), entry(1)), (payer(2), entry(2))], None).unwrap();
    let damaged = [&payer(2).0[..], &1_u64.to_be_bytes()].concat();
    store.put_raw_row(Family::Ledger, &damaged, b"damaged");
    // The row before its place is the damaged one.
    store.record_ledger(0, &[(payer(3), entry(3))], None).unwrap();
    let read_in_parts = |name| {
        let mut sum = 0;
        let read = store.snapshot().ledger_after(payer(name), 0, 9, |it| sum += it.picodollars.0);
        read.map(|read| (read, sum))
    };
    for name in [1, 3] {
        assert_eq!(store.snapshot().ledger(payer(name)).unwrap(), [entry(name)]);
        assert_eq!(read_in_parts(name).unwrap(), (1, i128::from(name)));
    }
    assert!(store.snapshot().ledger(payer(2)).is_err() && read_in_parts(2).is_err());
    assert!(
        store.record_ledger(0, &[(payer(2), entry(4))], None).is_err(),
        "nothing is booked beside it"
    );
}

/// Returns the whole log as text, and the digests of all projections.
fn look(store: &Store) -> Vec<(String, String)> {
    let snapshot = store.snapshot();
    let digests = snapshot.projection_digests().unwrap().into_iter();
    let mut seen: Vec<_> =
        digests.map(|(name, digest)| (name.to_string(), format!("{digest:?}"))).collect();
    for head in snapshot.heads().unwrap().iter() {
        let beginning = EnvelopeId { sequence: SequenceId::NONE, ..head };
        let items = snapshot.log(beginning, head.sequence);
        seen.extend(items.map(|item| (head.originator.to_string(), format!("{item:?}"))));
    }
    seen
}

#[test]
fn a_strand_that_was_cut_is_as_if_the_rest_had_never_come() {
    let all = [
        append(STRAND, 1),
        waiting(2),
        skip(STRAND, 3, 7, SkipReason::Void),
        append(STRAND, 8),
        append_invalid(STRAND, 9, 15),
        append(PEER, 1),
        append(OriginatorId::GROUP_MESSAGES, 1),
        append(OWN, 1),
    ];
    let derive = |id, _: &_, validity| (validity == Validity::Valid).then(|| facts(id));
    for from in 1..=11 {
        let kept = all.iter().filter_map(|change| match change {
            Change::Append(entry) if entry.id >= place(from) && entry.id.originator == STRAND => {
                None
            }
            Change::Skip { from: first, .. } if first.0 >= from => None,
            Change::Skip { .. } => Some(skip(STRAND, 3, 7.min(from - 1), SkipReason::Void)),
            other => Some(other.clone()),
        });
        let wanted = in_memory();
        wanted.commit(&kept.collect::<Vec<_>>()).unwrap();
        on_each(|store| {
            store.commit(&all).unwrap();
            store.commit_chain(&ChainCommit { position: position(5), ..commit() }).unwrap();
            store.truncate_strand(place(from), position(3)).unwrap();
            assert!(!store.stale_projections().is_empty());
            store.rebuild(&derive, &mut |_| {}).unwrap();
            assert_eq!(store.snapshot().head(STRAND).unwrap().0, (from - 1).min(9));
            assert_eq!(look(store), look(&wanted), "cut at {from}");
            assert_eq!(store.snapshot().chain_position(STRAND).unwrap(), position(3));
            // Another envelope may now fill the freed places, but only from the next one on.
            let next = (from - 1).min(9) + 1;
            let refused = store.commit(&[append(STRAND, next + 1)]);
            assert!(matches!(refused, Err(CommitError::Gap { .. })), "{refused:?}");
            let other = LogEntry { bytes: signed("the other branch", 1), ..entry(place(next)) };
            store.commit(&[Change::Append(other)]).unwrap();
        });
    }
}

#[test]
fn only_the_strand_of_a_chain_is_cut() {
    on_each(|store| {
        extend(store, OWN, 3);
        let at = id(OWN, 2);
        assert_eq!(store.truncate_strand(at, None), Err(CommitError::OutOfRange { at }));
        let none = place(0);
        assert_eq!(store.truncate_strand(none, None), Err(CommitError::OutOfRange { at: none }));
        assert!(store.stale_projections().is_empty());
        assert_eq!(store.snapshot().head(OWN).unwrap().0, 3);
    });
}

#[test]
fn a_cut_that_was_not_followed_by_a_rebuild_asks_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, STRAND, 3);
    store.commit_chain(&ChainCommit { position: position(5), ..commit() }).unwrap();
    store.truncate_strand(place(2), None).unwrap();
    drop(store);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert!(!store.stale_projections().is_empty());
    assert_eq!(store.snapshot().head(STRAND).unwrap().0, 1);
    assert_eq!(store.snapshot().chain_position(STRAND).unwrap(), None);
}

fn report_event(block: u64, log_index: u64, change: PayerReportChange) -> PayerReportEvent {
    PayerReportEvent { block, log_index, originator: PEER, index: 0, change }
}

fn submitted(root: u8) -> PayerReportChange {
    PayerReportChange::Submitted {
        start: SequenceId(0),
        end: SequenceId(9),
        end_minute: 5,
        root: [root; 32],
        nodes: vec![OriginatorId(100), OriginatorId(200)],
    }
}

fn report_events(store: &Store) -> Vec<PayerReportEvent> {
    let mut events = Vec::new();
    store.new_report_events(None).read(|event| events.push(event)).unwrap();
    events
}

/// A reorganisation removes the rows of its blocks, and keeps the earlier ones.
#[test]
fn reports_are_what_the_chain_has() {
    on_each(|store| {
        let microdollars = SettledAmount(7);
        let settled = PayerReportChange::Settled { leaves: 3, left: 0, microdollars };
        let first = [report_event(5, 2, submitted(1)), report_event(7, 0, settled)];
        let at = |block| ChainPosition { block, hash: [9; 32] };
        assert_eq!(store.snapshot().payer_reports_position().unwrap(), None);
        store.record_payer_reports(0, &first, at(8)).unwrap();
        assert_eq!(report_events(store), first);
        store.record_payer_reports(0, &first, at(8)).unwrap();
        assert_eq!(report_events(store), first, "again is harmless");
        store.record_payer_reports(6, &[], at(9)).unwrap();
        assert_eq!(report_events(store), first[..1]);
        store.record_payer_reports(u64::MAX, &[], at(9)).unwrap();
        assert_eq!(report_events(store), first[..1]);
        let other = [report_event(5, 1, submitted(2))];
        store.record_payer_reports(5, &other, at(10)).unwrap();
        assert_eq!(report_events(store), other);
        assert_eq!(store.snapshot().payer_reports_position().unwrap(), Some(at(10)));
    });
}

/// Played by a disk whose sync hangs. Callers may ask for what the events say meanwhile.
#[test]
fn events_of_reports_are_read_while_a_write_of_them_hangs() {
    on_each(|store| {
        let at = |block| ChainPosition { block, hash: [9; 32] };
        let first = [report_event(5, 2, submitted(1))];
        store.record_payer_reports(0, &first, at(8)).unwrap();
        let read = |read| {
            let (mut events, new) = (Vec::new(), store.new_report_events(read));
            let read = new.read(|event| events.push(event)).unwrap();
            (new.is_anew, events, read)
        };
        let (_, _, before) = read(None);
        let hangs = Arc::new((Barrier::new(2), Barrier::new(2)));
        let at_write = hangs.clone();
        store.set_write_faults(Some(Arc::new(move || {
            at_write.0.wait();
            at_write.1.wait();
            None
        })));
        let other = [report_event(5, 1, submitted(2))];
        let meanwhile = std::thread::scope(|scope| {
            let writing = scope.spawn(|| store.record_payer_reports(5, &other, at(10)));
            hangs.0.wait();
            let (tell, told) = mpsc::channel();
            scope.spawn(move || tell.send(read(Some(before))));
            // So long only if the reader waits for the write.
            let meanwhile = told.recv_timeout(Duration::from_secs(60));
            hangs.1.wait();
            writing.join().unwrap().unwrap();
            meanwhile
        });
        store.set_write_faults(None);
        let (is_anew, events, between) = meanwhile.expect("the reader does not wait for the write");
        assert!(!is_anew && events.is_empty(), "a reader keeps what it has: {events:?}");
        let (is_anew, events, after) = read(Some(between));
        assert!(is_anew, "the rows were replaced since");
        assert_eq!(events, other);
        let (is_anew, events, _) = read(Some(after));
        assert!(!is_anew && events.is_empty(), "{events:?}");
    });
}

/// The usage from which reports are made: by minute, with the last envelope of each.
#[test]
fn usage_is_read_by_minutes() {
    on_each(|store| {
        for (sequence, minute, payer) in [(1, 3, 7), (2, 3, 8), (3, 5, 7), (4, 9, 9)] {
            let charged = Facts {
                originator_ns: minute * 60_000_000_000,
                charge: Some(charge(payer, 10)),
                ..facts(id(PEER, sequence))
            };
            store.commit(&[append_with(PEER, sequence, charged)]).unwrap();
        }
        let snapshot = store.snapshot();
        let last = |through| snapshot.last_used_minute(PEER, through).unwrap();
        assert_eq!(last(u32::MAX), Some((9, SequenceId(4))));
        assert_eq!(last(8), Some((5, SequenceId(3))));
        assert_eq!(last(4), Some((3, SequenceId(2))), "the highest of all payers");
        assert_eq!(last(2), None);
        assert_eq!(snapshot.last_used_minute(OWN, u32::MAX).unwrap(), None);
        let read = |after, through| {
            let mut rows = Vec::new();
            let each = |minute, payer: Address, _| {
                rows.push((minute, payer.0[0]));
                rows.len() < 3
            };
            snapshot.usage_of_minutes(PEER, after, through, each).unwrap();
            rows
        };
        assert_eq!(read(Some(3), 9), [(5, 7), (9, 9)], "the first minute is not part of it");
        assert_eq!(read(None, 5), [(3, 7), (3, 8), (5, 7)]);
        assert_eq!(read(None, 9).len(), 3, "reading ends when it is told to");
        assert_eq!(read(Some(u32::MAX), u32::MAX), []);
        let mut rows = Vec::new();
        let each = |minute, payer: Address, _| {
            rows.push((minute, payer.0[0]));
            true
        };
        let from = (3, charge(8, 10).payer);
        snapshot.usage_from(PEER, from, 5, each).unwrap();
        assert_eq!(rows, [(3, 8), (5, 7)], "from a payer on");
    });
}
