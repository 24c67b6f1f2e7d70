//! Proof files: an envelope, and everything that shows that it is part of its strand.
//!
//! A proof file is JSON. Verifying it needs only the keys of the nodes. Specified in `docs/auditing.md`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawser_proto::checkpoint::{CheckpointCodecError, CheckpointError, CosignedCheckpoint};
use hawser_proto::envelope::{LayerError, OriginatorEnvelope, Proof};
use hawser_proto::merkle::{
    InclusionProof, PROOF_LEN_MAX, ProofError, TreeHash, envelope_leaf, leaf_index,
};
use hawser_proto::sign::originator_digest;
use hawser_proto::void::VoidStatementError;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PublicKey};
use hawser_rules::Registry;
use serde::{Deserialize, Serialize};

use crate::evidence_file::{ENTRIES_MAX, NodeEntry, beginning, bounded};

/// The schema that this program writes and reads.
pub const PROOF_SCHEMA: &str = "hawser-proof/1";
/// The schema of proof files about void places.
pub const VOID_PROOF_SCHEMA: &str = "hawser-void/1";
/// Bytes of the longest proof file that is read: an envelope of 25 MiB in base64, and the fields around it.
pub const PROOF_FILE_LEN_BYTES_MAX: usize = 40 * 1024 * 1024;

/// The reason a text is no proof file.
#[derive(Debug, thiserror::Error)]
pub enum ProofFileError {
    /// The file, in bytes, is too long.
    #[error("the file has {0} bytes, at most {PROOF_FILE_LEN_BYTES_MAX} are read")]
    TooLong(usize),
    /// The file is no JSON of this schema.
    #[error("the file is not a proof file: {0}")]
    Json(#[from] serde_json::Error),
    /// The file is of another schema, whose name begins with this text.
    #[error(
        "the file has schema {0:?}, and this program reads {PROOF_SCHEMA:?} and {VOID_PROOF_SCHEMA:?}"
    )]
    Schema(String),
    /// A field has another form.
    #[error("field {0} of the proof file is malformed")]
    Field(&'static str),
    /// The statement about void places cannot be read.
    #[error("the statement is malformed: {0}")]
    Statement(#[from] VoidStatementError),
    /// The checkpoint cannot be read.
    #[error("the checkpoint is malformed: {0}")]
    Checkpoint(#[from] CheckpointCodecError),
}

/// A proof file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofFile {
    schema: String,
    /// The program that wrote the file.
    #[serde(default)]
    tool: String,
    /// The network, as the writer knew it. Not proven.
    #[serde(default)]
    network: String,
    /// The originator envelope, base64.
    envelope: String,
    /// The hashes of the proof, hex, from the lowest up.
    #[serde(deserialize_with = "bounded::<_, _, PROOF_LEN_MAX>")]
    hashes: Vec<String>,
    /// The checkpoint with its cosignatures in binary form, base64.
    checkpoint: String,
    /// The nodes with their keys, as the writer knew them.
    #[serde(
        default,
        deserialize_with = "bounded::<_, _, ENTRIES_MAX>",
        skip_serializing_if = "Vec::is_empty"
    )]
    registry: Vec<NodeEntry>,
}

/// An envelope, the place of its leaf in a tree, and a checkpoint of that tree. Not necessarily verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeProof {
    /// The originator envelope.
    pub envelope: Bytes,
    /// The proof that its leaf is in the tree of the checkpoint.
    pub inclusion: InclusionProof,
    /// The checkpoint.
    pub checkpoint: CosignedCheckpoint,
}

/// The reason why a proof does not show that the envelope is part of the strand.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RefutedProofError {
    /// The bytes are no originator envelope.
    #[error("the envelope is malformed: {0}")]
    Envelope(#[from] LayerError),
    /// The registry does not name the node.
    #[error("the registry does not name node {0}")]
    NoKey(OriginatorId),
    /// Another key has signed the envelope.
    #[error("node {0} has not signed the envelope")]
    Forged(OriginatorId),
    /// The checkpoint is of another strand.
    #[error("the envelope is of strand {envelope}, and the checkpoint is of strand {checkpoint}")]
    OtherStrand {
        /// The strand of the envelope.
        envelope: OriginatorId,
        /// The strand of the checkpoint.
        checkpoint: OriginatorId,
    },
    /// The hashes do not lead from the envelope to the root.
    #[error(transparent)]
    Inclusion(#[from] ProofError),
    /// The checkpoint's signature is not valid.
    #[error("the checkpoint does not verify: {0}")]
    Checkpoint(#[from] CheckpointError),
}

/// Everything that a verified proof shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenEnvelope {
    /// The place of the envelope.
    pub id: EnvelopeId,
    /// The node that signed the checkpoint.
    pub signer: OriginatorId,
    /// Number of leaves of the tree.
    pub size: u64,
    /// Root of the tree.
    pub root: TreeHash,
    /// Other nodes than the signer whose cosignatures are valid; of nodes with one key, the first one.
    pub cosigners: Vec<OriginatorId>,
    /// Nodes whose cosignatures are not valid, whose keys are not known, or whose keys are those of the signer or of a
    /// counted cosigner.
    pub not_counted: Vec<OriginatorId>,
}

impl fmt::Display for ProvenEnvelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, signer, size, root, cosigners, .. } = self;
        write!(
            f,
            "{id} is in the tree of {size} leaves with root {root}, signed by node {signer}"
        )?;
        for cosigner in cosigners {
            write!(f, ", cosigned by node {cosigner}")?;
        }
        Ok(())
    }
}

impl EnvelopeProof {
    /// Verifies the proof with the keys of the nodes.
    ///
    /// # Errors
    /// The first reason why it does not prove that the envelope is part of its strand.
    pub fn verify(&self, registry: &Registry) -> Result<ProvenEnvelope, RefutedProofError> {
        let (statement, proof) = OriginatorEnvelope::open(self.envelope.clone())?;
        let digest = originator_digest(&statement);
        let (id, _) = OriginatorEnvelope::statement(statement)?;
        let key = |node| {
            let record = registry.node(node).ok_or(RefutedProofError::NoKey(node))?;
            Ok::<_, RefutedProofError>(record.public_key)
        };
        // An envelope of a chain has no signature: the checkpoint of the node that read the chain vouches for it.
        match proof {
            Proof::Signature(signature) => {
                if signature.recover(digest) != Ok(key(id.originator)?) {
                    return Err(RefutedProofError::Forged(id.originator));
                }
            }
            Proof::Transaction(_) if id.originator.is_signer() => {
                return Err(RefutedProofError::Forged(id.originator));
            }
            Proof::Transaction(_) => {}
        }
        let of = self.checkpoint.signed.checkpoint;
        if of.originator != id.originator {
            let (envelope, checkpoint) = (id.originator, of.originator);
            return Err(RefutedProofError::OtherStrand { envelope, checkpoint });
        }
        let none = ProofError::NoSuchLeaf { index: u64::MAX, size: of.size };
        let index = leaf_index(id.sequence).ok_or(none)?;
        let leaf = envelope_leaf(&self.envelope).ok_or(none)?;
        self.inclusion.verify(leaf, index, of.size, of.root)?;
        let signer_key = key(of.node)?;
        self.checkpoint.signed.verify(&signer_key)?;
        let (cosigners, not_counted) = cosigners(&self.checkpoint, signer_key, registry);
        let (signer, size, root) = (of.node, of.size, of.root);
        Ok(ProvenEnvelope { id, signer, size, root, cosigners, not_counted })
    }
}

/// Returns the number of keys of the registry whose nodes have validly signed a checkpoint: that of its signer and
/// those of its cosigners. 0 if the signer's own signature is not valid.
#[must_use]
pub fn signers(checkpoint: &CosignedCheckpoint, registry: &Registry) -> usize {
    let signer = registry.node(checkpoint.signed.checkpoint.node).map(|record| record.public_key);
    let signer = signer.filter(|key| checkpoint.signed.verify(key).is_ok());
    signer.map_or(0, |key| 1 + cosigners(checkpoint, key, registry).0.len())
}

/// Returns the cosigners that count beside the signer, and those that do not. A node is no second witness of its own
/// checkpoint, and a key that is registered for several nodes is no witness for each of them.
fn cosigners(
    checkpoint: &CosignedCheckpoint,
    signer_key: PublicKey,
    registry: &Registry,
) -> (Vec<OriginatorId>, Vec<OriginatorId>) {
    let of = checkpoint.signed.checkpoint;
    let (mut counted, mut not_counted) = (Vec::new(), Vec::new());
    let mut keys = vec![signer_key];
    for cosignature in &checkpoint.cosignatures {
        let known = registry.node(cosignature.cosigner).map(|record| record.public_key);
        let is_other = |key: &PublicKey| !keys.contains(key);
        match known.filter(is_other).filter(|key| cosignature.verify(&of, key).is_ok()) {
            Some(key) => {
                keys.push(key);
                counted.push(cosignature.cosigner);
            }
            None => not_counted.push(cosignature.cosigner),
        }
    }
    (counted, not_counted)
}

impl ProofFile {
    /// Makes a file of a proof. The keys are those of the nodes that the proof names.
    #[must_use]
    pub fn new(tool: &str, network: &str, proof: &EnvelopeProof, registry: &Registry) -> Self {
        let of = proof.checkpoint.signed.checkpoint;
        let cosigners = proof.checkpoint.cosignatures.iter().map(|it| it.cosigner);
        let mut nodes: Vec<OriginatorId> = cosigners.chain([of.node, of.originator]).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let named = nodes.into_iter().filter_map(|node| registry.node(node));
        Self {
            schema: PROOF_SCHEMA.to_owned(),
            tool: tool.to_owned(),
            network: network.to_owned(),
            envelope: STANDARD.encode(&proof.envelope),
            hashes: proof.inclusion.0.iter().map(ToString::to_string).collect(),
            checkpoint: STANDARD.encode(proof.checkpoint.encode()),
            registry: named.map(|node| NodeEntry::of(node, registry)).collect(),
        }
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`ProofFileError`] for text of another form, and above the bounds.
    pub fn parse(text: &str) -> Result<Self, ProofFileError> {
        if text.len() > PROOF_FILE_LEN_BYTES_MAX {
            return Err(ProofFileError::TooLong(text.len()));
        }
        let file: Self = serde_json::from_str(text)?;
        if file.schema == PROOF_SCHEMA {
            Ok(file)
        } else {
            Err(ProofFileError::Schema(beginning(&file.schema)))
        }
    }

    /// Decodes the proof.
    ///
    /// # Errors
    /// When a field is malformed.
    pub fn proof(&self) -> Result<EnvelopeProof, ProofFileError> {
        let hash = |text: &String| {
            let bytes = hex::decode(text).ok().and_then(|bytes| TreeHash::from_slice(&bytes));
            bytes.ok_or(ProofFileError::Field("a hash"))
        };
        let decode =
            |text: &String, name| STANDARD.decode(text).map_err(|_| ProofFileError::Field(name));
        let hashes = self.hashes.iter().map(hash).collect::<Result<_, _>>()?;
        let checkpoint = CosignedCheckpoint::decode(&decode(&self.checkpoint, "the checkpoint")?)?;
        let envelope = decode(&self.envelope, "the envelope")?.into();
        Ok(EnvelopeProof { envelope, inclusion: InclusionProof(hashes), checkpoint })
    }

    /// Returns the nodes that the file names, as entries of a registry.
    #[must_use]
    pub fn registry(&self) -> &[NodeEntry] {
        &self.registry
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;
    use hawser_proto::merkle::{Subtree, envelope_leaf, inclusion_proof, node_hash};
    use hawser_rules::NodeRecord;
    use proptest::prelude::*;

    use super::*;
    use crate::replay::StrandRow;
    use crate::replay::testing::{
        MemoryLog, NODE, WITNESS, checkpoint, draft, key, ns_of, settings,
    };

    /// The proof that place 7 is in the tree of 20.
    fn honest() -> EnvelopeProof {
        let log = MemoryLog::honest(20);
        let leaves: Vec<TreeHash> = log
            .rows
            .iter()
            .map(|row| match row {
                StrandRow::Envelope { bytes, .. } => envelope_leaf(bytes).unwrap(),
                _ => panic!("no envelope"),
            })
            .collect();
        fn node(leaves: &[TreeHash], at: Subtree) -> TreeHash {
            if at.level == 0 {
                return leaves[usize::try_from(at.index).unwrap()];
            }
            let child = |index| node(leaves, Subtree { level: at.level - 1, index });
            node_hash(child(2 * at.index), child(2 * at.index + 1))
        }
        let inclusion = inclusion_proof::<ProofError>(6, 20, |at| Ok(node(&leaves, at))).unwrap();
        let envelope = draft(7, ns_of(7)).seal();
        EnvelopeProof { envelope, inclusion, checkpoint: checkpoint(20, log.root) }
    }

    fn text(proof: &EnvelopeProof) -> String {
        let file = ProofFile::new("test", "testnet", proof, &settings().registry);
        serde_json::to_string(&file).unwrap()
    }

    #[test]
    fn a_file_proves_its_envelope_to_a_stranger() {
        let registry = settings().registry;
        let file = ProofFile::parse(&text(&honest())).unwrap();
        let named: Vec<u32> = file.registry().iter().map(|node| node.node_id.0).collect();
        assert_eq!(named, [NODE.0, WITNESS.0]);
        let proven = file.proof().unwrap().verify(&registry).unwrap();
        assert_eq!(proven.id, EnvelopeId::new(NODE, SequenceId(7)));
        assert_eq!((proven.signer, proven.size), (NODE, 20));
        assert_eq!((&proven.cosigners[..], proven.not_counted.len()), (&[WITNESS][..], 0));
    }

    #[test]
    fn a_node_that_cosigns_its_own_checkpoint_is_no_second_witness() {
        let mut proof = honest();
        let of = proof.checkpoint.signed.checkpoint;
        assert!(proof.checkpoint.add_cosignature(of.cosign(NODE, of.time_ns + 1, &key(1))));
        let proven = proof.verify(&settings().registry).unwrap();
        assert_eq!((&proven.cosigners[..], &proven.not_counted[..]), (&[WITNESS][..], &[NODE][..]));
        assert!(!proven.to_string().contains(&format!("cosigned by node {NODE}")), "{proven}");
    }

    #[test]
    fn a_key_that_is_registered_for_several_nodes_is_one_witness() {
        let registry = settings().registry;
        let again = |node, of| NodeRecord { id: node, ..registry.node(of).unwrap().clone() };
        let twins = [(OriginatorId(700), NODE), (OriginatorId(800), WITNESS)];
        let registered = twins.map(|(node, of)| again(node, of));
        let registry: Registry = registry.nodes().cloned().chain(registered).collect();
        let mut proof = honest();
        let of = proof.checkpoint.signed.checkpoint;
        for ((node, _), seed) in twins.into_iter().zip([1, 2]) {
            assert!(proof.checkpoint.add_cosignature(of.cosign(node, of.time_ns + 1, &key(seed))));
        }
        let proven = proof.verify(&registry).unwrap();
        let uncounted = twins.map(|(node, _)| node);
        assert_eq!(
            (&proven.cosigners[..], &proven.not_counted[..]),
            (&[WITNESS][..], &uncounted[..])
        );
    }

    #[test]
    fn whatever_is_changed_the_proof_is_refuted() {
        let registry = settings().registry;
        let refuted = |proof: EnvelopeProof| proof.verify(&registry).unwrap_err();
        let other = EnvelopeProof { envelope: draft(8, ns_of(8)).seal(), ..honest() };
        assert!(matches!(refuted(other), RefutedProofError::Inclusion(ProofError::OtherRoot)));
        let mut shorter = honest();
        shorter.inclusion.0.pop();
        assert!(matches!(refuted(shorter), RefutedProofError::Inclusion(ProofError::Length(_))));
        let mut root = honest();
        root.checkpoint = checkpoint(20, TreeHash([1; 32]));
        assert!(matches!(refuted(root), RefutedProofError::Inclusion(ProofError::OtherRoot)));
        let mut time = honest();
        time.checkpoint.signed.checkpoint.time_ns += 1;
        assert!(matches!(refuted(time), RefutedProofError::Checkpoint(_)));
        let mut small = honest();
        small.checkpoint = checkpoint(6, TreeHash([1; 32]));
        assert!(matches!(
            refuted(small),
            RefutedProofError::Inclusion(ProofError::NoSuchLeaf { .. })
        ));
        let noise = EnvelopeProof { envelope: Bytes::from_static(b"noise"), ..honest() };
        assert!(matches!(refuted(noise), RefutedProofError::Envelope(_)));
        let keyless = honest().verify(&Registry::default());
        assert_eq!(keyless, Err(RefutedProofError::NoKey(NODE)));
    }

    /// The strands of the older network were signed when they were taken over, as replays require too.
    #[test]
    fn a_transaction_proves_no_envelope_of_a_strand_that_has_a_key() {
        for originator in [NODE, OriginatorId::MIGRATED[0]] {
            let mut unsigned = draft(7, ns_of(7));
            unsigned.statement.originator_node_id = originator.0;
            let (statement, _) = OriginatorEnvelope::open(unsigned.seal()).unwrap();
            let envelope = OriginatorEnvelope::encode(statement, Proof::Transaction([1; 32]));
            let refuted = EnvelopeProof { envelope, ..honest() }.verify(&settings().registry);
            assert_eq!(refuted, Err(RefutedProofError::Forged(originator)));
        }
    }

    #[test]
    fn lengths_that_no_tree_has_are_refused() {
        let file = ProofFile::new("test", "testnet", &honest(), &settings().registry);
        // A list of empty texts takes many times its bytes.
        let lists = [("00".repeat(32), 65), (String::new(), 65), (String::new(), 1_000_000)];
        for hashes in lists.map(|(hash, count)| vec![hash; count]) {
            let many = serde_json::to_string(&ProofFile { hashes, ..file.clone() }).unwrap();
            let refused = ProofFile::parse(&many).unwrap_err().to_string();
            assert!(refused.contains("at most 64 entries"), "{refused}");
        }
        let long = " ".repeat(PROOF_FILE_LEN_BYTES_MAX + 1);
        assert!(matches!(ProofFile::parse(&long), Err(ProofFileError::TooLong(_))));
        // A checkpoint that claims 2^60 leaves, or 65,535 cosignatures.
        let mut claims = honest().checkpoint.encode();
        claims[8..16].copy_from_slice(&(1_u64 << 60).to_be_bytes());
        let large = ProofFile { checkpoint: STANDARD.encode(&claims), ..file.clone() };
        let refuted = large.proof().unwrap().verify(&settings().registry);
        assert!(matches!(refuted, Err(RefutedProofError::Inclusion(ProofError::Length(_)))));
        let mut claims = honest().checkpoint.encode();
        claims[121..123].copy_from_slice(&[0xff; 2]);
        let many = ProofFile { checkpoint: STANDARD.encode(&claims), ..file };
        assert!(matches!(many.proof(), Err(ProofFileError::Checkpoint(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn mutated_files_are_refused_or_refuted_or_say_the_same(
            at in any::<prop::sample::Index>(),
            byte in 0x20_u8..0x7f,
        ) {
            let honest = honest();
            let registry = settings().registry;
            let proven = honest.verify(&registry).unwrap();
            let mut bytes = text(&honest).into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let text = String::from_utf8(bytes).unwrap();
            let file = ProofFile::parse(&text);
            if let Ok(proof) = file.and_then(|file| file.proof())
                && let Ok(other) = proof.verify(&registry)
            {
                prop_assert_eq!((other.id, other.size, other.root), (proven.id, proven.size, proven.root));
            }
        }
    }
}
