//! The cost ceilings of an account's gas: per unit of gas, and per hour. They are absolute, so an endpoint that lies
//! about prices cannot drain the account. `Spending` is a plain value; time is an argument.
//!
//! Processes that share an account through Redis sum the hourly cost there, and each process also counts its own cost
//! here. If Redis is emptied, each still has its own count.

mod file;
mod kept;

use std::time::Duration;

use crate::admin::{Wei, WeiPerGas};
use crate::clock::now_unix_s;

pub(crate) use file::SpentFile;
pub(crate) use kept::KeptSpending;
pub use kept::SpentFileError;

/// Default of the highest gas price of a gateway. A guess: a thousand times the usual price of the rollups in use.
pub const GAS_PRICE_MAX: WeiPerGas = WeiPerGas(100_000_000_000);
/// Default of the highest cost per hour of a gateway: 20 units of a token with 18 decimals. A guess: at usual prices,
/// some hundred thousand payloads.
pub const SPEND_PER_HOUR_MAX: Wei = Wei(20 * 10u128.pow(18));
/// The number of parts into which the last hour is divided. The cost of a part counts until an hour after its start.
pub(crate) const MINUTES: usize = 60;

/// The cost ceilings. The default is that of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpendingLimits {
    /// The highest price of gas.
    pub gas_price_max: WeiPerGas,
    /// The highest total cost of the transactions signed in an hour. Each counts with its whole gas limit.
    pub per_hour_max: Wei,
}

impl Default for SpendingLimits {
    fn default() -> Self {
        Self { gas_price_max: GAS_PRICE_MAX, per_hour_max: SPEND_PER_HOUR_MAX }
    }
}

/// A ceiling that a transaction would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CeilingError {
    /// The price of gas is too high.
    #[error("the gas price is {} wei, above the ceiling of {} wei", .price.0, .max.0)]
    GasPrice {
        /// The price.
        price: WeiPerGas,
        /// The ceiling.
        max: WeiPerGas,
    },
    /// The cost of the last hour leaves no room for the transaction.
    #[error(
        "gas has cost {} wei in the last hour, which reaches the ceiling of {} wei", .spent.0, .max.0
    )]
    Hour {
        /// The cost of the last hour.
        spent: Wei,
        /// The ceiling.
        max: Wei,
    },
}

/// The cost of a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MinuteCost {
    /// The number of the minute.
    pub(crate) minute: u64,
    /// The cost of its transactions.
    pub(crate) cost: Wei,
}

impl MinuteCost {
    /// Returns the index of the minute in its hour, below [`MINUTES`].
    pub(crate) fn index(self) -> usize {
        place_of(self.minute)
    }
}

/// The cost of the last hour.
#[derive(Debug)]
pub(crate) struct Spending {
    limits: SpendingLimits,
    /// The number of the minute with which times begin.
    first: u64,
    /// A ring of one entry per minute: the minute's number and its cost.
    minutes: [(u64, Wei); MINUTES],
}

impl Spending {
    pub(crate) fn new(limits: SpendingLimits) -> Self {
        Self { limits, first: 0, minutes: [(0, Wei(0)); MINUTES] }
    }

    /// Continues with the costs that an earlier process has left. `first` is the number of the present minute. Costs of
    /// later minutes count to it, because a clock may have been set back.
    pub(crate) fn resume(limits: SpendingLimits, first: u64, earlier: &[MinuteCost]) -> Self {
        let mut spending = Self { first, ..Self::new(limits) };
        for MinuteCost { minute, cost } in earlier {
            if first.saturating_sub(*minute) < MINUTES as u64 {
                spending.add(first.min(*minute), *cost);
            }
        }
        spending
    }

    /// Adds the cost of a transaction at this price to the last hour.
    ///
    /// # Errors
    /// The ceiling that the transaction would exceed; no cost is added then.
    pub(crate) fn take(
        &mut self,
        price: WeiPerGas,
        cost: Wei,
        now: Duration,
    ) -> Result<(), CeilingError> {
        self.take_up_to(self.limits.per_hour_max, price, cost, now)
    }

    /// Adds a cost like [`take`](Self::take), as long as the hour costs no more than `hour_max`.
    ///
    /// # Errors
    /// The ceiling that the transaction would exceed; no cost is added then.
    pub(crate) fn take_up_to(
        &mut self,
        hour_max: Wei,
        price: WeiPerGas,
        cost: Wei,
        now: Duration,
    ) -> Result<(), CeilingError> {
        let SpendingLimits { gas_price_max, per_hour_max } = self.limits;
        let hour_max = per_hour_max.min(hour_max);
        if price > gas_price_max {
            return Err(CeilingError::GasPrice { price, max: gas_price_max });
        }
        let spent = self.spent(now);
        if spent.plus(cost) > hour_max {
            return Err(CeilingError::Hour { spent, max: hour_max });
        }
        self.add(self.minute_at(now), cost);
        Ok(())
    }

    fn add(&mut self, minute: u64, cost: Wei) {
        let (of, sum) = &mut self.minutes[place_of(minute)];
        if *of != minute {
            (*of, *sum) = (minute, Wei(0));
        }
        *sum = sum.plus(cost);
    }

    /// Subtracts a cost that was added at `taken` and not spent. After an hour there is nothing to subtract.
    pub(crate) fn give_back(&mut self, cost: Wei, taken: Duration) {
        let minute = self.minute_at(taken);
        let (of, sum) = &mut self.minutes[place_of(minute)];
        if *of == minute {
            *sum = sum.less(cost);
        }
    }

    /// Returns the cost of the last hour.
    pub(crate) fn spent(&self, now: Duration) -> Wei {
        let minute = self.minute_at(now);
        let is_recent = |(of, _): &&(u64, Wei)| minute.saturating_sub(*of) < MINUTES as u64;
        let recent = self.minutes.iter().filter(is_recent).map(|(_, cost)| *cost);
        recent.fold(Wei(0), Wei::plus)
    }

    /// Returns the cost of the minute of a time.
    pub(crate) fn minute(&self, time: Duration) -> MinuteCost {
        let minute = self.minute_at(time);
        let (of, sum) = self.minutes[place_of(minute)];
        MinuteCost { minute, cost: if of == minute { sum } else { Wei(0) } }
    }

    fn minute_at(&self, time: Duration) -> u64 {
        self.first.saturating_add(time.as_secs() / 60)
    }

    /// Returns the ceiling of the price of gas.
    pub(crate) fn gas_price_max(&self) -> WeiPerGas {
        self.limits.gas_price_max
    }

    /// Returns the ceiling of the cost per hour.
    pub(crate) fn per_hour_max(&self) -> Wei {
        self.limits.per_hour_max
    }
}

/// Returns the number of the present minute, counted from 1970.
pub(crate) fn present_minute() -> u64 {
    now_unix_s() / 60
}

fn place_of(minute: u64) -> usize {
    usize::try_from(minute % MINUTES as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: SpendingLimits =
        SpendingLimits { gas_price_max: WeiPerGas(10), per_hour_max: Wei(1000) };
    const PRICE: WeiPerGas = WeiPerGas(1);

    #[test]
    fn a_price_above_the_ceiling_is_never_paid() {
        let mut spending = Spending::new(LIMITS);
        let reached = spending.take(WeiPerGas(11), Wei(1), Duration::ZERO).unwrap_err();
        assert_eq!(reached, CeilingError::GasPrice { price: WeiPerGas(11), max: WeiPerGas(10) });
        assert_eq!(reached.to_string(), "the gas price is 11 wei, above the ceiling of 10 wei");
        assert_eq!(spending.take(WeiPerGas(10), Wei(1), Duration::ZERO), Ok(()));
    }

    #[test]
    fn one_purpose_leaves_a_part_of_the_hour_to_others() {
        let (mut spending, now) = (Spending::new(LIMITS), Duration::ZERO);
        assert_eq!(spending.take_up_to(Wei(750), PRICE, Wei(700), now), Ok(()));
        let reached = spending.take_up_to(Wei(750), PRICE, Wei(100), now).unwrap_err();
        assert_eq!(reached, CeilingError::Hour { spent: Wei(700), max: Wei(750) });
        assert_eq!(
            reached.to_string(),
            "gas has cost 700 wei in the last hour, which reaches the ceiling of 750 wei"
        );
        assert_eq!(spending.take(PRICE, Wei(300), now), Ok(()));
        let reached = spending.take_up_to(Wei(2000), PRICE, Wei(1), now).unwrap_err();
        assert_eq!(reached, CeilingError::Hour { spent: Wei(1000), max: Wei(1000) });
    }

    /// An endpoint may state any price, and so any cost.
    #[test]
    fn the_largest_cost_is_refused_and_does_not_start_again_at_zero() {
        let no_ceiling = Wei(u128::MAX);
        let limits = SpendingLimits { per_hour_max: no_ceiling, ..LIMITS };
        let (mut spending, now) = (Spending::new(LIMITS), Duration::ZERO);
        assert_eq!(spending.take(PRICE, Wei(7), now), Ok(()));
        let reached = spending.take(PRICE, no_ceiling, now).unwrap_err();
        assert_eq!(reached, CeilingError::Hour { spent: Wei(7), max: Wei(1000) });
        let mut spending = Spending::new(limits);
        for _ in 0..2 {
            assert_eq!(spending.take(PRICE, no_ceiling, now), Ok(()));
            assert_eq!(spending.spent(now), no_ceiling);
        }
        spending.give_back(no_ceiling, now);
        assert_eq!(spending.spent(now), Wei(0));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_an_older_minute_is_left_alone() {
        let mut spending = Spending::new(LIMITS);
        let later = Duration::from_secs(90);
        assert_eq!(spending.take(PRICE, Wei(600), Duration::ZERO), Ok(()));
        assert_eq!(spending.take(PRICE, Wei(300), later), Ok(()));
        assert_eq!(spending.spent(later), Wei(900));
        spending.give_back(Wei(300), later);
        assert_eq!(spending.spent(later), Wei(600));
        assert_eq!(spending.take(PRICE, Wei(400), later), Ok(()));
        // Another minute uses the entry of the ring by now.
        let next_hour = Duration::from_secs(3600 + 30);
        assert_eq!(spending.take(PRICE, Wei(500), next_hour), Ok(()));
        spending.give_back(Wei(600), Duration::ZERO);
        assert_eq!(spending.spent(next_hour), Wei(900));
    }

    #[test]
    fn the_costs_of_an_earlier_process_count_until_their_hour_is_over() {
        const NOW: u64 = 30_000_000;
        let of = |minute: u64, cost: u128| MinuteCost { minute, cost: Wei(cost) };
        let earlier = [of(NOW - 60, 500), of(NOW - 59, 300), of(NOW, 200), of(NOW + 1000, 100)];
        let mut spending = Spending::resume(LIMITS, NOW, &earlier);
        let (now, next) = (Duration::ZERO, Duration::from_secs(60));
        assert_eq!(spending.take(PRICE, Wei(400), now), Ok(()));
        let reached = spending.take(PRICE, Wei(1), now).unwrap_err();
        assert_eq!(reached, CeilingError::Hour { spent: Wei(1000), max: Wei(1000) });
        assert_eq!((spending.minute(now), spending.minute(next)), (of(NOW, 700), of(NOW + 1, 0)));
        assert_eq!(spending.take(PRICE, Wei(300), next), Ok(()), "those of an hour ago are over");
        assert_eq!(spending.minute(next), of(NOW + 1, 300));
        assert_eq!(spending.spent(60 * next), Wei(300));
        assert_eq!(spending.spent(61 * next), Wei(0));
    }

    proptest! {
        #[test]
        fn no_hour_costs_more_than_the_ceiling_and_another_one_goes_on(
            costs in proptest::collection::vec((0u64..600, 1u128..400), 1..200),
        ) {
            let (mut spending, mut now) = (Spending::new(LIMITS), 0u64);
            let mut taken: Vec<(u64, u128)> = Vec::new();
            for (pause, cost) in costs {
                now += pause;
                let is_taken = spending.take(PRICE, Wei(cost), Duration::from_secs(now)).is_ok();
                let in_hour = |length: u64| -> u128 {
                    taken.iter().filter(|(at, _)| at + length > now).map(|(_, cost)| cost).sum()
                };
                // The cost of a part may count for up to a minute too long, and never for less than 59 minutes.
                prop_assert!(!is_taken || in_hour(59 * 60) + cost <= 1000);
                prop_assert!(is_taken || in_hour(61 * 60) + cost > 1000);
                if is_taken {
                    taken.push((now, cost));
                }
            }
        }
    }
}
