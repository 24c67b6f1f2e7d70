//! The state that all tasks of replication share.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use hawser_proto::checkpoint::{WitnessKey, WitnessSigner};
use hawser_proto::{Bytes, OriginatorId, SecretKey, SequenceId};
use hawser_storage::Store;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::catch_up::CatchUp;
use super::checkpoint_ports::CheckpointPorts;
use super::counters::{ReplicationCounters, StrandCounters};
use super::disputed::DisputedTrees;
use super::doubted::DoubtedFees;
use super::fault_lines::FaultLines;
use super::former_keys::FormerKeys;
use super::liveness_notes::LivenessNotes;
use super::peers::ConnectedPeers;
use super::suspected::SuspectedDependencies;
use super::unreadable::UnreadablePlaces;
use super::void_ports::VoidPorts;
use crate::ports::Registry;
use crate::replication::{LinkCommand, RequestIds, ShownLimits, WantResponse};
use crate::runtime::chain_clock::ChainClock;
use crate::runtime::counters::Counters;
use crate::runtime::own_strand::OwnStrand;
use crate::runtime::{Committer, Heads, Ports, Publisher, Reports, Workers};

/// Responses that wait for the task of a strand: one to check while the next one arrives. Further
/// ones wait in QUIC, which slows the peer down.
const INBOX_RESPONSES_MAX: usize = 2;

/// Strands whose backlog is split at a time. A guess: with more of them behind, several peers are at work anyway. Their
/// memory is this often [`SplitLimits::held_bytes_max`](crate::replication::SplitLimits::held_bytes_max), 64 MiB.
pub(super) const SPLITS_MAX: usize = 4;

/// The parts of the engine that replication uses, and the tables of its tasks.
pub(super) struct ReplicationState {
    pub(super) own: OriginatorId,
    pub(super) store: Store,
    pub(super) heads: Heads,
    /// The heads that peers get: the verified end of each strand.
    pub(super) relayed: Heads,
    /// The condition on which readers get envelopes of other nodes' strands.
    pub(super) catch_up: CatchUp,
    pub(super) shown_limits: ShownLimits,
    pub(super) committer: Committer,
    pub(super) workers: Workers,
    pub(super) ports: Ports,
    pub(super) engine_counters: Arc<Counters>,
    pub(super) counters: ReplicationCounters,
    pub(super) peers: ConnectedPeers,
    pub(super) publisher: Publisher,
    pub(super) chain_clock: ChainClock,
    pub(super) own_strand: OwnStrand,
    pub(super) doubted: DoubtedFees,
    pub(super) fault_lines: FaultLines,
    pub(super) former_keys: FormerKeys,
    pub(super) suspected: SuspectedDependencies,
    pub(super) unreadable: UnreadablePlaces,
    pub(super) liveness: LivenessNotes,
    pub(super) reports: Reports,
    pub(super) checkpoints: CheckpointPorts,
    pub(super) disputed: DisputedTrees,
    pub(super) voids: VoidPorts,
    /// Strands of which missing places were found, or may have been in the last run, since the last look at the claims
    /// about their nodes.
    pub(super) found: Mutex<BTreeSet<OriginatorId>>,
    /// The key of the store's identity.
    pub(super) key: SecretKey,
    /// The witness that cosigns what agrees with the trees held here.
    pub(super) witness: Option<WitnessSigner>,
    /// True while that witness must not cosign: its folder cannot note that it does.
    pub(super) witness_waits: Arc<AtomicBool>,
    /// The witnesses whose cosignatures are kept.
    pub(super) trusted_witnesses: Vec<WitnessKey>,
    /// Bounds the pages that are read at a time for all peers.
    pub(super) page_reads: Arc<Semaphore>,
    /// Bounds the strands whose backlog is split, [`SPLITS_MAX`].
    pub(super) splits: Arc<Semaphore>,
    pub(super) inboxes: Mutex<HashMap<OriginatorId, mpsc::Sender<WantResponse<Bytes>>>>,
    pub(super) strands: Mutex<BTreeMap<OriginatorId, Arc<StrandCounters>>>,
    /// The strand whose damaged places are fetched. Its follower rests.
    pub(super) mending: watch::Sender<Option<OriginatorId>>,
    /// The strand that is taken from elsewhere than from peers. Its follower rests.
    pub(super) filling: watch::Sender<Option<OriginatorId>>,
    /// True while the guard takes this node's own strand from a peer. No damaged places of it are fetched then.
    pub(super) own_taken: watch::Sender<bool>,
    /// Wakes the tasks that wait for an inbox to be closed.
    pub(super) inbox_closed: Notify,
    /// Followers and searches so far.
    pub(super) turns: AtomicU32,
}

impl ReplicationState {
    /// Returns the inbox of a followed strand.
    pub(super) fn inbox(
        &self,
        originator: OriginatorId,
    ) -> Option<mpsc::Sender<WantResponse<Bytes>>> {
        self.inboxes.lock().get(&originator).cloned()
    }

    /// Opens the inbox of a strand; `None` if a task follows the strand already.
    pub(super) fn open_inbox(
        &self,
        originator: OriginatorId,
    ) -> Option<mpsc::Receiver<WantResponse<Bytes>>> {
        let mut inboxes = self.inboxes.lock();
        let Entry::Vacant(slot) = inboxes.entry(originator) else { return None };
        let (sender, receiver) = mpsc::channel(INBOX_RESPONSES_MAX);
        slot.insert(sender);
        Some(receiver)
    }

    /// Returns the ids of wants for a follower or a search that begins.
    pub(super) fn begin_turn(&self) -> RequestIds {
        RequestIds::of_turn(self.turns.fetch_add(1, Ordering::Relaxed))
    }

    /// Closes the inbox of a strand, whose task has ended.
    pub(super) fn close_inbox(&self, originator: OriginatorId) {
        self.inboxes.lock().remove(&originator);
        self.inbox_closed.notify_waiters();
    }

    /// Returns once the follower of a strand has to rest, or once it need not. Cancel safe.
    pub(super) async fn rests(&self, originator: OriginatorId, is_wanted: bool) {
        let (mut mending, mut filling) = (self.mending.subscribe(), self.filling.subscribe());
        loop {
            let strands = [*mending.borrow_and_update(), *filling.borrow_and_update()];
            if strands.contains(&Some(originator)) == is_wanted {
                return;
            }
            // The senders are in this state, so they are never gone.
            tokio::select! {
                _ = mending.changed() => {}
                _ = filling.changed() => {}
            }
        }
    }

    /// Returns once the guard takes a strand from a peer, or once it does not. It takes this node's own one alone.
    /// Cancel safe.
    pub(super) async fn taken(&self, originator: OriginatorId, is_wanted: bool) {
        let is_own = originator == self.own;
        let mut taken = self.own_taken.subscribe();
        // The sender is in this state, so it is never gone.
        let _ = taken.wait_for(|is_taken| (*is_taken && is_own) == is_wanted).await;
    }

    /// Takes back what connected peers were asked of a strand.
    pub(super) fn stop_wants(&self, originator: OriginatorId) {
        for peer in self.peers.subscribe().borrow().values() {
            // A connection whose queue is full is behind, and hears of the next want later as well.
            let _ = peer.commands.try_send(LinkCommand::Stop { originator });
        }
    }

    /// Returns the test for originators that a peer may make claims about: this node, the nodes of the
    /// registry, the strands of the app chain, and every strand in the log.
    pub(super) fn known_originators(&self) -> impl Fn(OriginatorId) -> bool + use<> {
        let (own, heads) = (self.own, self.heads.get());
        let registry = self.ports.registry.borrow().clone();
        move |originator: OriginatorId| {
            originator == own
                || originator.is_of_chain()
                || registry.node(originator).is_some()
                || heads.get(originator) != SequenceId::NONE
        }
    }

    /// Returns the other canonical nodes, also those without a valid key. Such a node cannot answer, and majorities
    /// count it.
    pub(super) fn others(&self) -> BTreeSet<OriginatorId> {
        let registry = self.ports.registry.borrow();
        registry.canonical_ids().filter(|id| *id != self.own).collect()
    }

    /// Returns the counters of a strand, which stay when its task ends.
    pub(super) fn strand(&self, originator: OriginatorId) -> Arc<StrandCounters> {
        self.strands.lock().entry(originator).or_default().clone()
    }

    /// Returns the counters of all strands that have been followed.
    pub(super) fn strands(&self) -> BTreeMap<OriginatorId, Arc<StrandCounters>> {
        self.strands.lock().clone()
    }
}

/// Returns the present time by the clock that tests pause.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Returns when the registry has changed. Never returns once its owner is gone: the registry then
/// stays as it is.
pub(super) async fn changed(registry: &mut watch::Receiver<Arc<Registry>>) {
    if registry.changed().await.is_err() {
        std::future::pending().await
    }
}
