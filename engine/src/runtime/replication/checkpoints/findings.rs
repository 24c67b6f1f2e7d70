//! The results of a comparison of checkpoints with each other and with the trees held here: those that agree are
//! cosigned and kept, and faults become evidence.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hawser_proto::checkpoint::{Checkpoint, SignedCheckpoint};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::Contradiction;
use hawser_rules::misbehavior::TreeFault;
use hawser_storage::{Evidence, Misbehavior, Snapshot};

use super::CheckpointExchange;
use crate::misbehavior::evidence_of;
use crate::replication::{Finding, OfferKey};
use crate::runtime::replication::disputed::DisputedTree;

impl CheckpointExchange {
    /// Acts on findings; `from` is the peer whose message led to them.
    pub(super) fn note(
        &mut self,
        snapshot: &Snapshot<'_>,
        from: Option<OriginatorId>,
        findings: Vec<Finding>,
    ) {
        let state = self.state.clone();
        let counters = &state.engine_counters.checkpoint_exchange;
        for finding in findings {
            match finding {
                Finding::Agrees(signed) => {
                    counters.agreed.inc();
                    self.agree(snapshot, signed);
                }
                Finding::Disputed(signed) => {
                    counters.differing.inc();
                    let of = signed.checkpoint;
                    if state.former_keys.has(of.originator) {
                        continue; // the tree that is held here is not that of the present node
                    }
                    log_difference(&of);
                    if of.is_observers() {
                        self.dispute(&of, of.node);
                    }
                    let bytes = signed.encode().to_vec().into();
                    self.accuse(TreeFault::OtherTree, &of, from, vec![bytes]);
                }
                Finding::Contradicts(found) => {
                    counters.contradicting.inc();
                    self.expose(&found, from);
                }
            }
        }
    }

    /// Has the holder of another tree of a node's strand asked for its envelopes. Two statements for one place are
    /// proof against the strand's node. The strand's node itself would only repeat what it has sent.
    pub(super) fn dispute(&self, of: &Checkpoint, holder: OriginatorId) {
        if of.originator.is_node() && holder != of.originator {
            let agreed = SequenceId(self.agreed_with(holder, of));
            let tree = DisputedTree { agreed, disputed: of.last() };
            self.state.disputed.add(of.originator, holder, tree);
        }
    }

    /// Returns the size of the newest tree on which this node and the holder of another one agree. Beside the tree that
    /// the same node has signed before, it may be one of the strand's node that the holder has cosigned: no observer
    /// signs while that node does, so the first tree of an observer may be a million places long.
    fn agreed_with(&self, holder: OriginatorId, of: &Checkpoint) -> u64 {
        let of_strand = self.newest.get(&(of.originator, of.originator));
        let cosigned = of_strand.map_or(0, |held| self.watch.cosigned_size(held, holder));
        self.watch.agreed_size(of).max(cosigned)
    }

    /// Keeps a checkpoint that agrees with the tree held here, with this node's cosignature if it may give one.
    fn agree(&mut self, snapshot: &Snapshot<'_>, signed: SignedCheckpoint) {
        let (own, of) = (self.state.own, signed.checkpoint);
        if self.liars.contains(&of.node) {
            return;
        }
        let held = self.held(snapshot, &of);
        // The same tree signed again is no news: a node must not make others write by signing it over and over.
        let mut is_news = held.is_none();
        let mut kept = held.unwrap_or_else(|| signed.into());
        let now_ns = u64::try_from(self.state.ports.clock.now_ns()).unwrap_or(0);
        // Nothing larger was seen, and in an earlier run nothing larger was cosigned, unless the disk has lost it.
        let stored = self.newest_stored(snapshot, (of.node, of.originator));
        let is_largest = self.watch.is_largest(&signed)
            && stored.passed_over.is_none()
            && stored.newest.is_none_or(|newest| newest.signed.checkpoint.size <= of.size);
        let may_witness = is_largest && !self.state.witness_waits.load(Ordering::Acquire);
        if let Some(witness) = self.state.witness.as_ref().filter(|_| may_witness)
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
        envelopes: Vec<Bytes>,
    ) {
        let misbehavior = match fault {
            TreeFault::OtherTree => Misbehavior::OtherTree,
            _ if of.is_observers() => Misbehavior::TwoObservations,
            _ => Misbehavior::TwoCheckpoints,
        };
        let at = EnvelopeId::new(fault.accused(of), of.last());
        self.evidence.push(Evidence { misbehavior, at, from, envelopes });
    }
}

fn log_contradiction(of: &Checkpoint) {
    let Checkpoint { node, originator, size, .. } = *of;
    if of.is_observers() {
        tracing::warn!(
            code = "two_observations",
            node_id = %node,
            originator_id = %originator,
            size,
            "a node has signed two checkpoints of another strand that contradict each other: it was shown two \
             versions of the strand, or it lies"
        );
    } else {
        tracing::error!(
            code = "two_checkpoints",
            node_id = %node,
            originator_id = %originator,
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
            node_id = %node,
            originator_id = %originator,
            size,
            "another node has another version of the strand of a node that signs no checkpoints: that node sent \
             two versions, or one of the others is wrong"
        );
    } else {
        tracing::warn!(
            code = "checkpoint_differs",
            node_id = %node,
            originator_id = %originator,
            size,
            "a node has signed a checkpoint that does not match this node's tree"
        );
    }
}
