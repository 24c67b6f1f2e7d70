//! The slots of connections: a bounded number in total, and for each address.
//!
//! A slot is a file descriptor of the process; the bound keeps the other descriptors for the database. When all slots
//! are taken, a newcomer replaces a connection of the site with the most connections, if that has at least two more
//! than the newcomer's site, and otherwise one of its own site's address with the most, by the same rule. A site is an
//! IPv4 address, or an IPv6 /48, whose owner has more addresses than there are slots. A flood from few sites therefore
//! cannot lock out other clients. A flood from as many sites as there are slots can, until its connections end.
//!
//! A replaced connection keeps its descriptor for a moment longer, and only a few spare slots cover that. The more
//! connections a site has, the fewer spare slots it may use. Sites of a flood that replace each other's connections
//! thus leave spare slots for a newcomer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::address::ClientAddress;

/// Part of the slots, as a divisor, that newcomers may take while replaced connections are still ending. A guess:
/// these end within moments.
const SPARE_DIVISOR: usize = 8;

/// The bounds of a listener's connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// Largest number of connections in total.
    pub(crate) all_max: usize,
    /// Largest number of connections of an address.
    pub(crate) per_address_max: usize,
}

/// The reason there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSlotError {
    /// All slots are taken, and no site or address has many more connections than the newcomer's.
    All,
    /// The address has as many slots as it may have.
    Address,
}

/// The slots of a listener. Cheap to clone; clones share state.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionSlots(Arc<ConnectionSlotsState>);

#[derive(Debug)]
struct ConnectionSlotsState {
    limits: ConnectionLimits,
    taken: Mutex<TakenSlots>,
}

#[derive(Debug, Default)]
struct TakenSlots {
    /// Slots that are taken, those of unnamed clients included.
    open: usize,
    /// Slots whose connections were asked to close.
    ending: usize,
    numbers: u64,
    of_site: HashMap<ClientAddress, SiteSlots>,
    /// All sites, ordered by the number of their connections that have not been asked to close.
    by_count: BTreeSet<(usize, ClientAddress)>,
}

/// The slots of one site whose connections have not been asked to close.
#[derive(Debug, Default)]
struct SiteSlots {
    open: usize,
    of_address: HashMap<ClientAddress, BTreeMap<u64, CancellationToken>>,
    /// All addresses, ordered by the number of their connections.
    by_count: BTreeSet<(usize, ClientAddress)>,
}

/// A taken slot. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    state: Arc<ConnectionSlotsState>,
    number: u64,
    /// `None` for a proxy that has named no client: it has many.
    address: Option<ClientAddress>,
    end: CancellationToken,
}

impl ConnectionSlots {
    pub(crate) fn new(limits: ConnectionLimits) -> Self {
        Self(Arc::new(ConnectionSlotsState { limits, taken: Mutex::default() }))
    }

    /// Takes a slot for a connection of `address`, or of a proxy that has named no client yet.
    ///
    /// # Errors
    /// [`NoSlotError`]; the connection has to be closed.
    pub(crate) fn take(
        &self,
        address: Option<ClientAddress>,
    ) -> Result<ConnectionSlot, NoSlotError> {
        let limits = self.0.limits;
        let mut taken = self.0.taken.lock();
        if address.is_some_and(|address| taken.count(address) >= limits.per_address_max) {
            return Err(NoSlotError::Address);
        }
        let of_site = address.map_or(0, |address| taken.site_count(address.site()));
        let spare = limits.all_max / SPARE_DIVISOR;
        let is_full = taken.open - taken.ending >= limits.all_max - spare;
        let may_replace = || taken.ending < (spare / (of_site + 1)).max(1);
        if taken.open >= limits.all_max || is_full && !(may_replace() && taken.end_one(address)) {
            return Err(NoSlotError::All);
        }
        taken.open += 1;
        taken.numbers += 1;
        let (number, end) = (taken.numbers, CancellationToken::new());
        if let Some(address) = address {
            taken.add(address, number, end.clone());
        }
        drop(taken);
        Ok(ConnectionSlot { state: self.0.clone(), number, address, end })
    }

    /// Returns true while connections that were asked to close are still open.
    pub(crate) fn are_ending(&self) -> bool {
        self.0.taken.lock().ending > 0
    }

    /// Returns the number of slots that are taken.
    pub(crate) fn open(&self) -> usize {
        self.0.taken.lock().open
    }
}

impl ConnectionSlot {
    /// Assigns the slot to the client that a proxy has named.
    ///
    /// # Errors
    /// [`NoSlotError::Address`]; the connection has to be closed.
    pub(crate) fn name(&mut self, address: ClientAddress) -> Result<(), NoSlotError> {
        debug_assert!(self.address.is_none(), "a client is named once");
        let mut taken = self.state.taken.lock();
        if taken.count(address) >= self.state.limits.per_address_max {
            return Err(NoSlotError::Address);
        }
        taken.add(address, self.number, self.end.clone());
        self.address = Some(address);
        Ok(())
    }

    /// Completes when the connection must close because another address gets the slot.
    pub(crate) async fn ended(&self) {
        self.end.cancelled().await;
    }
}

impl Drop for ConnectionSlot {
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

impl TakenSlots {
    fn count(&self, address: ClientAddress) -> usize {
        self.of_site.get(&address.site()).map_or(0, |site| site.count(address))
    }

    fn site_count(&self, site: ClientAddress) -> usize {
        self.of_site.get(&site).map_or(0, |site| site.open)
    }

    fn add(&mut self, address: ClientAddress, number: u64, end: CancellationToken) {
        let key = address.site();
        let site = self.of_site.entry(key).or_default();
        self.by_count.remove(&(site.open, key));
        site.add(address, number, end);
        self.by_count.insert((site.open, key));
    }

    fn remove(&mut self, address: ClientAddress, number: u64) -> Option<CancellationToken> {
        let key = address.site();
        let site = self.of_site.get_mut(&key)?;
        let before = site.open;
        let end = site.remove(address, number)?;
        self.by_count.remove(&(before, key));
        if before > 1 {
            self.by_count.insert((before - 1, key));
        } else {
            self.of_site.remove(&key);
        }
        Some(end)
    }

    /// Asks a connection to close for a newcomer. The newcomer's address is unknown if it is a proxy. Returns false if
    /// no connection may be closed for it.
    fn end_one(&mut self, newcomer: Option<ClientAddress>) -> bool {
        let Some((address, number)) = self.first_to_end(newcomer) else { return false };
        let Some(end) = self.remove(address, number) else { return false };
        self.ending += 1;
        end.cancel();
        true
    }

    /// Returns the connection that makes room for a newcomer: the newest one of the largest address at the site with
    /// the most connections, if that site has at least two more than the newcomer's site. Otherwise it is the newest
    /// one of the largest address at the newcomer's own site, if that address has at least two more than the
    /// newcomer's. The newest is chosen so that connections from before a flood stay.
    fn first_to_end(&self, newcomer: Option<ClientAddress>) -> Option<(ClientAddress, u64)> {
        let &(most, site) = self.by_count.last()?;
        let own_site = newcomer.map_or(0, |address| self.site_count(address.site()));
        if most >= own_site + 2 {
            return self.of_site.get(&site)?.newest_of_largest(0);
        }
        let own = newcomer?;
        self.of_site.get(&own.site())?.newest_of_largest(self.count(own) + 2)
    }
}

impl SiteSlots {
    fn count(&self, address: ClientAddress) -> usize {
        self.of_address.get(&address).map_or(0, BTreeMap::len)
    }

    fn add(&mut self, address: ClientAddress, number: u64, end: CancellationToken) {
        let of_address = self.of_address.entry(address).or_default();
        self.by_count.remove(&(of_address.len(), address));
        of_address.insert(number, end);
        self.by_count.insert((of_address.len(), address));
        self.open += 1;
    }

    fn remove(&mut self, address: ClientAddress, number: u64) -> Option<CancellationToken> {
        let of_address = self.of_address.get_mut(&address)?;
        let before = of_address.len();
        let end = of_address.remove(&number)?;
        self.open -= 1;
        self.by_count.remove(&(before, address));
        if before > 1 {
            self.by_count.insert((before - 1, address));
        } else {
            self.of_address.remove(&address);
        }
        Some(end)
    }

    /// Returns the newest connection of the address with the most connections; `None` if it has fewer than `least`.
    fn newest_of_largest(&self, least: usize) -> Option<(ClientAddress, u64)> {
        let &(most, address) = self.by_count.last()?;
        let (&newest, _) = self.of_address.get(&address)?.last_key_value()?;
        (most >= least).then_some((address, newest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slots(all_max: usize, per_address_max: usize) -> ConnectionSlots {
        ConnectionSlots::new(ConnectionLimits { all_max, per_address_max })
    }

    /// An address in a site of its own.
    fn address(number: u64) -> Option<ClientAddress> {
        Some(ClientAddress::V6(number << 16))
    }

    /// Several addresses of one site.
    fn of_site(number: u64) -> Option<ClientAddress> {
        Some(ClientAddress::V6((1 << 40) | number))
    }

    #[test]
    fn an_address_has_its_places_and_gets_them_back() {
        let slots = slots(usize::MAX, 2);
        let first = slots.take(address(1)).unwrap();
        let _second = slots.take(address(1)).unwrap();
        assert_eq!(slots.take(address(1)).unwrap_err(), NoSlotError::Address);
        assert!(slots.take(address(2)).is_ok(), "others are not touched");
        drop(first);
        let _third = slots.take(address(1)).unwrap();
        let mut proxied = slots.take(None).unwrap();
        assert_eq!(proxied.name(address(1).unwrap()), Err(NoSlotError::Address));
        assert_eq!(proxied.name(address(3).unwrap()), Ok(()));
        assert_eq!(slots.0.taken.lock().of_site.len(), 2, "only sites with a slot are known");
    }

    #[test]
    fn a_flood_from_few_addresses_keeps_no_other_out() {
        let slots = slots(80, usize::MAX);
        let good = slots.take(address(9)).unwrap();
        let mut flood = Vec::new();
        for number in 0..1000 {
            flood.extend(slots.take(address(number % 2)));
        }
        assert!((65..=80).contains(&slots.open()), "{}", slots.open());
        for newcomer in 100..130 {
            let slot = slots.take(address(newcomer)).unwrap();
            assert!(!slot.end.is_cancelled());
            flood.retain(|it: &ConnectionSlot| !it.end.is_cancelled());
            flood.push(slot);
        }
        assert!(!good.end.is_cancelled(), "the one that was there before has its slot");
        let newcomers = flood.iter().filter(|it| it.address > address(10)).count();
        assert_eq!(newcomers, 30);
    }

    /// The owner of an IPv6 /48 has 65,536 addresses.
    #[test]
    fn a_flood_from_all_addresses_of_a_site_keeps_no_other_out() {
        let slots = slots(80, usize::MAX);
        let good = slots.take(address(9)).unwrap();
        let mut held: Vec<_> =
            (0..1000).filter_map(|number| slots.take(of_site(number)).ok()).collect();
        assert_eq!(held.len(), 69, "all but the spare ones");
        for newcomer in 100..130 {
            held.push(slots.take(address(newcomer)).unwrap());
            held.retain(|it| !it.end.is_cancelled());
        }
        assert!(!good.end.is_cancelled(), "the one that was there before has its slot");
        let newcomers = held.iter().filter(|it| it.address < of_site(0)).count();
        assert_eq!(newcomers, 30);
        // Within the site, an address with one connection more than another loses none to it.
        assert_eq!(slots.take(of_site(2000)).unwrap_err(), NoSlotError::All);
    }

    #[test]
    fn an_address_with_many_slots_keeps_no_other_of_its_site_out() {
        let slots = slots(16, usize::MAX);
        let mut held: Vec<_> = (0..14).map(|_| slots.take(of_site(1)).unwrap()).collect();
        for number in 2..6 {
            held.push(slots.take(of_site(number)).unwrap());
            held.retain(|it| !it.end.is_cancelled());
        }
        let others = held.iter().filter(|it| it.address != of_site(1)).count();
        assert_eq!((others, held.len()), (4, 14));
    }

    #[test]
    fn a_flood_that_takes_its_own_places_leaves_spare_ones() {
        let slots = slots(48, usize::MAX);
        let flood = (0..42).map(|number| if number < 10 { 1 + number % 5 } else { 0 });
        let mut held: Vec<_> = flood.map(|number| slots.take(address(number)).unwrap()).collect();
        // No connection that was asked to close has ended yet.
        for number in 0..100 {
            held.extend(slots.take(address(1 + number % 5)));
        }
        for newcomer in 100..103 {
            held.push(slots.take(address(newcomer)).unwrap());
        }
        assert!(slots.are_ending());
        held.retain(|it| !it.end.is_cancelled());
        assert!(!slots.are_ending());
    }

    #[test]
    fn as_many_addresses_as_places_are_all_there_is() {
        let slots = slots(8, 1);
        let all: Vec<_> = (0..20).map(|number| slots.take(address(number))).collect();
        assert_eq!(all.iter().filter(|it| it.is_ok()).count(), 7);
        assert!(all[7..].iter().all(|it| *it.as_ref().unwrap_err() == NoSlotError::All));
        drop(all);
        assert_eq!(slots.open(), 0);
    }

    proptest! {
        /// There are never more connections than slots, and the counts always agree.
        #[test]
        fn counts_agree(steps in proptest::collection::vec((0u8..3, 0u64..5), 1..200)) {
            let slots = slots(12, 6);
            let mut held: Vec<ConnectionSlot> = Vec::new();
            for (what, number) in steps {
                match what {
                    0 if number % 2 == 0 => held.extend(slots.take(of_site(number))),
                    0 => held.extend(slots.take(address(number))),
                    1 => held.extend(slots.take(None)),
                    _ if !held.is_empty() => drop(held.remove(usize::try_from(number).unwrap() % held.len())),
                    _ => {}
                }
                if let Some(unnamed) = held.iter_mut().find(|it| it.address.is_none()) {
                    let _ = unnamed.name(of_site(number).unwrap());
                }
                let taken = slots.0.taken.lock();
                let ending = held.iter().filter(|it| it.end.is_cancelled()).count();
                prop_assert_eq!((taken.open, taken.ending), (held.len(), ending));
                prop_assert!(taken.open <= 12);
                let counted: usize = taken.of_site.values().map(|site| site.open).sum();
                let unnamed = held.iter().filter(|it| it.address.is_none()).count();
                prop_assert_eq!(counted + unnamed + ending, held.len());
                for site in taken.of_site.values() {
                    let sizes = site.of_address.iter().map(|(address, all)| (all.len(), *address));
                    let by_count: BTreeSet<_> = sizes.collect();
                    prop_assert_eq!(site.open, by_count.iter().map(|(count, _)| count).sum::<usize>());
                    prop_assert_eq!(&site.by_count, &by_count);
                }
                let by_count: BTreeSet<_> =
                    taken.of_site.iter().map(|(key, site)| (site.open, *key)).collect();
                prop_assert_eq!(&taken.by_count, &by_count);
            }
        }
    }
}
