//! What an envelope costs: base fee, congestion, and which rate is in force when.
//!
//! Amounts are picodollars and stay within a signed 64-bit number, because that is what the rest
//! of the network stores. See `docs/protocol/fees.md`.

/// Nanoseconds in a minute.
pub const MINUTE_NS: i64 = 60_000_000_000;

/// Congestion fees are charged in this many steps.
const CONGESTION_UNITS_MAX: u64 = 100;

/// Clocks of honest nodes may differ by this much when it comes to which rate was in force.
const CLOCK_TOLERANCE_NS: i64 = 5 * MINUTE_NS;

/// One entry of the price list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In force from this moment on, unix seconds.
    pub start_unix_s: u64,
    /// Flat, per envelope, picodollars.
    pub message_fee: u64,
    /// Per byte of payer envelope and day of retention, picodollars.
    pub storage_fee: u64,
    /// Per congestion unit, picodollars.
    pub congestion_fee: u64,
    /// Envelopes per minute of one originator up to which there is no congestion; 0 switches
    /// congestion off.
    pub target_rate_per_minute: u64,
}

/// Why a price could not be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeeError {
    /// The price list is empty.
    #[error("no rates are known")]
    NoRates,
    /// The moment asked for lies before the first entry of the price list.
    #[error("the time precedes the first rate")]
    BeforeFirstRate,
    /// An envelope always has bytes.
    #[error("message size must be above 0")]
    NoSize,
    /// An envelope is always kept for some time.
    #[error("storage duration must be above 0 days")]
    NoDays,
    /// The product or the sum leaves the signed 64-bit range.
    #[error("fee overflow")]
    Overflow,
}

/// Why a list of rates is no price list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RateTableError {
    /// Prices have to be known.
    #[error("the list of rates is empty")]
    Empty,
    /// Two entries start at the same time, or out of order.
    #[error("rate {index} does not start after the one before it")]
    NotAscending {
        /// Position in the list, from 0.
        index: usize,
    },
}

/// The price list: rates with strictly increasing start times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateTable {
    rates: Vec<Rate>,
    /// When the list was last confirmed at its source, unix nanoseconds; `None` for a list that
    /// cannot become stale, such as a file.
    refreshed_ns: Option<i64>,
}

impl RateTable {
    /// A list that was read from its source at `refreshed_ns`; `None` if it never becomes stale.
    ///
    /// # Errors
    /// When it is empty or not ascending.
    pub fn new(rates: Vec<Rate>, refreshed_ns: Option<i64>) -> Result<Self, RateTableError> {
        if rates.is_empty() {
            return Err(RateTableError::Empty);
        }
        match rates.windows(2).position(|pair| pair[1].start_unix_s <= pair[0].start_unix_s) {
            Some(index) => Err(RateTableError::NotAscending { index: index + 1 }),
            None => Ok(Self { rates, refreshed_ns }),
        }
    }

    /// When the list was last confirmed, unix nanoseconds.
    #[must_use]
    pub fn refreshed_ns(&self) -> Option<i64> {
        self.refreshed_ns
    }

    /// The same list, confirmed at its source at `ns`.
    #[must_use]
    pub fn confirmed(&self, ns: i64) -> Self {
        Self { rates: self.rates.clone(), refreshed_ns: Some(ns) }
    }

    /// Whether the list has everything that was in force at `ns`: it was confirmed later than
    /// that, or cannot become stale. A list that does not may lack the newest rate.
    #[must_use]
    pub fn covers(&self, ns: i64) -> bool {
        self.refreshed_ns.is_none_or(|refreshed_ns| refreshed_ns >= ns)
    }

    /// All entries, oldest first.
    #[must_use]
    pub fn rates(&self) -> &[Rate] {
        &self.rates
    }

    /// The rate in force at a moment, unix nanoseconds.
    ///
    /// # Errors
    /// [`FeeError::BeforeFirstRate`] when no rate was in force yet.
    pub fn at(&self, ns: i64) -> Result<&Rate, FeeError> {
        let started = |rate: &Rate| i128::from(rate.start_unix_s) * 1_000_000_000 <= i128::from(ns);
        let after = self.rates.partition_point(started);
        after.checked_sub(1).map(|index| &self.rates[index]).ok_or(FeeError::BeforeFirstRate)
    }

    /// Every rate that was in force at some moment of `from_ns..=to_ns`.
    pub fn during(&self, from_ns: i64, to_ns: i64) -> impl Iterator<Item = &Rate> {
        let end = self.at(to_ns).map(|rate| rate.start_unix_s).ok();
        let start = self.at(from_ns).map_or(0, |rate| rate.start_unix_s);
        self.rates
            .iter()
            .filter(move |rate| end.is_some_and(|end| (start..=end).contains(&rate.start_unix_s)))
    }
}

/// Which fee no rate explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongFee {
    /// The base fee.
    Base,
    /// The congestion fee.
    Congestion,
}

/// What an envelope was charged, and for what. Fees are picodollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charged {
    /// When it was placed, unix nanoseconds.
    pub at_ns: i64,
    /// The length of the payer envelope.
    pub size_bytes: u64,
    /// The retention.
    pub days: u32,
    /// The base fee.
    pub base: u64,
    /// The congestion fee.
    pub congestion: u64,
}

impl RateTable {
    /// Whether a rate in force at that time, or shortly before or after, explains these fees. What
    /// is older than the first rate cannot be compared with anything and passes.
    ///
    /// # Errors
    /// The first fee that none explains.
    pub fn explain(&self, charged: &Charged) -> Result<(), WrongFee> {
        let Charged { at_ns, size_bytes, days, base, congestion } = *charged;
        let (from_ns, to_ns) =
            (at_ns.saturating_sub(CLOCK_TOLERANCE_NS), at_ns.saturating_add(CLOCK_TOLERANCE_NS));
        let in_force = || self.during(from_ns, to_ns);
        if in_force().next().is_none() {
            return Ok(());
        }
        if !in_force().any(|rate| rate.base_fee(size_bytes, days) == Ok(base)) {
            return Err(WrongFee::Base);
        }
        match in_force().any(|rate| rate.may_charge_for_congestion(congestion)) {
            true => Ok(()),
            false => Err(WrongFee::Congestion),
        }
    }
}

impl Rate {
    /// How busy a node is only the node knows; but the fee goes up in steps, and there is a last
    /// one.
    fn may_charge_for_congestion(&self, fee: u64) -> bool {
        match (fee, self.target_rate_per_minute, self.congestion_fee) {
            (0, _, _) => true,
            (_, 0, _) | (_, _, 0) => false,
            (_, _, step) => fee.is_multiple_of(step) && fee / step <= CONGESTION_UNITS_MAX,
        }
    }

    /// Message fee + storage fee × size × days. `size_bytes` is the length of the payer envelope.
    ///
    /// # Errors
    /// For a size or a duration of 0, and when the result leaves the signed 64-bit range.
    pub fn base_fee(&self, size_bytes: u64, days: u32) -> Result<u64, FeeError> {
        if size_bytes == 0 {
            return Err(FeeError::NoSize);
        }
        if days == 0 {
            return Err(FeeError::NoDays);
        }
        let fee = u128::from(self.storage_fee)
            .checked_mul(u128::from(size_bytes))
            .and_then(|fee| fee.checked_mul(u128::from(days)))
            .and_then(|fee| fee.checked_add(u128::from(self.message_fee)));
        in_range(fee)
    }

    /// What `units` of congestion cost.
    ///
    /// # Errors
    /// When the result leaves the signed 64-bit range.
    pub fn congestion_fee(&self, units: u64) -> Result<u64, FeeError> {
        in_range(u128::from(self.congestion_fee).checked_mul(u128::from(units)))
    }
}

fn in_range(fee: Option<u128>) -> Result<u64, FeeError> {
    fee.and_then(|fee| i64::try_from(fee).ok()).map(i64::unsigned_abs).ok_or(FeeError::Overflow)
}

/// Congestion of one originator, 0 to 100, from its envelopes per minute: `counts[0]` in the
/// current minute so far, `counts[1]` in the one before, and so on.
///
/// Up to `target` there is none; from one and a half times the target on it is full; in between
/// it rises exponentially.
#[must_use]
pub fn congestion_units(counts: [u64; 5], target_rate_per_minute: u64) -> u64 {
    // The contract's number is read as a signed 32-bit one, as everywhere in the network.
    let target = target_rate_per_minute & 0xffff_ffff;
    if target == 0 || target > i32::MAX.unsigned_abs().into() {
        return 0;
    }
    let [current, m1, m2, m3, m4] = counts;
    let average = (4 * m1 + 3 * m2 + 2 * m3 + m4) / 10;
    let busiest = current.max(m1).max(average);
    if busiest <= target {
        return 0;
    }
    let ratio = as_f64(busiest) / as_f64(target);
    if ratio >= 1.5 {
        return CONGESTION_UNITS_MAX;
    }
    let curve = 100.0 * ((4.0 * (ratio - 1.0)).exp() - 1.0) / (2f64.exp() - 1.0);
    // In 0..100 by the bounds above, so that dropping the fraction is all the cast does.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= curve < 100")]
    let units = curve as u64;
    units.min(CONGESTION_UNITS_MAX)
}

/// Counts per minute stay far below 2^53, where a float still tells neighbours apart.
#[expect(clippy::cast_precision_loss, reason = "envelopes per minute stay below 2^53")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

/// The minute since the epoch that a moment belongs to. Moments before 1970 count as minute 0.
#[must_use]
pub fn minute_of(ns: i64) -> u32 {
    u32::try_from(ns.div_euclid(MINUTE_NS).max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn vectors() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/contracts/fees.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn number(value: &Value) -> u64 {
        value.as_u64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
    }

    fn rate(message_fee: u64, storage_fee: u64) -> Rate {
        Rate {
            start_unix_s: 0,
            message_fee,
            storage_fee,
            congestion_fee: 0,
            target_rate_per_minute: 0,
        }
    }

    fn cases<'a>(vectors: &'a Value, name: &str) -> &'a Vec<Value> {
        let cases = vectors[name].as_array().unwrap();
        assert!(!cases.is_empty(), "{name}");
        cases
    }

    #[test]
    fn base_fees_equal_the_golden_ones() {
        let vectors = vectors();
        for case in cases(&vectors, "base_fee") {
            let rate = rate(number(&case["message_fee"]), number(&case["storage_fee"]));
            let days = u32::try_from(number(&case["storage_days"])).unwrap();
            // A size below 0 cannot be said here; 0 is the nearest, and refused alike.
            let size = case["message_size"].as_str().unwrap().parse().unwrap_or(0);
            let fee = rate.base_fee(size, days);
            match case["result_picodollars"].as_str() {
                Some(golden) => assert_eq!(fee, Ok(golden.parse().unwrap()), "{case}"),
                None => assert!(fee.is_err(), "{case}"),
            }
        }
    }

    #[test]
    fn congestion_equals_the_golden_curve() {
        let vectors = vectors();
        for case in cases(&vectors, "congestion") {
            let counts: Vec<u64> = case["last5"].as_array().unwrap().iter().map(number).collect();
            let units = congestion_units(counts.try_into().unwrap(), number(&case["target"]));
            assert_eq!(units, number(&case["units"]), "{case}");
        }
        let thresholds = &vectors["congestion_thresholds_current_minute_only"];
        for (target, steps) in thresholds.as_object().unwrap() {
            let target = target.parse().unwrap();
            for (units, count) in steps.as_object().unwrap() {
                let at = |count| congestion_units([count, 0, 0, 0, 0], target);
                assert_eq!(at(number(count)), units.parse::<u64>().unwrap());
                assert!(at(number(count) - 1) < at(number(count)));
            }
        }
    }

    #[test]
    fn a_negative_or_absent_target_means_no_congestion() {
        assert_eq!(congestion_units([1_000_000; 5], 0), 0);
        assert_eq!(congestion_units([1_000_000; 5], 0x8000_0000), 0);
    }

    #[test]
    fn the_rate_in_force_is_the_newest_that_has_started() {
        let vectors = vectors();
        for case in cases(&vectors, "rate_selection") {
            let starts = case["start_times"].as_array().unwrap().iter().map(number);
            let rates: Vec<Rate> =
                starts.map(|start_unix_s| Rate { start_unix_s, ..rate(1, 1) }).collect();
            let ns = i64::try_from(number(&case["message_ns"])).unwrap();
            let chosen = RateTable::new(rates.clone(), None)
                .ok()
                .and_then(|table| table.at(ns).ok().copied());
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

    #[test]
    fn minutes_equal_the_golden_ones() {
        let vectors = vectors();
        for case in cases(&vectors, "minutes_since_epoch") {
            let ns = i64::try_from(number(&case["ns"])).unwrap();
            assert_eq!(u64::from(minute_of(ns)), number(&case["minute"]));
        }
    }
}
