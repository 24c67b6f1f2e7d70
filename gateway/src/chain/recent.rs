//! What was sent to the chain lately. A client that got no answer asks again, with the same bytes:
//! it is told what became of the first, and nothing is sent twice.
//!
//! Plain values; time is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use hawser_proto::Bytes;
use sha2::{Digest as _, Sha256};

/// How long a result is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How many results are.
const RESULTS_MAX: usize = 20_000;
/// How much they may weigh together, bytes.
const WEIGHT_MAX: usize = 64 * 1024 * 1024;

/// Names a payload by its bytes, which hold its topic.
pub(super) type PayloadKey = [u8; 32];

/// The name of a payload.
pub(super) fn key_of(payload: &Bytes) -> PayloadKey {
    Sha256::digest(payload).into()
}

/// Results by payload, those of the last minutes; the oldest go first.
#[derive(Debug)]
pub(super) struct Repeats<R> {
    results: HashMap<PayloadKey, (u64, R)>,
    /// In the order of their coming.
    order: VecDeque<Entry>,
    number: u64,
    weight: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    since: Instant,
    key: PayloadKey,
    /// The one of the result that it stands for; a later one may have the same key.
    number: u64,
    weight: usize,
}

impl<R> Default for Repeats<R> {
    fn default() -> Self {
        Self { results: HashMap::new(), order: VecDeque::new(), number: 0, weight: 0 }
    }
}

impl<R: Clone> Repeats<R> {
    /// What became, or becomes, of a payload.
    pub(super) fn get(&mut self, key: &PayloadKey, now: Instant) -> Option<R> {
        self.drop_old(now);
        self.results.get(key).map(|(_, result)| result.clone())
    }

    /// Remembers what becomes of a payload. `weight`: how many bytes it may come to hold.
    pub(super) fn put(&mut self, key: PayloadKey, result: R, weight: usize, now: Instant) {
        self.number += 1;
        self.results.insert(key, (self.number, result));
        self.order.push_back(Entry { since: now, key, number: self.number, weight });
        self.weight += weight;
        self.drop_old(now);
    }

    /// Nothing was sent: a repetition begins anew.
    pub(super) fn forget(&mut self, key: &PayloadKey) {
        self.results.remove(key);
    }

    fn drop_old(&mut self, now: Instant) {
        while let Some(&Entry { since, key, number, weight }) = self.order.front() {
            let fits = self.order.len() <= RESULTS_MAX && self.weight <= WEIGHT_MAX;
            if fits && now.duration_since(since) <= REMEMBERED {
                return;
            }
            self.order.pop_front();
            self.weight -= weight;
            if self.results.get(&key).is_some_and(|(own, _)| *own == number) {
                self.results.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> PayloadKey {
        key_of(&Bytes::from(n.to_be_bytes().to_vec()))
    }

    #[test]
    fn a_result_is_remembered_for_minutes() {
        let start = Instant::now();
        let mut repeats = Repeats::default();
        repeats.put(key(1), "first", 1, start);
        assert_eq!(repeats.get(&key(1), start + REMEMBERED), Some("first"));
        assert_eq!(repeats.get(&key(2), start), None);
        let later = start + REMEMBERED + Duration::from_secs(1);
        assert_eq!(repeats.get(&key(1), later), None);
        assert!(repeats.order.is_empty());
    }

    #[test]
    fn what_was_not_sent_begins_anew_and_is_remembered_from_then_on() {
        let start = Instant::now();
        let mut repeats = Repeats::default();
        repeats.put(key(1), 1, 1, start);
        repeats.forget(&key(1));
        assert_eq!(repeats.get(&key(1), start), None);
        let later = start + REMEMBERED / 2;
        repeats.put(key(1), 2, 1, later);
        assert_eq!(repeats.get(&key(1), later + REMEMBERED), Some(2));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let start = Instant::now();
        let mut repeats = Repeats::default();
        for n in 0..RESULTS_MAX + 10 {
            repeats.put(key(n), n, 1, start);
        }
        assert_eq!(repeats.results.len(), RESULTS_MAX);
        assert_eq!(repeats.order.len(), RESULTS_MAX);
        assert_eq!(repeats.get(&key(9), start), None);
        assert_eq!(repeats.get(&key(10), start), Some(10));
        repeats.put(key(0), 0, WEIGHT_MAX, start);
        assert_eq!(repeats.results.len(), 1, "a heavy one takes the place of all others");
        assert_eq!(repeats.weight, WEIGHT_MAX);
    }
}
