//! Reports and attestations in the strands of nodes.

use std::collections::{BTreeMap, HashMap};

use hawser_proto::envelope::{OriginatorEnvelope, Payload};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PublicKey, SequenceId, Topic};
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
    pub(crate) fn is_attested_by(&self, node: OriginatorId) -> bool {
        self.attestations.iter().any(|it| it.node == node)
    }
}

/// Reads the newest reports about an originator, and their attestations, from the strands of `writers`. Skips
/// reports that are malformed, longer than any report, about another originator than their topic, or in the name of
/// another node than their writer. An envelope that cannot be read counts as not held.
///
/// # Errors
/// When a row of the topics cannot be read.
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

/// A part of a search for a node's attestations of reports about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttestationSearch {
    /// The last place that was searched.
    pub(crate) searched: SequenceId,
    /// The number of envelopes of the topic that were looked at.
    pub(crate) read: usize,
    /// The places of the first attestations of the reports that were found.
    pub(crate) places: HashMap<ReportId, SequenceId>,
    /// The first damage of the topic's rows that was passed over. The attestations in these rows are not found.
    pub(crate) passed_over: Option<ReadError>,
}

/// Looks for the envelopes with which a node has attested reports about itself, behind a place of its strand. `wanted`
/// are the reports, each with the place behind which an attestation counts. Looks at no more than `attestations_max`
/// envelopes of the topic, so that others which the node writes there delay the search, and do not end it. Passes over
/// attestations that another key than the node's has signed, over envelopes that cannot be read, and over rows of the
/// topic that the disk has damaged, which count as one.
///
/// # Errors
/// When a row of the topics cannot be read, and not because of damage.
pub(crate) fn attestations_behind(
    snapshot: &Snapshot<'_>,
    after: EnvelopeId,
    wanted: &HashMap<ReportId, SequenceId>,
    key: &PublicKey,
    attestations_max: usize,
) -> Result<AttestationSearch, ReadError> {
    let node = after.originator;
    let topic = Topic::payer_report_attestations(node);
    let mut search = AttestationSearch {
        searched: after.sequence,
        read: 0,
        places: HashMap::new(),
        passed_over: None,
    };
    let mut scan = snapshot.topics();
    let mut row = scan.seek(topic.as_bytes(), EnvelopeId::new(node, after.sequence.next()));
    while search.read < attestations_max {
        let found = match row {
            Ok(found) => found.filter(|row| row.id.originator == node),
            Err(error) if error.is_damage() => {
                search.read += 1;
                search.passed_over = search.passed_over.or(Some(error));
                let damaged = EnvelopeId::new(node, search.searched.next());
                let behind = snapshot.topic_readable_behind(topic.as_bytes(), damaged)?;
                let Some(behind) = behind else { break };
                search.searched = behind.sequence.previous();
                scan = snapshot.topics();
                row = scan.seek(topic.as_bytes(), behind);
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(found) = found else { break };
        search.read += 1;
        let at = found.id.sequence;
        if found.len_bytes <= ENVELOPE_LEN_BYTES_MAX
            && let Some(envelope) = readable(snapshot, found.id).and_then(parsed)
            && let Some(attestation) = attestation_of(&envelope)
            && attestation.node == node
            && wanted.get(&attestation.report).is_some_and(|searched| at > *searched)
            && attestation.verify(key).is_ok()
        {
            search.places.entry(attestation.report).or_insert(at);
        }
        search.searched = at;
        row = scan.next_row();
    }
    Ok(search)
}

/// Returns the attestation that an envelope carries, if it is one.
fn attestation_of(envelope: &OriginatorEnvelope) -> Option<Attestation> {
    let payload = envelope.unsigned().payer().client().payload();
    let Payload::PayerReportAttestation(message) = payload else { return None };
    Attestation::from_message(message).ok()
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
                && let Some(envelope) = readable(snapshot, found.id).and_then(parsed)
            {
                each(found.id, envelope.unsigned().payer().client().payload());
            }
            row = scan.previous_row()?;
        }
    }
    Ok(())
}

/// Returns an envelope that is held. One that the disk has damaged counts as not held: otherwise it would hide all
/// reports about its originator, for as long as it is among the newest ones of its writer.
fn readable(snapshot: &Snapshot<'_>, at: EnvelopeId) -> Option<Bytes> {
    snapshot.get(at).unwrap_or_default()
}

fn parsed(bytes: Bytes) -> Option<OriginatorEnvelope> {
    OriginatorEnvelope::parse(bytes).ok()
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::envelope::{PayerEnvelope, Proof};
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_proto::sign::originator_digest;
    use hawser_storage::{Change, LogEntry, Validity};
    use prost::Message as _;

    use super::*;
    use crate::facts;
    use crate::read::testing;

    const NODE: OriginatorId = OriginatorId(200);
    const REPORT: ReportId = ReportId([1; 32]);

    fn secret(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32]).unwrap()
    }

    /// Returns the envelope at a place of the node's strand that carries an attestation.
    fn carrying(at: u64, attestation: Attestation) -> Change {
        let client = attestation.client_envelope(NODE);
        let paid = PayerEnvelope::sign(client, NODE, 60, &secret(2)).encode_to_vec();
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: NODE.0,
            originator_sequence_id: at,
            originator_ns: 1,
            payer_envelope_bytes: paid.into(),
            ..Default::default()
        };
        let statement = Bytes::from(statement.encode_to_vec());
        let signature = secret(2).sign(originator_digest(&statement));
        let bytes = OriginatorEnvelope::encode(statement, Proof::Signature(signature));
        let facts = facts::of_stored(&bytes, Validity::Valid, OriginatorId(100));
        let id = EnvelopeId::new(NODE, SequenceId(at));
        Change::Append(LogEntry { id, bytes, validity: Validity::Valid, facts })
    }

    #[test]
    fn a_search_for_an_attestation_goes_on_where_it_ended_and_passes_over_what_others_signed() {
        let store = testing::store();
        let own = Attestation::sign(REPORT, NODE, &secret(2));
        let of_other = Attestation::sign(ReportId([7; 32]), NODE, &secret(2));
        let by_other = Attestation::sign(REPORT, NODE, &secret(3));
        let strand = [own, by_other, of_other, own, of_other];
        let changes = (1..).zip(strand).map(|(at, attestation)| carrying(at, attestation));
        store.commit(&changes.collect::<Vec<_>>()).unwrap();
        let snapshot = store.snapshot();
        let searched = |after, attestations_max| {
            let (after, key) = (SequenceId(after), secret(2).public_key());
            let wanted = HashMap::from([(REPORT, after), (ReportId([8; 32]), after)]);
            let after = EnvelopeId::new(NODE, after);
            attestations_behind(&snapshot, after, &wanted, &key, attestations_max).unwrap()
        };
        let expected = |searched, read, found: Option<u64>| AttestationSearch {
            searched: SequenceId(searched),
            read,
            places: found.map(|at| (REPORT, SequenceId(at))).into_iter().collect(),
            passed_over: None,
        };
        assert_eq!(searched(0, 9), expected(5, 5, Some(1)), "the first one");
        assert_eq!(searched(1, 2), expected(3, 2, None), "it goes on behind");
        assert_eq!(searched(3, 1), expected(4, 1, Some(4)));
        assert_eq!(searched(4, 9), expected(5, 1, None));
    }
}
