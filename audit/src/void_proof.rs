//! Proof files about void places. Each holds a node's statement that it left out places of its strand and, if there is
//! one, an envelope that the node has signed for one of these places.
//!
//! The file is JSON. Verifying it needs only the key of the node. Specified in `docs/auditing.md`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawser_proto::envelope::{LayerError, OriginatorEnvelope, Proof};
use hawser_proto::sign::originator_digest;
use hawser_proto::void::{SignedVoid, VoidStatement, VoidStatementError};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId};
use hawser_rules::Registry;
use serde::{Deserialize, Serialize};

use crate::evidence_file::{ENTRIES_MAX, NodeEntry, beginning, bounded};
use crate::proof::{
    PROOF_FILE_LEN_BYTES_MAX, PROOF_SCHEMA, ProofFile, ProofFileError, VOID_PROOF_SCHEMA,
};

/// A proof file about void places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoidProofFile {
    schema: String,
    /// The program that wrote the file.
    #[serde(default)]
    tool: String,
    /// The network, as the writer knew it. Not proven.
    #[serde(default)]
    network: String,
    /// The statement with its signature, base64.
    statement: String,
    /// The originator envelope at one of the places, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    envelope: Option<String>,
    /// The node with its key, as the writer knew it.
    #[serde(
        default,
        deserialize_with = "bounded::<_, _, ENTRIES_MAX>",
        skip_serializing_if = "Vec::is_empty"
    )]
    registry: Vec<NodeEntry>,
}

/// A proof file of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyProofFile {
    /// A proof that an envelope is in its strand.
    Envelope(ProofFile),
    /// A proof about void places.
    Void(VoidProofFile),
}

/// A statement about void places, and the envelope at one of them. Not necessarily verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoidProof {
    /// The statement.
    pub signed: SignedVoid,
    /// The originator envelope, if there is one.
    pub envelope: Option<Bytes>,
}

/// The reason why a proof about void places shows nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RefutedVoidProofError {
    /// The registry does not name the node.
    #[error("the registry does not name node {0}")]
    NoKey(OriginatorId),
    /// The node has not signed the statement.
    #[error(transparent)]
    Statement(#[from] VoidStatementError),
    /// The bytes are no originator envelope.
    #[error("the envelope is malformed: {0}")]
    Envelope(#[from] LayerError),
    /// Another key has signed the envelope.
    #[error("node {0} has not signed the envelope")]
    Forged(OriginatorId),
    /// The envelope is at another place.
    #[error("the statement does not cover {0}, the place of the envelope")]
    OtherPlace(EnvelopeId),
}

/// Everything that a verified proof about void places shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvenVoid {
    /// The statement, which its node has signed.
    pub statement: VoidStatement,
    /// The envelope, which the same node has signed.
    pub envelope: Option<EnvelopeAtVoid>,
}

/// An envelope at a place that its node has declared void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeAtVoid {
    /// The place.
    pub id: EnvelopeId,
    /// Time of the envelope, unix nanoseconds.
    pub originator_ns: i64,
    /// True if the envelope is dated more than five minutes after the statement. The node has broken its word then, or
    /// the clock of a machine that it has lost was ahead.
    pub is_later: bool,
}

impl ProvenVoid {
    /// Returns true if the proof accuses the node. The accusation is a claim: both times are the node's own, and what
    /// it signed before it lost a disk may be dated far ahead of its next machine's clock.
    #[must_use]
    pub fn is_claim(&self) -> bool {
        self.envelope.is_some_and(|at| at.is_later)
    }
}

impl fmt::Display for ProvenVoid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VoidStatement { node, from, through, time_ns, .. } = self.statement;
        write!(f, "node {node} has declared places {from} to {through} void, at {time_ns} ns")?;
        match self.envelope {
            None => Ok(()),
            Some(EnvelopeAtVoid { id, originator_ns, is_later: true }) => write!(
                f,
                ", and has signed envelope {id} for one of them, dated afterwards, at {originator_ns} ns: it has broken \
                 its word, or the clock of a machine that it has lost was ahead"
            ),
            Some(EnvelopeAtVoid { id, originator_ns, is_later: false }) => write!(
                f,
                "; it had signed envelope {id} for one of them, at {originator_ns} ns: it had lost it, or withholds \
                 it, and that is no fault"
            ),
        }
    }
}

impl VoidProof {
    /// Verifies the proof with the node's key.
    ///
    /// # Errors
    /// The first reason why it shows nothing.
    pub fn verify(&self, registry: &Registry) -> Result<ProvenVoid, RefutedVoidProofError> {
        let statement = self.signed.statement;
        let record = registry.node(statement.node);
        let key = record.ok_or(RefutedVoidProofError::NoKey(statement.node))?.public_key;
        self.signed.verify(&key)?;
        let Some(bytes) = &self.envelope else {
            return Ok(ProvenVoid { statement, envelope: None });
        };
        let (unsigned, proof) = OriginatorEnvelope::open(bytes.clone())?;
        let digest = originator_digest(&unsigned);
        let (id, originator_ns) = OriginatorEnvelope::statement(unsigned)?;
        if id.originator != statement.node || !statement.covers(id.sequence) {
            return Err(RefutedVoidProofError::OtherPlace(id));
        }
        let is_signed = match proof {
            Proof::Signature(signature) => signature.recover(digest) == Ok(key),
            Proof::Transaction(_) => false,
        };
        if !is_signed {
            return Err(RefutedVoidProofError::Forged(statement.node));
        }
        let is_later = statement.is_broken_by(originator_ns);
        let envelope = Some(EnvelopeAtVoid { id, originator_ns, is_later });
        Ok(ProvenVoid { statement, envelope })
    }
}

impl VoidProofFile {
    /// Makes a file of a proof, with the key of the node.
    #[must_use]
    pub fn new(tool: &str, network: &str, proof: &VoidProof, registry: &Registry) -> Self {
        let record = registry.node(proof.signed.statement.node);
        Self {
            schema: VOID_PROOF_SCHEMA.to_owned(),
            tool: tool.to_owned(),
            network: network.to_owned(),
            statement: STANDARD.encode(proof.signed.encode()),
            envelope: proof.envelope.as_ref().map(|bytes| STANDARD.encode(bytes)),
            registry: record.into_iter().map(|node| NodeEntry::of(node, registry)).collect(),
        }
    }

    /// Decodes the proof.
    ///
    /// # Errors
    /// When a field is malformed.
    pub fn proof(&self) -> Result<VoidProof, ProofFileError> {
        let decode =
            |text: &String, name| STANDARD.decode(text).map_err(|_| ProofFileError::Field(name));
        let signed = SignedVoid::decode(&decode(&self.statement, "the statement")?)?;
        let envelope = self.envelope.as_ref().map(|text| decode(text, "the envelope"));
        Ok(VoidProof { signed, envelope: envelope.transpose()?.map(Bytes::from) })
    }

    /// Returns the nodes that the file names, as entries of a registry.
    #[must_use]
    pub fn registry(&self) -> &[NodeEntry] {
        &self.registry
    }
}

impl AnyProofFile {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`ProofFileError`] for text of another form, and above the bounds.
    pub fn parse(text: &str) -> Result<Self, ProofFileError> {
        /// The field that distinguishes the kinds.
        #[derive(Deserialize)]
        struct Kind {
            schema: String,
        }
        if text.len() > PROOF_FILE_LEN_BYTES_MAX {
            return Err(ProofFileError::TooLong(text.len()));
        }
        let Kind { schema } = serde_json::from_str(text)?;
        match &*schema {
            PROOF_SCHEMA => ProofFile::parse(text).map(Self::Envelope),
            VOID_PROOF_SCHEMA => Ok(Self::Void(serde_json::from_str(text)?)),
            _ => Err(ProofFileError::Schema(beginning(&schema))),
        }
    }

    /// Returns the nodes that the file names, as entries of a registry.
    #[must_use]
    pub fn registry(&self) -> &[NodeEntry] {
        match self {
            Self::Envelope(file) => file.registry(),
            Self::Void(file) => file.registry(),
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;
    use proptest::prelude::*;

    use super::*;
    use crate::replay::testing::{NODE, WITNESS, declared, draft, key, ns_of, settings};

    /// The statement about places 40 to 60 at the time of place 45, and the envelope of this place and time.
    fn with_envelope(place: u64, at: u64) -> VoidProof {
        let envelope = Some(draft(place, ns_of(at)).seal());
        VoidProof { signed: declared(40, 60, 45, 1), envelope }
    }

    fn text(proof: &VoidProof) -> String {
        let file = VoidProofFile::new("test", "testnet", proof, &settings().registry);
        serde_json::to_string(&file).unwrap()
    }

    fn read(text: &str) -> Result<VoidProof, ProofFileError> {
        match AnyProofFile::parse(text)? {
            AnyProofFile::Void(file) => file.proof(),
            AnyProofFile::Envelope(file) => panic!("another kind: {file:?}"),
        }
    }

    #[test]
    fn a_file_shows_the_statement_and_accuses_no_node_but_as_a_claim() {
        let registry = settings().registry;
        let alone = VoidProof { envelope: None, ..with_envelope(50, 50) };
        let proven = read(&text(&alone)).unwrap().verify(&registry).unwrap();
        assert_eq!((proven.statement, proven.envelope), (alone.signed.statement, None));
        assert!(!proven.is_claim());
        let file = AnyProofFile::parse(&text(&alone)).unwrap();
        let named: Vec<u32> = file.registry().iter().map(|node| node.node_id.0).collect();
        assert_eq!(named, [NODE.0], "and no other node");
        // A place every seven seconds: five minutes are 42 places and more.
        for (at, is_later) in [(50, false), (89, true)] {
            let proven = read(&text(&with_envelope(50, at))).unwrap().verify(&registry).unwrap();
            let id = EnvelopeId::new(NODE, SequenceId(50));
            let envelope = EnvelopeAtVoid { id, originator_ns: ns_of(at), is_later };
            assert_eq!(proven.envelope, Some(envelope));
            // The clock of a lost machine may have been ahead, so this proves no guilt.
            assert_eq!(proven.is_claim(), is_later);
            assert_eq!(proven.to_string().contains("dated afterwards"), is_later, "{proven}");
            assert_eq!(proven.to_string().contains("or the clock"), is_later, "{proven}");
        }
    }

    #[test]
    fn what_another_key_has_signed_or_what_stands_elsewhere_proves_nothing() {
        let registry = settings().registry;
        let refuted = |proof: VoidProof| proof.verify(&registry).unwrap_err();
        let forged = VoidProof { signed: declared(40, 60, 45, 2), envelope: None };
        let other_key = VoidStatementError::OtherKey(NODE);
        assert_eq!(refuted(forged), RefutedVoidProofError::Statement(other_key));
        let mut of_witness = declared(40, 60, 45, 2).statement;
        of_witness.node = WITNESS;
        let signed = of_witness.sign(&key(2));
        let elsewhere = RefutedVoidProofError::OtherPlace(EnvelopeId::new(NODE, SequenceId(50)));
        assert_eq!(refuted(VoidProof { signed, ..with_envelope(50, 50) }), elsewhere);
        let elsewhere = RefutedVoidProofError::OtherPlace(EnvelopeId::new(NODE, SequenceId(61)));
        assert_eq!(refuted(with_envelope(61, 200)), elsewhere);
        let mut other = with_envelope(50, 200);
        let (statement, _) = OriginatorEnvelope::open(other.envelope.unwrap()).unwrap();
        let signature = key(2).sign(originator_digest(&statement));
        let bytes = OriginatorEnvelope::encode(statement.clone(), Proof::Signature(signature));
        other.envelope = Some(bytes);
        assert_eq!(refuted(other.clone()), RefutedVoidProofError::Forged(NODE));
        other.envelope = Some(OriginatorEnvelope::encode(statement, Proof::Transaction([1; 32])));
        assert_eq!(refuted(other.clone()), RefutedVoidProofError::Forged(NODE));
        other.envelope = Some(Bytes::from_static(b"noise"));
        assert!(matches!(refuted(other), RefutedVoidProofError::Envelope(_)));
        let keyless = with_envelope(50, 50).verify(&Registry::default());
        assert_eq!(keyless, Err(RefutedVoidProofError::NoKey(NODE)));
    }

    #[test]
    fn files_of_other_forms_are_refused_by_name() {
        let whole = text(&with_envelope(50, 50));
        let other = whole.replace(VOID_PROOF_SCHEMA, "hawser-void/2");
        assert!(matches!(AnyProofFile::parse(&other), Err(ProofFileError::Schema(_))), "{other}");
        // The name of a schema may fill the file.
        let long = whole.replace(VOID_PROOF_SCHEMA, &"x".repeat(1_000_000));
        let refused = AnyProofFile::parse(&long).unwrap_err().to_string();
        assert!(refused.starts_with("the file has schema") && refused.len() < 200, "{refused}");
        assert!(matches!(AnyProofFile::parse("{}"), Err(ProofFileError::Json(_))));
        let long = " ".repeat(PROOF_FILE_LEN_BYTES_MAX + 1);
        assert!(matches!(AnyProofFile::parse(&long), Err(ProofFileError::TooLong(_))));
        let field = |name: &str, value: &str| {
            let mut file: serde_json::Value = serde_json::from_str(&whole).unwrap();
            file[name] = value.into();
            read(&file.to_string()).unwrap_err()
        };
        assert!(matches!(field("statement", "?"), ProofFileError::Field("the statement")));
        assert!(matches!(field("envelope", "?"), ProofFileError::Field("the envelope")));
        let short = field("statement", "AAAA");
        assert!(matches!(short, ProofFileError::Statement(VoidStatementError::Length(3))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn mutated_files_are_refused_or_refuted_or_say_the_same(
            at in any::<prop::sample::Index>(),
            byte in 0x20_u8..0x7f,
        ) {
            let registry = settings().registry;
            let honest = with_envelope(50, 200);
            let mut bytes = text(&honest).into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let text = String::from_utf8(bytes).unwrap();
            if let Ok(AnyProofFile::Void(file)) = AnyProofFile::parse(&text)
                && let Ok(proof) = file.proof()
                && let Ok(other) = proof.verify(&registry)
                && other.envelope.is_some()
            {
                prop_assert_eq!(other, honest.verify(&registry).unwrap());
            }
        }
    }
}
