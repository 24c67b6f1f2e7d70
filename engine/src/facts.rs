//! What the projections keep of an envelope: a pure function of its bytes.

use hawser_proto::envelope::{OriginatorEnvelope, UnsignedOriginatorEnvelope};
use hawser_proto::ids::EnvelopeId;
use hawser_proto::{Bytes, Digest, OriginatorId, PayerAddress, SequenceId, Signature};
use hawser_storage::{Charge, Facts, InvalidRule};

use crate::rules::{EXPIRY_NEVER, is_free};

/// Names a publish for ever: the same payer envelope again gives the same receipt. Retention is
/// not part of it, since nobody signs it.
#[must_use]
pub fn receipt(payer_digest: Digest, payer: PayerAddress) -> [u8; 32] {
    // The payer's digest already covers target and client bytes.
    let mut hasher = blake3::Hasher::new();
    hasher.update(&payer_digest.0);
    hasher.update(&payer.0);
    *hasher.finalize().as_bytes()
}

/// The facts of a valid envelope. `payer` is whom its payer signature recovers to; `own` is the
/// node that keeps this log, which keeps receipts for its own strand only.
#[must_use]
pub fn of_statement(
    statement: &UnsignedOriginatorEnvelope,
    payer: Option<PayerAddress>,
    own: OriginatorId,
) -> Facts {
    let envelope = statement.payer();
    let client = envelope.client();
    let counted = statement.id().originator.is_node() && !is_free(client.topic().kind());
    let charged = payer.filter(|_| counted);
    Facts {
        topic: client.topic().clone(),
        originator_ns: statement.originator_ns(),
        depends_on: chain_dependencies(client.depends_on()),
        expiry_unix_s: Some(statement.expiry_unix_s())
            .filter(|&expiry| expiry != 0 && expiry < EXPIRY_NEVER),
        receipt: payer
            .filter(|_| statement.id().originator == own)
            .map(|payer| receipt(envelope.digest(), payer)),
        charge: charged.map(|payer| Charge {
            payer,
            picodollars: statement
                .base_fee_picodollars()
                .saturating_add(statement.congestion_fee_picodollars()),
        }),
        counts_for_congestion: counted,
    }
}

/// The dependencies that readers wait for.
#[must_use]
pub fn chain_dependencies(named: &[EnvelopeId]) -> Vec<EnvelopeId> {
    named
        .iter()
        .filter(|id| !id.originator.is_node() && id.sequence > SequenceId::NONE)
        .copied()
        .collect()
}

/// The same from stored bytes, for a rebuild. `None` for what is marked invalid: it takes up its
/// place and nothing else.
#[must_use]
pub fn of_stored(bytes: &Bytes, invalid: Option<InvalidRule>, own: OriginatorId) -> Option<Facts> {
    if invalid.is_some() {
        return None;
    }
    let envelope = OriginatorEnvelope::parse(bytes.clone()).ok()?;
    let payer = envelope.unsigned().payer();
    let signature = payer.signature_bytes().and_then(|bytes| Signature::from_bytes(bytes).ok());
    let payer_key = signature.and_then(|signature| signature.recover(payer.digest()).ok());
    Some(of_statement(envelope.unsigned(), payer_key.map(|key| key.address()), own))
}
