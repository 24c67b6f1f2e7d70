//! Reads the checkpoints of a strand in ascending order, and compares each with the tree when the tree has its size.

use std::collections::BTreeSet;

use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::{OriginatorId, SequenceId};

use super::{ReplayContext, StrandReplay};
use crate::replay::fault::{Fault, FaultKind};

impl StrandReplay {
    /// Prepares for the rows behind the place that was reached. Begins the strand of a chain anew if the source has
    /// another tree of what was reached: after a reorganisation of the chain, an honest keeper has cut the strand and
    /// read it again since. An unreadable tree is named in the report.
    pub(in crate::replay) fn resume(&mut self, context: &ReplayContext<'_>) {
        let (originator, size) = (self.originator(), self.tree.size());
        if originator.is_of_chain()
            && size > 0
            && let Ok(Some(root)) = context.rows.root(size)
            && !self.tree.clone().match_root(root)
        {
            *self = Self::new(originator);
        }
        self.load_checkpoints(context);
        self.load_declared(context);
    }

    /// Reads the next checkpoint of each node.
    fn load_checkpoints(&mut self, context: &ReplayContext<'_>) {
        self.checkpoints.clear();
        match context.rows.checkpoint_nodes() {
            Ok(nodes) => nodes.into_iter().for_each(|node| self.load_checkpoint(node, context)),
            Err(error) => self.unreadable("checkpoints", &error),
        }
    }

    /// Reads the next checkpoint of a node. If that checkpoint is beyond the head, as the newest one of a running node
    /// is, also reads the newest one up to the head.
    pub(super) fn load_checkpoint(&mut self, node: OriginatorId, context: &ReplayContext<'_>) {
        let size = |it: &CosignedCheckpoint| it.signed.checkpoint.size;
        let (reached, head) = (self.tree.size(), context.head.0);
        self.checkpoints.retain(|it| it.signed.checkpoint.node != node);
        let next = context.rows.checkpoint_after(node, reached).and_then(|next| {
            let is_beyond = next.as_ref().is_some_and(|next| size(next) > head);
            let within = match is_beyond {
                true => context.rows.checkpoint_up_to(node, head)?,
                false => None,
            };
            let is_next = |it: &CosignedCheckpoint| (reached + 1..=head).contains(&size(it));
            Ok(within.filter(is_next).into_iter().chain(next).collect::<Vec<_>>())
        });
        match next {
            Ok(next) => self.checkpoints.extend(next),
            Err(error) => self.unreadable("checkpoints", &error),
        }
    }

    /// Reads the next checkpoint behind the head of each node, if the tree ends before the head. Those that wait for
    /// the tree are smaller then, and a keeper that has cut the strand could hide behind any gap in it.
    pub(super) fn load_beyond_head(&mut self, context: &ReplayContext<'_>) {
        let head = context.head.0;
        if self.tree.size() >= head {
            return;
        }
        let nodes = match context.rows.checkpoint_nodes() {
            Ok(nodes) => nodes,
            Err(error) => return self.unreadable("checkpoints", &error),
        };
        for node in nodes {
            match context.rows.checkpoint_after(node, head) {
                Ok(next) => self.checkpoints.extend(next),
                Err(error) => self.unreadable("checkpoints", &error),
            }
        }
    }

    /// Returns a sentence on the places and checkpoints that the tree could not be compared with, if there are any: a
    /// place without a leaf ends the tree, and so does the head.
    pub(in crate::replay) fn not_compared(&self) -> Option<String> {
        let (originator, size) = (self.originator(), self.tree.size());
        let nodes: BTreeSet<u32> =
            self.checkpoints.iter().map(|it| it.signed.checkpoint.node.0).collect();
        if size < self.reached().0 {
            return Some(format!(
                "strand {originator}: the tree behind place {size}, and all checkpoints of more places: place {} has \
                no leaf",
                size + 1
            ));
        }
        (!nodes.is_empty()).then(|| {
            let nodes = nodes.len();
            format!(
                "strand {originator}: checkpoints of more than {size} places, of {nodes} nodes: the log ends there"
            )
        })
    }

    /// Compares a stored checkpoint with the replayed tree, which has the checkpoint's size now, and checks all
    /// signatures.
    pub(super) fn check_checkpoint(
        &mut self,
        cosigned: &CosignedCheckpoint,
        context: &ReplayContext<'_>,
    ) {
        let of = cosigned.signed.checkpoint;
        let id = self.id(SequenceId(of.size));
        self.figures.count_witnesses(cosigned.witnesses.len());
        let Some(record) = context.registry.node(of.node) else {
            self.figures.count_unknown_signer();
            return;
        };
        if let Err(error) = cosigned.signed.verify(&record.public_key) {
            self.fault(Fault::at(FaultKind::CheckpointSignature, id, error));
            return;
        }
        let (is_own, is_derived) = (of.node == self.originator(), self.tree.root() == of.root);
        if !self.tree.match_root(of.root) {
            let text =
                format!("node {} signed the root {}, and the log has another", of.node, of.root);
            self.fault(Fault::at(self.kind_of_other_root(is_own), id, text));
        } else if is_own {
            self.has_claimed_leaf = false;
        } else if !is_derived {
            // From now on the tree has a leaf that the strand's node has not confirmed.
            self.has_claimed_leaf = true;
        }
        self.figures.count_checkpoint(of.node);
        if is_own {
            self.figures.count_lag(self.last_ns, of.time_ns);
            self.check_checkpoint_time(&of);
        }
        for cosignature in &cosigned.cosignatures {
            let cosigner = cosignature.cosigner;
            let Some(record) = context.registry.node(cosigner) else {
                self.figures.count_unknown_signer();
                continue;
            };
            match cosignature.verify(&of, &record.public_key) {
                Ok(()) => self.figures.count_cosigner(cosigner),
                Err(error) => self.fault(Fault::at(FaultKind::Cosignature, id, error)),
            }
        }
    }

    /// Returns the kind of the fault that a checkpoint with another root than the tree shows. `is_own` is true for a
    /// checkpoint of the strand's node.
    fn kind_of_other_root(&self, is_own: bool) -> FaultKind {
        // After a reorganisation of the chain, an honest keeper has cut its strand and read it again, and still holds
        // what honest nodes signed before. No reorganisation changes the strand of a node.
        if self.originator().is_of_chain() {
            return FaultKind::OtherChain;
        }
        // The strand's node may have shown an observer another history, and a keeper may lie about a leaf.
        match is_own && !self.has_claimed_leaf {
            true => FaultKind::CheckpointRoot,
            false => FaultKind::OtherTree,
        }
    }

    /// Compares the time of a checkpoint of the strand's node with those of its smaller ones. A node that signs the
    /// smaller tree later [contradicts itself](hawser_rules::Contradiction::Shrinks).
    fn check_checkpoint_time(&mut self, of: &Checkpoint) {
        match self.latest_checkpoint {
            Some((size, ns)) if of.time_ns < ns => {
                let text = format!("node {} signed its tree of {size} places later", of.node);
                let id = self.id(SequenceId(of.size));
                self.fault(Fault::at(FaultKind::CheckpointTime, id, text));
            }
            _ => self.latest_checkpoint = Some((of.size, of.time_ns)),
        }
    }
}
