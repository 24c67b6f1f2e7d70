//! A map that forgets what nobody has asked for in a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// Two generations: what is asked for moves to the young one, and when that is full the old one goes.
pub(super) struct Recent<K, V> {
    young: HashMap<K, Entry<V>>,
    old: HashMap<K, Entry<V>>,
    young_weight: usize,
    weight_max: usize,
}

struct Entry<V> {
    value: V,
    weight: usize,
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    /// Holds values of this weight at most, in the unit in which they are weighed.
    pub(super) fn new(weight_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), young_weight: 0, weight_max }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        if let Some(entry) = self.young.get(key) {
            return Some(entry.value.clone());
        }
        let (key, entry) = self.old.remove_entry(key)?;
        let value = entry.value.clone();
        self.put(key, entry.value, entry.weight);
        Some(value)
    }

    pub(super) fn put(&mut self, key: K, value: V, weight: usize) {
        if self.young_weight.saturating_add(weight) > self.weight_max / 2 {
            self.old = mem::take(&mut self.young);
            self.young_weight = 0;
        }
        self.old.remove(&key);
        let before = self.young.insert(key, Entry { value, weight });
        self.young_weight += weight;
        self.young_weight -= before.map_or(0, |entry| entry.weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let mut recent = Recent::new(8);
        recent.put("kept", 0, 1);
        for number in 1..100 {
            recent.put("same", number, 1);
            recent.put(["a", "b", "c", "d", "e", "f", "g"][number % 7], number, 1);
            assert_eq!(recent.get(&"kept"), Some(0));
            assert_eq!(recent.get(&"same"), Some(number));
            assert!(recent.young.len() + recent.old.len() <= 9);
        }
        assert_eq!(recent.get(&"never"), None);
    }
}
