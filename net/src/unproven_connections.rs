//! Connections whose peers have proved nothing yet.
//!
//! A stranger can open one and stay silent, so their number is bounded, in all and for each address. A new connection
//! is never turned away for lack of room: it takes the slot of the oldest one of the address that has the most, at the
//! site that has the most: an IPv4 address, or an IPv6 /48. A peer with an honest address proves its id within a few
//! round trips, before silent connections from other addresses can evict it.
//!
//! A handshake takes time of a core, even if it ends at once or another handshake takes its slot. So an address may
//! begin only a number of handshakes within some seconds, and so may all addresses together. Addresses of nodes of the
//! registry have slots and handshakes of their own, which no flood from other addresses takes.
//!
//! QUIC keeps a closed connection for three times the longest delay of the peer's answers (RFC 9000 §10.2), of which
//! the peer states a part: up to a minute and a half in all. So a slot that is free again does not mean that the memory
//! of its connection is, and connections that linger are bounded, too.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::control::SessionError;
use crate::counters::PeerError;
use crate::node_addresses::AddressBlock;

/// Connections of all strangers together. Specified in `docs/protocol/replication.md`. Guessed: with the window of an
/// unproven connection they hold less than 16 MiB.
const UNPROVEN_MAX: usize = 64;
/// Connections of all nodes of the registry together. Specified in `docs/protocol/replication.md`. Guessed: a node
/// keeps its slot for a few round trips only.
const NODES_UNPROVEN_MAX: usize = 16;
/// Connections of one address. Guessed: several nodes behind one address that restart at once.
const PER_ADDRESS_MAX: usize = 8;
/// Number of unproven connections at which every dialler has to prove its address (RFC 9000 §8.1.2). Guessed.
const UNVALIDATED_MAX: usize = 16;
/// Connections of one address that are accepted within [`ACCEPTED_WITHIN`]. Specified in
/// `docs/protocol/replication.md`: more than nodes behind one address need when all of them restart.
const ACCEPTED_MAX: usize = 64;
const ACCEPTED_WITHIN: Duration = Duration::from_secs(4);
/// Connections that are accepted within [`ACCEPTED_WITHIN`] from all strangers together, and as many from all nodes.
/// Specified in `docs/protocol/replication.md`. Calculated: 160 KiB, which are searched in a few microseconds, and a
/// thousand handshakes a second, which take a part of one core.
const ACCEPTED_IN_ALL_MAX: usize = 4096;
/// Connections that are accepted within [`ACCEPTED_WITHIN`] from the strangers of one site. Specified in
/// `docs/protocol/replication.md`: half of all, so that the owner of an IPv6 /48 leaves the rest to others.
const ACCEPTED_OF_SITE_MAX: usize = ACCEPTED_IN_ALL_MAX / 2;
/// Connections of a node's address that are accepted within [`ACCEPTED_WITHIN`] while the table is full. Specified in
/// `docs/protocol/replication.md`: one more than a host that forges the address can make before it has to prove the
/// address.
const ACCEPTED_WHEN_FULL: usize = 2;
/// Number of connections within [`ACCEPTED_WITHIN`] at which every dialler has to prove its address. Specified in
/// `docs/protocol/replication.md`. Guessed: a host that forges addresses begins 16 handshakes a second with them, and
/// nodes of a large network that restart at once wait for one round trip more.
const ACCEPTED_UNVALIDATED_MAX: usize = 64;

/// Number of connections of the endpoint, with closed ones that linger, at which a site may begin only a few more, and
/// every dialler has to prove its address. Specified in `docs/protocol/replication.md`. A guess: some 30 KiB each, so
/// the owner of one IPv6 /48 takes some 30 MiB.
const OPEN_MAX: usize = 1024;
/// Number of such connections at which no stranger may begin one. Specified likewise.
const OPEN_OF_ANY_MAX: usize = 2 * OPEN_MAX;
/// Number of such connections at which no address may begin one. Specified likewise.
const OPEN_IN_ALL_MAX: usize = 3 * OPEN_MAX;
/// Connections that a site begins within [`LINGERING`] while [`OPEN_MAX`] are open. A guess: several nodes behind one
/// address that restart at once, and their second attempts.
const OF_SITE_WHEN_CROWDED: usize = 16;
/// Time after which no closed connection is left. Calculated: three times the sum of the longest delay that a peer may
/// state, 16 s, and of a round trip of five seconds with its variation, 15 s. A handshake takes no longer than that.
const LINGERING: Duration = Duration::from_secs(100);

/// The kind of an address that dials this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiallerKind {
    /// The address is known as that of a node of the registry.
    Node,
    /// Any other address.
    Stranger,
}

/// The unproven connections by age.
#[derive(Debug, Default)]
struct UnprovenTable {
    admitted: u64,
    by_age: BTreeMap<u64, UnprovenConnection>,
}

#[derive(Debug, Clone, Copy)]
struct UnprovenConnection {
    block: AddressBlock,
    /// The kind of its slot. All connections of one address have slots of one kind.
    kind: DiallerKind,
}

impl UnprovenTable {
    fn of(&self, block: AddressBlock) -> impl Iterator<Item = (u64, UnprovenConnection)> {
        self.by_age
            .iter()
            .filter(move |(_, it)| it.block == block)
            .map(|(number, it)| (*number, *it))
    }

    /// Returns true if a dialler has to prove its address before it is admitted. A second connection of an address
    /// always has to: a host that forges an address must not evict its owner.
    fn needs_validation(&self, block: AddressBlock) -> bool {
        self.by_age.len() >= UNVALIDATED_MAX || self.of(block).next().is_some()
    }

    /// Enters a connection. Returns its number, and the number of the connection that it displaces.
    fn admit(&mut self, block: AddressBlock, kind: DiallerKind) -> (u64, Option<u64>) {
        let kind = self.of(block).next().map_or(kind, |(_, it)| it.kind);
        let slots = match kind {
            DiallerKind::Node => NODES_UNPROVEN_MAX,
            DiallerKind::Stranger => UNPROVEN_MAX,
        };
        let from = if self.of(block).count() >= PER_ADDRESS_MAX {
            Some(block)
        } else if self.of_kind(kind).count() >= slots {
            self.fullest(kind)
        } else {
            None
        };
        let evicted = from.and_then(|block| self.of(block).next()).map(|(number, _)| number);
        if let Some(number) = evicted {
            self.by_age.remove(&number);
        }
        self.admitted += 1;
        self.by_age.insert(self.admitted, UnprovenConnection { block, kind });
        assert!(self.of_kind(kind).count() <= slots, "unproven connections are bounded");
        (self.admitted, evicted)
    }

    /// Returns the addresses of all connections with slots of one kind, oldest first.
    fn of_kind(&self, kind: DiallerKind) -> impl Iterator<Item = AddressBlock> {
        self.by_age.values().filter(move |it| it.kind == kind).map(|it| it.block)
    }

    /// Returns the address with the most connections of one kind, at the site with the most; of several the one with
    /// the oldest.
    fn fullest(&self, kind: DiallerKind) -> Option<AddressBlock> {
        let sites: Vec<_> = self.of_kind(kind).map(AddressBlock::site).collect();
        let site = most_frequent(&sites)?;
        let blocks: Vec<_> = self.of_kind(kind).filter(|block| block.site() == site).collect();
        most_frequent(&blocks)
    }
}

/// Returns the address or site that is there most often; of several the first.
fn most_frequent(blocks: &[AddressBlock]) -> Option<AddressBlock> {
    let mut counts: HashMap<AddressBlock, usize> = HashMap::new();
    for block in blocks {
        *counts.entry(*block).or_default() += 1;
    }
    let most = counts.values().copied().max()?;
    blocks.iter().copied().find(|block| counts[block] == most)
}

/// The connections that were accepted a moment ago, oldest first, of addresses of one kind.
#[derive(Debug, Default)]
struct AcceptedConnections(VecDeque<(Instant, AddressBlock)>);

impl AcceptedConnections {
    /// Returns the number of connections that are remembered.
    fn count(&mut self, now: Instant) -> usize {
        while self.0.front().is_some_and(|(at, _)| *at + ACCEPTED_WITHIN <= now) {
            self.0.pop_front();
        }
        self.0.len()
    }

    /// Enters a connection. Returns false if its address, its site, or all addresses together have had too many: it is
    /// not accepted, and does not count.
    fn enter(&mut self, now: Instant, block: AddressBlock, kind: DiallerKind) -> bool {
        // If the oldest ones made room for any others, a hundred addresses would have each other's forgotten, and none
        // would have a bound.
        let is_full = self.count(now) >= ACCEPTED_IN_ALL_MAX;
        let most = match (is_full, kind) {
            (false, _) => ACCEPTED_MAX,
            // A registry has a bounded number of nodes, so these few have one.
            (true, DiallerKind::Node) => ACCEPTED_WHEN_FULL,
            (true, DiallerKind::Stranger) => 0,
        };
        if self.0.iter().filter(|(_, other)| *other == block).count() >= most {
            return false;
        }
        let site = block.site();
        let of_site = || self.0.iter().filter(|(_, other)| other.site() == site).count();
        if kind == DiallerKind::Stranger && of_site() >= ACCEPTED_OF_SITE_MAX {
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

/// The sites of the connections that may linger, oldest first. A site is known by addresses that have been proved, so
/// that a host that forges the address of another one uses up nothing of it.
#[derive(Debug, Default)]
struct LingeringSites(VecDeque<(Instant, AddressBlock)>);

impl LingeringSites {
    /// Returns true if a site may begin a connection beside `open` others. Sites of nodes have a bound, too: the nodes
    /// of the registry share the last places, and one of them could keep out all others.
    fn has_room(&self, now: Instant, site: AddressBlock, kind: DiallerKind, open: usize) -> bool {
        let lingers =
            |(at, other): &&(Instant, AddressBlock)| *other == site && now < *at + LINGERING;
        let of_site = || self.0.iter().filter(lingers).count();
        let most = match kind {
            DiallerKind::Node => OPEN_IN_ALL_MAX,
            DiallerKind::Stranger => OPEN_OF_ANY_MAX,
        };
        !is_crowded(open) || (open < most && of_site() < OF_SITE_WHEN_CROWDED)
    }

    /// Notes that a site has begun a connection. Forgets the oldest one if more are known than can be open.
    fn note(&mut self, now: Instant, site: AddressBlock) {
        if self.0.len() >= OPEN_IN_ALL_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, site));
    }
}

/// Returns true if an endpoint has so many connections, also closed ones that linger, that every dialler has to prove
/// its address: a host that forges addresses must not fill the rest.
pub(crate) fn is_crowded(open: usize) -> bool {
    open >= OPEN_MAX
}

/// The unproven connections of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct UnprovenConnections {
    state: Mutex<UnprovenState>,
}

#[derive(Debug, Default)]
struct UnprovenState {
    table: UnprovenTable,
    /// Connections accepted from addresses that are not known to be of nodes.
    accepted: AcceptedConnections,
    accepted_of_nodes: AcceptedConnections,
    lingering: LingeringSites,
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
    /// connection that has ended, and for a while after many of any addresses. A host that forges an address must not
    /// use up what its owner may begin, and one that forges many must not have a handshake with each.
    pub(crate) fn needs_validation(&self, address: IpAddr, now: Instant) -> bool {
        let (block, mut state) = (AddressBlock::of(address), self.state.lock());
        let UnprovenState { table, accepted, accepted_of_nodes, .. } = &mut *state;
        // First, because beside a flood nothing has to be looked through then.
        accepted.count(now) + accepted_of_nodes.count(now) >= ACCEPTED_UNVALIDATED_MAX
            || table.needs_validation(block)
            || accepted.has(now, block)
            || accepted_of_nodes.has(now, block)
    }

    /// Returns true if an address may begin a connection while the endpoint has `open` others, also closed ones that
    /// linger.
    pub(crate) fn has_room(
        &self,
        address: IpAddr,
        kind: DiallerKind,
        open: usize,
        now: Instant,
    ) -> bool {
        let site = AddressBlock::of(address).site();
        self.state.lock().lingering.has_room(now, site, kind, open)
    }

    /// Notes that an address, which has been proved, has begun a connection.
    pub(crate) fn note_begun(&self, address: IpAddr, now: Instant) {
        self.state.lock().lingering.note(now, AddressBlock::of(address).site());
    }

    /// Gives a connection a slot, if need be that of another one. Returns `None` if its address, or all addresses of
    /// its kind together, have begun too many within the last seconds.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        kind: DiallerKind,
        now: Instant,
    ) -> Option<UnprovenSlot> {
        let (sender, evicted) = oneshot::channel();
        let block = AddressBlock::of(address);
        let mut state = self.state.lock();
        let accepted = match kind {
            DiallerKind::Node => &mut state.accepted_of_nodes,
            DiallerKind::Stranger => &mut state.accepted,
        };
        if !accepted.enter(now, block, kind) {
            return None;
        }
        let (number, gone) = state.table.admit(block, kind);
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::DiallerKind::{Node, Stranger};
    use super::*;

    fn block(number: u8) -> AddressBlock {
        AddressBlock::of(Ipv4Addr::new(192, 0, 2, number).into())
    }

    fn host(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn one_address_pushes_out_only_its_own() {
        let mut table = UnprovenTable::default();
        let (honest, _) = table.admit(block(1), Stranger);
        let flood: Vec<_> = (0..1_000).map(|_| table.admit(block(2), Stranger)).collect();
        assert!(table.by_age.contains_key(&honest));
        assert_eq!(table.by_age.len(), 1 + PER_ADDRESS_MAX);
        assert_eq!(flood[PER_ADDRESS_MAX].1, Some(flood[0].0), "the oldest goes first");
    }

    #[test]
    fn the_address_with_the_most_gives_way() {
        let mut table = UnprovenTable::default();
        let (honest, _) = table.admit(block(0), Stranger);
        for stranger in 0..200 {
            table.admit(block(1 + stranger % 20), Stranger);
        }
        assert_eq!(table.by_age.len(), UNPROVEN_MAX);
        assert!(table.by_age.contains_key(&honest), "it is the only one of its address");
    }

    /// An address of an IPv6 /48.
    fn of_site(number: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 1, number, 0, 0, 0, 1).into()
    }

    #[test]
    fn the_site_with_the_most_gives_way_however_few_its_addresses_have() {
        let mut table = UnprovenTable::default();
        let (honest, _) = table.admit(block(0), Stranger);
        let (neighbour, _) = table.admit(AddressBlock::of(of_site(1)), Stranger);
        for _ in 0..2 {
            table.admit(AddressBlock::of(of_site(2)), Stranger);
        }
        for stranger in 10..1_000 {
            table.admit(AddressBlock::of(of_site(stranger)), Stranger);
        }
        assert_eq!(table.by_age.len(), UNPROVEN_MAX);
        assert!(table.by_age.contains_key(&honest), "it is the only one of its site");
        assert!(!table.by_age.contains_key(&neighbour), "it is the oldest of its site");
    }

    #[test]
    fn the_addresses_of_a_site_leave_connections_to_others() {
        let (unproven, now) = (Arc::new(UnprovenConnections::default()), Instant::now());
        let begun =
            (0..10_000).filter(|it| unproven.admit(of_site(*it), Stranger, now).is_some()).count();
        assert_eq!(begun, ACCEPTED_OF_SITE_MAX);
        assert!(
            unproven.admit(of_site(1), Node, now).is_some(),
            "a node of the registry has its own"
        );
        assert!(unproven.admit(host(1), Stranger, now).is_some());
    }

    /// Each connection is closed at once and lingers.
    #[test]
    fn closed_connections_of_a_site_leave_memory_and_room_to_others() {
        let (unproven, now) = (Arc::new(UnprovenConnections::default()), Instant::now());
        let mut open = 0;
        let mut dial = |address: IpAddr| {
            let is_begun = unproven.has_room(address, Stranger, open, now)
                && unproven.admit(address, Stranger, now).is_some();
            if is_begun {
                unproven.note_begun(address, now);
                open += 1;
            }
            is_begun
        };
        assert_eq!((0..10_000).filter(|it| dial(of_site(*it))).count(), OPEN_MAX);
        assert_eq!((0..1_000).filter(|_| dial(host(1))).count(), OF_SITE_WHEN_CROWDED);
        let of_others = (2..10_000).filter(|it| dial(host(*it))).count();
        assert_eq!(of_others, OPEN_OF_ANY_MAX - OPEN_MAX - OF_SITE_WHEN_CROWDED);
        assert_eq!(open, OPEN_OF_ANY_MAX);
        assert!(unproven.has_room(host(0), Node, OPEN_OF_ANY_MAX, now), "that of a node");
        assert!(!unproven.has_room(of_site(1), Stranger, OPEN_MAX, now));
        assert!(unproven.has_room(of_site(1), Stranger, OPEN_MAX - 1, now));
        assert!(unproven.has_room(of_site(1), Stranger, OPEN_MAX, now + LINGERING));
    }

    /// Played by a registered node that dials without end from all addresses by which it is known. Each of its
    /// connections is closed at once and lingers.
    #[test]
    fn closed_connections_of_one_node_leave_room_to_other_nodes() {
        let (unproven, now) = (UnprovenConnections::default(), Instant::now());
        let mut open = 0;
        let mut dial = |address: IpAddr| {
            let has_room = unproven.has_room(address, Node, open, now);
            if has_room {
                unproven.note_begun(address, now);
                open += 1;
            }
            has_room
        };
        assert_eq!((0..10_000).filter(|it| dial(host(*it % 5))).count(), OPEN_MAX);
        assert_eq!((0..1_000).filter(|_| dial(host(7))).count(), OF_SITE_WHEN_CROWDED);
        assert!(unproven.has_room(host(8), Node, OPEN_IN_ALL_MAX - 1, now));
        assert!(!unproven.has_room(host(8), Node, OPEN_IN_ALL_MAX, now), "there is a bound in all");
        assert!(unproven.has_room(host(0), Node, OPEN_IN_ALL_MAX - 1, now + LINGERING));
    }

    #[test]
    fn with_one_connection_each_the_oldest_gives_way() {
        let mut table = UnprovenTable::default();
        let all: Vec<_> = (0..=u8::try_from(UNPROVEN_MAX).unwrap())
            .map(|stranger| table.admit(block(stranger), Stranger))
            .collect();
        assert_eq!(all[UNPROVEN_MAX].1, Some(all[0].0));
        assert!(all[..UNPROVEN_MAX].iter().all(|(_, evicted)| evicted.is_none()));
    }

    #[test]
    fn a_second_connection_of_an_address_has_to_prove_the_address() {
        let mut table = UnprovenTable::default();
        assert!(!table.needs_validation(block(1)));
        table.admit(block(1), Stranger);
        assert!(table.needs_validation(block(1)));
        assert!(!table.needs_validation(block(2)));
        (2..=u8::try_from(UNVALIDATED_MAX).unwrap())
            .for_each(|other| _ = table.admit(block(other), Stranger));
        assert!(table.needs_validation(block(200)));
    }

    #[test]
    fn an_address_that_dials_without_end_is_accepted_a_few_times_a_second() {
        let mut accepted = AcceptedConnections::default();
        let start = Instant::now();
        let flood = |at: Instant, accepted: &mut AcceptedConnections| {
            (0..10_000).filter(|_| accepted.enter(at, block(1), Stranger)).count()
        };
        assert_eq!(flood(start, &mut accepted), ACCEPTED_MAX);
        assert!(accepted.enter(start, block(2), Stranger), "another address has its own");
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
                drop(unproven.admit(owner, Stranger, now));
            }
        }
        let own = (0..1_000).filter(|_| unproven.admit(owner, Stranger, now).is_some()).count();
        assert_eq!(own, ACCEPTED_MAX - 1);
        assert!(!unproven.needs_validation(owner, now + ACCEPTED_WITHIN));
    }

    /// Each has a network of IPv6 with many addresses, or a thousand hosts.
    #[test]
    fn addresses_that_no_node_has_begin_a_bounded_number_of_connections_together() {
        let (unproven, now) = (Arc::new(UnprovenConnections::default()), Instant::now());
        let begun =
            (0..20_000).filter(|it| unproven.admit(host(*it), Stranger, now).is_some()).count();
        assert_eq!(begun, ACCEPTED_IN_ALL_MAX);
        let node = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
        let own = (0..1_000).filter(|_| unproven.admit(node, Node, now).is_some()).count();
        assert_eq!(own, ACCEPTED_MAX, "a node of the registry has its own");
        assert!(unproven.admit(host(1), Stranger, now).is_none());
        assert!(unproven.admit(host(1), Stranger, now + ACCEPTED_WITHIN).is_some());
        let state = unproven.state.lock();
        assert!(
            state.accepted.0.len() + state.accepted_of_nodes.0.len() <= 2 * ACCEPTED_IN_ALL_MAX
        );
    }

    #[test]
    fn addresses_that_no_node_has_take_no_slot_of_a_node() {
        let mut table = UnprovenTable::default();
        let nodes: Vec<_> = (0..8).map(|it| table.admit(block(it), Node).0).collect();
        for stranger in 0..1_000 {
            table.admit(AddressBlock::of(host(stranger)), Stranger);
        }
        assert!(nodes.iter().all(|it| table.by_age.contains_key(it)));
        assert_eq!(table.by_age.len(), nodes.len() + UNPROVEN_MAX);
        // Nor do nodes take those of others.
        for node in 0..200 {
            table.admit(block(node), Node);
        }
        assert_eq!(table.by_age.len(), NODES_UNPROVEN_MAX + UNPROVEN_MAX);
    }

    /// An address becomes known as that of a node while it has connections.
    #[test]
    fn the_connections_of_one_address_have_slots_of_one_kind() {
        let mut table = UnprovenTable::default();
        for number in 0..1_000 {
            table.admit(block(1), if number % 3 == 2 { Node } else { Stranger });
        }
        assert_eq!(table.of_kind(Stranger).count(), PER_ADDRESS_MAX);
        assert_eq!(table.of_kind(Node).count(), 0);
    }

    /// Together they begin more connections than are remembered.
    #[test]
    fn a_hundred_addresses_that_dial_without_end_are_accepted_a_bounded_number_of_times() {
        let (mut accepted, now) = (AcceptedConnections::default(), Instant::now());
        let dials = (0..1_000).flat_map(|_| 0..100_u8);
        let flood = dials.filter(|host| accepted.enter(now, block(*host), Node)).count();
        assert_eq!(flood, ACCEPTED_IN_ALL_MAX);
        assert!(!accepted.enter(now, block(200), Stranger), "an address that no node has");
        let own = (0..1_000).filter(|_| accepted.enter(now, block(200), Node)).count();
        assert_eq!(own, ACCEPTED_WHEN_FULL, "that of a node, which has begun none");
        assert!(accepted.enter(now + ACCEPTED_WITHIN, block(0), Stranger));
    }

    /// The forged packets of a flood, whose handshakes fail at once, come from the address of a peer, too.
    #[test]
    fn a_flood_that_forges_addresses_begins_few_handshakes_and_keeps_no_owner_out() {
        let (unproven, now) = (Arc::new(UnprovenConnections::default()), Instant::now());
        let forge = |address: IpAddr, at: Instant| {
            !unproven.needs_validation(address, at)
                && unproven.admit(address, Stranger, at).is_some()
        };
        let begun = (0..20_000).filter(|it| forge(host(*it), now)).count();
        assert_eq!(begun, ACCEPTED_UNVALIDATED_MAX);
        let owner = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
        assert!((0..1_000).all(|_| !forge(owner, now)));
        assert!(
            unproven.admit(owner, Stranger, now).is_some(),
            "the owner, who has proved the address"
        );
        assert!(!unproven.needs_validation(owner, now + ACCEPTED_WITHIN));
    }
}
