//! Reports and attestations in the strands of nodes.

use std::collections::BTreeMap;

use hawser_proto::envelope::{OriginatorEnvelope, Payload};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId, Topic};
use hawser_rules::payer_report::{Attestation, DomainSeparator, PayerReport, ReportId};
use hawser_storage::{ReadError, Snapshot};

/// The newest envelopes of one node on one topic that are looked at. A guess: a node writes few that count, and one
/// that floods the topic hides only its own. The others' work for it stays bounded.
const READ_OF_A_NODE: usize = 32;
/// The length of the longest envelope that is read. Calculated: a report that lists 255 nodes takes 1,600 bytes. A
/// longer one is no report, and may take 25 MiB.
const ENVELOPE_LEN_BYTES_MAX: u32 = 4096;

/// A report that at least one node has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldReport {
    /// Its id.
    pub id: ReportId,
    /// The report.
    pub report: PayerReport,
    /// The envelopes that hold it, in the order of their writers.
    pub written: Vec<EnvelopeId>,
    /// Attestations of the report that are among the newest of their nodes. Their signatures are not verified.
    pub attestations: Vec<Attestation>,
}

impl HeldReport {
    /// Returns true if there is an attestation in the node's name. Its signature is not verified.
    #[must_use]
    pub fn is_attested_by(&self, node: OriginatorId) -> bool {
        self.attestations.iter().any(|it| it.node == node)
    }
}

/// Reads the newest reports about an originator, and their attestations, from the strands of `writers`. Skips
/// reports that are malformed, longer than any report, about another originator than their topic, or in the name of
/// another node than their writer.
///
/// # Errors
/// When a row cannot be read.
pub fn held_reports(
    snapshot: &Snapshot<'_>,
    domain: DomainSeparator,
    about: OriginatorId,
    writers: &[OriginatorId],
) -> Result<Vec<HeldReport>, ReadError> {
    let mut reports: BTreeMap<ReportId, HeldReport> = BTreeMap::new();
    newest(snapshot, &Topic::payer_reports(about), writers, |at, payload| {
        let Payload::PayerReport(message) = payload else { return };
        let Ok(report) = PayerReport::from_message(message) else { return };
        if report.originator() != about {
            return;
        }
        let id = report.id(domain);
        let new = HeldReport { id, report, written: Vec::new(), attestations: Vec::new() };
        reports.entry(id).or_insert(new).written.push(at);
    })?;
    newest(snapshot, &Topic::payer_report_attestations(about), writers, |at, payload| {
        let Payload::PayerReportAttestation(message) = payload else { return };
        let Ok(attestation) = Attestation::from_message(message) else { return };
        if let Some(held) = reports.get_mut(&attestation.report)
            && attestation.node == at.originator
        {
            held.attestations.push(attestation);
        }
    })?;
    Ok(reports.into_values().collect())
}

/// Returns the envelope in a node's strand with which it has attested a report about an originator, if it is among the
/// newest of the node on the topic.
///
/// # Errors
/// When a row cannot be read.
pub(crate) fn attestation_by(
    snapshot: &Snapshot<'_>,
    node: OriginatorId,
    report: ReportId,
    about: OriginatorId,
) -> Result<Option<Bytes>, ReadError> {
    let mut found = None;
    newest(snapshot, &Topic::payer_report_attestations(about), &[node], |at, payload| {
        let Payload::PayerReportAttestation(message) = payload else { return };
        let attestation = Attestation::from_message(message);
        if attestation.is_ok_and(|it| it.report == report && it.node == node) {
            found = found.or(Some(at));
        }
    })?;
    match found {
        Some(at) => snapshot.get(at),
        None => Ok(None),
    }
}

/// Calls `each` with the newest payloads of each writer on a topic.
fn newest(
    snapshot: &Snapshot<'_>,
    topic: &Topic,
    writers: &[OriginatorId],
    mut each: impl FnMut(EnvelopeId, &Payload),
) -> Result<(), ReadError> {
    for &writer in writers {
        let mut scan = snapshot.topics();
        let mut row =
            scan.seek_back(topic.as_bytes(), EnvelopeId::new(writer, SequenceId(u64::MAX)))?;
        for _ in 0..READ_OF_A_NODE {
            let Some(found) = row.filter(|row| row.id.originator == writer) else { break };
            if found.len_bytes <= ENVELOPE_LEN_BYTES_MAX
                && let Some(envelope) = snapshot.get(found.id)?.and_then(parsed)
            {
                each(found.id, envelope.unsigned().payer().client().payload());
            }
            row = scan.previous_row()?;
        }
    }
    Ok(())
}

fn parsed(bytes: Bytes) -> Option<OriginatorEnvelope> {
    OriginatorEnvelope::parse(bytes).ok()
}
