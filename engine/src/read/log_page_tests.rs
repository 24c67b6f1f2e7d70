//! Pages of strands against a model that is too slow to be wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hawser_proto::{Cursor, OriginatorId};
use hawser_storage::{Family, Store};
use proptest::prelude::*;

use super::super::limits::{PAGE_ENVELOPES_MAX, wire_len_bytes};
use super::super::memory::{ReadMemory, Unlimited, answer_bytes};
use super::super::testing::{
    Dice, append, append_invalid, committed, id, id_of, missing, store, topic,
};
use super::*;
use crate::committed::Committed;

const STRANDS: [u32; 4] = [0, 100, 200, 300];

/// Some strands with valid and invalid envelopes and with gaps, and a reader's cursor.
struct StrandCase {
    store: Store,
    /// The valid envelopes of each strand, ascending.
    valid: BTreeMap<u32, Vec<Committed>>,
    seen: Cursor,
}

impl StrandCase {
    /// Times mostly ascend within a strand. A run of invalid envelopes or of gaps may be long.
    fn random(seed: u64) -> Self {
        let dice = &mut Dice::new(seed);
        let (store, mut valid, mut seen) = (store(), BTreeMap::new(), Cursor::new());
        for originator in STRANDS {
            let (mut ns, mut changes, mut of_strand) = (0, Vec::new(), Vec::new());
            let len = dice.below(40);
            let mut run = 0;
            for sequence in 1..=len {
                ns += i64::try_from(dice.below(10)).unwrap() - 1;
                if run == 0 && dice.chance(6) {
                    run = 1 + dice.below(12);
                }
                let envelope = committed(id(originator, sequence), topic(1), ns, Vec::new());
                changes.push(match run {
                    0 => append(&envelope),
                    run if run % 3 == 0 => missing(envelope.id),
                    _ => append_invalid(&envelope),
                });
                if run == 0 {
                    of_strand.push(envelope);
                }
                run = run.saturating_sub(1);
            }
            if !changes.is_empty() {
                store.commit(&changes).unwrap();
            }
            seen.advance(id(originator, dice.below(len + 2)));
            valid.insert(originator, of_strand);
        }
        Self { store, valid, seen }
    }

    /// Returns the page that the strands' fronts give, one after the other.
    fn expected(&self, limits: BatchLimits) -> (Vec<EnvelopeId>, bool) {
        let unseen = |of: &Vec<Committed>| -> Vec<Committed> {
            of.iter().filter(|it| !self.seen.covers(it.id)).cloned().collect()
        };
        let mut strands: Vec<Vec<Committed>> = self.valid.values().map(unseen).collect();
        let (mut page, mut len_bytes) = (Vec::new(), 0);
        loop {
            strands.retain(|strand| !strand.is_empty());
            let front = |strand: &&mut Vec<Committed>| (strand[0].originator_ns, strand[0].id);
            let Some(strand) = strands.iter_mut().min_by_key(front) else { return (page, true) };
            len_bytes += wire_len_bytes(strand[0].bytes.len());
            let is_full = page.len() >= limits.envelopes || len_bytes > limits.len_bytes;
            if is_full && !page.is_empty() {
                return (page, false);
            }
            page.push(strand.remove(0).id);
        }
    }

    fn filling(&self, limits: BatchLimits, memory: Arc<dyn ReadMemory>) -> LogFilling {
        let heads = self.store.snapshot().heads().unwrap();
        let ranges = heads.iter().map(|head| LogRange {
            after: EnvelopeId { sequence: self.seen.get(head.originator), ..head },
            through: head.sequence,
        });
        LogFilling::new(ranges.collect::<Vec<_>>(), limits, PageMemory::new(memory, 0))
    }
}

/// Takes turns until there is a page, and returns it with their number.
fn in_turns(store: &Store, filling: &mut LogFilling, work: usize) -> (LogPage, usize) {
    for turns in 1..100_000 {
        if let Some(page) = filling.fill(&store.snapshot(), work).unwrap() {
            return (page, turns);
        }
    }
    panic!("it makes no progress");
}

/// Takes turns until there is a page, and returns it. `None` if the memory does not suffice for one envelope.
fn in_memory(store: &Store, mut filling: LogFilling, work: usize) -> Option<LogPage> {
    loop {
        match filling.fill(&store.snapshot(), work) {
            Ok(Some(page)) => return Some(page),
            Ok(None) => {}
            Err(QueryError::NoMemory(_)) => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn ids(page: &LogPage) -> Vec<EnvelopeId> {
    let decoded: Vec<_> = page.envelopes.iter().map(|(_, bytes)| id_of(bytes)).collect();
    assert!(page.envelopes.iter().map(|(id, _)| *id).eq(decoded.iter().copied()));
    decoded
}

/// Memory that is counted, up to a bound.
#[derive(Debug)]
struct Counted(AtomicUsize, usize);

impl ReadMemory for Counted {
    fn take(&self, bytes: usize) -> bool {
        let more = |taken: usize| taken.checked_add(bytes).filter(|it| *it <= self.1);
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_page_is_the_same_however_many_turns_it_takes(
        seed: u64, envelopes in 1usize..60, len_bytes in 1usize..4000, work in 1usize..200,
    ) {
        let case = StrandCase::random(seed);
        let limits = BatchLimits { envelopes, len_bytes };
        let (expected, finished) = case.expected(limits);
        for work in [1, work, usize::MAX] {
            let mut filling = case.filling(limits, Arc::new(Unlimited));
            let (page, turns) = in_turns(&case.store, &mut filling, work);
            prop_assert_eq!(ids(&page), expected.clone(), "{} rows a turn", work);
            prop_assert_eq!(page.finished, finished);
            prop_assert!(work < usize::MAX || turns == 1);
        }
    }

    #[test]
    fn pages_that_begin_where_the_one_before_has_got_to_leave_nothing_out(
        seed: u64, envelopes in 1usize..9, bound in 1usize..20_000, work in 1usize..200,
    ) {
        let mut case = StrandCase::random(seed);
        let all = BatchLimits { envelopes: PAGE_ENVELOPES_MAX, len_bytes: usize::MAX };
        let limits = BatchLimits { envelopes, ..all };
        let (mut expected, _) = case.expected(all);
        let mut got = Vec::new();
        loop {
            let memory: Arc<dyn ReadMemory> = Arc::new(Counted(AtomicUsize::new(0), bound));
            let mut filling = case.filling(limits, memory);
            let page = loop {
                match filling.fill(&case.store.snapshot(), work) {
                    Ok(Some(page)) => break page,
                    Ok(None) => {}
                    Err(QueryError::NoMemory(_)) => return Ok(()), // too little for one envelope
                    Err(error) => panic!("{error}"),
                }
            };
            got.extend(ids(&page));
            prop_assert!(page.envelopes.iter().all(|(id, _)| page.reached.covers(*id)));
            case.seen.merge(&page.reached);
            if page.finished {
                break;
            }
            prop_assert!(!page.envelopes.is_empty());
        }
        got.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(got, expected);
    }

    /// The stream of a single strand sends the same bytes as others do.
    #[test]
    fn a_page_in_entries_has_the_bytes_and_the_end_of_the_same_page_in_envelopes(
        seed: u64, envelopes in 1usize..60, len_bytes in 1usize..4000, bound in 0usize..40_000,
        work in 1usize..200,
    ) {
        let case = StrandCase::random(seed);
        let heads = case.store.snapshot().heads().unwrap();
        for head in heads.iter() {
            let after = EnvelopeId { sequence: case.seen.get(head.originator), ..head };
            let range = LogRange { after, through: head.sequence };
            let filling = || {
                let memory = Arc::new(Counted(AtomicUsize::new(0), bound));
                let limits = BatchLimits { envelopes, len_bytes };
                LogFilling::new([range], limits, PageMemory::new(memory, 0))
            };
            let one_by_one = in_memory(&case.store, filling(), usize::MAX);
            let in_entries = in_memory(&case.store, filling().with_entries(), work);
            prop_assert_eq!(one_by_one.is_some(), in_entries.is_some());
            let (Some(one_by_one), Some(in_entries)) = (one_by_one, in_entries) else { continue };
            let stored: Vec<_> = one_by_one.envelopes.into_iter().map(|(_, bytes)| bytes).collect();
            let entries = EnvelopeEntries::from(stored.clone());
            let batches = in_entries.batches;
            let sent: Vec<u8> = batches.iter().flat_map(|it| it.bytes.to_vec()).collect();
            prop_assert_eq!(sent, entries.bytes);
            let taken_apart: Vec<_> = batches.iter().flat_map(EnvelopeEntries::envelopes).collect();
            prop_assert_eq!(taken_apart, stored);
            prop_assert_eq!(batches.iter().map(|it| it.count).sum::<usize>(), entries.count);
            prop_assert!(in_entries.envelopes.is_empty());
            prop_assert_eq!(in_entries.reached, one_by_one.reached);
            prop_assert_eq!(in_entries.finished, one_by_one.finished);
        }
    }

    #[test]
    fn memory_that_ends_early_makes_a_page_shorter_and_is_never_exceeded(
        seed: u64, bound in 0usize..20_000, work in 1usize..200,
    ) {
        let case = StrandCase::random(seed);
        let limits = BatchLimits { envelopes: PAGE_ENVELOPES_MAX, len_bytes: usize::MAX };
        let (expected, _) = case.expected(limits);
        let memory = Arc::new(Counted(AtomicUsize::new(0), bound));
        let mut filling = case.filling(limits, memory.clone());
        let page = loop {
            match filling.fill(&case.store.snapshot(), work) {
                Ok(Some(page)) => break page,
                Ok(None) => {}
                Err(QueryError::NoMemory(_)) => return Ok(()), // nothing of it was read
                Err(error) => panic!("{error}"),
            }
        };
        let got = ids(&page);
        prop_assert!(expected.starts_with(&got));
        prop_assert_eq!(page.finished, got.len() == expected.len());
        let len_bytes = page.envelopes.iter().map(|(_, bytes)| bytes.len()).sum();
        let taken = memory.0.load(Ordering::Relaxed);
        prop_assert_eq!(filling.taken_bytes(), taken);
        prop_assert!(answer_bytes(got.len(), len_bytes) <= taken);
    }
}

/// A hostile node has had envelopes stored that break rules, and before them nothing that a reader gets.
#[test]
fn a_long_run_of_invalid_envelopes_takes_many_turns_and_each_place_is_looked_at_once() {
    const RUN: u64 = 3000;
    const WORK: usize = 100;
    let store = store();
    let invalid = |sequence| append_invalid(&committed(id(100, sequence), topic(1), 1, Vec::new()));
    let changes: Vec<_> = (1..=RUN).map(invalid).collect();
    store.commit(&changes).unwrap();
    let last = committed(id(100, RUN + 1), topic(1), 2, Vec::new());
    store.commit(&[append(&last)]).unwrap();
    let range = LogRange { after: id(100, 0), through: SequenceId(RUN + 1) };
    let memory = PageMemory::new(Arc::new(Unlimited), 0);
    let mut filling = LogFilling::new([range], BatchLimits::of_query(1), memory);
    let (page, turns) = in_turns(&store, &mut filling, WORK);
    assert_eq!(ids(&page), [last.id]);
    let of_turn = WORK - ROWS_PER_SCAN;
    assert_eq!(turns, usize::try_from(RUN + 1).unwrap().div_ceil(of_turn), "each place once");
}

/// Played by a row behind the third place whose key the disk has damaged. A query fails: its caller would take a short
/// answer for the end.
#[test]
fn a_page_of_a_stream_ends_before_damage_and_the_next_one_fails() {
    let store = store();
    for originator in [100, 200] {
        let of = |place| committed(id(originator, place), topic(1), 1, Vec::new());
        let changes: Vec<_> = (1..=3).map(|place| append(&of(place))).collect();
        store.commit(&changes).unwrap();
    }
    let key = [&100_u32.to_be_bytes()[..], &4_u64.to_be_bytes(), &[0_u8]].concat();
    store.put_raw_row(Family::Log, &key, b"damaged");
    let begin = |after: u64, originators: &[u32]| {
        let ranges = originators
            .iter()
            .map(|originator| LogRange { after: id(*originator, after), through: SequenceId(5) });
        let memory = PageMemory::new(Arc::new(Unlimited), 0);
        LogFilling::new(ranges.collect::<Vec<_>>(), BatchLimits::STRANDS, memory)
    };
    let good: Vec<_> = (1..=3).map(|place| id(100, place)).collect();
    let (alone, both): (&[u32], &[u32]) = (&[100], &[100, 200]);
    let (page, _) = in_turns(&store, &mut begin(0, alone).before_damage(), 1000);
    assert_eq!((ids(&page), page.finished), (good.clone(), false));
    assert_eq!(page.reached.get(OriginatorId(100)), SequenceId(3));
    let mut in_entries = begin(0, alone).before_damage().with_entries();
    let (page, _) = in_turns(&store, &mut in_entries, 1000);
    let entries = page.batches.iter().flat_map(EnvelopeEntries::envelopes);
    assert_eq!(entries.map(|bytes| id_of(&bytes)).collect::<Vec<_>>(), good);
    assert_eq!(page.reached.get(OriginatorId(100)), SequenceId(3));
    // All are of one time, so the lower originator comes first.
    let (page, _) = in_turns(&store, &mut begin(0, both).before_damage(), 1000);
    assert_eq!((ids(&page), page.finished), (good, false));
    assert_eq!(page.reached.get(OriginatorId(200)), SequenceId::NONE, "read with the next page");
    for mut filling in [
        begin(3, alone).before_damage(),
        begin(3, alone).before_damage().with_entries(),
        begin(0, alone),
        begin(0, both),
    ] {
        let error = filling.fill(&store.snapshot(), 1000).unwrap_err();
        assert!(matches!(error, QueryError::Storage(_)), "{error}");
    }
}

/// Played by damage that no checksum shows. The time by which strands are merged cannot be read.
#[test]
fn an_envelope_that_does_not_decode_goes_out_at_its_place_and_ends_no_page() {
    let (store, broken) = (store(), Bytes::from_static(&[0x0a, 0xff, 0xff]));
    for originator in [100, 200] {
        let of = |sequence: u64| {
            let at = i64::try_from(sequence).unwrap();
            let envelope = committed(id(originator, sequence), topic(1), at, Vec::new());
            match envelope.id == id(200, 2) {
                true => append(&Committed { bytes: broken.clone(), ..envelope }),
                false => append(&envelope),
            }
        };
        store.commit(&(1..=3).map(of).collect::<Vec<_>>()).unwrap();
    }
    let ranges =
        [100, 200].map(|originator| LogRange { after: id(originator, 0), through: SequenceId(3) });
    for work in [1, usize::MAX] {
        let memory = PageMemory::new(Arc::new(Unlimited), 0);
        let mut filling = LogFilling::new(ranges, BatchLimits::of_query(0), memory);
        let (page, _) = in_turns(&store, &mut filling, work);
        let got: Vec<_> = page.envelopes.iter().map(|(id, _)| *id).collect();
        let places = [(100, 1), (200, 1), (200, 2), (100, 2), (100, 3), (200, 3)];
        assert_eq!(got, places.map(|(originator, sequence)| id(originator, sequence)));
        assert_eq!(page.envelopes[2].1, broken, "as the log has it");
        assert!(page.finished);
    }
}

/// A payer may have an envelope of megabytes stored at each node, all of one time. Readers of all strands then need
/// the memory of one of them, and not of one of each strand.
#[test]
fn long_envelopes_of_many_strands_take_the_memory_of_one() {
    const LONG: usize = 1 << 20;
    let store = store();
    let mut expected = Vec::new();
    for originator in [100, 200, 300] {
        let mut of_strand = Vec::new();
        for sequence in 1..=4 {
            let at = i64::try_from(sequence).unwrap() * 1000 + i64::from(originator);
            let mut envelope = committed(id(originator, sequence), topic(1), at, Vec::new());
            if sequence != 2 {
                // An unknown field of that length.
                let field = [&[0x7a_u8, 0x80, 0x80, 0x40][..], &vec![0; LONG]].concat();
                envelope.bytes = [&envelope.bytes[..], &field].concat().into();
            }
            expected.push((at, envelope.id));
            of_strand.push(append(&envelope));
        }
        store.commit(&of_strand).unwrap();
    }
    expected.sort_unstable();
    let expected: Vec<EnvelopeId> = expected.into_iter().map(|(_, id)| id).collect();
    for work in [1, 50, usize::MAX] {
        let (mut reached, mut got, mut pages) = (Cursor::new(), Vec::new(), 0);
        loop {
            let ranges = [100, 200, 300].map(|originator| LogRange {
                after: EnvelopeId::new(
                    OriginatorId(originator),
                    reached.get(OriginatorId(originator)),
                ),
                through: SequenceId(4),
            });
            // For one long envelope, as it is read and as it is encoded, and for short ones.
            let memory = Arc::new(Counted(AtomicUsize::new(0), 2 * LONG + 16 * 1024));
            let memory = PageMemory::new(memory, 0);
            let limits = BatchLimits::of_query(0);
            let mut filling = LogFilling::new(ranges, limits, memory);
            let (page, _) = in_turns(&store, &mut filling, work);
            got.extend(page.envelopes.iter().map(|(id, _)| *id));
            reached.merge(&page.reached);
            pages += 1;
            if page.finished {
                break;
            }
        }
        assert_eq!(got, expected, "{work} rows a turn");
        assert_eq!(pages, 9, "each long one ends a page");
    }
}
