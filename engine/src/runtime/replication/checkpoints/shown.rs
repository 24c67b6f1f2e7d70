//! A checkpoint that a peer shows: its signer is examined, and cosignatures that are new are added to the one held
//! here.

use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint, WitnessCosignature};
use hawser_proto::{OriginatorId, PublicKey, SequenceId};
use hawser_storage::{ReadError, Snapshot};

use super::CheckpointExchange;
use crate::replication::{StoredTrees, Trees};
use crate::runtime::replication::state::{ReplicationState, now};

impl CheckpointExchange {
    /// Takes a checkpoint that a peer has sent.
    pub(super) fn take(
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
        // Of other ids no node holds a strand. A node could name each of them, and take the room of other pairs.
        let is_watched = of.node == of.originator
            || of.originator.is_of_chain()
            || self.is_silent(of.originator);
        let Some(key) = self.key_of(of.node).filter(|_| is_watched) else {
            // A peer may not know yet that the strand's node signs checkpoints itself. Its checkpoint then counts
            // as late, not as unknown.
            let is_late = of.originator != state.own && is_of_registry(of.originator);
            if !(is_late && self.key_of(of.node).is_some()) {
                counters.unknown.inc();
            }
            return Ok(());
        };
        self.note_key(of.node, key);
        if of.node == state.own {
            return self.take_own(snapshot, peer, shown, &key);
        }
        let handled = self.watch.handle(signed, &key, &StoredTrees(snapshot));
        let Ok(findings) = handled else {
            counters.forged.inc();
            tracing::debug!(%peer, node_id = %of.node, "a peer shows a checkpoint that its node has not signed");
            return Ok(());
        };
        self.note(snapshot, Some(peer), findings);
        self.dispute_with(snapshot, peer, &of);
        self.merge(snapshot, shown);
        Ok(())
    }

    /// Has a peer asked for its envelopes if it shows another tree that the strand's node has signed: peers show what
    /// agrees with their trees. Each peer that shows it is asked, also if it is no news: the strand's node, or a peer
    /// that keeps the envelopes back, may have shown it first.
    fn dispute_with(&self, snapshot: &Snapshot<'_>, peer: OriginatorId, of: &Checkpoint) {
        // The beginning of a strand with a former key is not that of the present node.
        if of.is_observers() || self.state.former_keys.has(of.originator) {
            return;
        }
        if self.watch.is_disputed(of, &StoredTrees(snapshot)) {
            self.dispute(of, peer);
        }
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
        if self.held(snapshot, &of).is_some() {
            self.merge(snapshot, shown);
            return Ok(());
        }
        let state = self.state.clone();
        let stored = self.newest_stored(snapshot, (of.node, of.originator));
        let is_lost = stored.passed_over.is_some()
            || stored.newest.is_none_or(|newest| newest.signed.checkpoint.size < of.size);
        if of.is_observers() && !is_lost {
            return Ok(());
        }
        if shown.signed.verify(key).is_err() {
            state.engine_counters.checkpoint_exchange.forged.inc();
            return Ok(());
        }
        if of.is_observers() {
            // A restored folder lacks checkpoints that this node has signed as an observer. This node must not sign
            // another root for the same size, so it keeps the checkpoints that peers show.
            self.keep(shown.signed.into());
            self.note_displaced(snapshot, (of.node, of.originator));
            return Ok(());
        }
        let head = snapshot.head(state.own)?;
        let trees = StoredTrees(snapshot);
        let root = trees.root(state.own, of.size);
        let differs = root.is_some_and(|root| root != of.root);
        if of.size <= head.0 && !differs {
            // The next checkpoint is dated behind the newest one that is kept, and must not be dated before this one.
            if is_lost && root.is_some() {
                self.keep(shown.signed.into());
            }
            return Ok(());
        }
        if differs {
            note_difference(&state, peer, of.size);
        }
        // A tree that differs begins with other envelopes, so the folder is not the one that was signed from. The guard
        // acts on places that the folder lacks.
        let place = SequenceId(of.size).max(head.next());
        state.own_strand.note_shown(peer, place, i64::try_from(of.time_ns).ok());
        Ok(())
    }

    /// Returns the checkpoint that is held of the same node and strand, with the same size and root. One that cannot be
    /// read counts as not held, and is stored again with what agrees with the tree.
    pub(super) fn held(
        &mut self,
        snapshot: &Snapshot<'_>,
        of: &Checkpoint,
    ) -> Option<CosignedCheckpoint> {
        let pair = (of.node, of.originator);
        let is_same = |it: &CosignedCheckpoint| {
            let held = it.signed.checkpoint;
            (held.size, held.root) == (of.size, of.root)
        };
        let known = self.unsaved.get(pair, of.size).or_else(|| self.newest.get(&pair));
        if let Some(known) = known.filter(|it| is_same(it)) {
            return Some(CosignedCheckpoint::clone(known));
        }
        match snapshot.checkpoint_at(of.originator, of.node, of.size) {
            Ok(stored) => stored.filter(is_same),
            Err(error) => {
                self.note_unreadable(pair, &error);
                None
            }
        }
    }

    /// Adds the cosignatures that are new to the checkpoint that is held. Of witnesses those that the operator trusts
    /// count: no registry has their keys.
    fn merge(&mut self, snapshot: &Snapshot<'_>, shown: &CosignedCheckpoint) {
        let of = shown.signed.checkpoint;
        let Some(mut held) = self.held(snapshot, &of) else { return };
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
}

/// Logs that a peer has a checkpoint of this node that is not of its tree. A peer may show one again and again.
fn note_difference(state: &ReplicationState, peer: OriginatorId, size: u64) {
    let now = now();
    let Some(left_out) = state.fault_lines.count(now, peer, "own_checkpoint") else { return };
    tracing::error!(
        code = "own_checkpoint_differs",
        node_id = %peer,
        size,
        left_out,
        "a peer has a checkpoint of this node's own strand that does not match this node's tree"
    );
}
