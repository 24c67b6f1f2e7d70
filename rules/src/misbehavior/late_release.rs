//! Late releases: envelopes that no payer report counts. Their originator attested a report about the end of their
//! minute, and showed them only afterwards.
//!
//! The contract takes any report that a majority has signed, also one that ends too early or names a wrong minute. So
//! a report alone proves nothing about its originator. The originator's own attestation does: it states the last paid
//! envelope of a minute. It is binding once the minute is over, because nodes of other software attest a minute that
//! still gets envelopes.

use hawser_proto::envelope::{Payload, UnsignedOriginatorEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, OriginatorId, PublicKey, minute_of};
use prost::Message as _;

use super::exhibits::{self, Exhibit, all_signed_by};
use super::judgement::{Fact, FaultJudgement, MisbehaviorVerdict};
use super::payload::payer_of;
use crate::envelope::{check_length, check_statement};
use crate::fees::is_owed;
use crate::payer_report::{Attestation, DomainSeparator, PayerReport, ReportId};
use crate::registry::Registry;

/// Time after the end of a minute from which an attestation is binding, in nanoseconds. A guess: nodes of other
/// software store an envelope within seconds of its time.
const OVER_NS: i64 = 10_000_000_000;

/// Returns the pieces of evidence about a late release: the domain separator of the contract followed by the report;
/// the envelope in which the originator attested it; the envelope at the end of its range; the late envelope.
#[must_use]
pub fn late_release_pieces(
    domain: DomainSeparator,
    report: &PayerReport,
    [attestation, end, late]: [Bytes; 3],
) -> Vec<Bytes> {
    let mut stated = domain.get().to_vec();
    stated.extend(report.to_message().encode_to_vec());
    vec![stated.into(), attestation, end, late]
}

/// Judges such pieces, and returns the accused if the report can be read.
pub(super) fn judge(
    pieces: &[Bytes],
    registry: &Registry,
) -> (Option<OriginatorId>, FaultJudgement) {
    let [stated, envelopes @ ..] = pieces else {
        return (None, FaultJudgement::refuted(Fact::malformed("there is no report")));
    };
    match read_report(stated) {
        Ok((report, id)) => {
            let ruling = judge_report(&report, id, envelopes, registry);
            (Some(report.originator()), ruling.unwrap_or_else(FaultJudgement::refuted))
        }
        Err(fact) => (None, FaultJudgement::refuted(fact)),
    }
}

/// Reads the report and computes its id.
fn read_report(stated: &Bytes) -> Result<(PayerReport, ReportId), Fact> {
    let malformed = |text: String| Fact::malformed(format!("the payer report: {text}"));
    let Some((word, message)) = stated.split_first_chunk::<32>() else {
        return Err(malformed("it is shorter than a domain separator".to_owned()));
    };
    let domain = DomainSeparator::new(*word);
    let domain = domain.ok_or_else(|| malformed("the domain separator is zero".to_owned()))?;
    let message = pb::PayerReport::decode(message).map_err(|error| malformed(error.to_string()))?;
    let report =
        PayerReport::from_message(&message).map_err(|error| malformed(error.to_string()))?;
    let id = report.id(domain);
    Ok((report, id))
}

fn judge_report(
    report: &PayerReport,
    id: ReportId,
    envelopes: &[Bytes],
    registry: &Registry,
) -> Result<FaultJudgement, Fact> {
    let accused = report.originator();
    let Some(record) = registry.node(accused).filter(|_| accused.is_node()) else {
        return Err(Fact::unknown_node(accused));
    };
    let opened = open(envelopes, registry, accused)?;
    let [attestation, end, late] = &opened[..] else {
        return Err(Fact::malformed("there are an attestation and two envelopes"));
    };
    check_attestation(attestation, id, accused, &record.public_key)?;
    let last_minute = minute_of(end.ns());
    let fact = |name, text: &str| {
        let fact = Fact::new(name, text).at(late.id).with("originator_ns", late.ns());
        fact.with("report_end", report.end().sequence.0).with("end_minute", last_minute)
    };
    if report.start() == report.end().sequence {
        return Err(fact("empty_report", "the report covers nothing"));
    }
    if end.id.sequence != report.end().sequence {
        return Err(fact("other_place", "the second envelope is not that at the report's end"));
    }
    if late.id.sequence <= end.id.sequence || minute_of(late.ns()) > last_minute {
        return Err(fact(
            "not_late",
            "the envelope is in the range of the report, or of a later minute",
        ));
    }
    if !is_charged(late, &record.public_key, registry) {
        return Err(fact("not_charged", "no payer owes for the envelope, so no report counts it"));
    }
    let attested_ns = attestation.ns();
    if minute_of(attested_ns.saturating_sub(OVER_NS)) <= last_minute {
        let text = "the originator attested the report before its last minute was over";
        let fact = fact("attested_early", text).with("attested_ns", attested_ns);
        return Ok(FaultJudgement::new(MisbehaviorVerdict::Claim, fact));
    }
    if !registry.has_been_member(accused) {
        // A registry file may lack absences. A node that is removed acknowledges envelopes until it learns of that.
        let text = "the originator is no longer in the network, and the registry does not say since when: if it had \
                    left before, no payer owes for the envelope";
        let fact = fact("unknown_absence", text).with("attested_ns", attested_ns);
        return Ok(FaultJudgement::new(MisbehaviorVerdict::Claim, fact));
    }
    let text = "the originator attested a report that ends before this envelope of the same minutes, so no \
                report counts it";
    let fact = fact("late_release", text).with("attested_ns", attested_ns);
    Ok(FaultJudgement::new(MisbehaviorVerdict::Proven, fact))
}

/// Opens the envelopes, each of which the accused has to have signed.
fn open(
    envelopes: &[Bytes],
    registry: &Registry,
    accused: OriginatorId,
) -> Result<Vec<Exhibit>, Fact> {
    let opened = exhibits::open_all(envelopes, registry)?;
    all_signed_by(&opened, accused)?;
    Ok(opened)
}

/// Checks that an envelope carries the accused's attestation of the report.
fn check_attestation(
    exhibit: &Exhibit,
    id: ReportId,
    accused: OriginatorId,
    key: &PublicKey,
) -> Result<(), Fact> {
    let fault = |text: String| Fact::new("not_attested", text).at(exhibit.id);
    let statement = UnsignedOriginatorEnvelope::parse(exhibit.statement.clone())
        .map_err(|error| fault(error.to_string()))?;
    let Payload::PayerReportAttestation(message) = statement.payer().client().payload() else {
        return Err(fault("the first envelope carries no attestation".to_owned()));
    };
    let attestation =
        Attestation::from_message(message).map_err(|error| fault(error.to_string()))?;
    if attestation.report != id || attestation.node != accused {
        let text = "the attestation is of another report, or in another node's name";
        return Err(fault(text.to_owned()));
    }
    attestation.verify(key).map_err(|error| fault(error.to_string()))
}

/// Returns true if a payer owes for the envelope beyond doubt: it breaks no rule, and its originator was in the
/// network.
fn is_charged(exhibit: &Exhibit, key: &PublicKey, registry: &Registry) -> bool {
    if check_length(exhibit.len_bytes).is_err()
        || registry.absences(exhibit.id.originator).cover(exhibit.ns())
    {
        return false;
    }
    let Ok(statement) = UnsignedOriginatorEnvelope::parse(exhibit.statement.clone()) else {
        return false;
    };
    let envelope = statement.payer();
    check_statement(&statement, payer_of(envelope), key).is_ok() && is_owed(envelope, None)
}
