//! The places of the requests that the validation service works on, shared between its callers.
//!
//! A caller takes at most as many places as it leaves free. So a single caller gets half of them, however many requests
//! it sends, and others find a place. Several callers together may take all: five of them have the 16 places.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

/// The places. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct RequestPlaces(Arc<Mutex<TakenPlaces>>);

#[derive(Debug)]
struct TakenPlaces {
    free: usize,
    /// The places of each caller. A caller without a place has no entry.
    of_callers: HashMap<Box<str>, usize>,
}

/// A place of a request. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct RequestPlace {
    places: RequestPlaces,
    caller: Box<str>,
}

impl RequestPlaces {
    /// Creates so many places.
    pub(crate) fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(TakenPlaces { free: count, of_callers: HashMap::new() })))
    }

    /// Takes a place for a request of this caller; `None` if the caller has as many as are free.
    pub(crate) fn take(&self, caller: &str) -> Option<RequestPlace> {
        let mut taken = self.0.lock();
        let own = taken.of_callers.get(caller).copied().unwrap_or_default();
        if own >= taken.free {
            return None;
        }
        taken.free -= 1;
        taken.of_callers.insert(caller.into(), own + 1);
        Some(RequestPlace { places: self.clone(), caller: caller.into() })
    }
}

impl RequestPlace {
    /// Returns the name of the request's caller.
    pub(crate) fn caller(&self) -> &str {
        &self.caller
    }
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        taken.free += 1;
        if let Entry::Occupied(mut own) = taken.of_callers.entry(self.caller.clone()) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_takes_as_many_places_as_it_leaves_free() {
        let places = RequestPlaces::new(16);
        let take = |caller: &str| -> Vec<RequestPlace> {
            std::iter::from_fn(|| places.take(caller)).collect()
        };
        let all = ["a", "b", "c", "d", "e", "f"].map(take);
        assert_eq!(all.each_ref().map(Vec::len), [8, 4, 2, 1, 1, 0]);
        drop(all);
        assert!(places.0.lock().of_callers.is_empty(), "only callers with a place are known");
        assert_eq!(places.0.lock().free, 16);
        assert_eq!(take("f").len(), 8);
    }
}
