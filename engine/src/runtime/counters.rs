//! What the engine counts, for whoever exports it. Plain atomics: no library, no registry, no lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

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

/// Upper bounds of [`Sizes`]; larger ones fall into a last bucket without bound.
pub const SIZE_BOUNDS: [f64; 13] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// How many there were of something at a time, in buckets.
#[derive(Debug, Default)]
pub struct Sizes {
    buckets: [AtomicU64; SIZE_BOUNDS.len() + 1],
    sum: AtomicU64,
}

impl Sizes {
    /// Adds one observation.
    pub fn observe(&self, size: u64) {
        let bucket = SIZE_BOUNDS.partition_point(|bound| *bound < size as f64);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(size, Relaxed);
    }

    /// Observations per bucket, not cumulated, and the sum of all.
    #[must_use]
    pub fn get(&self) -> (Vec<u64>, u64) {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        (buckets, self.sum.load(Relaxed))
    }
}

/// A number that goes up and down, and never below 0.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Takes away `n` of what was added.
    pub fn take(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }

    /// Makes it `n`.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Measures what follows one another, or one thing.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Begins now.
    #[must_use]
    pub fn start() -> Self {
        #[expect(clippy::disallowed_methods, reason = "measured, and decides nothing")]
        let now = Instant::now();
        Self(now)
    }

    /// Notes the time since the beginning, or since the last lap.
    pub fn lap(&mut self, seconds: &Durations) {
        let now = Self::start();
        seconds.observe(now.0.saturating_duration_since(self.0));
        *self = now;
    }
}

/// An operation on the store: how long it takes, and how often it fails.
#[derive(Debug, Default)]
pub struct Operation {
    /// How long it took, also when it failed.
    pub seconds: Durations,
    /// How often it failed.
    pub errors: Counter,
}

impl Operation {
    /// Does it, and counts it.
    ///
    /// # Errors
    /// Those of `operation`.
    pub fn measure<T, E>(&self, operation: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let mut watch = Stopwatch::start();
        let result = operation();
        watch.lap(&self.seconds);
        self.errors.add(u64::from(result.is_err()));
        result
    }
}

/// Operations of those who read, by what they ask for.
#[derive(Debug, Default)]
pub struct ReadCounters {
    /// A page of topics, for a query.
    pub query_topics: Operation,
    /// A page of strands, for a query.
    pub query_originators: Operation,
    /// The newest envelopes of topics.
    pub newest: Operation,
    /// The inboxes of addresses.
    pub inboxes: Operation,
    /// What a payer has used.
    pub usage: Operation,
    /// A page for a stream.
    pub stream_page: Operation,
}

/// Streams to readers.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Bytes that wait in memory for readers; counted once for each stream they wait for.
    pub waiting_bytes: Level,
    /// Times that a reader was too slow for what was committed, and its stream went to disk.
    pub demotions: Counter,
}

/// What became of identity updates since the start.
#[derive(Debug, Default)]
pub struct IdentityCounters {
    /// Judged valid: readers get them.
    pub valid: Counter,
    /// Judged invalid: readers never do.
    pub invalid: Counter,
    /// Inboxes with updates that wait for their verdict.
    pub inboxes_waiting: Level,
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
    /// Envelopes in one synced write to the log.
    pub group_envelopes: Sizes,
    /// A synced write to the log: handed over until it was durable.
    pub commit: Operation,
    /// A page of a strand, for a peer.
    pub strand_page: Operation,
    /// A publish taken until it was answered.
    pub publish_seconds: Durations,
    /// The first part of it: until its envelopes were checked.
    pub admit_seconds: Durations,
    /// The second: until they had their places and were signed.
    pub sequence_seconds: Durations,
    /// The third: until they were durable.
    pub commit_seconds: Durations,
    /// The second and the third together.
    pub admitted_seconds: Durations,
    /// Envelopes of other nodes that were stored and marked invalid.
    pub invalid: Counter,
    /// Identity updates of the chain.
    pub identities: IdentityCounters,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_into_the_first_bucket_that_holds_them() {
        let sizes = Sizes::default();
        for size in [1, 2, 3, 4, 5000] {
            sizes.observe(size);
        }
        let (buckets, sum) = sizes.get();
        assert_eq!(buckets[..4], [1, 1, 2, 0]);
        assert_eq!(buckets.last(), Some(&1));
        assert_eq!(sum, 5010);
    }

    #[test]
    fn an_operation_that_fails_is_counted_as_both() {
        let operation = Operation::default();
        assert_eq!(operation.measure(|| Ok::<_, ()>(7)), Ok(7));
        assert_eq!(operation.measure(|| Err::<(), _>("no")), Err("no"));
        assert_eq!(operation.seconds.get().0.iter().sum::<u64>(), 2);
        assert_eq!(operation.errors.get(), 1);
    }
}
