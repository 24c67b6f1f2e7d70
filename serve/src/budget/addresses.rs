//! The addresses with consumers, and the memory that all addresses of a site hold together.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::address::ClientAddress;

/// The memory that a consumer or a site holds.
#[derive(Default)]
pub(super) struct ShareBytes {
    pub(super) used: AtomicUsize,
    /// The part of them that is lent.
    pub(super) lent: AtomicUsize,
}

impl ShareBytes {
    /// Returns the bytes that are held and not lent, with `more`. Lent memory is taken back when others need it.
    pub(super) fn own_with(&self, more: usize) -> usize {
        self.used.load(Relaxed).saturating_sub(self.lent.load(Relaxed)).saturating_add(more)
    }
}

/// An address with consumers.
pub(super) struct AddressShare {
    pub(super) address: ClientAddress,
    /// The memory of all addresses of its site.
    pub(super) site: Arc<ShareBytes>,
}

/// The addresses with consumers, and their sites.
#[derive(Default)]
pub(super) struct ConsumerAddresses {
    /// Each address with the number of its consumers.
    of_consumers: HashMap<ClientAddress, (Arc<AddressShare>, usize)>,
    /// Each site with the number of its addresses.
    sites: HashMap<ClientAddress, (Arc<ShareBytes>, usize)>,
}

impl ConsumerAddresses {
    /// Counts a new consumer of an address, and returns the address's share.
    pub(super) fn add(&mut self, address: ClientAddress) -> Arc<AddressShare> {
        let sites = &mut self.sites;
        let (share, consumers) = self.of_consumers.entry(address).or_insert_with(|| {
            let (site, addresses) = sites.entry(address.site()).or_default();
            *addresses += 1;
            let site = Arc::clone(site);
            (Arc::new(AddressShare { address, site }), 0)
        });
        *consumers += 1;
        Arc::clone(share)
    }

    /// Removes a consumer. Its address and its site are forgotten with the last one.
    pub(super) fn remove(&mut self, address: ClientAddress) {
        let Some((_, consumers)) = self.of_consumers.get_mut(&address) else { return };
        *consumers -= 1;
        if *consumers > 0 {
            return;
        }
        self.of_consumers.remove(&address);
        let Some((_, addresses)) = self.sites.get_mut(&address.site()) else { return };
        *addresses -= 1;
        if *addresses == 0 {
            self.sites.remove(&address.site());
        }
    }

    /// Returns true if no address has a consumer.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.of_consumers.is_empty() && self.sites.is_empty()
    }
}
