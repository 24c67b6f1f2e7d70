//! Applies the limits of its policy to each caller's usage. Plain values; time is an argument.
//!
//! A request takes its cost from two token buckets and from the budgets of an hour and a day: from all of them or
//! from none. A refused request gets the exact time after which it fits, or `HELD_FOR_S` if it would fit without the
//! amounts that are held back for requests under way. A property test below checks the bound.

use std::sync::Arc;

use hawser_rules::PicoDollarPrice;
use hawser_serve::bucket::{Bucket, BucketSize};
use hawser_serve::caller_table::CallerTable;

use super::config::Policy;
use crate::sharing::{DAY_MS, HOUR_MS, SharedCost, SharedLimitError, SharedLimits};

/// Largest number of callers whose usage is kept. A guess: 200,000 take about 60 MB. Beyond it, the caller whose
/// usage expires first is removed.
const CALLERS_MAX: usize = 200_000;
/// Seconds after which a caller may try again if only the amounts held back for requests under way were in its way. A
/// guess: nodes answer within a second.
const HELD_FOR_S: u64 = 1;

/// The cost of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CallerCost {
    pub(crate) envelopes: u64,
    /// Fees of nodes, and the price of the gas.
    pub(crate) picodollars: PicoDollarPrice,
    pub(crate) gas: u64,
    /// The most that congestion may cost. It is held back until the node has answered, and counts for
    /// other requests of this gateway meanwhile.
    pub(crate) congestion_max: PicoDollarPrice,
}

impl CallerCost {
    pub(crate) fn add(&mut self, more: Self) {
        self.envelopes = self.envelopes.saturating_add(more.envelopes);
        self.picodollars = self.picodollars.plus(more.picodollars);
        self.gas = self.gas.saturating_add(more.gas);
        self.congestion_max = self.congestion_max.plus(more.congestion_max);
    }

    /// Returns the cost in the form that gateways share: without what is held back.
    pub(crate) fn to_share(self) -> SharedCost {
        [self.envelopes, self.picodollars.0, self.gas]
    }

    fn remove(&mut self, less: Self) {
        self.envelopes = self.envelopes.saturating_sub(less.envelopes);
        self.picodollars = self.picodollars.less(less.picodollars);
        self.gas = self.gas.saturating_sub(less.gas);
        self.congestion_max = self.congestion_max.less(less.congestion_max);
    }
}

/// The limit that a request exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PolicyLimitError {
    /// The limit in words for the error text, such as `envelopes a minute`.
    pub(crate) what: &'static str,
    /// Seconds after which the same request fits, or may fit if budget is held back; `None` if its cost alone exceeds
    /// the limit.
    pub(crate) retry_after_s: Option<u64>,
}

/// The usage of all callers.
#[derive(Debug)]
pub(crate) struct CallerLimits {
    callers: CallerTable<Arc<str>, CallerUsage>,
    /// The usage of all callers together. It is not an entry of the table, because the table removes entries when
    /// it is full.
    total: CallerUsage,
}

impl Default for CallerLimits {
    fn default() -> Self {
        Self { callers: CallerTable::new(CALLERS_MAX), total: CallerUsage::default() }
    }
}

/// The usage of one caller.
#[derive(Debug, Clone, Copy, Default)]
struct CallerUsage {
    minute: Bucket,
    hour: Bucket,
    hour_budget: Budget,
    day_budget: Budget,
}

/// The used part of the budgets of one hour or one day of UTC.
#[derive(Debug, Clone, Copy, Default)]
struct Budget {
    /// The hour or day, counted from 1970.
    number: u64,
    used: CallerCost,
}

impl Budget {
    /// Resets the usage if the hour or day has changed. A request that began just before the change counts to the new
    /// one, whose usage it must not reset.
    fn turn_to(&mut self, number: u64) {
        if self.number != number && self.number != number + 1 {
            *self = Self { number, used: CallerCost::default() };
        }
    }
}

fn minute(policy: &Policy) -> Option<BucketSize> {
    policy.envelopes_per_minute.map(BucketSize::per_minute)
}

fn hour(policy: &Policy) -> Option<BucketSize> {
    policy.envelopes_per_hour.map(BucketSize::per_hour)
}

/// The names of the budgets for error texts, in the order of [`hour_budgets`] and [`day_budgets`].
const OF_HOUR: [&str; 3] = ["envelopes an hour", "picodollars an hour", "units of gas an hour"];
const OF_DAY: [&str; 3] = ["envelopes a day", "picodollars a day", "units of gas a day"];

/// Returns the budgets of an hour. Envelopes have none: a bucket limits them.
fn hour_budgets(policy: &Policy) -> [Option<u64>; 3] {
    [None, policy.picodollars_per_hour, policy.gas_per_hour]
}

fn day_budgets(policy: &Policy) -> [Option<u64>; 3] {
    [policy.envelopes_per_day, policy.picodollars_per_day, policy.gas_per_day]
}

/// Returns the limits of a policy in the form that gateways share.
pub(crate) fn shared(policy: &Policy) -> SharedLimits {
    let bucket = |size: BucketSize| (size.capacity, size.window_ms);
    let [_, hour_picodollars, hour_gas] = hour_budgets(policy);
    SharedLimits {
        buckets: [minute(policy).map(bucket), hour(policy).map(bucket)],
        hour: [hour_picodollars, hour_gas],
        day: day_budgets(policy),
    }
}

impl PolicyLimitError {
    /// Returns the error for a limit that all gateways together have exceeded.
    pub(crate) fn of_shared(exceeded: SharedLimitError) -> Self {
        const NAMES: [&str; 7] = [
            "envelopes a minute",
            "envelopes an hour",
            OF_HOUR[1],
            OF_HOUR[2],
            OF_DAY[0],
            OF_DAY[1],
            OF_DAY[2],
        ];
        let what = NAMES.get(exceeded.place).copied().unwrap_or("envelopes");
        Self { what, retry_after_s: exceeded.wait_ms.map(|wait_ms| wait_ms.div_ceil(1000)) }
    }
}

impl CallerUsage {
    /// Returns the unix time in ms at which the buckets are full and the budgets have ended: after it the entry
    /// need not be kept.
    fn ends_ms(&self, policy: &Policy) -> u64 {
        let minute = minute(policy).map_or(0, |size| self.minute.full_at_ms(size));
        let hour = hour(policy).map_or(0, |size| self.hour.full_at_ms(size));
        let end = |budgets: [Option<u64>; 3], number: u64, length_ms: u64| {
            let counts = budgets.iter().any(Option::is_some);
            if counts { (number + 1) * length_ms } else { 0 }
        };
        let of_hour = end(hour_budgets(policy), self.hour_budget.number, HOUR_MS);
        let of_day = end(day_budgets(policy), self.day_budget.number, DAY_MS);
        minute.max(hour).max(of_hour).max(of_day)
    }

    /// Checks that `cost` fits all limits. Takes nothing.
    fn check(
        &mut self,
        policy: &Policy,
        cost: CallerCost,
        now_ms: u64,
    ) -> Result<(), PolicyLimitError> {
        self.hour_budget.turn_to(now_ms / HOUR_MS);
        self.day_budget.turn_to(now_ms / DAY_MS);
        self.check_buckets(policy, cost, now_ms)?;
        self.check_budgets(policy, cost, now_ms)
    }

    /// Takes `cost` from all limits, or from none. All limits are checked before the first one changes.
    fn take(
        &mut self,
        policy: &Policy,
        cost: CallerCost,
        now_ms: u64,
    ) -> Result<(), PolicyLimitError> {
        self.check(policy, cost, now_ms)?;
        if let Some(size) = minute(policy) {
            self.minute.take(size, cost.envelopes, now_ms);
        }
        if let Some(size) = hour(policy) {
            self.hour.take(size, cost.envelopes, now_ms);
        }
        self.hour_budget.used.add(cost);
        self.day_budget.used.add(cost);
        Ok(())
    }

    fn add_cost(&mut self, picodollars: PicoDollarPrice) {
        let cost = CallerCost { picodollars, ..CallerCost::default() };
        self.hour_budget.used.add(cost);
        self.day_budget.used.add(cost);
    }

    fn give_back(&mut self, cost: CallerCost, taken_ms: u64) {
        for (budget, length_ms) in
            [(&mut self.hour_budget, HOUR_MS), (&mut self.day_budget, DAY_MS)]
        {
            if budget.number == taken_ms / length_ms {
                budget.used.remove(cost);
            }
        }
    }

    fn check_buckets(
        &self,
        policy: &Policy,
        cost: CallerCost,
        now_ms: u64,
    ) -> Result<(), PolicyLimitError> {
        for (what, bucket, size) in [
            ("envelopes a minute", &self.minute, minute(policy)),
            ("envelopes an hour", &self.hour, hour(policy)),
        ] {
            let Some(size) = size else { continue };
            match bucket.wait_ms(size, cost.envelopes, now_ms) {
                Some(0) => {}
                Some(wait_ms) => {
                    let retry_after_s = Some(wait_ms.div_ceil(1000));
                    return Err(PolicyLimitError { what, retry_after_s });
                }
                None => return Err(PolicyLimitError { what, retry_after_s: None }),
            }
        }
        Ok(())
    }

    fn check_budgets(
        &self,
        policy: &Policy,
        cost: CallerCost,
        now_ms: u64,
    ) -> Result<(), PolicyLimitError> {
        for (budget, limits, names, length_ms) in [
            (&self.hour_budget, hour_budgets(policy), OF_HOUR, HOUR_MS),
            (&self.day_budget, day_budgets(policy), OF_DAY, DAY_MS),
        ] {
            let next_s = (length_ms - now_ms % length_ms).div_ceil(1000);
            let CallerCost { envelopes, picodollars, gas, congestion_max } = budget.used;
            let used = [(envelopes, 0), (picodollars.0, congestion_max.0), (gas, 0)];
            let costs = [cost.envelopes, cost.picodollars.0, cost.gas];
            for ((most, what), ((used, held), cost)) in
                limits.into_iter().zip(names).zip(used.into_iter().zip(costs))
            {
                let Some(most) = most else { continue };
                let sum = used.saturating_add(cost);
                if sum.saturating_add(held) > most {
                    // It may fit as soon as a request under way ends below its most, or else in the next period.
                    let retry_after_s = match sum <= most {
                        true => Some(HELD_FOR_S),
                        false => (cost <= most).then_some(next_s),
                    };
                    return Err(PolicyLimitError { what, retry_after_s });
                }
            }
        }
        Ok(())
    }
}

impl CallerLimits {
    /// Checks that `cost` fits all limits of a caller. Takes nothing.
    ///
    /// # Errors
    /// Returns the first limit that is exceeded.
    pub(crate) fn check(
        &self,
        caller: &str,
        policy: &Policy,
        cost: CallerCost,
        now_ms: u64,
    ) -> Result<(), PolicyLimitError> {
        let mut used = self.callers.get(caller).copied().unwrap_or_default();
        used.check(policy, cost, now_ms)
    }

    /// Takes `cost` from all limits of a caller, or from none. `now_ms` is unix time.
    ///
    /// # Errors
    /// Returns the first limit that is exceeded.
    pub(crate) fn take(
        &mut self,
        caller: &str,
        policy: &Policy,
        cost: CallerCost,
        now_ms: u64,
    ) -> Result<(), PolicyLimitError> {
        let mut used = self.callers.get(caller).copied().unwrap_or_default();
        used.take(policy, cost, now_ms)?;
        self.callers.put(caller.into(), used, used.ends_ms(policy), now_ms);
        Ok(())
    }

    /// Checks that `cost` fits all limits of all callers together. Takes nothing.
    ///
    /// # Errors
    /// Returns the first limit that is exceeded.
    pub(crate) fn check_total(
        &mut self,
        policy: &Policy,
        cost: CallerCost,
        now_ms: u64,
    ) -> Result<(), PolicyLimitError> {
        self.total.check(policy, cost, now_ms)
    }

    /// Takes `cost` from all limits of all callers together, or from none. `now_ms` is unix time.
    ///
    /// # Errors
    /// Returns the first limit that is exceeded.
    pub(crate) fn take_of_total(
        &mut self,
        policy: &Policy,
        cost: CallerCost,
        now_ms: u64,
    ) -> Result<(), PolicyLimitError> {
        self.total.take(policy, cost, now_ms)
    }

    /// Adds what nodes charged beyond the price to the usage of the caller and of all callers together.
    /// The usage may exceed the budgets then.
    pub(crate) fn add_cost(&mut self, caller: &str, picodollars: PicoDollarPrice) {
        self.total.add_cost(picodollars);
        if let Some(used) = self.callers.get_mut(caller) {
            used.add_cost(picodollars);
        }
    }

    /// Returns a cost that was taken at `taken_ms` to the budgets of that hour and day, if they have not ended.
    /// Nothing returns to the buckets, which limit floods of requests, whether or not their envelopes are
    /// published; [`give_tokens_back`](Self::give_tokens_back) does that for a request that another limit refuses.
    pub(crate) fn give_back(&mut self, caller: &str, cost: CallerCost, taken_ms: u64) {
        if let Some(used) = self.callers.get_mut(caller) {
            used.give_back(cost, taken_ms);
        }
    }

    /// Gives back envelopes that were taken from the buckets of a caller at `taken_ms`.
    pub(crate) fn give_tokens_back(
        &mut self,
        caller: &str,
        policy: &Policy,
        envelopes: u64,
        [taken_ms, now_ms]: [u64; 2],
    ) {
        let Some(used) = self.callers.get_mut(caller) else { return };
        let of_minute = (&mut used.minute, minute(policy));
        for (bucket, size) in [of_minute, (&mut used.hour, hour(policy))] {
            if let Some(size) = size {
                bucket.give_back(size, envelopes, taken_ms, now_ms);
            }
        }
    }

    /// Returns a cost to the budgets of all callers together, like [`give_back`](Self::give_back).
    pub(crate) fn give_back_to_total(&mut self, cost: CallerCost, taken_ms: u64) {
        self.total.give_back(cost, taken_ms);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(minute: Option<u64>, hour: Option<u64>) -> Policy {
        Policy { envelopes_per_minute: minute, envelopes_per_hour: hour, ..Policy::default() }
    }

    fn envelopes(envelopes: u64) -> CallerCost {
        CallerCost { envelopes, ..CallerCost::default() }
    }

    fn of(picodollars: u64) -> CallerCost {
        CallerCost { picodollars: PicoDollarPrice(picodollars), ..envelopes(1) }
    }

    const MINUTE_MS: u64 = 60_000;
    const NOON: u64 = 20_000 * DAY_MS + 12 * HOUR_MS;

    #[test]
    fn a_bucket_fills_up_evenly() {
        let policy = policy(Some(60), None);
        let mut limits = CallerLimits::default();
        assert_eq!(limits.take("a", &policy, envelopes(60), NOON), Ok(()));
        let refused = limits.take("a", &policy, envelopes(2), NOON).unwrap_err();
        assert_eq!((refused.what, refused.retry_after_s), ("envelopes a minute", Some(2)));
        assert_eq!(limits.take("b", &policy, envelopes(2), NOON), Ok(()), "others are not touched");
        assert!(limits.take("a", &policy, envelopes(2), NOON + 1999).is_err());
        assert_eq!(limits.take("a", &policy, envelopes(2), NOON + 2000), Ok(()));
    }

    #[test]
    fn all_buckets_have_to_have_enough_and_a_refusal_takes_nothing() {
        let policy = policy(Some(50), Some(60));
        let mut limits = CallerLimits::default();
        assert_eq!(limits.take("a", &policy, envelopes(50), NOON), Ok(()));
        let later = NOON + MINUTE_MS;
        let refused = limits.take("a", &policy, envelopes(20), later).unwrap_err();
        assert_eq!(refused.what, "envelopes an hour");
        assert_eq!(limits.take("a", &policy, envelopes(10), later), Ok(()));
    }

    #[test]
    fn more_than_ever_fits_is_told_so() {
        let mut limits = CallerLimits::default();
        let refused = limits.take("a", &policy(Some(5), None), envelopes(6), NOON).unwrap_err();
        assert_eq!(refused.retry_after_s, None);
    }

    #[test]
    fn budgets_end_at_midnight_utc() {
        let policy = Policy {
            envelopes_per_day: Some(10),
            picodollars_per_day: Some(1000),
            ..Policy::default()
        };
        let mut limits = CallerLimits::default();
        let cost = of(600);
        assert_eq!(limits.take("a", &policy, cost, NOON), Ok(()));
        let refused = limits.take("a", &policy, cost, NOON).unwrap_err();
        assert_eq!((refused.what, refused.retry_after_s), ("picodollars a day", Some(12 * 3600)));
        limits.add_cost("a", PicoDollarPrice(400));
        let one = of(1);
        assert!(limits.take("a", &policy, one, NOON).is_err(), "what was added counts");
        assert_eq!(limits.take("a", &policy, cost, NOON + 12 * HOUR_MS), Ok(()));
    }

    #[test]
    fn callers_without_end_leave_the_limit_of_all_together_as_it_is() {
        let policy = Policy { picodollars_per_day: Some(1000), ..Policy::default() };
        let mut limits = CallerLimits { callers: CallerTable::new(2), ..CallerLimits::default() };
        let cost = of(600);
        assert_eq!(limits.take_of_total(&policy, cost, NOON), Ok(()));
        for caller in 0..10 {
            assert_eq!(limits.take(&caller.to_string(), &policy, cost, NOON), Ok(()));
        }
        assert!(limits.take_of_total(&policy, cost, NOON).is_err());
        limits.give_back_to_total(cost, NOON);
        assert_eq!(limits.take_of_total(&policy, cost, NOON), Ok(()));
    }

    #[test]
    fn gas_and_picodollars_of_an_hour_come_back_with_the_next() {
        let policy = Policy {
            gas_per_hour: Some(100),
            gas_per_day: Some(150),
            picodollars_per_hour: Some(1000),
            ..Policy::default()
        };
        let mut limits = CallerLimits::default();
        let cost = |gas, picodollars| CallerCost { gas, ..of(picodollars) };
        let now = NOON + 15 * MINUTE_MS;
        assert_eq!(limits.take("a", &policy, cost(80, 1), now), Ok(()));
        let refused = limits.take("a", &policy, cost(40, 1), now).unwrap_err();
        assert_eq!((refused.what, refused.retry_after_s), ("units of gas an hour", Some(45 * 60)));
        let refused = limits.take("a", &policy, cost(1, 1000), now).unwrap_err();
        assert_eq!(refused.what, "picodollars an hour");
        let later = NOON + HOUR_MS;
        assert_eq!(limits.take("a", &policy, cost(40, 1000), later), Ok(()));
        let refused = limits.take("a", &policy, cost(40, 0), later).unwrap_err();
        assert_eq!(refused.what, "units of gas a day");
        limits.give_back("a", cost(80, 1), now);
        assert_eq!(limits.take("a", &policy, cost(40, 0), later), Ok(()), "of the day alone");
    }

    #[test]
    fn refunds_count_for_their_day_and_not_for_the_rate() {
        let policy = Policy { envelopes_per_day: Some(1), ..policy(Some(3), None) };
        let mut limits = CallerLimits::default();
        for _ in 0..3 {
            assert_eq!(limits.take("a", &policy, envelopes(1), NOON), Ok(()));
            limits.give_back("a", envelopes(1), NOON);
        }
        let refused = limits.take("a", &policy, envelopes(1), NOON).unwrap_err();
        assert_eq!(refused.what, "envelopes a minute");
        let tomorrow = NOON + DAY_MS;
        assert_eq!(limits.take("a", &policy, envelopes(1), tomorrow), Ok(()));
        limits.give_back("a", envelopes(1), NOON);
        let refused = limits.take("a", &policy, envelopes(1), tomorrow).unwrap_err();
        assert_eq!(refused.what, "envelopes a day");
    }

    #[test]
    fn a_request_that_does_not_fit_for_what_is_held_back_may_come_again_soon() {
        let policy = Policy { picodollars_per_hour: Some(20), ..Policy::default() };
        let mut limits = CallerLimits::default();
        let held = CallerCost { congestion_max: PicoDollarPrice(9), ..of(5) };
        assert_eq!(limits.take("a", &policy, held, NOON), Ok(()));
        let wait = |limits: &mut CallerLimits, cost| {
            let refused = limits.take("a", &policy, cost, NOON).unwrap_err();
            refused.retry_after_s
        };
        assert_eq!(wait(&mut limits, of(7)), Some(HELD_FOR_S), "5 are used, and 9 held");
        assert_eq!(wait(&mut limits, of(16)), Some(3600));
        assert_eq!(wait(&mut limits, of(21)), None);
        assert_eq!(limits.take("a", &policy, of(6), NOON), Ok(()));
    }

    #[test]
    fn a_request_of_the_hour_before_resets_no_usage() {
        let policy = Policy { picodollars_per_hour: Some(10), ..Policy::default() };
        let mut limits = CallerLimits::default();
        assert_eq!(limits.take("a", &policy, of(8), NOON), Ok(()));
        assert_eq!(limits.take("a", &policy, of(1), NOON - 1), Ok(()));
        assert!(limits.take("a", &policy, of(2), NOON).is_err());
        assert_eq!(limits.take("a", &policy, of(1), NOON), Ok(()));
        assert_eq!(limits.take("a", &policy, of(10), NOON - 2 * HOUR_MS), Ok(()), "a set clock");
    }

    #[test]
    fn a_refusal_by_another_limit_gives_tokens_back() {
        let policy = policy(Some(3), Some(3));
        let mut limits = CallerLimits::default();
        assert_eq!(limits.take("a", &policy, envelopes(1), NOON), Ok(()));
        assert_eq!(limits.take("a", &policy, envelopes(2), NOON), Ok(()));
        limits.give_tokens_back("a", &policy, 2, [NOON; 2]);
        assert!(limits.take("a", &policy, envelopes(3), NOON).is_err(), "one is used");
        assert_eq!(limits.take("a", &policy, envelopes(2), NOON), Ok(()));
        limits.give_tokens_back("b", &policy, 2, [NOON; 2]); // a caller that was forgotten
    }

    #[test]
    fn callers_are_bounded_and_those_that_stop_counting_first_are_forgotten() {
        let policy = policy(Some(1), None);
        let mut limits = CallerLimits::default();
        for n in 0..CALLERS_MAX as u64 + 10 {
            assert_eq!(limits.take(&n.to_string(), &policy, envelopes(1), NOON + n), Ok(()));
        }
        assert!(limits.callers.len() <= CALLERS_MAX);
        let now = NOON + CALLERS_MAX as u64;
        let newest = (CALLERS_MAX as u64 + 9).to_string();
        assert!(limits.take(&newest, &policy, envelopes(1), now).is_err(), "still known");
    }

    proptest! {
        #[test]
        fn a_caller_gets_no_more_than_the_capacity_and_what_has_filled_up(
            capacity in 1u64..50,
            calls in proptest::collection::vec((0u64..5_000, 1u64..10), 1..200),
        ) {
            let policy = policy(Some(capacity), None);
            let mut limits = CallerLimits::default();
            let (mut now, mut taken) = (NOON, 0);
            for (pause, cost) in calls {
                now += pause;
                match limits.take("a", &policy, envelopes(cost), now) {
                    Ok(()) => taken += cost,
                    Err(refused) => {
                        // The same request succeeds after the time in the refusal.
                        if let Some(wait_s) = refused.retry_after_s {
                            now += wait_s * 1000;
                            prop_assert_eq!(
                                limits.take("a", &policy, envelopes(cost), now), Ok(())
                            );
                            taken += cost;
                        }
                    }
                }
                let filled = capacity * (now - NOON) / MINUTE_MS;
                prop_assert!(taken <= capacity + filled);
            }
        }
    }
}
