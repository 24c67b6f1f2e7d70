//! This node's own calculation of the price of an envelope.

use hawser_rules::fees::has_started;
use hawser_rules::{PicoDollarPrice, Rate};
use hawser_storage::{PricedEnvelope, RateRow};

/// Returns base fee and congestion fee of an envelope by the recorded rates; a [`PriceFn`](hawser_storage::PriceFn).
///
/// An envelope without a price costs 0. It has no price if it is older than the first rate, or if its fee leaves the
/// range of amounts; no honest node signs such a fee.
#[must_use]
pub fn price(rates: &[RateRow], envelope: &PricedEnvelope) -> PicoDollarPrice {
    let PricedEnvelope { originator_ns, size_bytes, retention_days, earlier } = *envelope;
    let started = rates.partition_point(|row| has_started(row.start_unix_s, originator_ns));
    let row = started.checked_sub(1).and_then(|index| rates.get(index));
    let fee = row.map(|row| recorded_rate(row).fee(size_bytes, retention_days, earlier));
    fee.and_then(Result::ok).unwrap_or_default()
}

/// Returns the rate that a row records.
#[must_use]
pub fn recorded_rate(row: &RateRow) -> Rate {
    Rate {
        start_unix_s: row.start_unix_s,
        message_fee: row.message_fee,
        storage_fee: row.storage_fee,
        congestion_fee: row.congestion_fee,
        target_rate_per_minute: row.target_rate_per_minute,
    }
}

/// Returns the row that records a rate beside the log.
#[must_use]
pub fn rate_row(rate: &Rate) -> RateRow {
    RateRow {
        start_unix_s: rate.start_unix_s,
        message_fee: rate.message_fee,
        storage_fee: rate.storage_fee,
        congestion_fee: rate.congestion_fee,
        target_rate_per_minute: rate.target_rate_per_minute,
    }
}

#[cfg(test)]
mod tests {
    use hawser_rules::PicoDollarsPerByteDay;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn row(start_unix_s: u64, message_fee: u64) -> RateRow {
        RateRow {
            start_unix_s,
            message_fee: PicoDollarPrice(message_fee),
            storage_fee: PicoDollarsPerByteDay(2),
            congestion_fee: PicoDollarPrice(3),
            target_rate_per_minute: 10,
        }
    }

    fn priced(originator_ns: i64, count: u64) -> PricedEnvelope {
        let earlier = [count, 0, 0, 0, 0];
        PricedEnvelope { originator_ns, size_bytes: 10, retention_days: 2, earlier }
    }

    #[test]
    fn the_rate_in_force_gives_the_price() {
        let rates = [row(100, 1000), row(200, 7)];
        let of = |envelope: &PricedEnvelope| price(&rates, envelope).0;
        assert_eq!(of(&priced(100 * SECOND - 1, 0)), 0, "older than the first rate");
        assert_eq!(of(&priced(100 * SECOND, 0)), 1040);
        assert_eq!(of(&priced(200 * SECOND - 1, 10)), 1040, "up to the target");
        assert_eq!(of(&priced(200 * SECOND, 15)), 47 + 300, "full congestion");
        assert_eq!(price(&[], &priced(0, 0)), PicoDollarPrice(0));
        let beyond = PricedEnvelope { size_bytes: u64::MAX, ..priced(200 * SECOND, 0) };
        assert_eq!(of(&beyond), 0, "no amount has that value");
    }
}
