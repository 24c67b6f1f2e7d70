//! A bounded cache of inbox states with least-recently-used eviction.
//!
//! A state is taken out while it is advanced, and put back after the log holds the updates that advanced it. The cache
//! thus never holds a state that the log does not produce, and states are not copied.
//!
//! No cache library, because those in use here (`quick_cache`) may drop an entry that was just put in favour of ones
//! with more uses. The inbox that was just judged is the one whose next update follows, and judging it without its
//! state reads its whole log again. A test compares the cache with a plain list.

use std::collections::{BTreeMap, HashMap};

use hawser_mls::identity::{AssociationState, CheckedChange};
use hawser_proto::{InboxId, SequenceId};

/// A cached inbox: its state, and its waiting update if it has one.
#[derive(Debug, Default)]
pub(crate) struct KnownInbox {
    /// Place of the last valid update in `state`; [`SequenceId::NONE`] without one.
    pub(crate) last: SequenceId,
    /// The state after that update.
    pub(crate) state: Option<AssociationState>,
    /// The next update, if it waits for contract wallets. Cached so that its signatures are not verified again.
    pub(crate) waiting: Option<WaitingChange>,
}

/// An update that was checked and waits for contract wallets.
#[derive(Debug)]
pub(crate) struct WaitingChange {
    /// Place of the update.
    pub(crate) at: SequenceId,
    pub(crate) change: CheckedChange,
}

impl KnownInbox {
    /// Returns an estimate of the memory that the entry takes, in bytes.
    fn weight(&self) -> u64 {
        let state = self.state.as_ref().map_or(0, AssociationState::weight);
        let waiting = self.waiting.as_ref().map_or(0, |waiting| waiting.change.weight());
        (512 + state + waiting) as u64
    }
}

/// The cache.
///
/// Invariant: `weight` is the sum of the entries' weights and at most `weight_max`, and both maps have the same
/// inboxes.
#[derive(Debug)]
pub(crate) struct StateCache {
    entries: HashMap<InboxId, Entry>,
    /// Inboxes by the time of their last use.
    by_use: BTreeMap<u64, InboxId>,
    uses: u64,
    weight: u64,
    weight_max: u64,
}

#[derive(Debug)]
struct Entry {
    used: u64,
    weight: u64,
    known: KnownInbox,
}

impl StateCache {
    /// Creates a cache for states of this total weight in bytes.
    pub(crate) fn new(weight_max: u64) -> Self {
        let (entries, by_use) = (HashMap::new(), BTreeMap::new());
        Self { entries, by_use, uses: 0, weight: 0, weight_max }
    }

    /// Removes and returns the cached entry of an inbox; an empty one if there is none.
    pub(crate) fn take(&mut self, inbox: InboxId) -> KnownInbox {
        let Some(entry) = self.entries.remove(&inbox) else { return KnownInbox::default() };
        self.by_use.remove(&entry.used);
        self.weight -= entry.weight;
        entry.known
    }

    /// Inserts the entry of an inbox, and evicts the least recently used ones. An entry that is larger than the whole
    /// cache is dropped.
    pub(crate) fn put(&mut self, inbox: InboxId, known: KnownInbox) {
        self.take(inbox);
        let weight = known.weight();
        if weight > self.weight_max {
            return;
        }
        while self.weight + weight > self.weight_max {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            self.take(*oldest);
        }
        self.uses += 1;
        self.weight += weight;
        self.by_use.insert(self.uses, inbox);
        self.entries.insert(inbox, Entry { used: self.uses, weight, known });
        debug_assert!(self.weight <= self.weight_max, "the memory of the cache is bounded");
        debug_assert_eq!(self.by_use.len(), self.entries.len(), "each entry has one last use");
    }

    /// Removes all entries.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.weight_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the entry of an inbox whose last update is at `last`. Weighs 512 bytes.
    fn known(last: u64) -> KnownInbox {
        KnownInbox { last: SequenceId(last), ..KnownInbox::default() }
    }

    fn inbox(number: u8) -> InboxId {
        InboxId([number; 32])
    }

    #[test]
    fn the_state_that_was_used_the_longest_time_ago_makes_room() {
        let mut cache = StateCache::new(3 * 512 + 100);
        (1..=3).for_each(|number| cache.put(inbox(number), known(number.into())));
        let first = cache.take(inbox(1));
        assert_eq!(first.last, SequenceId(1));
        cache.put(inbox(1), first);
        cache.put(inbox(4), known(4));
        assert_eq!(cache.take(inbox(2)).last, SequenceId::NONE, "it made room");
        for number in [1, 3, 4] {
            assert_eq!(cache.take(inbox(number)).last, SequenceId(number.into()));
            assert_eq!(cache.take(inbox(number)).last, SequenceId::NONE, "it was taken");
        }
        assert_eq!((cache.weight, cache.entries.len(), cache.by_use.len()), (0, 0, 0));
    }

    #[test]
    fn a_state_larger_than_the_cache_is_forgotten_and_evicts_nothing() {
        let mut cache = StateCache::new(600);
        cache.put(inbox(1), known(1));
        cache.weight_max = 511;
        cache.put(inbox(2), known(2));
        assert_eq!(cache.take(inbox(2)).last, SequenceId::NONE);
        assert_eq!(cache.take(inbox(1)).last, SequenceId(1));
    }

    /// Puts and takes at random, and compares with a list that is in the order of use.
    #[test]
    fn the_cache_holds_what_a_list_in_the_order_of_use_holds() {
        const ROOM: usize = 5;
        for seed in 1..200_u64 {
            let mut cache = StateCache::new(ROOM as u64 * 512);
            let mut list: Vec<(u8, u64)> = Vec::new();
            let mut random = seed;
            for step in 1..200_u64 {
                // Knuth's MMIX generator; its high bits are random enough.
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let number = u8::try_from((random >> 33) & 7).unwrap();
                let place = list.iter().position(|(held, _)| *held == number);
                if (random >> 40) & 1 == 0 {
                    if let Some(place) = place {
                        list.remove(place);
                    }
                    list.push((number, step));
                    if list.len() > ROOM {
                        list.remove(0);
                    }
                    cache.put(inbox(number), known(step));
                } else {
                    let expected = place.map_or(0, |place| list.remove(place).1);
                    assert_eq!(cache.take(inbox(number)).last, SequenceId(expected), "seed {seed}");
                }
                let sum: u64 = cache.entries.values().map(|entry| entry.weight).sum();
                assert_eq!((cache.weight, cache.by_use.len()), (sum, list.len()), "seed {seed}");
                assert!(cache.weight <= cache.weight_max, "seed {seed}");
            }
        }
    }
}
