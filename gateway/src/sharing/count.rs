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
/// Time after which a budget begins anew, ms: an hour or a day of UTC.
pub(crate) const HOUR_MS: u64 = 3_600_000;
pub(crate) const DAY_MS: u64 = 24 * HOUR_MS;

/// A cost: envelopes, picodollars, gas.
pub(crate) type SharedCost = [u64; 3];

/// Returns a cost, each part cut to [`COST_MAX`], as arguments of the script.
pub(super) fn bounded(cost: SharedCost) -> [Vec<u8>; 3] {
    cost.map(|part| number(part.min(COST_MAX)))
}

/// The state of a request's cost at Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CountState {
    /// Redis has not answered. The sums were added and given back meanwhile, and perhaps the tokens.
    Asked { more: SharedCost, back: SharedCost, are_tokens_back: bool },
    /// Redis has taken the cost at this unix time of its own clock, ms.
    Counted { taken_ms: u64 },
    /// Redis has refused the cost or failed, and has counted nothing.
    Apart,
}

/// A change to what was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CountChange {
    Add(SharedCost),
    GiveBack(SharedCost),
    /// Gives all tokens back to the buckets.
    GiveTokensBack,
}

impl CountState {
    const ASKED: Self = Self::Asked { more: [0; 3], back: [0; 3], are_tokens_back: false };
}

impl CountState {
    /// Applies a change. Returns it if it has to be sent to Redis now, with the time at which Redis has taken the cost.
    fn change(&mut self, change: CountChange) -> Option<(CountChange, u64)> {
        let add = |sum: &mut SharedCost, cost: SharedCost| {
            sum.iter_mut().zip(cost).for_each(|(sum, part)| *sum = sum.saturating_add(part));
        };
        match (self, change) {
            (Self::Asked { more, .. }, CountChange::Add(cost)) => add(more, cost),
            (Self::Asked { back, .. }, CountChange::GiveBack(cost)) => add(back, cost),
            (Self::Asked { are_tokens_back, .. }, CountChange::GiveTokensBack) => {
                *are_tokens_back = true;
            }
            (Self::Counted { taken_ms }, change) => return Some((change, *taken_ms)),
            (Self::Apart, _) => {}
        }
        None
    }

    /// Records the answer of Redis, once: the time at which it has taken the cost, if it has. Returns the changes that
    /// were kept until then and have to be sent now.
    fn answered(&mut self, taken_ms: Option<u64>) -> Vec<CountChange> {
        let next = taken_ms.map_or(Self::Apart, |taken_ms| Self::Counted { taken_ms });
        let Self::Asked { more, back, are_tokens_back } = std::mem::replace(self, next) else {
            debug_assert!(false, "one answer");
            return Vec::new();
        };
        let tokens = are_tokens_back.then_some(CountChange::GiveTokensBack);
        let owed = [CountChange::Add(more), CountChange::GiveBack(back)].into_iter().chain(tokens);
        owed.filter(|change| taken_ms.is_some() && !change.is_none()).collect()
    }
}

impl CountChange {
    fn is_none(self) -> bool {
        match self {
            Self::Add(cost) | Self::GiveBack(cost) => cost == SharedCost::default(),
            Self::GiveTokensBack => false,
        }
    }
}

/// The cost that one request has taken from the limits of its caller, of all callers, and of the caller's network. All
/// gateways of a payer share these limits.
#[derive(Debug)]
pub(crate) struct SharedCount {
    calls: Arc<SharedCalls>,
    /// Five keys for each holder of limits: three of the buckets, one of the hours' counts, one of the days', both
    /// without a number. After these, one for each bucket of a kind.
    keys: Vec<String>,
    /// The number of the former.
    holder_keys: usize,
    /// The arguments by which the cost is taken.
    arguments: Vec<Vec<u8>>,
    state: Mutex<CountState>,
}

impl SharedCount {
    /// Creates the count of a request whose cost Redis is being asked to take, with the keys and the arguments of the
    /// operation. The first `holder_keys` keys are those of the holders of limits.
    pub(super) fn asked(
        calls: Arc<SharedCalls>,
        keys: Vec<String>,
        holder_keys: usize,
        arguments: Vec<Vec<u8>>,
    ) -> Self {
        Self { calls, keys, holder_keys, arguments, state: Mutex::new(CountState::ASKED) }
    }

    /// Returns the operation that takes the cost.
    pub(super) fn take(&self) -> SharedOp {
        SharedOp { name: "take", keys: self.keys.clone(), arguments: self.arguments.clone() }
    }

    /// Records the answer of Redis, which may come late: the unix time of its clock at which it has taken the cost, in
    /// ms, if it has. Sends the changes that were kept until then.
    pub(super) fn answered(&self, taken_ms: Option<u64>) {
        let owed = self.state.lock().answered(taken_ms);
        let Some(taken_ms) = taken_ms.filter(|_| !owed.is_empty()) else { return };
        let ops = owed.into_iter().map(|change| self.op(change, taken_ms)).collect();
        self.calls.tell(ops, drop);
    }

    /// Adds a cost that was not known at admission.
    pub(crate) async fn add(&self, cost: SharedCost) {
        self.change(CountChange::Add(cost)).await;
    }

    /// Returns a part of the cost to the counts of its hour and day.
    pub(crate) async fn give_back(&self, cost: SharedCost) {
        self.change(CountChange::GiveBack(cost)).await;
    }

    /// Returns the tokens to all buckets, except for the part that may have been refilled since: another limit has
    /// refused the request.
    pub(crate) async fn give_tokens_back(&self) {
        self.change(CountChange::GiveTokensBack).await;
    }

    /// Applies a change, and waits for Redis if it is sent now, at most as long as for any answer.
    async fn change(&self, change: CountChange) {
        if change.is_none() {
            return;
        }
        let now = self.state.lock().change(change);
        let Some((now, taken_ms)) = now else { return };
        let (sender, receiver) = oneshot::channel();
        let wait = self.calls.tell(vec![self.op(now, taken_ms)], |_| {
            let _ = sender.send(()); // the request may have gone on
        });
        let _ = timeout(wait, receiver).await;
    }

    /// Returns the operation of a change to what was taken at `taken_ms`, unix time of Redis.
    fn op(&self, change: CountChange, taken_ms: u64) -> SharedOp {
        let (sign, cost) = match change {
            CountChange::Add(cost) => (b"1".to_vec(), cost),
            CountChange::GiveBack(cost) => (b"-1".to_vec(), cost),
            CountChange::GiveTokensBack => {
                let arguments =
                    [number(taken_ms)].into_iter().chain(self.arguments.iter().cloned());
                let arguments = arguments.collect();
                return SharedOp { name: "give_tokens_back", keys: self.keys.clone(), arguments };
            }
        };
        let arguments = std::iter::once(sign).chain(bounded(cost)).collect();
        // Only the counts of hour and day, the last two of each five keys. Tokens do not return to buckets, which
        // limit floods of requests, whether or not their envelopes are published.
        let keys = self.keys.iter().take(self.holder_keys).enumerate().filter_map(|(at, key)| {
            match at % 5 {
                3 => Some(format!("{key}{}", taken_ms / HOUR_MS)),
                4 => Some(format!("{key}{}", taken_ms / DAY_MS)),
                _ => None,
            }
        });
        SharedOp { name: "adjust", keys: keys.collect(), arguments }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_before_a_late_answer_is_told_after_it_and_once() {
        let mut state = CountState::ASKED;
        assert_eq!(state.change(CountChange::GiveBack([1, 5, 0])), None);
        assert_eq!(state.change(CountChange::Add([0, 7, 0])), None);
        assert_eq!(state.change(CountChange::GiveBack([1, 5, u64::MAX])), None);
        let owed = [CountChange::Add([0, 7, 0]), CountChange::GiveBack([2, 10, u64::MAX])];
        assert_eq!(state.answered(Some(7)), owed);
        let later = CountChange::GiveBack([1, 5, 0]);
        assert_eq!(state.change(later), Some((later, 7)));
    }

    #[test]
    fn what_is_published_stays_counted_and_what_redis_refused_is_given_back_by_none() {
        let mut state = CountState::ASKED;
        assert_eq!(state.answered(Some(7)), []);
        let mut state = CountState::ASKED;
        assert_eq!(state.change(CountChange::GiveBack([1, 5, 0])), None);
        assert_eq!(state.answered(None), []);
        assert_eq!(state.change(CountChange::GiveBack([1, 5, 0])), None);
    }

    #[test]
    fn tokens_that_redis_takes_late_for_a_refused_request_go_back() {
        let change = CountChange::GiveTokensBack;
        let mut state = CountState::ASKED;
        assert_eq!(state.change(change), None);
        assert_eq!(state.answered(Some(7)), [change]);
        let mut state = CountState::ASKED;
        assert_eq!(state.change(change), None);
        assert_eq!(state.answered(None), [], "Redis has taken none");
    }

    #[test]
    fn no_part_of_a_cost_is_beyond_what_scripts_count() {
        let most = number(COST_MAX);
        assert_eq!(bounded([1, u64::MAX, COST_MAX]), [number(1), most.clone(), most]);
    }
}
