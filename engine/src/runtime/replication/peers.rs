//! The peers that are connected now, and the way between their connections and the strands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hawser_proto::{Bytes, Cursor, OriginatorId, SequenceId};
use tokio::sync::{mpsc, watch};

use super::Shared;
use crate::replication::{LinkCommand, RequestId, StrandItem, WantResponse};

/// Commands that wait for a connection. Each strand has at most a few under way.
const COMMANDS: usize = 1024;

/// A peer as the strands see it.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    /// Told apart from an earlier connection to the same peer.
    pub(super) generation: u64,
    pub(super) commands: mpsc::Sender<LinkCommand>,
    clock: Arc<Mutex<Cursor>>,
}

impl Connected {
    /// How far the peer says that it holds a strand.
    pub(super) fn head(&self, originator: OriginatorId) -> SequenceId {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).get(originator)
    }
}

/// All peers that are connected now, by id.
pub(super) type Table = BTreeMap<OriginatorId, Connected>;

/// The table, and who waits for it to change.
#[derive(Debug)]
pub(super) struct Links {
    table: watch::Sender<Table>,
}

impl Default for Links {
    fn default() -> Self {
        Self { table: watch::Sender::new(Table::new()) }
    }
}

impl Links {
    pub(super) fn subscribe(&self) -> watch::Receiver<Table> {
        let mut receiver = self.table.subscribe();
        receiver.mark_changed(); // whoever subscribes has seen nothing yet
        receiver
    }

    pub(super) fn clocks(&self) -> Vec<(OriginatorId, Cursor)> {
        let clock =
            |peer: &Connected| peer.clock.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.table.borrow().iter().map(|(id, peer)| (*id, clock(peer))).collect()
    }

    fn insert(
        &self,
        peer: OriginatorId,
        commands: mpsc::Sender<LinkCommand>,
        clock: Cursor,
    ) -> u64 {
        let mut generation = 0;
        self.table.send_modify(|table| {
            generation = table.get(&peer).map_or(0, |peer| peer.generation) + 1;
            let clock = Arc::new(Mutex::new(clock));
            table.insert(peer, Connected { generation, commands, clock });
        });
        generation
    }

    fn remove(&self, peer: OriginatorId, generation: u64) {
        self.table.send_if_modified(|table| {
            let current = table.get(&peer).is_some_and(|peer| peer.generation == generation);
            current && table.remove(&peer).is_some()
        });
    }
}

/// The engine's end of a connection to a peer that has proved its id. Dropping it tells the
/// strands that the peer is gone.
#[derive(Debug)]
pub struct Link {
    feed: Feed,
    commands: mpsc::Receiver<LinkCommand>,
}

impl Link {
    pub(super) fn new(shared: Arc<Shared>, peer: OriginatorId, clock: Cursor) -> Self {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let generation = shared.links.insert(peer, sender, clock);
        Self { feed: Feed { shared, peer, generation }, commands }
    }

    /// The next thing to be done, or `None` once another connection has taken the peer over.
    /// Cancel safe.
    pub async fn command(&mut self) -> Option<LinkCommand> {
        self.commands.recv().await
    }

    /// The way for what arrives.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.feed
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.feed.shared.links.remove(self.feed.peer, self.feed.generation);
    }
}

/// Nobody follows this strand, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the strand is not followed")]
pub struct StrandGone;

/// Brings what a peer sends to the strands. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<Shared>,
    peer: OriginatorId,
    generation: u64,
}

impl Feed {
    /// Hands over what arrived in answer to `request`. Waits while the strand has more than it
    /// can store: whoever awaits this reads no more, and the peer is slowed down by QUIC.
    ///
    /// # Errors
    /// When nobody wants it.
    pub async fn deliver(
        &self,
        originator: OriginatorId,
        request: RequestId,
        items: Vec<StrandItem<Bytes>>,
    ) -> Result<(), StrandGone> {
        let inbox = self.shared.inbox(originator).ok_or(StrandGone)?;
        let response = WantResponse { peer: self.peer, request, items };
        inbox.send(response).await.map_err(|_| StrandGone)
    }

    /// Takes over how far the peer says it is.
    pub fn note_clock(&self, entries: &Cursor) {
        if let Some(peer) = self.shared.links.table.borrow().get(&self.peer)
            && peer.generation == self.generation
        {
            peer.clock.lock().unwrap_or_else(PoisonError::into_inner).merge(entries);
        }
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("peer", &self.peer).finish_non_exhaustive()
    }
}
