//! The places of connections: a bounded number in all, and for each address.
//!
//! A place is a descriptor of the process, and one that callers do not have is left for the database.
//! When all places are taken, a newcomer gets one at the cost of the address that has most, if that
//! has at least two more than the newcomer's: a flood from few addresses keeps no other out. A flood from as
//! many addresses as there are places does, until its connections end.
//!
//! The connection that is replaced needs its descriptor for a moment longer, and few places are spare for that. The
//! more connections an address has, the fewer of the spare places it may use: addresses of a flood that take places
//! from one another leave spare ones to a newcomer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::address::ClientAddress;

/// Part of the places that is given to newcomers while the connections that they replace are ending, as a
/// divisor. A guess: those end within moments.
const SPARE_DIVISOR: usize = 8;

/// The bounds of a listener's connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlaceLimits {
    /// Connections in all.
    pub(crate) all_max: usize,
    /// Connections of one address.
    pub(crate) per_address_max: usize,
}

/// The reason there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// All places are taken, and no address has many more than the newcomer's.
    All,
    /// The address has all the places that it may have.
    Address,
}

/// The places of a listener. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<PlacesState>);

#[derive(Debug)]
struct PlacesState {
    limits: PlaceLimits,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Places that are taken, those of unnamed clients included.
    open: usize,
    /// Places whose connections have been told to end.
    ending: usize,
    numbers: u64,
    of_address: HashMap<ClientAddress, BTreeMap<u64, CancellationToken>>,
    /// Every address by the number of its connections that have not been told to end.
    by_count: BTreeSet<(usize, ClientAddress)>,
}

/// A place that is taken; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    state: Arc<PlacesState>,
    number: u64,
    /// `None` for a proxy that has named no client: it stands for many.
    address: Option<ClientAddress>,
    end: CancellationToken,
}

impl Places {
    pub(crate) fn new(limits: PlaceLimits) -> Self {
        Self(Arc::new(PlacesState { limits, taken: Mutex::default() }))
    }

    /// Takes a place for a connection of `address`, or of a proxy that has named no client yet.
    ///
    /// # Errors
    /// [`NoPlace`]; the connection has to be closed.
    pub(crate) fn take(&self, address: Option<ClientAddress>) -> Result<Place, NoPlace> {
        let limits = self.0.limits;
        let mut taken = self.0.taken.lock();
        let own = address.map_or(0, |address| taken.count(address));
        if address.is_some() && own >= limits.per_address_max {
            return Err(NoPlace::Address);
        }
        let spare = limits.all_max / SPARE_DIVISOR;
        let is_full = taken.open - taken.ending >= limits.all_max - spare;
        let may_replace = || taken.ending < (spare / (own + 1)).max(1);
        if taken.open >= limits.all_max || is_full && !(may_replace() && taken.end_one(own)) {
            return Err(NoPlace::All);
        }
        taken.open += 1;
        taken.numbers += 1;
        let (number, end) = (taken.numbers, CancellationToken::new());
        if let Some(address) = address {
            taken.add(address, number, end.clone());
        }
        drop(taken);
        Ok(Place { state: self.0.clone(), number, address, end })
    }

    /// Returns true while connections that were told to end have not ended.
    pub(crate) fn are_ending(&self) -> bool {
        self.0.taken.lock().ending > 0
    }

    /// Returns the number of places that are taken.
    pub(crate) fn open(&self) -> usize {
        self.0.taken.lock().open
    }
}

impl Place {
    /// Makes the place that of a client whom a proxy has named.
    ///
    /// # Errors
    /// [`NoPlace::Address`]; the connection has to be closed.
    pub(crate) fn name(&mut self, address: ClientAddress) -> Result<(), NoPlace> {
        debug_assert!(self.address.is_none(), "a client is named once");
        let mut taken = self.state.taken.lock();
        if taken.count(address) >= self.state.limits.per_address_max {
            return Err(NoPlace::Address);
        }
        taken.add(address, self.number, self.end.clone());
        self.address = Some(address);
        Ok(())
    }

    /// Returns when the connection has to end, because another address is to have the place.
    pub(crate) async fn ended(&self) {
        self.end.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.state.taken.lock();
        taken.open -= 1;
        let Some(address) = self.address else { return };
        if self.end.is_cancelled() {
            taken.ending -= 1;
        } else {
            taken.remove(address, self.number);
        }
    }
}

impl Taken {
    fn count(&self, address: ClientAddress) -> usize {
        self.of_address.get(&address).map_or(0, BTreeMap::len)
    }

    fn add(&mut self, address: ClientAddress, number: u64, end: CancellationToken) {
        let of_address = self.of_address.entry(address).or_default();
        self.by_count.remove(&(of_address.len(), address));
        of_address.insert(number, end);
        self.by_count.insert((of_address.len(), address));
    }

    fn remove(&mut self, address: ClientAddress, number: u64) -> Option<CancellationToken> {
        let of_address = self.of_address.get_mut(&address)?;
        let before = of_address.len();
        let end = of_address.remove(&number)?;
        self.by_count.remove(&(before, address));
        if before > 1 {
            self.by_count.insert((before - 1, address));
        } else {
            self.of_address.remove(&address);
        }
        Some(end)
    }

    /// Tells the newest connection of the address with most to end. Returns false if no address has two
    /// more than `own`. The newest one: connections that were there before a flood stay.
    fn end_one(&mut self, own: usize) -> bool {
        let Some(&(most, address)) = self.by_count.last() else { return false };
        if most < own + 2 {
            return false;
        }
        let newest = self.of_address.get(&address).and_then(|all| all.keys().next_back()).copied();
        let Some(end) = newest.and_then(|newest| self.remove(address, newest)) else {
            return false;
        };
        self.ending += 1;
        end.cancel();
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(all_max: usize, per_address_max: usize) -> Places {
        Places::new(PlaceLimits { all_max, per_address_max })
    }

    fn address(number: u64) -> Option<ClientAddress> {
        Some(ClientAddress::V6(number))
    }

    #[test]
    fn an_address_has_its_places_and_gets_them_back() {
        let places = places(usize::MAX, 2);
        let first = places.take(address(1)).unwrap();
        let _second = places.take(address(1)).unwrap();
        assert_eq!(places.take(address(1)).unwrap_err(), NoPlace::Address);
        assert!(places.take(address(2)).is_ok(), "others are not touched");
        drop(first);
        let _third = places.take(address(1)).unwrap();
        let mut proxied = places.take(None).unwrap();
        assert_eq!(proxied.name(ClientAddress::V6(1)), Err(NoPlace::Address));
        assert_eq!(proxied.name(ClientAddress::V6(3)), Ok(()));
        assert_eq!(
            places.0.taken.lock().of_address.len(),
            2,
            "only addresses with a place are known"
        );
    }

    #[test]
    fn a_flood_from_few_addresses_keeps_no_other_out() {
        let places = places(80, usize::MAX);
        let good = places.take(address(9)).unwrap();
        let mut flood = Vec::new();
        for number in 0..1000 {
            flood.extend(places.take(address(number % 2)));
        }
        assert!((65..=80).contains(&places.open()), "{}", places.open());
        for newcomer in 100..130 {
            let place = places.take(address(newcomer)).unwrap();
            assert!(!place.end.is_cancelled());
            flood.retain(|it: &Place| !it.end.is_cancelled());
            flood.push(place);
        }
        assert!(!good.end.is_cancelled(), "the one that was there before has its place");
        let newcomers = flood.iter().filter(|it| it.address > address(10)).count();
        assert_eq!(newcomers, 30);
    }

    #[test]
    fn a_flood_that_takes_its_own_places_leaves_spare_ones() {
        let places = places(48, usize::MAX);
        let flood = (0..42).map(|number| if number < 10 { 1 + number % 5 } else { 0 });
        let mut held: Vec<_> = flood.map(|number| places.take(address(number)).unwrap()).collect();
        // Nothing that was told to end has ended yet.
        for number in 0..100 {
            held.extend(places.take(address(1 + number % 5)));
        }
        for newcomer in 100..103 {
            held.push(places.take(address(newcomer)).unwrap());
        }
        assert!(places.are_ending());
        held.retain(|it| !it.end.is_cancelled());
        assert!(!places.are_ending());
    }

    #[test]
    fn as_many_addresses_as_places_are_all_there_is() {
        let places = places(8, 1);
        let all: Vec<_> = (0..20).map(|number| places.take(address(number))).collect();
        assert_eq!(all.iter().filter(|it| it.is_ok()).count(), 7);
        assert!(all[7..].iter().all(|it| *it.as_ref().unwrap_err() == NoPlace::All));
        drop(all);
        assert_eq!(places.open(), 0);
    }

    proptest! {
        /// There are never more connections than places, and every number is right at any time.
        #[test]
        fn counts_agree(steps in proptest::collection::vec((0u8..3, 0u64..5), 1..200)) {
            let places = places(12, 6);
            let mut held: Vec<Place> = Vec::new();
            for (what, number) in steps {
                match what {
                    0 => held.extend(places.take(address(number))),
                    1 => held.extend(places.take(None)),
                    _ if !held.is_empty() => drop(held.remove(usize::try_from(number).unwrap() % held.len())),
                    _ => {}
                }
                if let Some(unnamed) = held.iter_mut().find(|it| it.address.is_none()) {
                    let _ = unnamed.name(ClientAddress::V6(number));
                }
                let taken = places.0.taken.lock();
                let ending = held.iter().filter(|it| it.end.is_cancelled()).count();
                prop_assert_eq!((taken.open, taken.ending), (held.len(), ending));
                prop_assert!(taken.open <= 12);
                let counted: usize = taken.of_address.values().map(BTreeMap::len).sum();
                let unnamed = held.iter().filter(|it| it.address.is_none()).count();
                prop_assert_eq!(counted + unnamed + ending, held.len());
                let by_count: BTreeSet<_> =
                    taken.of_address.iter().map(|(address, all)| (all.len(), *address)).collect();
                prop_assert_eq!(&taken.by_count, &by_count);
            }
        }
    }
}
