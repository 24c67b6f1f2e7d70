//! Replication as it runs: a task for each strand that this node follows, and readers for the
//! strands that it sends to peers.
//!
//! - [`Replication`]: the handle that the transport uses;
//! - `state`, `peers`, `counters`: what the tasks share;
//! - [`Link`]: a connection to one peer; [`StrandReader`]: a strand on its way to one;
//! - `checkpoints`, `checkpoint_ports`: the exchange of signed checkpoints with peers; `disputed`: trees that differ
//!   from those held here, on their way to the followers of their strands;
//! - `evidence`: finds evidence against originators; `record`: records it; `conflicts`: evidence of two statements for
//!   one place;
//! - `doubted`, `suspected`: envelopes that may become evidence later; `unreadable`: damaged ones that cannot;
//! - `refused`: names what is refused while the peer that sent it keeps its connection;
//! - `liveness`, `liveness_notes`: reports of nodes that do not answer;
//! - `former_keys`: strands that were signed with a key which the registry has replaced since;
//! - `membership`: marks of what nodes signed while they were not in the network;
//! - `task`: follows one strand; `checking`: what has arrived, on all cores; `writes`: what it has accepted, on its way
//!   to disk; `strand_read`: its state on disk; `missing`: reads further places that are marked missing; `expired`:
//!   marks those that have expired;
//! - `catch_up`, `shown`, `behind`: envelopes that readers, but not peers, get before they are verified;
//! - `voids`, `void_ports`: statements of nodes about places that they left out, and claims about places that end;
//! - `mend`: fetches what the disk has damaged, while the strand's follower rests;
//! - `own_guard`: decides with peers if this node may sign, and takes over what they hold of its strand.

mod behind;
mod catch_up;
mod checking;
mod checkpoint_ports;
mod checkpoints;
mod conflicts;
mod counters;
mod dependencies;
mod disputed;
mod doubted;
mod evidence;
mod expired;
mod fault_lines;
mod former_keys;
mod link;
mod liveness;
mod liveness_notes;
mod membership;
mod mend;
mod missing;
mod own_guard;
mod peers;
mod reader;
mod record;
mod refused;
mod shown;
mod state;
mod strand_read;
mod suspected;
mod task;
mod unreadable;
mod unsaved;
mod void_ports;
mod voids;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Instant;

use hawser_proto::checkpoint::{CosignedCheckpoint, WitnessKey, WitnessSigner};
use hawser_proto::frame::RefusalReason;
use hawser_proto::merkle::TreeHash;
use hawser_proto::void::{SignedVoid, VoidStatement};
use hawser_proto::{Bytes, Cursor, OriginatorId, PublicKey, SequenceId};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::stop::{self, StopSender, StopSignal};
use super::{Engine, Heads};
use crate::replication::{CheckpointOffers, GapWants, ShownLimits};
use checkpoint_ports::CheckpointPorts;
use disputed::DisputedTrees;
use doubted::DoubtedFees;
use fault_lines::FaultLines;
use former_keys::FormerKeys;
use liveness_notes::LivenessNotes;
use mend::MendCheck;
use own_guard::GuardTask;
use peers::{ConnectedPeers, PeerKind};
use reader::PageProof;
use state::{ReplicationState, now};
use suspected::SuspectedDependencies;
use unreadable::UnreadablePlaces;
use void_ports::VoidPorts;

pub use catch_up::CatchUp;
pub use counters::{ReplicationCounters, StrandCounters};
pub use link::{Link, NotFollowedError, ResponseSink};
pub use mend::RestingStrand;
pub use reader::{PageReads, StrandPage, StrandPart, StrandReadError, StrandReader};

/// The engine's side of replication, for the transport. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Replication {
    state: Arc<ReplicationState>,
    migrated: Option<MigratedStrands>,
}

/// The running tasks of replication.
#[must_use = "the tasks run until they are stopped"]
pub struct ReplicationTasks {
    stop: StopSender,
    supervisor: JoinHandle<()>,
}

/// Source and signer of the strands of the older network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigratedStrands {
    /// The node that took them over.
    pub source: OriginatorId,
    /// The key that signed them. No registry names it.
    pub key: PublicKey,
}

/// The witnesses that this process has to do with.
#[derive(Debug, Clone, Default)]
pub struct CheckpointWitnesses {
    /// The witness that it is itself: it cosigns the checkpoints that agree with the trees held here.
    pub own: Option<WitnessSigner>,
    /// True while that witness must not cosign.
    pub own_waits: Arc<AtomicBool>,
    /// Witnesses whose cosignatures the node keeps and passes on.
    pub trusted: Vec<WitnessKey>,
}

/// Settings of replication.
#[derive(Debug, Clone, Default)]
pub struct ReplicationSettings {
    /// The strands of the older network, which are followed if their signer is given.
    pub migrated: Option<MigratedStrands>,
    /// The witnesses that this process has to do with.
    pub witnesses: CheckpointWitnesses,
    /// The condition on which readers get envelopes of other nodes' strands.
    pub catch_up: CatchUp,
    /// Bounds of what readers are shown before it is verified.
    pub shown_limits: ShownLimits,
}

impl Replication {
    /// Starts to follow every other node that is or was in the canonical network, and to ask peers for
    /// the end of this node's own strand: it publishes nothing before that is over. The strands
    /// of the older network are followed if their signer is given.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(engine: &Engine, settings: ReplicationSettings) -> (Self, ReplicationTasks) {
        let ReplicationSettings { migrated, witnesses, catch_up, shown_limits } = settings;
        let state = Arc::new(ReplicationState {
            own: engine.store().identity().node,
            store: engine.store().clone(),
            heads: engine.heads().clone(),
            relayed: engine.verified_heads().clone(),
            catch_up,
            shown_limits,
            committer: engine.committer().clone(),
            workers: engine.workers().clone(),
            ports: engine.ports().clone(),
            engine_counters: engine.counters().clone(),
            counters: ReplicationCounters::default(),
            peers: ConnectedPeers::default(),
            publisher: engine.publisher.clone(),
            chain_clock: engine.chain_clock.clone(),
            own_strand: engine.publisher.own_strand().clone(),
            doubted: DoubtedFees::read(engine.store()),
            fault_lines: FaultLines::default(),
            former_keys: FormerKeys::default(),
            suspected: SuspectedDependencies::default(),
            unreadable: UnreadablePlaces::default(),
            liveness: LivenessNotes::default(),
            reports: engine.reports().clone(),
            checkpoints: CheckpointPorts::default(),
            disputed: DisputedTrees::default(),
            voids: VoidPorts::new(engine.store()),
            found: Mutex::default(),
            key: engine.key.clone(),
            witness: witnesses.own,
            witness_waits: witnesses.own_waits,
            trusted_witnesses: witnesses.trusted,
            page_reads: PageReads::of_all_sessions(),
            splits: Arc::new(Semaphore::new(state::SPLITS_MAX)),
            inboxes: Mutex::default(),
            strands: Mutex::default(),
            mending: watch::Sender::default(),
            filling: watch::Sender::default(),
            own_taken: watch::Sender::default(),
            inbox_closed: Notify::new(),
            turns: AtomicU32::new(0),
        });
        let (stop, stopped) = stop::channel();
        // Here and not in the task: the gate is closed before the caller goes on. A replica has no strand.
        let has_strand = state.own != OriginatorId::REPLICA;
        let guard = has_strand.then(|| GuardTask::new(state.clone()));
        let supervisor = tokio::spawn(supervise(state.clone(), guard, migrated, stopped));
        let replication = Self { state, migrated };
        engine.scrubs().connect(replication.clone());
        (replication, ReplicationTasks { stop, supervisor })
    }

    /// Fetches envelopes of a strand from the connected peers. Takes those that the originator has signed and that, if
    /// the strand's tree has the place, match the tree. Envelopes of a chain have no signature, so they must match the
    /// tree. The strand is not followed meanwhile. One call at a time. Returns the envelopes that were found.
    pub async fn fetch(
        &self,
        originator: OriginatorId,
        wanted: BTreeMap<SequenceId, Option<TreeHash>>,
    ) -> BTreeMap<SequenceId, Bytes> {
        if self.state.former_keys.has(originator) {
            // Peers that hold what the former key has signed would be sent away for it.
            return BTreeMap::new();
        }
        let check = match self.key_of(originator) {
            Some(key) => MendCheck::of_signatures(&self.state, originator, key),
            None if !originator.is_signer() => MendCheck::OfTree { originator },
            None => return BTreeMap::new(),
        };
        mend::fetch(&self.state, &check, wanted).await
    }

    /// Pauses the follower of a node's strand until the result is dropped. Meanwhile the caller takes the strand from
    /// elsewhere than from peers, checks it as the follower does, and alone commits to it. Returns `None` if the
    /// follower does not come to rest within half a minute. One call at a time, awaited to its end.
    pub async fn rest(&self, originator: OriginatorId) -> Option<RestingStrand> {
        if originator == self.state.own || !originator.is_node() {
            return None;
        }
        mend::rest(&self.state, originator).await
    }

    fn key_of(&self, originator: OriginatorId) -> Option<PublicKey> {
        if originator == self.state.own {
            return Some(self.state.store.identity().public_key);
        }
        if originator.is_migrated() {
            return self.migrated.map(|it| it.key);
        }
        if !originator.is_node() {
            return None;
        }
        self.state.ports.registry.borrow().node(originator).map(|it| it.public_key)
    }

    /// Notes that this node does not dial an address of a peer, by a rule or a setting of its own. The peer is not
    /// reported for a silence that is not its own.
    pub fn note_not_dialled(&self, peer: OriginatorId) {
        self.state.liveness.note_not_dialled(peer, now());
    }

    /// Notes that this node has dialled an address that a peer's record names, and no session came of it: another
    /// address, which this node does not dial, does not excuse the peer.
    pub fn note_dialled(&self, peer: OriginatorId) {
        self.state.liveness.note_dialled(peer, now());
    }

    /// Notes that this node has ended the connection to a peer that broke a rule. The peer is not reported for the
    /// silence that follows: this node does not ask it meanwhile. The session notes this also for a rule that the
    /// engine has found broken (`LinkCommand::Disconnect`).
    pub fn note_sent_away(&self, peer: OriginatorId) {
        self.state.liveness.note_sent_away(peer, now());
    }

    /// Notes that the operator keeps this node apart from a peer until this time; `None` if the order has ended. The
    /// peer is not reported for a silence that is not its own.
    pub fn note_partition(&self, peer: OriginatorId, until: Option<Instant>) {
        self.state.liveness.note_partition(peer, until);
    }

    /// Returns the id of this node.
    #[must_use]
    pub fn own(&self) -> OriginatorId {
        self.state.own
    }

    /// Announces a peer to the strands. The peer has proved its id and can be asked for envelopes. `clock` holds the
    /// heads that the peer claims, and `gap_wants` are the wants for gaps alone that it answers.
    ///
    /// The link takes the place of an earlier one to the same peer. The peer counts as gone when
    /// the link is dropped.
    #[must_use]
    pub fn connect(&self, peer: OriginatorId, clock: &Cursor, gap_wants: GapWants) -> Link {
        let kind = PeerKind { is_proven: true, gap_wants };
        Link::new(self.state.clone(), peer, kind, Some(clock))
    }

    /// Does the same for a peer that only answers at its address in the registry. `clock` is `None` for a peer that
    /// cannot send its heads: it has stated nothing about this node's own strand then.
    #[must_use]
    pub fn connect_unproven(&self, peer: OriginatorId, clock: Option<&Cursor>) -> Link {
        let kind = PeerKind { is_proven: false, gap_wants: GapWants::Ranges };
        Link::new(self.state.clone(), peer, kind, clock)
    }

    /// Returns the bound of the reads for a new session with a peer.
    #[must_use]
    pub fn page_reads(&self) -> PageReads {
        PageReads::new(self.state.page_reads.clone())
    }

    /// Opens a part of a strand for a peer, from behind `after`. `bytes_max` bounds what is read at once; a larger
    /// envelope comes alone. `reads` is that of the peer's session.
    ///
    /// # Errors
    /// The reason to answer the peer with instead.
    pub fn reader(
        &self,
        originator: OriginatorId,
        after: SequenceId,
        part: StrandPart,
        bytes_max: usize,
        reads: PageReads,
    ) -> Result<StrandReader, RefusalReason> {
        // Each node reads the chains itself. A peer asks for a part of a chain's strand only to replace what its disk
        // has damaged, and checks the part by its own tree.
        if !originator.is_signer() && part == StrandPart::Items(None) {
            return Err(RefusalReason::NotFromPeers);
        }
        if self.state.former_keys.has(originator) {
            // A peer with the present key would take it for forged, and this node for the liar.
            return Err(RefusalReason::UnknownOriginator);
        }
        let known = self.state.ports.registry.borrow().node(originator).is_some();
        if !known && self.state.heads.get().get(originator) == SequenceId::NONE {
            return Err(RefusalReason::UnknownOriginator);
        }
        Ok(StrandReader {
            store: self.state.store.clone(),
            heads: self.state.relayed.subscribe(),
            originator,
            position: after,
            part,
            bytes_max,
            page_bytes: StrandReader::first_page_bytes(bytes_max),
            counters: self.state.engine_counters.clone(),
            reads,
            proof: PageProof::None,
        })
    }

    /// Counts a line in the log about a strand that cannot be read for a peer: peers decide how often they ask. Returns
    /// the number of lines that were left out before it; `None` if this one is to be left out, too.
    #[must_use]
    pub fn count_unreadable(&self, originator: OriginatorId) -> Option<u64> {
        let now = now();
        self.state.fault_lines.count(now, originator, "unreadable")
    }

    /// Returns the durable heads of all strands, as far as they are verified: the heads that peers are sent.
    #[must_use]
    #[expect(
        clippy::misnamed_getters,
        reason = "of the engine's heads, peers get the verified ones"
    )]
    pub fn heads(&self) -> &Heads {
        &self.state.relayed
    }

    /// Returns true if peers are asked to prove that a backlog begins a signed tree.
    #[must_use]
    pub fn takes_prefixes(&self) -> bool {
        self.state.catch_up == CatchUp::Checkpoints
    }

    /// Returns the heads that each connected peer claims, of originators that this node knows. A claim
    /// is no proof.
    #[must_use]
    pub fn peer_clocks(&self) -> Vec<(OriginatorId, Cursor)> {
        self.state.peers.clocks(self.state.known_originators())
    }

    /// Hands over a checkpoint with its cosignatures, as if its node had shown it. The signatures are checked later.
    /// Returns false if the node has used up its allowance: the checkpoint is dropped then.
    #[must_use]
    pub fn show_checkpoint(&self, checkpoint: CosignedCheckpoint) -> bool {
        let node = checkpoint.signed.checkpoint.node;
        self.state.checkpoints.show(node, checkpoint)
    }

    /// Hands over a checkpoint that a stranger asks this witness to cosign. All submissions share a queue and an
    /// allowance, apart from those of the nodes. Returns false if either is used up: the checkpoint is then dropped.
    #[must_use]
    pub fn submit_checkpoint(&self, checkpoint: CosignedCheckpoint) -> bool {
        self.state.checkpoints.submit(checkpoint)
    }

    /// Returns the checkpoints that peers are to be shown. Each is durable here.
    #[must_use]
    pub fn checkpoint_offers(&self) -> Arc<CheckpointOffers> {
        self.state.checkpoints.offers()
    }

    /// Returns up to `max` statements about void places, without the first `sent` that are known. Statements keep their
    /// order, and each is durable here.
    #[must_use]
    pub fn void_statements_after(&self, sent: usize, max: usize) -> Vec<SignedVoid> {
        self.state.voids.after(sent, max)
    }

    /// Returns the statements about void places that a node has made about its own strand: those that are kept here, so
    /// that the registry's key has signed each of them.
    #[must_use]
    pub fn void_statements_of(&self, node: OriginatorId) -> Vec<VoidStatement> {
        self.state.voids.of(node)
    }

    /// Hands over a statement about void places that a peer has shown before its link is made. Otherwise like
    /// [`Link::note_void`].
    pub fn note_void(&self, peer: OriginatorId, signed: SignedVoid) {
        self.state.voids.show(peer, signed, self.state.own);
    }

    /// Returns the counters over all strands.
    #[must_use]
    pub fn counters(&self) -> &ReplicationCounters {
        &self.state.counters
    }

    /// Returns the counters of each followed strand.
    #[must_use]
    pub fn strands(&self) -> BTreeMap<OriginatorId, Arc<StrandCounters>> {
        self.state.strands()
    }
}

impl std::fmt::Debug for Replication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replication").field("own", &self.state.own).finish_non_exhaustive()
    }
}

impl ReplicationTasks {
    /// Stops the tasks and returns when the last commit under way is done. Envelopes that were
    /// received and not yet committed are asked for again at the next start.
    pub async fn stop(self) {
        self.stop.stop();
        // A task that panicked has been reported by the panic hook.
        let _ = self.supervisor.await;
    }
}

/// Starts a task for every node that is in the network or enters it. The strand of a node that has left is
/// still followed, at other peers: this node owes it to readers. A node that never entered has none.
async fn supervise(
    state: Arc<ReplicationState>,
    guard: Option<GuardTask>,
    migrated: Option<MigratedStrands>,
    mut stopped: StopSignal,
) {
    let mut tasks = JoinSet::new();
    if let Some(guard) = guard {
        tasks.spawn(guard.run(stopped.clone()));
        tasks.spawn(membership::judge_own(state.clone(), stopped.clone()));
        tasks.spawn(liveness::watch(state.clone(), stopped.clone()));
    }
    tasks.spawn(checkpoints::exchange(state.clone(), stopped.clone()));
    tasks.spawn(voids::exchange(state.clone(), stopped.clone()));
    tasks.spawn(voids::withdraw_filled(state.clone(), stopped.clone()));
    // Read before any strand is followed: what this run doubts waits for the next confirmation of the price list.
    let earlier = state.doubted.all();
    tasks.spawn(evidence::judge_doubted(state.clone(), earlier, stopped.clone()));
    tasks.spawn(evidence::judge_suspected(state.clone(), stopped.clone()));
    if let Some(MigratedStrands { source, key }) = migrated {
        for id in OriginatorId::MIGRATED {
            let stopped = stopped.clone();
            // The node that took them over has them already.
            if source == state.own {
                tasks.spawn(membership::judge_taken_over(state.clone(), (id, key), stopped));
            } else if let Some(inbox) = state.open_inbox(id) {
                tasks.spawn(mend::follow(state.clone(), id, (key, source), inbox, stopped));
            }
        }
    }
    let mut followed = BTreeSet::new();
    let mut registry = state.ports.registry.clone();
    loop {
        // Registered before the strands are looked at, so that an inbox that is closed meanwhile is not missed.
        let closed = state.inbox_closed.notified();
        tokio::pin!(closed);
        closed.as_mut().enable();
        let nodes = registry.borrow_and_update().clone();
        let is_followed =
            |id: OriginatorId| id != state.own && id.is_node() && nodes.has_been_member(id);
        for node in nodes.nodes().filter(|node| is_followed(node.id)) {
            // The set decides, not the inbox: while its follower rests, a strand may have no inbox.
            if !followed.contains(&node.id)
                && let Some(inbox) = state.open_inbox(node.id)
            {
                let (id, key) = (node.id, node.public_key);
                followed.insert(id);
                let stopped = stopped.clone();
                tasks.spawn(mend::follow(state.clone(), id, (key, id), inbox, stopped));
            }
        }
        tokio::select! {
            () = stopped.stopped() => break,
            () = state::changed(&mut registry) => {}
            () = closed => {}
        }
    }
    while tasks.join_next().await.is_some() {}
}
