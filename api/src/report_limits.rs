//! Limits on the reports of misbehaviour that each address may submit. Plain values; time is an argument.
//!
//! Specified in `docs/protocol/misbehavior.md`, *The API*.

use hawser_serve::address::ClientAddress;
use hawser_serve::bucket::{Bucket, BucketSize};
use hawser_serve::caller_table::CallerTable;

/// Reports of one address in a minute. Specified.
const PER_MINUTE: u64 = 10;
/// Reports of one address in an hour. Specified.
const PER_HOUR: u64 = 100;
/// Bytes of reports of one address in a minute. Specified.
const BYTES_PER_MINUTE: u64 = 3 * 1024 * 1024;
/// Largest number of addresses whose usage is kept. A guess: as for queries.
const CALLERS_MAX: usize = 100_000;

/// The usage of one address.
#[derive(Debug, Clone, Copy, Default)]
struct SubmissionBuckets {
    minute: Bucket,
    hour: Bucket,
    bytes: Bucket,
}

/// The submissions of each address.
#[derive(Debug)]
pub(crate) struct ReportLimits {
    callers: CallerTable<ClientAddress, SubmissionBuckets>,
}

impl ReportLimits {
    pub(crate) fn new() -> Self {
        Self { callers: CallerTable::new(CALLERS_MAX) }
    }

    /// Takes one report of `len_bytes` from all limits of its address, or from none. A report above the bytes of a
    /// minute takes all of them, so that such a report is rare but possible.
    ///
    /// # Errors
    /// The milliseconds after which the same report fits.
    pub(crate) fn take(
        &mut self,
        caller: ClientAddress,
        len_bytes: usize,
        now_ms: u64,
    ) -> Result<(), u64> {
        let mut used = self.callers.get(&caller).copied().unwrap_or_default();
        let sizes = [
            BucketSize::per_minute(PER_MINUTE),
            BucketSize::per_hour(PER_HOUR),
            BucketSize::per_minute(BYTES_PER_MINUTE),
        ];
        let costs = [1, 1, (len_bytes as u64).min(BYTES_PER_MINUTE)];
        let mut ends_ms = now_ms;
        let buckets = [&mut used.minute, &mut used.hour, &mut used.bytes];
        let parts = || sizes.into_iter().zip(costs);
        let wait_ms = buckets.iter().zip(parts()).map(|(bucket, (size, cost))| {
            // No cost exceeds its capacity, so each wait is known.
            bucket.wait_ms(size, cost, now_ms).unwrap_or(u64::MAX)
        });
        let wait_ms = wait_ms.max().unwrap_or(0);
        if wait_ms > 0 {
            return Err(wait_ms);
        }
        for (bucket, (size, cost)) in buckets.into_iter().zip(parts()) {
            bucket.take(size, cost, now_ms);
            ends_ms = ends_ms.max(bucket.full_at_ms(size));
        }
        self.callers.put(caller, used, ends_ms, now_ms);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn caller(n: u32) -> ClientAddress {
        IpAddr::V4(Ipv4Addr::from(n)).into()
    }

    #[test]
    fn an_address_submits_so_many_reports_and_bytes() {
        let mut limits = ReportLimits::new();
        for _ in 0..10 {
            assert_eq!(limits.take(caller(1), 1000, 0), Ok(()));
        }
        assert_eq!(limits.take(caller(1), 1000, 0), Err(6_000), "ten a minute");
        assert_eq!(limits.take(caller(2), 1000, 0), Ok(()), "others are not touched");
        assert_eq!(limits.take(caller(3), 8 << 20, 0), Ok(()), "a large one alone");
        assert_eq!(limits.take(caller(3), 3 << 20, 0), Err(60_000), "three MiB a minute");
        let (mut taken, mut now_ms) = (0, 0);
        while now_ms < 3_600_000 {
            match limits.take(caller(4), 1, now_ms) {
                Ok(()) => taken += 1,
                Err(wait_ms) => now_ms += wait_ms,
            }
        }
        assert!((100..=200).contains(&taken), "a hundred an hour, and a full bucket: {taken}");
    }
}
