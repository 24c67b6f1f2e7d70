//! Booked amounts are equal on all nodes with the same envelopes and rates, for any delay and order of arrival.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, OnceLock};

use hawser_engine::facts;
use hawser_engine::overcharge::overcharge;
use hawser_engine::payer_reports::ChainReports;
use hawser_engine::replication::EnvelopeVerifier;
use hawser_engine::runtime::{Reader, UsageScan, UsedPeriod};
use hawser_engine::sequencer::{Admitted, Sequencer};
use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::price::SettledAmount;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SecretKey, SequenceId, minute_of};
use hawser_rules::{Absences, PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable};
use hawser_storage::{
    Change, Facts, LogEntry, LogItem, PayerReportChange, PayerReportEvent, SkipReason, Store,
    UsageRow, Validity,
};
use proptest::prelude::*;

use crate::common::{
    START_NS, TestClock, client, empty_store, frame, group_payload, group_topic, payer,
    record_rates,
};

const SOURCE: OriginatorId = OriginatorId(300);
/// Envelopes of the strand: a quarter of a minute between two of them would be within the target, and
/// they come ten times as fast.
const COUNT: u64 = 60;
const STEP_NS: i64 = 4_000_000_000;

fn source_key() -> SecretKey {
    SecretKey::from_bytes(&[103; 32]).unwrap()
}

/// Two rates; the second one comes into force in the middle of the strand, within a minute.
fn rates() -> [Rate; 2] {
    let first = Rate {
        start_unix_s: 0,
        message_fee: PicoDollarPrice(1000),
        storage_fee: PicoDollarsPerByteDay(3),
        congestion_fee: PicoDollarPrice(7),
        target_rate_per_minute: 10,
    };
    let start_unix_s = u64::try_from((START_NS + 30 * STEP_NS) / 1_000_000_000).unwrap();
    [
        first,
        Rate {
            start_unix_s,
            message_fee: PicoDollarPrice(5000),
            congestion_fee: PicoDollarPrice(11),
            ..first
        },
    ]
}

/// The strand of an honest node that knows both rates.
fn strand() -> &'static [LogEntry] {
    static STRAND: OnceLock<Vec<LogEntry>> = OnceLock::new();
    STRAND.get_or_init(|| {
        let table = Arc::new(RateTable::new(rates().to_vec(), None).unwrap());
        let mut sequencer = Sequencer::new(SOURCE, SequenceId(0), 0, |_| 0);
        let envelope = |index: u64| -> Bytes {
            let text = frame(1, 1, &index.to_be_bytes());
            let client = client(&group_topic(1), None, group_payload(text));
            let key = payer(u8::try_from(index % 3).unwrap());
            let message = PayerEnvelope::sign(client, SOURCE, 60, &key);
            let admitted = Admitted {
                envelope: PayerEnvelope::from_message(message).unwrap(),
                payer: key.public_key().address(),
                receipt: [0; 32],
                depends_on_ns: None,
            };
            let now_ns = START_NS + i64::try_from(index).unwrap() * STEP_NS;
            let mut placed = sequencer.sequence(now_ns, &table, [&admitted]).unwrap();
            placed.remove(0).unsealed.seal(&source_key())
        };
        let bytes: Vec<Bytes> = (0..COUNT).map(envelope).collect();
        let verifier = EnvelopeVerifier {
            originator: SOURCE,
            key: source_key().public_key(),
            own: OriginatorId(100),
            absences: Absences::NONE,
        };
        verifier.check(bytes).into_iter().map(Result::unwrap).collect()
    })
}

fn derive(_: EnvelopeId, bytes: &Bytes, validity: Validity) -> Option<hawser_storage::Facts> {
    facts::of_stored(bytes, validity, OriginatorId(100))
}

/// Returns what two nodes have to agree on: the tallies by digest, and what each place holds.
fn booked(store: &Store) -> (Vec<[u8; 32]>, Vec<(EnvelopeId, Validity)>) {
    let snapshot = store.snapshot();
    let digests = snapshot.projection_digests().unwrap();
    let tallies = ["usage", "usage_by_payer", "congestion"].map(|name| digests[name]);
    let items = snapshot.log(EnvelopeId::new(SOURCE, SequenceId::NONE), SequenceId::MAX);
    let places = items.map(|item| match item.unwrap() {
        LogItem::Envelope { id, validity, .. } => (id, validity),
        LogItem::Skipped { from, .. } => panic!("{from} is missing"),
    });
    (tallies.to_vec(), places.collect())
}

fn usage(store: &Store) -> UsageRow {
    let mut sum = UsageRow::default();
    for index in 0..3 {
        let add = |_, _, row: UsageRow| {
            sum.picodollars = sum.picodollars.plus(row.picodollars);
            sum.stated_picodollars = sum.stated_picodollars.plus(row.stated_picodollars);
            sum.messages += row.messages;
        };
        store.snapshot().usage_of_payer(payer(index).public_key().address(), add).unwrap();
    }
    sum
}

fn append(index: u64) -> Change {
    Change::Append(strand()[usize::try_from(index).unwrap()].clone())
}

fn skip(index: u64) -> Change {
    let at = SequenceId(index + 1);
    Change::Skip { originator: SOURCE, from: at, through: at, reason: SkipReason::Missing }
}

/// A node that knows everything in time.
fn in_time() -> Store {
    let store = empty_store();
    record_rates(&store, &rates());
    store.commit(&(0..COUNT).map(append).collect::<Vec<_>>()).unwrap();
    assert!(!store.has_unpriced());
    store
}

#[test]
fn what_is_booked_of_an_honest_strand_is_what_its_node_has_asked_for() {
    let store = in_time();
    let sum = usage(&store);
    assert_eq!((sum.messages, sum.picodollars), (COUNT, sum.stated_picodollars));
    assert!(store.differing_fees().is_empty());
    let base =
        |entry: &LogEntry| 1000 + 3 * 60 * entry.facts.as_ref().unwrap().charge.unwrap().size_bytes;
    assert!(sum.picodollars.0 > strand().iter().map(base).sum(), "the strand is congested");
    // And nothing is held against it.
    let (snapshot, rates) = (store.snapshot(), RateTable::new(rates().to_vec(), None).unwrap());
    for LogEntry { id, bytes, .. } in strand() {
        let found = overcharge(|earlier| snapshot.get(earlier), *id, bytes, None, &rates);
        assert_eq!(found.unwrap(), None, "{id}");
    }
}

/// A payer that was busy in each minute for weeks.
#[test]
fn a_large_ledger_is_read_in_parts_of_bounded_work() {
    const MINUTES: i64 = 25_000;
    const ROWS_MAX: usize = 10_000;
    let store = empty_store();
    record_rates(&store, &rates());
    let entry = |place: i64| {
        let first = strand()[0].clone();
        let id = EnvelopeId::new(SOURCE, SequenceId(place.unsigned_abs()));
        let facts = first.facts.clone().unwrap();
        let originator_ns = START_NS + place * 60_000_000_000;
        Change::Append(LogEntry::valid(id, first.bytes, Facts { originator_ns, ..facts }))
    };
    store.commit(&(1..=MINUTES).map(entry).collect::<Vec<_>>()).unwrap();
    let clock = Arc::new(TestClock(AtomicI64::new(START_NS)));
    let reader = Reader::over(store, clock).unwrap();
    let last_settled = minute_of(START_NS) + 10_000;
    let chain = Arc::new(settled_through(last_settled));
    let mut scan = UsageScan::new(payer(0).public_key().address(), 60, Arc::clone(&chain));
    let mut parts = Vec::new();
    while !scan.is_done() {
        parts.push(reader.read_usage(&mut scan, ROWS_MAX).unwrap());
    }
    // Three searches in the usage and one in the ledger count as ten rows each, and two rows follow the ledger.
    assert_eq!(parts, [10_000, 10_000, 5_042]);
    let periods = scan.into_periods();
    assert!(periods.len() <= 25_000 / 60 + 2, "{} hours", periods.len());
    assert!(periods.is_sorted_by_key(|period| period.start_unix_s));
    let settled: Vec<_> = periods.iter().map(|period| period.settled).collect();
    assert_eq!(settled.iter().map(|part| part.messages).sum::<u64>(), 10_000);
    let unsettled: Vec<_> = periods.iter().map(|period| period.unsettled).collect();
    assert_eq!(unsettled.iter().map(|part| part.messages).sum::<u64>(), 15_000);
    // Both parts stand in the hour in which the report ends.
    let both = |period: &&UsedPeriod| period.settled.messages > 0 && period.unsettled.messages > 0;
    let divided: Vec<_> = periods.iter().filter(both).map(|period| period.start_unix_s).collect();
    assert_eq!(divided, [u64::from(last_settled - last_settled % 60) * 60]);
    let mut unknown = UsageScan::new(payer(9).public_key().address(), 60, chain);
    assert_eq!(reader.read_usage(&mut unknown, ROWS_MAX).unwrap(), 22);
    assert!(unknown.is_done());
}

/// Reports on the chain of which one is settled as a whole, about the source up to a minute.
fn settled_through(minute: u32) -> ChainReports {
    let submitted = PayerReportChange::Submitted {
        start: SequenceId(0),
        end: SequenceId(10_000),
        end_minute: minute,
        root: [1; 32],
        nodes: vec![SOURCE],
    };
    let settled = PayerReportChange::Settled { leaves: 1, left: 0, microdollars: SettledAmount(1) };
    ChainReports::of_events([submitted, settled].into_iter().enumerate().map(|(at, change)| {
        PayerReportEvent { block: 1, log_index: at as u64, originator: SOURCE, index: 0, change }
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn tallies_and_marks_do_not_depend_on_when_rates_and_envelopes_became_known(
        missing in proptest::collection::btree_set(0..COUNT, 0..20),
        cuts in proptest::collection::btree_set(1..COUNT, 0..8),
        rates_at in proptest::array::uniform2(0..COUNT),
        settles_at in 0..COUNT,
    ) {
        let late = empty_store();
        let mut batch = Vec::new();
        for index in 0..COUNT {
            for (rate, at) in rates().into_iter().zip(rates_at) {
                if at == index {
                    record_rates(&late, &[rate]);
                }
            }
            batch.push(if missing.contains(&index) { skip(index) } else { append(index) });
            if cuts.contains(&index) {
                late.commit(&std::mem::take(&mut batch)).unwrap();
            }
            if settles_at == index {
                late.reprice(&derive, usize::MAX).unwrap();
            }
        }
        late.commit(&batch).unwrap();
        for found in missing {
            late.commit(&[append(found)]).unwrap();
        }
        record_rates(&late, &rates());
        late.reprice(&derive, usize::MAX).unwrap();
        let booked_late = booked(&late);
        prop_assert_eq!(&booked_late, &booked(&in_time()));
        late.rebuild(&derive, &mut |_| {}).unwrap();
        prop_assert_eq!(booked_late, booked(&late));
    }
}
