//! The usage of a bounded number of callers.
//!
//! A flood from many addresses must neither grow the table nor displace the callers with the highest usage. A full
//! table therefore removes the caller whose usage expires first. This is an idle caller if there is one, and
//! otherwise the caller with the least usage: a newcomer of the flood itself, which gains almost nothing. A removed
//! caller starts again with a full allowance, so removal never harms it.
//!
//! No cache library: those rank entries by use, and the callers of a flood use the table most often.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Largest number of expired callers that a new entry removes. A guess: more than one, so that the table shrinks after
/// a flood, and few, so that no entry takes long.
const FORGOTTEN_AT_ONCE_MAX: usize = 4;

/// The usage of each caller.
#[derive(Debug)]
pub struct CallerTable<K, U> {
    callers: HashMap<K, CallerEntry<U>>,
    /// All callers by the time at which their usage expires.
    by_end: BTreeSet<(u64, K)>,
    callers_max: usize,
}

#[derive(Debug)]
struct CallerEntry<U> {
    used: U,
    ends_ms: u64,
}

impl<K: Clone + Ord + Hash, U> CallerTable<K, U> {
    /// Creates a table for at most `callers_max` callers.
    ///
    /// # Panics
    /// If `callers_max` is 0.
    #[must_use]
    pub fn new(callers_max: usize) -> Self {
        assert!(callers_max > 0, "a table has room for one caller at least");
        Self { callers: HashMap::new(), by_end: BTreeSet::new(), callers_max }
    }

    /// Returns the usage of a caller; `None` if it is not in the table.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, caller: &Q) -> Option<&U>
    where
        K: Borrow<Q>,
    {
        self.callers.get(caller).map(|entry| &entry.used)
    }

    /// Returns the usage of a caller, for changes that do not move its expiry.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, caller: &Q) -> Option<&mut U>
    where
        K: Borrow<Q>,
    {
        self.callers.get_mut(caller).map(|entry| &mut entry.used)
    }

    /// Stores the usage of a caller until `ends_ms`, or until the full table removes it.
    pub fn put(&mut self, caller: K, used: U, ends_ms: u64, now_ms: u64) {
        if let Some(known) = self.callers.get_mut(&caller) {
            let place = (std::mem::replace(&mut known.ends_ms, ends_ms), caller.clone());
            known.used = used;
            self.by_end.remove(&place);
        } else {
            self.forget_ended(now_ms);
            if self.callers.len() >= self.callers_max
                && let Some((_, first)) = self.by_end.pop_first()
            {
                self.callers.remove(&first);
            }
            self.callers.insert(caller.clone(), CallerEntry { used, ends_ms });
        }
        self.by_end.insert((ends_ms, caller));
        debug_assert_eq!(self.by_end.len(), self.callers.len(), "each caller has one end");
    }

    fn forget_ended(&mut self, now_ms: u64) {
        for _ in 0..FORGOTTEN_AT_ONCE_MAX {
            match self.by_end.first() {
                Some((ends_ms, _)) if *ends_ms <= now_ms => {}
                _ => return,
            }
            if let Some((_, caller)) = self.by_end.pop_first() {
                self.callers.remove(&caller);
            }
        }
    }

    /// Returns the number of callers in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.callers.len()
    }

    /// Returns true if the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_flood_forgets_itself_and_not_those_who_used_most() {
        let mut table = CallerTable::new(100);
        for heavy in 0..50u32 {
            table.put(heavy, "heavy", 60_000, 0);
        }
        for light in 1000..101_000u32 {
            table.put(light, "light", 1_000, 0);
            assert!(table.len() <= 100);
        }
        for heavy in 0..50 {
            assert_eq!(table.get(&heavy), Some(&"heavy"), "{heavy}");
        }
        assert_eq!(table.get(&100_999), Some(&"light"), "the newest is served like any other");
    }

    #[test]
    fn a_table_shrinks_after_a_flood() {
        let mut table = CallerTable::new(1000);
        for caller in 0..1000u32 {
            table.put(caller, (), 500, 0);
        }
        for caller in 5000..5300u32 {
            table.put(caller, (), 10_000, 501);
        }
        assert_eq!(table.len(), 300);
    }

    #[test]
    fn use_that_is_put_again_ends_at_its_new_time() {
        let mut table = CallerTable::new(2);
        table.put("a", 1, 10, 0);
        table.put("a", 2, 30, 0);
        table.put("b", 1, 20, 0);
        *table.get_mut("b").unwrap() += 1;
        table.put("c", 1, 25, 0);
        assert_eq!((table.get("a"), table.get("b"), table.get("c")), (Some(&2), None, Some(&1)));
        assert!(!table.is_empty());
    }

    proptest! {
        /// Compares with a list that a full table takes the caller with the earliest end from.
        #[test]
        fn a_caller_goes_only_if_its_use_has_ended_or_ends_first(
            puts in proptest::collection::vec((0..12_u8, 1..100_u64, 0..20_u64), 1..200),
        ) {
            const CALLERS_MAX: usize = 6;
            let mut table = CallerTable::new(CALLERS_MAX);
            let (mut ends, mut now_ms) = (HashMap::new(), 0);
            for (at, (caller, lasts_ms, passed_ms)) in puts.into_iter().enumerate() {
                now_ms += passed_ms;
                let before: Vec<u8> = ends.keys().copied().filter(|it| table.get(it).is_some()).collect();
                table.put(caller, at, now_ms + lasts_ms, now_ms);
                prop_assert_eq!(table.get(&caller), Some(&at));
                prop_assert!(table.len() <= CALLERS_MAX);
                for gone in before.iter().filter(|it| table.get(*it).is_none()) {
                    let stays = before.iter().filter(|it| table.get(*it).is_some() && **it != caller);
                    let is_first = stays.map(|it| ends[it]).all(|end| ends[gone] <= end);
                    prop_assert!(ends[gone] <= now_ms || is_first, "{gone} of {ends:?} at {now_ms}");
                }
                ends.insert(caller, now_ms + lasts_ms);
            }
        }
    }
}
