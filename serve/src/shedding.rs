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
/// 2. consumers of addresses that still hold `worth_bytes`, the largest address first. Within an address come its idle
///    connections, the oldest first, and then the consumers with the most memory;
/// 3. idle connections of small addresses.
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
    let mut of_address: HashMap<ClientAddress, Vec<Consumer>> = HashMap::new();
    for consumer in others {
        of_address.entry(consumer.address).or_default().push(consumer);
    }
    let mut largest: BinaryHeap<(usize, ClientAddress)> = BinaryHeap::new();
    for (address, members) in &mut of_address {
        // Sorted in reverse: the consumer to close first is the last.
        members.sort_unstable_by_key(|it| {
            let (idle_age, bytes) = if it.is_idle { (it.number, 0) } else { (0, it.bytes) };
            (it.is_idle, Reverse(idle_age), bytes)
        });
        largest.push((members.iter().map(|it| it.bytes).sum(), *address));
    }
    while chosen_bytes < needed_bytes
        && let Some((bytes, address)) = largest.pop().filter(|(bytes, _)| *bytes >= worth_bytes)
    {
        let Some(first) = of_address.get_mut(&address).and_then(Vec::pop) else { continue };
        chosen_bytes += first.bytes;
        chosen.push(first);
        largest.push((bytes - first.bytes, address));
    }
    let mut idle: Vec<_> = of_address.into_values().flatten().filter(|it| it.is_idle).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(address: u64, number: u64) -> Consumer {
        Consumer {
            address: ClientAddress::V6(address),
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

    #[test]
    fn addresses_that_are_not_worth_it_give_idle_connections_alone() {
        let all = [busy(1, 1, 5), idle(2, 9), idle(3, 3), idle(2, 4)];
        assert_eq!(numbers(&all, 2, 10), [3, 4], "the oldest ones");
        assert_eq!(numbers(&all, 100, 10), [3, 4, 9]);
        assert_eq!(numbers(&all, 0, 0), [0; 0]);
    }
}
