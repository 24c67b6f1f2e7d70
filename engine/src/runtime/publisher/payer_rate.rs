//! A limit on the publish requests of each payer, for a node that has one. The requests are paid for, so
//! there is none unless the operator sets it.
//!
//! No library of rate limits: their tables of keys grow with the keys, and here a flood of payers must not. A property
//! test holds the limit.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use hawser_proto::PayerAddress;
use parking_lot::Mutex;

use super::error::PublishError;

const SECOND_NS: u64 = 1_000_000_000;
/// Payers that are remembered. More at once pass without a limit of their own: each is new, and has used
/// nothing. A guess: 100,000 take about 6 MB.
const PAYERS_MAX: usize = 100_000;

/// The use of all payers, by the time of this process.
#[derive(Debug)]
pub(super) struct PayerRates {
    since: Instant,
    payers: Mutex<PayerTimes>,
}

/// For each payer, the time up to which its allowance is used. A request advances it by its share of a
/// second, and is accepted while the time is at most one second ahead. A plain value: time is an
/// argument.
#[derive(Debug)]
struct PayerTimes {
    /// Share of a second that a request uses, nanoseconds.
    share_ns: u64,
    used_until_ns: HashMap<PayerAddress, u64>,
}

impl PayerRates {
    /// Gives each payer `per_second` requests, and as many at once.
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        Self { since: Instant::now(), payers: Mutex::new(PayerTimes::new(per_second)) }
    }

    /// Counts a request of a payer.
    ///
    /// # Errors
    /// [`PublishError::PayerRate`]: it does not count, and must be refused.
    pub(super) fn take(&self, payer: PayerAddress) -> Result<(), PublishError> {
        let now_ns = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX / 2);
        let taken = self.payers.lock().take(payer, now_ns);
        taken.map_err(|wait_ns| PublishError::PayerRate {
            retry_after: Duration::from_nanos(wait_ns),
        })
    }
}

impl PayerTimes {
    fn new(per_second: NonZeroU32) -> Self {
        let share_ns = (SECOND_NS / u64::from(per_second.get())).max(1);
        Self { share_ns, used_until_ns: HashMap::new() }
    }

    /// Counts a request, or returns the nanoseconds after which it fits.
    fn take(&mut self, payer: PayerAddress, now_ns: u64) -> Result<(), u64> {
        let known = self.used_until_ns.get(&payer).copied();
        let until_ns = known.unwrap_or(0).max(now_ns) + self.share_ns;
        let most_ns = now_ns + SECOND_NS.max(self.share_ns);
        if until_ns > most_ns {
            return Err(until_ns - most_ns);
        }
        if known.is_none() && self.used_until_ns.len() >= PAYERS_MAX {
            self.used_until_ns.retain(|_, until_ns| *until_ns > now_ns);
        }
        if known.is_some() || self.used_until_ns.len() < PAYERS_MAX {
            self.used_until_ns.insert(payer, until_ns);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn payer(number: u32) -> PayerAddress {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        hawser_proto::Address(bytes)
    }

    fn times(per_second: u32) -> PayerTimes {
        PayerTimes::new(NonZeroU32::new(per_second).unwrap())
    }

    #[test]
    fn a_payer_has_its_requests_in_each_second_and_others_have_theirs() {
        let mut times = times(4);
        let begin = 7 * SECOND_NS;
        let taken = |times: &mut PayerTimes, now_ns| {
            (0..100).take_while(|_| times.take(payer(1), now_ns).is_ok()).count()
        };
        assert_eq!(taken(&mut times, begin), 4);
        assert_eq!(times.take(payer(1), begin), Err(SECOND_NS / 4), "says when the next one fits");
        assert_eq!(times.take(payer(2), begin), Ok(()));
        assert_eq!(taken(&mut times, begin + SECOND_NS / 2), 2, "they come back evenly");
        assert_eq!(taken(&mut times, begin + 60 * SECOND_NS), 4, "and are not saved up");
    }

    proptest! {
        #[test]
        fn no_payer_exceeds_its_rate_and_a_refused_request_fits_when_it_is_said_to(
            per_second in 1_u32..500,
            steps_ns in vec(0_u64..20_000_000, 1..200),
        ) {
            let (mut times, mut now_ns, mut taken_ns) = (times(per_second), 0_u64, Vec::new());
            for step_ns in steps_ns {
                now_ns += step_ns;
                if let Err(wait_ns) = times.take(payer(1), now_ns) {
                    now_ns += wait_ns;
                    prop_assert_eq!(times.take(payer(1), now_ns), Ok(()));
                }
                taken_ns.push(now_ns);
            }
            let at_once_ns = SECOND_NS.max(times.share_ns);
            for (index, from_ns) in taken_ns.iter().enumerate() {
                for (to_ns, count) in taken_ns[index..].iter().zip(1_u64..) {
                    prop_assert!(count * times.share_ns <= to_ns - from_ns + at_once_ns);
                }
            }
        }
    }

    #[test]
    fn a_flood_of_payers_is_forgotten() {
        let mut times = times(1);
        for number in 0..150_000 {
            assert_eq!(times.take(payer(number), 0), Ok(()));
        }
        assert_eq!(times.used_until_ns.len(), PAYERS_MAX);
        assert!(times.take(payer(5), 0).is_err(), "those who used theirs are remembered");
        assert_eq!(times.take(payer(200_000), 2 * SECOND_NS), Ok(()));
        assert_eq!(times.used_until_ns.len(), 1);
    }
}
