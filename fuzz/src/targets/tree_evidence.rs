//! Fuzz target: evidence that rests on signed trees, read from untrusted files.

use bytes::Bytes;
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::envelope::UnsealedEnvelope;
use hawser_proto::merkle::{
    InclusionProof, LeafData, TreeHash, envelope_leaf, leaf_hash, node_hash,
};
use hawser_proto::pb::xmtp::xmtpv4::envelopes::UnsignedOriginatorEnvelope;
use hawser_proto::{Address, OriginatorId, SecretKey};
use hawser_rules::misbehavior::{
    MisbehaviorVerdict, ShownLeaf, TreeEvidence, TreeFault, verify_trees,
};
use hawser_rules::{NodeRecord, Registry};

use super::Target;
use super::wire::DECODED_PER_BYTE;

pub(super) const TARGET: Target =
    Target { name: "tree-evidence", run, seeds, memory_factor: DECODED_PER_BYTE };

/// The node that signs one version of its strand.
const HONEST: OriginatorId = OriginatorId(100);
/// The node that signs two versions.
const LIAR: OriginatorId = OriginatorId(200);

/// A judgement is a function of its arguments and names its basis. A node that made consistent statements is never
/// proven guilty by any combination of its signatures.
fn run(input: &[u8]) {
    let Some(evidence) = read(input) else { return };
    let registry = [HONEST, LIAR].map(record).into_iter().collect::<Registry>();
    let judgement = verify_trees(&evidence, &registry);
    assert_eq!(verify_trees(&evidence, &registry), judgement);
    assert!(!judgement.facts.is_empty(), "each judgement names what it rests on");
    let is_proven = judgement.verdict == MisbehaviorVerdict::Proven;
    assert!(!(is_proven && judgement.accused == Some(HONEST)), "an honest node is accused");
    assert!(verify_trees(&evidence, &Registry::default()).verdict == MisbehaviorVerdict::Refuted);
}

/// Reads a fault, and pieces that each have a length of two bytes before them.
fn read(input: &[u8]) -> Option<TreeEvidence> {
    let (fault, mut rest) = input.split_first()?;
    let fault = TreeFault::ALL[usize::from(*fault) % TreeFault::ALL.len()];
    let mut pieces = Vec::new();
    while let Some((len, behind)) = rest.split_first_chunk::<2>() {
        let (piece, behind) = behind.split_at_checked(u16::from_be_bytes(*len).into())?;
        pieces.push(Bytes::copy_from_slice(piece));
        rest = behind;
    }
    Some(TreeEvidence { fault, pieces })
}

fn write(fault: u8, pieces: &[&Bytes]) -> Vec<u8> {
    let mut written = vec![fault];
    for piece in pieces {
        let len = u16::try_from(piece.len()).expect("pieces of seeds are short");
        written.extend(len.to_be_bytes());
        written.extend_from_slice(piece);
    }
    written
}

fn key(node: OriginatorId) -> SecretKey {
    SecretKey::from_bytes(&[u8::try_from(node.0 / 100).expect("small"); 32]).expect("a key")
}

fn record(id: OriginatorId) -> NodeRecord {
    NodeRecord {
        id,
        public_key: key(id).public_key(),
        owner: Address([0; 20]),
        http_address: None,
        quic_address: None,
        canonical: true,
    }
}

/// Returns evidence of every kind with a checkpoint, about a strand of two places: against a liar that has another
/// second place, and the same pieces of a node that has not.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for node in [HONEST, LIAR] {
        let envelope = |sequence, story: u8| {
            let statement = UnsignedOriginatorEnvelope {
                originator_node_id: node.0,
                originator_sequence_id: sequence,
                payer_envelope_bytes: Bytes::copy_from_slice(&[story]),
                ..Default::default()
            };
            UnsealedEnvelope::new(&statement).seal(&key(node))
        };
        let leaf = |it: &Bytes| envelope_leaf(it).unwrap_or_else(|| leaf_hash(LeafData::Void));
        let story = u8::from(node == LIAR);
        let (first, second, other) = (envelope(1, 0), envelope(2, 0), envelope(2, story));
        let signed = |size, root, time_ns| {
            let of = Checkpoint { node, originator: node, size, root, time_ns };
            Bytes::copy_from_slice(&of.sign(&key(node)).encode())
        };
        let root = |second: &Bytes| node_hash(leaf(&first), leaf(second));
        let shown = |second: &Bytes| {
            let proof = InclusionProof(vec![leaf(&first)]);
            ShownLeaf { index: 1, leaf: leaf(second), proof }.encode()
        };
        let (one, two) = (signed(2, root(&second), 5), signed(2, root(&other), 6));
        let smaller = signed(1, leaf(&first), 4);
        let hashes: [TreeHash; 2] = [leaf(&first), leaf(&second)];
        let beginning: Bytes = hashes.into_iter().flat_map(|hash| hash.0).collect();
        seeds.extend([
            write(0, &[&one, &two]),
            write(0, &[&smaller, &one, &beginning]),
            write(1, &[&one, &two, &shown(&second), &shown(&other)]),
            write(2, &[&one, &shown(&second), &other]),
            write(3, &[&one, &first, &second]),
            write(4, &[&one]),
        ]);
    }
    seeds
}
