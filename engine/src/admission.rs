//! Which payer envelopes this node takes: every check that needs no order. Stateless, so that all
//! cores can do it at once.

use hawser_proto::envelope::{ClientEnvelope, LayerError, PayerEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::recover_batch;
use hawser_proto::{Address, Bytes, Cursor, EnvelopeId, OriginatorId, Signature};
use hawser_rules::{
    Violation, check_dependencies_known, check_dependencies_on_chains, check_payload,
    check_retention, check_topic,
};

use crate::facts;
use crate::sequencer::Admitted;

/// Identity updates and reports are refused here in any case; larger ones are not even decoded.
const STRUCTURED_LEN_BYTES_MAX: usize = 16 * 1024;

/// What a publish is checked against, besides the rules.
pub struct Context<'a> {
    /// This node.
    pub node: OriginatorId,
    /// How far this node is in every strand.
    pub seen: &'a Cursor,
    /// Judges key packages.
    pub key_package: &'a dyn Fn(&Bytes) -> Result<(), String>,
    /// The latest time of these chain envelopes, unix nanoseconds, if one of them may be later
    /// than the time it is here.
    pub later_ns: &'a dyn Fn(&[EnvelopeId]) -> Option<i64>,
}

/// Checks envelopes of one request, in order, signatures as one batch.
#[must_use]
pub fn admit(
    context: &Context<'_>,
    envelopes: Vec<pb::PayerEnvelope>,
) -> Vec<Result<Admitted, Violation>> {
    let opened: Vec<_> = envelopes.into_iter().map(|envelope| open(context, envelope)).collect();
    let claims: Vec<_> = opened
        .iter()
        .filter_map(|opened| opened.as_ref().ok())
        .map(|(envelope, signature)| (envelope.digest(), *signature))
        .collect();
    let mut payers = recover_batch(&claims).into_iter().zip(claims);
    opened
        .into_iter()
        .map(|opened| {
            let (envelope, _) = opened?;
            let (payer, (digest, _)) = payers.next().expect("a claim for each opened envelope");
            let payer = payer?.address();
            judge(context, &envelope)?;
            let receipt = facts::receipt(digest, payer);
            let depends_on_ns = (context.later_ns)(envelope.client().depends_on());
            Ok(Admitted { envelope, payer, receipt, depends_on_ns })
        })
        .collect()
}

/// Steps before the payer is known: structure, target, presence of a signature.
fn open(
    context: &Context<'_>,
    envelope: pb::PayerEnvelope,
) -> Result<(PayerEnvelope, Signature), Violation> {
    let structured = ClientEnvelope::structured_len_bytes(&envelope.unsigned_client_envelope);
    if structured > STRUCTURED_LEN_BYTES_MAX {
        return Err(LayerError::TooLong(structured).into());
    }
    let envelope = PayerEnvelope::from_message(envelope)?;
    if envelope.target() != context.node {
        return Err(Violation::Target);
    }
    let signature = envelope.signature_bytes().ok_or(Violation::PayerSignatureMissing)?;
    let signature = Signature::from_bytes(signature)?;
    Ok((envelope, signature))
}

/// Steps after it, in the order publishers rely on.
fn judge(context: &Context<'_>, envelope: &PayerEnvelope) -> Result<(), Violation> {
    let client = envelope.client();
    check_topic(client)?;
    check_dependencies_on_chains(client)?;
    check_dependencies_known(client, |originator| context.seen.get(originator).0)?;
    check_retention(envelope.retention_days())?;
    check_payload(client, context.key_package)
}

/// Joins what [`admit`] said of the envelopes of one request: all of them, or the reasons.
///
/// # Errors
/// The text for the publisher, a line per refused envelope.
pub fn conclude(
    results: impl IntoIterator<Item = Result<Admitted, Violation>>,
) -> Result<Vec<Admitted>, String> {
    let mut admitted = Vec::new();
    let mut refused = Vec::new();
    for (index, result) in results.into_iter().enumerate() {
        match result {
            Ok(envelope) => admitted.push(envelope),
            Err(violation) => refused.push(format!(
                "could not validate envelope. index {index}: invalid_argument: {violation}"
            )),
        }
    }
    if !one_payer(&admitted) {
        refused.push("all envelopes in a request must be from the same payer".into());
    }
    if refused.is_empty() {
        Ok(admitted)
    } else {
        Err(format!("error processing payer envelopes:{}", refused.join("\n")))
    }
}

fn one_payer(admitted: &[Admitted]) -> bool {
    let payers = || admitted.iter().map(|admitted| admitted.payer);
    payers().next().is_none_or(|first: Address| payers().all(|payer| payer == first))
}
