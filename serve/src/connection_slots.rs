//! The slots of connections: a bounded number in total, and for each address.
//!
//! A slot is a file descriptor of the process; the bound keeps the other descriptors for the database. When all slots
//! are taken, a newcomer replaces a connection of the address with the most connections, if that has at least two more
//! than the newcomer's address. A flood from few addresses therefore cannot lock out other clients. A flood from as
//! many addresses as there are slots can, until its connections end.
//!
//! A replaced connection keeps its descriptor for a moment longer, and only a few spare slots cover that. The more
//! connections an address has, the fewer spare slots it may use. Addresses of a flood that replace each other's
//! connections thus leave spare slots for a newcomer.

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
    /// All slots are taken, and no address has many more connections than the newcomer's.
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
    of_address: HashMap<ClientAddress, BTreeMap<u64, CancellationToken>>,
    /// All addresses, ordered by the number of their connections that have not been asked to close.
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
        let own = address.map_or(0, |address| taken.count(address));
        if address.is_some() && own >= limits.per_address_max {
            return Err(NoSlotError::Address);
        }
        let spare = limits.all_max / SPARE_DIVISOR;
        let is_full = taken.open - taken.ending >= limits.all_max - spare;
        let may_replace = || taken.ending < (spare / (own + 1)).max(1);
        if taken.open >= limits.all_max || is_full && !(may_replace() && taken.end_one(own)) {
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

    /// Asks the newest connection of the address with the most connections to close. Returns false if no address
    /// has at least two more than `own`. The newest is chosen so that connections from before a flood stay.
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

    fn slots(all_max: usize, per_address_max: usize) -> ConnectionSlots {
        ConnectionSlots::new(ConnectionLimits { all_max, per_address_max })
    }

    fn address(number: u64) -> Option<ClientAddress> {
        Some(ClientAddress::V6(number))
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
        assert_eq!(proxied.name(ClientAddress::V6(1)), Err(NoSlotError::Address));
        assert_eq!(proxied.name(ClientAddress::V6(3)), Ok(()));
        assert_eq!(
            slots.0.taken.lock().of_address.len(),
            2,
            "only addresses with a slot are known"
        );
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
                    0 => held.extend(slots.take(address(number))),
                    1 => held.extend(slots.take(None)),
                    _ if !held.is_empty() => drop(held.remove(usize::try_from(number).unwrap() % held.len())),
                    _ => {}
                }
                if let Some(unnamed) = held.iter_mut().find(|it| it.address.is_none()) {
                    let _ = unnamed.name(ClientAddress::V6(number));
                }
                let taken = slots.0.taken.lock();
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
