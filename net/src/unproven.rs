//! Connections whose peers have proved nothing yet.
//!
//! A stranger can open one and stay silent, so their number is bounded, in all and for each address. A new connection
//! is never turned away for lack of room: it takes the slot of the oldest one of the address that has the most. A
//! peer with an honest address proves its id within a few round trips, before silent connections from other
//! addresses can evict it.
//!
//! A handshake takes time of a core, also one that ends at once or whose slot another one takes. So an address may
//! begin only so many within some seconds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::control::SessionError;
use crate::counters::PeerError;

/// Connections in all. Guessed: with the window of an unproven connection they hold less than 16 MiB.
const UNPROVEN_MAX: usize = 64;
/// Connections of one address. Guessed: several nodes behind one address that restart at once.
const PER_ADDRESS_MAX: usize = 8;
/// Connections from which on every dialler has to prove its address (RFC 9000 §8.1.2). Guessed.
const UNVALIDATED_MAX: usize = 16;
/// Connections of one address that are accepted within [`ACCEPTED_WITHIN`]. Specified in
/// `docs/protocol/replication.md`: more than nodes behind one address need when all of them restart.
const ACCEPTED_MAX: usize = 64;
const ACCEPTED_WITHIN: Duration = Duration::from_secs(4);
/// Accepted connections that are remembered, of all addresses together. Specified in `docs/protocol/replication.md`.
/// Calculated: 160 KiB, which are looked through in a few microseconds, and handshakes that take a part of one core.
const REMEMBERED_MAX: usize = 4096;
/// Connections of one address within [`ACCEPTED_WITHIN`] while so many are remembered. Specified in
/// `docs/protocol/replication.md`: the first one may be of a host that forges the address, and the second one has to
/// prove it.
const ACCEPTED_WHEN_FULL: usize = 2;

/// The addresses that count as those of one host: one of IPv4, a /64 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct AddressBlock(IpAddr);

impl AddressBlock {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let prefix = address.to_bits() & !u128::from(u64::MAX);
                Self(Ipv6Addr::from_bits(prefix).into())
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

/// The unproven connections by age.
#[derive(Debug, Default)]
struct UnprovenTable {
    admitted: u64,
    by_age: BTreeMap<u64, AddressBlock>,
}

impl UnprovenTable {
    fn count(&self, block: AddressBlock) -> usize {
        self.by_age.values().filter(|other| **other == block).count()
    }

    /// Returns true if a dialler has to prove its address before it is admitted. A second connection of an address
    /// always has to: a host that forges an address must not evict its owner.
    fn needs_validation(&self, block: AddressBlock) -> bool {
        self.by_age.len() >= UNVALIDATED_MAX || self.count(block) > 0
    }

    /// Enters a connection. Returns its number, and the number of the connection that it displaces.
    fn admit(&mut self, block: AddressBlock) -> (u64, Option<u64>) {
        let from = if self.count(block) >= PER_ADDRESS_MAX {
            Some(block)
        } else if self.by_age.len() >= UNPROVEN_MAX {
            self.fullest()
        } else {
            None
        };
        let oldest_of = |block| self.by_age.iter().find(|(_, other)| **other == block);
        let evicted = from.and_then(oldest_of).map(|(number, _)| *number);
        if let Some(number) = evicted {
            self.by_age.remove(&number);
        }
        self.admitted += 1;
        self.by_age.insert(self.admitted, block);
        assert!(self.by_age.len() <= UNPROVEN_MAX, "unproven connections are bounded");
        (self.admitted, evicted)
    }

    /// Returns the address with the most connections; of several the one with the oldest.
    fn fullest(&self) -> Option<AddressBlock> {
        let mut counts: HashMap<AddressBlock, usize> = HashMap::new();
        for block in self.by_age.values() {
            *counts.entry(*block).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        self.by_age.values().find(|block| counts[block] == most).copied()
    }
}

/// The connections that were accepted a moment ago, oldest first.
#[derive(Debug, Default)]
struct AcceptedConnections(VecDeque<(Instant, AddressBlock)>);

impl AcceptedConnections {
    /// Enters a connection. Returns false if its address has had too many: it is not accepted, and does not count.
    fn enter(&mut self, now: Instant, block: AddressBlock) -> bool {
        while self.0.front().is_some_and(|(at, _)| *at + ACCEPTED_WITHIN <= now) {
            self.0.pop_front();
        }
        // If the oldest ones made room for any others, a hundred addresses would have each other's forgotten, and none
        // would have a bound.
        let is_full = self.0.len() >= REMEMBERED_MAX;
        let most = if is_full { ACCEPTED_WHEN_FULL } else { ACCEPTED_MAX };
        if self.0.iter().filter(|(_, other)| *other == block).count() >= most {
            return false;
        }
        if is_full {
            self.0.pop_front();
        }
        self.0.push_back((now, block));
        true
    }

    /// Returns true if the address has begun a connection within the last seconds.
    fn has(&self, now: Instant, block: AddressBlock) -> bool {
        self.0.iter().any(|(at, other)| *other == block && now < *at + ACCEPTED_WITHIN)
    }
}

/// The unproven connections of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct UnprovenConnections {
    state: Mutex<UnprovenState>,
}

#[derive(Debug, Default)]
struct UnprovenState {
    table: UnprovenTable,
    accepted: AcceptedConnections,
    /// One sender for the task of each connection. Dropping it ends the connection.
    running: HashMap<u64, oneshot::Sender<()>>,
}

/// The slot of one connection. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct UnprovenSlot {
    unproven: Arc<UnprovenConnections>,
    number: u64,
    evicted: oneshot::Receiver<()>,
}

impl UnprovenConnections {
    /// Returns true if a dialler at this address has to prove the address first: also within some seconds after a
    /// connection that has ended. A host that forges an address must not use up what its owner may begin.
    pub(crate) fn needs_validation(&self, address: IpAddr, now: Instant) -> bool {
        let (block, state) = (AddressBlock::of(address), self.state.lock());
        state.table.needs_validation(block) || state.accepted.has(now, block)
    }

    /// Gives a connection a slot, if need be that of another one. `None` if its address has begun too many within the
    /// last seconds.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<UnprovenSlot> {
        let (sender, evicted) = oneshot::channel();
        let block = AddressBlock::of(address);
        let mut state = self.state.lock();
        if !state.accepted.enter(now, block) {
            return None;
        }
        let (number, gone) = state.table.admit(block);
        if let Some(gone) = gone {
            state.running.remove(&gone);
        }
        state.running.insert(number, sender);
        Some(UnprovenSlot { unproven: self.clone(), number, evicted })
    }
}

impl UnprovenSlot {
    /// Runs a step of the handshake until it ends, the deadline passes, or another connection takes this
    /// slot.
    ///
    /// # Errors
    /// The error of the step, [`PeerError::HandshakeTimeout`] or [`PeerError::Busy`].
    pub(crate) async fn run<T>(
        &mut self,
        deadline: Instant,
        step: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        tokio::select! {
            biased;
            done = timeout_at(deadline, step) => {
                done.unwrap_or_else(|_| Err(PeerError::HandshakeTimeout.into()))
            }
            _ = &mut self.evicted => Err(PeerError::Busy.into()),
        }
    }
}

impl Drop for UnprovenSlot {
    fn drop(&mut self) {
        let mut state = self.unproven.state.lock();
        state.table.by_age.remove(&self.number);
        state.running.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn block(number: u8) -> AddressBlock {
        AddressBlock::of(Ipv4Addr::new(192, 0, 2, number).into())
    }

    #[test]
    fn one_address_pushes_out_only_its_own() {
        let mut table = UnprovenTable::default();
        let (honest, _) = table.admit(block(1));
        let flood: Vec<_> = (0..1_000).map(|_| table.admit(block(2))).collect();
        assert!(table.by_age.contains_key(&honest));
        assert_eq!(table.by_age.len(), 1 + PER_ADDRESS_MAX);
        assert_eq!(flood[PER_ADDRESS_MAX].1, Some(flood[0].0), "the oldest goes first");
    }

    #[test]
    fn the_address_with_the_most_gives_way() {
        let mut table = UnprovenTable::default();
        let (honest, _) = table.admit(block(0));
        for stranger in 0..200 {
            table.admit(block(1 + stranger % 20));
        }
        assert_eq!(table.by_age.len(), UNPROVEN_MAX);
        assert!(table.by_age.contains_key(&honest), "it is the only one of its address");
    }

    #[test]
    fn with_one_connection_each_the_oldest_gives_way() {
        let mut table = UnprovenTable::default();
        let all: Vec<_> = (0..=u8::try_from(UNPROVEN_MAX).unwrap())
            .map(|stranger| table.admit(block(stranger)))
            .collect();
        assert_eq!(all[UNPROVEN_MAX].1, Some(all[0].0));
        assert!(all[..UNPROVEN_MAX].iter().all(|(_, evicted)| evicted.is_none()));
    }

    #[test]
    fn a_second_connection_of_an_address_has_to_prove_the_address() {
        let mut table = UnprovenTable::default();
        assert!(!table.needs_validation(block(1)));
        table.admit(block(1));
        assert!(table.needs_validation(block(1)));
        assert!(!table.needs_validation(block(2)));
        (2..=u8::try_from(UNVALIDATED_MAX).unwrap())
            .for_each(|other| _ = table.admit(block(other)));
        assert!(table.needs_validation(block(200)));
    }

    #[test]
    fn an_address_that_dials_without_end_is_accepted_a_few_times_a_second() {
        let mut accepted = AcceptedConnections::default();
        let start = Instant::now();
        let flood = |at: Instant, accepted: &mut AcceptedConnections| {
            (0..10_000).filter(|_| accepted.enter(at, block(1))).count()
        };
        assert_eq!(flood(start, &mut accepted), ACCEPTED_MAX);
        assert!(accepted.enter(start, block(2)), "another address has its own");
        let later = start + ACCEPTED_WITHIN;
        assert_eq!(flood(later - Duration::from_millis(1), &mut accepted), 0);
        assert_eq!(flood(later, &mut accepted), ACCEPTED_MAX);
    }

    /// A forged packet whose handshake fails at once leaves no slot behind.
    #[test]
    fn a_host_that_forges_an_address_takes_one_of_its_connections_at_most() {
        let unproven = Arc::new(UnprovenConnections::default());
        let (owner, now) = (IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)), Instant::now());
        for _ in 0..1_000 {
            if !unproven.needs_validation(owner, now) {
                drop(unproven.admit(owner, now));
            }
        }
        let own = (0..1_000).filter(|_| unproven.admit(owner, now).is_some()).count();
        assert_eq!(own, ACCEPTED_MAX - 1);
        assert!(!unproven.needs_validation(owner, now + ACCEPTED_WITHIN));
    }

    #[test]
    fn many_addresses_that_dial_fill_bounded_memory() {
        let mut accepted = AcceptedConnections::default();
        let now = Instant::now();
        for host in 0..20_000 {
            assert!(accepted.enter(now, AddressBlock::of(Ipv4Addr::from_bits(host).into())));
            assert!(accepted.0.len() <= REMEMBERED_MAX);
        }
    }

    /// Together they begin more connections than are remembered.
    #[test]
    fn a_hundred_addresses_that_dial_without_end_are_accepted_a_bounded_number_of_times() {
        let (mut accepted, now) = (AcceptedConnections::default(), Instant::now());
        let dials = (0..1_000).flat_map(|_| 0..100_u8);
        let flood = dials.filter(|host| accepted.enter(now, block(*host))).count();
        assert_eq!(flood, REMEMBERED_MAX);
        let own = (0..1_000).filter(|_| accepted.enter(now, block(200))).count();
        assert_eq!(own, ACCEPTED_WHEN_FULL, "an address that has begun none");
        assert!(accepted.enter(now + ACCEPTED_WITHIN, block(0)));
    }

    /// The forged packets of a flood, whose handshakes fail at once, come from the address of a peer, too.
    #[test]
    fn a_flood_that_forges_the_address_of_a_peer_leaves_the_peer_a_connection() {
        let (unproven, now) = (Arc::new(UnprovenConnections::default()), Instant::now());
        let forged = |host: u32| IpAddr::from(Ipv4Addr::from_bits(host));
        for host in 0..u32::try_from(REMEMBERED_MAX).unwrap() {
            drop(unproven.admit(forged(host), now));
        }
        let owner = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
        for _ in 0..1_000 {
            if !unproven.needs_validation(owner, now) {
                drop(unproven.admit(owner, now));
            }
        }
        assert!(unproven.needs_validation(owner, now), "the flood has had its one");
        assert!(unproven.admit(owner, now).is_some(), "the owner, who has proved the address");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let of = |text: &str| AddressBlock::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
    }
}
