//! The places of the requests that the validation service works on, shared between its callers.
//!
//! A single caller may have all of them. When none is free, the network with the most places loses that of a newest
//! request to a caller of a network that has at least two fewer; between callers of one network it is the same. So
//! networks that want more than there are have equal shares, and so have the callers of each. An owner of many
//! addresses in one network thus leaves places to others.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A caller of the service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceCaller {
    /// The name of its network. One person may own all callers of a network.
    pub network: Arc<str>,
    /// The name of the caller. Requests of one name share the turns of one caller.
    pub name: Arc<str>,
}

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
    of_callers: BTreeMap<ServiceCaller, BTreeMap<u64, oneshot::Sender<()>>>,
}

/// A place of a request. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct RequestPlace {
    places: RequestPlaces,
    caller: ServiceCaller,
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
    pub(crate) fn take(&self, caller: &ServiceCaller) -> Option<RequestPlace> {
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
    /// Frees a place for this caller. Returns `None` if no other network has at least two more places than its network,
    /// and no other caller of its network at least two more than it.
    fn free_one_for(&mut self, caller: &ServiceCaller) -> Option<()> {
        let mut of_networks: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for (holder, requests) in &self.of_callers {
            *of_networks.entry(&holder.network).or_default() += requests.len();
        }
        let own = of_networks.get(&caller.network).copied().unwrap_or(0);
        let (network, most) = of_networks.into_iter().max_by_key(|(_, places)| *places)?;
        let (network, least) = if most >= own + 2 {
            (network.clone(), 1)
        } else {
            let own = self.of_callers.get(caller).map_or(0, BTreeMap::len);
            (caller.network.clone(), own + 2)
        };
        let of_network = self.of_callers.iter().filter(|(holder, _)| holder.network == network);
        let (loser, requests) = of_network
            .max_by_key(|(_, requests)| (requests.len(), requests.keys().next_back().copied()))?;
        if requests.len() < least {
            return None;
        }
        let loser = loser.clone();
        let requests = self.of_callers.get_mut(&loser)?;
        requests.pop_last();
        if requests.is_empty() {
            self.of_callers.remove(&loser);
        }
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

    fn caller(network: &str, name: &str) -> ServiceCaller {
        ServiceCaller { network: network.into(), name: name.into() }
    }

    /// Takes as many places as a caller gets.
    fn all(places: &RequestPlaces, caller: &ServiceCaller) -> Vec<RequestPlace> {
        std::iter::from_fn(|| places.take(caller)).collect()
    }

    fn has_lost(place: &mut RequestPlace) -> bool {
        place.lost().now_or_never().is_some()
    }

    #[test]
    fn a_single_caller_has_all_places_and_others_take_their_shares_of_them() {
        let places = RequestPlaces::new(16);
        // Of one network, and of as many.
        for networks in [["n", "n", "n"], ["a", "b", "c"]] {
            let [mut first, second, third] = shares(&places, networks);
            assert_eq!(first.len(), 16, "no other caller wants one");
            assert_eq!((second.len(), third.len()), (8, 5));
            let lost = first.iter_mut().map(has_lost).filter(|is_lost| *is_lost).count();
            assert!((8..16).contains(&lost), "{lost}");
            drop((first, second, third));
            assert!(places.0.lock().of_callers.is_empty(), "only callers with a place are known");
            assert_eq!(places.0.lock().free, 16);
        }
        let mut first = all(&places, &caller("n", "a"));
        let _second = all(&places, &caller("n", "b"));
        let lost: Vec<bool> = first.iter_mut().map(has_lost).collect();
        assert_eq!(lost, [[false; 8], [true; 8]].concat(), "the newest ones");
    }

    /// Lets the callers `a`, `b` and `c` of these networks take what they get, one after another.
    fn shares(places: &RequestPlaces, networks: [&str; 3]) -> [Vec<RequestPlace>; 3] {
        let [a, b, c] = networks;
        [caller(a, "a"), caller(b, "b"), caller(c, "c")].map(|caller| all(places, &caller))
    }

    /// One host may have an IPv6 /48, which is 65,536 addresses of callers.
    #[test]
    fn many_addresses_of_one_network_leave_places_to_another_network() {
        let places = RequestPlaces::new(16);
        let flood: Vec<_> = (0..16).map(|number| caller("flood", &number.to_string())).collect();
        let mut first: Vec<_> = flood.iter().filter_map(|caller| places.take(caller)).collect();
        assert_eq!(first.len(), 16);
        assert!(places.take(&caller("flood", "more")).is_none(), "each has one");
        let other = all(&places, &caller("other", "a"));
        assert_eq!(other.len(), 8);
        let lost: Vec<bool> = first.iter_mut().map(has_lost).collect();
        assert_eq!(lost, [[false; 8], [true; 8]].concat(), "the newest ones");
        // Within the network that has its share, callers have theirs.
        let second = all(&places, &caller("other", "b"));
        assert_eq!(second.len(), 4);
        assert!(places.take(&flood[15]).is_none(), "its network has its share");
        drop((first, other, second));
        assert!(places.0.lock().of_callers.is_empty(), "only callers with a place are known");
        assert_eq!(places.0.lock().free, 16);
    }

    #[test]
    fn as_many_callers_as_places_keep_theirs() {
        let places = RequestPlaces::new(4);
        let taken: Vec<_> = ["a", "b", "c", "d"].map(|it| places.take(&caller(it, it))).into();
        assert!(taken.iter().all(Option::is_some));
        assert!(places.take(&caller("e", "e")).is_none(), "each has one");
        drop(taken);
        assert!(places.take(&caller("e", "e")).is_some());
    }
}
