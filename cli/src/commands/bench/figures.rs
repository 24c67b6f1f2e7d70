//! Figures of one test, in memory of a fixed size.

use std::collections::BTreeMap;
use std::time::Duration;

use hawser_conformance::case_error::code_name;
use serde_json::{Value, json};
use tonic::{Code, Status};

/// Latencies below this have a bucket for each microsecond.
const EXACT_US: u64 = 256;
/// Buckets for each power of two above, so that a bucket is at most a hundredth wide.
const BUCKETS_PER_POWER: u64 = 128;
/// The longest latency with a bucket of its own, as a power of two of microseconds: twelve days.
const POWER_MAX: u32 = 40;
/// Buckets in all: the exact ones, and those of each power of two from 2⁸ to 2³⁹.
const BUCKETS: usize = 256 + 32 * 128;

/// Outcomes of the calls of one test.
#[derive(Debug, Clone)]
pub(super) struct BenchFigures {
    count: u64,
    /// Calls that the node refused because its caller makes too many.
    rate_limited: u64,
    /// Other calls that failed, by status.
    errors: BTreeMap<&'static str, u64>,
    sum_us: f64,
    squares_us: f64,
    buckets: Vec<u64>,
}

impl BenchFigures {
    pub(super) fn new() -> Self {
        Self {
            count: 0,
            rate_limited: 0,
            errors: BTreeMap::new(),
            sum_us: 0.0,
            squares_us: 0.0,
            buckets: vec![0; BUCKETS],
        }
    }

    /// Counts a call that succeeded.
    pub(super) fn note(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.count += 1;
        self.sum_us += float(us);
        self.squares_us += float(us) * float(us);
        self.buckets[bucket(us)] += 1;
    }

    /// Counts a call that failed.
    pub(super) fn note_error(&mut self, status: &Status) {
        match status.code() {
            Code::ResourceExhausted => self.rate_limited += 1,
            code => *self.errors.entry(code_name(code)).or_default() += 1,
        }
    }

    /// Adds the calls of another worker.
    pub(super) fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.rate_limited += other.rate_limited;
        for (name, count) in &other.errors {
            *self.errors.entry(name).or_default() += count;
        }
        self.sum_us += other.sum_us;
        self.squares_us += other.squares_us;
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
    }

    /// Returns the number of calls that succeeded.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Returns the time of all calls that succeeded, one after the other.
    pub(super) fn sum(&self) -> Duration {
        Duration::from_secs_f64(self.sum_us / 1e6)
    }

    /// Returns the latency that a share of the calls did not exceed, in milliseconds, rounded up by at most a
    /// hundredth; 0 without a call.
    fn quantile_ms(&self, share: f64) -> f64 {
        let wanted = (float(self.count) * share).max(1.0);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if float(seen) >= wanted {
                return float(upper_end(index as u64)) / 1e3;
            }
        }
        0.0
    }

    fn average_ms(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_us / float(self.count) / 1e3 }
    }

    fn deviation_ms(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let mean = self.sum_us / float(self.count);
        (self.squares_us / float(self.count) - mean * mean).max(0.0).sqrt() / 1e3
    }

    fn failed(&self) -> u64 {
        self.rate_limited + self.errors.values().sum::<u64>()
    }

    fn error_percent(&self) -> f64 {
        let all = self.count + self.failed();
        if all == 0 { 0.0 } else { float(self.failed()) * 100.0 / float(all) }
    }

    /// Returns the head of the table.
    pub(super) fn head() -> String {
        format!(
            "{:<24} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "test", "count", "rps", "avg ms", "p50", "p95", "p99", "stddev", "errors %", "limited"
        )
    }

    /// Returns the row of a test with this duration.
    pub(super) fn row(&self, name: &str, took: Duration) -> String {
        let errors = self.errors.iter().map(|(name, count)| format!("  {name} {count}"));
        format!(
            "{name:<24} {:>9} {:>9.1} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>8}{}",
            self.count,
            float(self.count) / took.as_secs_f64().max(f64::MIN_POSITIVE),
            self.average_ms(),
            self.quantile_ms(0.5),
            self.quantile_ms(0.95),
            self.quantile_ms(0.99),
            self.deviation_ms(),
            self.error_percent(),
            self.rate_limited,
            errors.collect::<String>(),
        )
    }

    /// Returns the same for programs.
    pub(super) fn json(&self, name: &str, took: Duration) -> Value {
        json!({
            "test": name,
            "seconds": took.as_secs_f64(),
            "count": self.count,
            "rps": float(self.count) / took.as_secs_f64().max(f64::MIN_POSITIVE),
            "average_ms": self.average_ms(),
            "p50_ms": self.quantile_ms(0.5),
            "p95_ms": self.quantile_ms(0.95),
            "p99_ms": self.quantile_ms(0.99),
            "stddev_ms": self.deviation_ms(),
            "error_percent": self.error_percent(),
            "rate_limited": self.rate_limited,
            "errors": self.errors,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn float(number: u64) -> f64 {
    number as f64
}

/// Returns the bucket of a latency.
fn bucket(us: u64) -> usize {
    let us = us.min((1 << POWER_MAX) - 1);
    let index = if us < EXACT_US {
        us
    } else {
        let power = u64::from(us.ilog2());
        EXACT_US + (power - 8) * BUCKETS_PER_POWER + ((us >> (power - 7)) - BUCKETS_PER_POWER)
    };
    usize::try_from(index).expect("there are some thousand buckets")
}

/// Returns the longest latency of a bucket.
fn upper_end(index: u64) -> u64 {
    match index.checked_sub(EXACT_US) {
        None => index,
        Some(above) => {
            let (power, part) = (above / BUCKETS_PER_POWER + 8, above % BUCKETS_PER_POWER);
            ((BUCKETS_PER_POWER + part + 1) << (power - 7)) - 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_is_in_a_bucket_that_ends_at_most_a_hundredth_above_it() {
        let mut us = 0_u64;
        while us < 1 << 39 {
            let end = upper_end(bucket(us) as u64);
            assert!(end >= us && end - us <= us / 100, "{us}: {end}");
            us += us / 37 + 1;
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn figures_are_those_of_all_calls() {
        let mut all = BenchFigures::new();
        for part in [1..=50_u64, 51..=100] {
            let mut figures = BenchFigures::new();
            part.for_each(|ms| figures.note(Duration::from_millis(ms)));
            figures.note_error(&Status::resource_exhausted(""));
            figures.note_error(&Status::unavailable(""));
            all.add(&figures);
        }
        let figures = all.json("x", Duration::from_secs(10));
        let near = |field: &str, wanted: f64| {
            let found = figures[field].as_f64().unwrap();
            assert!((found - wanted).abs() <= wanted / 100.0, "{field}: {found}");
        };
        near("rps", 10.0);
        near("average_ms", 50.5);
        near("p50_ms", 50.0);
        near("p95_ms", 95.0);
        near("p99_ms", 99.0);
        near("stddev_ms", 28.866);
        near("error_percent", 400.0 / 104.0);
        assert_eq!(
            (&figures["rate_limited"], &figures["errors"]["UNAVAILABLE"]),
            (&2.into(), &2.into())
        );
    }

    #[test]
    fn a_test_without_a_call_has_figures_of_zero() {
        let figures = BenchFigures::new().json("x", Duration::ZERO);
        for field in ["rps", "average_ms", "p50_ms", "stddev_ms", "error_percent"] {
            assert_eq!(figures[field], 0.0, "{field}");
        }
    }
}
