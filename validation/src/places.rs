//! The places of the requests that the validation service works on, shared between its callers.
//!
//! A single caller may have all of them. When none is free, the caller with the most places loses that of its newest
//! request to a caller that has at least two fewer. So callers that want more than there are have equal shares.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The places. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct RequestPlaces(Arc<Mutex<TakenPlaces>>);

#[derive(Debug)]
struct TakenPlaces {
    free: usize,
    /// The number of the next request.
    next: u64,
    /// The requests of each caller by their numbers. A caller without a place has no entry. A request has lost its
    /// place when its sender is dropped.
    of_callers: BTreeMap<Arc<str>, BTreeMap<u64, oneshot::Sender<()>>>,
}

/// A place of a request. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct RequestPlace {
    places: RequestPlaces,
    caller: Arc<str>,
    number: u64,
    lost: oneshot::Receiver<()>,
}

impl RequestPlaces {
    /// Creates so many places.
    pub(crate) fn new(count: usize) -> Self {
        let taken = TakenPlaces { free: count, next: 0, of_callers: BTreeMap::new() };
        Self(Arc::new(Mutex::new(taken)))
    }

    /// Takes a place for a request of this caller; `None` if none is free and none can be taken from another caller.
    pub(crate) fn take(&self, caller: &Arc<str>) -> Option<RequestPlace> {
        let mut taken = self.0.lock();
        if taken.free == 0 {
            taken.free_one_for(caller)?;
        }
        taken.free -= 1;
        let number = taken.next;
        taken.next += 1;
        let (sender, lost) = oneshot::channel();
        taken.of_callers.entry(caller.clone()).or_default().insert(number, sender);
        Some(RequestPlace { places: self.clone(), caller: caller.clone(), number, lost })
    }
}

impl TakenPlaces {
    /// Frees a place for this caller; `None` if no other caller has at least two more than it.
    fn free_one_for(&mut self, caller: &Arc<str>) -> Option<()> {
        let own = self.of_callers.get(caller).map_or(0, BTreeMap::len);
        let most = self.of_callers.values_mut().max_by_key(|requests| requests.len())?;
        if most.len() < own + 2 {
            return None;
        }
        most.pop_last();
        self.free += 1;
        Some(())
    }
}

impl RequestPlace {
    /// Waits until this request has lost its place to another caller.
    pub(crate) async fn lost(&mut self) {
        let _ = (&mut self.lost).await; // the sender is dropped, and sends nothing
    }
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        let Some(requests) = taken.of_callers.get_mut(&self.caller) else { return };
        if requests.remove(&self.number).is_none() {
            return; // another caller has the place
        }
        if requests.is_empty() {
            taken.of_callers.remove(&self.caller);
        }
        taken.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_single_caller_has_all_places_and_others_take_their_shares_of_them() {
        let places = RequestPlaces::new(16);
        let take = |caller: &str| -> Vec<RequestPlace> {
            std::iter::from_fn(|| places.take(&caller.into())).collect()
        };
        let mut first = take("a");
        assert_eq!(first.len(), 16, "no other caller wants one");
        let second = take("b");
        assert_eq!(second.len(), 8);
        let has_lost = |place: &mut RequestPlace| place.lost().now_or_never().is_some();
        let lost: Vec<bool> = first.iter_mut().map(has_lost).collect();
        assert_eq!(lost, [[false; 8], [true; 8]].concat(), "the newest ones");
        let third = take("c");
        assert_eq!(third.len(), 5);
        drop((first, second, third));
        assert!(places.0.lock().of_callers.is_empty(), "only callers with a place are known");
        assert_eq!(places.0.lock().free, 16);
    }

    #[test]
    fn as_many_callers_as_places_keep_theirs() {
        let places = RequestPlaces::new(4);
        let taken: Vec<_> = ["a", "b", "c", "d"].map(|it| places.take(&it.into())).into();
        assert!(taken.iter().all(Option::is_some));
        assert!(places.take(&"e".into()).is_none(), "each has one");
        drop(taken);
        assert!(places.take(&"e".into()).is_some());
    }
}
