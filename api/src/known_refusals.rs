//! Refusals that shared limits have decided a moment ago.
//!
//! A refused call costs its caller next to nothing, and asking Redis costs Redis and this process some ten
//! microseconds each. Callers without tokens could keep both so busy that Redis answers late, and then all calls pass.
//! So a caller is refused here as long as Redis would refuse it, too: its buckets fill evenly, and other calls only
//! take from them. Plain values; time is an argument.

use hawser_serve::address::ClientAddress;
use hawser_serve::caller_table::CallerTable;

use crate::rate_limits::CallCost;

/// Largest number of callers whose refusals are kept. A guess: as for queries.
const CALLERS_MAX: usize = 100_000;
/// Longest time for which a refusal is kept, in milliseconds. A guess: an operator may empty Redis, and some calls in a
/// minute are no load.
const KEPT_MS_MAX: u64 = 10_000;

/// The last refusals of each caller.
#[derive(Debug)]
pub(crate) struct KnownRefusals {
    callers: CallerTable<ClientAddress, RefusalsOfCaller>,
}

/// The last refusal of a call that opens no stream, and that of one that does.
type RefusalsOfCaller = [Option<KnownRefusal>; 2];

/// A refusal.
#[derive(Debug, Clone, Copy)]
struct KnownRefusal {
    cost: CallCost,
    at_ms: u64,
    /// The time from which the same call fits.
    fits_ms: u64,
}

impl KnownRefusals {
    pub(crate) fn new() -> Self {
        Self { callers: CallerTable::new(CALLERS_MAX) }
    }

    /// Returns the milliseconds after which a call of this cost fits, if it is known that it does not fit now.
    pub(crate) fn wait_ms(
        &self,
        caller: ClientAddress,
        cost: CallCost,
        now_ms: u64,
    ) -> Option<u64> {
        let known = self.callers.get(&caller)?.iter().flatten();
        known.filter_map(|refusal| refusal.wait_ms(cost, now_ms)).max()
    }

    /// Records that a call of this cost was refused, and the milliseconds after which it fits.
    pub(crate) fn note(
        &mut self,
        caller: ClientAddress,
        cost: CallCost,
        wait_ms: u64,
        now_ms: u64,
    ) {
        let mut known = self.callers.get(&caller).copied().unwrap_or_default();
        let fits_ms = now_ms.saturating_add(wait_ms);
        known[usize::from(cost.opens > 0)] = Some(KnownRefusal { cost, at_ms: now_ms, fits_ms });
        let ends_ms = now_ms.saturating_add(wait_ms.min(KEPT_MS_MAX));
        self.callers.put(caller, known, ends_ms, now_ms);
    }
}

impl KnownRefusal {
    fn wait_ms(self, cost: CallCost, now_ms: u64) -> Option<u64> {
        let costs_as_much = cost.query >= self.cost.query && cost.opens >= self.cost.opens;
        // A clock that was set back says nothing about the buckets.
        let is_kept = now_ms.checked_sub(self.at_ms).is_some_and(|age_ms| age_ms < KEPT_MS_MAX);
        let wait_ms = self.fits_ms.saturating_sub(now_ms);
        (costs_as_much && is_kept && wait_ms > 0).then_some(wait_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rate_limits::RateLimits;
    use crate::settings::RateLimitSettings;

    const CALLER: ClientAddress = ClientAddress::V6(7);

    fn query(query: u64) -> CallCost {
        CallCost { query, opens: 0 }
    }

    #[test]
    fn a_refusal_is_known_for_calls_that_cost_as_much_until_they_fit() {
        let mut known = KnownRefusals::new();
        known.note(CALLER, query(5), 3_000, 1_000);
        assert_eq!(known.wait_ms(CALLER, query(5), 1_000), Some(3_000));
        assert_eq!(known.wait_ms(CALLER, query(9).opening(), 3_999), Some(1));
        assert_eq!(known.wait_ms(CALLER, query(5), 4_000), None);
        assert_eq!(known.wait_ms(CALLER, query(4), 1_000), None, "a cheaper one may fit");
        assert_eq!(known.wait_ms(CALLER, query(5), 999), None, "the clock was set back");
        assert_eq!(known.wait_ms(ClientAddress::V6(8), query(5), 1_000), None);
        known.note(CALLER, query(1).opening(), 60_000, 1_000);
        assert_eq!(known.wait_ms(CALLER, query(1), 1_000), None, "only streams do not fit");
        assert_eq!(known.wait_ms(CALLER, query(1).opening(), 10_999), Some(50_001));
        assert_eq!(known.wait_ms(CALLER, query(1).opening(), 11_000), None, "asked again");
        assert_eq!(known.wait_ms(CALLER, query(5), 1_000), Some(3_000), "both are kept");
    }

    #[test]
    fn a_flood_of_callers_is_forgotten() {
        let mut known = KnownRefusals::new();
        for number in 0..200_000 {
            known.note(ClientAddress::V6(number), query(1), 1_000, 0);
        }
        assert_eq!(known.callers.len(), CALLERS_MAX);
    }

    proptest! {
        /// A caller is refused here exactly when the limits would have refused it, whatever it sends.
        #[test]
        fn what_is_refused_here_would_have_been_refused_anyway(
            calls in proptest::collection::vec((0_u64..4_000, 1_u64..120, any::<bool>()), 1..300),
        ) {
            let mut limits = RateLimits::new(&RateLimitSettings::default());
            let (mut known, mut now_ms) = (KnownRefusals::new(), 0);
            for (pause_ms, cost, opens) in calls {
                now_ms += pause_ms;
                let cost = CallCost { query: cost, opens: u64::from(opens) };
                let decided = limits.take(CALLER, cost, now_ms);
                if let Some(wait_ms) = known.wait_ms(CALLER, cost, now_ms) {
                    prop_assert!(decided.is_err_and(|exact_ms| wait_ms <= exact_ms));
                }
                if let Err(wait_ms) = decided {
                    known.note(CALLER, cost, wait_ms, now_ms);
                }
            }
        }
    }
}
