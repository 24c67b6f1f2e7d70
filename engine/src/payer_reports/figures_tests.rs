//! Tests of reports over more payers than one report has, with small bounds.

use std::collections::BTreeSet;

use hawser_proto::Address;
use hawser_rules::{PicoDollarPrice, PicoDollarsPerByteDay, Rate};
use hawser_storage::{Change, Charge, SkipReason, Store};

use super::*;
use crate::read::testing::{self, Dice};

const ABOUT: OriginatorId = OriginatorId(200);
const FIRST_MINUTE: u32 = 29_166_667;
const UNBOUNDED: PayersMax = PayersMax { written: usize::MAX, computed: usize::MAX };

/// Returns the charged envelope at a place.
fn append(sequence: u64, minute: u32, payer: u8, size_bytes: u64) -> Change {
    let id = EnvelopeId::new(ABOUT, SequenceId(sequence));
    let (payer, stated_picodollars) = (Address([payer; 20]), PicoDollarPrice(0));
    let charge = Charge { payer, size_bytes, retention_days: 2, stated_picodollars };
    Change::Append(testing::charged(id, i64::from(minute) * 60_000_000_000, charge))
}

/// Returns a store with a strand of these minutes, counted from the first one, and payers.
fn strand(places: impl IntoIterator<Item = (u32, u8, u64)>) -> Store {
    let store = testing::store();
    let rate = Rate {
        start_unix_s: 0,
        message_fee: PicoDollarPrice(7),
        storage_fee: PicoDollarsPerByteDay(1),
        congestion_fee: PicoDollarPrice(0),
        target_rate_per_minute: 0,
    };
    store.record_rates(&[rate]).unwrap();
    let change = |(sequence, (minute, payer, size_bytes)): (u64, (u32, u8, u64))| {
        append(sequence, FIRST_MINUTE + minute, payer, size_bytes)
    };
    let changes: Vec<_> = (1..).zip(places).map(change).collect();
    store.commit(&changes).unwrap();
    store
}

/// Returns the strand of a seed: 40 payers in some dozens of minutes, not all of which have usage.
fn random_strand(seed: u64) -> Store {
    let (mut dice, mut minute) = (Dice::new(seed), 0);
    let places: Vec<_> = (0..150)
        .map(|_| {
            if dice.chance(4) {
                minute += 1 + u32::try_from(dice.below(3)).unwrap();
            }
            (minute, u8::try_from(dice.below(40)).unwrap(), 1 + dice.below(1000))
        })
        .collect();
    strand(places)
}

fn drafted(
    store: &Store,
    payers_max: PayersMax,
    start: SequenceId,
) -> Result<Option<PayerReport>, FiguresError> {
    let nodes = NodeIds::new([ABOUT]).unwrap();
    draft_within(payers_max, &store.snapshot(), ABOUT, start, nodes, u32::MAX)
}

/// Returns the leaves of a report as another node computes it, which attests it.
fn attested(store: &Store, report: &PayerReport) -> Leaves {
    match recompute(&store.snapshot(), report).unwrap() {
        Recomputed::Equal(leaves) => leaves,
        other => panic!("{other:?}: {report:?}"),
    }
}

/// Returns the minutes with usage of a report, and the number of payers that it would have with the next one.
fn minutes_of_report(store: &Store, report: &PayerReport) -> (BTreeSet<u32>, usize) {
    let snapshot = store.snapshot();
    let start = figures_of(&snapshot, report).unwrap().unwrap().start_minute;
    let (mut minutes, mut next, mut payers) = (BTreeSet::new(), None, BTreeSet::new());
    snapshot
        .usage_of_minutes(ABOUT, start, u32::MAX, |minute, payer, _| {
            if minute <= report.end().minute {
                minutes.insert(minute);
            } else if *next.get_or_insert(minute) != minute {
                return false;
            }
            payers.insert(payer);
            true
        })
        .unwrap();
    (minutes, payers.len())
}

#[test]
fn reports_that_end_early_for_their_payers_together_have_all_amounts() {
    for seed in 0..40 {
        let store = random_strand(seed);
        let whole = drafted(&store, UNBOUNDED, SequenceId::NONE).unwrap().unwrap();
        let expected = attested(&store, &whole);
        for written in [1, 3, 10, 25, 40] {
            let payers_max = PayersMax { written, computed: 40 };
            let (mut start, mut amounts, mut reports) = (SequenceId::NONE, Vec::new(), 0);
            while let Some(report) = drafted(&store, payers_max, start).unwrap() {
                assert_eq!(report.start(), start);
                let leaves = attested(&store, &report);
                let (minutes, with_next) = minutes_of_report(&store, &report);
                let is_small = leaves.payers().len() <= written || minutes.len() == 1;
                assert!(is_small, "{} payers, {written}, seed {seed}", leaves.payers().len());
                let is_last = report.end() == whole.end();
                assert!(is_last || with_next > written, "it ends too early, seed {seed}");
                amounts.extend(
                    leaves
                        .payers()
                        .iter()
                        .map(|leaf| (leaf.payer, PicoDollarPrice::from(leaf.fee))),
                );
                (start, reports) = (report.end().sequence, reports + 1);
            }
            assert_eq!(start, whole.end().sequence, "seed {seed}");
            assert_eq!(Leaves::sum(amounts), expected, "{written} payers, seed {seed}");
            assert_eq!(reports == 1, expected.payers().len() <= written, "seed {seed}");
        }
    }
}

#[test]
fn a_report_over_too_many_payers_is_refused_by_name_and_none_less() {
    for seed in 0..10 {
        let store = random_strand(seed);
        let report = drafted(&store, UNBOUNDED, SequenceId::NONE).unwrap().unwrap();
        let payers = attested(&store, &report).payers().len();
        let snapshot = store.snapshot();
        let judged = |payers_max| recomputed(payers_max, &snapshot, &report, |_| true).unwrap().0;
        assert!(matches!(judged(payers), Recomputed::Equal(_)));
        let too_many = ReportDifference::TooManyPayers { payers_max: payers - 1 };
        let text = too_many.to_string();
        assert!(text.contains(&format!("more than {} payers", payers - 1)), "{text}");
        assert_eq!(judged(payers - 1), Recomputed::Different(vec![too_many]));
        // Neither does a node settle it.
        let figures = figures_within(payers - 1, &snapshot, &report);
        assert!(matches!(figures, Err(FiguresError::TooManyPayers { .. })));
    }
}

/// A minute cannot be divided: the report after it would begin within it.
#[test]
fn a_single_minute_may_have_more_payers_than_a_report_of_several() {
    let store = strand([(0, 1, 9), (0, 2, 9), (0, 3, 9), (5, 1, 9), (6, 4, 9)]);
    let drafted = |written, computed| {
        drafted(&store, PayersMax { written, computed }, SequenceId::NONE).map(Option::unwrap)
    };
    let report = drafted(2, 3).unwrap();
    let end = RangeEnd { minute: FIRST_MINUTE, sequence: SequenceId(3) };
    assert_eq!((report.end(), attested(&store, &report).payers().len()), (end, 3));
    let Err(FiguresError::TooManyPayers { minute, payers_max, .. }) = drafted(2, 2) else {
        panic!("three payers are too many");
    };
    assert_eq!((minute, payers_max), (FIRST_MINUTE, 2));
    assert_eq!(drafted(3, 3).unwrap().end().minute, FIRST_MINUTE + 5);
}

/// A minute with many payers follows the start by its date, and lies before it in the log.
#[test]
fn a_minute_that_cannot_end_a_report_does_not_end_it_early() {
    let store = strand([(5, 1, 9), (5, 2, 9), (5, 3, 9), (0, 1, 9), (6, 4, 9), (7, 1, 9)]);
    let payers_max = PayersMax { written: 2, computed: 4 };
    let first = drafted(&store, payers_max, SequenceId::NONE).unwrap().unwrap();
    let end = RangeEnd { minute: FIRST_MINUTE, sequence: SequenceId(4) };
    assert_eq!(first.end(), end);
    let second = drafted(&store, payers_max, end.sequence).unwrap().unwrap();
    assert_eq!(second.end(), RangeEnd { minute: FIRST_MINUTE + 6, sequence: SequenceId(5) });
    assert_eq!(attested(&store, &second).payers().len(), 4);
}

/// A strand of the older network has the row numbers of a database, most of which are of no envelope.
#[test]
fn row_numbers_without_an_envelope_hold_up_no_report_about_a_strand_of_the_older_network() {
    let now_minute = FIRST_MINUTE + 2;
    let drafted_and_judged = |about: u32| {
        let (store, about) = (testing::store(), OriginatorId(about));
        let append = |sequence: u64, minute: u32| {
            let id = EnvelopeId::new(about, SequenceId(sequence));
            let (payer, stated_picodollars) = (Address([1; 20]), PicoDollarPrice(0));
            let charge = Charge { payer, size_bytes: 9, retention_days: 2, stated_picodollars };
            let originator_ns = i64::from(FIRST_MINUTE + minute) * 60_000_000_000;
            Change::Append(testing::charged(id, originator_ns, charge))
        };
        let skip = |from: u64, through: u64| Change::Skip {
            originator: about,
            from: SequenceId(from),
            through: SequenceId(through),
            reason: SkipReason::Expired,
        };
        let changes = [skip(1, 6), append(7, 0), skip(8, 8), append(9, 0), skip(10, 13)];
        store.commit(&changes).unwrap();
        store.commit(&[append(14, 1)]).unwrap();
        let snapshot = store.snapshot();
        let nodes = NodeIds::new([ABOUT]).unwrap();
        let report = draft(&snapshot, about, SequenceId::NONE, nodes, now_minute)?;
        let report = report.expect("two minutes have usage");
        let end = RangeEnd { minute: FIRST_MINUTE, sequence: SequenceId(9) };
        assert_eq!(report.end(), end);
        recompute_to_attest(&snapshot, &report, now_minute, |_| true)
    };
    for about in OriginatorId::MIGRATED {
        let judged = drafted_and_judged(about.0);
        assert!(matches!(judged, Ok(Recomputed::Equal(_))), "{about}: {judged:?}");
    }
    let of_node = drafted_and_judged(ABOUT.0);
    let first = UndecidedError::Missing(SequenceId(1), SequenceId(6));
    assert!(matches!(of_node, Err(FiguresError::NotYet(why)) if why == first));
}

/// An originator dates its first envelopes ahead, and each later one before those. Minutes that it has chosen long ago
/// would come one after the other, and end each report before it begins.
#[test]
fn minutes_of_places_that_are_reported_end_no_further_reports() {
    let store = strand([1800, 1700, 1, 2, 3, 500].map(|minute| (minute, 1, 1)));
    let drafted = |start, now_minute| {
        let nodes = NodeIds::new([ABOUT]).unwrap();
        draft_within(UNBOUNDED, &store.snapshot(), ABOUT, start, nodes, now_minute).unwrap()
    };
    let end = |minute, sequence| RangeEnd {
        minute: FIRST_MINUTE + minute,
        sequence: SequenceId(sequence),
    };
    let first = drafted(SequenceId::NONE, FIRST_MINUTE - 2).unwrap();
    assert_eq!(first.end(), end(2, 4));
    let second = drafted(first.end().sequence, FIRST_MINUTE + 1900).unwrap();
    assert_eq!(second.end(), end(500, 6), "the newest minute that can end a report");
    assert_eq!(attested(&store, &second).payers().len(), 1);
    assert_eq!(drafted(second.end().sequence, FIRST_MINUTE + 1900), None, "and none is left");

    // The same beside a missing place, for which reports wait.
    let skip = Change::Skip {
        originator: ABOUT,
        from: SequenceId(7),
        through: SequenceId(7),
        reason: SkipReason::Missing,
    };
    let later = [2500, 2600].map(|minute| FIRST_MINUTE + minute);
    let changes = [skip, append(8, later[0], 1, 1), append(9, later[1], 1, 1)];
    store.commit(&changes).unwrap();
    let second = drafted(first.end().sequence, FIRST_MINUTE + 2601).unwrap();
    assert_eq!(second.end(), end(500, 6));
}
