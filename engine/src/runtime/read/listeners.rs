//! The listeners of one topic, strand or place.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

use super::listener::Listener;
use crate::read::dense_table::DenseTable;

/// A set of listeners that costs O(1) to join and to leave, however many there are: a popular topic
/// must not become slow to leave.
#[derive(Debug)]
pub(super) enum Listeners {
    One(Arc<Listener>),
    /// Listeners by memory address, which identifies a listener while the set holds it. Boxed, because
    /// few of these many sets are large.
    Many(Box<DenseTable<Arc<Listener>>>),
}

impl Default for Listeners {
    fn default() -> Self {
        Self::Many(Box::default())
    }
}

impl Listeners {
    /// Adds a listener, unless it is there.
    pub(super) fn join(&mut self, listener: &Arc<Listener>) {
        match self {
            Self::Many(all) if all.len() == 0 => *self = Self::One(Arc::clone(listener)),
            Self::Many(all) => add(all, listener),
            Self::One(one) if Arc::ptr_eq(one, listener) => {}
            Self::One(one) => {
                let mut both = DenseTable::default();
                [&*one, listener].into_iter().for_each(|each| add(&mut both, each));
                *self = Self::Many(Box::new(both));
            }
        }
    }

    /// Removes a listener, if it is there.
    pub(super) fn leave(&mut self, listener: &Arc<Listener>) {
        match self {
            Self::One(one) if Arc::ptr_eq(one, listener) => *self = Self::default(),
            Self::One(_) => {}
            Self::Many(all) => {
                all.remove(hash(listener), |each| Arc::ptr_eq(each, listener));
            }
        }
    }

    /// Returns the listeners, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Listener>> {
        let (one, many) = match self {
            Self::One(one) => (Some(one), None),
            Self::Many(all) => (None, Some(all.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Returns the number of listeners.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(all) => all.len(),
        }
    }

    /// Returns true if there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The number of parts of [`ListenersInParts`]: the bits of a number.
const PARTS: usize = 64;

/// A set of listeners in parts, each under a lock of its own: a listener that joins or leaves waits for the delivery to
/// at most one part.
#[derive(Debug)]
pub(super) struct ListenersInParts {
    hasher: RandomState,
    parts: Vec<Mutex<Listeners>>,
    /// A bit for each part with listeners. Often there are few or none, and each delivery would lock all parts.
    occupied: Mutex<u64>,
}

impl Default for ListenersInParts {
    fn default() -> Self {
        let parts = std::iter::repeat_with(Mutex::default).take(PARTS).collect();
        Self { hasher: RandomState::new(), parts, occupied: Mutex::default() }
    }
}

impl ListenersInParts {
    /// Adds a listener, unless it is there.
    pub(super) fn join(&self, listener: &Arc<Listener>) {
        let at = self.part_of(listener);
        let mut part = self.parts[at].lock();
        part.join(listener);
        *self.occupied.lock() |= 1_u64 << at;
    }

    /// Removes a listener, if it is there.
    pub(super) fn leave(&self, listener: &Arc<Listener>) {
        let at = self.part_of(listener);
        let mut part = self.parts[at].lock();
        part.leave(listener);
        if part.is_empty() {
            *self.occupied.lock() &= !(1_u64 << at);
        }
    }

    /// Visits the listeners, in no order. A listener that joins meanwhile may be left out. Once it has joined, it sees
    /// everything that was done before the visit.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&Arc<Listener>)) {
        let occupied = *self.occupied.lock();
        for at in (0..PARTS).filter(|at| occupied & (1_u64 << at) != 0) {
            self.parts[at].lock().iter().for_each(&mut visit);
        }
    }

    fn part_of(&self, listener: &Arc<Listener>) -> usize {
        let hash = self.hasher.hash_one(address(listener)) % PARTS as u64;
        usize::try_from(hash).expect("less than the number of parts")
    }
}

fn address(listener: &Arc<Listener>) -> usize {
    Arc::as_ptr(listener) as usize
}

/// Returns a hash of the address, whose low bits are those of a multiple of its alignment. No caller chooses it.
fn hash(listener: &Arc<Listener>) -> u64 {
    (address(listener) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

fn add(all: &mut DenseTable<Arc<Listener>>, listener: &Arc<Listener>) {
    if all.find(hash(listener), |each| Arc::ptr_eq(each, listener)).is_none() {
        all.insert(hash(listener), Arc::clone(listener), hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::limits::BatchLimits;

    #[test]
    fn each_listener_is_there_once_between_joining_and_leaving() {
        let all = [(); 4].map(|()| Arc::new(Listener::new(BatchLimits::QUEUE, Arc::default())));
        let mut listeners = Listeners::default();
        let count = |listeners: &Listeners| listeners.iter().count();
        for (joined, listener) in (1..).zip(&all) {
            listeners.join(listener);
            listeners.join(listener);
            assert_eq!(count(&listeners), joined);
        }
        listeners.leave(&all[2]);
        listeners.leave(&all[2]);
        assert!(listeners.iter().all(|each| !Arc::ptr_eq(each, &all[2])));
        for (left, listener) in [(2, 0), (1, 1), (0, 3)] {
            listeners.leave(&all[listener]);
            assert_eq!((count(&listeners), listeners.is_empty()), (left, left == 0));
        }
        listeners.join(&all[1]);
        listeners.leave(&all[0]);
        assert_eq!(count(&listeners), 1, "another one leaves");
    }

    /// A delivery passes over parts without listeners.
    #[test]
    fn listeners_are_visited_once_while_others_of_their_part_leave() {
        let listeners = ListenersInParts::default();
        let listener = || Arc::new(Listener::new(BatchLimits::QUEUE, Arc::default()));
        // Several in each part.
        let all: Vec<_> = std::iter::repeat_with(listener).take(8 * PARTS).collect();
        let sorted = |mut addresses: Vec<usize>| {
            addresses.sort_unstable();
            addresses
        };
        let of = |some: &[Arc<Listener>]| sorted(some.iter().map(address).collect());
        let visited = || {
            let mut visited = Vec::new();
            listeners.for_each(|listener| visited.push(address(listener)));
            sorted(visited)
        };
        all.iter().for_each(|listener| listeners.join(listener));
        assert_eq!(visited(), of(&all));
        let (gone, rest) = all.split_at(all.len() / 2);
        gone.iter().for_each(|listener| listeners.leave(listener));
        assert_eq!(visited(), of(rest));
        rest.iter().for_each(|listener| listeners.leave(listener));
        assert_eq!(*listeners.occupied.lock(), 0, "no part is locked in vain");
        listeners.join(&all[0]);
        assert_eq!(visited(), of(&all[..1]));
    }
}
