//! Fuzz target: files that prove the place of an envelope, or that its node left the place out.

use bytes::Bytes;
use hawser_audit::proof::{EnvelopeProof, ProofFile};
use hawser_audit::void_proof::{AnyProofFile, VoidProof, VoidProofFile};
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::envelope::UnsealedEnvelope;
use hawser_proto::merkle::{InclusionProof, envelope_leaf};
use hawser_proto::pb::xmtp::xmtpv4::envelopes::UnsignedOriginatorEnvelope;
use hawser_proto::void::VoidStatement;
use hawser_proto::{Address, EnvelopeId, OriginatorId, SecretKey, SequenceId};
use hawser_rules::{NodeRecord, Registry};

use super::Target;

/// A hash without digits takes three bytes of a file, and a text in a list.
pub(super) const TARGET: Target = Target { name: "proof-file", run, seeds, memory_factor: 128 };

const NODE: OriginatorId = OriginatorId(100);
const PLACE: SequenceId = SequenceId(1);

/// A file that is verified with the node's key says what the node has signed, whatever else was changed in it.
fn run(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    match AnyProofFile::parse(text) {
        Ok(AnyProofFile::Envelope(file)) => {
            let Ok(proof) = file.proof() else { return };
            let Ok(proven) = proof.verify(&registry()) else { return };
            assert_eq!((proven.id, proven.size), (EnvelopeId::new(NODE, PLACE), 1));
            assert_eq!(proven.signer, NODE);
        }
        Ok(AnyProofFile::Void(file)) => {
            let Ok(proof) = file.proof() else { return };
            let Ok(proven) = proof.verify(&registry()) else { return };
            assert_eq!(proven.statement, declared());
        }
        Err(_) => {}
    }
}

fn key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32]).expect("a scalar")
}

fn registry() -> Registry {
    let record = NodeRecord {
        id: NODE,
        public_key: key().public_key(),
        owner: Address([0; 20]),
        http_address: None,
        quic_address: None,
        canonical: true,
    };
    [record].into_iter().collect()
}

/// The node's statement that it left its first places out.
fn declared() -> VoidStatement {
    let (from, through) = (PLACE, SequenceId(7));
    VoidStatement { node: NODE, from, through, time_ns: 5, incarnation: [4; 16] }
}

fn envelope() -> Bytes {
    let statement = UnsignedOriginatorEnvelope {
        originator_node_id: NODE.0,
        originator_sequence_id: PLACE.0,
        originator_ns: 1_750_000_000_000_000_000,
        payer_envelope_bytes: Bytes::from_static(b"a payer's"),
        ..Default::default()
    };
    UnsealedEnvelope::new(&statement).seal(&key())
}

fn seeds() -> Vec<Vec<u8>> {
    let (key, registry, envelope) = (key(), registry(), envelope());
    let root = envelope_leaf(&envelope).expect("an envelope has a leaf");
    let checkpoint = Checkpoint { node: NODE, originator: NODE, size: 1, root, time_ns: 5 };
    let mut checkpoint = CosignedCheckpoint::from(checkpoint.sign(&key));
    let of = checkpoint.signed.checkpoint;
    checkpoint.add_cosignature(of.cosign(OriginatorId(200), 6, &key));
    let of_envelope = |registry: &Registry, hashes: usize| {
        let inclusion = InclusionProof(vec![root; hashes]);
        let (envelope, checkpoint) = (envelope.clone(), checkpoint.clone());
        let proof = EnvelopeProof { envelope, inclusion, checkpoint };
        ProofFile::new("hawser", "testnet", &proof, registry)
    };
    let of_void = |envelope| {
        let proof = VoidProof { signed: declared().sign(&key), envelope };
        VoidProofFile::new("hawser", "testnet", &proof, &registry)
    };
    let texts = [
        serde_json::to_string(&of_envelope(&registry, 0)),
        serde_json::to_string(&of_envelope(&registry, 2)),
        serde_json::to_string(&of_envelope(&Registry::default(), 65)),
        serde_json::to_string(&of_void(None)),
        serde_json::to_string(&of_void(Some(envelope.clone()))),
        serde_json::to_string(&of_void(Some(Bytes::new()))),
    ];
    texts.map(|text| text.expect("a file is JSON").into_bytes()).into()
}
