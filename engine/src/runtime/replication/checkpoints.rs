//! The exchange of checkpoints with peers: what they show is checked, compared with the trees held here, cosigned,
//! stored, and passed on.
//!
//! Peers can flood, replay, show sizes that no strand has, name nodes that the registry does not have, show
//! contradictory checkpoints, and come back under the same id. Bounds: an allowance and a queue for each id, which have
//! their turns ([`ShownCheckpoints`](crate::replication::ShownCheckpoints)), and [`CheckpointWatch`], which keeps a few
//! checkpoints of each node of the registry. One synced write is made in each round at most.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::checkpoint::{
    Checkpoint, CosignedCheckpoint, SignedCheckpoint, WitnessCosignature,
};
use hawser_proto::{EnvelopeId, OriginatorId, PublicKey, SequenceId};
use hawser_rules::Contradiction;
use hawser_rules::misbehavior::{MisbehaviorVerdict, TreeEvidence, TreeFault, verify_trees};
use hawser_storage::{CommitError, Evidence, Misbehavior, ReadError, Snapshot};
use tokio::time::MissedTickBehavior;

use super::evidence::record;
use super::state::ReplicationState;
use super::unsaved::UnsavedCheckpoints;
use crate::checkpoints::{HeldStrand, ObserverPace, SilentStrands};
use crate::misbehavior::evidence_of;
use crate::replication::{
    CheckpointOffers, CheckpointWatch, Finding, OfferKey, StoredTrees, Trees,
};
use crate::runtime::stop::StopSignal;

/// Time between two rounds. A quarter of the second in which a strand that grows gets a checkpoint.
const ROUND_EVERY: Duration = Duration::from_millis(250);
/// Time for which a part of a strand is held without a checkpoint of its node until observations of it are looked at.
/// Half of the time after which observers sign: theirs are heard from the first one on.
const SILENT_AFTER: Duration = Duration::from_secs(15);
/// Pieces of stored evidence against a node that are judged again at the start. A guess: one suffices.
const JUDGED_MAX: usize = 16;

/// A node, and the strand that it signs checkpoints of.
type Pair = (OriginatorId, OriginatorId);

fn pair_of(signed: &SignedCheckpoint) -> Pair {
    (signed.checkpoint.node, signed.checkpoint.originator)
}

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
        let round = tokio::task::spawn_blocking(move || {
            exchange.round();
            exchange
        });
        exchange =
            round.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
}

/// The state of the exchange. Its maps are bounded by the registry, whose nodes and their strands are the keys.
struct CheckpointExchange {
    state: Arc<ReplicationState>,
    watch: CheckpointWatch,
    /// The newest checkpoint of each pair, this node's own ones too.
    newest: BTreeMap<Pair, Arc<CosignedCheckpoint>>,
    /// Pairs that were looked for on the disk.
    loaded: BTreeSet<Pair>,
    /// Nodes that have contradicted themselves about their own strands. Their checkpoints are neither cosigned nor
    /// passed on.
    liars: BTreeSet<OriginatorId>,
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
            loaded: BTreeSet::new(),
            liars: BTreeSet::new(),
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

    /// Makes one round. What a failed round has not done is left for the next one.
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
        // has each one that is shown back. In an older view it would be one of another process.
        if self.shown.is_empty() {
            self.shown = state.checkpoints.take_shown();
        }
        let snapshot = state.store.snapshot();
        self.load(&snapshot)?;
        self.look_for_silent(&snapshot)?;
        for (peer, checkpoint) in std::mem::take(&mut self.shown) {
            self.take(&snapshot, peer, &checkpoint)?;
        }
        for originator in self.watch.waiting() {
            let findings = self.watch.handle_growth(originator, &StoredTrees(&snapshot));
            self.note(&snapshot, None, findings)?;
        }
        self.save()?;
        self.offer();
        Ok(())
    }

    /// Reads the newest checkpoints of nodes that were not looked for, and what this node has signed since.
    fn load(&mut self, snapshot: &Snapshot<'_>) -> Result<(), ReadError> {
        let own = self.state.own;
        let chains: Vec<OriginatorId> = self
            .state
            .heads
            .get()
            .iter()
            .map(|head| head.originator)
            .filter(|id| is_chain(*id))
            .collect();
        let registry = self.state.ports.registry.borrow().clone();
        let mut observed = chains;
        for head in self.state.heads.get().iter() {
            let it = head.originator;
            let is_first = self.is_silent(it) && snapshot.checkpoint(it, it, u64::MAX)?.is_none();
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
                if node == originator && node != own && self.is_proven(snapshot, node)? {
                    self.liars.insert(node);
                }
                let found = snapshot.checkpoint(originator, node, u64::MAX)?;
                self.loaded.insert(pair);
                let Some(found) = found else { continue };
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
            }
        }
        Ok(())
    }

    /// Returns true if evidence that is stored proves that a node has contradicted itself about its own strand.
    fn is_proven(&self, snapshot: &Snapshot<'_>, node: OriginatorId) -> Result<bool, ReadError> {
        let stored = snapshot.evidence_about(node, Misbehavior::TwoCheckpoints, JUDGED_MAX)?;
        let registry = self.state.ports.registry.borrow().clone();
        Ok(stored.into_iter().any(|it| {
            let held = TreeEvidence { fault: TreeFault::TwoCheckpoints, pieces: it.envelopes };
            let judgement = verify_trees(&held, &registry);
            judgement.verdict == MisbehaviorVerdict::Proven && judgement.accused == Some(node)
        }))
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
            Ok(HeldStrand { originator, size: snapshot.verified_tree_size(originator)?, signed })
        };
        let due = self.silence.due(Instant::now(), || others.map(held).collect())?;
        let silent: BTreeSet<OriginatorId> = due.into_iter().collect();
        self.has_changed |= silent != self.silent;
        self.silent = silent;
        Ok(())
    }

    /// Returns true if a strand is another node's that signs no checkpoints of it, or no further ones, as far as this
    /// node was shown.
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

    /// Takes a checkpoint that a peer has sent.
    fn take(
        &mut self,
        snapshot: &Snapshot<'_>,
        peer: OriginatorId,
        shown: &CosignedCheckpoint,
    ) -> Result<(), ReadError> {
        let state = self.state.clone();
        let counters = &state.engine_counters.checkpoint_exchange;
        let signed = shown.signed;
        let of = signed.checkpoint;
        let is_of_registry =
            |node: OriginatorId| state.ports.registry.borrow().node(node).is_some();
        let is_watched =
            of.node == of.originator || is_chain(of.originator) || self.is_silent(of.originator);
        let Some(key) = self.key_of(of.node).filter(|_| is_watched) else {
            // A peer may not know yet that the strand's node signs checkpoints itself. Its checkpoint then counts
            // as late, not as unknown.
            let is_late = of.originator != state.own && is_of_registry(of.originator);
            if !(is_late && self.key_of(of.node).is_some()) {
                counters.unknown.inc();
            }
            return Ok(());
        };
        if of.node == state.own {
            return self.take_own(snapshot, peer, shown, &key);
        }
        let handled = self.watch.handle(signed, &key, &StoredTrees(snapshot));
        let Ok(findings) = handled else {
            counters.forged.inc();
            tracing::debug!(%peer, node = %of.node, "a peer shows a checkpoint that its node has not signed");
            return Ok(());
        };
        self.note(snapshot, Some(peer), findings)?;
        self.merge(snapshot, shown)
    }

    /// Takes a checkpoint that this node, or another process with its key, has signed.
    fn take_own(
        &mut self,
        snapshot: &Snapshot<'_>,
        peer: OriginatorId,
        shown: &CosignedCheckpoint,
        key: &PublicKey,
    ) -> Result<(), ReadError> {
        let of = shown.signed.checkpoint;
        if self.held(snapshot, &of)?.is_some() {
            return self.merge(snapshot, shown);
        }
        let state = self.state.clone();
        let newest = snapshot.checkpoint(of.originator, of.node, u64::MAX)?;
        let is_lost = newest.is_none_or(|newest| newest.signed.checkpoint.size < of.size);
        if of.is_observers() && !is_lost {
            return Ok(());
        }
        if shown.signed.verify(key).is_err() {
            state.engine_counters.checkpoint_exchange.forged.inc();
            return Ok(());
        }
        if of.is_observers() {
            // A folder that was restored lacks what this node has signed as an observer. It must not sign another root
            // for the same size: what is kept decides that.
            self.keep(shown.signed.into());
            return Ok(());
        }
        let head = snapshot.head(state.own)?;
        let trees = StoredTrees(snapshot);
        let differs = trees.root(state.own, of.size).is_some_and(|root| root != of.root);
        if of.size <= head.0 && !differs {
            return Ok(());
        }
        if differs {
            tracing::error!(
                code = "own_checkpoint_differs",
                %peer,
                size = of.size,
                "a peer has a checkpoint of this node's own strand that does not match this node's tree"
            );
        }
        // A tree that differs begins with other envelopes, so the folder is not the one that was signed from. The guard
        // acts on places that the folder lacks.
        let place = SequenceId(of.size).max(head.next());
        state.own_strand.note_shown(peer, place, i64::try_from(of.time_ns).ok());
        Ok(())
    }

    /// Returns the checkpoint that is held of the same node and strand, with the same size and root.
    fn held(
        &self,
        snapshot: &Snapshot<'_>,
        of: &Checkpoint,
    ) -> Result<Option<CosignedCheckpoint>, ReadError> {
        let pair = (of.node, of.originator);
        let is_same = |it: &CosignedCheckpoint| {
            let held = it.signed.checkpoint;
            (held.size, held.root) == (of.size, of.root)
        };
        let known = self.unsaved.get(pair, of.size).or_else(|| self.newest.get(&pair));
        if let Some(known) = known.filter(|it| is_same(it)) {
            return Ok(Some(CosignedCheckpoint::clone(known)));
        }
        Ok(snapshot.checkpoint_at(of.originator, of.node, of.size)?.filter(is_same))
    }

    /// Adds the cosignatures that are new to the checkpoint that is held. Of witnesses those that the operator trusts
    /// count: no registry has their keys.
    fn merge(
        &mut self,
        snapshot: &Snapshot<'_>,
        shown: &CosignedCheckpoint,
    ) -> Result<(), ReadError> {
        let of = shown.signed.checkpoint;
        let Some(mut held) = self.held(snapshot, &of)? else { return Ok(()) };
        let mut is_new = false;
        for cosignature in &shown.cosignatures {
            let cosigner = cosignature.cosigner;
            let is_known = held.cosignatures.iter().any(|it| it.cosigner == cosigner);
            let Some(key) = self.key_of(cosigner) else { continue };
            if is_known || cosigner == of.node || cosigner == self.state.own {
                continue;
            }
            if cosignature.verify(&of, &key).is_ok() {
                is_new |= held.add_cosignature(*cosignature);
            } else {
                self.state.engine_counters.checkpoint_exchange.forged.inc();
            }
        }
        if is_new | self.merge_witnesses(&mut held, shown) {
            self.keep(held);
        }
        Ok(())
    }

    /// Adds the cosignatures of trusted witnesses that are new; true if there are some.
    fn merge_witnesses(&self, held: &mut CosignedCheckpoint, shown: &CosignedCheckpoint) -> bool {
        let network = &self.state.store.identity().network;
        let of = held.signed.checkpoint;
        let mut is_new = false;
        for key in &self.state.trusted_witnesses {
            let is_of_key = |it: &&WitnessCosignature| it.signer() == key.signer();
            if held.witnesses.iter().any(|it| is_of_key(&it)) {
                continue;
            }
            let Some(cosignature) = shown.witnesses.iter().find(is_of_key) else { continue };
            if cosignature.verify(network, &of, key).is_ok() {
                is_new |= held.add_witness(cosignature.clone());
            } else {
                self.state.engine_counters.checkpoint_exchange.forged.inc();
            }
        }
        is_new
    }

    /// Acts on findings; `from` is the peer whose message led to them.
    fn note(
        &mut self,
        snapshot: &Snapshot<'_>,
        from: Option<OriginatorId>,
        findings: Vec<Finding>,
    ) -> Result<(), ReadError> {
        let state = self.state.clone();
        let counters = &state.engine_counters.checkpoint_exchange;
        for finding in findings {
            match finding {
                Finding::Agrees(signed) => {
                    counters.agreed.inc();
                    self.agree(snapshot, signed)?;
                }
                Finding::Disputed(signed) => {
                    counters.differing.inc();
                    let of = signed.checkpoint;
                    log_difference(&of);
                    let bytes = signed.encode().to_vec().into();
                    self.accuse(TreeFault::OtherTree, &of, from, vec![bytes]);
                }
                Finding::Contradicts(found) => {
                    counters.contradicting.inc();
                    self.expose(&found, from);
                }
            }
        }
        Ok(())
    }

    /// Keeps a checkpoint that agrees with the tree held here, with this node's cosignature if it may give one.
    fn agree(
        &mut self,
        snapshot: &Snapshot<'_>,
        signed: SignedCheckpoint,
    ) -> Result<(), ReadError> {
        let (own, of) = (self.state.own, signed.checkpoint);
        if self.liars.contains(&of.node) {
            return Ok(());
        }
        let held = self.held(snapshot, &of)?;
        // The same tree signed again is no news: a node must not make others write by signing it over and over.
        let mut is_news = held.is_none();
        let mut kept = held.unwrap_or_else(|| signed.into());
        let now_ns = u64::try_from(self.state.ports.clock.now_ns()).unwrap_or(0);
        // Nothing larger was seen, and in an earlier run nothing larger was cosigned.
        let newest = snapshot.checkpoint(of.originator, of.node, u64::MAX)?;
        let is_largest = self.watch.is_largest(&signed)
            && newest.is_none_or(|newest| newest.signed.checkpoint.size <= of.size);
        if let Some(witness) = self.state.witness.as_ref().filter(|_| is_largest)
            && kept.witnesses.iter().all(|it| it.signer() != witness.signer())
        {
            let network = &self.state.store.identity().network;
            if kept.add_witness(witness.cosign(network, &of, now_ns / 1_000_000_000)) {
                self.state.engine_counters.checkpoint_exchange.cosigned.inc();
                is_news = true;
            }
        }
        // A folder that may lack checkpoints that this node saw must not claim that it saw no larger one.
        let may_cosign =
            own != OriginatorId::REPLICA && self.state.own_strand.check().is_ok() && is_largest;
        if may_cosign
            && kept.cosignatures.iter().all(|it| it.cosigner != own)
            && kept.add_cosignature(of.cosign(own, now_ns, &self.state.key))
        {
            self.state.engine_counters.checkpoint_exchange.cosigned.inc();
            is_news = true;
        }
        if is_news {
            self.keep(kept);
        }
        Ok(())
    }

    /// Keeps what shows that a node has contradicted itself. It proves that the node has lied about its own strand; an
    /// observer may have been shown two versions of the strand.
    fn expose(&mut self, found: &Contradiction, from: Option<OriginatorId>) {
        let [first, second] = found.checkpoints();
        let of = second.checkpoint;
        log_contradiction(&of);
        self.accuse(TreeFault::TwoCheckpoints, &of, from, evidence_of(found));
        if !of.is_observers() {
            self.liars.insert(of.node);
        }
        for (slot, signed) in [(1, first), (2, second)] {
            let key: OfferKey = (of.node, of.originator, slot);
            self.proofs.insert(key, Arc::new((*signed).into()));
        }
        self.has_changed = true;
    }

    /// Queues evidence against the node that `fault` accuses.
    fn accuse(
        &mut self,
        fault: TreeFault,
        of: &Checkpoint,
        from: Option<OriginatorId>,
        envelopes: Vec<hawser_proto::Bytes>,
    ) {
        let misbehavior = match fault {
            TreeFault::OtherTree => Misbehavior::OtherTree,
            _ if of.is_observers() => Misbehavior::TwoObservations,
            _ => Misbehavior::TwoCheckpoints,
        };
        let at = EnvelopeId::new(fault.accused(of), of.last());
        self.evidence.push(Evidence { misbehavior, at, from, envelopes });
    }

    /// Queues a checkpoint for the write of this round, and offers it to peers if none of the pair is larger.
    fn keep(&mut self, checkpoint: CosignedCheckpoint) {
        let (pair, size) = (pair_of(&checkpoint.signed), checkpoint.signed.checkpoint.size);
        let checkpoint = Arc::new(checkpoint);
        self.unsaved.insert(checkpoint.clone());
        let newest = self.newest.get(&pair).map(|it| it.signed.checkpoint.size);
        if newest.is_none_or(|newest| newest <= size) {
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
        let mut offers: CheckpointOffers =
            honest.map(|(&(node, originator), it)| ((node, originator, 0), it.clone())).collect();
        offers.extend(self.proofs.clone());
        self.state.checkpoints.set_offers(offers);
    }
}

fn log_contradiction(of: &Checkpoint) {
    let Checkpoint { node, originator, size, .. } = *of;
    if of.is_observers() {
        tracing::warn!(
            code = "two_observations",
            %node,
            %originator,
            size,
            "a node has signed two checkpoints of another strand that contradict each other: it was shown two \
             versions of the strand, or it lies"
        );
    } else {
        tracing::error!(
            code = "two_checkpoints",
            %node,
            %originator,
            size,
            "a node has signed two checkpoints that contradict each other: both are kept as evidence"
        );
    }
}

fn log_difference(of: &Checkpoint) {
    let Checkpoint { node, originator, size, .. } = *of;
    if of.is_observers() && originator.is_node() {
        tracing::warn!(
            code = "observers_differ",
            %node,
            %originator,
            size,
            "another node has another version of the strand of a node that signs no checkpoints: that node sent \
             two versions, or one of the others is wrong"
        );
    } else {
        tracing::warn!(
            code = "checkpoint_differs",
            %node,
            %originator,
            size,
            "a node has signed a checkpoint that does not match this node's tree"
        );
    }
}

fn is_chain(originator: OriginatorId) -> bool {
    !originator.is_node() && !originator.is_migrated()
}
