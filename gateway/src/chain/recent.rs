//! The payloads that were sent to the chain recently, with their results. A client without an answer repeats its
//! request with equal bytes. It gets the result of the first attempt, and the payload is not sent twice.
//!
//! Plain values; time is an argument. This is no cache library, because entries must leave by age alone. A cache that
//! ranks entries by use drops the newest entries of a burst first, and clients repeat exactly these.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use hawser_proto::Bytes;
use sha2::{Digest as _, Sha256};

/// Largest number of results. A guess: 33 payloads a second for ten minutes.
const RESULTS_MAX: usize = 20_000;
/// Largest total weight of the results, bytes. A guess: [`RESULTS_MAX`] small payloads weigh about 40 MB.
const WEIGHT_MAX: usize = 64 * 1024 * 1024;

/// SHA-256 of a payload. The topic is in the payload.
pub(super) type PayloadKey = [u8; 32];

/// Returns the key of a payload.
pub(super) fn payload_key(payload: &Bytes) -> PayloadKey {
    Sha256::digest(payload).into()
}

/// Results of recent payloads. Beyond the bounds the oldest entries leave first.
#[derive(Debug)]
pub(super) struct RecentPayloads<R> {
    /// The latest result of each payload, with the number of its entry in `order`.
    results: HashMap<PayloadKey, (u64, R)>,
    /// All entries in order of arrival, also those whose result was replaced or removed.
    order: VecDeque<OrderEntry>,
    number: u64,
    weight: usize,
    /// Time for which a result is kept.
    kept: Duration,
}

#[derive(Debug, Clone, Copy)]
struct OrderEntry {
    since: Instant,
    key: PayloadKey,
    /// Distinguishes the entries of equal payloads.
    number: u64,
    weight: usize,
}

impl<R: Clone> RecentPayloads<R> {
    /// Creates an empty table that keeps each result for `kept`.
    pub(super) fn new(kept: Duration) -> Self {
        Self { results: HashMap::new(), order: VecDeque::new(), number: 0, weight: 0, kept }
    }

    /// Returns the latest result of a payload; `None` if it has expired or was removed.
    pub(super) fn get(&mut self, key: &PayloadKey, now: Instant) -> Option<R> {
        self.drop_old(now);
        self.results.get(key).map(|(_, result)| result.clone())
    }

    /// Stores a result. `weight` is the largest number of bytes that it may ever hold.
    pub(super) fn put(&mut self, key: PayloadKey, result: R, weight: usize, now: Instant) {
        self.number += 1;
        self.results.insert(key, (self.number, result));
        self.order.push_back(OrderEntry { since: now, key, number: self.number, weight });
        self.weight += weight;
        self.drop_old(now);
    }

    /// Removes a result, so that an equal payload starts a new attempt.
    pub(super) fn remove(&mut self, key: &PayloadKey) {
        self.results.remove(key);
    }

    fn drop_old(&mut self, now: Instant) {
        while let Some(&OrderEntry { since, key, number, weight }) = self.order.front() {
            let fits = self.order.len() <= RESULTS_MAX && self.weight <= WEIGHT_MAX;
            if fits && now.duration_since(since) <= self.kept {
                return;
            }
            self.order.pop_front();
            self.weight -= weight;
            if self.results.get(&key).is_some_and(|(own, _)| *own == number) {
                self.results.remove(&key);
            }
            debug_assert!(self.results.len() <= self.order.len(), "an entry for each result");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    const REMEMBERED: Duration = Duration::from_secs(600);

    fn key(n: usize) -> PayloadKey {
        payload_key(&Bytes::from(n.to_be_bytes().to_vec()))
    }

    #[test]
    fn a_result_is_remembered_for_minutes() {
        let start = Instant::now();
        let mut recent = RecentPayloads::new(REMEMBERED);
        recent.put(key(1), "first", 1, start);
        assert_eq!(recent.get(&key(1), start + REMEMBERED), Some("first"));
        assert_eq!(recent.get(&key(2), start), None);
        let later = start + REMEMBERED + Duration::from_secs(1);
        assert_eq!(recent.get(&key(1), later), None);
        assert!(recent.order.is_empty());
    }

    #[test]
    fn an_unsent_payload_starts_anew_and_is_remembered() {
        let start = Instant::now();
        let mut recent = RecentPayloads::new(REMEMBERED);
        recent.put(key(1), 1, 1, start);
        recent.remove(&key(1));
        assert_eq!(recent.get(&key(1), start), None);
        let later = start + REMEMBERED / 2;
        recent.put(key(1), 2, 1, later);
        assert_eq!(recent.get(&key(1), later + REMEMBERED), Some(2));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let start = Instant::now();
        let mut recent = RecentPayloads::new(REMEMBERED);
        for n in 0..RESULTS_MAX + 10 {
            recent.put(key(n), n, 1, start);
        }
        assert_eq!(recent.results.len(), RESULTS_MAX);
        assert_eq!(recent.order.len(), RESULTS_MAX);
        assert_eq!(recent.get(&key(9), start), None);
        assert_eq!(recent.get(&key(10), start), Some(10));
        recent.put(key(0), 0, WEIGHT_MAX, start);
        assert_eq!(recent.results.len(), 1, "a heavy one takes the place of all others");
        assert_eq!(recent.weight, WEIGHT_MAX);
    }
    proptest! {
        #[test]
        fn results_leave_by_age_alone(
            puts in proptest::collection::vec((0u8..20, 0usize..WEIGHT_MAX / 4, 0u64..200), 1..100),
        ) {
            let start = Instant::now();
            let (mut recent, mut now) = (RecentPayloads::new(REMEMBERED), start);
            let mut model: Vec<(u8, usize, Instant)> = Vec::new(); // every put, oldest first
            for (number, (name, weight, pause_s)) in puts.into_iter().enumerate() {
                now += Duration::from_secs(pause_s);
                recent.put(key(name.into()), number, weight, now);
                model.push((name, weight, now));
                while model.iter().map(|(_, weight, _)| weight).sum::<usize>() > WEIGHT_MAX
                    || now.duration_since(model[0].2) > REMEMBERED
                {
                    model.remove(0);
                }
                prop_assert!(recent.weight <= WEIGHT_MAX);
                for name in 0..20 {
                    let is_known = model.iter().any(|(known, ..)| *known == name);
                    prop_assert_eq!(recent.get(&key(name.into()), now).is_some(), is_known);
                }
            }
        }
    }
}
