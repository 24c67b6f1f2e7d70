//! Which peers are connected: one session for each, whoever dialled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_engine::runtime::replication::{Link, Replication};
use hawser_proto::OriginatorId;
use hawser_proto::frame::CloseCode;
use quinn::{Connection, VarInt};
use tokio::sync::watch;

use crate::handshake::Proven;

/// Two connections that come up within this time were dialled at once; a later one means that its
/// dialler has lost the earlier. Guessed.
const AT_ONCE: Duration = Duration::from_secs(5);

/// All sessions of this node. Clones share them.
#[derive(Clone)]
pub(crate) struct Sessions {
    table: Arc<watch::Sender<Table>>,
}

#[derive(Default)]
struct Table {
    current: HashMap<OriginatorId, Current>,
    /// Peers that did what they may not are left alone for a while.
    quiet_until: HashMap<OriginatorId, Instant>,
    admitted: u64,
    is_closing: bool,
}

struct Current {
    serial: u64,
    dialler: OriginatorId,
    since: Instant,
    connection: Connection,
}

/// One session's place in the table; given back when dropped.
pub(crate) struct Place {
    sessions: Sessions,
    peer: OriginatorId,
    serial: u64,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self { table: Arc::new(watch::Sender::new(Table::default())) }
    }

    /// Lets a peer in that has proved its id, and tells the engine, unless another connection to
    /// it is to be kept. A connection that gives way is closed.
    ///
    /// # Errors
    /// What the new connection is to be closed with.
    pub(crate) fn admit(
        &self,
        proven: &Proven,
        replication: &Replication,
        now: Instant,
    ) -> Result<(Place, Link), CloseCode> {
        let mut admitted = Err(CloseCode::Internal);
        self.table.send_modify(|table| {
            // Linked while the table is held, so that the engine sees links in the same order.
            admitted = table.admit(proven, now).map(|serial| {
                let place = Place { sessions: self.clone(), peer: proven.peer, serial };
                (place, replication.connect(proven.peer, proven.clock.clone()))
            });
        });
        admitted
    }

    /// Waits until there is a session with this peer.
    pub(crate) async fn wait_for(&self, peer: OriginatorId) {
        self.wait(|table| table.current.contains_key(&peer)).await;
    }

    /// Waits until there is no session with this peer.
    pub(crate) async fn wait_for_none(&self, peer: OriginatorId) {
        self.wait(|table| !table.current.contains_key(&peer)).await;
    }

    async fn wait(&self, condition: impl FnMut(&Table) -> bool) {
        let mut changes = self.table.subscribe();
        changes.wait_for(condition).await.map(drop).expect("the table is held here");
    }

    /// Leaves a peer alone, and does not let it in, until then.
    pub(crate) fn avoid(&self, peer: OriginatorId, until: Instant) {
        self.table.send_modify(|table| {
            table.quiet_until.insert(peer, until);
        });
    }

    /// Until when a peer is left alone.
    pub(crate) fn avoided_until(&self, peer: OriginatorId) -> Option<Instant> {
        self.table.borrow().quiet_until.get(&peer).copied()
    }

    /// Every connection, by peer.
    pub(crate) fn connections(&self) -> Vec<(OriginatorId, Connection)> {
        let table = self.table.borrow();
        table.current.iter().map(|(id, current)| (*id, current.connection.clone())).collect()
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&self) {
        self.table.send_modify(|table| table.is_closing = true);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.table.send_if_modified(|table| {
            let current = table.current.get(&self.peer);
            let is_mine = current.is_some_and(|current| current.serial == self.serial);
            is_mine && table.current.remove(&self.peer).is_some()
        });
    }
}

impl Table {
    fn admit(&mut self, proven: &Proven, now: Instant) -> Result<u64, CloseCode> {
        let peer = proven.peer;
        if self.is_closing {
            return Err(CloseCode::Shutdown);
        }
        if self.quiet_until.get(&peer).is_some_and(|until| *until > now) {
            return Err(CloseCode::Busy);
        }
        self.quiet_until.remove(&peer);
        if let Some(current) = self.current.get(&peer) {
            if !current.gives_way(proven.dialler, now) {
                return Err(CloseCode::Duplicate);
            }
            current.connection.close(close_code(CloseCode::Duplicate), b"");
        }
        self.admitted += 1;
        let current = Current {
            serial: self.admitted,
            dialler: proven.dialler,
            since: now,
            connection: proven.connection.clone(),
        };
        self.current.insert(peer, current);
        Ok(self.admitted)
    }
}

impl Current {
    /// Both ends have to decide the same, or each closes what the other keeps.
    fn gives_way(&self, dialler: OriginatorId, now: Instant) -> bool {
        let at_once = now.saturating_duration_since(self.since) < AT_ONCE;
        !at_once || dialler <= self.dialler
    }
}

/// The number as QUIC takes it.
pub(crate) fn close_code(code: CloseCode) -> VarInt {
    VarInt::from_u32(code.code())
}
