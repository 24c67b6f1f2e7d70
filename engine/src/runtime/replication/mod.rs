//! Replication as it runs: a task for every strand that this node follows, and readers for the
//! strands that it sends to peers.

mod counters;
mod own_guard;
mod peers;
mod reader;
mod task;
mod writes;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use hawser_proto::frame::RefuseReason;
use hawser_proto::{Bytes, Cursor, OriginatorId, SequenceId};
use hawser_storage::Store;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::own_strand::OwnStrand;
use super::{Committer, Engine, Publisher, Workers};
use crate::ports::{Ports, Registry};
use crate::replication::WantResponse;
use crate::runtime::Heads;
use crate::runtime::counters::Counters;

pub use counters::{ReplicationCounters, StrandCounters};
pub use peers::{Feed, Link, StrandGone};
pub use reader::{StrandReadError, StrandReader};

use peers::Links;
use task::Strand;

/// Deliveries that wait for a strand's task. What waits longer waits in QUIC.
const INBOX: usize = 2;

/// The engine's side of replication, for the transport. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Replication {
    shared: Arc<Shared>,
}

/// Stops the tasks.
#[must_use = "the tasks run until they are stopped"]
pub struct ReplicationTasks {
    stop: watch::Sender<bool>,
    supervisor: JoinHandle<()>,
}

struct Shared {
    own: OriginatorId,
    store: Store,
    heads: Heads,
    committer: Committer,
    workers: Workers,
    ports: Ports,
    counted: Arc<Counters>,
    counters: ReplicationCounters,
    links: Links,
    inboxes: Mutex<HashMap<OriginatorId, mpsc::Sender<WantResponse<Bytes>>>>,
    strands: Mutex<BTreeMap<OriginatorId, Arc<StrandCounters>>>,
    publisher: Publisher,
    own_strand: OwnStrand,
}

impl Replication {
    /// Follows every node of the registry except this one, canonical or not, from now on; and
    /// stops publishing when a peer shows more of this node's own strand than it holds. To be
    /// called within a tokio runtime.
    pub fn start(engine: &Engine) -> (Self, ReplicationTasks) {
        let shared = Arc::new(Shared {
            own: engine.store().identity().node,
            store: engine.store().clone(),
            heads: engine.heads().clone(),
            committer: engine.committer().clone(),
            workers: engine.workers().clone(),
            ports: engine.ports().clone(),
            counted: engine.counters().clone(),
            counters: ReplicationCounters::default(),
            links: Links::default(),
            inboxes: Mutex::default(),
            strands: Mutex::default(),
            publisher: engine.publisher.clone(),
            own_strand: engine.publisher.own_strand().clone(),
        });
        let (stop, stopped) = watch::channel(false);
        let supervisor = tokio::spawn(supervise(shared.clone(), stopped));
        (Self { shared }, ReplicationTasks { stop, supervisor })
    }

    /// This node.
    #[must_use]
    pub fn own(&self) -> OriginatorId {
        self.shared.own
    }

    /// Tells the strands that a peer has proved its id and can be asked. `clock` is how far the
    /// peer says it is. Takes the place of an earlier link to the same peer; the peer counts as
    /// gone when the link is dropped.
    #[must_use]
    pub fn connect(&self, peer: OriginatorId, clock: Cursor) -> Link {
        Link::new(self.shared.clone(), peer, clock)
    }

    /// Reads a strand for a peer: what follows `after`, and with no `up_to` everything that comes
    /// later too. `bytes_max` bounds what is read at once; a larger envelope comes alone.
    ///
    /// # Errors
    /// What to answer the peer instead.
    pub fn reader(
        &self,
        originator: OriginatorId,
        after: SequenceId,
        up_to: Option<SequenceId>,
        bytes_max: usize,
    ) -> Result<StrandReader, RefuseReason> {
        if !originator.is_node() {
            return Err(RefuseReason::NotFromPeers);
        }
        let known = self.shared.ports.registry.borrow().node(originator).is_some();
        if !known && self.shared.heads.get().get(originator) == SequenceId::NONE {
            return Err(RefuseReason::UnknownOriginator);
        }
        let (store, heads) = (self.shared.store.clone(), self.shared.heads.subscribe());
        let counters = self.shared.counted.clone();
        Ok(StrandReader::new(store, heads, originator, after, up_to, bytes_max, counters))
    }

    /// How far each strand is durable here.
    #[must_use]
    pub fn heads(&self) -> &Heads {
        &self.shared.heads
    }

    /// How far each connected peer says it is, by peer. What it says is no proof.
    #[must_use]
    pub fn peer_clocks(&self) -> Vec<(OriginatorId, Cursor)> {
        self.shared.links.clocks()
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counters(&self) -> &ReplicationCounters {
        &self.shared.counters
    }

    /// The same for each strand that is followed.
    #[must_use]
    pub fn strands(&self) -> BTreeMap<OriginatorId, Arc<StrandCounters>> {
        self.shared.strands.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Replication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replication").field("own", &self.shared.own).finish_non_exhaustive()
    }
}

impl ReplicationTasks {
    /// Returns when the last commit under way is done. What was received and not yet committed is
    /// asked for again at the next start.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // A task that panicked has told so by its hook.
        let _ = self.supervisor.await;
    }
}

impl Shared {
    fn inbox(&self, originator: OriginatorId) -> Option<mpsc::Sender<WantResponse<Bytes>>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner).get(&originator).cloned()
    }

    fn strand(&self, originator: OriginatorId) -> Arc<StrandCounters> {
        let mut strands = self.strands.lock().unwrap_or_else(PoisonError::into_inner);
        strands.entry(originator).or_default().clone()
    }

    /// `None` if the strand has its task already.
    fn open_inbox(&self, originator: OriginatorId) -> Option<mpsc::Receiver<WantResponse<Bytes>>> {
        let mut inboxes = self.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let std::collections::hash_map::Entry::Vacant(slot) = inboxes.entry(originator) else {
            return None;
        };
        let (sender, receiver) = mpsc::channel(INBOX);
        slot.insert(sender);
        Some(receiver)
    }

    fn close_inbox(&self, originator: OriginatorId) {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner).remove(&originator);
    }
}

/// Starts a task for every node that is in the registry or comes into it. A node that leaves is
/// followed on: its strand is still owed to readers.
async fn supervise(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut strands = JoinSet::new();
    strands.spawn(own_guard::guard(shared.clone(), stopped.clone()));
    let mut registry = shared.ports.registry.clone();
    loop {
        let nodes = registry.borrow_and_update().clone();
        for node in nodes.nodes().filter(|node| node.id != shared.own && node.id.is_node()) {
            if let Some(inbox) = shared.open_inbox(node.id) {
                let (id, key) = (node.id, node.public_key);
                let strand = Strand::resume(shared.clone(), id, key, id, inbox);
                let stopped = stopped.clone();
                strands.spawn(async move { strand.await.run(stopped).await });
            }
        }
        tokio::select! {
            () = stop_of(&mut stopped) => break,
            () = change_of(&mut registry) => {}
        }
    }
    while strands.join_next().await.is_some() {}
}

async fn stop_of(stopped: &mut watch::Receiver<bool>) {
    // An error means that nobody can stop us any more, which stops us too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Never returns if nobody updates the registry any more: it stays as it is.
async fn change_of(registry: &mut watch::Receiver<Arc<Registry>>) {
    if registry.changed().await.is_err() {
        std::future::pending().await
    }
}
