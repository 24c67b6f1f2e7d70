//! Limits on the reports of misbehaviour that each address, and each site, may submit. Plain values; time is an
//! argument.
//!
//! Specified in `docs/protocol/misbehavior.md`, *The API*.

use hawser_serve::address::ClientAddress;
use hawser_serve::bucket::{Bucket, BucketSize};
use hawser_serve::caller_table::CallerTable;

/// Reports of one address in a minute, unless the operator sets another number. Specified.
pub(crate) const REPORTS_PER_MINUTE: u32 = 10;
/// Reports of one address in an hour, as a multiple of those in a minute. Specified.
const FULL_MINUTES_PER_HOUR: u64 = 10;
/// Bytes of the reports of one address in a minute. Specified.
const LEN_BYTES_PER_MINUTE: u64 = 3 * 1024 * 1024;
/// Share of a site, for all of its addresses together, as a multiple of that of one address: a site is an IPv6 /48,
/// whose owner has 65,536 addresses. Specified. A guess: some strangers who rent one address each leave room to others
/// in the same /48, and the site submits a tenth of the bytes that the checks of a node let through. Its bytes are
/// above those of the largest report, so that all bytes of each count.
const ADDRESSES_PER_SITE: u64 = 10;
/// Reports of a wrong form that are named as what they are, as a multiple of the reports that are taken. Specified. A
/// guess: the author of a client learns by mistakes, and a flood is thousands a second.
const WRONG_PER_REPORT: u32 = 10;
/// Largest number of addresses, and of sites, whose usage is kept. A guess: as for queries.
const CALLERS_MAX: usize = 100_000;

/// The usage of one address or site.
#[derive(Debug, Clone, Copy, Default)]
struct SubmissionBuckets([Bucket; 3]);

/// The submissions of each address and of each site.
#[derive(Debug)]
pub(crate) struct ReportLimits {
    /// Reports of one address in a minute and in an hour, and their bytes in a minute.
    of_address: [BucketSize; 3],
    /// The same of all addresses of a site together.
    of_site: [BucketSize; 3],
    addresses: CallerTable<ClientAddress, SubmissionBuckets>,
    /// The submissions of each site, by its first address.
    sites: CallerTable<ClientAddress, SubmissionBuckets>,
}

impl SubmissionBuckets {
    /// Returns the milliseconds after which a report of `len_bytes` fits into buckets of these sizes.
    fn wait_ms(&self, sizes: [BucketSize; 3], len_bytes: u64, now_ms: u64) -> u64 {
        let parts = self.0.iter().zip(sizes).zip(costs(sizes, len_bytes));
        let waits = parts.map(|((bucket, size), cost)| {
            // No cost exceeds its capacity, so each wait is known.
            bucket.wait_ms(size, cost, now_ms).unwrap_or(u64::MAX)
        });
        waits.max().unwrap_or(0)
    }

    /// Takes a report of `len_bytes`, and returns the time at which all buckets are full again.
    fn take(&mut self, sizes: [BucketSize; 3], len_bytes: u64, now_ms: u64) -> u64 {
        let mut ends_ms = now_ms;
        let costs = costs(sizes, len_bytes);
        for ((bucket, size), cost) in self.0.iter_mut().zip(sizes).zip(costs) {
            bucket.take(size, cost, now_ms);
            ends_ms = ends_ms.max(bucket.full_at_ms(size));
        }
        ends_ms
    }
}

impl ReportLimits {
    /// Creates limits without usage: an address may submit `per_minute` reports in a minute.
    pub(crate) fn new(per_minute: u32) -> Self {
        let per_minute = u64::from(per_minute);
        let of_address = [
            BucketSize::per_minute(per_minute),
            BucketSize::per_hour(per_minute * FULL_MINUTES_PER_HOUR),
            BucketSize::per_minute(LEN_BYTES_PER_MINUTE),
        ];
        let of_site = of_address
            .map(|size| BucketSize { capacity: size.capacity * ADDRESSES_PER_SITE, ..size });
        let [addresses, sites] = [CALLERS_MAX; 2].map(CallerTable::new);
        Self { of_address, of_site, addresses, sites }
    }

    /// Creates the limits of reports of a wrong form, for addresses that may submit `per_minute` reports in a minute.
    pub(crate) fn of_wrong_forms(per_minute: u32) -> Self {
        Self::new(per_minute.saturating_mul(WRONG_PER_REPORT))
    }

    /// Takes one report of `len_bytes` from all limits of its address and of its site, or from none. A report above
    /// the bytes of a minute takes all of them, so that such a report is rare but possible.
    ///
    /// # Errors
    /// The milliseconds after which the same report fits.
    pub(crate) fn take(
        &mut self,
        caller: ClientAddress,
        len_bytes: usize,
        now_ms: u64,
    ) -> Result<(), u64> {
        self.take_if(caller, len_bytes, len_bytes, now_ms)
    }

    /// Takes one report like [`take`](Self::take), if one without bytes fits. A long one is then owed, so its submitter
    /// learns what is wrong with it, whatever it has submitted before.
    ///
    /// # Errors
    /// The milliseconds after which a report without bytes fits.
    pub(crate) fn take_owing(
        &mut self,
        caller: ClientAddress,
        len_bytes: usize,
        now_ms: u64,
    ) -> Result<(), u64> {
        self.take_if(caller, 0, len_bytes, now_ms)
    }

    /// Takes one report of `len_bytes`, if one of `needed_bytes` fits.
    fn take_if(
        &mut self,
        caller: ClientAddress,
        needed_bytes: usize,
        len_bytes: usize,
        now_ms: u64,
    ) -> Result<(), u64> {
        let (site, needed_bytes, len_bytes) =
            (caller.site(), needed_bytes as u64, len_bytes as u64);
        let mut of_address = self.addresses.get(&caller).copied().unwrap_or_default();
        let mut of_site = self.sites.get(&site).copied().unwrap_or_default();
        let of_address_ms = of_address.wait_ms(self.of_address, needed_bytes, now_ms);
        let wait_ms = of_address_ms.max(of_site.wait_ms(self.of_site, needed_bytes, now_ms));
        if wait_ms > 0 {
            return Err(wait_ms);
        }
        let address_ends_ms = of_address.take(self.of_address, len_bytes, now_ms);
        let site_ends_ms = of_site.take(self.of_site, len_bytes, now_ms);
        self.addresses.put(caller, of_address, address_ends_ms, now_ms);
        self.sites.put(site, of_site, site_ends_ms, now_ms);
        Ok(())
    }
}

/// Returns the cost of a report in each of the buckets.
fn costs([.., bytes]: [BucketSize; 3], len_bytes: u64) -> [u64; 3] {
    [1, 1, len_bytes.min(bytes.capacity)]
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
        let mut limits = ReportLimits::new(REPORTS_PER_MINUTE);
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

    #[test]
    fn an_operator_may_take_fewer_or_more_reports_of_an_address() {
        for per_minute in [1, 3, 50] {
            let mut limits = ReportLimits::new(per_minute);
            for _ in 0..per_minute {
                assert_eq!(limits.take(caller(1), 1000, 0), Ok(()));
            }
            assert_eq!(
                limits.take(caller(1), 1000, 0),
                Err(u64::from(60_000_u32.div_ceil(per_minute)))
            );
            let (mut taken, mut now_ms) = (0, 0);
            while now_ms < 3_600_000 {
                match limits.take(caller(2), 1, now_ms) {
                    Ok(()) => taken += 1,
                    Err(wait_ms) => now_ms += wait_ms,
                }
            }
            let in_an_hour = 10 * per_minute;
            assert!((in_an_hour..=2 * in_an_hour).contains(&taken), "{taken} of {in_an_hour}");
        }
    }

    /// Played by a client that submits without end what is no report.
    #[test]
    fn wrong_forms_are_named_so_many_times_and_their_bytes_are_owed() {
        let mut limits = ReportLimits::of_wrong_forms(1);
        for _ in 0..10 {
            assert_eq!(limits.take_owing(caller(1), 100, 0), Ok(()));
        }
        assert_eq!(limits.take_owing(caller(1), 100, 0), Err(6_000), "ten a minute");
        assert_eq!(limits.take_owing(caller(2), 100, 0), Ok(()), "others are not touched");
        assert_eq!(limits.take_owing(caller(2), 25 << 20, 0), Ok(()), "it is named");
        let wait_ms = limits.take_owing(caller(2), 0, 0).unwrap_err();
        assert!(wait_ms < 100, "{wait_ms}: the first one's bytes are owed");
        assert_eq!(limits.take_owing(caller(3), 25 << 20, 0), Ok(()));
        assert_eq!(limits.take_owing(caller(3), 25 << 20, 0), Ok(()));
        assert_eq!(limits.take_owing(caller(3), 0, 0), Err(60_000), "and those of long ones");
    }

    /// The owner of an IPv6 /48 could otherwise submit 65,536 times as much as an address may.
    #[test]
    fn all_addresses_of_a_site_together_submit_so_many_reports_and_bytes() {
        let mut limits = ReportLimits::new(REPORTS_PER_MINUTE);
        let taken = |limits: &mut ReportLimits, site: u64, len_bytes: usize| {
            let mut taken = 0;
            for subnet in 0..1000 {
                let address = ClientAddress::V6((site << 16) + subnet);
                while limits.take(address, len_bytes, 0).is_ok() {
                    taken += 1;
                }
            }
            taken
        };
        assert_eq!(taken(&mut limits, 1, 1), 100);
        assert_eq!(taken(&mut limits, 2, 3 << 20), 10, "30 MiB");
        assert_eq!(taken(&mut limits, 3, 8 << 20), 3, "and all bytes of a large report count");
        assert_eq!(limits.take(ClientAddress::V6(1 << 16), 1, 0), Err(6_000), "its address waits");
        assert_eq!(limits.take(ClientAddress::V6((1 << 16) + 999), 1, 0), Err(600), "its site");
        assert_eq!(limits.take(ClientAddress::V6(4 << 16), 1, 0), Ok(()), "another site");
    }
}
