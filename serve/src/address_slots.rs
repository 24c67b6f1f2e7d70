//! A bound per address on concurrent connections or streams.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::address::ClientAddress;

/// The slots of every address. Holds at most as many addresses as slots are taken. Cheap to clone; clones share state.
#[derive(Debug, Clone)]
pub struct AddressSlots {
    taken: Arc<Mutex<HashMap<ClientAddress, usize>>>,
    per_address_max: usize,
}

/// A taken slot. Dropping it frees the slot.
#[derive(Debug)]
pub struct AddressSlot {
    taken: Arc<Mutex<HashMap<ClientAddress, usize>>>,
    address: ClientAddress,
}

impl AddressSlots {
    /// Creates the slots, at most `per_address_max` for each address.
    #[must_use]
    pub fn new(per_address_max: usize) -> Self {
        Self { taken: Arc::default(), per_address_max }
    }

    /// Takes a slot; `None` if the address has as many slots as it may have.
    #[must_use]
    pub fn take(&self, address: ClientAddress) -> Option<AddressSlot> {
        let mut taken = self.taken.lock();
        let of_address = taken.entry(address).or_insert(0);
        if *of_address >= self.per_address_max {
            if *of_address == 0 {
                taken.remove(&address);
            }
            return None;
        }
        *of_address += 1;
        Some(AddressSlot { taken: self.taken.clone(), address })
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Entry::Occupied(mut of_address) = taken.entry(self.address) {
            *of_address.get_mut() -= 1;
            if *of_address.get() == 0 {
                of_address.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_places_and_gets_them_back() {
        let address = |n: u64| ClientAddress::V6(n);
        let slots = AddressSlots::new(2);
        let (first, _second) = (slots.take(address(1)).unwrap(), slots.take(address(1)).unwrap());
        assert!(slots.take(address(1)).is_none());
        assert!(slots.take(address(2)).is_some(), "others are not touched");
        drop(first);
        let _third = slots.take(address(1)).unwrap();
        assert_eq!(slots.taken.lock().len(), 1, "only addresses with a slot are known");
        assert!(AddressSlots::new(0).take(address(1)).is_none());
    }
}
