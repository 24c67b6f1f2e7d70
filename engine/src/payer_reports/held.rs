//! Reports and attestations in the strands of nodes.

use std::collections::{BTreeMap, HashMap};

use hawser_proto::envelope::{OriginatorEnvelope, Payload};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PublicKey, SequenceId, Topic};
use hawser_rules::payer_report::{Attestation, DomainSeparator, PayerReport, ReportId};
use hawser_storage::{Family, ReadError, Snapshot, TopicRow};

/// The newest envelopes of one node on one topic that are looked at. A guess: a node writes few that count, and one
/// that floods the topic hides only its own. The others' work for it stays bounded.
const READ_OF_A_NODE: usize = 32;
/// The length of the longest envelope that is read. Calculated: a report that lists 255 nodes takes 1,600 bytes. A
/// longer one is no report, and may take 25 MiB.
const ENVELOPE_LEN_BYTES_MAX: u32 = 4096;
/// The places of the first part of a strand that is read beside damage. A guess: a node writes few reports in as many.
const PART_PLACES: u64 = 1 << 16;
/// The rows of such a part. One with as many is read in halves.
const PART_ROWS_MAX: usize = 2 * READ_OF_A_NODE;
/// The parts that are read. A guess: as parts grow twofold, they reach the begin of any strand. A node that spreads its
/// rows so that they do not hides its own.
const PARTS_MAX: usize = 256;

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

/// An envelope on a topic of reports that holds no report or attestation which counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UncountedEnvelope {
    /// Its place.
    pub at: EnvelopeId,
    /// The reason.
    pub why: String,
}

/// The reports about an originator that nodes have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldReports {
    /// The reports, in the order of their ids.
    pub reports: Vec<HeldReport>,
    /// The envelopes that were read and do not count. At most 64 of each node.
    pub uncounted: Vec<UncountedEnvelope>,
    /// The first failed read that was passed over. The reports and attestations that it would have read count as not
    /// held.
    pub passed_over: Option<SkippedRead>,
}

/// A failed read that a search for reports or attestations has passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedRead {
    /// The column family of the rows that cannot be read.
    pub family: Family,
    /// The error of the read.
    pub cause: ReadError,
}

/// Reads the newest reports about an originator, and their attestations, from the strands of `writers`. Those that are
/// malformed, about another originator than their topic, or in the name of another node than their writer do not count.
/// Skips envelopes that are longer than any report. Passes over rows of the topics and envelopes that the disk has
/// damaged. If `gives_up` is true, also passes over envelopes whose reads fail for another reason.
///
/// # Errors
/// When a row of the topics or an envelope cannot be read, and is not passed over. The next attempt may succeed.
pub fn held_reports(
    snapshot: &Snapshot<'_>,
    domain: DomainSeparator,
    about: OriginatorId,
    writers: &[OriginatorId],
    gives_up: bool,
) -> Result<HeldReports, ReadError> {
    let mut reports: BTreeMap<ReportId, HeldReport> = BTreeMap::new();
    let (mut passed_over, mut uncounted) = (None, Vec::new());
    let mut note = |at, why: String| uncounted.push(UncountedEnvelope { at, why });
    let topic = Topic::payer_reports(about);
    newest(snapshot, &topic, writers, gives_up, &mut passed_over, |at, payload| {
        let Payload::PayerReport(message) = payload else { return };
        let report = match PayerReport::from_message(message) {
            Ok(report) => report,
            Err(error) => return note(at, error.to_string()),
        };
        let stated = report.originator();
        if stated != about {
            let why =
                format!("the report is about originator {stated}, and its topic about {about}");
            return note(at, why);
        }
        let id = report.id(domain);
        let new = HeldReport { id, report, written: Vec::new(), attestations: Vec::new() };
        reports.entry(id).or_insert(new).written.push(at);
    })?;
    let topic = Topic::payer_report_attestations(about);
    newest(snapshot, &topic, writers, gives_up, &mut passed_over, |at, payload| {
        let Payload::PayerReportAttestation(message) = payload else { return };
        let attestation = match Attestation::from_message(message) {
            Ok(attestation) => attestation,
            Err(error) => return note(at, error.to_string()),
        };
        let (stated, writer) = (attestation.node, at.originator);
        if stated != writer {
            let why = format!("the attestation names node {stated}, and node {writer} wrote it");
            return note(at, why);
        }
        if let Some(held) = reports.get_mut(&attestation.report) {
            held.attestations.push(attestation);
        }
    })?;
    Ok(HeldReports { reports: reports.into_values().collect(), uncounted, passed_over })
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
    /// The first failed read that was passed over. The attestations that it would have read are not found.
    pub(crate) passed_over: Option<SkippedRead>,
}

/// Looks for the envelopes with which a node has attested reports about itself, behind a place of its strand. `wanted`
/// are the reports, each with the place behind which an attestation counts. Looks at no more than `attestations_max`
/// envelopes of the topic at a time, so that a node which writes many of them there delays the search, and does not end
/// it. Passes over attestations with a signature of another key, over unreadable envelopes, and over rows of the topic
/// that the disk has damaged, which count as one.
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
    let from = EnvelopeId::new(node, after.sequence.next());
    let (mut places, mut unreadable) = (HashMap::new(), None);
    let read = read_part(snapshot, &topic, from, SequenceId::MAX, attestations_max, |row| {
        let at = row.id.sequence;
        let envelope = envelope_of(snapshot, &row).unwrap_or_else(|cause| {
            unreadable.get_or_insert(in_log(cause));
            None
        });
        if let Some(envelope) = envelope
            && let Some(attestation) = attestation_of(&envelope)
            && attestation.node == node
            && wanted.get(&attestation.report).is_some_and(|searched| at > *searched)
            && attestation.verify(key).is_ok()
        {
            places.entry(attestation.report).or_insert(at);
        }
    })?;
    let TopicPart { rows, searched, passed_over } = read;
    let passed_over = passed_over.map(in_topic).or(unreadable);
    Ok(AttestationSearch { searched, read: rows, places, passed_over })
}

/// Returns the attestation that an envelope carries, if it is one.
fn attestation_of(envelope: &OriginatorEnvelope) -> Option<Attestation> {
    let payload = envelope.unsigned().payer().client().payload();
    let Payload::PayerReportAttestation(message) = payload else { return None };
    Attestation::from_message(message).ok()
}

/// Calls `each` with the newest payloads of each writer on a topic. Notes the first failed read that was passed over:
/// damage, and if `gives_up` is true, any envelope that cannot be read. A damaged envelope would otherwise hide all
/// reports about its originator, for as long as it is among the newest ones of its writer.
///
/// # Errors
/// When a row of the topic or an envelope cannot be read, and is not passed over.
fn newest(
    snapshot: &Snapshot<'_>,
    topic: &Topic,
    writers: &[OriginatorId],
    gives_up: bool,
    passed_over: &mut Option<SkippedRead>,
    mut each: impl FnMut(EnvelopeId, &Payload),
) -> Result<(), ReadError> {
    for &writer in writers {
        let rows = match newest_rows(snapshot, topic, writer) {
            Err(error) if error.is_damage() => {
                passed_over.get_or_insert(in_topic(error));
                newest_beside_damage(snapshot, topic, writer)?
            }
            rows => rows?,
        };
        for row in rows {
            match envelope_of(snapshot, &row) {
                Ok(Some(envelope)) => each(row.id, envelope.unsigned().payer().client().payload()),
                Ok(None) => {}
                Err(cause) if cause.is_damage() || gives_up => {
                    passed_over.get_or_insert(in_log(cause));
                }
                Err(cause) => return Err(cause),
            }
        }
    }
    Ok(())
}

/// Returns the newest rows that a node has on a topic, newest first.
///
/// # Errors
/// When a row cannot be read. One damaged block may be enough, however old its rows are: it may be the last one of the
/// topic in its file, and the scan begins in each file.
fn newest_rows(
    snapshot: &Snapshot<'_>,
    topic: &Topic,
    writer: OriginatorId,
) -> Result<Vec<TopicRow>, ReadError> {
    let mut scan = snapshot.topics();
    let last = EnvelopeId::new(writer, SequenceId(u64::MAX));
    let mut row = scan.seek_back(topic.as_bytes(), last)?;
    let mut rows = Vec::new();
    while let Some(found) = row.filter(|row| row.id.originator == writer) {
        rows.push(found);
        if rows.len() == READ_OF_A_NODE {
            break;
        }
        row = scan.previous_row()?;
    }
    Ok(rows)
}

/// Returns the newest rows that a node has on a topic, newest first, without those that the disk has damaged. Reads one
/// part of the strand after the other, the last one first, each from its begin on: in this direction damage hides only
/// rows of its own place in the strand.
fn newest_beside_damage(
    snapshot: &Snapshot<'_>,
    topic: &Topic,
    writer: OriginatorId,
) -> Result<Vec<TopicRow>, ReadError> {
    let (mut through, mut places) = (snapshot.head(writer)?, PART_PLACES);
    let mut newest = Vec::new();
    for _ in 0..PARTS_MAX {
        if through == SequenceId::NONE || newest.len() >= READ_OF_A_NODE {
            break;
        }
        let before = SequenceId(through.0.saturating_sub(places));
        let from = EnvelopeId::new(writer, before.next());
        let mut rows = Vec::new();
        let read = read_part(snapshot, topic, from, through, PART_ROWS_MAX, |row| rows.push(row))?;
        if read.rows == PART_ROWS_MAX && places > 1 {
            places /= 2;
            continue;
        }
        newest.extend(rows.into_iter().rev());
        (through, places) = (before, places.saturating_mul(2));
    }
    newest.truncate(READ_OF_A_NODE);
    Ok(newest)
}

/// The rows that a node has on a topic in a part of its strand, as far as they were read.
struct TopicPart {
    /// The number of rows. Damaged ones side by side count as one.
    rows: usize,
    /// The last place that was read or passed over.
    searched: SequenceId,
    /// The first damage that was passed over.
    passed_over: Option<ReadError>,
}

/// Calls `each` with the rows that a node has on a topic, from a place of its strand on and up to `through`, in their
/// order. Reads at most `rows_max` rows. Passes over rows that the disk has damaged.
///
/// # Errors
/// When a row cannot be read, and not because of damage.
fn read_part(
    snapshot: &Snapshot<'_>,
    topic: &Topic,
    from: EnvelopeId,
    through: SequenceId,
    rows_max: usize,
    mut each: impl FnMut(TopicRow),
) -> Result<TopicPart, ReadError> {
    let node = from.originator;
    let mut part = TopicPart { rows: 0, searched: from.sequence.previous(), passed_over: None };
    let mut scan = snapshot.topics();
    let mut row = scan.seek(topic.as_bytes(), from);
    while part.rows < rows_max {
        let found = match row {
            Ok(found) => found,
            Err(error) if error.is_damage() => {
                part.rows += 1;
                part.passed_over.get_or_insert(error);
                let damaged = EnvelopeId::new(node, part.searched.next());
                let behind = snapshot.topic_readable_behind(topic.as_bytes(), damaged)?;
                let Some(behind) = behind.filter(|behind| behind.sequence <= through) else {
                    break;
                };
                part.searched = behind.sequence.previous();
                scan = snapshot.topics();
                row = scan.seek(topic.as_bytes(), behind);
                continue;
            }
            Err(error) => return Err(error),
        };
        let is_of_part = |row: &TopicRow| row.id.originator == node && row.id.sequence <= through;
        let Some(found) = found.filter(is_of_part) else { break };
        part.rows += 1;
        part.searched = found.id.sequence;
        each(found);
        row = scan.next_row();
    }
    Ok(part)
}

fn in_topic(cause: ReadError) -> SkippedRead {
    SkippedRead { family: Family::Topic, cause }
}

fn in_log(cause: ReadError) -> SkippedRead {
    SkippedRead { family: Family::Log, cause }
}

/// Returns the envelope of a row, if it may be a report or an attestation.
fn envelope_of(
    snapshot: &Snapshot<'_>,
    row: &TopicRow,
) -> Result<Option<OriginatorEnvelope>, ReadError> {
    match row.len_bytes > ENVELOPE_LEN_BYTES_MAX {
        true => Ok(None),
        false => Ok(snapshot.get(row.id)?.and_then(parsed)),
    }
}

fn parsed(bytes: Bytes) -> Option<OriginatorEnvelope> {
    OriginatorEnvelope::parse(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hawser_proto::SecretKey;
    use hawser_proto::envelope::{PayerEnvelope, Proof};
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_proto::sign::originator_digest;
    use hawser_rules::payer_report::{NodeIds, RangeEnd};
    use hawser_storage::{Change, LogEntry, Store, Validity};
    use prost::Message as _;

    use super::*;
    use crate::facts;
    use crate::read::testing;

    const NODE: OriginatorId = OriginatorId(200);
    const REPORT: ReportId = ReportId([1; 32]);

    fn secret(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32]).unwrap()
    }

    /// Returns the envelope at a place of the node's strand that carries a report or an attestation.
    fn carrying(at: u64, client: Bytes) -> Change {
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
        let strand = strand.map(|attestation| attestation.client_envelope(NODE));
        let changes = (1..).zip(strand).map(|(at, client)| carrying(at, client));
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

    fn domain() -> DomainSeparator {
        DomainSeparator::of_contract(31337, [5; 20])
    }

    fn report(end: u64) -> PayerReport {
        let end = RangeEnd { minute: 1, sequence: SequenceId(end) };
        let nodes = NodeIds::new([NODE]).unwrap();
        PayerReport::new(NODE, SequenceId::NONE, end, [1; 32], nodes).unwrap()
    }

    fn damage(store: &Store, topic: &Topic, place: u64) {
        let topic = topic.as_bytes();
        let len = u16::try_from(topic.len()).unwrap();
        let (strand, place) = (NODE.0.to_be_bytes(), place.to_be_bytes());
        let row = [&len.to_be_bytes()[..], &topic[..], &strand, &place].concat();
        store.put_raw_row(Family::Topic, &row, b"damaged");
    }

    /// Returns the ends of the reports that are held, those of the attested ones, and the family that is damaged.
    fn held(store: &Store) -> (BTreeSet<u64>, BTreeSet<u64>, Option<Family>) {
        let held = held_reports(&store.snapshot(), domain(), NODE, &[NODE], false).unwrap();
        let end = |it: &HeldReport| it.report.end().sequence.0;
        let attested = held.reports.iter().filter(|it| it.is_attested_by(NODE)).map(end);
        let (all, attested) = (held.reports.iter().map(end).collect(), attested.collect());
        (all, attested, held.passed_over.map(|it| it.family))
    }

    #[test]
    fn what_does_not_count_is_named_with_its_reason_and_costs_no_other() {
        let store = testing::store();
        let message =
            pb::PayerReport { payers_merkle_root: vec![1; 31].into(), ..report(2).to_message() };
        let short = pb::ClientEnvelope {
            aad: Some(pb::AuthenticatedData {
                target_topic: Topic::payer_reports(NODE).into_bytes(),
                depends_on: None,
            }),
            payload: Some(Payload::PayerReport(message)),
        };
        let id = report(1).id(domain());
        let in_name_of =
            |node: u32| Attestation::sign(id, OriginatorId(node), &secret(2)).client_envelope(NODE);
        let short = Bytes::from(short.encode_to_vec());
        let strand = [report(1).client_envelope(), short, in_name_of(300), in_name_of(200)];
        let changes = (1..).zip(strand).map(|(at, client)| carrying(at, client));
        store.commit(&changes.collect::<Vec<_>>()).unwrap();
        assert_eq!(held(&store), (BTreeSet::from([1]), BTreeSet::from([1]), None));
        let held = held_reports(&store.snapshot(), domain(), NODE, &[NODE], false).unwrap();
        let named: Vec<_> =
            held.uncounted.iter().map(|it| (it.at.sequence.0, it.why.as_str())).collect();
        let expected = [
            (2, "the root has 31 bytes instead of 32"),
            (3, "the attestation names node 300, and node 200 wrote it"),
        ];
        assert_eq!(named, expected);
    }

    #[test]
    fn damaged_rows_of_the_topics_cost_themselves() {
        let store = testing::store();
        let written = (1..=9).map(|at| carrying(at, report(at).client_envelope()));
        let attested = (1..=9).map(|end| {
            let attestation = Attestation::sign(report(end).id(domain()), NODE, &secret(2));
            carrying(9 + end, attestation.client_envelope(NODE))
        });
        store.commit(&written.chain(attested).collect::<Vec<_>>()).unwrap();
        let all: BTreeSet<u64> = (1..=9).collect();
        assert_eq!(held(&store), (all.clone(), all, None));
        for place in [1, 4, 5, 9] {
            damage(&store, &Topic::payer_reports(NODE), place);
        }
        damage(&store, &Topic::payer_report_attestations(NODE), 9 + 6);
        let attested = BTreeSet::from([2, 3, 7, 8]);
        let reports = BTreeSet::from([2, 3, 6, 7, 8]);
        assert_eq!(held(&store), (reports, attested, Some(Family::Topic)));
    }

    #[test]
    fn the_newest_reports_are_read_beside_damage_too_however_many_there_are() {
        let store = testing::store();
        let written = (1..=300).map(|at| carrying(at, report(at).client_envelope()));
        store.commit(&written.collect::<Vec<_>>()).unwrap();
        assert_eq!(held(&store), ((269..=300).collect(), BTreeSet::new(), None));
        damage(&store, &Topic::payer_reports(NODE), 290);
        let expected = (268..=300).filter(|place| *place != 290).collect();
        assert_eq!(held(&store), (expected, BTreeSet::new(), Some(Family::Topic)));
    }
}
