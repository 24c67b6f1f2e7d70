//! Tests of looks for late releases.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Payload, Proof};
use hawser_proto::minute::MINUTE_NS;
use hawser_proto::pb::xmtp::mls::api::v1::WelcomeMessageInput;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{Address, SecretKey, SequenceId, Topic};
use hawser_rules::payer_report::{Attestation, ReportId};
use hawser_rules::{NodeRecord, PicoDollarPrice, PicoDollarsPerByteDay, Rate};
use hawser_storage::{
    CACHE_BYTES_MIN, Change, Durability, InvalidRule, LogEntry, PayerReportChange,
    PayerReportEvent, SkipReason, Store, StoreIdentity, StoreSettings, Validity,
};
use prost::Message as _;

use super::*;
use crate::facts;
use crate::payer_reports::ChainReports;
use crate::price;
use crate::read::testing;
use crate::runtime::payer_reports::late_searches::LateSearches;

const NODE: OriginatorId = OriginatorId(200);
/// The minute with which the first report ends. The others end ten minutes after one another.
const FIRST_MINUTE: u32 = 29_166_667;
const REPORTS: u64 = 6;
/// The attestations of other reports that the originator has written before its own.
const OTHERS: u64 = 20;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32]).unwrap()
}

fn domain() -> DomainSeparator {
    DomainSeparator::of_contract(31337, [5; 20])
}

fn minute(report: u64) -> u32 {
    FIRST_MINUTE + 10 * u32::try_from(report).unwrap()
}

/// Report number `index` is about the place behind that number alone.
fn chain() -> ChainReports {
    chain_of(REPORTS)
}

fn chain_of(reports: u64) -> ChainReports {
    let mut chain = ChainReports::default();
    for index in 0..reports {
        let change = PayerReportChange::Submitted {
            start: SequenceId(index),
            end: SequenceId(index + 1),
            end_minute: minute(index),
            root: [1; 32],
            nodes: vec![NODE],
        };
        let event =
            PayerReportEvent { block: index, log_index: 0, originator: NODE, index, change };
        chain.note(event, Some(minute(index)), u32::MAX);
    }
    chain
}

fn append(sequence: u64, minute: u32, client: Bytes, payer: &SecretKey) -> Change {
    let paid = PayerEnvelope::sign(client, NODE, 60, payer).encode_to_vec();
    append_paid(sequence, minute, paid.into(), Validity::Valid)
}

fn append_paid(sequence: u64, minute: u32, paid: Bytes, validity: Validity) -> Change {
    let id = EnvelopeId::new(NODE, SequenceId(sequence));
    let originator_ns = i64::from(minute) * MINUTE_NS;
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: NODE.0,
        originator_sequence_id: sequence,
        originator_ns,
        payer_envelope_bytes: paid,
        base_fee_picodollars: 1,
        congestion_fee_picodollars: 0,
        expiry_unixtime: u64::from(minute) * 60 + 60 * 86_400,
    };
    let statement = Bytes::from(statement.encode_to_vec());
    let proof = Proof::Signature(key(2).sign(originator_digest(&statement)));
    let bytes = OriginatorEnvelope::encode(statement, proof);
    let facts = facts::of_stored(&bytes, validity, OriginatorId(100));
    Change::Append(LogEntry { id, bytes, validity, facts })
}

fn paid(sequence: u64, minute: u32) -> Change {
    paid_by(9, sequence, minute)
}

fn paid_by(payer: u8, sequence: u64, minute: u32) -> Change {
    append(sequence, minute, welcome(), &key(payer))
}

/// Returns an envelope that is charged, and that only other software decodes: its target stands there twice, as a text.
fn odd_by(payer: u8, sequence: u64, minute: u32) -> Change {
    let paid = PayerEnvelope::sign(welcome(), NODE, 60, &key(payer)).encode_to_vec();
    let odd = [&paid[..], b"\x1a\x03200"].concat();
    append_paid(sequence, minute, odd.into(), Validity::Invalid(InvalidRule(1)))
}

fn welcome() -> Bytes {
    let topic = Bytes::from_static(&[1, 9]);
    let aad = pb::AuthenticatedData { target_topic: topic, depends_on: None };
    let payload = Some(Payload::WelcomeMessage(WelcomeMessageInput::default()));
    let client = pb::ClientEnvelope { aad: Some(aad), payload };
    client.encode_to_vec().into()
}

/// Returns the strand of an originator that hides one envelope of each report, and its attestations among others.
fn strand() -> Store {
    let store = priced();
    store.commit(&places()).unwrap();
    store
}

/// Returns a store without envelopes that has prices.
fn priced() -> Store {
    let store = testing::store();
    record_price(&store);
    store
}

fn record_price(store: &Store) {
    let rate = Rate {
        start_unix_s: 0,
        message_fee: PicoDollarPrice(1),
        storage_fee: PicoDollarsPerByteDay(0),
        congestion_fee: PicoDollarPrice(0),
        target_rate_per_minute: 0,
    };
    store.record_rates(&[rate]).unwrap();
}

/// Returns the envelope at a place of the strand that attests a report.
fn attested(sequence: u64, report: ReportId) -> Change {
    let client = Attestation::sign(report, NODE, &key(2)).client_envelope(NODE);
    append(sequence, minute(REPORTS), client, &key(2))
}

/// Returns the places of that strand.
fn places() -> Vec<Change> {
    let mut places: Vec<_> = (0..REPORTS).map(|index| paid(index + 1, minute(index))).collect();
    let others = (1..=OTHERS).map(|other| attested(REPORTS + other, ReportId([9; 32])));
    places.extend(others);
    for on_chain in chain().about(NODE) {
        let id = on_chain.report().unwrap().id(domain());
        places.push(attested(REPORTS + OTHERS + 1 + on_chain.index, id));
    }
    let late = |index| paid(2 * REPORTS + OTHERS + 1 + index, minute(index));
    places.extend((0..REPORTS).map(late));
    places
}

fn registry() -> Registry {
    let record = NodeRecord {
        id: NODE,
        public_key: key(2).public_key(),
        owner: Address([1; 20]),
        http_address: Some("http://127.0.0.1:5050".into()),
        quic_address: None,
        canonical: true,
    };
    [record].into_iter().collect()
}

/// Takes one look. `record` gets the place of each late envelope that is proven.
fn take(
    store: &Store,
    chain: &ChainReports,
    bounds: LookBounds,
    searches: &mut SearchesAbout,
    mut record: impl FnMut(EnvelopeId) -> bool,
) -> LookCost {
    let (snapshot, registry) = (store.snapshot(), registry());
    let look = LateLook {
        snapshot: &snapshot,
        registry: &registry,
        domain: domain(),
        about: NODE,
        key: key(2).public_key(),
        bounds,
    };
    look.take(chain.about(NODE).rev(), searches, |found| record(found.at)).unwrap()
}

/// A late envelope in each report, and many attestations, cost each look a bounded number of reads, and all looks
/// together one pass over the attestations.
#[test]
fn one_bounded_pass_over_the_attestations_serves_all_reports() {
    let (store, chain) = (strand(), chain());
    let mut searches = SearchesAbout::default();
    let bounds = LookBounds { rows: usize::MAX, attestations: 8, late: 2 };
    let mut found = BTreeSet::new();
    let mut costs = Vec::new();
    for _ in 0..6 {
        let cost = take(&store, &chain, bounds, &mut searches, |at| found.insert(at));
        costs.push((cost.attestations, cost.late, found.len()));
    }
    let expected = [(8, 0, 0), (8, 0, 0), (8, 2, 2), (2, 2, 4), (0, 2, 6), (0, 0, 6)];
    assert_eq!(costs, expected);
    let read: usize = costs.iter().map(|(attestations, ..)| attestations).sum();
    assert_eq!(read as u64, OTHERS + REPORTS, "each attestation once");
}

/// The originator shows the place of an attestation when the places behind it were searched.
#[test]
fn an_attestation_that_is_shown_after_those_behind_it_is_found() {
    let (store, chain, mut places) = (priced(), chain(), places());
    let hidden = SequenceId(REPORTS + OTHERS + 1);
    let missing = Change::Skip {
        originator: NODE,
        from: hidden,
        through: hidden,
        reason: SkipReason::Missing,
    };
    let of_first = usize::try_from(hidden.0 - 1).unwrap();
    let shown = std::mem::replace(&mut places[of_first], missing);
    store.commit(&places).unwrap();
    let mut searches = SearchesAbout::default();
    let bounds = LookBounds { rows: usize::MAX, attestations: 100, late: 100 };
    let mut look = || {
        let mut found = 0;
        take(&store, &chain, bounds, &mut searches, |_| {
            found += 1;
            true
        });
        found
    };
    assert_eq!([look(), look()], [REPORTS - 1, 0], "it is hidden");
    store.commit(&[shown]).unwrap();
    assert_eq!(look(), 1);
}

/// A node that is started again before each look comes to the attestations as fast as one that runs.
#[test]
fn a_search_goes_on_after_a_restart() {
    let (store, chain) = (strand(), chain());
    let bounds = LookBounds { rows: usize::MAX, attestations: 8, late: 2 };
    let mut found = BTreeSet::new();
    let mut costs = Vec::new();
    for _ in 0..6 {
        let mut searches = LateSearches::stored_in(&store);
        let about = searches.about(NODE);
        let cost = take(&store, &chain, bounds, about, |at| found.insert(at));
        searches.save(&store).unwrap();
        costs.push((cost.attestations, cost.late, found.len()));
    }
    let expected = [(8, 0, 0), (8, 0, 0), (8, 2, 2), (2, 2, 4), (0, 2, 6), (0, 0, 6)];
    assert_eq!(costs, expected);
    let bounds = LookBounds { rows: 1, attestations: 100, late: 100 };
    store.record_late_searches(&[], &[]).unwrap();
    let mut places = Vec::new();
    for _ in 0..REPORTS {
        let mut searches = LateSearches::stored_in(&store);
        take(&store, &chain, bounds, searches.about(NODE), |at| {
            places.push(at.sequence.0);
            true
        });
        searches.save(&store).unwrap();
    }
    let first = 2 * REPORTS + OTHERS + 1;
    assert_eq!(places, (first..first + REPORTS).rev().collect::<Vec<_>>(), "older ones too");
}

/// Many payers in the minutes of each report cost each look a bounded number of rows.
#[test]
fn a_look_ends_after_its_rows_and_the_next_one_goes_on_with_older_reports() {
    let (store, chain) = (strand(), chain());
    let mut searches = SearchesAbout::default();
    let bounds = LookBounds { rows: 1, attestations: 100, late: 100 };
    let mut found = Vec::new();
    for look in 1..=usize::try_from(REPORTS).unwrap() {
        let cost = take(&store, &chain, bounds, &mut searches, |at| {
            found.push(at.sequence.0);
            true
        });
        assert_eq!((cost.rows, found.len()), (1, look), "one payer and minute of one report");
    }
    let first = 2 * REPORTS + OTHERS + 1;
    assert_eq!(found, (first..first + REPORTS).rev().collect::<Vec<_>>());
    let cost = take(&store, &chain, bounds, &mut searches, |_| true);
    assert_eq!(cost.rows, 0, "evidence about all of them is recorded");
}

/// Many payers in the minutes of one report cost each look a bounded number of rows, too, and neither a report that
/// comes meanwhile nor a restart makes a look begin anew.
#[test]
fn a_look_goes_on_within_the_minutes_of_a_report_until_all_are_read() {
    const PAYERS: u64 = 4;
    let store = strand();
    let others = (0..REPORTS).flat_map(|report| (1..PAYERS).map(move |it| (report, it)));
    let others: Vec<_> = (3 * REPORTS + OTHERS + 1..)
        .zip(others)
        .map(|(at, (report, it))| paid_by(20 + u8::try_from(it).unwrap(), at, minute(report)))
        .collect();
    store.commit(&others).unwrap();
    let bounds = LookBounds { rows: 3, attestations: 100, late: 100 };
    for is_restarted in [false, true] {
        store.record_late_searches(&[], &[]).unwrap();
        let mut searches = LateSearches::stored_in(&store);
        let mut look = |reports| {
            if is_restarted {
                searches = LateSearches::stored_in(&store);
            }
            let (chain, mut found) = (chain_of(reports), 0);
            let cost = take(&store, &chain, bounds, searches.about(NODE), |_| {
                found += 1;
                true
            });
            searches.save(&store).unwrap();
            (cost.rows, found)
        };
        let mut looks = vec![look(REPORTS - 1)];
        looks.extend((0..8).map(|_| look(REPORTS)));
        let first_round = [(3, 0), (3, 1), (3, 1), (3, 1), (3, 0), (3, 1), (2, 1)];
        let expected = [&first_round[..], &[(3, 0), (1, 1)]].concat();
        assert_eq!(looks, expected, "restarted: {is_restarted}");
    }
}

/// Played by an originator that adds late envelopes of its own payers, which are shorter and prove nothing.
#[test]
fn charged_envelopes_that_prove_nothing_displace_no_late_release() {
    let store = strand();
    let behind = 3 * REPORTS + OTHERS + 1;
    let odd = (0..20).map(|it| odd_by(20 + it, behind + u64::from(it), minute(0)));
    let odd: Vec<_> = odd.collect();
    let is_charged = |change: &Change| match change {
        Change::Append(entry) => entry.facts.as_ref().is_some_and(|it| it.charge.is_some()),
        Change::Skip { .. } => false,
    };
    assert!(odd.iter().all(is_charged));
    store.commit(&odd).unwrap();
    let bounds = LookBounds { rows: usize::MAX, attestations: 100, late: 100 };
    let (mut searches, mut found) = (SearchesAbout::default(), BTreeSet::new());
    take(&store, &chain(), bounds, &mut searches, |at| found.insert(at.sequence.0));
    let first = 2 * REPORTS + OTHERS + 1;
    assert_eq!(found, (first..first + REPORTS).collect::<BTreeSet<_>>());
}

/// Reports whose late envelopes prove nothing, or whose evidence cannot be recorded, hide no other ones.
#[test]
fn reports_are_judged_in_turns_and_again_while_no_evidence_is_recorded() {
    let (store, chain) = (strand(), chain());
    let mut searches = SearchesAbout::default();
    let bounds = LookBounds { rows: usize::MAX, attestations: 100, late: 2 };
    let mut found = Vec::new();
    for _ in 0..REPORTS {
        let not_recorded = |at: EnvelopeId| {
            found.push(at.sequence.0);
            false
        };
        take(&store, &chain, bounds, &mut searches, not_recorded);
    }
    let first = 2 * REPORTS + OTHERS + 1;
    let newest_first: Vec<_> = (first..first + REPORTS).rev().collect();
    assert_eq!(found, [&newest_first[..], &newest_first[..]].concat());
    found.clear();
    let bounds = LookBounds { rows: 3, ..bounds };
    let mut searches = SearchesAbout::default();
    let mut counts = Vec::new();
    for _ in 0..4 {
        let not_recorded = |at: EnvelopeId| {
            found.push(at.sequence.0);
            false
        };
        counts.push(take(&store, &chain, bounds, &mut searches, not_recorded).late);
    }
    assert_eq!((&found, counts), (&newest_first, vec![2, 1, 2, 1]), "three reports at a time");
    take(&store, &ChainReports::default(), bounds, &mut searches, |_| true);
    let forgotten = chain.about(NODE).all(|on_chain| {
        let id = on_chain.report().unwrap().id(domain());
        searches.get(id).is_none()
    });
    assert!(forgotten, "the chain has taken the reports back");
}

/// A damaged row hides the late envelopes of its report alone, also when a look came to it from newer reports.
#[test]
fn a_damaged_row_keeps_no_look_from_the_reports_before_it() {
    const DAMAGED: u64 = 3;
    let (store, chain) = (strand(), chain());
    let payer = key(9).public_key().address();
    let row = [&NODE.0.to_be_bytes()[..], &minute(DAMAGED).to_be_bytes(), &payer.0].concat();
    store.put_raw_row(Family::Usage, &row, b"damaged");
    let mut searches = SearchesAbout::default();
    let bounds = LookBounds { rows: 2, attestations: 100, late: 100 };
    let mut found = Vec::new();
    let mut counts = Vec::new();
    for _ in 0..4 {
        take(&store, &chain, bounds, &mut searches, |at| {
            found.push(at.sequence.0);
            true
        });
        counts.push(found.len());
    }
    let first = 2 * REPORTS + OTHERS + 1;
    let others = (0..REPORTS).rev().filter(|report| *report != DAMAGED);
    assert_eq!(found, others.map(|report| first + report).collect::<Vec<_>>());
    assert_eq!(counts, [2, 2, 4, 5], "the second look ends at the damaged row");
}

/// A damaged row of the topic index hides the attestation in it alone.
#[test]
fn a_damaged_row_of_the_topic_hides_no_attestation_behind_it() {
    const HIDDEN: u64 = 3;
    let (store, chain) = (strand(), chain());
    let topic = Topic::payer_report_attestations(NODE);
    let len = u16::try_from(topic.as_bytes().len()).unwrap();
    let of_hidden = REPORTS + OTHERS + 1 + HIDDEN;
    for damaged in [REPORTS + 1, REPORTS + 4, REPORTS + 5, of_hidden] {
        let (strand, place) = (NODE.0.to_be_bytes(), damaged.to_be_bytes());
        let row = [&len.to_be_bytes()[..], &topic.as_bytes()[..], &strand, &place].concat();
        store.put_raw_row(Family::Topic, &row, b"damaged");
    }
    for attestations in [1000, 5] {
        let bounds = LookBounds { rows: usize::MAX, attestations, late: 1000 };
        let mut searches = SearchesAbout::default();
        let mut found = BTreeSet::new();
        for _ in 0..10 {
            let cost =
                take(&store, &chain, bounds, &mut searches, |at| found.insert(at.sequence.0));
            assert!(cost.attestations <= attestations, "damaged rows count, too");
        }
        let first = 2 * REPORTS + OTHERS + 1;
        let others = (0..REPORTS).filter(|report| *report != HIDDEN);
        assert_eq!(found, others.map(|report| first + report).collect::<BTreeSet<_>>());
    }
}

/// Returns the file of the log with an envelope, and a byte of the envelope in it.
fn byte_in_log(folder: &Path, envelope: &Bytes) -> (PathBuf, u64) {
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|it| it != "sst") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        // The properties at the file's end name its family.
        let is_log = bytes.windows(7).any(|it| it == b"namelog");
        let at = bytes.windows(envelope.len()).position(|it| it == envelope);
        if let Some(at) = at.filter(|_| is_log) {
            return (path, u64::try_from(at + 9).unwrap());
        }
    }
    panic!("no file of the log has it");
}

/// Flips a bit of a byte. The second call repairs it.
fn flip((path, at): &(PathBuf, u64)) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, *at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], *at).unwrap();
}

/// A damaged envelope hides the evidence that it is a part of, until it is repaired.
#[test]
fn a_damaged_attestation_ends_no_look_and_is_found_when_it_is_repaired() {
    /// Attestations of other reports, some blocks of the log.
    const BETWEEN: u64 = 60;
    let folder = std::env::temp_dir().join(format!("hawser-late-release-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    let public_key = key(7).public_key();
    let identity = StoreIdentity { network: "test".into(), node: OriginatorId(100), public_key };
    let settings = StoreSettings {
        path: folder.clone(),
        identity,
        durability: Durability::Os,
        price: price::price,
        host: None,
        open_files_max: 64,
        cache_bytes: CACHE_BYTES_MIN,
    };
    let store = Store::open(&settings).unwrap();
    record_price(&store);
    let chain = chain_of(2);
    let ids: Vec<_> = chain.about(NODE).map(|it| it.report().unwrap().id(domain())).collect();
    let (first, second) = (3 + BETWEEN, 4 + 2 * BETWEEN);
    let late = |report| second + 1 + report;
    let other = |at| attested(at, ReportId([9; 32]));
    let mut places: Vec<_> = (0..2).map(|index| paid(index + 1, minute(index))).collect();
    places.extend((3..first).map(other));
    places.push(attested(first, ids[0]));
    places.extend((first + 1..second).map(other));
    places.push(attested(second, ids[1]));
    places.extend((0..2).map(|report| paid(late(report), minute(report))));
    store.commit(&places).unwrap();
    store.flush().unwrap();
    let place = usize::try_from(first).unwrap() - 1;
    let Change::Append(LogEntry { bytes, .. }) = &places[place] else { panic!("it is appended") };

    let mut searches = SearchesAbout::default();
    let bounds = |late| LookBounds { rows: usize::MAX, attestations: 1000, late };
    let cost = take(&store, &chain, bounds(0), &mut searches, |_| true);
    assert_eq!((cost.attestations, cost.late), (2 * usize::try_from(BETWEEN).unwrap() + 2, 0));
    // Another run finds the block in no cache.
    drop(store);
    let damaged = byte_in_log(&folder, bytes);
    flip(&damaged);
    let store = Store::open(&settings).unwrap();
    let mut found = Vec::new();
    let mut look = || {
        let cost = take(&store, &chain, bounds(100), &mut searches, |at| {
            found.push(at.sequence.0);
            true
        });
        (cost.unreadable.iter().map(|(at, _)| at.sequence.0).collect::<Vec<_>>(), found.clone())
    };
    assert_eq!(look(), (vec![first], vec![late(1)]), "the other report is judged");
    look();
    flip(&damaged);
    look();
    look();
    assert_eq!(look(), (vec![], vec![late(1), late(0)]));
    drop(store);
    let _ = fs::remove_dir_all(&folder);
}
