//! The memory that addresses hold, and all addresses of a site together.

use std::collections::HashMap;
use std::iter;
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
    /// Memory that the changes of its streams take which are decoded, and not read to the end of their past.
    pub(super) changing_bytes: AtomicUsize,
    /// The share of its site. `None` for an address that is a site of its own, as one of IPv4 is: each charge counts
    /// once then.
    site: Option<Arc<SiteShare>>,
}

/// The share of all addresses of a site together.
#[derive(Default)]
struct SiteShare {
    held: ShareBytes,
    /// The number of its addresses with consumers.
    addresses: AtomicUsize,
}

impl AddressShare {
    /// Returns all shares that the memory of the address's consumers counts in: its own, and its site's.
    pub(super) fn shares(&self) -> impl Iterator<Item = &ShareBytes> {
        iter::once(&self.held).chain(self.site.as_deref().map(|site| &site.held))
    }

    /// Returns the memory that counts as the address's: its own, or that of its whole site if the addresses of the site
    /// hold less than `little_bytes` on average. The owner of an IPv6 site has thousands of addresses, and a greedy
    /// caller may have neighbours.
    pub(super) fn counted(&self, little_bytes: usize) -> &ShareBytes {
        let Some(site) = &self.site else { return &self.held };
        let little_of_all = site.addresses.load(Relaxed).saturating_mul(little_bytes);
        if site.held.own_with(0) < little_of_all { &site.held } else { &self.held }
    }

    /// Returns a number that identifies the site among those of all addresses that have consumers.
    pub(super) fn site_number(self: &Arc<Self>) -> usize {
        match &self.site {
            Some(site) => Arc::as_ptr(site).addr(),
            None => Arc::as_ptr(self).addr(),
        }
    }
}

/// The addresses with consumers, and their sites.
#[derive(Default)]
pub(super) struct ConsumerAddresses {
    /// Each address with the number of its consumers.
    of_consumers: HashMap<ClientAddress, (Arc<AddressShare>, usize)>,
    /// The IPv6 sites. An address of another kind is a site of its own.
    sites: HashMap<ClientAddress, Arc<SiteShare>>,
}

impl ConsumerAddresses {
    /// Counts a new consumer of an address, and returns the address's share.
    pub(super) fn add(&mut self, address: ClientAddress) -> Arc<AddressShare> {
        let sites = &mut self.sites;
        let (share, consumers) = self.of_consumers.entry(address).or_insert_with(|| {
            let site = matches!(address, ClientAddress::V6(_)).then(|| {
                let site = Arc::clone(sites.entry(address.site()).or_default());
                site.addresses.fetch_add(1, Relaxed);
                site
            });
            let (held, changing_bytes) = (ShareBytes::default(), AtomicUsize::new(0));
            (Arc::new(AddressShare { address, held, changing_bytes, site }), 0)
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
        let Some((share, _)) = self.of_consumers.remove(&address) else { return };
        let Some(site) = &share.site else { return };
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
