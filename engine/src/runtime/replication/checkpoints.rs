//! The exchange of checkpoints with peers: what they show is checked, compared with the trees held here, cosigned,
//! stored, and passed on.
//!
//! Peers can flood, replay, show sizes that no strand has, name nodes that the registry does not have, show
//! contradictory checkpoints, and come back under the same id. Bounds: an allowance and a queue for each id, which have
//! their turns ([`ShownCheckpoints`](crate::replication::ShownCheckpoints)), and [`CheckpointWatch`], which keeps a few
//! checkpoints of each node of the registry. One synced write is made in each round at most.

mod findings;
mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::{OriginatorId, PublicKey};
use hawser_rules::misbehavior::{MisbehaviorVerdict, TreeEvidence, TreeFault, verify_trees};
use hawser_storage::{CommitError, Evidence, Misbehavior, ReadError, ReadableCheckpoint, Snapshot};
use tokio::time::MissedTickBehavior;

use super::record::record;
use super::state::ReplicationState;
use super::unsaved::UnsavedCheckpoints;
use crate::checkpoints::{HeldStrand, ObserverPace, SilentStrands};
use crate::replication::{
    CheckpointOffers, CheckpointPair, CheckpointWatch, SHOWN_TO_SIGNER, StoredTrees, Trees, pair_of,
};
use crate::runtime::stop::StopSignal;
use crate::runtime::stoppable::blocking;

/// Time between two rounds. A quarter of the second in which a strand that grows gets a checkpoint.
const ROUND_EVERY: Duration = Duration::from_millis(250);
/// Time for which a part of a strand is held without a checkpoint of its node until observations of it are looked at.
/// Half of the time after which observers sign: theirs are heard from the first one on.
const SILENT_AFTER: Duration = Duration::from_secs(15);
/// Pieces of stored evidence against a node that are judged again at the start. A guess: one suffices.
const JUDGED_MAX: usize = 16;

/// Runs the exchange until it is stopped.
pub(super) async fn exchange(state: Arc<ReplicationState>, mut stopped: StopSignal) {
    let mut rounds = tokio::time::interval(ROUND_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut exchange = CheckpointExchange::new(state);
    loop {
        tokio::select! {
            () = stopped.stopped() => return,
            _ = rounds.tick() => {}
        }
        exchange = blocking(move || {
            exchange.round();
            exchange
        })
        .await;
    }
}

/// The state of the exchange. Its maps are bounded by the registry, whose nodes and their strands are the keys.
struct CheckpointExchange {
    state: Arc<ReplicationState>,
    watch: CheckpointWatch,
    /// The newest checkpoint of each pair, this node's own ones too.
    newest: BTreeMap<CheckpointPair, Arc<CosignedCheckpoint>>,
    /// The pairs whose newest checkpoint is about a chain's strand that was cut since, so that it is not of the tree
    /// held here. The value is true while the tree has no such root: it has not reached the size again, or cannot be
    /// read now.
    displaced: BTreeMap<CheckpointPair, bool>,
    /// Pairs that were looked for on the disk.
    loaded: BTreeSet<CheckpointPair>,
    /// Pairs of which a row could not be read. Each is named and counted once.
    unreadable: BTreeSet<CheckpointPair>,
    /// Nodes that have contradicted themselves about their own strands. Their checkpoints are neither cosigned nor
    /// passed on.
    liars: BTreeSet<OriginatorId>,
    /// The key of each node by which its checkpoints were verified.
    keys: BTreeMap<OriginatorId, PublicKey>,
    /// Strands whose nodes sign nothing, or no further.
    silent: BTreeSet<OriginatorId>,
    silence: SilentStrands,
    /// The checkpoints that contradict each other, for peers.
    proofs: CheckpointOffers,
    /// Checkpoints that peers have shown since the last round, each with its peer. Filled only when it is empty, with
    /// at most what the queues of [`ShownCheckpoints`](crate::replication::ShownCheckpoints) hold.
    shown: Vec<(OriginatorId, CosignedCheckpoint)>,
    unsaved: UnsavedCheckpoints,
    /// Evidence that is to be written.
    evidence: Vec<Evidence>,
    /// Peers are to be shown something else than before.
    has_changed: bool,
    /// True while the last round failed. A failure is logged once.
    has_failed: bool,
}

impl CheckpointExchange {
    fn new(state: Arc<ReplicationState>) -> Self {
        Self {
            state,
            watch: CheckpointWatch::default(),
            newest: BTreeMap::new(),
            displaced: BTreeMap::new(),
            loaded: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            liars: BTreeSet::new(),
            keys: BTreeMap::new(),
            silent: BTreeSet::new(),
            silence: SilentStrands::new(ObserverPace {
                after: SILENT_AFTER,
                every: Duration::ZERO,
            }),
            proofs: CheckpointOffers::new(),
            shown: Vec::new(),
            unsaved: UnsavedCheckpoints::default(),
            evidence: Vec::new(),
            has_changed: false,
            has_failed: false,
        }
    }

    /// Makes one round. The next round does the rest of a failed one.
    fn round(&mut self) {
        match self.try_round() {
            Ok(()) => self.has_failed = false,
            Err(error) if !std::mem::replace(&mut self.has_failed, true) => {
                tracing::error!(code = "checkpoint_exchange_failed", %error, "checkpoints of peers cannot be stored");
            }
            Err(_) => {}
        }
    }

    fn try_round(&mut self) -> Result<(), CommitError> {
        let state = self.state.clone();
        // Before the view of the store: this node's own checkpoints are stored before a peer can hold one, so the view
        // has each one that is shown back. In an older view, a checkpoint that this process has just signed would look
        // like a checkpoint of another process.
        if self.shown.is_empty() {
            self.shown = state.checkpoints.take_shown();
        }
        let snapshot = state.store.snapshot();
        self.load(&snapshot);
        let without_root = self.displaced.iter().filter(|(_, lacks_root)| **lacks_root);
        for pair in without_root.map(|(pair, _)| *pair).collect::<Vec<_>>() {
            self.note_displaced(&snapshot, pair);
        }
        self.look_for_silent(&snapshot)?;
        let mut shown = std::mem::take(&mut self.shown).into_iter();
        while let Some((peer, checkpoint)) = shown.next() {
            if let Err(error) = self.take(&snapshot, peer, &checkpoint) {
                // Peers show this one again. The next round takes the others.
                self.shown = shown.collect();
                return Err(error.into());
            }
        }
        for originator in self.watch.waiting() {
            let findings = self.watch.handle_growth(originator, &StoredTrees(&snapshot));
            self.note(&snapshot, None, findings);
        }
        self.save()?;
        self.offer();
        Ok(())
    }

    /// Reads the newest stored checkpoint of a pair. Logs unreadable rows and passes over them, so that they hold up
    /// neither this pair nor another pair.
    fn newest_stored(
        &mut self,
        snapshot: &Snapshot<'_>,
        pair: CheckpointPair,
    ) -> ReadableCheckpoint {
        let (node, originator) = pair;
        let found = snapshot.readable_checkpoint(originator, node);
        if let Some(error) = &found.passed_over {
            self.note_unreadable(pair, error);
        }
        found
    }

    /// Names and counts a pair of which a row cannot be read, once.
    fn note_unreadable(&mut self, pair: CheckpointPair, error: &ReadError) {
        if self.unreadable.insert(pair) {
            let (node, originator) = pair;
            self.state.engine_counters.checkpoint_exchange.unreadable.inc();
            tracing::error!(
                code = "checkpoint_unreadable",
                node_id = %node,
                originator_id = %originator,
                %error,
                "a stored checkpoint cannot be read: it is passed over"
            );
        }
    }

    /// Takes over the keys of the registry. Reads the newest checkpoints of nodes that were not looked for, and what
    /// this node has signed since.
    fn load(&mut self, snapshot: &Snapshot<'_>) {
        let own = self.state.own;
        let chains: Vec<OriginatorId> = self
            .state
            .heads
            .get()
            .iter()
            .map(|head| head.originator)
            .filter(|id| !id.is_signer())
            .collect();
        let registry = self.state.ports.registry.borrow().clone();
        for node in registry.nodes().filter(|node| node.id != own) {
            self.note_key(node.id, node.public_key);
        }
        let mut observed = chains;
        let heads = self.state.heads.get();
        for head in heads.iter() {
            let it = head.originator;
            // A node whose checkpoint cannot be read has signed one.
            let is_first = self.is_silent(it) && {
                let stored = self.newest_stored(snapshot, (it, it));
                stored.newest.is_none() && stored.passed_over.is_none()
            };
            if is_first || self.silent.contains(&it) {
                observed.push(it);
            }
        }
        let nodes = registry.nodes().map(|node| node.id).filter(|&id| id != own);
        for node in nodes.chain([own]) {
            for originator in observed.iter().copied().chain([node]) {
                let pair = (node, originator);
                // This node signs new checkpoints at any time. Checkpoints of others reach the store only through this
                // task, so one load suffices.
                if self.loaded.contains(&pair) && node != own {
                    continue;
                }
                if node == originator && node != own && self.is_proven(snapshot, node) {
                    self.liars.insert(node);
                }
                let found = self.newest_stored(snapshot, pair);
                // A read that failed without damage may succeed later.
                if found.passed_over.is_none_or(|error| error.is_damage()) {
                    self.loaded.insert(pair);
                }
                let is_of_key = |it: &CosignedCheckpoint| {
                    let key = self.key_of(node);
                    node == own || key.is_some_and(|key| it.signed.verify(&key).is_ok())
                };
                let Some(found) = found.newest.filter(is_of_key) else { continue };
                let held = self.newest.get(&pair).map(|held| held.signed.checkpoint.size);
                if held.is_some_and(|held| held >= found.signed.checkpoint.size) {
                    continue;
                }
                let of = found.signed.checkpoint;
                let differs = StoredTrees(snapshot)
                    .root(originator, of.size)
                    .is_some_and(|root| root != of.root);
                if node != own && differs {
                    // It agreed with a tree that has been cut since.
                    self.watch.remember_disputed(found.signed);
                } else if node != own {
                    self.watch.remember(found.signed);
                }
                self.newest.insert(pair, Arc::new(found));
                self.has_changed = true;
                self.note_displaced(snapshot, pair);
            }
        }
    }

    /// Notes if the newest checkpoint of a pair is about a chain's strand, and not of the tree held here.
    fn note_displaced(&mut self, snapshot: &Snapshot<'_>, pair: CheckpointPair) {
        let newest = self.newest.get(&pair).map(|it| it.signed.checkpoint);
        let Some(of) = newest.filter(|of| !of.originator.is_signer()) else { return };
        // Of a tree that cannot be read now, there is no root either.
        let root = StoredTrees(snapshot).root(of.originator, of.size);
        let is_of_tree = root == Some(of.root);
        let was_displaced = match is_of_tree {
            true => self.displaced.remove(&pair).is_some(),
            false => self.displaced.insert(pair, root.is_none()).is_some(),
        };
        self.has_changed |= was_displaced == is_of_tree;
    }

    /// Returns true if evidence that is stored proves that a node has contradicted itself about its own strand.
    /// Evidence that cannot be read proves nothing here: peers that hold the two checkpoints show them again.
    fn is_proven(&self, snapshot: &Snapshot<'_>, node: OriginatorId) -> bool {
        let stored = snapshot.evidence_about(node, Misbehavior::TwoCheckpoints, JUDGED_MAX);
        let registry = self.state.ports.registry.borrow().clone();
        stored.unwrap_or_default().into_iter().any(|it| {
            let held = TreeEvidence { fault: TreeFault::TwoCheckpoints, pieces: it.envelopes };
            let judgement = verify_trees(&held, &registry);
            judgement.verdict == MisbehaviorVerdict::Proven && judgement.accused == Some(node)
        })
    }

    /// Notes which strands have grown beyond what their nodes have signed.
    fn look_for_silent(&mut self, snapshot: &Snapshot<'_>) -> Result<(), ReadError> {
        let (own, newest) = (self.state.own, &self.newest);
        let heads = self.state.heads.get();
        let others = heads.iter().map(|head| head.originator);
        let others = others.filter(|it| it.is_node() && *it != own);
        let held = |originator: OriginatorId| -> Result<HeldStrand, ReadError> {
            let signed = newest.get(&(originator, originator));
            let signed = signed.map_or(0, |it| it.signed.checkpoint.size);
            // An unreadable size counts as not reached yet.
            let size = snapshot.verified_tree_size(originator).unwrap_or(0);
            Ok(HeldStrand { originator, size, signed })
        };
        let due = self.silence.due(Instant::now(), || others.map(held).collect())?;
        let silent: BTreeSet<OriginatorId> = due.into_iter().collect();
        self.has_changed |= silent != self.silent;
        self.silent = silent;
        Ok(())
    }

    /// Returns true if the strand belongs to another node, and that node signs no checkpoints of it, or no further
    /// ones, as far as peers have shown.
    fn is_silent(&self, originator: OriginatorId) -> bool {
        let is_unsigned = !self.newest.contains_key(&(originator, originator));
        originator.is_node()
            && originator != self.state.own
            && (is_unsigned || self.silent.contains(&originator))
            && self.state.ports.registry.borrow().node(originator).is_some()
    }

    /// Returns the key of this node, or of a node of the registry.
    fn key_of(&self, node: OriginatorId) -> Option<PublicKey> {
        if node == self.state.own {
            return Some(self.state.store.identity().public_key);
        }
        self.state.ports.registry.borrow().node(node).map(|record| record.public_key)
    }

    /// Notes the key by which a node's checkpoints are verified from now on. What a former key has signed is no
    /// statement of the node that has the id now: it is forgotten. What the disk has of the present key is read again.
    fn note_key(&mut self, node: OriginatorId, key: PublicKey) {
        if self.keys.insert(node, key).is_none_or(|before| before == key) {
            return;
        }
        self.watch.forget(node);
        self.loaded.retain(|(of, _)| *of != node);
        self.newest.retain(|(of, _), _| *of != node);
        self.displaced.retain(|(of, _), _| *of != node);
        self.liars.remove(&node);
        self.proofs.retain(|(of, _, _), _| *of != node);
        self.has_changed = true;
    }

    /// Queues a checkpoint for the write of this round, and offers it to peers if none of the pair is larger.
    fn keep(&mut self, checkpoint: CosignedCheckpoint) {
        let (pair, size) = (pair_of(&checkpoint.signed), checkpoint.signed.checkpoint.size);
        let checkpoint = Arc::new(checkpoint);
        self.unsaved.insert(checkpoint.clone());
        let newest = self.newest.get(&pair).map(|it| it.signed.checkpoint.size);
        if newest.is_none_or(|newest| newest <= size) {
            if newest != Some(size) {
                self.displaced.remove(&pair);
            }
            self.newest.insert(pair, checkpoint);
            self.has_changed = true;
        }
    }

    /// Writes new checkpoints. They are durable before any peer gets them.
    fn save(&mut self) -> Result<(), CommitError> {
        record(&self.state, &self.evidence)?;
        self.evidence.clear();
        self.state.store.put_checkpoints(self.unsaved.all())?;
        self.unsaved.clear();
        Ok(())
    }

    /// Offers to peers the newest checkpoint of each pair, and the proofs against nodes that contradicted themselves.
    fn offer(&mut self) {
        if !std::mem::take(&mut self.has_changed) {
            return;
        }
        let is_shown = |node: OriginatorId, originator: OriginatorId| {
            node == originator || !originator.is_node() || self.is_silent(originator)
        };
        let honest = self.newest.iter().filter(|((node, originator), _)| {
            let is_contradicted = self.proofs.contains_key(&(*node, *originator, 1));
            !is_contradicted && !self.liars.contains(node) && is_shown(*node, *originator)
        });
        let offer = |(&(node, originator), it): (&CheckpointPair, &Arc<CosignedCheckpoint>)| {
            let is_displaced = self.displaced.contains_key(&(node, originator));
            let number = if is_displaced { SHOWN_TO_SIGNER } else { 0 };
            ((node, originator, number), it.clone())
        };
        let mut offers: CheckpointOffers = honest.map(offer).collect();
        offers.extend(self.proofs.clone());
        self.state.checkpoints.set_offers(offers);
    }
}
