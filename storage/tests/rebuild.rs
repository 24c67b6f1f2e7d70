//! Projections rebuilt from the log equal those that commits made.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::*;
use hawser_proto::envelope::UnsealedEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::UnsignedOriginatorEnvelope;
use hawser_proto::price::Rate;
use hawser_proto::{Address, EnvelopeId, InboxId, OriginatorId, SequenceId};
use hawser_storage::{
    AddressChange, Change, Derive, Facts, InvalidRule, LogEntry, LogItem, Mark, RebuildError,
    SkipReason, Store, StoredEnvelope, Validity, WriteFault,
};
use proptest::prelude::*;

/// Returns the facts of an envelope: a pure function of its place, as the engine's are of its bytes.
fn derived(at: EnvelopeId) -> (Option<InvalidRule>, Option<Facts>) {
    let random = digest(at.sequence.0 * 1_000 + u64::from(at.originator.0));
    if random[0] < 40 {
        return (Some(InvalidRule(random[1])), None);
    }
    let facts = Facts {
        topic: Some(topic(&format!("t{}", random[2] % 4))),
        originator_ns: i64::from(random[3]) * 1_000_000_000,
        depends_on: vec![id(OriginatorId(0), 9); usize::from(random[4] % 3)],
        expiry_unix_s: (random[5] > 50).then(|| u64::from(random[6])),
        // Few digests, so that several places often share one.
        receipt: (random[7] > 50).then(|| digest(u64::from(random[8] % 8))),
        charge: (random[9] > 50).then(|| {
            // Sometimes so large that counters saturate.
            let size = if random[11] > 250 { u64::MAX / 2 } else { u64::from(random[12]) };
            charge(random[10] % 3, size)
        }),
        counts_for_congestion: random[13] > 50,
        // Few addresses, so that changes often concern the same row.
        addresses: (0..random[14] % 3)
            .map(|n| AddressChange {
                address: Address([n; 20]),
                inbox: InboxId([random[15] % 2; 32]),
                is_member: random[16] > 100,
            })
            .collect(),
    };
    (None, Some(facts))
}

fn change(at: EnvelopeId) -> Change {
    let (invalid, facts) = derived(at);
    Change::Append(LogEntry { validity: Validity::of(invalid), facts, ..entry(at) })
}

fn rebuild(store: &Store) -> hawser_storage::RebuildReport {
    store.rebuild(&derive, &mut |_| {}).unwrap()
}

fn derive(at: EnvelopeId, bytes: &bytes::Bytes, validity: Validity) -> Option<Facts> {
    assert_eq!(bytes, &entry(at).bytes);
    let (rule, facts) = derived(at);
    assert_eq!(validity, Validity::of(rule));
    facts
}

/// Prices all marked minutes again, a few at a time.
fn reprice(store: &Store) {
    while store.reprice(&derive, 3).unwrap() == 3 {}
    assert!(!store.has_unpriced());
}

/// Rates that apply from the beginning, and from a moment within the times of the envelopes on.
fn rates(late_s: u8) -> [Rate; 2] {
    [rate(0, 1), rate(1 + u64::from(late_s), 1000)]
}

/// Expected marks of all places of the strands; `None` is an envelope.
type Model = BTreeMap<EnvelopeId, Option<SkipReason>>;

/// Turns random numbers into a change that the store has to accept.
fn next_change(model: &mut Model, heads: &mut [u64; 3], (kind, strand, pick): Step) -> Change {
    let index = usize::from(strand % 3);
    let originator = [OWN, PEER, OriginatorId(0)][index];
    let places = |wanted: Option<SkipReason>| -> Vec<EnvelopeId> {
        let of_strand = id(originator, 0)..=id(originator, u64::MAX);
        model.range(of_strand).filter(|(_, at)| **at == wanted).map(|(&at, _)| at).collect()
    };
    let choose = |places: Vec<EnvelopeId>| {
        let pick = usize::from(pick).checked_rem(places.len())?;
        places.get(pick).copied()
    };
    let at = match kind % 10 {
        0 | 1 => {
            let reason = match (kind % 10, kind / 10 % 2) {
                (0, 0) => SkipReason::Missing,
                (0, _) => SkipReason::Expired,
                _ => SkipReason::Void,
            };
            let (from, through) = (heads[index] + 1, heads[index] + 1 + u64::from(pick % 6));
            heads[index] = through;
            (from..=through).for_each(|s| _ = model.insert(id(originator, s), Some(reason)));
            return skip(originator, from, through, reason);
        }
        2 | 3 => choose(places(Some(SkipReason::Missing))),
        4 => choose(places(Some(SkipReason::Expired))),
        5 => choose(places(None)),
        _ => None,
    };
    let at = at.unwrap_or_else(|| {
        heads[index] += 1;
        id(originator, heads[index])
    });
    model.insert(at, None);
    change(at)
}

type Step = (u8, u8, u16);

fn assert_holds(store: &Store, model: &Model) {
    let snapshot = store.snapshot();
    for (&at, &skipped) in model {
        assert_eq!(snapshot.get(at).unwrap().is_some(), skipped.is_none(), "{at}");
        match (snapshot.mark(at).unwrap(), skipped) {
            (Some(Mark::Missing { through }), Some(SkipReason::Missing))
            | (Some(Mark::Void { through }), Some(SkipReason::Void))
            | (Some(Mark::Expired { through }), Some(SkipReason::Expired)) => {
                assert!(through >= at.sequence);
            }
            (mark, None) => assert_eq!(mark, derived(at).0.map(Mark::Invalid), "{at}"),
            (mark, skipped) => panic!("{at}: {mark:?} for {skipped:?}"),
        }
    }
    let mut items = Vec::new();
    for head in snapshot.heads().unwrap().iter() {
        for item in snapshot.log(id(head.originator, 0), head.sequence) {
            match item.unwrap() {
                LogItem::Envelope { id, .. } => items.push((id, None)),
                LogItem::Skipped { from, through, reason } => {
                    let places = (from.0..=through.0).map(|s| id(head.originator, s));
                    items.extend(places.map(|at| (at, Some(reason))));
                }
            }
        }
    }
    assert!(items.into_iter().eq(model.iter().map(|(&at, &skipped)| (at, skipped))));
}

/// The same log, written in order and one change at a time.
fn in_order(model: &Model, late_s: u8) -> Store {
    let store = in_memory();
    store.record_rates(&rates(late_s)).unwrap();
    for (&at, &skipped) in model {
        let change = match skipped {
            None => change(at),
            Some(reason) => skip(at.originator, at.sequence.0, at.sequence.0, reason),
        };
        store.commit(&[change]).unwrap();
    }
    store
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rows_do_not_depend_on_how_the_log_came_about(
        groups in proptest::collection::vec(
            proptest::collection::vec(any::<Step>(), 1..25), 1..12),
        flush_at in 0usize..12,
        late_s in any::<u8>(),
        rates_at in proptest::array::uniform2(0usize..12),
    ) {
        let store = in_memory();
        let (mut model, mut heads) = (Model::new(), [0; 3]);
        for (index, steps) in groups.into_iter().enumerate() {
            let changes: Vec<_> = steps
                .into_iter()
                .map(|step| next_change(&mut model, &mut heads, step))
                .collect();
            for (rate, at) in rates(late_s).into_iter().zip(rates_at) {
                if at == index {
                    store.record_rates(&[rate]).unwrap();
                }
            }
            store.commit(&changes).unwrap();
            if index == flush_at {
                store.flush().unwrap();
                reprice(&store);
            }
        }
        store.record_rates(&rates(late_s)).unwrap();
        reprice(&store);
        assert_holds(&store, &model);
        let digests = store.snapshot().projection_digests().unwrap();
        prop_assert_eq!(&in_order(&model, late_s).snapshot().projection_digests().unwrap(), &digests);

        let report = rebuild(&store);
        assert_holds(&store, &model);
        prop_assert_eq!(&store.snapshot().projection_digests().unwrap(), &digests);
        let held = model.values().filter(|skipped| skipped.is_none()).count();
        prop_assert_eq!(report.envelopes, u64::try_from(held).unwrap());
        prop_assert_eq!(report.envelopes, report.invalid + report.projected);

        // Commits after a rebuild continue from its rows.
        let next = change(id(OWN, heads[0] + 1));
        store.commit(std::slice::from_ref(&next)).unwrap();
        model.insert(id(OWN, heads[0] + 1), None);
        prop_assert_eq!(
            store.snapshot().projection_digests().unwrap(),
            in_order(&model, late_s).snapshot().projection_digests().unwrap()
        );
    }
}

#[test]
fn rows_that_the_log_does_not_speak_of_are_gone_after_a_rebuild() {
    on_each(|store| {
        extend(store, OWN, 10);
        let empty = in_memory().snapshot().projection_digests().unwrap();
        let before = store.snapshot().projection_digests().unwrap();
        assert!(before.iter().all(|(name, digest)| empty[name] != *digest));
        store.rebuild(&|_, _, _| None, &mut |_| {}).unwrap();
        assert_eq!(store.snapshot().projection_digests().unwrap(), empty);
        let snapshot = store.snapshot();
        assert_eq!(snapshot.head(OWN).unwrap(), SequenceId(10));
        assert_eq!(last_of(&snapshot, topic("t1").as_bytes()), None);
        assert_eq!(snapshot.receipt(&digest(1)).unwrap(), None);
        store.rebuild(&|at, _, _| Some(facts(at)), &mut |_| {}).unwrap();
        assert_eq!(store.snapshot().projection_digests().unwrap(), before);
    });
}

/// A folder of 6,000 envelopes whose rebuild was interrupted after 4,096, and the digests of whole rows.
fn interrupted() -> (tempfile::TempDir, BTreeMap<&'static str, [u8; 32]>) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    let changes: Vec<_> = (1..=6_000).map(|sequence| plain(id(OWN, sequence))).collect();
    store.commit(&changes).unwrap();
    let digests = store.snapshot().projection_digests().unwrap();
    let all: Vec<_> = digests.keys().copied().collect();
    let mut steps = Vec::new();
    let failed = store.rebuild(&derive_plain, &mut |progress| {
        steps.push(progress.done);
        store.fail_next_write();
    });
    assert!(matches!(failed, Err(RebuildError::Write(_))), "{failed:?}");
    assert_eq!(steps, [4096]);
    assert_eq!(store.stale_projections(), all);
    drop(store);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(store.stale_projections(), all);
    assert_ne!(store.snapshot().projection_digests().unwrap(), digests);
    (folder, digests)
}

fn plain(at: EnvelopeId) -> Change {
    let bytes = at.to_string().into_bytes().into();
    let facts = Some(facts(at));
    Change::Append(LogEntry { id: at, bytes, validity: Validity::Valid, facts })
}

#[expect(clippy::unnecessary_wraps, reason = "the type of a function that derives")]
fn derive_plain(at: EnvelopeId, _: &bytes::Bytes, _: Validity) -> Option<Facts> {
    Some(facts(at))
}

/// Rebuilds and returns how many envelopes were processed after each batch.
fn steps_of(store: &Store) -> Vec<u64> {
    let mut steps = Vec::new();
    let report = store.rebuild(&derive_plain, &mut |progress| steps.push(progress.done)).unwrap();
    assert_eq!(Some(&report.envelopes), steps.last());
    assert_eq!(store.stale_projections(), [""; 0]);
    steps
}

/// A batch also ends by its bytes: a few large envelopes are recorded as progress, and their memory is freed.
#[test]
fn progress_is_told_of_bytes_too() {
    let store = in_memory();
    for sequence in 1..=40 {
        let Change::Append(entry) = plain(id(OWN, sequence)) else { unreachable!() };
        let bytes = vec![0; 1 << 20].into();
        store.commit(&[Change::Append(LogEntry { bytes, ..entry })]).unwrap();
    }
    assert_eq!(steps_of(&store), [16, 32, 40]);
}

#[test]
fn an_interrupted_rebuild_is_known_and_goes_on_at_the_next_start() {
    let (folder, digests) = interrupted();
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(steps_of(&store), [6_000], "what was done is not done again");
    assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
    assert_eq!(
        steps_of(&store),
        [4096, 6_000],
        "a rebuild that was not interrupted is a whole one"
    );
    assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
    drop(store);
    assert_eq!(Store::open(&settings(folder.path())).unwrap().stale_projections(), [""; 0]);
}

#[test]
fn an_interrupted_rebuild_starts_over_after_a_commit() {
    let (folder, _) = interrupted();
    let store = Store::open(&settings(folder.path())).unwrap();
    let more = [plain(id(OWN, 6_001)), plain(id(PEER, 1))];
    store.commit(&more).unwrap();
    assert_eq!(steps_of(&store), [4096, 6_002]);
    let expected = in_memory();
    (1..=6_001).map(|at| id(OWN, at)).chain([id(PEER, 1)]).for_each(|at| {
        expected.commit(&[plain(at)]).unwrap();
    });
    assert_eq!(
        store.snapshot().projection_digests().unwrap(),
        expected.snapshot().projection_digests().unwrap()
    );
}

#[test]
fn a_rebuild_that_other_code_began_starts_over() {
    let (folder, digests) = interrupted();
    let options = rocksdb::Options::default();
    let names = rocksdb::DB::list_cf(&options, folder.path()).unwrap();
    let db = rocksdb::DB::open_cf(&options, folder.path(), names).unwrap();
    let meta = db.cf_handle("meta").unwrap();
    let mut value = db.get_cf(meta, "rebuilding").unwrap().unwrap();
    *value.last_mut().unwrap() += 1;
    db.put_cf(meta, "rebuilding", value).unwrap();
    drop(db);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(steps_of(&store), [4096, 6_000]);
    assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
}

/// For a failure of each write of a rebuild, of rows or of counters, also if the disk has the write: the next
/// rebuild makes the same rows as an uninterrupted one.
#[test]
fn a_rebuild_goes_on_whichever_write_has_failed() {
    let changes: Vec<_> = (1..=5_000).map(|sequence| plain(id(OWN, sequence))).collect();
    let store = in_memory();
    store.commit(&changes).unwrap();
    let digests = store.snapshot().projection_digests().unwrap();
    let mut failed = 0;
    for (nth, fault) in (0..12).flat_map(|nth| [(nth, WriteFault::Lost), (nth, WriteFault::Kept)]) {
        let written = AtomicU64::new(0);
        store.set_write_faults(Some(Arc::new(move || {
            (written.fetch_add(1, Ordering::SeqCst) == nth).then_some(fault)
        })));
        let interrupted = store.rebuild(&derive_plain, &mut |_| {});
        store.set_write_faults(None);
        if interrupted.is_err() {
            failed += 1;
            store.reopen().unwrap();
            store.accept_writes();
            let report = store.rebuild(&derive_plain, &mut |_| {}).unwrap();
            assert_eq!((report.envelopes, report.projected), (5_000, 5_000), "{nth}, {fault:?}");
        }
        assert!(!store.has_stale_projections(), "{nth}, {fault:?}");
        let after = store.snapshot().projection_digests().unwrap();
        assert_eq!(after, digests, "{nth}, {fault:?}");
    }
    // The drop, the rows of five chunks, the counters of four chunks and of one, and the end: 9 writes, each lost
    // or kept.
    assert_eq!(failed, 2 * 9);
}

/// Derive functions get the envelopes in order, in chunks, and each once.
#[test]
fn facts_are_derived_of_many_envelopes_at_once() {
    on_each(|store| {
        let (own, peer) = ((1..=10).map(|it| id(OWN, it)), (1..=1_500).map(|it| id(PEER, it)));
        let mut all: Vec<_> = own.chain(peer).collect();
        all.sort();
        store.commit(&all.iter().copied().map(plain).collect::<Vec<_>>()).unwrap();
        store.commit(&[skip(PEER, 1_501, 1_600, SkipReason::Missing)]).unwrap();
        let digests = store.snapshot().projection_digests().unwrap();
        let chunks = parking_lot::Mutex::new(Vec::new());
        let derive = |stored: &[StoredEnvelope]| -> Vec<Option<Facts>> {
            chunks.lock().push(stored.iter().map(|it| it.id).collect::<Vec<_>>());
            stored.iter().map(|it| Some(facts(it.id))).collect()
        };
        let mut go_on = |_| ControlFlow::Continue(());
        assert_eq!(store.rebuild_many(&derive, &mut go_on).unwrap().envelopes, 1_510);
        let mut chunks = chunks.into_inner();
        chunks.sort();
        assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [1_024, 486]);
        assert_eq!(chunks.concat(), all);
        assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
    });
}

/// Returns an originator envelope with an identity update of empty actions, each of which takes two hundred times its
/// two bytes once it is decoded.
fn update_of(at: EnvelopeId, actions: usize) -> bytes::Bytes {
    let field = |number: u8, content: &[u8]| {
        let (mut encoded, mut rest) = (vec![(number << 3) | 2], content.len());
        while rest >= 0x80 {
            encoded.push(0x80 | u8::try_from(rest & 0x7f).unwrap());
            rest >>= 7;
        }
        encoded.push(u8::try_from(rest).unwrap());
        encoded.extend_from_slice(content);
        encoded
    };
    let client = field(5, &[0x0a, 0].repeat(actions));
    let statement = UnsignedOriginatorEnvelope {
        originator_node_id: at.originator.0,
        originator_sequence_id: at.sequence.0,
        payer_envelope_bytes: field(1, &client).into(),
        ..Default::default()
    };
    UnsealedEnvelope::new(&statement).seal(&key(1))
}

/// A derive function holds what it gets decoded: a chunk of long updates would take hundreds of MiB on each core.
#[test]
fn facts_of_long_updates_are_derived_a_few_at_a_time() {
    let store = in_memory();
    let update = |at: EnvelopeId| {
        let bytes = update_of(at, 40_000);
        Change::Append(LogEntry { bytes, ..entry(at) })
    };
    let all: Vec<_> = (1..=8).map(|it| id(PEER, it)).collect();
    store.commit(&all.iter().copied().map(update).collect::<Vec<_>>()).unwrap();
    let digests = store.snapshot().projection_digests().unwrap();
    let parts = parking_lot::Mutex::new(Vec::new());
    let derive = |stored: &[StoredEnvelope]| -> Vec<Option<Facts>> {
        parts.lock().push(stored.iter().map(|it| it.id).collect::<Vec<_>>());
        stored.iter().map(|it| Some(facts(it.id))).collect()
    };
    let mut go_on = |_| ControlFlow::Continue(());
    assert_eq!(store.rebuild_many(&derive, &mut go_on).unwrap().projected, 8);
    let parts = parts.into_inner();
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 2]);
    assert_eq!(parts.concat(), all);
    assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
}

/// A panic of the derive function ends the rebuild with that panic. The rebuild neither hangs nor counts as done.
#[test]
fn a_panic_while_facts_are_derived_ends_the_rebuild() {
    let store = in_memory();
    // More chunks than threads.
    store.commit(&(1..=18_000).map(|it| plain(id(OWN, it))).collect::<Vec<_>>()).unwrap();
    let digests = store.snapshot().projection_digests().unwrap();
    let one = |at: EnvelopeId, _: &bytes::Bytes, _: Validity| {
        assert_ne!(at.sequence.0, 2_500, "on purpose");
        Some(facts(at))
    };
    // Every call panics, so no worker thread is left on any machine.
    let all =
        |_: EnvelopeId, _: &bytes::Bytes, _: Validity| -> Option<Facts> { panic!("on purpose") };
    let panics: [&Derive<'_>; 2] = [&one, &all];
    for panics in panics {
        let rebuild = || store.rebuild(panics, &mut |_| {});
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(rebuild)).is_err());
        assert!(store.has_stale_projections());
    }
    store.rebuild(&|at, _, _| Some(facts(at)), &mut |_| {}).unwrap();
    assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
}
