//! What the engine counts, for whoever exports it. Plain atomics: no library, no registry, no lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The number so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of [`Durations`], seconds; longer ones fall into a last bucket without bound.
pub const DURATION_BOUNDS_S: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// How long something took, in buckets.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; DURATION_BOUNDS_S.len() + 1],
    sum_ns: AtomicU64,
}

impl Durations {
    /// Adds one observation.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = DURATION_BOUNDS_S.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Observations per bucket, not cumulated, and the sum of all in seconds.
    #[must_use]
    pub fn get(&self) -> (Vec<u64>, f64) {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        (buckets, Duration::from_nanos(self.sum_ns.load(Relaxed)).as_secs_f64())
    }
}

/// Everything the engine counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Envelopes sequenced here and acknowledged.
    pub published: Counter,
    /// Envelopes answered with the result of an earlier publish.
    pub replayed: Counter,
    /// Publish requests refused because of what was in them.
    pub refused: Counter,
    /// Publish requests refused because of the node's own state.
    pub unavailable: Counter,
    /// Writes to the log, each with one sync.
    pub commit_groups: Counter,
    /// Envelopes in those writes.
    pub committed: Counter,
    /// A write handed over until it was durable.
    pub commit_seconds: Durations,
    /// A publish taken until it was answered.
    pub publish_seconds: Durations,
    /// Envelopes of other nodes that were stored and marked invalid.
    pub invalid: Counter,
}
