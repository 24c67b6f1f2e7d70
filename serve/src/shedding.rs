//! Chooses the consumers to close when the memory for callers is short. Works on plain values: [`budget`] gathers the
//! consumers and closes the chosen ones.
//!
//! [`budget`]: crate::budget

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::address::ClientAddress;

/// A connection, or a call of a client behind a proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Consumer {
    pub(crate) address: ClientAddress,
    /// Its position in the order in which consumers began.
    pub(crate) number: u64,
    pub(crate) bytes: usize,
    /// True for a connection without calls.
    pub(crate) is_idle: bool,
    /// True if it has lent memory beyond its share.
    pub(crate) is_lent: bool,
}

/// Chooses consumers that together hold `needed_bytes`, or less if no other may be closed. The order is:
///
/// 1. consumers with lent memory, the largest first, regardless of their address;
/// 2. consumers of sites that still hold `worth_bytes`: of the largest site the largest address. Within an address come
///    its idle connections, the oldest first, and then the consumers with the most memory;
/// 3. idle connections of small sites.
///
/// A client reopens an idle connection without its user noticing, so closing one costs least. The newest idle
/// connections are spared, because their first call may be on its way.
pub(crate) fn choose(
    consumers: impl IntoIterator<Item = Consumer>,
    needed_bytes: usize,
    worth_bytes: usize,
) -> Vec<Consumer> {
    let (mut lent, others): (Vec<_>, Vec<_>) = consumers.into_iter().partition(|it| it.is_lent);
    lent.sort_unstable_by_key(|it| Reverse(it.bytes));
    let (mut chosen, mut chosen_bytes) = (Vec::new(), 0);
    for consumer in lent {
        if chosen_bytes < needed_bytes {
            chosen_bytes += consumer.bytes;
            chosen.push(consumer);
        }
    }
    let mut sites: HashMap<ClientAddress, SiteConsumers> = HashMap::new();
    for consumer in others {
        sites.entry(consumer.address.site()).or_default().push(consumer);
    }
    let mut largest: BinaryHeap<(usize, ClientAddress)> =
        sites.iter_mut().map(|(address, site)| (site.sort(), *address)).collect();
    while chosen_bytes < needed_bytes
        && let Some((bytes, address)) = largest.pop().filter(|(bytes, _)| *bytes >= worth_bytes)
    {
        let Some(first) = sites.get_mut(&address).and_then(SiteConsumers::pop) else { continue };
        chosen_bytes += first.bytes;
        chosen.push(first);
        largest.push((bytes - first.bytes, address));
    }
    let rest = sites.into_values().flat_map(|site| site.of_address.into_values().flatten());
    let mut idle: Vec<_> = rest.filter(|it| it.is_idle).collect();
    idle.sort_unstable_by_key(|it| it.number);
    for consumer in idle {
        if chosen_bytes >= needed_bytes {
            break;
        }
        chosen_bytes += consumer.bytes;
        chosen.push(consumer);
    }
    chosen
}

/// The consumers of one site.
#[derive(Debug, Default)]
struct SiteConsumers {
    /// The consumers of each address.
    of_address: HashMap<ClientAddress, Vec<Consumer>>,
    /// The addresses by the bytes that their consumers hold.
    largest: BinaryHeap<(usize, ClientAddress)>,
}

impl SiteConsumers {
    fn push(&mut self, consumer: Consumer) {
        self.of_address.entry(consumer.address).or_default().push(consumer);
    }

    /// Sorts addresses and their consumers. Returns the bytes of all of them.
    fn sort(&mut self) -> usize {
        for (address, members) in &mut self.of_address {
            // Sorted in reverse: the consumer to close first is the last.
            members.sort_unstable_by_key(|it| {
                let (idle_age, bytes) = if it.is_idle { (it.number, 0) } else { (0, it.bytes) };
                (it.is_idle, Reverse(idle_age), bytes)
            });
            self.largest.push((members.iter().map(|it| it.bytes).sum(), *address));
        }
        self.largest.iter().map(|(bytes, _)| bytes).sum()
    }

    /// Takes the consumer to close first, after [`sort`](Self::sort).
    fn pop(&mut self) -> Option<Consumer> {
        while let Some((bytes, address)) = self.largest.pop() {
            let Some(first) = self.of_address.get_mut(&address).and_then(Vec::pop) else {
                continue;
            };
            self.largest.push((bytes - first.bytes, address));
            return Some(first);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle consumer of an address in a site of its own.
    fn idle(address: u64, number: u64) -> Consumer {
        Consumer {
            address: ClientAddress::V6(address << 16),
            number,
            bytes: 1,
            is_idle: true,
            is_lent: false,
        }
    }

    fn busy(address: u64, number: u64, bytes: usize) -> Consumer {
        Consumer { bytes, is_idle: false, ..idle(address, number) }
    }

    fn numbers(consumers: &[Consumer], needed_bytes: usize, worth_bytes: usize) -> Vec<u64> {
        let chosen = choose(consumers.iter().copied(), needed_bytes, worth_bytes);
        chosen.iter().map(|it| it.number).collect()
    }

    #[test]
    fn what_was_lent_comes_back_before_anything_else_goes() {
        let lent = |number, bytes| Consumer { is_lent: true, ..busy(3, number, bytes) };
        let all = [busy(1, 1, 50), idle(1, 2), lent(3, 2), lent(4, 5), busy(2, 5, 90)];
        assert_eq!(numbers(&all, 5, 4), [4]);
        assert_eq!(numbers(&all, 7, 4), [4, 3]);
        assert_eq!(numbers(&all, 8, 4), [4, 3, 5], "then as without it");
        assert!(numbers(&all, 0, 4).is_empty());
    }

    #[test]
    fn the_largest_address_gives_first_and_its_idle_connections_before_its_calls() {
        let all = [busy(1, 1, 5), idle(1, 2), idle(1, 3), busy(1, 4, 9), busy(2, 5, 12)];
        assert_eq!(numbers(&all, 2, 4), [2, 3]);
        assert_eq!(numbers(&all, 3, 4), [2, 3, 4], "what holds most of address 1");
        assert_eq!(numbers(&all, 12, 4), [2, 3, 4, 5], "address 2 is the largest by then");
        assert_eq!(numbers(&all, 100, 4), [2, 3, 4, 5, 1]);
    }

    /// A /48 has 65,536 addresses, of which each may hold too little to be worth it.
    #[test]
    fn the_addresses_of_a_site_are_counted_together() {
        let of_site = |address, number, bytes| Consumer {
            address: ClientAddress::V6(address),
            ..busy(0, number, bytes)
        };
        let mut all: Vec<_> = (0..20).map(|number| of_site(number, number, 3)).collect();
        all.push(busy(1, 20, 30));
        assert_eq!(numbers(&all, 3, 10).len(), 1);
        assert_eq!(numbers(&all, 30, 10).len(), 10, "30 are left, as many as at the other site");
        assert!(numbers(&all, 28, 10).iter().all(|number| *number < 20));
        all.push(of_site(5, 21, 4));
        assert_eq!(numbers(&all, 1, 10), [21], "what holds most of the largest address");
    }

    #[test]
    fn addresses_that_are_not_worth_it_give_idle_connections_alone() {
        let all = [busy(1, 1, 5), idle(2, 9), idle(3, 3), idle(2, 4)];
        assert_eq!(numbers(&all, 2, 10), [3, 4], "the oldest ones");
        assert_eq!(numbers(&all, 100, 10), [3, 4, 9]);
        assert_eq!(numbers(&all, 0, 0), [0; 0]);
    }
}
