//! Payer reports and attestations that the disk has damaged: each costs itself.

use hawser_engine::facts;
use hawser_engine::payer_reports::held_reports;
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{Bytes, EnvelopeId, SequenceId};
use hawser_rules::payer_report::{Attestation, NodeIds, PayerReport, RangeEnd};
use hawser_storage::{Change, LogEntry, Validity};
use prost::Message as _;

use crate::common::{NODE, START_NS, rate, record_rates};
use crate::follow::{SOURCE, key, strand};
use crate::report_contract::domain;
use crate::scrub::Folder;

/// Places of the strand, some blocks: the first two and the last two have reports and attestations.
const PLACES: u64 = 90;

/// Returns the envelope at a place of the strand that carries a report or an attestation.
fn carrying(place: u64, client: Bytes) -> Bytes {
    let paid = PayerEnvelope::sign(client, SOURCE, 60, &key(SOURCE)).encode_to_vec();
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: SOURCE.0,
        originator_sequence_id: place,
        originator_ns: START_NS,
        payer_envelope_bytes: paid.into(),
        ..Default::default()
    };
    let statement = Bytes::from(statement.encode_to_vec());
    let proof = Proof::Signature(key(SOURCE).sign(originator_digest(&statement)));
    OriginatorEnvelope::encode(statement, proof)
}

fn report(end: u64) -> PayerReport {
    let end = RangeEnd { minute: 1, sequence: SequenceId(end) };
    let nodes = NodeIds::new([SOURCE]).unwrap();
    PayerReport::new(SOURCE, SequenceId::NONE, end, [1; 32], nodes).unwrap()
}

#[test]
fn a_damaged_report_or_attestation_hides_no_other_one() {
    let folder = Folder::new("payer-reports");
    let store = folder.open_damaged();
    record_rates(&store, &[rate()]);
    let attested = |place, end| {
        let attestation = Attestation::sign(report(end).id(domain()), SOURCE, &key(SOURCE));
        carrying(place, attestation.client_envelope(SOURCE))
    };
    let first = [carrying(1, report(7).client_envelope()), attested(2, 8)];
    let last = [carrying(PLACES - 1, report(8).client_envelope()), attested(PLACES, 8)];
    let between = strand(SOURCE, &(3..PLACES - 1).collect::<Vec<_>>());
    let append = |(place, bytes): (u64, Bytes)| {
        let facts = facts::of_stored(&bytes, Validity::Valid, NODE);
        let id = EnvelopeId::new(SOURCE, SequenceId(place));
        Change::Append(LogEntry { id, bytes, validity: Validity::Valid, facts })
    };
    let all = first.iter().cloned().chain(between).chain(last);
    store.commit(&(1..).zip(all).map(append).collect::<Vec<_>>()).unwrap();
    store.flush().unwrap();
    folder.damage(&first[0]);

    let snapshot = store.snapshot();
    assert!(snapshot.get(EnvelopeId::new(SOURCE, SequenceId(1))).is_err());
    let held = held_reports(&snapshot, domain(), SOURCE, &[SOURCE]).unwrap();
    let [held] = &held[..] else { panic!("{held:?}") };
    assert_eq!((&held.report, held.attestations.len()), (&report(8), 1), "the last ones");
}
