//! Checkpoints that other nodes sign, compared with the trees that are held here and with one another.
//!
//! Peers pass on the newest checkpoint that agrees with their own tree. A node that shows two peers different
//! strands signs a checkpoint of each, and the two meet at the first pair of peers that are connected.
//! [`Contradiction`] proves that they contradict each other.
//!
//! A checkpoint that only differs from the tree held here is *disputed*, until the node's next one, or for good. Alone
//! it proves nothing: the node may have lied in another way to the peer that sent the tree's envelopes.
//!
//! `runtime::replication` drives this with what peers show, and the simulation of networks with the same frames.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::checkpoint::{Checkpoint, CheckpointError, CosignedCheckpoint, SignedCheckpoint};
use hawser_proto::merkle::{ConsistencyProof, TreeHash};
use hawser_proto::{OriginatorId, PublicKey};
use hawser_rules::Contradiction;

/// Checkpoints of one strand that are ahead of the tree held here, or whose roots cannot be read. A guess: one a
/// second, for a peer that is some seconds behind. Of those ahead the smallest ones are kept, since they are decided
/// first.
const WAITING_MAX: usize = 16;
/// Pairs of a node and a strand that are watched. A guess: sixty nodes that observe each other's strands.
const WATCHED_MAX: usize = 4096;
/// Disputed checkpoints of one strand that are kept for a proof. A guess: one suffices.
const DISPUTED_MAX: usize = 4;

/// The trees that are held here, as far as they have grown.
pub trait Trees {
    /// Returns the number of leaves of a strand's tree.
    fn size(&self, originator: OriginatorId) -> u64;
    /// Returns the root that the tree had at `size`; `None` above its size, or if it cannot be read.
    fn root(&self, originator: OriginatorId, size: u64) -> Option<TreeHash>;
    /// Returns the proof that the tree of `to` leaves begins with that of `from` leaves; `None` as for
    /// [`root`](Self::root).
    fn consistency(&self, originator: OriginatorId, from: u64, to: u64)
    -> Option<ConsistencyProof>;
}

/// A result of looking at checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The newest checkpoint of a strand agrees with the tree held here: to be cosigned and passed on.
    Agrees(SignedCheckpoint),
    /// A checkpoint has another root than the tree held here. Found once for each strand and size. Not found about a
    /// chain's strand if the node has signed an earlier tree of it that was held here.
    Disputed(SignedCheckpoint),
    /// A node has contradicted itself. Found once for each strand.
    Contradicts(Box<Contradiction>),
}

/// A node, and the strand that it signs checkpoints of.
pub(crate) type CheckpointPair = (OriginatorId, OriginatorId);

/// Returns the pair to which a checkpoint belongs.
pub(crate) fn pair_of(signed: &SignedCheckpoint) -> CheckpointPair {
    (signed.checkpoint.node, signed.checkpoint.originator)
}

/// State machine over the checkpoints of other nodes. Does no I/O and reads no clock. Memory is bounded for each pair
/// of a node and a strand, and so is the number of pairs.
#[derive(Debug, Default)]
pub struct CheckpointWatch {
    strands: BTreeMap<CheckpointPair, StrandCheckpoints>,
}

#[derive(Debug, Default)]
struct StrandCheckpoints {
    /// The newest one that agrees with the tree held here.
    agreed: Option<SignedCheckpoint>,
    /// Checkpoints ahead of the tree, and those whose roots cannot be read, by size.
    waiting: BTreeMap<u64, SignedCheckpoint>,
    /// Checkpoints that differ from the tree, by size.
    disputed: BTreeMap<u64, SignedCheckpoint>,
    /// The node has contradicted itself: its checkpoints are neither passed on nor cosigned.
    is_contradicted: bool,
    /// A checkpoint of the node agreed with an earlier tree of the strand, which this node has cut since.
    was_displaced: bool,
}

impl CheckpointWatch {
    /// Returns the newest checkpoint of each strand that agrees with the tree held here, of nodes that have not
    /// contradicted themselves.
    pub fn agreed(&self) -> impl Iterator<Item = &SignedCheckpoint> {
        let honest = self.strands.values().filter(|it| !it.is_contradicted);
        honest.filter_map(|it| it.agreed.as_ref())
    }

    /// Takes over a checkpoint that an earlier run has stored, which agreed with the tree then. It is not verified
    /// again.
    pub fn remember(&mut self, signed: SignedCheckpoint) {
        if let Some(strand) = self.strand(pair_of(&signed)) {
            let newest = strand.agreed.is_none_or(|it| it.checkpoint.size < signed.checkpoint.size);
            strand.agreed = if newest { Some(signed) } else { strand.agreed };
        }
    }

    /// Takes over a checkpoint that an earlier run has stored, and that covers another tree than the present one,
    /// because the strand was cut since. Its signature is not verified again.
    pub fn remember_disputed(&mut self, signed: SignedCheckpoint) {
        if let Some(strand) = self.strand(pair_of(&signed)) {
            strand.displace(signed);
        }
    }

    /// Forgets all checkpoints of a node, whose key is another one now.
    pub fn forget(&mut self, node: OriginatorId) {
        self.strands.retain(|(signer, _), _| *signer != node);
    }

    /// Returns true if nothing larger is known of the node about the strand.
    #[must_use]
    pub fn is_largest(&self, signed: &SignedCheckpoint) -> bool {
        let size = signed.checkpoint.size;
        self.strands
            .get(&pair_of(signed))
            .is_none_or(|strand| strand.all().all(|it| it.checkpoint.size <= size))
    }

    /// Returns the size of the newest checkpoint of the same node and strand that agrees with the tree held here; 0
    /// without one.
    #[must_use]
    pub fn agreed_size(&self, of: &Checkpoint) -> u64 {
        let agreed = self.strands.get(&(of.node, of.originator)).and_then(|strand| strand.agreed);
        agreed.map_or(0, |agreed| agreed.checkpoint.size)
    }

    /// Returns the size of a checkpoint if it is the newest one of the same node and strand that agrees with the tree
    /// held here, and `by` has cosigned it; 0 otherwise.
    #[must_use]
    pub fn cosigned_size(&self, held: &CosignedCheckpoint, by: OriginatorId) -> u64 {
        let of = held.signed.checkpoint;
        let agreed = self.strands.get(&pair_of(&held.signed)).and_then(|strand| strand.agreed);
        let is_agreed =
            agreed.is_some_and(|it| (it.checkpoint.size, it.checkpoint.root) == (of.size, of.root));
        let is_cosigned = held.cosignatures.iter().any(|it| it.cosigner == by);
        if is_agreed && is_cosigned { of.size } else { 0 }
    }

    /// Returns true if a checkpoint has another root than the tree held here, and so has one that is kept of the same
    /// node and strand. Reads nothing if none is kept. The signature of this one is not verified.
    #[must_use]
    pub fn is_disputed(&self, of: &Checkpoint, trees: &impl Trees) -> bool {
        let strand = self.strands.get(&(of.node, of.originator));
        strand.is_some_and(|strand| !strand.disputed.is_empty())
            && trees.root(of.originator, of.size).is_some_and(|root| root != of.root)
    }

    /// Returns the strands with a checkpoint that waits for the tree to grow, or for its root to be readable.
    #[must_use]
    pub fn waiting(&self) -> BTreeSet<OriginatorId> {
        let waits = self.strands.iter().filter(|(_, strand)| !strand.waiting.is_empty());
        waits.map(|(&(_, originator), _)| originator).collect()
    }

    /// Returns the record of a pair; `None` if there is no room for another one.
    fn strand(&mut self, pair: CheckpointPair) -> Option<&mut StrandCheckpoints> {
        if self.strands.len() >= WATCHED_MAX && !self.strands.contains_key(&pair) {
            return None;
        }
        Some(self.strands.entry(pair).or_default())
    }

    /// Returns true if a checkpoint is known already, to its last byte, or cannot add anything new. Costs no
    /// signature check.
    #[must_use]
    pub fn is_known(&self, signed: &SignedCheckpoint) -> bool {
        let size = signed.checkpoint.size;
        self.strands.get(&pair_of(signed)).is_some_and(|strand| {
            let equal = |known: Option<&SignedCheckpoint>| known == Some(signed);
            strand.is_contradicted
                || equal(strand.agreed.as_ref())
                || equal(strand.waiting.get(&size))
                || equal(strand.disputed.get(&size))
        })
    }

    /// Takes a checkpoint that a peer has sent. `key` is that of the node that it names, from the registry.
    ///
    /// # Errors
    /// Returns an error if the node has not signed it, which the peer that sent it has not checked.
    pub fn handle(
        &mut self,
        signed: SignedCheckpoint,
        key: &PublicKey,
        trees: &impl Trees,
    ) -> Result<Vec<Finding>, CheckpointError> {
        if self.is_known(&signed) {
            return Ok(Vec::new());
        }
        signed.verify(key)?;
        let Some(strand) = self.strand(pair_of(&signed)) else { return Ok(Vec::new()) };
        let mut findings = Vec::new();
        if let Some(found) = strand.contradiction_with(&signed) {
            strand.contradict(found, &mut findings);
            return Ok(findings);
        }
        strand.waiting.insert(signed.checkpoint.size, signed);
        strand.look(trees, &mut findings);
        strand.keep_bound();
        Ok(findings)
    }

    /// Looks again at the checkpoints that wait. The strand's tree may have grown, or be readable again. Nothing is
    /// read for a node whose checkpoints are all ahead of the tree: a size that no strand has waits for ever.
    pub fn handle_growth(&mut self, originator: OriginatorId, trees: &impl Trees) -> Vec<Finding> {
        let mut findings = Vec::new();
        let size = trees.size(originator);
        let is_due = |strand: &StrandCheckpoints| {
            strand.waiting.first_key_value().is_some_and(|(&smallest, _)| smallest <= size)
        };
        let of_strand = self.strands.iter_mut().filter(|((_, of), _)| *of == originator);
        for (_, strand) in of_strand.filter(|(_, strand)| is_due(strand)) {
            let mut found = Vec::new();
            strand.look(trees, &mut found);
            findings.append(&mut found);
        }
        findings
    }

    /// Returns the number of checkpoints that are held.
    #[must_use]
    pub fn len(&self) -> usize {
        let of = |it: &StrandCheckpoints| {
            usize::from(it.agreed.is_some()) + it.waiting.len() + it.disputed.len()
        };
        self.strands.values().map(of).sum()
    }

    /// Returns true if none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl StrandCheckpoints {
    fn all(&self) -> impl Iterator<Item = &SignedCheckpoint> {
        self.agreed.iter().chain(self.waiting.values()).chain(self.disputed.values())
    }

    fn contradiction_with(&self, signed: &SignedCheckpoint) -> Option<Contradiction> {
        self.all().find_map(|known| Contradiction::between(known, signed))
    }

    fn contradict(&mut self, found: Contradiction, findings: &mut Vec<Finding>) {
        if !std::mem::replace(&mut self.is_contradicted, true) {
            findings.push(Finding::Contradicts(Box::new(found)));
        }
        self.waiting.clear();
        self.disputed.clear();
    }

    /// Keeps a checkpoint that matched the tree before the tree was cut. It remains a statement of the node, and takes
    /// precedence over other disputed ones.
    fn displace(&mut self, signed: SignedCheckpoint) {
        self.was_displaced = true;
        if self.disputed.len() >= DISPUTED_MAX {
            self.disputed.pop_last();
        }
        self.disputed.insert(signed.checkpoint.size, signed);
    }

    /// Drops waiting checkpoints beyond the bound: first those whose roots cannot be read and that a larger one has
    /// replaced, then the largest ones.
    fn keep_bound(&mut self) {
        let agreed = self.agreed.map_or(0, |it| it.checkpoint.size);
        while self.waiting.len() > WAITING_MAX {
            match self.waiting.first_key_value() {
                Some((&smallest, _)) if smallest < agreed => self.waiting.pop_first(),
                _ => self.waiting.pop_last(),
            };
        }
    }

    /// Compares the checkpoints that the tree has reached with the tree. A checkpoint whose root cannot be read waits,
    /// but larger ones do not wait for it: their roots seldom need the same damaged rows.
    fn look(&mut self, trees: &impl Trees, findings: &mut Vec<Finding>) {
        if let Some(agreed) = self.agreed {
            let of = agreed.checkpoint;
            // The strand was cut and read again, and continues differently: a checkpoint that agreed with the
            // earlier tree contradicts those that agree with this one, and no cosigner signs both.
            if trees.root(of.originator, of.size).is_some_and(|root| root != of.root) {
                self.agreed = None;
                self.displace(agreed);
            }
        }
        let mut from = 0;
        while let Some((&size, &signed)) = self.waiting.range(from..).next() {
            let originator = signed.checkpoint.originator;
            if self.is_contradicted || size > trees.size(originator) {
                break;
            }
            from = size.saturating_add(1);
            let Some(root) = trees.root(originator, size) else { continue };
            self.waiting.remove(&size);
            let is_newest = self.agreed.is_none_or(|agreed| agreed.checkpoint.size <= size);
            if root != signed.checkpoint.root {
                // A root that is signed again, with another time, is no news.
                if self.disputed.len() < DISPUTED_MAX && !self.disputed.contains_key(&size) {
                    self.disputed.insert(size, signed);
                    // The chain was reorganised. The node has signed its strand further before, as this node had read
                    // it, and is not to be accused. No reorganisation changes the strand of a node.
                    if !(self.was_displaced && originator.is_of_chain()) {
                        findings.push(Finding::Disputed(signed));
                    }
                }
            } else if is_newest {
                self.agreed = Some(signed);
                // Only the last one is passed on.
                findings.retain(|it| !matches!(it, Finding::Agrees(_)));
                findings.push(Finding::Agrees(signed));
            }
        }
        if let Some(found) = self.other_beginning(trees) {
            findings.retain(|it| !matches!(it, Finding::Agrees(_)));
            self.contradict(found, findings);
        }
    }

    /// Returns the proof that a disputed checkpoint is not the beginning of the agreed one.
    fn other_beginning(&self, trees: &impl Trees) -> Option<Contradiction> {
        let larger = self.agreed?;
        let (originator, to) = (larger.checkpoint.originator, larger.checkpoint.size);
        self.disputed.range(..to).find_map(|(&from, &smaller)| {
            let root = trees.root(originator, from)?;
            let proof = trees.consistency(originator, from, to)?;
            // After a strand was cut and read again, its tree differs from the one that agreed earlier. Nothing is then
            // proven, and an honest node must not be accused.
            proof.verify(from, to, root, larger.checkpoint.root).ok()?;
            // A root that differed from an earlier tree's may still be the beginning of this tree.
            let is_other = root != smaller.checkpoint.root;
            is_other.then_some(Contradiction::OtherBeginning { smaller, larger, root, proof })
        })
    }
}
