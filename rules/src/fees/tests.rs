//! Base fees equal the golden ones, and the list explains the fees that honest nodes state, and no others.

use proptest::prelude::*;

use super::testing::{cases, number, vectors};
use super::*;

fn rate(message_fee: u64, storage_fee: u64) -> Rate {
    Rate {
        start_unix_s: 0,
        message_fee: PicoDollarPrice(message_fee),
        storage_fee: PicoDollarsPerByteDay(storage_fee),
        congestion_fee: PicoDollarPrice(0),
        target_rate_per_minute: 0,
    }
}

#[test]
fn base_fees_equal_the_golden_ones() {
    let vectors = vectors();
    for case in cases(&vectors, "base_fee") {
        let rate = rate(number(&case["message_fee"]), number(&case["storage_fee"]));
        let days = u32::try_from(number(&case["storage_days"])).unwrap();
        // A negative size cannot be represented here; 0 is refused as well.
        let size: i128 = case["message_size"].as_str().unwrap().parse().unwrap();
        let fee = base_fee(&rate, u64::try_from(size).unwrap_or(0), days);
        match case["result_picodollars"].as_str() {
            Some(golden) => {
                assert_eq!(fee, Ok(PicoDollarPrice(golden.parse().unwrap())), "{case}");
            }
            None => assert!(fee.is_err(), "{case}"),
        }
    }
}

/// Each product and the sum may be as large as a signed 64-bit number, and no larger.
#[test]
fn base_fees_reach_up_to_the_signed_range() {
    const MAX: u64 = i64::MAX.unsigned_abs();
    for (message_fee, storage_fee, size, days, golden) in [
        (0, MAX, 1, 1, Some(MAX)),
        (1, MAX, 1, 1, None),
        (MAX, 0, 1, 1, Some(MAX)),
        (MAX, 0, MAX, u32::MAX, Some(MAX)),
        (MAX - 730, 1, 2, 365, Some(MAX)),
        (MAX - 729, 1, 2, 365, None),
        (0, 1 << 62, 1, 2, None),
        (0, 1 << 62, 2, 1, None),
        (7, 1 << 32, 1 << 30, 1, Some((1 << 62) + 7)),
        (0, 1, 1, u32::MAX, Some(4_294_967_295)),
        // 92,737 is a factor of 2^63 − 1.
        (0, 92_737, 99_457_304_386_111, 1, Some(9_223_372_036_854_775_807)),
        (1 << 63, 0, 1, 1, None),
        (u64::MAX, u64::MAX, u64::MAX, u32::MAX, None),
    ] {
        let fee = base_fee(&rate(message_fee, storage_fee), size, days);
        let golden = golden.map(PicoDollarPrice).ok_or(FeeError::Overflow);
        assert_eq!(fee, golden, "{message_fee} + {storage_fee} × {size} × {days}");
    }
}

#[test]
fn fees_whose_sum_is_out_of_range_are_refused() {
    const MAX: u64 = i64::MAX.unsigned_abs();
    let of =
        |base, congestion| EnvelopeFees::new(PicoDollarPrice(base), PicoDollarPrice(congestion));
    let fees = of(MAX - 7, 7).unwrap();
    let fees = [fees.base(), fees.congestion(), fees.sum()].map(|fee| fee.0);
    assert_eq!(fees, [MAX - 7, 7, MAX]);
    for (base, congestion) in [(MAX, 1), (1, MAX), (MAX, MAX), (u64::MAX, 0), (1, u64::MAX)] {
        assert_eq!(of(base, congestion), Err(FeeError::Overflow));
    }
}

#[test]
fn the_rate_in_force_is_the_newest_that_has_started() {
    let vectors = vectors();
    for case in cases(&vectors, "rate_selection") {
        let starts = case["start_times"].as_array().unwrap().iter().map(number);
        let rates: Vec<Rate> =
            starts.map(|start_unix_s| Rate { start_unix_s, ..rate(1, 1) }).collect();
        let ns = number(&case["message_ns"]).cast_signed();
        let chosen =
            RateTable::new(rates.clone(), None).ok().and_then(|table| table.at(ns).ok().copied());
        let golden = case["index"].as_u64().map(|i| rates[usize::try_from(i).unwrap()]);
        assert_eq!(chosen, golden, "{case}");
    }
}

#[test]
fn rates_must_ascend() {
    let at = |start_unix_s| Rate { start_unix_s, ..rate(1, 1) };
    assert_eq!(RateTable::new(vec![], None), Err(RateTableError::Empty));
    let equal = RateTable::new(vec![at(1), at(2), at(2)], None);
    assert_eq!(equal, Err(RateTableError::NotAscending { index: 2 }));
}

#[test]
fn all_rates_of_an_interval_are_found() {
    let at = |start_unix_s| Rate { start_unix_s, ..rate(1, 1) };
    let table = RateTable::new(vec![at(10), at(20), at(30)], None).unwrap();
    let starts = |from: i64, to: i64| -> Vec<u64> {
        table.during(from * 1_000_000_000, to * 1_000_000_000).map(|r| r.start_unix_s).collect()
    };
    assert_eq!(starts(0, 9), [0; 0]);
    assert_eq!(starts(0, 10), [10]);
    assert_eq!(starts(12, 25), [10, 20]);
    assert_eq!(starts(25, 26), [20]);
    assert_eq!(starts(0, 99), [10, 20, 30]);
}

/// The reader's clock may be ahead, and the endpoint behind. An honest node's clock may be behind, too.
#[test]
fn a_list_is_complete_up_to_five_minutes_before_its_block_whatever_the_time_of_the_reading() {
    const BLOCK_S: i64 = 1_000_000;
    let ns = |after_s: i64| (BLOCK_S + after_s) * 1_000_000_000;
    let later = Rate { start_unix_s: 9, ..rate(2, 2) };
    let read = |after_s: i64| {
        let table = RateTable::new(vec![later], Some(ns(after_s))).unwrap();
        table.of_block(BLOCK_S.unsigned_abs())
    };
    for after_s in [0, 5, 7_200] {
        let table = read(after_s);
        assert!(table.is_complete_at(ns(-300)) && !table.is_complete_at(ns(-300) + 1));
        assert!(table.covers(ns(after_s)), "it is as fresh as its reading");
    }
    assert_eq!(read(-7_200).complete_until_ns(), Some(ns(-7_200)), "a block that has not come");
    let more = RateTable::new(vec![rate(1, 1), later], None);
    let recorded = more.unwrap().as_of(&read(5));
    assert_eq!((recorded.refreshed_ns(), recorded.rates().len()), (Some(ns(5)), 2));
    assert_eq!(recorded.complete_until_ns(), Some(ns(-300)));
    assert!(recorded.confirmed(ns(9)).is_complete_at(ns(9)), "a source that is a file");
    // A file may be a copy of the chain's list, which lacks later rates however often it is looked at.
    let copy = RateTable::new(vec![rate(1, 1)], None).unwrap().of_block(BLOCK_S.unsigned_abs());
    let found = copy.found_at(ns(9_000));
    assert!(found.covers(ns(9_000)) && found.is_complete_at(ns(-300)), "{found:?}");
    assert!(!found.is_complete_at(ns(-300) + 1), "{found:?}");
    assert_eq!(copy.found_at(ns(-900)).complete_until_ns(), Some(ns(-900)), "a time to come");
    let source = RateTable::new(vec![rate(1, 1)], None).unwrap().found_at(ns(9));
    assert_eq!(source.complete_until_ns(), Some(ns(9)), "the file states no time");
    let unread = RateTable::new(vec![rate(1, 1)], Some(ns(0))).unwrap().of_block(0);
    assert!(unread.covers(ns(0)) && !unread.is_complete_at(0), "the block's time is unknown");
    assert_eq!(complete_until_ns(u64::MAX), i64::MAX - CLOCK_TOLERANCE_NS);
}

/// The chain was reorganised, or an endpoint had made a rate up, or is behind now. A node drops no rate that it has
/// recorded, and others charge by the chain's list.
#[test]
fn a_recorded_rate_that_a_later_list_lacks_leaves_nothing_that_proves_a_fee_wrong() {
    let from = |start_unix_s| Rate { start_unix_s, ..rate(1, 1) };
    let read = |starts: &[u64]| {
        let rates = starts.iter().copied().map(from).collect();
        RateTable::new(rates, Some(9_000_000_000_000)).unwrap().of_block(9_000)
    };
    let until_ns = |recorded: &[u64], reading: &[u64]| {
        let table = read(recorded).as_of(&read(reading));
        assert_eq!(table.rates().len(), recorded.len());
        assert!(table.covers(9_000_000_000_000), "it prices");
        table.complete_until_ns()
    };
    let whole = Some(8_700_000_000_000);
    assert_eq!(until_ns(&[1, 2, 3], &[1, 2, 3]), whole);
    assert_eq!(until_ns(&[1, 2, 3], &[2, 3]), whole, "a file may leave out the past");
    for lacking in [&[1, 2][..], &[1, 3], &[1]] {
        assert_eq!(until_ns(&[1, 2, 3], lacking), Some(complete_until_ns(0)), "{lacking:?}");
    }
}

/// A node that the settlement chain has not answered for an hour still sells, by the rates that it knows.
#[test]
fn the_former_rate_explains_a_fee_while_an_honest_node_may_not_know_the_newer_one() {
    const START_S: i64 = 1_000_000;
    let start_unix_s = START_S.unsigned_abs();
    let rates = vec![rate(5, 0), Rate { start_unix_s, ..rate(7, 0) }];
    let table = RateTable::new(rates, None).unwrap();
    let explained = |after_s: i64, base| {
        let at_ns = (START_S + after_s) * 1_000_000_000;
        let (stated, congestion) = (PicoDollarPrice(base), PicoDollarPrice(0));
        let charged = Charged { at_ns, size_bytes: 1, days: 2, base: stated, congestion };
        let is_explained = table.explain(&charged).is_ok();
        assert_eq!(table.explains_sum(at_ns, 1, 2, stated), is_explained);
        is_explained
    };
    let (clock_s, list_s) = (5 * 60, 60 * 60);
    assert!(!explained(-clock_s - 1, 7) && explained(-clock_s, 7));
    assert!(explained(list_s + clock_s - 1, 5) && !explained(list_s + clock_s, 5));
    assert!(explained(list_s * 24, 7) && !explained(0, 6));
}

/// Every implementation reads the target as a signed 32-bit number, so an honest node charges no congestion by any of
/// the targets that are off in that form.
#[test]
fn a_rate_whose_target_switches_congestion_off_explains_no_congestion_fee() {
    let of_target = |target| Rate {
        congestion_fee: PicoDollarPrice(11),
        target_rate_per_minute: target,
        ..rate(7, 3)
    };
    let charged = |congestion| Charged {
        at_ns: 1,
        size_bytes: 5,
        days: 2,
        base: PicoDollarPrice(7 + 3 * 10),
        congestion: PicoDollarPrice(congestion),
    };
    let off: [u64; 5] = [0, 1 << 31, (1 << 32) - 1, 1 << 32, u64::MAX];
    let on: [u64; 3] = [1, (1 << 31) - 1, (1 << 32) + 1];
    let table = |targets: &[u64]| {
        let rates = (0..).zip(targets);
        let rates = rates.map(|(start_unix_s, target)| Rate { start_unix_s, ..of_target(*target) });
        // All of them are in force within the hour.
        RateTable::new(rates.collect(), None).unwrap()
    };
    let explained = |targets: &[u64], congestion| {
        let (table, charged) = (table(targets), charged(congestion));
        let explained = table.explain(&charged);
        let sum = PicoDollarPrice(charged.base.0 + congestion);
        assert_eq!(table.explains_sum(charged.at_ns, 5, 2, sum), explained.is_ok());
        explained
    };
    for target in off {
        assert_eq!(explained(&[target], 0), Ok(()), "{target}");
        for congestion in [11, 1100] {
            let wrong = Err(WrongFeeError::Congestion);
            assert_eq!(explained(&[target], congestion), wrong, "{target}: {congestion}");
        }
    }
    assert_eq!(explained(&off, 11), Err(WrongFeeError::Congestion));
    for target in on {
        assert_eq!(explained(&[target], 11), Ok(()), "{target}");
        assert_eq!(explained(&[off[1], target, off[0]], 1100), Ok(()), "{target}");
    }
}

fn any_rate() -> impl Strategy<Value = Rate> {
    any::<[u64; 4]>().prop_map(|[message_fee, storage_fee, congestion_fee, target]| Rate {
        start_unix_s: 0,
        // The values are shifted so that most products fit and some do not.
        message_fee: PicoDollarPrice(message_fee >> (message_fee % 64)),
        storage_fee: PicoDollarsPerByteDay(storage_fee >> (storage_fee % 64)),
        congestion_fee: PicoDollarPrice(congestion_fee >> (congestion_fee % 64)),
        target_rate_per_minute: target,
    })
}

proptest! {
    #[test]
    fn a_fee_is_exact_or_an_error_and_never_wraps(
        rate in any_rate(),
        size in any::<u64>(),
        days in any::<u32>(),
        units in any::<u64>(),
    ) {
        let limit = u128::from(i64::MAX.unsigned_abs());
        let exact = u128::from(rate.storage_fee.0)
            .checked_mul(u128::from(size) * u128::from(days))
            .and_then(|fee| fee.checked_add(u128::from(rate.message_fee.0)))
            .filter(|fee| *fee <= limit && size > 0 && days > 0);
        prop_assert_eq!(base_fee(&rate, size, days).ok().map(|fee| u128::from(fee.0)), exact);
        let congestion = u128::from(rate.congestion_fee.0) * u128::from(units);
        let exact = (congestion <= limit).then_some(congestion);
        prop_assert_eq!(congestion_fee(&rate, units).ok().map(|fee| u128::from(fee.0)), exact);
    }

    #[test]
    fn larger_and_longer_is_never_cheaper(
        rate in any_rate(),
        size in 1..1_000_000_u64,
        days in 1..366_u32,
        units in 0..100_u64,
    ) {
        // A larger argument than one that overflows has to overflow, too.
        let most = PicoDollarPrice(u64::MAX);
        let price = |fee: Result<PicoDollarPrice, FeeError>| fee.unwrap_or(most);
        prop_assert!(price(base_fee(&rate, size, days)) <= price(base_fee(&rate, size + 1, days)));
        prop_assert!(price(base_fee(&rate, size, days)) <= price(base_fee(&rate, size, days + 1)));
        let congestion = |units| price(congestion_fee(&rate, units));
        prop_assert!(congestion(units) <= congestion(units + 1));
    }

    #[test]
    fn the_list_explains_what_its_own_rate_charges_and_not_a_picodollar_more(
        rate in any_rate(),
        size_bytes in 1..1_000_000_u64,
        days in 1..366_u32,
        units in 0..=100_u64,
        at_ns in 0..i64::MAX,
    ) {
        let rate = Rate { target_rate_per_minute: 1, ..rate };
        let fees = base_fee(&rate, size_bytes, days).ok().zip(congestion_fee(&rate, units).ok());
        let Some((PicoDollarPrice(base), PicoDollarPrice(congestion))) = fees else {
            return Ok(());
        };
        let table = RateTable::new(vec![rate], None).unwrap();
        let charging = |base, congestion| {
            let (base, congestion) = (PicoDollarPrice(base), PicoDollarPrice(congestion));
            Charged { at_ns, size_bytes, days, base, congestion }
        };
        prop_assert_eq!(table.explain(&charging(base, congestion)), Ok(()));
        let more = charging(base + 1, congestion);
        prop_assert_eq!(table.explain(&more), Err(WrongFeeError::Base));
        let step = rate.congestion_fee.0;
        if step > 1 && congestion > 0 {
            let more = charging(base, congestion + 1);
            prop_assert_eq!(table.explain(&more), Err(WrongFeeError::Congestion));
        }
    }
}
