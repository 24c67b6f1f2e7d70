//! Token buckets: plain values that get the time as an argument.
//!
//! This is not taken from a library. A request takes from several buckets at once, from all or none, and learns the
//! exact time after which it fits; the capacity comes with each request. The usual rate limiters fix the capacity
//! when a bucket is created, and cannot refund a request that a later check refuses.

/// The size of a bucket: its capacity, and the window in which it refills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketSize {
    /// Largest number of units that can be taken at once.
    pub capacity: u64,
    /// Time in which an empty bucket fills up, milliseconds; above 0.
    pub window_ms: u64,
}

impl BucketSize {
    /// Returns the size of a bucket that fills up in a minute.
    #[must_use]
    pub const fn per_minute(capacity: u64) -> Self {
        Self { capacity, window_ms: 60_000 }
    }

    /// Returns the size of a bucket that fills up in an hour.
    #[must_use]
    pub const fn per_hour(capacity: u64) -> Self {
        Self { capacity, window_ms: 3_600_000 }
    }
}

/// A bucket that refills evenly over its window; full at first. Counts in units × milliseconds of the window, so that
/// the refill of one millisecond is a whole number. If the clock steps back, the bucket counts on from the new time, so
/// each millisecond that passes afterwards refills once; a bucket that held on to the old time would refuse its caller
/// until the clock reaches that time again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    taken: u128,
    at_ms: u64,
}

impl Bucket {
    /// Returns the amount that has not been refilled at `now_ms`. A clock that steps back refills
    /// nothing.
    fn taken(&self, capacity: u64, now_ms: u64) -> u128 {
        let filled = u128::from(capacity) * u128::from(now_ms.saturating_sub(self.at_ms));
        self.taken.saturating_sub(filled)
    }

    /// Returns the milliseconds until `cost` fits, 0 if it fits now, and `None` if it exceeds the
    /// capacity.
    #[must_use]
    pub fn wait_ms(&self, size: BucketSize, cost: u64, now_ms: u64) -> Option<u64> {
        let spare = size.capacity.checked_sub(cost)?;
        let room = u128::from(spare) * u128::from(size.window_ms);
        let over = self.taken(size.capacity, now_ms).saturating_sub(room);
        u64::try_from(over.div_ceil(u128::from(size.capacity.max(1)))).ok()
    }

    /// Takes `cost`, even if it does not fit. Call [`wait_ms`](Self::wait_ms) before to check.
    pub fn take(&mut self, size: BucketSize, cost: u64, now_ms: u64) {
        let cost = u128::from(cost) * u128::from(size.window_ms);
        self.taken = self.taken(size.capacity, now_ms).saturating_add(cost);
        self.at_ms = now_ms;
    }

    /// Gives back a `cost` that was taken at `taken_ms`, except for the part that may have been refilled since. So the
    /// bucket never lets more through than if the cost had not been taken.
    pub fn give_back(&mut self, size: BucketSize, cost: u64, taken_ms: u64, now_ms: u64) {
        let cost = u128::from(cost) * u128::from(size.window_ms);
        let refilled = u128::from(size.capacity) * u128::from(now_ms.saturating_sub(taken_ms));
        self.taken = self.taken.saturating_sub(cost.saturating_sub(refilled));
    }

    /// Returns the time in milliseconds at which the bucket is full again if nothing more is taken. From then on it
    /// equals a new bucket and need not be kept.
    #[must_use]
    pub fn full_at_ms(&self, size: BucketSize) -> u64 {
        let wait = self.taken.div_ceil(u128::from(size.capacity.max(1)));
        self.at_ms.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_fills_up_evenly_and_says_when() {
        let size = BucketSize::per_minute(60);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.full_at_ms(size), 0);
        assert_eq!(bucket.wait_ms(size, 61, 0), None, "more than it ever holds");
        assert_eq!(bucket.wait_ms(size, 60, 0), Some(0));
        bucket.take(size, 60, 0);
        assert_eq!(bucket.wait_ms(size, 2, 0), Some(2000));
        assert_eq!(bucket.wait_ms(size, 2, 2000), Some(0));
        assert_eq!(bucket.full_at_ms(size), 60_000);
        assert_eq!(bucket.wait_ms(size, 60, 59_999), Some(1));
        assert_eq!(bucket.wait_ms(size, 60, 60_000), Some(0));
    }

    #[test]
    fn a_clock_that_steps_back_refills_nothing() {
        let size = BucketSize::per_hour(10);
        let mut bucket = Bucket::default();
        bucket.take(size, 10, 5_000_000);
        assert_eq!(bucket.wait_ms(size, 1, 0), Some(360_000));
    }

    #[test]
    fn what_is_given_back_at_once_leaves_no_trace() {
        let size = BucketSize::per_minute(60);
        let mut bucket = Bucket::default();
        bucket.take(size, 20, 1000);
        let before = bucket;
        bucket.take(size, 40, 1000);
        bucket.give_back(size, 40, 1000, 1000);
        assert_eq!(bucket, before);
        bucket.take(size, 1, 1000);
        // A token flows in each second, so the one that was taken may be back already.
        bucket.give_back(size, 1, 1000, 2000);
        assert_eq!(bucket.wait_ms(size, 60, 2000), Some(20_000));
    }

    proptest! {
        /// Tokens that are given back late, while others take, let these take no more than without them.
        #[test]
        fn what_is_given_back_creates_nothing(
            capacity in 1u64..50,
            window_ms in 1u64..100_000,
            calls in proptest::collection::vec((0u64..5_000, 1u64..60, 0u64..2_000, 1u64..60), 1..100),
        ) {
            let size = BucketSize { capacity, window_ms };
            let (mut bucket, mut without, mut now_ms) = (Bucket::default(), Bucket::default(), 0u64);
            for (pause, cost, delay, other) in calls {
                now_ms += pause;
                let taken_ms = now_ms;
                bucket.take(size, cost, now_ms);
                now_ms += delay;
                if bucket.wait_ms(size, other, now_ms) == Some(0) {
                    bucket.take(size, other, now_ms);
                    without.take(size, other, now_ms);
                }
                bucket.give_back(size, cost, taken_ms, now_ms);
                prop_assert!(bucket.taken(capacity, now_ms) >= without.taken(capacity, now_ms));
            }
        }

        /// A caller gets at most the capacity and the refill, and a wait is exact.
        #[test]
        fn no_more_is_taken_than_flowed_in(
            capacity in 1u64..50,
            window_ms in 1u64..100_000,
            calls in proptest::collection::vec((0u64..5_000, 1u64..60), 1..200),
        ) {
            let size = BucketSize { capacity, window_ms };
            let (mut bucket, mut now_ms, mut taken) = (Bucket::default(), 0u64, 0u64);
            for (pause, cost) in calls {
                now_ms += pause;
                let Some(wait_ms) = bucket.wait_ms(size, cost, now_ms) else {
                    prop_assert!(cost > capacity);
                    continue;
                };
                if let Some(early) = wait_ms.checked_sub(1) {
                    prop_assert_ne!(bucket.wait_ms(size, cost, now_ms + early), Some(0));
                }
                now_ms += wait_ms;
                prop_assert_eq!(bucket.wait_ms(size, cost, now_ms), Some(0));
                bucket.take(size, cost, now_ms);
                taken += cost;
                let flowed_in = u128::from(capacity) * u128::from(now_ms) / u128::from(window_ms);
                prop_assert!(u128::from(taken) <= u128::from(capacity) + flowed_in);
                prop_assert_eq!(bucket.wait_ms(size, capacity, bucket.full_at_ms(size)), Some(0));
            }
        }
    }
}
