//! The cost ceilings of an account's gas: per unit of gas, and per hour. They are absolute, so an endpoint that lies
//! about prices cannot drain the account. A plain value; time is an argument.
//!
//! Processes that share an account through Redis sum the hourly cost there, and each process also counts its own cost
//! here. If Redis is emptied, each still has its own count.

use std::time::Duration;

/// Default of the highest gas price of a gateway, in wei. A guess: a thousand times the usual price of the rollups in
/// use.
pub const GAS_PRICE_MAX_WEI: u128 = 100_000_000_000;
/// Default of the highest cost per hour of a gateway, in wei: 20 units of a token with 18 decimals. A guess: at usual
/// prices, some hundred thousand payloads.
pub const SPEND_PER_HOUR_MAX_WEI: u128 = 20 * 10u128.pow(18);
/// The number of parts into which the last hour is divided. The cost of a part counts until an hour after its start.
const MINUTES: usize = 60;

/// The cost ceilings. The default is that of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpendingLimits {
    /// The highest price of a unit of gas, wei.
    pub gas_price_max_wei: u128,
    /// The highest total cost of the transactions signed in an hour, in wei. Each counts with its whole gas limit.
    pub per_hour_max_wei: u128,
}

impl Default for SpendingLimits {
    fn default() -> Self {
        Self { gas_price_max_wei: GAS_PRICE_MAX_WEI, per_hour_max_wei: SPEND_PER_HOUR_MAX_WEI }
    }
}

/// A ceiling that a transaction would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CeilingError {
    /// The price of gas is too high.
    #[error("the gas price is {price_wei} wei, above the ceiling of {max_wei} wei")]
    GasPrice {
        /// The price, wei.
        price_wei: u128,
        /// The ceiling, wei.
        max_wei: u128,
    },
    /// The cost of the last hour leaves no room for the transaction.
    #[error(
        "gas has cost {spent_wei} wei in the last hour, which reaches the ceiling of {max_wei} wei"
    )]
    Hour {
        /// The cost of the last hour, wei.
        spent_wei: u128,
        /// The ceiling, wei.
        max_wei: u128,
    },
}

/// The cost of the last hour.
#[derive(Debug)]
pub(crate) struct Spending {
    limits: SpendingLimits,
    /// A ring of one entry per minute: the minute's number and its cost in wei.
    minutes: [(u64, u128); MINUTES],
}

impl Spending {
    pub(crate) fn new(limits: SpendingLimits) -> Self {
        Self { limits, minutes: [(0, 0); MINUTES] }
    }

    /// Adds the cost of a transaction at this price to the last hour.
    ///
    /// # Errors
    /// The ceiling that the transaction would exceed; no cost is added then.
    pub(crate) fn take(
        &mut self,
        price_wei: u128,
        cost_wei: u128,
        now: Duration,
    ) -> Result<(), CeilingError> {
        self.take_up_to(self.limits.per_hour_max_wei, price_wei, cost_wei, now)
    }

    /// Adds a cost like [`take`](Self::take), as long as the hour costs no more than `hour_max_wei`.
    ///
    /// # Errors
    /// The ceiling that the transaction would exceed; no cost is added then.
    pub(crate) fn take_up_to(
        &mut self,
        hour_max_wei: u128,
        price_wei: u128,
        cost_wei: u128,
        now: Duration,
    ) -> Result<(), CeilingError> {
        let SpendingLimits { gas_price_max_wei, per_hour_max_wei } = self.limits;
        let per_hour_max_wei = per_hour_max_wei.min(hour_max_wei);
        if price_wei > gas_price_max_wei {
            return Err(CeilingError::GasPrice { price_wei, max_wei: gas_price_max_wei });
        }
        let spent_wei = self.spent_wei(now);
        if spent_wei.saturating_add(cost_wei) > per_hour_max_wei {
            return Err(CeilingError::Hour { spent_wei, max_wei: per_hour_max_wei });
        }
        let minute = minute_of(now);
        let (of, wei) = &mut self.minutes[place_of(minute)];
        if *of != minute {
            (*of, *wei) = (minute, 0);
        }
        *wei = wei.saturating_add(cost_wei);
        Ok(())
    }

    /// Subtracts a cost that was added at `taken` and not spent. After an hour there is nothing to subtract.
    pub(crate) fn give_back(&mut self, cost_wei: u128, taken: Duration) {
        let minute = minute_of(taken);
        let (of, wei) = &mut self.minutes[place_of(minute)];
        if *of == minute {
            *wei = wei.saturating_sub(cost_wei);
        }
    }

    /// Returns the cost of the last hour, wei.
    pub(crate) fn spent_wei(&self, now: Duration) -> u128 {
        let minute = minute_of(now);
        let is_recent = |(of, _): &&(u64, u128)| minute.saturating_sub(*of) < MINUTES as u64;
        let recent = self.minutes.iter().filter(is_recent).map(|(_, wei)| *wei);
        recent.fold(0u128, u128::saturating_add)
    }

    /// Returns the ceiling of the price of a unit of gas, in wei.
    pub(crate) fn gas_price_max_wei(&self) -> u128 {
        self.limits.gas_price_max_wei
    }

    /// Returns the ceiling of the cost per hour, in wei.
    pub(crate) fn per_hour_max_wei(&self) -> u128 {
        self.limits.per_hour_max_wei
    }
}

fn minute_of(time: Duration) -> u64 {
    time.as_secs() / 60
}

fn place_of(minute: u64) -> usize {
    usize::try_from(minute % MINUTES as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: SpendingLimits = SpendingLimits { gas_price_max_wei: 10, per_hour_max_wei: 1000 };

    #[test]
    fn a_price_above_the_ceiling_is_never_paid() {
        let mut spending = Spending::new(LIMITS);
        let reached = spending.take(11, 1, Duration::ZERO).unwrap_err();
        assert_eq!(reached, CeilingError::GasPrice { price_wei: 11, max_wei: 10 });
        assert_eq!(spending.take(10, 1, Duration::ZERO), Ok(()));
    }

    #[test]
    fn one_purpose_leaves_a_part_of_the_hour_to_others() {
        let (mut spending, now) = (Spending::new(LIMITS), Duration::ZERO);
        assert_eq!(spending.take_up_to(750, 1, 700, now), Ok(()));
        let reached = spending.take_up_to(750, 1, 100, now).unwrap_err();
        assert_eq!(reached, CeilingError::Hour { spent_wei: 700, max_wei: 750 });
        assert_eq!(spending.take(1, 300, now), Ok(()));
        let reached = spending.take_up_to(2000, 1, 1, now).unwrap_err();
        assert_eq!(reached, CeilingError::Hour { spent_wei: 1000, max_wei: 1000 });
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_an_older_minute_is_left_alone() {
        let mut spending = Spending::new(LIMITS);
        let later = Duration::from_secs(90);
        assert_eq!(spending.take(1, 600, Duration::ZERO), Ok(()));
        assert_eq!(spending.take(1, 300, later), Ok(()));
        assert_eq!(spending.spent_wei(later), 900);
        spending.give_back(300, later);
        assert_eq!(spending.spent_wei(later), 600);
        assert_eq!(spending.take(1, 400, later), Ok(()));
        // Another minute uses the entry of the ring by now.
        let next_hour = Duration::from_secs(3600 + 30);
        assert_eq!(spending.take(1, 500, next_hour), Ok(()));
        spending.give_back(600, Duration::ZERO);
        assert_eq!(spending.spent_wei(next_hour), 900);
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
                let is_taken = spending.take(1, cost, Duration::from_secs(now)).is_ok();
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
