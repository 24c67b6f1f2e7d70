//! The memory that addresses hold, and all addresses of a site together.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::address::ClientAddress;

/// The memory that a consumer, an address or a site holds.
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

/// The share of an address.
pub(super) struct AddressShare {
    pub(super) address: ClientAddress,
    pub(super) held: ShareBytes,
    /// The share of its site.
    pub(super) site: Arc<SiteShare>,
}

/// The share of all addresses of a site together.
#[derive(Default)]
pub(super) struct SiteShare {
    pub(super) held: ShareBytes,
    /// The number of its addresses with consumers.
    addresses: AtomicUsize,
}

impl AddressShare {
    /// Returns the memory that counts as the address's: its own, or that of its whole site if the addresses of the site
    /// hold less than `little_bytes` on average. The owner of a site of IPv6 has thousands of addresses, and a greedy
    /// caller may have neighbours.
    pub(super) fn counted(&self, little_bytes: usize) -> &ShareBytes {
        let addresses = self.site.addresses.load(Relaxed).max(1);
        let is_of_many = self.site.held.own_with(0) / addresses < little_bytes;
        if is_of_many { &self.site.held } else { &self.held }
    }
}

/// The addresses with consumers, and their sites.
#[derive(Default)]
pub(super) struct ConsumerAddresses {
    /// Each address with the number of its consumers.
    of_consumers: HashMap<ClientAddress, (Arc<AddressShare>, usize)>,
    sites: HashMap<ClientAddress, Arc<SiteShare>>,
}

impl ConsumerAddresses {
    /// Counts a new consumer of an address, and returns the address's share.
    pub(super) fn add(&mut self, address: ClientAddress) -> Arc<AddressShare> {
        let sites = &mut self.sites;
        let (share, consumers) = self.of_consumers.entry(address).or_insert_with(|| {
            let site = Arc::clone(sites.entry(address.site()).or_default());
            site.addresses.fetch_add(1, Relaxed);
            (Arc::new(AddressShare { address, held: ShareBytes::default(), site }), 0)
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
        let Some(site) = self.sites.get(&address.site()) else { return };
        if site.addresses.fetch_sub(1, Relaxed) == 1 {
            self.sites.remove(&address.site());
        }
    }

    /// Returns true if no address has a consumer.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.of_consumers.is_empty() && self.sites.is_empty()
    }
}
