//! Payer reports that contradict another one: that of the reporter, or a second one of their writer.
//!
//! Each is a claim. The amounts of a report follow from a log and a list of rates, and the report carries neither. A
//! node that lacks a place or a rate comes to other amounts, and writes a second report for the range once it has them.

use hawser_proto::envelope::{Payload, UnsignedOriginatorEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, Topic};
use prost::Message as _;

use super::exhibits::{self, Exhibit, Origin, all_signed_by};
use super::judgement::{Fact, FaultJudgement, MisbehaviorVerdict};
use super::payload::payer_of;
use crate::envelope::check_statement;
use crate::payer_report::PayerReport;
use crate::registry::Registry;

/// Returns the pieces of evidence about a report that differs from this node's own result: the envelope in which its
/// writer has signed it, and this node's report over the same range, if there can be one.
#[must_use]
pub fn other_report_pieces(envelope: Bytes, own: Option<&PayerReport>) -> Vec<Bytes> {
    let own = own.map(|own| Bytes::from(own.to_message().encode_to_vec()));
    std::iter::once(envelope).chain(own).collect()
}

/// A report in an envelope that its writer has signed.
struct WrittenReport {
    at: EnvelopeId,
    report: PayerReport,
}

impl WrittenReport {
    fn fact(&self, name: &'static str, text: &str) -> Fact {
        let (report, end) = (&self.report, self.report.end());
        Fact::new(name, text)
            .at(self.at)
            .with("about", report.originator().0)
            .with("report_start", report.start().0)
            .with("report_end", end.sequence.0)
            .with("end_minute", end.minute)
    }
}

/// Judges a report beside the one of the reporter, and returns the accused if the envelope is authentic.
pub(super) fn judge_other(
    pieces: &[Bytes],
    registry: &Registry,
) -> (Option<OriginatorId>, FaultJudgement) {
    let (envelopes, own) = pieces.split_at(pieces.len().min(1));
    let (accused, written) = open(envelopes, registry);
    let ruling = written.and_then(|written| {
        let [written] = &written[..] else {
            return Err(Fact::malformed("there is no envelope"));
        };
        beside(written, own.first().map(read_own).transpose()?.as_ref())
    });
    (accused, ruling.unwrap_or_else(FaultJudgement::refuted))
}

/// Judges two reports of one writer, and returns the accused if the envelopes are authentic.
pub(super) fn judge_two(
    pieces: &[Bytes],
    registry: &Registry,
) -> (Option<OriginatorId>, FaultJudgement) {
    let (accused, written) = open(pieces, registry);
    let ruling = written.and_then(|written| {
        let [one, other] = &written[..] else {
            return Err(Fact::malformed("two reports are exactly two envelopes"));
        };
        contradiction(one, other)
    });
    (accused, ruling.unwrap_or_else(FaultJudgement::refuted))
}

/// Judges a report beside the one of the reporter.
fn beside(written: &WrittenReport, own: Option<&PayerReport>) -> Result<FaultJudgement, Fact> {
    let report = &written.report;
    let text = "the reporter comes to another report, which is not signed";
    let mut found = written.fact("other_report", text);
    if let Some(own) = own {
        if (own.originator(), own.start()) != (report.originator(), report.start()) {
            let text =
                "the reporter's own report is about another originator, or starts at another place";
            return Err(written.fact("other_range", text));
        }
        if (own.end(), own.root()) == (report.end(), report.root()) {
            return Err(written.fact("same_report", "the reporter comes to the same report"));
        }
        let end = own.end();
        found = found.with("own_end", end.sequence.0).with("own_end_minute", end.minute);
    }
    Ok(FaultJudgement::new(MisbehaviorVerdict::Claim, found))
}

/// Judges two reports of one writer. The lists of nodes do not matter: the network may have changed in between. Neither
/// do other ends: the second of two reports from one place is written when the first one is given up, and has more
/// usage.
fn contradiction(one: &WrittenReport, other: &WrittenReport) -> Result<FaultJudgement, Fact> {
    let range = |it: &PayerReport| (it.originator(), it.start(), it.end().sequence);
    let fact = |name, text| {
        let fact: Fact = other.fact(name, text);
        fact.with("other_sequence", one.at.sequence.0)
    };
    if range(&one.report) != range(&other.report) {
        return Err(fact("other_range", "the reports are about two originators, or two ranges"));
    }
    let figures = |it: &PayerReport| (it.end().minute, it.root());
    if figures(&one.report) == figures(&other.report) {
        return Err(fact("same_report", "both reports have the same figures"));
    }
    let text = "the node signed two reports for one range, with other figures";
    Ok(FaultJudgement::new(MisbehaviorVerdict::Claim, fact("two_reports", text)))
}

/// Reads the reporter's own report.
fn read_own(own: &Bytes) -> Result<PayerReport, Fact> {
    let malformed = |text: String| Fact::malformed(format!("the reporter's own report: {text}"));
    let message =
        pb::PayerReport::decode(own.clone()).map_err(|error| malformed(error.to_string()))?;
    PayerReport::from_message(&message).map_err(|error| malformed(error.to_string()))
}

/// Opens envelopes of one node, each of which has to carry a report. Returns the node if they are authentic.
fn open(
    envelopes: &[Bytes],
    registry: &Registry,
) -> (Option<OriginatorId>, Result<Vec<WrittenReport>, Fact>) {
    let exhibits = match exhibits::open_all(envelopes, registry) {
        Ok(exhibits) => exhibits,
        Err(fact) => return (None, Err(fact)),
    };
    match exhibits.first().map(|first| first.id.originator) {
        Some(accused) => (Some(accused), reports_of(&exhibits, accused)),
        None => (None, Err(Fact::malformed("there is no envelope"))),
    }
}

/// Reads the report that each envelope carries.
fn reports_of(exhibits: &[Exhibit], accused: OriginatorId) -> Result<Vec<WrittenReport>, Fact> {
    if !accused.is_node() {
        return Err(Fact::unknown_node(accused));
    }
    all_signed_by(exhibits, accused)?;
    let read = |exhibit: &Exhibit| {
        let written = report_of(exhibit).map(|report| WrittenReport { at: exhibit.id, report });
        let text = "the envelope carries no payer report of its originator";
        written.ok_or_else(|| Fact::new("no_report", text).at(exhibit.id))
    };
    exhibits.iter().map(read).collect()
}

/// Returns the report that an envelope carries, if its originator wrote it by the rules.
fn report_of(exhibit: &Exhibit) -> Option<PayerReport> {
    let Origin::Signed(key) = exhibit.origin else { return None };
    let statement = UnsignedOriginatorEnvelope::parse(exhibit.statement.clone()).ok()?;
    let envelope = statement.payer();
    let client = envelope.client();
    let Payload::PayerReport(message) = client.payload() else { return None };
    let report = PayerReport::from_message(message).ok()?;
    let is_on_its_topic = *client.topic() == Topic::payer_reports(report.originator());
    let is_valid = check_statement(&statement, payer_of(envelope), &key).is_ok();
    (is_on_its_topic && is_valid).then_some(report)
}
