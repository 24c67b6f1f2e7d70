//! Checkpoints in the simulated network: each node signs its own strand once a second while it grows, and
//! passes on what agrees with the trees that it holds.

use std::collections::BTreeMap;

use hawser_engine::replication::{CheckpointWatch, Finding, Trees};
use hawser_proto::checkpoint::{Checkpoint, SignedCheckpoint};
use hawser_proto::merkle::{
    self, ConsistencyProof, ProofError, Subtree, TreeHash, consistency_proof, envelope_leaf,
    node_hash,
};
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::LogItem;

use super::members::LIAR;
use super::node::Node;
use super::scripted::Naming;
use super::strands::{envelope, key};
use super::wire::{Event, Path};
use super::world::Sim;

/// Time between two rounds of a node.
const EXCHANGE_MS: u64 = 1_000;

/// The leaves of the strands that a node holds, as far as no place is missing.
#[derive(Debug, Default)]
pub(super) struct SimTrees(BTreeMap<OriginatorId, Vec<TreeHash>>);

/// The checkpoints that a node knows and its trees.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    pub(super) watch: CheckpointWatch,
    trees: SimTrees,
    /// The last one of its own strand.
    own: Option<SignedCheckpoint>,
}

impl SimTrees {
    fn subtree(&self, originator: OriginatorId, at: Subtree) -> Result<TreeHash, ProofError> {
        if at.level == 0 {
            let leaf =
                usize::try_from(at.index).ok().and_then(|it| self.0.get(&originator)?.get(it));
            let size = self.size(originator);
            return leaf.copied().ok_or(ProofError::NoSuchLeaf { index: at.index, size });
        }
        let child = |index| self.subtree(originator, Subtree { level: at.level - 1, index });
        Ok(node_hash(child(at.index * 2)?, child(at.index * 2 + 1)?))
    }
}

impl Trees for SimTrees {
    fn size(&self, originator: OriginatorId) -> u64 {
        self.0.get(&originator).map_or(0, |leaves| leaves.len() as u64)
    }

    fn root(&self, originator: OriginatorId, size: u64) -> Option<TreeHash> {
        merkle::root(size, |at| self.subtree(originator, at)).ok()
    }

    fn consistency(
        &self,
        originator: OriginatorId,
        from: u64,
        to: u64,
    ) -> Option<ConsistencyProof> {
        consistency_proof(from, to, |at| self.subtree(originator, at)).ok()
    }
}

impl Node {
    /// Adds the leaves of what a strand has grown by.
    fn grow_tree(&mut self, originator: OriginatorId) {
        let held = self.checkpoints.trees.size(originator);
        for item in self.log(originator, SequenceId(held)) {
            let LogItem::Envelope { bytes, .. } = item else { break };
            let leaf = envelope_leaf(&bytes).expect("it is stored");
            self.checkpoints.trees.0.entry(originator).or_default().push(leaf);
        }
    }

    /// Signs the state of its own strand, if that has grown since the last time.
    fn sign_own(&mut self, time_ns: u64) {
        let id = self.id;
        self.grow_tree(id);
        let size = self.checkpoints.trees.size(id);
        if self.checkpoints.own.is_none_or(|own| own.checkpoint.size < size) && size > 0 {
            let root = self.checkpoints.trees.root(id, size).expect("it was just grown");
            let statement = Checkpoint { node: id, originator: id, size, root, time_ns };
            self.checkpoints.own = Some(statement.sign(&key(id)));
        }
    }
}

impl Sim {
    /// Lets every node sign and pass on checkpoints from now on.
    pub(super) fn exchange_checkpoints(&mut self) {
        for node in self.members.clone() {
            self.plan(EXCHANGE_MS, Event::Exchange { node });
        }
    }

    /// One round of a node: it signs, and tells what is newer than what it has told.
    pub(super) fn exchange(&mut self, id: OriginatorId) {
        let next = self.now + std::time::Duration::from_millis(EXCHANGE_MS);
        self.queue.push(next, Event::Exchange { node: id });
        if !self.nodes[&id].is_running {
            return;
        }
        let time_ns = self.now_ns().unsigned_abs();
        self.node(id).sign_own(time_ns);
        for path in self.paths().into_iter().filter(|path| path.server == id) {
            if !self.connections[&path].is_up {
                continue;
            }
            let held = &self.nodes[&id].checkpoints;
            let mut told: Vec<_> = held.watch.agreed().chain(&held.own).copied().collect();
            told.retain(|it| it.checkpoint.originator != path.follower);
            if id == LIAR {
                told = told.into_iter().map(|it| self.as_scripted(it, path.follower)).collect();
            }
            for signed in told {
                self.tell_checkpoint(path, signed);
            }
        }
    }

    fn tell_checkpoint(&mut self, path: Path, signed: SignedCheckpoint) {
        let Checkpoint { originator, size, .. } = signed.checkpoint;
        let told = self.connection(path).told.entry(originator).or_default();
        if *told >= size {
            return;
        }
        *told = size;
        let generation = self.connection(path).generation;
        let at = self.control_arrival(path);
        self.queue.push(at, Event::Checkpoint { path, generation, signed });
    }

    /// The checkpoint of the scripted node as it shows it to one follower: that of the story it tells there.
    fn as_scripted(&self, signed: SignedCheckpoint, follower: OriginatorId) -> SignedCheckpoint {
        let Some(script) = &self.script else { return signed };
        let mut checkpoint = signed.checkpoint;
        if checkpoint.originator != LIAR {
            return signed;
        }
        let leaf = |place| {
            let version = script.story(follower, SequenceId(place));
            envelope_leaf(&envelope(LIAR, SequenceId(place), version)).expect("it is well formed")
        };
        let leaves = (1..=checkpoint.size).map(leaf).collect();
        let trees = SimTrees([(LIAR, leaves)].into());
        checkpoint.root = trees.root(LIAR, checkpoint.size).expect("all leaves are there");
        if script.signs_another_root(follower, checkpoint.size) {
            checkpoint.root = TreeHash([0xbd; 32]);
        }
        checkpoint.sign(&key(LIAR))
    }

    /// A follower gets a checkpoint from a server.
    pub(super) fn hear_checkpoint(&mut self, path: Path, signed: SignedCheckpoint) {
        let originator = signed.checkpoint.originator;
        if path.follower == LIAR || originator == path.follower {
            return;
        }
        if path.server == LIAR {
            self.note_checkpoint(path.follower, &signed);
        }
        let node = self.node(path.follower);
        node.grow_tree(originator);
        let Checkpoints { watch, trees, .. } = &mut node.checkpoints;
        let findings = watch.handle(signed, &key(originator).public_key(), trees);
        self.judge_findings(path.follower, findings.expect("nodes pass on what they have checked"));
    }

    /// A strand has grown at a node.
    pub(super) fn look_at_checkpoints(&mut self, id: OriginatorId, originator: OriginatorId) {
        if self.script.is_none() || id == LIAR {
            return;
        }
        let node = self.node(id);
        node.grow_tree(originator);
        let Checkpoints { watch, trees, .. } = &mut node.checkpoints;
        let findings = watch.handle_growth(originator, trees);
        self.judge_findings(id, findings);
    }

    /// No honest node is ever found to differ, and less so to contradict itself.
    fn judge_findings(&mut self, id: OriginatorId, findings: Vec<Finding>) {
        for finding in findings {
            match finding {
                Finding::Agrees(_) => {}
                Finding::Disputed(signed) => {
                    let accused = signed.checkpoint.node;
                    assert_eq!(accused, LIAR, "{id} disputes a checkpoint of an honest node");
                    self.name_liar(Naming::Disputed);
                }
                Finding::Contradicts(proof) => {
                    let accused = proof.checkpoints()[0].checkpoint.node;
                    assert_eq!(accused, LIAR, "{id} has proven an honest node guilty");
                    proof.verify(&key(LIAR).public_key()).expect("anyone can check it");
                    self.name_liar(Naming::Contradiction);
                }
            }
        }
    }
}
