//! Verification of envelopes from a peer, which is treated as an attacker.

mod read;
#[cfg(test)]
mod tests;

use hawser_proto::batch::{
    SignatureClaim, accounts, recover_batch, recover_grouped, recover_similar,
};
use hawser_proto::digests::originator_digests;
use hawser_proto::envelope::{
    ClientEnvelope, LayerError, OpenedStatement, OriginatorEnvelope, PayerEnvelope, Proof,
    UnsignedOriginatorEnvelope,
};
use hawser_proto::sign::SignatureError;
use hawser_proto::{
    Bytes, Digest, EnvelopeId, OriginatorId, PayerAddress, PublicKey, SequenceId, Signature,
};
use hawser_rules::{
    Absences, RuleNumber, Violation, check_length, check_statement, payer_claim, payer_claims,
};
#[cfg(feature = "faults")]
use hawser_storage::faults::{self, SeededFault};
use hawser_storage::{LogEntry, Validity};

use super::link::PeerViolation;
use crate::facts;

/// Bytes of an identity update or a report up to which it is held decoded while a batch is verified. A guess: reports
/// are shorter, and no other strand than the chain's has an update.
const HELD_LEN_BYTES_MAX: usize = 512;

/// The entry to store, marked invalid if the envelope breaks a rule; or the fault of the peer that sent
/// it, for which nothing is stored.
pub type VerifyResult = Result<LogEntry, PeerViolation>;

/// Verifier for the envelopes of one strand. A pure function of the bytes and of its fields.
#[derive(Debug, Clone)]
pub struct EnvelopeVerifier {
    /// The strand that was asked for.
    pub originator: OriginatorId,
    /// The key of the strand's node, from the registry.
    pub key: PublicKey,
    /// The node that keeps this log.
    pub own: OriginatorId,
    /// The times in which the strand's node was not in the network.
    pub absences: Absences,
}

/// The key that a payer's signature recovers to, or the reason there is none.
type RecoveredPayer = Result<PublicKey, SignatureError>;

/// An envelope whose outer layer is well-formed, not yet known to be signed by its originator.
struct OpenedEnvelope {
    bytes: Bytes,
    statement: OpenedStatement,
}

impl OpenedEnvelope {
    /// Reads the layers inside, which can take ten times the memory of their bytes: a map of small numbers does. An
    /// identity update of empty actions takes two hundred times its bytes, and a batch may have a hundred of them. So
    /// long ones are not held, but read again when the envelope has its turn.
    fn parse(self) -> ParsedEnvelope {
        let Self { bytes, statement } = self;
        let (id, originator_ns) = (statement.id(), statement.originator_ns());
        let read = statement.clone().parse();
        let inner = match read {
            Ok(long) if is_long(&long) => {
                InnerLayers::Long { claim: payer_claim(long.payer()), statement }
            }
            read => InnerLayers::Held(read),
        };
        ParsedEnvelope { bytes, id, originator_ns, inner }
    }
}

/// Returns true if the layers of a statement are not held.
fn is_long(statement: &UnsignedOriginatorEnvelope) -> bool {
    let client = statement.payer().client();
    ClientEnvelope::structured_len_bytes(client.as_bytes()) > HELD_LEN_BYTES_MAX
}

/// An envelope whose layers were read.
struct ParsedEnvelope {
    bytes: Bytes,
    id: EnvelopeId,
    originator_ns: i64,
    inner: InnerLayers,
}

/// The layers inside an envelope, while its batch is verified.
enum InnerLayers {
    /// The layers, or the error in one of them.
    Held(Result<UnsignedOriginatorEnvelope, LayerError>),
    /// The statement of long layers, which are read again, and their payer's signature, or the reason that there is
    /// none.
    Long { statement: OpenedStatement, claim: Result<SignatureClaim, Violation> },
}

impl InnerLayers {
    /// Returns the layers. Reads long ones again.
    fn read(self) -> Result<UnsignedOriginatorEnvelope, LayerError> {
        match self {
            Self::Held(read) => read,
            Self::Long { statement, .. } => statement.parse(),
        }
    }

    /// Returns the payer envelope if it is held.
    fn held_payer(&self) -> Option<&PayerEnvelope> {
        match self {
            Self::Held(read) => read.as_ref().ok().map(UnsignedOriginatorEnvelope::payer),
            Self::Long { .. } => None,
        }
    }
}

impl EnvelopeVerifier {
    /// Verifies a batch; results are in its order. Costs up to two signature recoveries for each
    /// envelope, and less the larger the batch; for a key package also two checks of its signatures. Callers
    /// split large batches over the cores.
    ///
    /// The originator's signature decides whether the originator can be held to an envelope.
    /// Without it nothing is stored. A signed envelope that breaks a rule takes up its place in the
    /// log, marked with the number of the rule. A mark is for good, so an envelope is marked only
    /// if nothing that this node may still learn could change the result. The exceptions are an
    /// absence of its node and rules of another version, by which a node judges the strand anew.
    #[must_use]
    pub fn check(&self, batch: Vec<Bytes>) -> Vec<VerifyResult> {
        self.check_by(batch, |claims, _| recover_similar(claims))
    }

    /// Verifies a batch like [`check`](Self::check). `payers` has the payer of each envelope as a database names it,
    /// which is a guess: envelopes with one name are expected to have one payer. A wrong one costs time and changes no
    /// result.
    ///
    /// # Panics
    /// If the number of payers is not that of the envelopes.
    #[must_use]
    pub fn check_named(
        &self,
        batch: Vec<Bytes>,
        payers: &[Option<PayerAddress>],
    ) -> Vec<VerifyResult> {
        assert_eq!(batch.len(), payers.len(), "each envelope has a payer or none");
        self.check_by(batch, |claims, indexes| {
            let named: Vec<_> = indexes.iter().map(|index| payers[*index]).collect();
            recover_grouped(claims, &named)
        })
    }

    /// Verifies a batch. `recover` recovers the payers of some envelopes, whose indexes in the batch it gets too.
    fn check_by(
        &self,
        batch: Vec<Bytes>,
        recover: impl FnOnce(Vec<SignatureClaim>, &[usize]) -> Vec<RecoveredPayer>,
    ) -> Vec<VerifyResult> {
        // Claims are collected first, recovered in one call, and matched with their envelopes by
        // order. An envelope that failed earlier has no claim, so each pass takes exactly one key
        // for each envelope that is still good; a key too few or too many would blame one
        // envelope for the signature of another.
        let opened: Vec<_> = batch.into_iter().map(|bytes| self.open(bytes)).collect();
        let good = || opened.iter().flatten();
        let digests = originator_digests(good().map(|(it, _)| &it.statement.as_bytes()[..]));
        let claim = |((_, signature), digest): (&(OpenedEnvelope, Signature), Digest)| {
            SignatureClaim { digest, signature: *signature, expected: Some(self.key) }
        };
        let claims: Vec<_> = good().zip(digests).map(claim).collect();
        let mut signers = recover_batch(&claims).into_iter();
        // An invented envelope is not parsed further, because it would cost memory for which no originator is
        // accountable.
        let read_signed = |slot: Result<(OpenedEnvelope, Signature), PeerViolation>| {
            let (envelope, _) = slot?;
            let signer = signers.next().expect("one claim for each opened envelope");
            #[cfg(feature = "faults")]
            let signer =
                if faults::is_on(SeededFault::UncheckedSignature) { Ok(self.key) } else { signer };
            if signer != Ok(self.key) {
                return Err(PeerViolation::ForgedSignature);
            }
            Ok(envelope.parse())
        };
        let signed: Vec<_> = opened.into_iter().map(read_signed).collect();
        // Payers come second: recovering the payer of a forged envelope would be wasted work that
        // a hostile peer could cause.
        let mut payers = payers(&signed, recover).into_iter();
        let result = |slot: Result<ParsedEnvelope, PeerViolation>| {
            let envelope = slot?;
            let payer = payers.next().expect("one payer for each signed envelope");
            Ok(self.entry(envelope, payer))
        };
        signed.into_iter().map(result).collect()
    }

    /// Returns the validity of an envelope of the log by its bytes. Its originator's signature was checked before it
    /// was stored, and is not checked again.
    #[must_use]
    pub fn validity_of_stored(&self, bytes: &Bytes) -> Validity {
        self.validities_of_stored(vec![bytes.clone()]).pop().expect("one for each envelope")
    }

    /// Returns the validities of envelopes of the log, in their order, as
    /// [`validity_of_stored`](Self::validity_of_stored) does. Costs one signature recovery for each, and less the
    /// larger the batch.
    #[must_use]
    pub fn validities_of_stored(&self, batch: Vec<Bytes>) -> Vec<Validity> {
        let parse = |bytes| self.open(bytes).map(|(opened, _)| opened.parse());
        let envelopes: Vec<_> = batch.into_iter().map(parse).collect();
        let mut payers = payers(&envelopes, |claims, _| recover_similar(claims)).into_iter();
        let validity = |envelope: Result<ParsedEnvelope, PeerViolation>| match envelope {
            Ok(envelope) => {
                let payer = payers.next().expect("one payer for each envelope that is read");
                self.entry(envelope, payer).validity
            }
            Err(_) => Validity::Invalid(facts::mark_of(RuleNumber::UNDECODABLE)),
        };
        envelopes.into_iter().map(validity).collect()
    }

    /// Opens the outer layer of an envelope. Returns its signature, too, which is not checked.
    fn open(&self, bytes: Bytes) -> Result<(OpenedEnvelope, Signature), PeerViolation> {
        let (statement, proof) =
            OriginatorEnvelope::open(bytes.clone()).map_err(|_| PeerViolation::NotCanonical)?;
        self.opened(bytes, statement, proof)
    }

    /// Reads the statement of an envelope whose outer layer is open. Returns the signature, too, which is not checked.
    fn opened(
        &self,
        bytes: Bytes,
        statement: Bytes,
        proof: Proof,
    ) -> Result<(OpenedEnvelope, Signature), PeerViolation> {
        let Proof::Signature(signature) = proof else { return Err(PeerViolation::ChainProof) };
        // A statement whose payer layers are malformed still has a place that its signer can be
        // held to.
        let statement =
            OpenedStatement::read(statement).map_err(|_| PeerViolation::NotCanonical)?;
        let id = statement.id();
        if id.originator != self.originator {
            return Err(PeerViolation::WrongOriginator);
        }
        if id.sequence == SequenceId::NONE || id.sequence > SequenceId::MAX {
            return Err(PeerViolation::OutOfOrder); // no strand has such a place
        }
        Ok((OpenedEnvelope { bytes, statement }, signature))
    }

    fn entry(&self, envelope: ParsedEnvelope, payer: Result<PayerAddress, Violation>) -> LogEntry {
        let ParsedEnvelope { bytes, id, originator_ns, inner } = envelope;
        let read = check_length(bytes.len()).and_then(|()| Ok(inner.read()?));
        let statement = match read {
            Ok(statement) => statement,
            Err(violation) => {
                let judged = self.absences.judge(originator_ns, Err(violation));
                let violation = judged.expect_err("an absence excuses nothing");
                let entry = LogEntry::invalid(id, bytes, facts::mark_of(rule(&violation)));
                // Other software may have read it from a payer, who owes for it then.
                let facts = facts::of_stored(&entry.bytes, entry.validity, self.own);
                return LogEntry { facts, ..entry };
            }
        };
        let judged = check_statement(&statement, payer.clone(), &self.key);
        match self.absences.judge(originator_ns, judged) {
            Ok(()) => {
                LogEntry::valid(id, bytes, facts::of_statement(&statement, payer.ok(), self.own))
            }
            Err(violation) => {
                let rule = rule(&violation);
                let facts = facts::of_marked(&statement, payer.ok(), rule);
                LogEntry { facts, ..LogEntry::invalid(id, bytes, facts::mark_of(rule)) }
            }
        }
    }
}

/// Recovers the payer of each envelope that is signed, in order. `recover` gets their indexes too.
fn payers(
    signed: &[Result<ParsedEnvelope, PeerViolation>],
    recover: impl FnOnce(Vec<SignatureClaim>, &[usize]) -> Vec<RecoveredPayer>,
) -> Vec<Result<PayerAddress, Violation>> {
    // The digests of those that are held are made together. Long ones have their claims already.
    let held = signed.iter().flatten().filter_map(|envelope| envelope.inner.held_payer());
    let held: Vec<&PayerEnvelope> = held.collect();
    let mut of_held = payer_claims(&held).into_iter();
    let (mut claims, mut indexes, mut claimed) = (Vec::new(), Vec::new(), Vec::new());
    for (index, envelope) in signed.iter().enumerate() {
        let Ok(envelope) = envelope else { continue };
        let claim = match &envelope.inner {
            InnerLayers::Held(Ok(_)) => of_held.next().expect("one for each that is held"),
            // Never reported: the error of the layer itself comes first.
            InnerLayers::Held(Err(_)) => Err(Violation::PayerSignatureMissing),
            InnerLayers::Long { claim, .. } => claim.clone(),
        };
        claimed.push(claim.map(|claim| {
            claims.push(claim);
            indexes.push(index);
        }));
    }
    let mut recovered = accounts(recover(claims, &indexes));
    let mut resolve = || recovered.next().expect("one for each claim").map_err(Violation::from);
    claimed.into_iter().map(|claimed| claimed.and_then(|()| resolve())).collect()
}

fn rule(violation: &Violation) -> RuleNumber {
    violation.rule().expect("each rule of a statement has a number")
}
