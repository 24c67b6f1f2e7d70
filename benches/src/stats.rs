//! Latencies: their collection, and their quantiles.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longer durations are recorded as this one: ten minutes.
const LONGEST_NS: u64 = 600_000_000_000;

/// Latencies of one kind, in nanoseconds, with three digits of precision.
#[derive(Clone)]
pub(crate) struct Latencies(Histogram<u64>);

/// Summary of a set of latencies, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3);
        Self(histogram.expect("the bounds and three digits are what a histogram can have"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(ns);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    pub(crate) fn quantiles(&self) -> Quantiles {
        let at = |quantile| micros(self.0.value_at_quantile(quantile));
        Quantiles {
            count: self.0.len(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(self.0.max()),
        }
    }
}

/// Nanoseconds as microseconds.
#[expect(clippy::cast_precision_loss, reason = "a figure for people; no latency needs 53 bits")]
fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// Returns the middle one of some figures, or the mean of the two in the middle; NaN if there is none.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(sorted.len() / 2), at(sorted.len().saturating_sub(1) / 2))
}

/// Returns the text of a verdict.
pub(crate) fn verdict(is_kept: bool) -> &'static str {
    if is_kept { "reached" } else { "NOT reached" }
}

/// Events per second.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    float(count) / time.as_secs_f64()
}

/// With a thin gap between thousands.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(grouped(0.0), "0");
        assert_eq!(grouped(999.4), "999");
        assert_eq!(grouped(1000.0), "1 000");
        assert_eq!(grouped(1_234_567.0), "1 234 567");
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert!(median(&[]).is_nan());
        for (figures, expected) in [(&[7.0][..], 7.0), (&[9.0, 1.0, 2.0], 2.0), (&[4.0, 1.0], 2.5)]
        {
            assert!((median(figures) - expected).abs() < 1e-9, "{figures:?}");
        }
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::new();
        for us in 1..=1000 {
            latencies.record(Duration::from_micros(us));
        }
        let quantiles = latencies.quantiles();
        assert_eq!(quantiles.count, 1000);
        assert!((quantiles.p50_us - 500.0).abs() < 2.0, "{quantiles:?}");
        assert!((quantiles.p99_us - 990.0).abs() < 2.0, "{quantiles:?}");
        assert!((quantiles.max_us - 1000.0).abs() < 2.0, "{quantiles:?}");
    }
}
