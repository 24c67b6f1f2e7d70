//! The peers that are connected now, as the tasks of the strands see them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hawser_proto::{Cursor, OriginatorId, SequenceId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::replication::{GapWants, LinkCommand, PeerClock};

/// Time after which a peer that has sent no clock counts as having shown what it shows first: older versions send none
/// while they hold nothing. Specified in `docs/protocol/replication.md`.
const SETTLES_AFTER: Duration = Duration::from_secs(1);

/// The kind of a connected peer, as it has shown itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerKind {
    /// The peer has proved its id.
    pub(super) is_proven: bool,
    pub(super) gap_wants: GapWants,
}

/// A connection to a peer, as the strands see it.
#[derive(Debug, Clone)]
pub(super) struct ConnectedPeer {
    /// The number of this connection, unique within this process.
    pub(super) generation: u64,
    /// The kind of the peer.
    pub(super) kind: PeerKind,
    /// The way to the connection. Full when the connection does not keep up.
    pub(super) commands: mpsc::Sender<LinkCommand>,
    clock: Arc<Mutex<PeerClock>>,
    /// Time at which the connection was entered.
    since: Instant,
    /// The peer has sent a clock in this connection, and before it everything that it shows first.
    has_sent_clock: bool,
}

impl ConnectedPeer {
    /// Returns the head of a strand that the peer claims to hold.
    pub(super) fn head(&self, originator: OriginatorId) -> SequenceId {
        self.clock.lock().head(originator)
    }
}

/// The connected peers by id.
pub(super) type PeerTable = BTreeMap<OriginatorId, ConnectedPeer>;

/// Table of the connected peers that notifies its readers of changes.
#[derive(Debug)]
pub(super) struct ConnectedPeers {
    table: watch::Sender<PeerTable>,
    /// Connections that were entered so far.
    entered: AtomicU64,
}

impl Default for ConnectedPeers {
    fn default() -> Self {
        Self { table: watch::Sender::new(PeerTable::new()), entered: AtomicU64::new(0) }
    }
}

impl ConnectedPeers {
    /// Returns a receiver that finds the table changed at its first look.
    pub(super) fn subscribe(&self) -> watch::Receiver<PeerTable> {
        let mut receiver = self.table.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Returns the head of its own strand that a connected peer claims to hold; `None` without a connection.
    pub(super) fn own_head(&self, peer: OriginatorId) -> Option<SequenceId> {
        self.table.borrow().get(&peer).map(|connected| connected.head(peer))
    }

    /// Returns the vector clock of each connected peer, without originators that are not known.
    pub(super) fn clocks(
        &self,
        is_known: impl Fn(OriginatorId) -> bool,
    ) -> Vec<(OriginatorId, Cursor)> {
        let table = self.table.borrow();
        table.iter().map(|(id, peer)| (*id, peer.clock.lock().known(&is_known))).collect()
    }

    /// Returns the head of a strand that each connected peer claims to hold; `None` for a peer that has sent no heads.
    pub(super) fn stated_heads(
        &self,
        originator: OriginatorId,
    ) -> BTreeMap<OriginatorId, Option<SequenceId>> {
        let table = self.table.borrow();
        table.iter().map(|(id, peer)| (*id, peer.clock.lock().stated_head(originator))).collect()
    }

    /// Returns the peers that may be about to show something about this node's own strand: those that have proved their
    /// ids a moment ago, and have sent no clock since.
    pub(super) fn unsettled(&self) -> BTreeSet<OriginatorId> {
        let now = Instant::now();
        let is_unsettled = |peer: &ConnectedPeer| {
            peer.kind.is_proven && !peer.has_sent_clock && now < peer.since + SETTLES_AFTER
        };
        let table = self.table.borrow();
        table.iter().filter(|(_, peer)| is_unsettled(peer)).map(|(id, _)| *id).collect()
    }

    /// Enters a connection in place of an earlier one to the same peer; returns its generation.
    pub(super) fn insert(
        &self,
        peer: OriginatorId,
        kind: PeerKind,
        commands: mpsc::Sender<LinkCommand>,
        clock: PeerClock,
    ) -> u64 {
        // Never a number that was given before: the end of an old connection must not be taken for the
        // end of this one, and a strand must see that this one is new.
        let generation = self.entered.fetch_add(1, Ordering::Relaxed) + 1;
        self.table.send_modify(|table| {
            let clock = Arc::new(Mutex::new(clock));
            let (since, has_sent_clock) = (Instant::now(), false);
            let connected =
                ConnectedPeer { generation, kind, commands, clock, since, has_sent_clock };
            table.insert(peer, connected);
        });
        generation
    }

    /// Removes a connection, unless a later one has taken its place. Calls `note` if it was removed, before another
    /// connection can be entered.
    pub(super) fn remove(&self, peer: OriginatorId, generation: u64, note: impl FnOnce()) {
        self.table.send_if_modified(|table| {
            let is_current = table.get(&peer).is_some_and(|peer| peer.generation == generation);
            if is_current {
                table.remove(&peer);
                note();
            }
            is_current
        });
    }

    /// Merges the heads that a peer claims, unless a later connection has replaced this one.
    pub(super) fn merge_clock(
        &self,
        peer: OriginatorId,
        generation: u64,
        entries: &Cursor,
        is_known: impl Fn(OriginatorId) -> bool,
    ) {
        let is_first = match self.table.borrow().get(&peer) {
            Some(connected) if connected.generation == generation => {
                connected.clock.lock().merge(entries, is_known);
                !connected.has_sent_clock
            }
            _ => false,
        };
        if is_first {
            self.table.send_modify(|table| {
                let connected = table.get_mut(&peer).filter(|it| it.generation == generation);
                connected.into_iter().for_each(|it| it.has_sent_clock = true);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use hawser_proto::EnvelopeId;

    use super::*;

    const PEER: OriginatorId = OriginatorId(200);

    fn enter(peers: &ConnectedPeers) -> u64 {
        let kind = PeerKind { is_proven: true, gap_wants: GapWants::None };
        peers.insert(PEER, kind, mpsc::channel(1).0, PeerClock::default())
    }

    fn present(peers: &ConnectedPeers) -> Option<u64> {
        peers.table.borrow().get(&PEER).map(|peer| peer.generation)
    }

    #[test]
    fn an_old_connection_that_ends_late_never_removes_a_newer_one() {
        let peers = ConnectedPeers::default();
        let (first, second) = (enter(&peers), enter(&peers));
        peers.remove(PEER, second, || ());
        assert_eq!(present(&peers), None);
        let third = enter(&peers);
        peers.remove(PEER, first, || ());
        assert_eq!(present(&peers), Some(third), "the first one has ended, and not the third");
    }

    /// The peer connects again at the moment at which its connection ends. What the new connection brings with it would
    /// be forgotten with the old one.
    #[test]
    fn the_end_of_a_connection_is_noted_before_another_one_is_entered() {
        let (peers, is_noted) = (ConnectedPeers::default(), AtomicBool::new(false));
        let (peers, is_noted, first) = (&peers, &is_noted, enter(&peers));
        std::thread::scope(|scope| {
            let (begin, begun) = std::sync::mpsc::channel();
            peers.remove(PEER, first, move || {
                scope.spawn(move || {
                    begin.send(()).unwrap();
                    enter(peers);
                    assert!(is_noted.load(Ordering::SeqCst), "it was entered in between");
                });
                begun.recv().unwrap();
                // The other thread would enter its connection within this time.
                std::thread::sleep(Duration::from_millis(20));
                is_noted.store(true, Ordering::SeqCst);
            });
        });
        peers.remove(PEER, first, || panic!("a later one has taken its place"));
    }

    #[test]
    fn generations_never_repeat() {
        let peers = ConnectedPeers::default();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..10 {
            let generation = enter(&peers);
            assert!(seen.insert(generation), "{generation} was given before");
            peers.remove(PEER, generation, || ());
        }
    }

    #[test]
    fn an_old_connection_says_nothing_about_a_newer_one() {
        let peers = ConnectedPeers::default();
        let first = enter(&peers);
        peers.remove(PEER, first, || ());
        enter(&peers);
        let claims = [EnvelopeId::new(PEER, SequenceId(7))].into_iter().collect();
        peers.merge_clock(PEER, first, &claims, |_| true);
        assert_eq!(peers.clocks(|_| true), [(PEER, Cursor::new())]);
        assert_eq!(peers.unsettled(), BTreeSet::from([PEER]), "this one has sent no clock");
    }

    #[test]
    fn a_peer_has_settled_with_its_first_clock_and_one_without_proof_at_once() {
        let peers = ConnectedPeers::default();
        let generation = enter(&peers);
        let kind = PeerKind { is_proven: false, gap_wants: GapWants::Ranges };
        peers.insert(OriginatorId(300), kind, mpsc::channel(1).0, PeerClock::default());
        assert_eq!(peers.unsettled(), BTreeSet::from([PEER]));
        peers.merge_clock(PEER, generation, &Cursor::new(), |_| true);
        assert_eq!(peers.unsettled(), BTreeSet::new());
    }
}
