//! Limits on the calls of each address. Plain values; time is an argument.
//!
//! Specified in `docs/protocol/api.md`, *Limits on callers*.

use hawser_serve::address::ClientAddress;
use hawser_serve::bucket::{Bucket, BucketSize};
use hawser_serve::caller_table::CallerTable;

use crate::settings::RateLimitSettings;

/// Largest number of callers whose usage is kept. A guess: 100,000 take about 25 MB.
const CALLERS_MAX: usize = 100_000;

/// The tokens that a call takes from its caller's buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallCost {
    /// Tokens from the buckets of queries.
    pub(crate) query: u64,
    /// Tokens to take from the bucket of opened streams.
    pub(crate) opens: u64,
}

impl CallCost {
    /// Returns the cost of a query: the square root of the number of topics or other items that it looks up,
    /// rounded up, and at least 1.
    pub(crate) fn of_topics(topics: usize) -> Self {
        let topics = topics.max(1) as u64;
        let root = topics.isqrt();
        Self { query: root + u64::from(root * root < topics), opens: 0 }
    }

    /// Returns the same for a call that also opens a stream.
    pub(crate) fn opening(self) -> Self {
        Self { opens: 1, ..self }
    }
}

/// The usage of one caller.
#[derive(Debug, Clone, Copy, Default)]
struct CallerBuckets {
    minute: Bucket,
    hour: Bucket,
    opens: Bucket,
}

/// The usage of all callers, and their limits.
#[derive(Debug)]
pub(crate) struct RateLimits {
    minute: BucketSize,
    hour: BucketSize,
    opens: BucketSize,
    callers: CallerTable<ClientAddress, CallerBuckets>,
}

impl RateLimits {
    pub(crate) fn new(settings: &RateLimitSettings) -> Self {
        Self {
            minute: BucketSize::per_minute(settings.per_minute),
            hour: BucketSize::per_hour(settings.per_hour),
            opens: BucketSize::per_minute(settings.opens_per_minute),
            callers: CallerTable::new(CALLERS_MAX),
        }
    }

    /// Takes the cost of a call from all buckets of its caller, or from none. A cost above a bucket's capacity
    /// takes the whole capacity, so that such a call is rare but possible.
    ///
    /// # Errors
    /// The milliseconds after which the same call fits.
    pub(crate) fn take(
        &mut self,
        caller: ClientAddress,
        cost: CallCost,
        now_ms: u64,
    ) -> Result<(), u64> {
        let mut used = self.callers.get(&caller).copied().unwrap_or_default();
        let parts = [
            (&mut used.minute, self.minute, cost.query),
            (&mut used.hour, self.hour, cost.query),
            (&mut used.opens, self.opens, cost.opens),
        ]
        .map(|(bucket, size, cost)| (bucket, size, cost.min(size.capacity)));
        let waits = parts.iter().map(|(bucket, size, cost)| bucket.wait_ms(*size, *cost, now_ms));
        // No cost exceeds its capacity, so each wait is known.
        let wait_ms = waits.map(|wait| wait.unwrap_or(u64::MAX)).max().unwrap_or(0);
        if wait_ms > 0 {
            return Err(wait_ms);
        }
        for (bucket, size, cost) in parts {
            bucket.take(size, cost, now_ms);
        }
        let ends_ms = used
            .minute
            .full_at_ms(self.minute)
            .max(used.hour.full_at_ms(self.hour))
            .max(used.opens.full_at_ms(self.opens));
        self.callers.put(caller, used, ends_ms, now_ms);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn limits() -> RateLimits {
        RateLimits::new(&RateLimitSettings::default())
    }

    fn caller(n: u32) -> ClientAddress {
        IpAddr::V4(Ipv4Addr::from(n)).into()
    }

    #[test]
    fn a_query_costs_the_root_of_its_topics() {
        let costs = [(0, 1), (1, 1), (2, 2), (4, 2), (5, 3), (100, 10), (101, 11), (10_000, 100)];
        for (topics, cost) in costs {
            assert_eq!(CallCost::of_topics(topics).query, cost, "{topics}");
        }
    }

    #[test]
    fn all_buckets_are_taken_together_or_not_at_all() {
        let mut limits = limits();
        let open = CallCost::of_topics(1).opening();
        for _ in 0..10 {
            assert_eq!(limits.take(caller(1), open, 0), Ok(()));
        }
        for _ in 0..1000 {
            assert_eq!(limits.take(caller(1), open, 0), Err(6000), "ten opens a minute");
        }
        let query = CallCost::of_topics(1);
        for _ in 0..50 {
            assert_eq!(limits.take(caller(1), query, 0), Ok(()), "refused opens took nothing");
        }
        assert_eq!(limits.take(caller(1), query, 0), Err(1000), "sixty queries a minute");
        assert_eq!(limits.take(caller(2), query, 0), Ok(()), "others are not touched");
    }

    #[test]
    fn the_hour_bounds_what_the_minutes_add_up_to() {
        let mut limits = limits();
        let (mut passed, mut now_ms) = (0, 0);
        while now_ms < 3_600_000 {
            match limits.take(caller(1), CallCost::of_topics(1), now_ms) {
                Ok(()) => passed += 1,
                Err(wait_ms) => now_ms += wait_ms,
            }
        }
        assert!((2390..=2400).contains(&passed), "a full bucket and an hour's refill: {passed}");
    }

    #[test]
    fn a_cost_above_the_capacity_takes_the_whole_bucket() {
        let mut limits = limits();
        let huge = CallCost::of_topics(10_000);
        assert_eq!(limits.take(caller(1), huge, 0), Ok(()));
        assert_eq!(limits.take(caller(1), CallCost::of_topics(1), 0), Err(1000));
        assert_eq!(limits.take(caller(1), huge, 0), Err(60_000));
        assert_eq!(limits.take(caller(1), huge, 60_000), Ok(()));
    }

    /// A flood of addresses must not free an address that has used up its limits.
    #[test]
    fn a_flood_of_addresses_neither_grows_the_table_nor_frees_the_heavy() {
        let mut limits = limits();
        let query = CallCost::of_topics(1);
        for heavy in 0..1000 {
            while limits.take(caller(heavy), query, 0).is_ok() {}
        }
        for light in 0..200_000u64 {
            let light = ClientAddress::V6(light);
            assert_eq!(limits.take(light, query, 0), Ok(()));
        }
        assert_eq!(limits.callers.len(), CALLERS_MAX);
        for heavy in 0..1000 {
            assert_eq!(limits.take(caller(heavy), query, 0), Err(1000));
        }
    }
}
