//! Checkpoints in the simulated network: each node signs its own strand once a second while it grows, and
//! passes on what agrees with the trees that its store holds, in the frames that real nodes exchange. A strand whose
//! node signs none is signed by those that hold it, without the half minute for which real ones wait.

use bytes::{Bytes, BytesMut};
use hawser_engine::replication::{CheckpointWatch, Finding, StoredTrees, Trees as _};
use hawser_proto::checkpoint::{Checkpoint, SignedCheckpoint, SignedPrefix};
use hawser_proto::frame::{ControlDecoder, ControlFrame};
use hawser_proto::merkle::{
    self, ConsistencyProof, ProofError, Subtree, TreeHash, envelope_leaf, node_hash,
};
use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::misbehavior::TreeFault;

use super::members::LIAR;
use super::node::Node;
use super::scripted::{Naming, Script};
use super::strands::{envelope, key, public_key};
use super::wire::{CheckpointPair, Event, Path};
use super::world::Sim;

/// Time between two rounds of a node.
const EXCHANGE_MS: u64 = 1_000;
/// Time between two rounds of a node after the network's own faults have ended. Longer, because the many minutes until
/// the network rests bring little news.
const EXCHANGE_AT_REST_MS: u64 = 10_000;

/// The leaves of one of the strands that the scripted node shows.
struct ClaimedTree(Vec<TreeHash>);

/// The checkpoints that a node knows.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    pub(super) watch: CheckpointWatch,
    /// The last one of its own strand.
    own: Option<SignedCheckpoint>,
    /// The last one that it has signed as an observer of node 300.
    observed: Option<SignedCheckpoint>,
    /// The last round that had news.
    last_round: Round,
}

/// A round in which a node shows its checkpoints. A node that is equal shows none.
#[derive(Debug, Default, PartialEq, Eq)]
struct Round {
    /// The size of each checkpoint that the node holds.
    sizes: Vec<(CheckpointPair, u64)>,
    /// The connections that are up, and their generations.
    generations: Vec<(Path, u64)>,
}

impl ClaimedTree {
    fn subtree(&self, at: Subtree) -> Result<TreeHash, ProofError> {
        if at.level == 0 {
            let leaf = usize::try_from(at.index).ok().and_then(|it| self.0.get(it));
            let size = self.0.len() as u64;
            return leaf.copied().ok_or(ProofError::NoSuchLeaf { index: at.index, size });
        }
        let child = |index| self.subtree(Subtree { level: at.level - 1, index });
        Ok(node_hash(child(at.index * 2)?, child(at.index * 2 + 1)?))
    }

    fn root(&self) -> TreeHash {
        merkle::root(self.0.len() as u64, |at| self.subtree(at)).expect("all leaves are there")
    }

    fn consistency(&self, from: u64) -> Option<ConsistencyProof> {
        merkle::consistency_proof(from, self.0.len() as u64, |at| self.subtree(at)).ok()
    }
}

/// The tree of the strand that the scripted node shows to one follower.
fn claimed_tree(script: &Script, follower: OriginatorId, size: u64) -> ClaimedTree {
    let leaf = |place| {
        let version = script.story(follower, SequenceId(place));
        envelope_leaf(&envelope(LIAR, SequenceId(place), version)).expect("it is well formed")
    };
    ClaimedTree((1..=size).map(leaf).collect())
}

impl Node {
    /// Extends the trees over places that were filled late.
    pub(super) fn extend_trees(&self) {
        while !self.store.extend_trees(usize::MAX).expect("it is in memory") {}
    }

    /// Signs the state of its own strand, if that has grown since the last time.
    fn sign_own(&mut self, time_ns: u64) {
        self.checkpoints.own = self.signed_again(self.checkpoints.own, self.id, time_ns);
    }

    /// Signs the state of its copy of node 300's strand, if that has grown since the last time.
    fn sign_observed(&mut self, time_ns: u64) {
        self.checkpoints.observed = self.signed_again(self.checkpoints.observed, LIAR, time_ns);
    }

    /// Returns the checkpoint of a strand that follows the last one, or the last one if the tree has not grown.
    fn signed_again(
        &self,
        last: Option<SignedCheckpoint>,
        originator: OriginatorId,
        time_ns: u64,
    ) -> Option<SignedCheckpoint> {
        self.extend_trees();
        let node = self.id;
        let snapshot = self.store.snapshot();
        let trees = StoredTrees(&snapshot);
        let size = trees.size(originator);
        if size == 0 || last.is_some_and(|last| last.checkpoint.size >= size) {
            return last;
        }
        let root = trees.root(originator, size).expect("it has this size");
        let statement = Checkpoint { node, originator, size, root, time_ns };
        Some(statement.sign(&key(node)))
    }

    /// Returns the newest checkpoint of a strand that its own node has signed, and that this node agrees with.
    pub(super) fn newest_checkpoint(&self, originator: OriginatorId) -> Option<SignedCheckpoint> {
        if originator == self.id {
            return self.checkpoints.own;
        }
        let is_its_own = |it: &&SignedCheckpoint| {
            (it.checkpoint.node, it.checkpoint.originator) == (originator, originator)
        };
        self.checkpoints.watch.agreed().find(is_its_own).copied()
    }

    /// Reads the frame that a peer has sent.
    fn hear_frame(&mut self, frame: Bytes) -> (SignedCheckpoint, Vec<Finding>) {
        let mut decoder = ControlDecoder::new();
        decoder.push(frame);
        let Ok(Some(ControlFrame::Checkpoint(shown))) = decoder.next_frame() else {
            panic!("a frame of a checkpoint")
        };
        self.extend_trees();
        let snapshot = self.store.snapshot();
        let node = shown.signed.checkpoint.node;
        let watch = &mut self.checkpoints.watch;
        let found = watch.handle(shown.signed, &public_key(node), &StoredTrees(&snapshot));
        (shown.signed, found.expect("nodes pass on what they have checked"))
    }
}

impl Sim {
    /// Lets every node sign and pass on checkpoints from now on.
    pub(super) fn exchange_checkpoints(&mut self) {
        if std::mem::replace(&mut self.exchanges, true) {
            return;
        }
        for node in self.members.clone() {
            self.plan(EXCHANGE_MS, Event::Exchange { node });
        }
    }

    /// Runs one round of a node: it signs its strand, and sends checkpoints that are newer than those it has sent.
    pub(super) fn exchange(&mut self, id: OriginatorId) {
        if !self.exchanges {
            return;
        }
        let pause_ms = if self.is_mended { EXCHANGE_AT_REST_MS } else { EXCHANGE_MS };
        let next = self.now + std::time::Duration::from_millis(pause_ms);
        self.queue.push(next, Event::Exchange { node: id });
        let is_unsigned = self.script.as_ref().is_some_and(Script::signs_none);
        if !self.nodes[&id].is_running || (is_unsigned && id == LIAR) {
            return;
        }
        let time_ns = self.now_ns().unsigned_abs();
        self.node(id).sign_own(time_ns);
        if is_unsigned {
            self.node(id).sign_observed(time_ns);
        }
        let held = &self.nodes[&id].checkpoints;
        let own = held.own.iter().chain(&held.observed);
        let held: Vec<_> = held.watch.agreed().chain(own).copied().collect();
        let others = self.members.iter().filter(|other| **other != id);
        let paths = others.map(|&follower| Path { follower, server: id });
        let paths: Vec<_> = paths.filter(|path| self.connections[path].is_up).collect();
        let of = |signed: &SignedCheckpoint| {
            let Checkpoint { node, originator, size, .. } = signed.checkpoint;
            ((node, originator), size)
        };
        let round = Round {
            sizes: held.iter().map(of).collect(),
            generations: paths.iter().map(|it| (*it, self.connections[it].generation)).collect(),
        };
        if self.nodes[&id].checkpoints.last_round == round {
            return; // most rounds of a long run have no news
        }
        for path in paths {
            for signed in &held {
                let ((node, originator), size) = of(signed);
                let shown = self.connections[&path].shown_sizes.get(&(node, originator)).copied();
                let is_its_own = [node, originator].contains(&path.follower);
                if is_its_own || shown.unwrap_or_default() >= size {
                    continue;
                }
                // A checkpoint of the scripted node costs a tree and a signature, so it is made only here.
                let signed =
                    if id == LIAR { self.as_scripted(*signed, path.follower) } else { *signed };
                self.show_checkpoint(path, signed);
            }
        }
        self.node(id).checkpoints.last_round = round;
    }

    fn show_checkpoint(&mut self, path: Path, signed: SignedCheckpoint) {
        let Checkpoint { node, originator, size, .. } = signed.checkpoint;
        let connection = self.connection(path);
        connection.shown_sizes.insert((node, originator), size);
        let generation = connection.generation;
        let at = self.control_arrival(path);
        let frame = ControlFrame::Checkpoint(Box::new(signed.into()));
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes).expect("it has no cosignatures");
        let (of, frame) = (signed.checkpoint, bytes.freeze());
        self.queue.push(at, Event::Checkpoint { path, generation, of, frame });
    }

    /// The checkpoint of the scripted node as it shows it to one follower: that of the strand which it shows there.
    pub(super) fn as_scripted(
        &self,
        signed: SignedCheckpoint,
        follower: OriginatorId,
    ) -> SignedCheckpoint {
        let Some(script) = &self.script else { return signed };
        let mut checkpoint = signed.checkpoint;
        if checkpoint.originator != LIAR {
            return signed;
        }
        checkpoint.root = claimed_tree(script, follower, checkpoint.size).root();
        if script.signs_another_root(follower, checkpoint.size) {
            checkpoint.root = TreeHash([0xbd; 32]);
        }
        checkpoint.sign(&key(LIAR))
    }

    /// The checkpoint with which a server proves pages behind `position`, if the follower asks for proofs.
    pub(super) fn signed_beyond(
        &self,
        path: Path,
        originator: OriginatorId,
        position: SequenceId,
    ) -> Option<SignedCheckpoint> {
        if !self.nodes[&path.follower].shows_first {
            return None;
        }
        let signed = self.nodes[&path.server].newest_checkpoint(originator)?;
        (signed.checkpoint.size > position.0).then_some(signed)
    }

    /// Proves that the strand up to `reached` is the beginning of a signed tree. The scripted node does so for the
    /// history that it shows to the follower.
    pub(super) fn prefix(
        &self,
        path: Path,
        originator: OriginatorId,
        reached: SequenceId,
        signed: SignedCheckpoint,
    ) -> Option<SignedPrefix> {
        let size = reached.0;
        if path.server == LIAR
            && originator == LIAR
            && let Some(script) = &self.script
        {
            let tree = claimed_tree(script, path.follower, signed.checkpoint.size);
            let signed = self.as_scripted(signed, path.follower);
            return Some(SignedPrefix { size, signed, proof: tree.consistency(size)? });
        }
        let snapshot = self.nodes[&path.server].store.snapshot();
        let proof = snapshot.consistency(originator, size, signed.checkpoint.size).ok()?;
        let prefix = SignedPrefix { size, signed, proof };
        let root = snapshot.root(originator, size).ok()?;
        prefix.begins_with(root).is_ok().then_some(prefix)
    }

    /// Delivers the frame of a checkpoint from a server to a follower.
    pub(super) fn hear_checkpoint(&mut self, path: Path, frame: Bytes) {
        if path.follower == LIAR {
            return;
        }
        let (signed, findings) = self.node(path.follower).hear_frame(frame);
        if path.server == LIAR {
            self.note_checkpoint(path.follower, &signed);
        }
        self.judge_findings(path.follower, findings);
    }

    /// Handles the growth of a strand at a node.
    pub(super) fn look_at_checkpoints(&mut self, id: OriginatorId, originator: OriginatorId) {
        if !self.exchanges || id == LIAR {
            return;
        }
        let node = self.node(id);
        if !node.checkpoints.watch.waiting().contains(&originator) {
            return;
        }
        node.extend_trees();
        let snapshot = node.store.snapshot();
        let watch = &mut node.checkpoints.watch;
        let findings = watch.handle_growth(originator, &StoredTrees(&snapshot));
        drop(snapshot);
        self.judge_findings(id, findings);
    }

    /// Asserts that no finding accuses an honest node of a different or contradictory tree.
    fn judge_findings(&mut self, id: OriginatorId, findings: Vec<Finding>) {
        for finding in findings {
            match finding {
                Finding::Agrees(_) => {}
                Finding::Disputed(signed) => {
                    let accused = TreeFault::OtherTree.accused(&signed.checkpoint);
                    assert_eq!(accused, LIAR, "{id} disputes a checkpoint of an honest node");
                    self.name_liar(Naming::Disputed);
                    self.ask_observer(id, &signed.checkpoint);
                }
                Finding::Contradicts(proof) => {
                    // Nodes store the originator of the second one as the accused.
                    let accused =
                        TreeFault::TwoCheckpoints.accused(&proof.checkpoints()[1].checkpoint);
                    assert_eq!(accused, LIAR, "{id} has proven an honest node guilty");
                    proof.verify(&public_key(LIAR)).expect("every reader can check it");
                    self.name_liar(Naming::Contradiction);
                }
            }
        }
    }

    /// Lets a node ask the observer that holds another tree for its envelopes.
    fn ask_observer(&mut self, id: OriginatorId, of: &Checkpoint) {
        if !of.is_observers() {
            return;
        }
        let (now, node) = (self.now, self.node(id));
        let agreed = SequenceId(node.checkpoints.watch.agreed_size(of));
        let Some(following) = node.following.get_mut(&of.originator) else { return };
        following.follower.handle_disputed(now, of.node, agreed, of.last());
        self.route_effects(id, of.originator);
    }
}
