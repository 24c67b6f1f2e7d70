//! Opens the envelopes of a report and checks their originators' signatures.

use hawser_proto::batch::{SignatureClaim, recover_batch};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::originator_envelope::Proof;
use hawser_proto::sign::originator_digest;
use hawser_proto::{
    Bytes, EnvelopeId, OriginatorId, PublicKey, SequenceId, Signature, TransactionHash,
};
use prost::Message as _;

use super::judgement::Fact;
use crate::registry::Registry;

/// An authenticated envelope: signed by its originator, or naming a transaction of a chain.
#[derive(Debug)]
pub(super) struct Exhibit {
    pub(super) id: EnvelopeId,
    /// The signed bytes.
    pub(super) statement: Bytes,
    pub(super) fields: pb::UnsignedOriginatorEnvelope,
    /// The length of the whole envelope in bytes.
    pub(super) len_bytes: usize,
    pub(super) origin: Origin,
}

/// The authentication of an exhibit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Signed with this key, which the registry lists for the originator.
    Signed(PublicKey),
    /// Unsigned, and naming this transaction.
    Chain(TransactionHash),
}

impl Exhibit {
    /// Returns the time that the originator states, unix nanoseconds.
    pub(super) fn ns(&self) -> i64 {
        self.fields.originator_ns
    }

    /// Returns true if `node` signed it.
    pub(super) fn is_signed_by(&self, node: OriginatorId) -> bool {
        self.id.originator == node && matches!(self.origin, Origin::Signed(_))
    }
}

/// Opens envelopes and checks the originators' signatures in one batch.
///
/// # Errors
/// The fact because of which an envelope is not evidence.
pub(super) fn open(
    envelopes: &[pb::OriginatorEnvelope],
    registry: &Registry,
) -> Result<Vec<Exhibit>, Fact> {
    let (mut exhibits, mut claims) = (Vec::with_capacity(envelopes.len()), Vec::new());
    for (index, envelope) in envelopes.iter().enumerate() {
        let exhibit =
            open_one(envelope, registry).map_err(|fact| fact.with("index", index as u64))?;
        if let (Origin::Signed(key), Some(Proof::OriginatorSignature(signature))) =
            (exhibit.origin, &envelope.proof)
        {
            // A signer is bound by a signature in either of its forms (high or low `s`).
            let signature = Signature::canonicalize(&signature.bytes)
                .map_err(|error| Fact::new("bad_signature", error.to_string()).at(exhibit.id))?;
            let digest = originator_digest(&exhibit.statement);
            claims
                .push((exhibits.len(), SignatureClaim { digest, signature, expected: Some(key) }));
        }
        exhibits.push(exhibit);
    }
    let (indices, claims): (Vec<usize>, Vec<SignatureClaim>) = claims.into_iter().unzip();
    for (index, signer) in indices.into_iter().zip(recover_batch(&claims)) {
        let exhibit: &Exhibit = &exhibits[index];
        if !matches!(exhibit.origin, Origin::Signed(key) if signer == Ok(key)) {
            let text = "the signature is not that of the envelope's originator";
            return Err(Fact::new("forged", text).at(exhibit.id).with("index", index as u64));
        }
    }
    Ok(exhibits)
}

/// Decodes and opens envelopes.
///
/// # Errors
/// The fact because of which one of them is not evidence.
pub(super) fn open_all(envelopes: &[Bytes], registry: &Registry) -> Result<Vec<Exhibit>, Fact> {
    let decoded = envelopes.iter().map(|bytes| pb::OriginatorEnvelope::decode(bytes.clone()));
    let decoded: Vec<_> = decoded
        .collect::<Result<_, _>>()
        .map_err(|error| Fact::malformed(format!("an envelope does not decode: {error}")))?;
    open(&decoded, registry)
}

/// Decodes and opens one envelope.
///
/// # Errors
/// The fact because of which it is not evidence.
pub(super) fn open_bytes(bytes: &Bytes, registry: &Registry) -> Result<Exhibit, Fact> {
    let opened = open_all(std::slice::from_ref(bytes), registry)?;
    opened.into_iter().next().ok_or_else(|| Fact::malformed("there is no envelope"))
}

/// Opens each envelope by itself, and passes over those that are not evidence.
pub(super) fn open_each(envelopes: &[pb::OriginatorEnvelope], registry: &Registry) -> Vec<Exhibit> {
    let open_alone = |envelope| open(std::slice::from_ref(envelope), registry).ok();
    envelopes.iter().filter_map(open_alone).flatten().collect()
}

/// Opens one envelope of a report, and finds the key that has to have signed it.
fn open_one(envelope: &pb::OriginatorEnvelope, registry: &Registry) -> Result<Exhibit, Fact> {
    let statement = envelope.unsigned_originator_envelope.clone();
    let fields = pb::UnsignedOriginatorEnvelope::decode(statement.clone())
        .map_err(|error| Fact::malformed(format!("an envelope does not decode: {error}")))?;
    let id = EnvelopeId::new(
        OriginatorId(fields.originator_node_id),
        SequenceId(fields.originator_sequence_id),
    );
    let origin = match &envelope.proof {
        None => return Err(Fact::new("unsigned", "an envelope has no proof").at(id)),
        Some(Proof::BlockchainProof(proof)) => {
            let hash =
                proof.transaction_hash.as_ref().try_into().map_err(|_| {
                    Fact::malformed("a transaction hash does not have 32 bytes").at(id)
                })?;
            Origin::Chain(TransactionHash(hash))
        }
        Some(Proof::OriginatorSignature(_)) => match registry.node(id.originator) {
            Some(record) => Origin::Signed(record.public_key),
            None => {
                let text = "the registry has no key for the originator of an envelope";
                return Err(Fact::new("unknown_originator", text).at(id));
            }
        },
    };
    Ok(Exhibit { id, statement, fields, len_bytes: envelope.encoded_len(), origin })
}

/// Requires that the accused signed every exhibit.
///
/// # Errors
/// The fact about the first exhibit that the accused did not sign.
pub(super) fn all_signed_by(exhibits: &[Exhibit], accused: OriginatorId) -> Result<(), Fact> {
    match exhibits.iter().find(|exhibit| !exhibit.is_signed_by(accused)) {
        None => Ok(()),
        Some(exhibit) => {
            let text = "the accused did not sign this envelope";
            Err(Fact::new("not_of_accused", text).at(exhibit.id).with("node", accused.0))
        }
    }
}
