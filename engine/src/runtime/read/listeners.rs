//! The listeners of one topic, strand or place.

use std::collections::HashMap;
use std::sync::Arc;

use super::listener::Listener;
use crate::read::tables;

/// A set of listeners that costs O(1) to join and to leave, however many there are: a popular topic
/// must not become slow to leave.
#[derive(Debug)]
pub(super) enum Listeners {
    /// Nearly every topic of a stream has this one listener.
    One(Arc<Listener>),
    /// Listeners by memory address, which identifies a listener while the set holds it. Boxed, because
    /// few of these many sets are large.
    #[expect(clippy::box_collection, reason = "the map itself would make every entry larger")]
    Many(Box<HashMap<usize, Arc<Listener>>>),
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
            Self::Many(all) if all.is_empty() => *self = Self::One(Arc::clone(listener)),
            Self::Many(all) => _ = all.insert(address(listener), Arc::clone(listener)),
            Self::One(one) if Arc::ptr_eq(one, listener) => {}
            Self::One(one) => {
                let both = [Arc::clone(one), Arc::clone(listener)];
                *self = Self::Many(Box::new(both.map(|each| (address(&each), each)).into()));
            }
        }
    }

    /// Removes a listener, if it is there.
    pub(super) fn leave(&mut self, listener: &Arc<Listener>) {
        match self {
            Self::One(one) if Arc::ptr_eq(one, listener) => *self = Self::default(),
            Self::One(_) => {}
            Self::Many(all) => {
                all.remove(&address(listener));
                tables::shrink(all);
            }
        }
    }

    /// Returns the listeners, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Listener>> {
        let (one, many) = match self {
            Self::One(one) => (Some(one), None),
            Self::Many(all) => (None, Some(all.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Returns true if there are none.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Many(all) if all.is_empty())
    }
}

fn address(listener: &Arc<Listener>) -> usize {
    Arc::as_ptr(listener) as usize
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
}
