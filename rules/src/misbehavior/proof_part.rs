//! The part of a proven report on which the proof rests.

use std::collections::BTreeSet;

use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api::unsigned_misbehavior_report::Failure;

use super::exhibits;
use super::judgement::{Judgement, MisbehaviorVerdict};
use super::report::{MisbehaviorKind, Report};
use super::window;
use crate::registry::Registry;

/// Returns a proven report without the envelopes that its proof does not need: all but that of the place that breaks
/// the rule, or for a congestion fee all that the accused did not sign. Of a statement that the report repeats it keeps
/// the first copy. The judgement on the rest is the same. Returns `None` if the report proves nothing, or if its kind
/// needs all envelopes of a report.
///
/// Recovers one signature for each envelope.
#[must_use]
pub fn proof_part(report: &Report, judgement: &Judgement, registry: &Registry) -> Option<Report> {
    let has_others =
        matches!(report.kind(), MisbehaviorKind::CausalOrdering | MisbehaviorKind::InvalidPayload);
    if judgement.verdict != MisbehaviorVerdict::Proven || !has_others {
        return None;
    }
    let place = judgement.facts.first()?.at?;
    let is_of_window = judgement.detail() == window::RULE;
    let is_of_proof = |envelope: &OriginatorEnvelope| {
        let opened = exhibits::open_each(std::slice::from_ref(envelope), registry);
        opened
            .iter()
            .any(|it| it.is_signed_by(report.accused()) && (is_of_window || it.id == place))
    };
    let mut kept: BTreeSet<Bytes> = BTreeSet::new();
    let mut message = report.clone().into_message();
    if let Some(Failure::Safety(failure)) = &mut message.failure {
        failure.envelopes.retain(|envelope| {
            is_of_proof(envelope) && kept.insert(envelope.unsigned_originator_envelope.clone())
        });
    }
    Report::of_message(message).ok()
}
