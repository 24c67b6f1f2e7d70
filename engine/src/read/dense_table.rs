//! A hash table with little room to spare.

/// Entries of a list, on average over all lists. A guess: a list is searched from its beginning, and costs 24 bytes.
const LIST_LEN: usize = 16;
/// Entries for which a full list gets room.
const ROOM_STEP: usize = 2;
/// Entries for which a list keeps room that it does not use.
const SPARE_MAX: usize = 4;

/// A hash table of short lists: one more with each 16 entries, one less with each 12 that leave (linear hashing). The
/// user hashes with a secret key, and compares.
///
/// Adding and removing an entry cost O(1) each time: a step moves the entries of one list, or of two, at most. A table
/// that doubles moves all of them at once, and has room for three times its entries before it shrinks.
#[derive(Debug)]
pub(crate) struct DenseTable<T> {
    lists: Vec<Vec<T>>,
    len: usize,
    /// The number of entries for which the lists have room.
    room: usize,
}

impl<T> Default for DenseTable<T> {
    fn default() -> Self {
        Self { lists: Vec::new(), len: 0, room: 0 }
    }
}

impl<T> DenseTable<T> {
    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the memory that the table takes, without what its entries point to, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.room * size_of::<T>() + self.lists.capacity() * size_of::<Vec<T>>()
    }

    /// Returns the list with all entries of this hash, and some of other ones.
    pub(crate) fn list(&self, hash: u64) -> &[T] {
        self.lists.get(place(hash, self.lists.len())).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the entry with this hash for which `is_it` returns true.
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&T> {
        self.list(hash).iter().find(|entry| is_it(entry))
    }

    /// Returns the entry with this hash for which `is_it` returns true.
    pub(crate) fn find_mut(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        let at = place(hash, self.lists.len());
        self.lists.get_mut(at)?.iter_mut().find(|entry| is_it(entry))
    }

    /// Adds an entry that is not there. `hash_of` returns the hash of each entry.
    pub(crate) fn insert(&mut self, hash: u64, entry: T, hash_of: impl Fn(&T) -> u64) {
        if self.len >= self.lists.len() * LIST_LEN {
            self.split(hash_of);
        }
        let at = place(hash, self.lists.len());
        let list = &mut self.lists[at];
        if list.len() == list.capacity() {
            let before = list.capacity();
            list.reserve_exact(ROOM_STEP);
            self.room += list.capacity() - before;
        }
        list.push(entry);
        self.len += 1;
    }

    /// Removes the entry with this hash for which `is_it` returns true.
    pub(crate) fn remove(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let at = place(hash, self.lists.len());
        let list = self.lists.get_mut(at)?;
        let removed = list.iter().position(is_it)?;
        let entry = list.swap_remove(removed);
        if list.capacity() > list.len() + SPARE_MAX {
            self.room -= list.capacity();
            list.shrink_to(list.len() + ROOM_STEP);
            self.room += list.capacity();
        }
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        } else if self.len < (self.lists.len() - 1) * (LIST_LEN / 4 * 3) {
            self.join_last();
        }
        Some(entry)
    }

    /// Returns the entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.lists.iter().flatten()
    }

    /// Returns the entries, in no order.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.lists.iter_mut().flatten()
    }

    /// Adds a list, with the entries of an earlier one that belong there now.
    fn split(&mut self, hash_of: impl Fn(&T) -> u64) {
        let added = self.lists.len();
        if added == self.lists.capacity() {
            self.lists.reserve_exact(added / 8 + 1);
        }
        self.lists.push(Vec::new());
        if added == 0 {
            return;
        }
        let (from, lists) = (split_from(added), self.lists.len());
        let entries = std::mem::take(&mut self.lists[from]);
        self.room -= entries.capacity();
        let stays = |entry: &T| place(hash_of(entry), lists) == from;
        let (stay, leave): (Vec<T>, Vec<T>) = entries.into_iter().partition(stays);
        for (at, mut list) in [(from, stay), (added, leave)] {
            list.shrink_to_fit();
            self.room += list.capacity();
            self.lists[at] = list;
        }
    }

    /// Puts the entries of the last list back into the list from which it was split. To be called with two lists at
    /// least.
    fn join_last(&mut self) {
        let Some(mut last) = self.lists.pop() else { return };
        let from = split_from(self.lists.len());
        let list = &mut self.lists[from];
        self.room -= last.capacity() + list.capacity();
        list.reserve_exact(last.len());
        list.append(&mut last);
        self.room += list.capacity();
        if self.lists.capacity() > self.lists.len() / 4 * 5 + SPARE_MAX {
            self.lists.shrink_to_fit();
        }
    }
}

/// Returns the place of the list of a hash. A list that has been split knows one bit more of its hashes.
fn place(hash: u64, lists: usize) -> usize {
    let mask = lists.next_power_of_two() - 1;
    let at = usize::try_from(hash & mask as u64).expect("less than the number of lists");
    if at < lists { at } else { at & (mask >> 1) }
}

/// Returns the place of the list that was split when the list at `added`, not the first one, was added.
fn split_from(added: usize) -> usize {
    added ^ (1 << added.ilog2())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

    use proptest::prelude::*;

    use super::*;

    /// A table of numbers, each of which is there once.
    #[derive(Default)]
    struct NumberTable {
        hasher: BuildHasherDefault<DefaultHasher>,
        table: DenseTable<u64>,
    }

    impl NumberTable {
        fn has(&self, number: u64) -> bool {
            self.table.find(self.hasher.hash_one(number), |it| *it == number).is_some()
        }

        fn add(&mut self, number: u64) {
            if !self.has(number) {
                let hasher = &self.hasher;
                self.table.insert(hasher.hash_one(number), number, |it| hasher.hash_one(*it));
            }
        }

        fn remove(&mut self, number: u64) -> bool {
            self.table.remove(self.hasher.hash_one(number), |it| *it == number).is_some()
        }

        fn check(&self) {
            let DenseTable { lists, len, room } = &self.table;
            assert_eq!(lists.iter().map(Vec::len).sum::<usize>(), *len);
            assert_eq!(lists.iter().map(Vec::capacity).sum::<usize>(), *room);
        }
    }

    proptest! {
        #[test]
        fn a_table_has_what_was_added_and_not_removed(
            steps in proptest::collection::vec((any::<bool>(), 0_u64..200), 0..600),
        ) {
            let (mut numbers, mut expected) = (NumberTable::default(), BTreeSet::new());
            for (adds, number) in steps {
                if adds {
                    numbers.add(number);
                    expected.insert(number);
                } else {
                    prop_assert_eq!(numbers.remove(number), expected.remove(&number));
                }
                numbers.check();
            }
            prop_assert!((0..200).all(|number| numbers.has(number) == expected.contains(&number)));
            let all: BTreeSet<u64> = numbers.table.iter().copied().collect();
            prop_assert_eq!(all, expected);
        }
    }

    /// Streams are charged for this room, whether it is used or not.
    #[test]
    fn a_table_has_little_room_to_spare_while_it_grows_and_while_it_shrinks() {
        const COUNT: u64 = 20_000;
        let mut numbers = NumberTable::default();
        for number in 0..COUNT {
            numbers.add(number);
            let (room, len) = (numbers.table.room, numbers.table.len());
            assert!(room <= len + len / 8 + 2, "{room} for {len}");
        }
        // Of all lists, with what is to spare of their own list: 24 bytes for each 16 entries.
        let held = numbers.table.held_bytes();
        assert!(held <= 20_000 * (8 + 1 + 2), "{held} bytes");
        for number in 0..COUNT {
            assert!(numbers.remove(number));
            let (room, len) = (numbers.table.room, numbers.table.len());
            assert!(room <= len + len / 2 + 2 * SPARE_MAX, "{room} for {len}");
        }
        assert_eq!(numbers.table.held_bytes(), 0);
        numbers.check();
    }
}
