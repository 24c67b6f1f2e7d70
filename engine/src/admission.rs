//! Admission of payer envelopes: every check that needs no order. Stateless, so that all cores can
//! run it at once.

use std::collections::BTreeMap;

use hawser_proto::batch::{SignatureClaim, accounts, recover_grouped};
use hawser_proto::envelope::{ClientEnvelope, LayerError, PayerEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Address, Bytes, Cursor, EnvelopeId, OriginatorId, SequenceId, Signature};
use hawser_rules::{
    PriceError, Violation, check_dependencies_known, check_dependencies_on_chains, check_payload,
    check_retention, check_topic,
};

use crate::facts;
use crate::sequencer::Admitted;

/// Upper bound of bytes in payloads that consist of many small messages: identity updates and
/// reports. A guess. A node refuses both in any case, and decoded they take up to some hundred
/// times as much memory, so larger ones are not decoded just to refuse them by their kind.
const STRUCTURED_LEN_BYTES_MAX: usize = 16 * 1024;
/// The maximum number of refused envelopes that the text for the publisher names. A guess: a publisher with more has
/// one mistake in all of them.
const NAMED_MAX: usize = 20;
/// The maximum number of originators of one envelope for which a refusal states this node's last place. A guess: the
/// strands of the chain and of the older network are five.
const SEEN_MAX: usize = 8;
/// The machine-readable name of the refusal of an envelope that was published before and has
/// expired.
const PUBLISHED_BEFORE: &str = "PUBLISHED_BEFORE";
/// The machine-readable name of the refusal of an envelope whose price cannot be computed.
const NO_PRICE: &str = "NO_PRICE";
const PUBLISHED_BEFORE_TEXT: &str = "it was published before, and has expired since";

/// The author of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// A payer that calls the API. It cannot write to reserved topics, not even envelopes that this node has signed.
    Payer,
    /// This node itself, which writes to reserved topics only.
    ThisNode,
}

/// The node's state that a publish is checked against, besides the rules.
pub struct AdmissionContext<'a> {
    /// The id of this node, which envelopes have to name as their target.
    pub node: OriginatorId,
    /// The author of the request.
    pub writer: Writer,
    /// This node's head of every strand.
    pub seen: &'a Cursor,
    /// Judges the TLS bytes of a key package; an error is a sentence for the publisher.
    pub key_package: &'a dyn Fn(&Bytes) -> Result<(), String>,
    /// Returns the latest time of these chain envelopes, unix nanoseconds; `None` if all of them
    /// are certainly earlier than this node's clock.
    pub later_ns: &'a dyn Fn(&[EnvelopeId]) -> Option<i64>,
}

/// The refusal of one envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct EnvelopeAdmissionError {
    /// The rule that the envelope breaks.
    pub violation: Violation,
    /// If that rule is about dependencies: the last sequence id that this node has of each originator that the envelope
    /// depends on, 0 for none, by originator ascending; of the first 8. Empty otherwise.
    pub seen: Vec<EnvelopeId>,
}

impl From<Violation> for EnvelopeAdmissionError {
    fn from(violation: Violation) -> Self {
        Self { violation, seen: Vec::new() }
    }
}

impl EnvelopeAdmissionError {
    /// Refuses an envelope that breaks a rule, with this node's places if the rule is about dependencies.
    fn of(context: &AdmissionContext<'_>, client: &ClientEnvelope, violation: Violation) -> Self {
        let is_of_dependency = matches!(
            violation,
            Violation::DependsOnNode(_)
                | Violation::DependencyUnseen(_)
                | Violation::DependencyAhead { .. }
        );
        if !is_of_dependency {
            return violation.into();
        }
        let named = client.depends_on().iter().take(SEEN_MAX).map(|needed| needed.originator);
        let seen =
            named.map(|originator| EnvelopeId::new(originator, context.seen.get(originator)));
        Self { violation, seen: seen.collect() }
    }
}

/// Checks envelopes of one request, in their order. Costs one signature recovery for each, and less for 25 and more of
/// one payer.
#[must_use]
pub fn admit(
    context: &AdmissionContext<'_>,
    envelopes: Vec<pb::PayerEnvelope>,
) -> Vec<Result<Admitted, EnvelopeAdmissionError>> {
    let opened: Vec<_> = envelopes.into_iter().map(|envelope| open(context, envelope)).collect();
    // All signatures go into one call. Envelopes that were refused already have no claim, so the
    // payers come back in the order of the envelopes that were opened, and each of those takes one.
    let signed: Vec<_> = opened.iter().flatten().map(|(envelope, _)| envelope).collect();
    let digests = PayerEnvelope::digests(&signed);
    let claims: Vec<_> = opened
        .iter()
        .flatten()
        .zip(&digests)
        .map(|((_, signature), digest)| SignatureClaim {
            digest: *digest,
            signature: *signature,
            expected: None,
        })
        .collect();
    // A request of several payers is refused, so all signatures are expected to be those of the first one's payer.
    let one_group = vec![(); claims.len()];
    let mut payers = accounts(recover_grouped(claims, &one_group)).zip(digests);
    opened
        .into_iter()
        .map(|opened| {
            let (envelope, _) = opened?;
            let (payer, digest) = payers.next().expect("a claim for each opened envelope");
            let payer = payer.map_err(Violation::from)?;
            check_rules(context, &envelope).map_err(|violation| {
                EnvelopeAdmissionError::of(context, envelope.client(), violation)
            })?;
            let receipt = facts::receipt(digest, payer);
            let depends_on_ns = (context.later_ns)(envelope.client().depends_on());
            Ok(Admitted { envelope, payer, receipt, depends_on_ns })
        })
        .collect()
}

/// Runs the checks before the payer is known: structure, target, presence of a signature.
fn open(
    context: &AdmissionContext<'_>,
    mut envelope: pb::PayerEnvelope,
) -> Result<(PayerEnvelope, Signature), Violation> {
    let structured = ClientEnvelope::structured_len_bytes(&envelope.unsigned_client_envelope);
    if structured > STRUCTURED_LEN_BYTES_MAX {
        return Err(refused_unread(context, &envelope, structured));
    }
    let signature = envelope.payer_signature.as_ref().map(|it| Signature::from_bytes(&it.bytes));
    if matches!(signature, Some(Err(_))) {
        // It is not copied: a signature may be as long as a request. The envelope is refused for it below, unless an
        // earlier rule refuses it.
        envelope.payer_signature = None;
    }
    let envelope = PayerEnvelope::from_message(envelope)?;
    if envelope.target() != context.node {
        return Err(Violation::Target);
    }
    Ok((envelope, signature.ok_or(Violation::PayerSignatureMissing)??))
}

/// Returns the rule that refuses an envelope with so long a payload of many small messages, which is not decoded for
/// it. No payer may publish a payload of these kinds, whatever its length is.
fn refused_unread(
    context: &AdmissionContext<'_>,
    envelope: &pb::PayerEnvelope,
    structured_len_bytes: usize,
) -> Violation {
    if OriginatorId(envelope.target_originator) != context.node {
        return Violation::Target;
    }
    let Some(signature) = &envelope.payer_signature else {
        return Violation::PayerSignatureMissing;
    };
    if let Err(error) = Signature::from_bytes(&signature.bytes) {
        return error.into();
    }
    match context.writer {
        Writer::ThisNode => LayerError::TooLong(structured_len_bytes).into(),
        Writer::Payer
            if ClientEnvelope::has_identity_update(&envelope.unsigned_client_envelope) =>
        {
            Violation::IdentityUpdate
        }
        Writer::Payer => Violation::Reserved,
    }
}

/// Runs the checks after it, in the order that publishers rely on (`docs/protocol/rules.md`, At
/// publish).
fn check_rules(context: &AdmissionContext<'_>, envelope: &PayerEnvelope) -> Result<(), Violation> {
    let client = envelope.client();
    check_topic(client)?;
    check_dependencies_on_chains(client)?;
    check_dependencies_known(client, |originator| context.seen.get(originator).0)?;
    check_retention(envelope.retention_days())?;
    match context.writer {
        Writer::ThisNode if client.topic().kind().is_reserved() => Ok(()),
        Writer::ThisNode => Err(Violation::Reserved),
        Writer::Payer => check_payload(client, context.key_package),
    }
}

/// Reasons for which a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct AdmissionError {
    /// The text for the publisher, with a line for each of the first refused envelopes. Publishers match on it.
    pub text: String,
    /// The same envelopes, for programs. Empty if the request is at fault and no single envelope.
    pub envelopes: Vec<RefusedEnvelope>,
    /// For each originator on which an envelope depends that is refused for a dependency: the last sequence id that
    /// this node has, 0 for none.
    pub seen: BTreeMap<OriginatorId, SequenceId>,
}

/// An envelope of a request that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedEnvelope {
    /// The place in the request, from 0.
    pub index: usize,
    /// The machine-readable name of the rule, which never changes.
    pub rule: &'static str,
    /// The rule and what breaks it, for people.
    pub text: String,
}

impl AdmissionError {
    /// Refuses a request as a whole.
    pub(crate) fn of_request(text: impl Into<String>) -> Self {
        Self { text: text.into(), envelopes: Vec::new(), seen: BTreeMap::new() }
    }

    /// Refuses a request because its envelope at this place has no price. The text is that of the error alone, which
    /// publishers match.
    pub(crate) fn of_price(index: usize, error: PriceError) -> Self {
        let text = error.to_string();
        Self {
            text: text.clone(),
            envelopes: vec![RefusedEnvelope { index, rule: NO_PRICE, text }],
            seen: BTreeMap::new(),
        }
    }

    /// Refuses a request because its envelopes at these places were published before and have expired since; `None` if
    /// there are none.
    pub(crate) fn of_expired(indexes: impl IntoIterator<Item = usize>) -> Option<Self> {
        let (mut envelopes, mut refused) = (Vec::new(), 0);
        for index in indexes {
            refused += 1;
            if envelopes.len() < NAMED_MAX {
                let (rule, text) = (PUBLISHED_BEFORE, PUBLISHED_BEFORE_TEXT.to_owned());
                envelopes.push(RefusedEnvelope { index, rule, text });
            }
        }
        let text = text_of(&lines_of(&envelopes, refused));
        (refused > 0).then_some(Self { text, envelopes, seen: BTreeMap::new() })
    }
}

/// Returns the lines that name refused envelopes. `envelopes` are the first of all `refused` ones.
fn lines_of(envelopes: &[RefusedEnvelope], refused: usize) -> Vec<String> {
    let lines = envelopes.iter().map(|RefusedEnvelope { index, text, .. }| {
        format!("could not validate envelope. index {index}: invalid_argument: {text}")
    });
    let mut lines: Vec<String> = lines.collect();
    if refused > lines.len() {
        lines.push(format!("and {} more", refused - lines.len()));
    }
    lines
}

fn text_of(lines: &[String]) -> String {
    format!("error processing payer envelopes:{}", lines.join("\n"))
}

/// Joins the results of [`admit`] for one request: a request is admitted as a whole or not at all.
///
/// # Errors
/// [`AdmissionError`].
pub fn conclude(
    results: impl IntoIterator<Item = Result<Admitted, EnvelopeAdmissionError>>,
) -> Result<Vec<Admitted>, AdmissionError> {
    let results = results.into_iter();
    // An envelope is some hundred bytes long here, and a list that grows begins with room for four.
    let mut admitted = Vec::with_capacity(results.size_hint().0);
    let mut seen = BTreeMap::new();
    let (mut envelopes, mut refused) = (Vec::new(), 0);
    for (index, result) in results.enumerate() {
        match result {
            Ok(envelope) => admitted.push(envelope),
            Err(refusal) => {
                refused += 1;
                if envelopes.len() < NAMED_MAX {
                    let EnvelopeAdmissionError { violation, seen: of_envelope } = refusal;
                    let (rule, text) = (violation.name(), violation.to_string());
                    envelopes.push(RefusedEnvelope { index, rule, text });
                    for EnvelopeId { originator, sequence } in of_envelope {
                        // Later parts of a request may be checked against later heads.
                        let newest: &mut SequenceId = seen.entry(originator).or_default();
                        *newest = sequence.max(*newest);
                    }
                }
            }
        }
    }
    let mut named = lines_of(&envelopes, refused);
    if !has_one_payer(&admitted) {
        named.push("all envelopes in a request must be from the same payer".into());
    }
    if named.is_empty() {
        Ok(admitted)
    } else {
        Err(AdmissionError { text: text_of(&named), envelopes, seen })
    }
}

fn has_one_payer(admitted: &[Admitted]) -> bool {
    let payers = || admitted.iter().map(|admitted| admitted.payer);
    payers().next().is_none_or(|first: Address| payers().all(|payer| payer == first))
}
