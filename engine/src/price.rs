//! This node's own calculation of the price of an envelope.

use hawser_rules::fees::{has_started, total_fee};
use hawser_rules::{PicoDollarPrice, Rate};
use hawser_storage::PricedEnvelope;

/// Returns base fee and congestion fee of an envelope by the recorded rates; a [`PriceFn`](hawser_storage::PriceFn).
///
/// An envelope without a price costs 0. It has no price if it is older than the first rate, or if its fee leaves the
/// range of amounts; no honest node signs such a fee.
#[must_use]
pub fn price(rates: &[Rate], envelope: &PricedEnvelope) -> PicoDollarPrice {
    let PricedEnvelope { originator_ns, size_bytes, retention_days, earlier } = *envelope;
    let started = rates.partition_point(|rate| has_started(rate.start_unix_s, originator_ns));
    let rate = started.checked_sub(1).and_then(|index| rates.get(index));
    let fee = rate.map(|rate| total_fee(rate, size_bytes, retention_days, earlier));
    fee.and_then(Result::ok).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use hawser_rules::PicoDollarsPerByteDay;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn rate(start_unix_s: u64, message_fee: u64) -> Rate {
        Rate {
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
        let rates = [rate(100, 1000), rate(200, 7)];
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
