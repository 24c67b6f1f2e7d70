//! The peers that are connected now, as the tasks of the strands see them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hawser_proto::{Cursor, OriginatorId, SequenceId};
use tokio::sync::{mpsc, watch};

use crate::replication::LinkCommand;

/// A connection to a peer, as the strands see it.
#[derive(Debug, Clone)]
pub(super) struct ConnectedPeer {
    /// Tells this connection apart from an earlier one to the same peer.
    pub(super) generation: u64,
    /// The way to the connection. Full when the connection does not keep up.
    pub(super) commands: mpsc::Sender<LinkCommand>,
    clock: Arc<Mutex<Cursor>>,
}

impl ConnectedPeer {
    /// Returns the head of a strand that the peer claims to hold.
    pub(super) fn head(&self, originator: OriginatorId) -> SequenceId {
        self.clock().get(originator)
    }

    fn clock(&self) -> MutexGuard<'_, Cursor> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connected peers by id.
pub(super) type PeerTable = BTreeMap<OriginatorId, ConnectedPeer>;

/// Table of the connected peers that tells its readers when it changes.
#[derive(Debug)]
pub(super) struct Peers {
    table: watch::Sender<PeerTable>,
}

impl Default for Peers {
    fn default() -> Self {
        Self { table: watch::Sender::new(PeerTable::new()) }
    }
}

impl Peers {
    /// Returns a receiver that finds the table changed at its first look.
    pub(super) fn subscribe(&self) -> watch::Receiver<PeerTable> {
        let mut receiver = self.table.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Returns the vector clock of each connected peer.
    pub(super) fn clocks(&self) -> Vec<(OriginatorId, Cursor)> {
        self.table.borrow().iter().map(|(id, peer)| (*id, peer.clock().clone())).collect()
    }

    /// Enters a connection in place of an earlier one to the same peer; returns its generation.
    pub(super) fn insert(
        &self,
        peer: OriginatorId,
        commands: mpsc::Sender<LinkCommand>,
        clock: Cursor,
    ) -> u64 {
        let mut generation = 0;
        self.table.send_modify(|table| {
            generation = table.get(&peer).map_or(0, |peer| peer.generation) + 1;
            let clock = Arc::new(Mutex::new(clock));
            table.insert(peer, ConnectedPeer { generation, commands, clock });
        });
        generation
    }

    /// Removes a connection, unless a later one has taken its place.
    pub(super) fn remove(&self, peer: OriginatorId, generation: u64) {
        self.table.send_if_modified(|table| {
            let current = table.get(&peer).is_some_and(|peer| peer.generation == generation);
            current && table.remove(&peer).is_some()
        });
    }

    /// Merges what a peer claims to hold, unless a later connection has taken the place of this.
    pub(super) fn merge_clock(&self, peer: OriginatorId, generation: u64, entries: &Cursor) {
        if let Some(peer) = self.table.borrow().get(&peer)
            && peer.generation == generation
        {
            peer.clock().merge(entries);
        }
    }
}
