//! The congestion of one originator in units from 0 to 100, computed from its envelopes per minute.
//!
//! Specified in `docs/protocol/fees.md`; the golden values in `tests/vectors/contracts/fees.json`
//! come from the reference implementation.

use hawser_proto::minute::CONGESTION_MINUTES;

/// The largest number of congestion units. Specified: the fee grows in this many steps.
pub const CONGESTION_UNITS_MAX: u64 = 100;

/// Returns the target of a rate as every implementation reads it: as a signed 32-bit number. `None` if it switches
/// congestion off, because it is 0 or negative.
#[must_use]
pub(crate) fn target_in_use(target_rate_per_minute: u64) -> Option<u64> {
    let target = target_rate_per_minute & 0xffff_ffff;
    (1..=u64::from(i32::MAX.unsigned_abs())).contains(&target).then_some(target)
}

/// Returns the congestion units for these counts of envelopes: `counts[0]` is the number in the current minute so far,
/// `counts[1]` that in the previous minute, and so on.
///
/// There is no congestion up to the target rate, and full congestion from 1.5 times the target. Between them the units
/// rise exponentially. A target of 0, or one that is negative as a signed 32-bit number, disables congestion.
#[must_use]
pub fn congestion_units(counts: [u64; CONGESTION_MINUTES], target_rate_per_minute: u64) -> u64 {
    let Some(target) = target_in_use(target_rate_per_minute) else { return 0 };
    let busiest = counts[0].max(counts[1]).max(four_minute_average(counts));
    if busiest <= target {
        return 0;
    }
    let ratio = as_f64(busiest) / as_f64(target);
    if ratio >= 1.5 {
        return CONGESTION_UNITS_MAX;
    }
    let curve = 100.0 * ((4.0 * (ratio - 1.0)).exp() - 1.0) / (2f64.exp() - 1.0);
    // 1 < ratio < 1.5 keeps the curve within 0..100, so the cast only drops the fraction.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= curve < 100")]
    let units = curve as u64;
    units.min(CONGESTION_UNITS_MAX)
}

/// Returns the weighted mean of the four minutes before the current one, which favours recent minutes.
fn four_minute_average([_, m1, m2, m3, m4]: [u64; CONGESTION_MINUTES]) -> u64 {
    // It is computed in 128 bits, so that the sum cannot overflow. The weights add up to ten, so the mean is at most
    // the largest count.
    let weighted = 4 * u128::from(m1) + 3 * u128::from(m2) + 2 * u128::from(m3) + u128::from(m4);
    u64::try_from(weighted / 10).unwrap_or(u64::MAX)
}

/// Converts a count. Counts per minute stay far below 2^53, up to which floats are exact.
#[expect(clippy::cast_precision_loss, reason = "envelopes per minute stay below 2^53")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

/// The numbers of envelopes of one strand in the current minute and the four before it.
///
/// Invariant: the current minute never decreases.
#[derive(Debug, Clone)]
pub struct CongestionWindow {
    minute: u32,
    /// The counts, that of the current minute first.
    counts: [u64; CONGESTION_MINUTES],
}

impl CongestionWindow {
    /// Creates a window at `minute`; `counts` returns the stored number of envelopes of a minute.
    pub fn new(minute: u32, counts: impl Fn(u32) -> u64) -> Self {
        let count = |age| minute.checked_sub(age).map_or(0, &counts);
        Self { minute, counts: [0, 1, 2, 3, 4].map(count) }
    }

    /// Advances the window to `minute` and returns the congestion units of the next envelope. An earlier
    /// minute does not change the window.
    pub fn advance_to(&mut self, minute: u32, target_rate_per_minute: u64) -> u64 {
        let passed = minute.saturating_sub(self.minute);
        if passed > 0 {
            let passed = usize::try_from(passed).unwrap_or(usize::MAX).min(self.counts.len());
            self.counts.rotate_right(passed);
            self.counts[..passed].fill(0);
            self.minute = minute;
        }
        congestion_units(self.counts, target_rate_per_minute)
    }

    /// Adds one envelope to the current minute.
    pub fn count_envelope(&mut self) {
        self.counts[0] = self.counts[0].saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::fees::testing::{cases, number, vectors};

    #[test]
    fn congestion_equals_the_golden_curve() {
        let vectors = vectors();
        for case in cases(&vectors, "congestion") {
            let counts: Vec<u64> = case["last5"].as_array().unwrap().iter().map(number).collect();
            let counts: [u64; CONGESTION_MINUTES] = counts.try_into().unwrap();
            let average = number(&case["four_minute_average"]);
            assert_eq!(four_minute_average(counts), average, "{case}");
            let units = congestion_units(counts, number(&case["target"]));
            assert_eq!(units, number(&case["units"]), "{case}");
        }
        let thresholds = &vectors["congestion_thresholds_current_minute_only"];
        for (target, steps) in thresholds.as_object().unwrap() {
            let target = target.parse().unwrap();
            for (units, count) in steps.as_object().unwrap() {
                let at = |count| congestion_units([count, 0, 0, 0, 0], target);
                let count: &Value = count;
                assert_eq!(at(number(count)), units.parse::<u64>().unwrap());
                assert!(at(number(count) - 1) < at(number(count)));
            }
        }
    }

    /// Computed by another program from the curve as it is specified, with 60 decimal digits.
    #[test]
    fn the_units_of_other_targets_equal_those_of_an_exact_computation() {
        const MOST: u64 = 0x7fff_ffff;
        for (target, counts, units) in [
            (1, [1, 0, 0, 0, 0], 0),
            (1, [2, 0, 0, 0, 0], 100),
            (1, [0, 0, 0, 0, 19], 0),
            (1, [0, 0, 0, 0, 20], 100),
            (2, [2, 2, 0, 0, 0], 0),
            (2, [3, 0, 0, 0, 0], 100),
            (3, [4, 0, 0, 0, 0], 43),
            (3, [0, 4, 0, 0, 0], 43),
            (3, [0, 0, 0, 0, 39], 0),
            (3, [0, 0, 0, 0, 40], 43),
            (3, [0, 0, 7, 7, 5], 43),
            (7, [8, 0, 0, 0, 0], 12),
            (7, [9, 0, 0, 0, 0], 33),
            (7, [10, 0, 0, 0, 0], 71),
            (60, [61, 0, 0, 0, 0], 1),
            (60, [89, 0, 0, 0, 0], 92),
            (60, [60, 60, 200, 60, 0], 100),
            (60, [0, 60, 160, 60, 0], 61),
            (1000, [1015, 0, 0, 0, 0], 0),
            (1000, [1016, 0, 0, 0, 0], 1),
            (1000, [1499, 0, 0, 0, 0], 99),
            (6000, [6000, 6000, 12_000, 6000, 6000], 36),
            (6000, [0, 0, 0, 0, 65_000], 6),
            (MOST, [MOST + 1, 0, 0, 0, 0], 0),
            (MOST, [0xa000_0000, 0, 0, 0, 0], 26),
            (MOST, [0xbfff_fffe, 0, 0, 0, 0], 99),
            (MOST, [0xbfff_ffff, 0, 0, 0, 0], 100),
            ((1 << 32) + 7, [9, 0, 0, 0, 0], 33),
        ] {
            assert_eq!(congestion_units(counts, target), units, "{counts:?} of {target}");
        }
    }

    #[test]
    fn a_negative_or_absent_target_means_no_congestion() {
        // The upper 32 bits do not count.
        for target in [0, 0x8000_0000, 0xffff_ffff, 1 << 32, u64::MAX, (-100_i64).cast_unsigned()] {
            assert_eq!(congestion_units([1_000_000; 5], target), 0, "{target}");
        }
        assert_eq!(congestion_units([150; 5], (1 << 32) + 100), CONGESTION_UNITS_MAX);
        assert_eq!(congestion_units([u64::MAX; 5], 0x7fff_ffff), CONGESTION_UNITS_MAX);
        assert_eq!(congestion_units([0x7fff_ffff; 5], 0x7fff_ffff), 0);
        assert_eq!(congestion_units([2, 0, 0, 0, 0], 1), CONGESTION_UNITS_MAX);
    }

    #[test]
    fn minutes_slide_out_of_the_congestion_window() {
        let mut window = CongestionWindow::new(100, |minute| u64::from(minute == 100) * 150);
        assert_eq!(window.advance_to(100, 100), 100);
        assert_eq!(window.advance_to(101, 100), 100);
        assert_eq!(window.advance_to(102, 100), 0);
        assert_eq!(window.counts, [0, 0, 150, 0, 0]);
        assert_eq!(window.advance_to(101, 100), 0, "the window never moves back");
        assert_eq!(window.counts, [0, 0, 150, 0, 0]);
        assert_eq!(window.advance_to(200, 100), 0);
        assert_eq!(window.counts, [0; 5]);
    }

    proptest! {
        #[test]
        fn any_counts_and_any_target_give_at_most_full_congestion(
            counts in any::<[u64; 5]>(),
            target in any::<u64>(),
        ) {
            prop_assert!(congestion_units(counts, target) <= CONGESTION_UNITS_MAX);
        }

        #[test]
        fn one_more_envelope_never_means_less_congestion(
            counts in any::<[u16; 5]>(),
            age in 0..5_usize,
            target in 1..70_000_u64,
        ) {
            let counts = counts.map(u64::from);
            let mut more = counts;
            more[age] += 1;
            prop_assert!(congestion_units(counts, target) <= congestion_units(more, target));
        }

        #[test]
        fn a_higher_target_never_means_more_congestion(
            counts in any::<[u16; 5]>(),
            target in 1..70_000_u64,
        ) {
            let counts = counts.map(u64::from);
            prop_assert!(congestion_units(counts, target) >= congestion_units(counts, target + 1));
        }

        /// A window that slides equals one that is created anew from the counts.
        #[test]
        fn a_sliding_window_equals_one_that_is_read_anew(
            steps in proptest::collection::vec((0..7_u32, 0..200_u64), 1..12),
        ) {
            let mut minute = 1000;
            let mut placed = std::collections::BTreeMap::new();
            let mut window = CongestionWindow::new(minute, |_| 0);
            for (passed, envelopes) in steps {
                minute += passed;
                window.advance_to(minute, 100);
                for _ in 0..envelopes {
                    window.count_envelope();
                }
                *placed.entry(minute).or_insert(0) += envelopes;
                let anew = CongestionWindow::new(minute, |at| placed.get(&at).copied().unwrap_or(0));
                prop_assert_eq!(window.counts, anew.counts);
            }
        }
    }
}
