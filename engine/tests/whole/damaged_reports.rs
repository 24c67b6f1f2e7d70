//! Payer reports and attestations that the disk has damaged, or cannot read: each costs itself.

use std::fs;

use hawser_engine::facts;
use hawser_engine::payer_reports::{SkippedRead, draft, held_reports};
use hawser_engine::runtime::{Attested, ReportState, ReportStepError, Submitted, Written};
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::{originator_digest, payer_digest};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId, Topic};
use hawser_rules::payer_report::{Attestation, NodeIds, PayerReport, RangeEnd};
use hawser_storage::{Change, Family, LogEntry, ReadError, Store, Validity};
use prost::Message as _;

use crate::common::{NODE, START_NS, rate, record_rates};
use crate::follow::{SOURCE, key, strand};
use crate::report_contract::{self, NODES, domain};
use crate::report_network::{Network, smuggle};
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

/// Stores a strand from its first place on.
fn store_all(store: &Store, all: impl IntoIterator<Item = Bytes>) {
    let append = |(place, bytes): (u64, Bytes)| {
        let facts = facts::of_stored(&bytes, Validity::Valid, NODE);
        let id = EnvelopeId::new(SOURCE, SequenceId(place));
        Change::Append(LogEntry { id, bytes, validity: Validity::Valid, facts })
    };
    store.commit(&(1..).zip(all).map(append).collect::<Vec<_>>()).unwrap();
    store.flush().unwrap();
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
    store_all(&store, first.iter().cloned().chain(between).chain(last));
    folder.damage(&first[0]);

    let snapshot = store.snapshot();
    assert!(snapshot.get(EnvelopeId::new(SOURCE, SequenceId(1))).is_err());
    let held = held_reports(&snapshot, domain(), SOURCE, &[SOURCE], false).unwrap();
    assert!(matches!(held.passed_over, Some(SkippedRead { family: Family::Log, .. })), "{held:?}");
    let [held] = &held.reports[..] else { panic!("{held:?}") };
    assert_eq!((&held.report, held.attestations.len()), (&report(8), 1), "the last ones");
}

/// The rows of a topic take some blocks of the index.
#[test]
fn a_damaged_block_of_the_topics_hides_no_report_of_another_one() {
    const REPORTS: u64 = 240;
    const HIDDEN: u64 = REPORTS - 20;
    let folder = Folder::new("payer-report-topics");
    let store = folder.open_damaged();
    record_rates(&store, &[rate()]);
    let all: Vec<_> =
        (1..=REPORTS).map(|place| carrying(place, report(place).client_envelope())).collect();
    store_all(&store, all.iter().cloned());
    let hidden = &all[usize::try_from(HIDDEN).unwrap() - 1];
    let (file, before) = folder.damage_in("topic", hidden);
    let held = || {
        let held = held_reports(&store.snapshot(), domain(), SOURCE, &[SOURCE], false).unwrap();
        let places = held.reports.iter().map(|it| it.report.end().sequence.0);
        (places.collect::<Vec<_>>(), held.passed_over.map(|it| it.family))
    };
    let (places, passed_over) = held();
    assert_eq!((places.len(), passed_over), (32, Some(Family::Topic)), "{places:?}");
    assert!(!places.contains(&HIDDEN) && places.iter().any(|place| *place < HIDDEN), "{places:?}");
    fs::write(file, before).unwrap();
    let (mut places, passed_over) = held();
    places.sort_unstable();
    let newest: Vec<_> = (REPORTS - 31..=REPORTS).collect();
    assert_eq!((places, passed_over), (newest, None), "it is repaired");
}

/// A row of any bytes that node 300 seems to have on a topic.
fn damage_row(store: &Store, topic: &Topic) {
    let topic = topic.as_bytes();
    let len = u16::try_from(topic.len()).unwrap();
    let (strand, place) = (300_u32.to_be_bytes(), 1_u64.to_be_bytes());
    let row = [&len.to_be_bytes()[..], &topic[..], &strand, &place].concat();
    store.put_raw_row(Family::Topic, &row, b"damaged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_rows_keep_no_report_from_being_written_attested_and_submitted() {
    let network = Network::start();
    let (about, store) = (OriginatorId(100), &network.stores[&200]);
    damage_row(store, &Topic::payer_reports(about));
    damage_row(store, &Topic::payer_report_attestations(about));
    network.traffic("some").await;
    network.replicate();
    let Written::New(id) = network.write(200, 100).await else { panic!("a report is due") };
    for node in [100, 200] {
        assert_eq!(network.attest(node, 100).await, [Attested::Signed]);
    }
    // Nothing tells node 300 if it has signed the attestation that it would sign.
    let (own, secret) = (OriginatorId(300), report_contract::key(300));
    let client = Attestation::sign(id, own, &secret).client_envelope(about);
    let receipt = facts::receipt(payer_digest(own, &client), secret.public_key().address());
    network.stores[&300].put_raw_row(Family::Receipt, &receipt, b"damaged");
    let shown = network.worker(300).reports().unwrap().views;
    assert!(matches!(&shown[..], [it] if it.state == ReportState::Equal), "{shown:?}");

    assert_eq!(network.submit(200, 100).await, [Submitted::Now]);
    let scrubs = network.engines[&200].scrubs().status();
    let families: Vec<_> = scrubs.left.iter().map(|it| it.damage.family).collect();
    assert_eq!((families, scrubs.left_count), (vec!["topic"], 1), "it is told once");
}

/// A node may write a report that ends where the disk of another node is damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_over_damaged_amounts_keeps_no_other_from_being_attested() {
    let (network, about) = (Network::start(), OriginatorId(100));
    network.traffic("early").await;
    network.replicate();
    let Written::New(readable) = network.write(200, 100).await else { panic!("a report is due") };
    network.traffic("late").await;
    network.replicate();
    let nodes = NodeIds::new(NODES.map(OriginatorId)).unwrap();
    let now = network.now_minute();
    let longer =
        draft(&network.stores[&200].snapshot(), about, SequenceId::NONE, nodes, now).unwrap();
    let longer = longer.expect("minutes have usage");
    smuggle(&network, 200, longer.client_envelope()).await;
    let minute = longer.end().minute.to_be_bytes();
    let row = [&about.0.to_be_bytes()[..], &minute, &[1; 20]].concat();
    network.stores[&300].put_raw_row(Family::Usage, &row, b"damaged");

    let attested = network.worker(300).attest(about).await.unwrap();
    assert_eq!(attested.len(), 2, "{attested:?}");
    assert!(attested.contains(&(readable, Attested::Signed)), "{attested:?}");
    let waits = attested.iter().find(|(id, _)| *id == longer.id(domain()));
    assert!(matches!(waits, Some((_, Attested::NotNow(_)))), "{attested:?}");
    let left = network.engines[&300].scrubs().status().left;
    let families: Vec<_> = left.iter().map(|it| it.damage.family).collect();
    assert_eq!(families, ["usage"], "it is repaired");
}

/// Returns the first envelope of the strand. It carries a report about another node, and is just long enough for a file
/// of its own and no longer than those that are read.
fn in_own_file(report: &PayerReport) -> Bytes {
    const LEN_BYTES: usize = 4096;
    let padded = |len: usize| {
        // A field that no schema has.
        let [low, high] = [len & 0x7f | 0x80, len >> 7].map(|part| u8::try_from(part).unwrap());
        let field = [&[0x7a, low, high][..], &vec![0; len]].concat();
        carrying(1, [&report.client_envelope()[..], &field].concat().into())
    };
    let around = padded(3000).len() - 3000;
    let envelope = padded(LEN_BYTES - around);
    assert_eq!(envelope.len(), LEN_BYTES);
    envelope
}

/// The disk fails the reads of one envelope, for some minutes or for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_whose_reads_fail_ends_steps_about_its_originator_for_ten_minutes_at_most() {
    for lasts in [false, true] {
        let folder = Folder::new(&format!("payer-report-reads-{lasts}"));
        let (mut network, store) = (Network::start(), folder.open_damaged());
        network.start_on(NODE.0, store.clone());
        network.follow_chain();
        network.traffic("some").await;
        network.replicate();
        let Written::New(id) = network.write(200, NODE.0).await else { panic!("a report is due") };
        let end = RangeEnd { minute: 1, sequence: SequenceId(7) };
        let nodes = NodeIds::new([SOURCE]).unwrap();
        let other = PayerReport::new(NODE, SequenceId::NONE, end, [1; 32], nodes).unwrap();
        store_all(&store, [in_own_file(&other)]);
        let (before, away) = folder.take_large_away();

        let (worker, head) = (network.worker(NODE.0), store.snapshot().head(NODE).unwrap());
        for minutes in [0, 9] {
            network.pass(minutes);
            let attested = worker.attest(NODE).await;
            let is_unread = matches!(attested, Err(ReportStepError::Read(ReadError::Database(_))));
            assert!(is_unread, "after {minutes} minutes: {attested:?}");
            let written = worker.write(NODE).await;
            assert!(matches!(written, Err(ReportStepError::Read(_))), "{written:?}");
            let of_other = worker.attest(OriginatorId(200)).await;
            assert!(of_other.is_ok_and(|it| it.is_empty()), "another originator");
        }
        assert_eq!(store.snapshot().head(NODE).unwrap(), head, "nothing is decided");

        network.pass(1);
        if !lasts {
            fs::rename(away, before).unwrap();
        }
        let attested = worker.attest(NODE).await.unwrap();
        assert_eq!(attested.len(), if lasts { 1 } else { 2 }, "{attested:?}");
        assert!(attested.contains(&(id, Attested::Signed)), "{attested:?}");
        let left = network.engines[&NODE.0].scrubs().status().left;
        let families: Vec<_> = left.iter().map(|it| it.damage.family).collect();
        assert_eq!(families, if lasts { vec!["log"] } else { vec![] }, "a lasting one is told");
    }
}

/// Returns true if the error says that the reports about [`NODE`] cannot be read.
fn names_the_node(error: &ReportStepError) -> bool {
    matches!(error, ReportStepError::Unread { about, .. } if *about == NODE)
}

/// An operator sees the reports about all other originators, and whose cannot be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_names_an_originator_whose_reports_cannot_be_read_beside_the_others() {
    let folder = Folder::new("payer-report-list");
    let (mut network, store) = (Network::start(), folder.open_damaged());
    network.start_on(NODE.0, store.clone());
    network.follow_chain();
    for minute in 0..3 {
        network.publish(200, 0, &[&format!("minute {minute}")]).await;
        network.pass(1);
    }
    network.replicate();
    let Written::New(readable) = network.write(200, 200).await else { panic!("a report is due") };
    let end = RangeEnd { minute: 1, sequence: SequenceId(7) };
    let nodes = NodeIds::new([SOURCE]).unwrap();
    let other = PayerReport::new(NODE, SequenceId::NONE, end, [1; 32], nodes).unwrap();
    store_all(&store, [in_own_file(&other)]);
    folder.take_large_away();

    let worker = network.worker(NODE.0);
    let list = worker.reports().unwrap();
    assert!(matches!(&list.views[..], [it] if it.id == readable), "{list:?}");
    let [(about, error)] = &list.unread[..] else { panic!("{list:?}") };
    assert_eq!(*about, NODE);
    assert!(matches!(error, ReportStepError::Read(ReadError::Database(_))), "{error:?}");
    let counted = worker.stage_counts();
    assert!(counted.as_ref().is_err_and(names_the_node), "{counted:?}");
    let found = worker.explain(&readable.to_string()).unwrap();
    assert!(found.is_some_and(|it| it.view.id == readable));
    let hidden = worker.explain(&other.id(domain()).to_string());
    let is_told = hidden.as_ref().is_err_and(names_the_node);
    assert!(is_told, "it may be among those that cannot be read: {hidden:?}");
}
