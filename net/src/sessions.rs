//! The connected peers: one session for each, dialled by either side. A peer that is not connected over QUIC may
//! have one over gRPC, which ends when QUIC connects.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_dial::EventsLeft;
use hawser_engine::replication::GapWants;
use hawser_engine::runtime::replication::{Link, Replication};
use hawser_proto::frame::{CloseCode, FEATURE_GAPS_ALONE};
use hawser_proto::{OriginatorId, QuicAddress};
use quinn::Connection;
use tokio::sync::watch;

use crate::announced_addresses::AnnouncedAddresses;
use crate::backoff::ViolationPauses;
use crate::handshake::ProvenConnection;
use crate::streams::close_code;

/// Two connections that come up within this time count as dialled at once. A later one means that its
/// dialler has lost the earlier. Guessed: longer than a handshake on the worst link.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Sessions that a peer may begin at once, and the time after which it may begin one more. Specified in
/// `docs/protocol/replication.md`. After each of them every strand asks the peer again, and the log gets two lines.
const BEGUN_MAX: u32 = 16;
const BEGUN_EVERY: Duration = Duration::from_secs(1);

/// All sessions of this node. Clones share the table.
#[derive(Clone)]
pub(crate) struct Sessions {
    table: Arc<watch::Sender<SessionTable>>,
}

#[derive(Default)]
struct SessionTable {
    current: HashMap<OriginatorId, ActiveSession>,
    grpc: HashMap<OriginatorId, GrpcSession>,
    /// Addresses that peers have announced over gRPC.
    announced: AnnouncedAddresses,
    /// Peers that were refused are neither dialled nor admitted before these times. At most one entry
    /// for each registry node, since only proven ids enter.
    quiet_until: HashMap<OriginatorId, Instant>,
    /// Peers that have broken a rule. Bounded as the others.
    violations: HashMap<OriginatorId, ViolationPauses>,
    /// The sessions that each peer may still begin. Bounded as the others.
    to_begin: HashMap<OriginatorId, EventsLeft>,
    /// Peers that the operator keeps this node apart from, until these times. The operator names nodes of the registry.
    partitions: HashMap<OriginatorId, Instant>,
    admitted: u64,
    is_closing: bool,
}

/// The session that is kept with one peer.
struct ActiveSession {
    serial: u64,
    dialler: OriginatorId,
    since: Instant,
    connection: Connection,
}

/// The session over gRPC with one peer.
#[derive(Debug, Clone)]
pub(crate) struct GrpcSession {
    serial: u64,
    /// URL of the peer's API.
    pub(crate) address: String,
    /// Time that the last call took.
    pub(crate) round_trip: Duration,
    /// The words with which the peer refuses this node's token, while it is called without one.
    pub(crate) refused_token: Option<String>,
}

/// A session's entry in the table, over QUIC or gRPC. Dropping it removes the entry, and the peer may be dialled again.
pub(crate) struct SessionGuard {
    sessions: Sessions,
    peer: OriginatorId,
    serial: u64,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self { table: Arc::new(watch::Sender::new(SessionTable::default())) }
    }

    /// Admits a peer that has proved its id and links it to the engine, unless another connection to
    /// it is kept. A connection that gives way is closed.
    ///
    /// # Errors
    /// The code to close the new connection with.
    pub(crate) fn admit(
        &self,
        proven: &ProvenConnection,
        replication: &Replication,
        now: Instant,
    ) -> Result<(SessionGuard, Link), CloseCode> {
        let mut admitted = Err(CloseCode::Internal);
        self.table.send_modify(|table| {
            // Linked under the table's lock, so that the engine sees links in the order of admission.
            admitted = table.admit(proven, now).map(|serial| {
                let guard = SessionGuard { sessions: self.clone(), peer: proven.peer, serial };
                let gap_wants = match proven.features.has(FEATURE_GAPS_ALONE) {
                    true => GapWants::All,
                    false => GapWants::None,
                };
                (guard, replication.connect(proven.peer, &proven.clock, gap_wants))
            });
        });
        admitted
    }

    /// Links a peer over gRPC to the engine. `None`, without linking, if the peer is connected over QUIC or
    /// this node is shutting down.
    pub(crate) fn link_grpc(
        &self,
        peer: OriginatorId,
        address: &str,
        round_trip: Duration,
        connect: impl FnOnce() -> Link,
    ) -> Option<(SessionGuard, Link)> {
        let mut linked = None;
        self.table.send_modify(|table| {
            if table.is_closing || table.current.contains_key(&peer) {
                return;
            }
            table.admitted += 1;
            let serial = table.admitted;
            let (address, refused_token) = (address.to_owned(), None);
            let session = GrpcSession { serial, address, round_trip, refused_token };
            table.grpc.insert(peer, session);
            // Linked under the table's lock, as in `admit`.
            linked = Some((SessionGuard { sessions: self.clone(), peer, serial }, connect()));
        });
        linked
    }

    /// Returns true if there is a session with this peer over QUIC.
    pub(crate) fn has(&self, peer: OriginatorId) -> bool {
        self.table.borrow().current.contains_key(&peer)
    }

    /// Returns true if there is a session with this peer over gRPC.
    pub(crate) fn has_grpc(&self, peer: OriginatorId) -> bool {
        self.table.borrow().grpc.contains_key(&peer)
    }

    /// Waits until no session with this peer over gRPC exists.
    pub(crate) async fn wait_for_no_grpc(&self, peer: OriginatorId) {
        self.wait(|table| !table.grpc.contains_key(&peer)).await;
    }

    /// Returns the QUIC address that the API at `url` announces for this peer.
    pub(crate) fn announced_address(&self, peer: OriginatorId, url: &str) -> Option<QuicAddress> {
        self.table.borrow().announced.get(peer, url).cloned()
    }

    /// Waits until the API at `url` has announced an address of this peer.
    pub(crate) async fn wait_for_announced_address(&self, peer: OriginatorId, url: &str) {
        self.wait(|table| table.announced.get(peer, url).is_some()).await;
    }

    /// Returns every session over gRPC.
    pub(crate) fn grpc_sessions(&self) -> Vec<(OriginatorId, GrpcSession)> {
        let table = self.table.borrow();
        table.grpc.iter().map(|(id, session)| (*id, session.clone())).collect()
    }

    /// Waits until a session with this peer over QUIC exists.
    pub(crate) async fn wait_for(&self, peer: OriginatorId) {
        self.wait(|table| table.current.contains_key(&peer)).await;
    }

    /// Waits until no session with this peer over QUIC exists.
    pub(crate) async fn wait_for_none(&self, peer: OriginatorId) {
        self.wait(|table| !table.current.contains_key(&peer)).await;
    }

    async fn wait(&self, condition: impl FnMut(&SessionTable) -> bool) {
        let mut changes = self.table.subscribe();
        changes.wait_for(condition).await.map(drop).expect("the table is held here");
    }

    /// Keeps this node from dialling or admitting a peer until the given time.
    pub(crate) fn avoid(&self, peer: OriginatorId, until: Instant) {
        self.table.send_modify(|table| {
            table.quiet_until.insert(peer, until);
        });
    }

    /// Does the same for a peer that has broken a rule now, for longer each time. `jitter` is a random number in 0..1.
    pub(crate) fn avoid_after_violation(&self, peer: OriginatorId, now: Instant, jitter: f64) {
        self.table.send_modify(|table| {
            let pause = table.violations.entry(peer).or_default().next_pause(now, jitter);
            table.quiet_until.insert(peer, now + pause);
        });
    }

    /// Returns the time before which a peer is not dialled, if one was set.
    pub(crate) fn avoided_until(&self, peer: OriginatorId) -> Option<Instant> {
        self.table.borrow().quiet_until.get(&peer).copied()
    }

    /// Keeps this node apart from a peer until the given time: its sessions end, and it is neither dialled nor
    /// admitted.
    pub(crate) fn partition_from(&self, peer: OriginatorId, until: Instant) {
        self.table.send_modify(|table| {
            table.partitions.insert(peer, until);
            if let Some(current) = table.current.get(&peer) {
                current.connection.close(close_code(CloseCode::Busy), b"");
            }
        });
    }

    /// Ends the order to stay apart from a peer.
    pub(crate) fn heal_partition(&self, peer: OriginatorId) {
        self.table.send_if_modified(|table| table.partitions.remove(&peer).is_some());
    }

    /// Returns the peers that this node is kept apart from at `now`, each with its end.
    pub(crate) fn partitioned_peers(&self, now: Instant) -> Vec<(OriginatorId, Instant)> {
        let table = self.table.borrow();
        table
            .partitions
            .iter()
            .filter(|(_, until)| **until > now)
            .map(|(id, at)| (*id, *at))
            .collect()
    }

    /// Waits until this node is kept apart from a peer.
    pub(crate) async fn wait_for_partition(&self, peer: OriginatorId) {
        self.wait(|table| table.partitioned_until(peer, Instant::now()).is_some()).await;
    }

    /// Waits until this node is not kept apart from a peer.
    pub(crate) async fn wait_for_heal(&self, peer: OriginatorId) {
        let mut changes = self.table.subscribe();
        loop {
            let until = changes.borrow_and_update().partitioned_until(peer, Instant::now());
            let Some(until) = until else { return };
            tokio::select! {
                changed = changes.changed() => changed.expect("the table is held here"),
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    /// Returns every connection with its peer.
    pub(crate) fn connections(&self) -> Vec<(OriginatorId, Connection)> {
        let table = self.table.borrow();
        table.current.iter().map(|(id, current)| (*id, current.connection.clone())).collect()
    }

    /// Admits no peer from now on.
    pub(crate) fn close(&self) {
        self.table.send_modify(|table| table.is_closing = true);
    }
}

impl SessionGuard {
    /// Notes an answer of the peer over gRPC: the duration of the call, the address that the peer announced, if any,
    /// and, for a call without this node's token, the text with which the peer refuses the token.
    pub(crate) fn note_answer(
        &self,
        round_trip: Duration,
        address: Option<QuicAddress>,
        refused_token: Option<String>,
    ) {
        self.sessions.table.send_if_modified(|table| {
            let session = table.grpc.get_mut(&self.peer);
            let Some(session) = session.filter(|session| session.serial == self.serial) else {
                return false;
            };
            // No task waits for these two.
            (session.round_trip, session.refused_token) = (round_trip, refused_token);
            let url = session.address.clone();
            table.announced.note(self.peer, &url, address)
        });
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.sessions.table.send_if_modified(|table| table.remove(self.peer, self.serial));
    }
}

impl SessionTable {
    /// Returns the time until which the operator keeps this node apart from a peer, if that is after `now`.
    fn partitioned_until(&self, peer: OriginatorId, now: Instant) -> Option<Instant> {
        self.partitions.get(&peer).copied().filter(|until| *until > now)
    }

    /// Removes the session of a peer with this number, unless a later one has its place. Returns true if it was there.
    fn remove(&mut self, peer: OriginatorId, serial: u64) -> bool {
        // QUIC and gRPC share the numbers.
        if self.current.get(&peer).is_some_and(|session| session.serial == serial) {
            return self.current.remove(&peer).is_some();
        }
        let is_of_grpc = self.grpc.get(&peer).is_some_and(|session| session.serial == serial);
        is_of_grpc && self.grpc.remove(&peer).is_some()
    }

    /// Counts a session that a peer, which has proved its id, begins now. Returns false if it may not begin one. An
    /// address has a bound of its own before the proof, and a peer may have many.
    fn count_begun(&mut self, peer: OriginatorId, now: Instant) -> bool {
        let fresh = || EventsLeft::new(BEGUN_MAX, BEGUN_EVERY, now);
        self.to_begin.entry(peer).or_insert_with(fresh).take(now)
    }

    fn admit(&mut self, proven: &ProvenConnection, now: Instant) -> Result<u64, CloseCode> {
        let peer = proven.peer;
        if self.is_closing {
            return Err(CloseCode::Shutdown);
        }
        if self.partitioned_until(peer, now).is_some() {
            return Err(CloseCode::Busy);
        }
        if self.quiet_until.get(&peer).is_some_and(|until| *until > now) {
            return Err(CloseCode::Busy);
        }
        self.quiet_until.remove(&peer);
        if self.current.get(&peer).is_some_and(|it| !it.gives_way(proven.dialler, now)) {
            return Err(CloseCode::Duplicate);
        }
        if !self.count_begun(peer, now) {
            return Err(CloseCode::Busy);
        }
        if let Some(current) = self.current.get(&peer) {
            current.connection.close(close_code(CloseCode::Duplicate), b"");
        }
        self.admitted += 1;
        let current = ActiveSession {
            serial: self.admitted,
            dialler: proven.dialler,
            since: now,
            connection: proven.connection.clone(),
        };
        self.current.insert(peer, current);
        Ok(self.admitted)
    }
}

impl ActiveSession {
    /// Returns true when a new connection by `dialler` replaces this one.
    ///
    /// If both ends have dialled at once, both keep the connection that the lower id dialled. They have to decide
    /// alike, or each closes the connection that the other keeps.
    fn gives_way(&self, dialler: OriginatorId, now: Instant) -> bool {
        let at_once = now.saturating_duration_since(self.since) < AT_ONCE;
        !at_once || dialler <= self.dialler
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_breaks_rules_again_and_again_is_avoided_for_longer() {
        let sessions = Sessions::new();
        let (peer, mut now) = (OriginatorId(200), Instant::now());
        let avoid = |peer, now| {
            sessions.avoid_after_violation(peer, now, 1.0);
            sessions.avoided_until(peer).unwrap() - now
        };
        for seconds in [10, 20, 40, 60] {
            let pause = avoid(peer, now);
            assert_eq!(pause, Duration::from_secs(seconds));
            now += pause;
        }
        assert_eq!(avoid(OriginatorId(300), now), Duration::from_secs(10));
    }

    #[test]
    fn the_end_of_an_earlier_session_removes_no_later_one() {
        let (mut table, peer) = (SessionTable::default(), OriginatorId(200));
        let (address, refused_token) = (String::new(), None);
        let later = GrpcSession { serial: 2, address, round_trip: Duration::ZERO, refused_token };
        table.grpc.insert(peer, later);
        assert!(!table.remove(peer, 1));
        assert!(table.grpc.contains_key(&peer));
        assert!(table.remove(peer, 2));
        assert!(table.grpc.is_empty());
    }

    /// Played by a registered node that connects from many addresses, or by two processes with one key.
    #[test]
    fn a_peer_that_connects_again_and_again_begins_few_sessions() {
        let (mut table, start) = (SessionTable::default(), Instant::now());
        let mut begun = |peer: u32, seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            (0..1_000).filter(|_| table.count_begun(OriginatorId(peer), now)).count()
        };
        assert_eq!(begun(200, 0), 16);
        assert_eq!(begun(300, 0), 16, "another peer has its own");
        assert_eq!(begun(200, 10), 10);
        assert_eq!(begun(200, 3_600), 16, "no more than at first");
    }

    #[tokio::test]
    async fn an_order_to_stay_apart_ends_by_itself_and_by_another_order() {
        let sessions = Sessions::new();
        let (peer, other) = (OriginatorId(200), OriginatorId(300));
        let kept = |sessions: &Sessions| sessions.partitioned_peers(Instant::now());
        sessions.wait_for_heal(peer).await;
        sessions.partition_from(peer, Instant::now() + Duration::from_secs(3600));
        sessions.wait_for_partition(peer).await;
        sessions.wait_for_heal(other).await;
        assert_eq!(kept(&sessions).iter().map(|(id, _)| *id).collect::<Vec<_>>(), [peer]);
        let waiting = tokio::spawn({
            let sessions = sessions.clone();
            async move { sessions.wait_for_heal(peer).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        sessions.heal_partition(peer);
        waiting.await.unwrap();
        // It ends without another order, too.
        sessions.partition_from(peer, Instant::now() + Duration::from_millis(1));
        sessions.wait_for_heal(peer).await;
        assert!(kept(&sessions).is_empty());
    }
}
