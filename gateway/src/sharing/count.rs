//! The cost that one request has taken from the limits that gateways share.
//!
//! Redis may report that it has taken a cost when the request has already continued without the answer, or has
//! ended. Changes of the cost until then are kept here and sent after the answer. So the limits count exactly the
//! published envelopes, however late Redis answers.

use std::sync::Arc;

use hawser_chain::redis_link::number;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::calls::{SharedCalls, SharedOp};

/// Upper bound of each part of a cost. A price comes from an endpoint, which may answer any number. Chosen: about a
/// thousand dollars, far above any price, and Lua's doubles add several of them exactly.
const COST_MAX: u64 = 1 << 50;

/// A cost: envelopes, picodollars, gas.
pub(crate) type SharedCost = [u64; 3];

/// Returns a cost, each part cut to [`COST_MAX`], as arguments of the script.
pub(super) fn bounded(cost: SharedCost) -> [Vec<u8>; 3] {
    cost.map(|part| number(part.min(COST_MAX)))
}

/// The state of a request's cost at Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CountState {
    /// Redis has not answered. The sums were added and given back meanwhile.
    Asked {
        more: SharedCost,
        back: SharedCost,
    },
    Counted,
    /// Redis has refused the cost or failed, and has counted nothing.
    Apart,
}

/// A change to the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CountChange {
    Add(SharedCost),
    GiveBack(SharedCost),
}

impl CountState {
    /// Applies a change. Returns it if it has to be sent to Redis now.
    fn change(&mut self, change: CountChange) -> Option<CountChange> {
        let add = |sum: &mut SharedCost, cost: SharedCost| {
            sum.iter_mut().zip(cost).for_each(|(sum, part)| *sum = sum.saturating_add(part));
        };
        match (self, change) {
            (Self::Asked { more, .. }, CountChange::Add(cost)) => add(more, cost),
            (Self::Asked { back, .. }, CountChange::GiveBack(cost)) => add(back, cost),
            (Self::Counted, change) => return Some(change),
            (Self::Apart, _) => {}
        }
        None
    }

    /// Records the answer of Redis, once. Returns the changes that were kept until then and have to be sent now.
    fn answered(&mut self, is_taken: bool) -> Vec<CountChange> {
        let next = if is_taken { Self::Counted } else { Self::Apart };
        let Self::Asked { more, back } = std::mem::replace(self, next) else {
            debug_assert!(false, "one answer");
            return Vec::new();
        };
        let owed = [CountChange::Add(more), CountChange::GiveBack(back)];
        owed.into_iter().filter(|change| is_taken && !change.is_none()).collect()
    }
}

impl CountChange {
    fn is_none(self) -> bool {
        let (Self::Add(cost) | Self::GiveBack(cost)) = self;
        cost == SharedCost::default()
    }
}

/// The cost that one request has taken from the limits of its caller and of all callers. All gateways of a payer
/// share these limits.
#[derive(Debug)]
pub(crate) struct SharedCount {
    calls: Arc<SharedCalls>,
    /// Five keys for the caller and five for all callers: three of the buckets, one of the hour's counts, one of
    /// the day's.
    keys: Vec<String>,
    state: Mutex<CountState>,
}

impl SharedCount {
    /// Creates the count of a request whose cost Redis is being asked to take from these keys.
    pub(super) fn asked(calls: Arc<SharedCalls>, keys: Vec<String>) -> Self {
        let [more, back] = [SharedCost::default(); 2];
        Self { calls, keys, state: Mutex::new(CountState::Asked { more, back }) }
    }

    /// Returns the keys of the limits from which the cost is taken.
    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Records the answer of Redis, which may come late, and sends the changes that were kept until then.
    pub(super) fn answered(&self, is_taken: bool) {
        let owed = self.state.lock().answered(is_taken);
        if !owed.is_empty() {
            let ops = owed.into_iter().map(|change| self.op(change)).collect();
            self.calls.tell(ops, drop);
        }
    }

    /// Adds a cost that was not known at admission.
    pub(crate) async fn add(&self, cost: SharedCost) {
        self.change(CountChange::Add(cost)).await;
    }

    /// Returns a part of the cost to the counts of its hour and day.
    pub(crate) async fn give_back(&self, cost: SharedCost) {
        self.change(CountChange::GiveBack(cost)).await;
    }

    /// Applies a change, and waits for Redis if it is sent now, at most as long as for any answer.
    async fn change(&self, change: CountChange) {
        if change.is_none() {
            return;
        }
        let now = self.state.lock().change(change);
        let Some(now) = now else { return };
        let (sender, receiver) = oneshot::channel();
        let wait = self.calls.tell(vec![self.op(now)], |_| {
            let _ = sender.send(()); // the request may have gone on
        });
        let _ = timeout(wait, receiver).await;
    }

    fn op(&self, change: CountChange) -> SharedOp {
        let (sign, cost) = match change {
            CountChange::Add(cost) => (b"1".to_vec(), cost),
            CountChange::GiveBack(cost) => (b"-1".to_vec(), cost),
        };
        let arguments = std::iter::once(sign).chain(bounded(cost)).collect();
        // Only the counts of hour and day, the last two of each five keys. Tokens do not return to buckets, which
        // limit floods of requests, whether or not their envelopes are published.
        let keys = self.keys.iter().enumerate().filter(|(at, _)| at % 5 >= 3);
        let keys = keys.map(|(_, key)| key.clone()).collect();
        SharedOp { name: "adjust", keys, arguments }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: SharedCost = [0; 3];

    #[test]
    fn what_happens_before_a_late_answer_is_told_after_it_and_once() {
        let mut state = CountState::Asked { more: NOTHING, back: NOTHING };
        assert_eq!(state.change(CountChange::GiveBack([1, 5, 0])), None);
        assert_eq!(state.change(CountChange::Add([0, 7, 0])), None);
        assert_eq!(state.change(CountChange::GiveBack([1, 5, u64::MAX])), None);
        let owed = [CountChange::Add([0, 7, 0]), CountChange::GiveBack([2, 10, u64::MAX])];
        assert_eq!(state.answered(true), owed);
        let later = CountChange::GiveBack([1, 5, 0]);
        assert_eq!(state.change(later), Some(later));
    }

    #[test]
    fn what_is_published_stays_counted_and_what_redis_refused_is_given_back_by_none() {
        let mut state = CountState::Asked { more: NOTHING, back: NOTHING };
        assert_eq!(state.answered(true), []);
        let mut state = CountState::Asked { more: NOTHING, back: NOTHING };
        assert_eq!(state.change(CountChange::GiveBack([1, 5, 0])), None);
        assert_eq!(state.answered(false), []);
        assert_eq!(state.change(CountChange::GiveBack([1, 5, 0])), None);
    }

    #[test]
    fn no_part_of_a_cost_is_beyond_what_scripts_count() {
        let most = number(COST_MAX);
        assert_eq!(bounded([1, u64::MAX, COST_MAX]), [number(1), most.clone(), most]);
    }
}
