//! Evidence based on signed trees: checkpoints, leaves under them, payer reports, and envelopes.
//!
//! The schema of reports has no field for such evidence. Evidence files and nodes store it as a list of pieces.

use hawser_proto::checkpoint::{Checkpoint, SignedCheckpoint};
use hawser_proto::merkle::{
    ConsistencyProof, InclusionProof, LeafData, PROOF_LEN_MAX, TreeHash, leaf_hash, leaf_index,
};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PublicKey, SequenceId};

use super::exhibits::{self, Exhibit, all_signed_by};
use super::judgement::{Fact, FaultJudgement, Judgement, MisbehaviorVerdict, Missing};
use super::report::REPORT_LEN_BYTES_MAX;
use super::{late_release, lone_envelope, other_report};
use crate::contradiction::{Contradiction, NoContradictionError};
use crate::registry::Registry;

/// The length of a hash in bytes.
const HASH_LEN: usize = 32;
/// The length in bytes of the longest proof of a leaf: its index, its hash and the path.
const LEAF_PROOF_LEN_MAX: usize = 8 + HASH_LEN * (1 + PROOF_LEN_MAX);
/// The length in bytes of the longest proof of how a tree begins: a root and the path.
const BEGINNING_LEN_MAX: usize = HASH_LEN * (1 + PROOF_LEN_MAX);

/// A fault that a signed tree shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TreeFault {
    /// Two contradictory checkpoints. Pieces: both; and if their sizes differ, the root with which the larger tree
    /// begins, followed by the consistency proof.
    TwoCheckpoints,
    /// Two checkpoints with different leaves for one sequence id. Pieces: both checkpoints, and
    /// the proof of the leaf under each.
    TwoLeaves,
    /// A checkpoint of a node's own strand with another leaf than that of an envelope that the node signed. Pieces: the
    /// checkpoint, the proof of the leaf, the envelope.
    OtherLeaf,
    /// A checkpoint of a node's own strand that covers sequence ids which the reporter did not get. Pieces: the
    /// checkpoint, and the envelopes before and after the missing ones.
    Gap,
    /// A checkpoint with another root than the reporter's tree. Pieces: the checkpoint.
    OtherTree,
    /// An envelope that falls between the payer reports about its originator. Pieces: those of
    /// [`late_release_pieces`](super::late_release_pieces).
    LateRelease,
    /// A payer report that the reporter does not come to. Pieces: those of
    /// [`other_report_pieces`](super::other_report_pieces).
    OtherReport,
    /// Two payer reports of one node for one range, with other figures. Pieces: the envelopes that carry them, in the
    /// order of their places.
    TwoReports,
    /// An envelope for a place whose envelope the reporter has pruned. Pieces: the envelope, and the leaf of the pruned
    /// one, 32 bytes.
    OtherThanPruned,
    /// An envelope for a place that its node had declared void more than five minutes before, by the times that it
    /// stated. Pieces: the statement about void places, and the envelope.
    VoidSigned,
}

impl TreeFault {
    /// All faults.
    pub const ALL: [Self; 10] = [
        Self::TwoCheckpoints,
        Self::TwoLeaves,
        Self::OtherLeaf,
        Self::Gap,
        Self::OtherTree,
        Self::LateRelease,
        Self::OtherReport,
        Self::TwoReports,
        Self::OtherThanPruned,
        Self::VoidSigned,
    ];

    /// Returns the name used in files and pages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TwoCheckpoints => "two_checkpoints",
            Self::TwoLeaves => "two_leaves",
            Self::OtherLeaf => "other_leaf",
            Self::Gap => "gap",
            Self::OtherTree => "other_tree",
            Self::LateRelease => "late_release",
            Self::OtherReport => "other_report",
            Self::TwoReports => "two_reports",
            Self::OtherThanPruned => "other_than_pruned",
            Self::VoidSigned => "void_signed",
        }
    }

    /// Returns the fault with this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// Returns the node that the fault accuses if this checkpoint shows it: the node that signed the checkpoint.
    /// Exception: if an observer of a node's strand has another tree, it was shown another history (or lies), so the
    /// strand's originator is accused.
    #[must_use]
    pub fn accused(self, of: &Checkpoint) -> OriginatorId {
        let is_originators_fault = self == Self::OtherTree && of.originator.is_node();
        if is_originators_fault { of.originator } else { of.node }
    }
}

/// A leaf with its inclusion proof. Not necessarily verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownLeaf {
    /// The index of the leaf, from 0.
    pub index: u64,
    /// The hash of the leaf at that index.
    pub leaf: TreeHash,
    /// The path from the leaf to the root, as in RFC 6962.
    pub proof: InclusionProof,
}

impl ShownLeaf {
    /// Encodes the index, the leaf and the proof, in this order.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let hashes = std::iter::once(&self.leaf).chain(&self.proof.0).flat_map(|hash| hash.0);
        self.index.to_be_bytes().into_iter().chain(hashes).collect()
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        let (index, hashes) = bytes.split_first_chunk::<8>()?;
        let (leaf, proof) = hashes_of(hashes, LEAF_PROOF_LEN_MAX)?;
        Some(Self { index: u64::from_be_bytes(*index), leaf, proof: InclusionProof(proof) })
    }

    fn is_under(&self, signed: &SignedCheckpoint) -> Result<(), Fact> {
        let of = &signed.checkpoint;
        self.proof.verify(self.leaf, self.index, of.size, of.root).map_err(|error| {
            let text = format!("the leaf is not under the checkpoint: {error}");
            Fact::new("no_leaf", text).with("index", self.index).with("size", of.size)
        })
    }
}

/// Evidence based on signed trees. Not verified; [`verify_trees`] judges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEvidence {
    /// The fault that the pieces show, according to the reporter.
    pub fault: TreeFault,
    /// The pieces in the order that [`TreeFault`] states.
    pub pieces: Vec<Bytes>,
}

/// Judges evidence based on signed trees, with the keys of the registry alone. The result
/// depends only on the arguments.
///
/// Costs at most five signature recoveries and four proofs, for pieces of any length.
#[must_use]
pub fn verify_trees(evidence: &TreeEvidence, registry: &Registry) -> Judgement {
    let TreeEvidence { fault, pieces } = evidence;
    let (accused, ruling) = match (check_pieces(evidence), fault) {
        (Err(fact), _) => (None, FaultJudgement::refuted(fact)),
        (Ok(()), TreeFault::LateRelease) => late_release::judge(pieces, registry),
        (Ok(()), TreeFault::OtherReport) => other_report::judge_other(pieces, registry),
        (Ok(()), TreeFault::TwoReports) => other_report::judge_two(pieces, registry),
        (Ok(()), TreeFault::OtherThanPruned) => lone_envelope::judge_pruned(pieces, registry),
        (Ok(()), TreeFault::VoidSigned) => lone_envelope::judge_void(pieces, registry),
        (Ok(()), _) => match OpenedEvidence::of(evidence, registry) {
            Ok(opened) => (Some(opened.accused()), opened.judge(registry)),
            Err((accused, fact)) => (accused, FaultJudgement::refuted(fact)),
        },
    };
    Judgement::of_trees(accused, ruling)
}

/// Checks the number of the pieces and their length, before anything is decoded.
fn check_pieces(TreeEvidence { fault, pieces }: &TreeEvidence) -> Result<(), Fact> {
    let is_count = match fault {
        TreeFault::TwoCheckpoints => matches!(pieces.len(), 2 | 3),
        TreeFault::TwoLeaves | TreeFault::LateRelease => pieces.len() == 4,
        TreeFault::OtherLeaf | TreeFault::Gap => pieces.len() == 3,
        TreeFault::OtherTree => pieces.len() == 1,
        TreeFault::OtherReport => matches!(pieces.len(), 1 | 2),
        TreeFault::TwoReports | TreeFault::OtherThanPruned | TreeFault::VoidSigned => {
            pieces.len() == 2
        }
    };
    if !is_count {
        return Err(Fact::malformed("the evidence has another number of pieces"));
    }
    match pieces.iter().map(Bytes::len).sum::<usize>() > REPORT_LEN_BYTES_MAX {
        true => Err(Fact::new("too_large", "the evidence is longer than a report may be")),
        false => Ok(()),
    }
}

/// The decoded pieces, with the key of the node that signed the checkpoints.
struct OpenedEvidence<'a> {
    fault: TreeFault,
    key: PublicKey,
    first: SignedCheckpoint,
    second: Option<SignedCheckpoint>,
    rest: &'a [Bytes],
}

impl<'a> OpenedEvidence<'a> {
    /// Decodes the checkpoints, and verifies their signatures. An error names the accused if it is known by then.
    fn of(
        evidence: &'a TreeEvidence,
        registry: &Registry,
    ) -> Result<Self, (Option<OriginatorId>, Fact)> {
        let TreeEvidence { fault, pieces } = evidence;
        let has_two = matches!(fault, TreeFault::TwoCheckpoints | TreeFault::TwoLeaves);
        let malformed = |text: &str| (None, Fact::malformed(text));
        let (head, rest) = pieces.split_at(if has_two { 2 } else { 1 });
        let read: Result<Vec<SignedCheckpoint>, _> =
            head.iter().map(|piece| SignedCheckpoint::decode(piece)).collect();
        let read = read.map_err(|error| (None, Fact::malformed(error.to_string())))?;
        let [first, ref others @ ..] = read[..] else {
            return Err(malformed("the evidence has no checkpoint"));
        };
        let node = first.checkpoint.node;
        let Some(record) = registry.node(node).filter(|_| node.is_node()) else {
            return Err((Some(node), Fact::unknown_node(node)));
        };
        let key = record.public_key;
        for signed in &read {
            let of = signed.checkpoint;
            signed.verify(&key).map_err(|error| {
                let fact = Fact::new("forged", error.to_string()).with("size", of.size);
                (Some(node), fact)
            })?;
        }
        Ok(Self { fault: *fault, key, first, second: others.first().copied(), rest })
    }

    fn node(&self) -> OriginatorId {
        self.first.checkpoint.node
    }

    /// Returns the accused node.
    fn accused(&self) -> OriginatorId {
        self.fault.accused(&self.first.checkpoint)
    }

    /// Returns the verdict on a contradiction. An observer may have been shown two histories or restored from an older
    /// backup, and in both cases it stated the tree that it had, so only a claim remains.
    fn verdict(&self) -> MisbehaviorVerdict {
        if self.first.checkpoint.is_observers() {
            MisbehaviorVerdict::Claim
        } else {
            MisbehaviorVerdict::Proven
        }
    }

    fn judge(&self, registry: &Registry) -> FaultJudgement {
        let judged = match self.fault {
            TreeFault::TwoCheckpoints => self.two_checkpoints(),
            TreeFault::TwoLeaves => self.two_leaves(),
            TreeFault::OtherLeaf => self.other_leaf(registry),
            TreeFault::Gap => self.gap(registry),
            TreeFault::OtherTree => self.other_tree(registry),
            // `verify_trees` has these judged elsewhere.
            TreeFault::LateRelease
            | TreeFault::OtherReport
            | TreeFault::TwoReports
            | TreeFault::OtherThanPruned
            | TreeFault::VoidSigned => {
                Err(Fact::malformed("evidence of this fault has no checkpoint"))
            }
        };
        judged.unwrap_or_else(FaultJudgement::refuted)
    }

    /// Returns a new fact about the first checkpoint.
    fn fact(&self, name: &'static str, text: &str) -> Fact {
        let of = self.first.checkpoint;
        Fact::new(name, text)
            .at(EnvelopeId::new(of.originator, SequenceId(of.size)))
            .with("size", of.size)
            .with("time_ns", of.time_ns)
    }

    /// Judges two checkpoints of one node about one strand.
    fn two_checkpoints(&self) -> Result<FaultJudgement, Fact> {
        let (one, other) = (self.first, self.second());
        let found = match (Contradiction::between(&one, &other), self.rest) {
            (None, [beginning, ..]) => Some(beginning_of(one, other, beginning)?),
            // What the checkpoints show by themselves needs no further piece, and none refutes it.
            (found, _) => found,
        };
        let about = |fact: Fact| {
            let of = other.checkpoint;
            fact.with("other_size", of.size).with("other_time_ns", of.time_ns)
        };
        let strand = |it: &SignedCheckpoint| (it.checkpoint.node, it.checkpoint.originator);
        let Some(found) = found else {
            if strand(&one) != strand(&other) {
                let text = "the checkpoints are not of one node about one strand";
                return Err(about(self.fact("other_strand", text)));
            }
            if one.checkpoint.size == other.checkpoint.size {
                let text = "the checkpoints have one size and one root";
                return Err(about(self.fact("consistent", text)));
            }
            let text = "nothing here shows how the larger tree begins";
            return Ok(FaultJudgement::inconclusive(
                about(self.fact("no_beginning", text)),
                Missing::Tree,
            ));
        };
        match found.verify(&self.key) {
            Ok(()) => {
                let text = match found {
                    Contradiction::TwoRoots { .. } => "one size was signed with two roots",
                    Contradiction::Shrinks { .. } => "a smaller tree was signed after a larger one",
                    Contradiction::OtherBeginning { .. } => {
                        "the larger tree does not begin with the smaller one"
                    }
                };
                Ok(FaultJudgement::new(self.verdict(), about(self.fact("two_checkpoints", text))))
            }
            Err(error) => Err(about(self.fact(name_of(error), &error.to_string()))),
        }
    }

    /// Judges a checkpoint that differs from the reporter's tree. Only a claim: the reporter's tree is not signed.
    fn other_tree(&self, registry: &Registry) -> Result<FaultJudgement, Fact> {
        let accused = self.accused();
        if registry.node(accused).is_none() {
            let text = "the node of the strand was never in the registry";
            return Err(Fact::new("unknown_node", text).with("node", accused.0));
        }
        let text = match accused == self.node() {
            true => "the reporter holds another tree; which one is true is not signed",
            false => {
                "an observer holds another tree than the reporter: the node showed two histories, or one of them is wrong"
            }
        };
        let fact = self.fact("other_tree", text).with("signer", self.node().0);
        Ok(FaultJudgement::new(MisbehaviorVerdict::Claim, fact))
    }

    /// Judges two leaves of one place, each under a checkpoint of the same node.
    fn two_leaves(&self) -> Result<FaultJudgement, Fact> {
        let (one, other) = (self.first, self.second());
        let (a, b) = (one.checkpoint, other.checkpoint);
        if (a.node, a.originator) != (b.node, b.originator) {
            let text = "the checkpoints are not of one node about one strand";
            return Err(self.fact("other_strand", text));
        }
        let leaves: Vec<ShownLeaf> = self.rest.iter().map(read_leaf).collect::<Result<_, _>>()?;
        let [first, second] = &leaves[..] else {
            return Err(Fact::malformed("each checkpoint has one leaf"));
        };
        first.is_under(&one)?;
        second.is_under(&other)?;
        let place = EnvelopeId::new(a.originator, SequenceId(first.index + 1));
        if first.index != second.index {
            let text = "the leaves are of different places";
            return Err(Fact::new("other_place", text).at(place).with("other_index", second.index));
        }
        if first.leaf == second.leaf {
            let text = "both trees have the same leaf";
            return Err(Fact::new("consistent", text).at(place));
        }
        let text = "one place has two leaves under checkpoints of one node";
        let fact = Fact::new("two_leaves", text).at(place);
        let fact = fact.with("size", a.size).with("other_size", b.size);
        Ok(FaultJudgement::new(self.verdict(), fact))
    }

    /// Judges a leaf that the node signed beside an envelope that it signed for the same place.
    fn other_leaf(&self, registry: &Registry) -> Result<FaultJudgement, Fact> {
        self.require_own_strand()?;
        let [leaf, envelope] = self.rest else {
            return Err(Fact::malformed("there is one leaf and one envelope"));
        };
        let shown = read_leaf(leaf)?;
        shown.is_under(&self.first)?;
        let envelope = self.signed_envelope(envelope, registry)?;
        let fact = |name, text: &str| {
            Fact::new(name, text).at(envelope.id).with("size", self.first.checkpoint.size)
        };
        if leaf_index(envelope.id.sequence) != Some(shown.index) {
            let text = "the leaf is that of another place";
            return Err(fact("other_place", text).with("index", shown.index));
        }
        if leaf_hash(LeafData::Signed(&envelope.statement)) == shown.leaf {
            let text = "the leaf is that of the envelope";
            return Err(fact("consistent", text));
        }
        let text = "the node signed this envelope, and a tree with another statement or none in its \
                    place; how far the two differ is not known";
        Ok(FaultJudgement::new(MisbehaviorVerdict::Proven, fact("other_leaf", text)))
    }

    /// Judges a gap. A tree that covers a sequence id does not prove that the node withholds it: the reporter may not
    /// have asked, or the sequence id may be declared empty.
    fn gap(&self, registry: &Registry) -> Result<FaultJudgement, Fact> {
        self.require_own_strand()?;
        let [before, after] = self.rest else {
            return Err(Fact::malformed("a gap is between two envelopes"));
        };
        let before = self.signed_envelope(before, registry)?.id.sequence;
        let after = self.signed_envelope(after, registry)?.id;
        let size = self.first.checkpoint.size;
        let places = after.sequence.0.saturating_sub(before.0).saturating_sub(1);
        let fact = |name, text: &str| {
            let fact = Fact::new(name, text).at(after);
            fact.with("after", before.0).with("places", places).with("size", size)
        };
        if places == 0 {
            return Err(fact("in_order", "there is no place between the envelopes"));
        }
        if size < after.sequence.0 - 1 {
            let text = "the checkpoint does not cover the places between the envelopes";
            return Err(fact("not_covered", text));
        }
        let text =
            "the node signed a tree that has leaves for places which the reporter did not get";
        Ok(FaultJudgement::new(MisbehaviorVerdict::Claim, fact("gap", text)))
    }

    /// Returns the second checkpoint. [`Self::of`] has checked that faults about two checkpoints have it. For other
    /// faults this is the first checkpoint, which contradicts nothing.
    fn second(&self) -> SignedCheckpoint {
        self.second.unwrap_or(self.first)
    }

    fn require_own_strand(&self) -> Result<(), Fact> {
        if !self.first.checkpoint.is_observers() {
            return Ok(());
        }
        let text = "the checkpoint is an observer's, which answers for no envelope of the strand";
        Err(self.fact("observer", text))
    }

    fn signed_envelope(&self, bytes: &Bytes, registry: &Registry) -> Result<Exhibit, Fact> {
        let exhibit = exhibits::open_bytes(bytes, registry)?;
        all_signed_by(std::slice::from_ref(&exhibit), self.node())?;
        Ok(exhibit)
    }
}

fn name_of(error: NoContradictionError) -> &'static str {
    match error {
        NoContradictionError::Checkpoint(_) => "forged",
        NoContradictionError::OtherStrand => "other_strand",
        NoContradictionError::Consistent => "consistent",
        NoContradictionError::Proof(_) => "no_beginning",
    }
}

/// Decodes the proof of how the larger of two trees begins.
fn beginning_of(
    one: SignedCheckpoint,
    other: SignedCheckpoint,
    bytes: &Bytes,
) -> Result<Contradiction, Fact> {
    let (root, proof) = hashes_of(bytes, BEGINNING_LEN_MAX)
        .ok_or_else(|| Fact::malformed("the beginning of a tree is a root and up to 64 hashes"))?;
    let is_smaller = one.checkpoint.size <= other.checkpoint.size;
    let (smaller, larger) = if is_smaller { (one, other) } else { (other, one) };
    Ok(Contradiction::OtherBeginning { smaller, larger, root, proof: ConsistencyProof(proof) })
}

fn read_leaf(bytes: &Bytes) -> Result<ShownLeaf, Fact> {
    let malformed =
        || Fact::malformed("the proof of a leaf is an index, a leaf and up to 64 hashes");
    ShownLeaf::decode(bytes).ok_or_else(malformed)
}

/// Decodes a hash and those that follow it; `None` if the length is not a multiple of a hash's, or exceeds `len_max`.
fn hashes_of(bytes: &[u8], len_max: usize) -> Option<(TreeHash, Vec<TreeHash>)> {
    if bytes.len() > len_max || !bytes.len().is_multiple_of(HASH_LEN) {
        return None;
    }
    let (first, rest) = bytes.split_at_checked(HASH_LEN)?;
    let rest = rest.chunks_exact(HASH_LEN).map(TreeHash::from_slice).collect::<Option<_>>()?;
    Some((TreeHash::from_slice(first)?, rest))
}
