//! Tests of the pieces in which the rows of a minute are replaced.

use hawser_proto::envelope::Proof;
use hawser_proto::price::{PicoDollarPrice, PicoDollarsPerByteDay};
use hawser_proto::{Address, SequenceId};

use super::*;
use crate::change::{Change, Charge, Facts, LogEntry};
use crate::price::PricedEnvelope;
use crate::testing;

/// A node that dates its whole strand into one minute.
const LIAR: OriginatorId = OriginatorId(200);
const PAYERS: u64 = 25;

/// An envelope costs more with each one before it in its minute.
fn price(rates: &[Rate], envelope: &PricedEnvelope) -> PicoDollarPrice {
    let fee = rates.last().map_or(0, |rate| rate.message_fee.0);
    PicoDollarPrice(fee * (1 + envelope.earlier.iter().sum::<u64>()))
}

fn store() -> Store {
    Store::in_memory(testing::store().identity().clone(), price).unwrap()
}

fn rate(start_unix_s: u64, message_fee: u64) -> Rate {
    Rate {
        start_unix_s,
        message_fee: PicoDollarPrice(message_fee),
        storage_fee: PicoDollarsPerByteDay(0),
        congestion_fee: PicoDollarPrice(0),
        target_rate_per_minute: 0,
    }
}

/// Returns the same number for the same arguments, and others for others.
fn mixed(seed: u64, number: u64) -> u64 {
    let mixed = ((seed << 32) | number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33
}

fn facts(seed: u64, at: EnvelopeId) -> Facts {
    let payer = u8::try_from(mixed(seed, at.sequence.0) % PAYERS).unwrap();
    let (payer, stated_picodollars) = (Address([payer; 20]), PicoDollarPrice(3));
    let charge = Charge { payer, size_bytes: 1, retention_days: 2, stated_picodollars };
    Facts { charge: Some(charge), counts_for_congestion: true, ..testing::bare_facts() }
}

fn extend_to(store: &Store, seed: u64, last: u64) {
    let head = store.snapshot().head(LIAR).unwrap().0;
    let append = |sequence| {
        let id = EnvelopeId::new(LIAR, SequenceId(sequence));
        let statement = Bytes::from(format!("envelope {id}").into_bytes());
        let bytes = OriginatorEnvelope::encode(statement, Proof::Transaction([1; 32]));
        let facts = Some(facts(seed, id));
        Change::Append(LogEntry { id, bytes, validity: Validity::Valid, facts })
    };
    store.commit(&(head + 1..=last).map(append).collect::<Vec<_>>()).unwrap();
}

/// Asserts that the rows equal those of a rebuild.
fn assert_right(store: &Store, derive: &Derive<'_>) {
    assert!(!store.has_unpriced());
    let digests = store.snapshot().projection_digests().unwrap();
    store.rebuild(derive, &mut |_| {}).unwrap();
    assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
}

/// Between two pieces the node ends without notice, envelopes join the minute, and rates come late.
#[test]
fn a_minute_is_replaced_in_pieces_whatever_happens_between_them() {
    for seed in 0..30 {
        let derive = |at: EnvelopeId, _: &Bytes, _: Validity| Some(facts(seed, at));
        for piece_rows in [1, 4, 1000] {
            let store = store();
            let (mut head, mut steps) = (60, 0);
            extend_to(&store, seed, head);
            store.record_rates(&[rate(0, 5)]).unwrap();
            while store.database().reprice(&derive, 1, piece_rows).unwrap() == 1 {
                steps += 1;
                match mixed(seed, 1000 + steps) % 6 {
                    // All that a node has in memory about it.
                    0 if steps < 50 => store.database().repricing.lock().forget_all(),
                    1 | 2 if steps < 50 => {
                        head += 3;
                        extend_to(&store, seed, head);
                    }
                    3 if steps < 50 => store.record_rates(&[rate(1 + steps, 5 + steps)]).unwrap(),
                    _ => {}
                }
            }
            let least = PAYERS / 2 / u64::try_from(piece_rows).unwrap();
            assert!(steps > least, "{steps} steps of {piece_rows} rows, seed {seed}");
            assert_right(&store, &derive);
        }
    }
}

/// A minute whose envelopes are no longer charged to any payer, as after a change of their marks.
#[test]
fn rows_are_removed_in_pieces_too() {
    let store = store();
    extend_to(&store, 7, 200);
    let users = || {
        let snapshot = store.snapshot();
        let usage = |payer| snapshot.usage(LIAR, 0, Address([payer; 20])).unwrap();
        (0..=u8::MAX).filter_map(usage).count()
    };
    assert!(users() > 20);
    let derive = |at: EnvelopeId, _: &Bytes, _: Validity| Some(facts(7, at).unbooked());
    store.record_rates(&[rate(0, 5)]).unwrap();
    let mut steps = 0;
    while store.database().reprice(&derive, 1, 4).unwrap() == 1 {
        steps += 1;
    }
    assert!(steps > 4, "{steps} steps");
    assert_eq!(users(), 0);
    assert_right(&store, &derive);
}
