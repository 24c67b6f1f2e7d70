//! Tests of evidence based on signed trees: every liar is proven guilty, and no honest node ever is.

use std::convert::Infallible;

use hawser_proto::checkpoint::{Checkpoint, SignedCheckpoint};
use hawser_proto::envelope::UnsealedEnvelope;
use hawser_proto::merkle::{
    InclusionProof, LeafData, ProofError, Subtree, TreeHash, consistency_proof, inclusion_proof,
    leaf_hash, node_hash, root,
};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::void::VoidStatement;
use hawser_proto::{Address, Bytes, OriginatorId, SecretKey, SequenceId};
use proptest::prelude::*;
use prost::Message as _;

use super::MisbehaviorVerdict::{Claim, Inconclusive, Proven, Refuted};
use super::{
    Judgement, MisbehaviorVerdict, Missing, ShownLeaf, TreeEvidence, TreeFault, verify_trees,
};
use crate::registry::{NodeRecord, Registry};

const LIAR: OriginatorId = OriginatorId(300);
const CHAIN: OriginatorId = OriginatorId(0);

fn key(node: OriginatorId) -> SecretKey {
    SecretKey::from_bytes(&[u8::try_from(node.0 / 100).unwrap() + 1; 32]).unwrap()
}

fn registry() -> Registry {
    let record = |node| NodeRecord {
        id: OriginatorId(node),
        public_key: key(OriginatorId(node)).public_key(),
        owner: Address([0; 20]),
        http_address: None,
        quic_address: None,
        canonical: true,
    };
    [100, 200, 300].map(record).into_iter().collect()
}

/// Returns the envelope that a node signs for a sequence id; different `story` values give different content.
fn envelope(node: OriginatorId, sequence: u64, story: u8) -> Bytes {
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: node.0,
        originator_sequence_id: sequence,
        originator_ns: 5,
        payer_envelope_bytes: Bytes::copy_from_slice(&[story]),
        ..Default::default()
    };
    UnsealedEnvelope::new(&statement).seal(&key(node))
}

fn leaf(envelope: &Bytes) -> TreeHash {
    hawser_proto::merkle::envelope_leaf(envelope).unwrap()
}

/// A strand with the content of story 0 before the sequence id `turn`, and of story 1 from it on.
#[derive(Clone)]
struct Strand(Vec<TreeHash>);

impl Strand {
    fn new(node: OriginatorId, places: u64, turn: u64) -> Self {
        let leaf_at = |place| leaf(&envelope(node, place, u8::from(place >= turn)));
        Self((1..=places).map(leaf_at).collect())
    }

    fn node(&self, at: Subtree) -> TreeHash {
        let span = 1 << at.level;
        let from = usize::try_from(at.index).unwrap() * span;
        let mut hashes = self.0[from..from + span].to_vec();
        while hashes.len() > 1 {
            hashes = hashes.chunks(2).map(|pair| node_hash(pair[0], pair[1])).collect();
        }
        hashes[0]
    }

    fn root(&self, size: u64) -> TreeHash {
        root(size, |at| Ok::<_, Infallible>(self.node(at))).unwrap()
    }

    fn shown(&self, index: u64, size: u64) -> Bytes {
        let read = |at| Ok::<_, ProofError>(self.node(at));
        let proof = inclusion_proof(index, size, read).unwrap();
        ShownLeaf { index, leaf: self.0[usize::try_from(index).unwrap()], proof }.encode()
    }

    /// Returns the root of `from` leaves and the proof that the tree of `to` leaves begins with it.
    fn beginning(&self, from: u64, to: u64) -> Bytes {
        let proof = consistency_proof(from, to, |at| Ok::<_, ProofError>(self.node(at))).unwrap();
        std::iter::once(self.root(from)).chain(proof.0).flat_map(|hash| hash.0).collect()
    }

    fn signed(&self, node: OriginatorId, originator: OriginatorId, size: u64, time: u64) -> Bytes {
        let of = Checkpoint { node, originator, size, root: self.root(size), time_ns: time };
        Bytes::copy_from_slice(&of.sign(&key(node)).encode())
    }

    fn own(&self, size: u64) -> Bytes {
        self.signed(LIAR, LIAR, size, size)
    }
}

fn judge(fault: TreeFault, pieces: &[&Bytes]) -> Judgement {
    let pieces = pieces.iter().map(|piece| (*piece).clone()).collect();
    let evidence = TreeEvidence { fault, pieces };
    let judgement = verify_trees(&evidence, &registry());
    assert_eq!(verify_trees(&evidence, &registry()), judgement);
    assert!(!judgement.facts.is_empty());
    judgement
}

fn outcome(fault: TreeFault, pieces: &[&Bytes]) -> (MisbehaviorVerdict, &'static str) {
    let judgement = judge(fault, pieces);
    (judgement.verdict, judgement.facts[0].name)
}

#[test]
fn two_stories_are_proven_by_what_was_signed_alone() {
    let (one, other) = (Strand::new(LIAR, 9, 99), Strand::new(LIAR, 9, 4));
    let two = |pieces: &[&Bytes]| outcome(TreeFault::TwoCheckpoints, pieces);
    assert_eq!(two(&[&one.own(5), &other.own(5)]), (Proven, "two_checkpoints"));
    assert_eq!(two(&[&one.own(3), &other.own(3)]), (Refuted, "consistent"), "not yet different");
    let later = one.signed(LIAR, LIAR, 4, 50);
    assert_eq!(two(&[&one.own(5), &later]), (Proven, "two_checkpoints"), "a smaller one later");
    assert_eq!(two(&[&later, &one.own(5)]), (Proven, "two_checkpoints"), "in either order");
    // A piece that is added hides nothing that the checkpoints show by themselves.
    for third in [Bytes::from_static(b"noise"), one.beginning(4, 5), other.beginning(3, 5)] {
        let roots = [&one.own(5), &other.own(5), &third];
        assert_eq!(two(&roots), (Proven, "two_checkpoints"));
        assert_eq!(two(&[&later, &one.own(5), &third]), (Proven, "two_checkpoints"));
    }
    let beginning = other.beginning(5, 9);
    assert_eq!(two(&[&one.own(5), &other.own(9), &beginning]), (Proven, "two_checkpoints"));
    assert_eq!(two(&[&other.own(9), &one.own(5), &beginning]), (Proven, "two_checkpoints"));
    let leaves = |a: &Strand, i, b: &Strand, j| {
        let pieces = [&a.own(7), &b.own(9), &a.shown(i, 7), &b.shown(j, 9)];
        outcome(TreeFault::TwoLeaves, &pieces)
    };
    assert_eq!(leaves(&one, 4, &other, 4), (Proven, "two_leaves"));
    assert_eq!(leaves(&one, 2, &other, 2), (Refuted, "consistent"));
    assert_eq!(leaves(&one, 4, &other, 5), (Refuted, "other_place"));
    let accused = judge(TreeFault::TwoCheckpoints, &[&one.own(5), &other.own(5)]);
    assert_eq!((accused.accused, accused.place.0), (Some(LIAR), 5));
}

#[test]
fn a_judge_who_does_not_see_how_a_tree_begins_says_so() {
    let (one, other) = (Strand::new(LIAR, 9, 99), Strand::new(LIAR, 9, 4));
    for larger in [&one, &other] {
        let judgement = judge(TreeFault::TwoCheckpoints, &[&one.own(5), &larger.own(9)]);
        assert_eq!(
            (judgement.verdict, &judgement.missing[..]),
            (Inconclusive, &[Missing::Tree][..])
        );
    }
    // The proof of an honest growth contradicts the accusation, and an invented one proves nothing.
    let pieces = [&one.own(5), &one.own(9), &one.beginning(5, 9)];
    assert_eq!(outcome(TreeFault::TwoCheckpoints, &pieces), (Refuted, "consistent"));
    let pieces = [&one.own(5), &one.own(9), &other.beginning(5, 9)];
    assert_eq!(outcome(TreeFault::TwoCheckpoints, &pieces), (Refuted, "no_beginning"));
}

#[test]
fn a_tree_with_another_leaf_than_the_signed_envelope_is_proven() {
    let strand = Strand::new(LIAR, 9, 99);
    let leaf = |place: u64, envelope: &Bytes| {
        outcome(TreeFault::OtherLeaf, &[&strand.own(7), &strand.shown(place - 1, 7), envelope])
    };
    assert_eq!(leaf(4, &envelope(LIAR, 4, 1)), (Proven, "other_leaf"));
    assert_eq!(leaf(4, &envelope(LIAR, 4, 0)), (Refuted, "consistent"));
    assert_eq!(leaf(5, &envelope(LIAR, 4, 1)), (Refuted, "other_place"));
    assert_eq!(leaf(4, &envelope(OriginatorId(200), 4, 1)), (Refuted, "not_of_accused"));
    let mut forged = pb::OriginatorEnvelope::decode(envelope(LIAR, 4, 0)).unwrap();
    forged.unsigned_originator_envelope =
        pb::OriginatorEnvelope::decode(envelope(LIAR, 4, 1)).unwrap().unsigned_originator_envelope;
    assert_eq!(leaf(4, &forged.encode_to_vec().into()), (Refuted, "forged"));
    // An empty sequence id is another leaf as well.
    let mut void = strand.clone();
    void.0[3] = leaf_hash(LeafData::Void);
    let pieces = [&void.own(7), &void.shown(3, 7), &envelope(LIAR, 4, 0)];
    assert_eq!(outcome(TreeFault::OtherLeaf, &pieces), (Proven, "other_leaf"));
}

#[test]
fn an_observer_answers_for_no_envelope() {
    let strand = Strand::new(LIAR, 9, 99);
    let observed = strand.signed(OriginatorId(200), LIAR, 7, 1);
    let pieces = [&observed, &strand.shown(3, 7), &envelope(LIAR, 4, 1)];
    assert_eq!(outcome(TreeFault::OtherLeaf, &pieces), (Refuted, "observer"));
    let pieces = [&observed, &envelope(LIAR, 2, 0), &envelope(LIAR, 4, 0)];
    assert_eq!(outcome(TreeFault::Gap, &pieces), (Refuted, "observer"));
}

#[test]
fn a_gap_below_a_tree_is_a_claim_since_an_absence_is_not_signed() {
    let strand = Strand::new(LIAR, 9, 99);
    let gap = |size, before, after| {
        let (before, after) = (envelope(LIAR, before, 0), envelope(LIAR, after, 0));
        outcome(TreeFault::Gap, &[&strand.own(size), &before, &after])
    };
    assert_eq!(gap(7, 2, 5), (Claim, "gap"));
    assert_eq!(gap(4, 2, 5), (Claim, "gap"), "all places between are covered");
    assert_eq!(gap(3, 2, 5), (Refuted, "not_covered"));
    assert_eq!(gap(7, 4, 5), (Refuted, "in_order"));
    assert_eq!(gap(7, 5, 2), (Refuted, "in_order"));
    assert_eq!(gap(7, 5, 5), (Refuted, "in_order"));
}

#[test]
fn another_tree_alone_is_a_claim() {
    let strand = Strand::new(LIAR, 9, 99);
    assert_eq!(outcome(TreeFault::OtherTree, &[&strand.own(7)]), (Claim, "other_tree"));
    let observed = strand.signed(OriginatorId(200), LIAR, 7, 1);
    let judgement = judge(TreeFault::OtherTree, &[&observed]);
    assert_eq!((judgement.verdict, judgement.accused), (Claim, Some(LIAR)), "it showed two trees");
    let observed = strand.signed(OriginatorId(200), CHAIN, 7, 1);
    let judgement = judge(TreeFault::OtherTree, &[&observed]);
    assert_eq!((judgement.verdict, judgement.accused), (Claim, Some(OriginatorId(200))));
    let observed = strand.signed(OriginatorId(200), OriginatorId(400), 7, 1);
    assert_eq!(outcome(TreeFault::OtherTree, &[&observed]), (Refuted, "unknown_node"));
    let stranger = strand.signed(OriginatorId(400), OriginatorId(400), 7, 1);
    assert_eq!(outcome(TreeFault::OtherTree, &[&stranger]), (Refuted, "unknown_node"));
    let mut forged = strand.own(7).to_vec();
    forged[55] ^= 1;
    assert_eq!(outcome(TreeFault::OtherTree, &[&forged.into()]), (Refuted, "forged"));
}

/// The leaf is the reporter's word: a reporter that lies can make up any.
#[test]
fn an_envelope_beside_the_leaf_of_a_pruned_one_is_a_claim() {
    let strand = Strand::new(LIAR, 9, 99);
    let pruned = Bytes::copy_from_slice(&strand.0[3].0);
    let beside = |envelope: &Bytes, leaf: &Bytes| {
        let judgement = judge(TreeFault::OtherThanPruned, &[envelope, leaf]);
        (judgement.verdict, judgement.facts[0].name, judgement.accused, judgement.place.0)
    };
    let other = envelope(LIAR, 4, 1);
    assert_eq!(beside(&other, &pruned), (Claim, "other_than_pruned", Some(LIAR), 4));
    let same = envelope(LIAR, 4, 0);
    assert_eq!(beside(&same, &pruned), (Refuted, "consistent", Some(LIAR), 4));
    assert_eq!(beside(&other, &pruned.slice(1..)), (Refuted, "malformed", Some(LIAR), 0));
    let stranger = envelope(OriginatorId(400), 4, 1);
    assert_eq!(beside(&stranger, &pruned), (Refuted, "unknown_originator", None, 4));
    assert_eq!(beside(&pruned, &other).0, Refuted);
}

/// The times are of two clocks of the node, one of which its operator has lost.
#[test]
fn an_envelope_later_than_the_statement_that_its_place_is_void_is_a_claim() {
    let ns = 1_000_000_000_000;
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: LIAR.0,
        originator_sequence_id: 4,
        originator_ns: ns,
        ..Default::default()
    };
    let envelope = UnsealedEnvelope::new(&statement).seal(&key(LIAR));
    let limit = u64::try_from(ns).unwrap() - 300_000_000_000;
    let of = |node, from, time_ns| {
        let (from, through) = (SequenceId(from), SequenceId(9));
        VoidStatement { node, from, through, time_ns, incarnation: [1; 16] }
    };
    let beside = |of: VoidStatement, by| {
        let statement = Bytes::copy_from_slice(&of.sign(&key(by)).encode());
        let judgement = judge(TreeFault::VoidSigned, &[&statement, &envelope]);
        (judgement.verdict, judgement.facts[0].name, judgement.accused, judgement.place.0)
    };
    assert_eq!(beside(of(LIAR, 4, limit - 1), LIAR), (Claim, "void_signed", Some(LIAR), 4));
    assert_eq!(beside(of(LIAR, 4, limit), LIAR), (Refuted, "not_later", Some(LIAR), 4));
    assert_eq!(beside(of(LIAR, 5, 5), LIAR), (Refuted, "other_place", Some(LIAR), 4));
    let other = OriginatorId(200);
    assert_eq!(beside(of(LIAR, 4, 5), other), (Refuted, "forged", Some(LIAR), 0));
    assert_eq!(beside(of(other, 4, 5), other), (Refuted, "not_of_accused", Some(other), 4));
    let stranger = OriginatorId(400);
    assert_eq!(beside(of(stranger, 4, 5), stranger), (Refuted, "unknown_node", Some(stranger), 0));
}

#[test]
fn evidence_of_another_form_is_refuted() {
    let strand = Strand::new(LIAR, 9, 99);
    let (own, nothing) = (strand.own(7), Bytes::new());
    let huge = Bytes::from(vec![0; super::report::REPORT_LEN_BYTES_MAX]);
    for fault in TreeFault::ALL {
        assert_eq!(TreeFault::of_name(fault.name()), Some(fault));
        for pieces in [
            &[][..],
            &[&nothing],
            &[&own, &nothing],
            &[&own, &nothing, &nothing],
            &[&own, &own, &nothing],
            &[&own, &own, &nothing, &nothing],
            &[&own, &own, &huge],
            &[&own, &own, &own, &own, &own],
        ] {
            assert_eq!(judge(fault, pieces).verdict, Refuted, "{fault:?} {}", pieces.len());
        }
    }
    assert_eq!(outcome(TreeFault::TwoCheckpoints, &[&own, &own, &huge]).1, "too_large");
    assert_eq!(TreeFault::of_name("two_statements"), None);
}

#[test]
fn an_observer_that_was_told_two_stories_is_not_proven_guilty() {
    let (one, other) = (Strand::new(LIAR, 9, 99), Strand::new(LIAR, 9, 4));
    let observer = OriginatorId(200);
    for originator in [LIAR, CHAIN] {
        let [small, same, large] = [(&one, 5), (&other, 5), (&other, 9)]
            .map(|(story, size): (&Strand, u64)| story.signed(observer, originator, size, size));
        let beginning = other.beginning(5, 9);
        let leaves = [&small, &large, &one.shown(4, 5), &other.shown(4, 9)];
        for (fault, pieces) in [
            (TreeFault::TwoCheckpoints, &[&small, &same][..]),
            (TreeFault::TwoCheckpoints, &[&small, &large, &beginning][..]),
            (TreeFault::TwoLeaves, &leaves[..]),
        ] {
            let judgement = judge(fault, pieces);
            assert_eq!(
                (judgement.verdict, judgement.accused),
                (Claim, Some(observer)),
                "{fault:?}"
            );
        }
    }
}

/// Returns all checkpoints that honest nodes sign about one strand: its originator as it grows, and observers that may
/// start again with another history, shown by a node or by a chain's endpoint.
fn honest(strand: &Strand, other: &Strand, places: u64, cut: u64) -> Vec<Bytes> {
    let mut signed: Vec<Bytes> = (1..=places).map(|size| strand.own(size)).collect();
    let observer = OriginatorId(200);
    let again =
        (1..=places).map(|size| (other, size)).chain((cut..=places).map(|size| (strand, size)));
    for (time, (held, size)) in again.enumerate() {
        signed.push(held.signed(observer, LIAR, size, time as u64 + 100));
        signed.push(held.signed(observer, CHAIN, size, time as u64 + 100));
    }
    signed
}

fn changed(piece: &Bytes, at: usize, bit: u8) -> Bytes {
    let mut bytes = piece.to_vec();
    let at = at % bytes.len().max(1);
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << (bit % 8);
    }
    bytes.into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_honest_node_is_ever_proven_guilty(
        places in 2_u64..12, (cut, turn) in (1_u64..12, 1_u64..12), picks in prop::array::uniform6(any::<prop::sample::Index>()),
        (is_changed, which, at, bit) in (any::<bool>(), 0_usize..4, any::<usize>(), any::<u8>()),
    ) {
        let [strand, other] = [99, turn].map(|turn| Strand::new(LIAR, places, turn));
        let signed = honest(&strand, &other, places, cut.min(places));
        let mut all = signed.clone();
        for (held, size) in (1..=places).flat_map(|size| [(&strand, size), (&other, size)]) {
            all.extend((0..size).map(|index| held.shown(index, size)));
            all.extend((1..=size).map(|from| held.beginning(from, size)));
        }
        all.extend((1..=places).map(|place| envelope(LIAR, place, 0)));
        let [a, b, c, d, e, f] = picks;
        let checkpoints = [a.get(&signed).clone(), b.get(&signed).clone()];
        let others = [c.get(&all).clone(), d.get(&all).clone()];
        // An adversary combines any pieces in any order and alters some of them.
        for fault in TreeFault::ALL {
            let mut pieces = match fault {
                TreeFault::TwoCheckpoints if e.index(2) == 0 => checkpoints.to_vec(),
                TreeFault::TwoCheckpoints => [&checkpoints[..], &others[..1]].concat(),
                TreeFault::TwoLeaves => [&checkpoints[..], &others[..]].concat(),
                TreeFault::OtherLeaf | TreeFault::Gap => [&checkpoints[..1], &others[..]].concat(),
                TreeFault::OtherTree => checkpoints[..1].to_vec(),
                TreeFault::LateRelease => [&others[..], &checkpoints[..]].concat(),
                TreeFault::OtherReport
                | TreeFault::TwoReports
                | TreeFault::OtherThanPruned
                | TreeFault::VoidSigned => others.to_vec(),
            };
            if is_changed {
                let which = which % pieces.len();
                pieces[which] = changed(&pieces[which], at, bit);
            }
            if f.index(4) == 0 {
                pieces.reverse();
            }
            let judgement = verify_trees(&TreeEvidence { fault, pieces }, &registry());
            prop_assert_ne!(judgement.verdict, Proven, "{:?}", judgement);
        }
    }

    #[test]
    fn every_turn_of_a_story_is_proven(places in 2_u64..20, turn in 1_u64..20, from in 1_u64..20, to in 1_u64..20) {
        let turn = turn.min(places);
        let (from, to) = (from.clamp(turn, places), to.clamp(turn, places));
        let (one, other) = (Strand::new(LIAR, places, 99), Strand::new(LIAR, places, turn));
        let leaves = [&one.own(from), &other.own(to), &one.shown(turn - 1, from), &other.shown(turn - 1, to)];
        prop_assert_eq!(judge(TreeFault::TwoLeaves, &leaves).verdict, Proven);
        let (from, to) = (from.min(to), from.max(to));
        let pieces = [&one.own(from), &other.own(to), &other.beginning(from, to)];
        let pieces = if from == to { &pieces[..2] } else { &pieces[..] };
        prop_assert_eq!(judge(TreeFault::TwoCheckpoints, pieces).verdict, Proven);
        let pieces = [&other.own(to), &other.shown(turn - 1, to), &envelope(LIAR, turn, 0)];
        prop_assert_eq!(judge(TreeFault::OtherLeaf, &pieces).verdict, Proven);
    }
}

#[test]
fn a_leaf_is_read_as_it_is_written() {
    let strand = Strand::new(LIAR, 9, 99);
    let signed = SignedCheckpoint::decode(&strand.own(9)).unwrap();
    let shown =
        ShownLeaf { index: 3, leaf: strand.0[3], proof: InclusionProof(vec![strand.0[1]; 64]) };
    assert_eq!(shown.encode().len(), 8 + 32 * 65);
    // 64 hashes are decoded, but are too many for this tree; 65 are not decoded.
    let pieces = [&strand.own(9), &shown.encode(), &envelope(LIAR, 4, 1)];
    assert_eq!(outcome(TreeFault::OtherLeaf, &pieces), (Refuted, "no_leaf"));
    let longer = ShownLeaf { proof: InclusionProof(vec![strand.0[1]; 65]), ..shown };
    let pieces = [&strand.own(9), &longer.encode(), &envelope(LIAR, 4, 1)];
    assert_eq!(outcome(TreeFault::OtherLeaf, &pieces), (Refuted, "malformed"));
    assert_eq!(signed.checkpoint.size, 9);
}
