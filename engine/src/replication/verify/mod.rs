//! What a peer sent, checked as if from an enemy.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use hawser_proto::envelope::{LayerError, OriginatorEnvelope, Proof, UnsignedOriginatorEnvelope};
use hawser_proto::sign::{originator_digest, recover_batch};
use hawser_proto::{Bytes, Digest, EnvelopeId, OriginatorId, PublicKey, SequenceId, Signature};
use hawser_rules::{RateTable, Violation, check_statement};
#[cfg(feature = "faults")]
use hawser_storage::faults::{self, Fault};
use hawser_storage::{LogEntry, Validity};

use super::link::PeerViolation;
use crate::facts;

/// What may be stored, marked invalid if it breaks a rule; or why it is not.
pub type VerifyResult = Result<LogEntry, VerifyError>;

/// Why an envelope is not to be stored as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The sender is at violation.
    #[error(transparent)]
    Peer(#[from] PeerViolation),
    /// Its originator has signed it, and this node cannot tell yet whether the price is right:
    /// its price list may be older than the envelope.
    #[error("the price of {0} cannot be judged yet")]
    Undecided(EnvelopeId),
}

/// Checks envelopes that peers send of one strand. A pure function of the bytes and of what is
/// given here.
#[derive(Debug, Clone)]
pub struct EnvelopeVerifier {
    /// The strand that was asked for.
    pub originator: OriginatorId,
    /// Its node's key, from the registry.
    pub key: PublicKey,
    /// The node that keeps this log.
    pub own: OriginatorId,
    /// The price list.
    pub rates: Arc<RateTable>,
}

/// An envelope whose outer layer holds, not yet known to be signed.
struct Opened {
    bytes: Bytes,
    id: EnvelopeId,
    /// The layers inside, or why one of them is none.
    inner: Result<UnsignedOriginatorEnvelope, LayerError>,
}

impl EnvelopeVerifier {
    /// Checks a batch; verdicts are in its order. Costs two signatures for each envelope, so large
    /// batches are better split over the cores.
    ///
    /// The signature of the originator decides whether anybody can be held to the envelope:
    /// without it nothing is stored. What is signed but breaks a rule has its place in the log,
    /// marked with the number of the rule. A mark is for good, so it is given only when nothing
    /// that this node has yet to hear of could change it.
    #[must_use]
    pub fn check(&self, batch: Vec<Bytes>) -> Vec<VerifyResult> {
        let (mut opened, mut claims) = (Vec::with_capacity(batch.len()), Vec::new());
        for bytes in batch {
            opened.push(self.open(bytes).map(|(envelope, claim)| {
                claims.push(claim);
                envelope
            }));
        }
        let mut signers = recover_batch(&claims).into_iter();
        for slot in opened.iter_mut().filter(|slot| slot.is_ok()) {
            let signer = signers.next().expect("one claim for each that was opened");
            #[cfg(feature = "faults")]
            let signer =
                if faults::is_on(Fault::UncheckedSignature) { Ok(self.key) } else { signer };
            if signer != Ok(self.key) {
                *slot = Err(PeerViolation::ForgedSignature);
            }
        }
        let mut payers = self.payers(&opened).into_iter();
        let verdict = |slot: Result<Opened, PeerViolation>| {
            let envelope = slot?;
            self.entry(envelope, payers.next().expect("one for each that is signed"))
        };
        opened.into_iter().map(verdict).collect()
    }

    fn open(&self, bytes: Bytes) -> Result<(Opened, (Digest, Signature)), PeerViolation> {
        let (statement, proof) =
            OriginatorEnvelope::open(bytes.clone()).map_err(|_| PeerViolation::NotCanonical)?;
        let Proof::Signature(signature) = proof else { return Err(PeerViolation::ChainProof) };
        let claim = (originator_digest(&statement), signature);
        let inner = UnsignedOriginatorEnvelope::parse(statement.clone());
        let id = match &inner {
            Ok(parsed) => parsed.id(),
            Err(_) => {
                OriginatorEnvelope::statement(statement).map_err(|_| PeerViolation::NotCanonical)?.0
            }
        };
        if id.originator != self.originator {
            return Err(PeerViolation::WrongOriginator);
        }
        if id.sequence == SequenceId::NONE || id.sequence > SequenceId::MAX {
            return Err(PeerViolation::OutOfOrder); // no strand has such a place
        }
        Ok((Opened { bytes, id, inner }, claim))
    }

    /// Who pays for each envelope that is signed, in order.
    fn payers(
        &self,
        opened: &[Result<Opened, PeerViolation>],
    ) -> Vec<Result<PublicKey, Violation>> {
        let mut claims = Vec::new();
        let claimed: Vec<Result<(), Violation>> = opened
            .iter()
            .flatten()
            .map(|envelope| {
                claims.push(payer_claim(envelope)?);
                Ok(())
            })
            .collect();
        let mut recovered = recover_batch(&claims).into_iter();
        let mut resolve = || recovered.next().expect("one for each claim").map_err(Violation::from);
        claimed.into_iter().map(|claimed| claimed.and_then(|()| resolve())).collect()
    }

    fn entry(&self, envelope: Opened, payer: Result<PublicKey, Violation>) -> VerifyResult {
        let Opened { bytes, id, inner } = envelope;
        let payer = payer.map(|key| key.address());
        let judged = inner.map_err(Violation::from).and_then(|statement| {
            check_statement(&statement, payer.clone(), &self.key, &self.rates).map(|()| statement)
        });
        let (facts, validity) = match judged {
            Ok(statement) => {
                (Some(facts::of_statement(&statement, payer.ok(), self.own)), Validity::Valid)
            }
            Err(violation) => {
                let rule = violation.rule().ok_or(VerifyError::Undecided(id))?;
                (None, Validity::Invalid(facts::mark_of(rule)))
            }
        };
        Ok(LogEntry { id, bytes, validity, facts })
    }
}

fn payer_claim(envelope: &Opened) -> Result<(Digest, Signature), Violation> {
    // The true reason is found again where the rules are applied.
    let statement = envelope.inner.as_ref().map_err(|_| Violation::PayerSignatureMissing)?;
    let payer = statement.payer();
    let bytes = payer.signature_bytes().ok_or(Violation::PayerSignatureMissing)?;
    let signature = Signature::from_bytes(bytes)?;
    Ok((payer.digest(), signature))
}
