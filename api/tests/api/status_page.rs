//! The parts of `/status` about accounts, backups, payer reports and reports of misbehaviour, and that each field
//! of the page is documented.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hawser_api::{
    ApiSettings, BackupMade, BackupNotes, BackupPlaceUnreachable, BackupVerified, BackupsView,
    ChainAccount, ChainBalances, ChainEndpoint, ChainState, ChainsView, DiskSpace, DiskView,
    NoPeers, PeerCounts, PeerState, PeerView, StrandState,
};
use hawser_engine::chain_strand::ChainPosition;
use hawser_engine::misbehavior::{Evidence, Misbehavior};
use hawser_engine::runtime::{ContractError, GasUsed, PayerReporter, ReportContract, Submitted};
use hawser_proto::void::VoidStatement;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::RateTable;
use hawser_rules::payer_report::leaves::LEAF_LEN_BYTES;
use hawser_rules::payer_report::{
    Attestation, ContractReport, DomainSeparator, LeafProof, PayerReport, Periods,
};
use hawser_serve::ChainListStatus;
use hawser_storage::{NewReport, PayerReportChange, PayerReportEvent, ReportClass, ReportFact};
use parking_lot::Mutex;
use serde_json::Value;

use crate::common::*;

const START_S: i64 = START_NS / 1_000_000_000;

/// The notes on backups, which a test sets.
#[derive(Default)]
struct Notes(Mutex<BackupNotes>);

impl BackupsView for Notes {
    fn backups(&self) -> BackupNotes {
        self.0.lock().clone()
    }
}

fn made(backup: &str, age_s: u64) -> BackupMade {
    BackupMade {
        backup: backup.into(),
        to: "s3://bucket/node".into(),
        made_unix_s: u64::try_from(START_S).unwrap() - age_s,
        took_ms: 2500,
        len_bytes: 1 << 30,
        new_bytes: 1 << 20,
        is_signed: true,
    }
}

fn verified(backup: &str, is_whole: bool, age_s: u64) -> BackupVerified {
    let verified_unix_s = u64::try_from(START_S).unwrap() - age_s;
    BackupVerified { backup: backup.into(), verified_unix_s, is_whole, checked: 3, damaged: 1 }
}

fn silent() -> BackupPlaceUnreachable {
    let tried_unix_s = u64::try_from(START_S).unwrap();
    BackupPlaceUnreachable {
        place: "s3://bucket/node".into(),
        since_unix_s: tried_unix_s - 60,
        tried_unix_s,
        attempts: 2,
        error: "no route".into(),
    }
}

/// One chain on which the node has an account, with one entry in each list.
#[derive(Default)]
struct Chain(Mutex<Option<ChainAccount>>);

impl ChainsView for Chain {
    fn chains(&self) -> Vec<ChainState> {
        let list = ChainListStatus {
            name: "node_registry",
            age: Duration::ZERO,
            failing_for: None,
            failing_max: Duration::from_secs(60),
            fault: None,
            failures: 0,
        };
        let endpoint = ChainEndpoint { shown: "https://rpc".into(), active: true, fault: None };
        vec![ChainState {
            endpoints: vec![endpoint],
            contracts: vec![contract_at_head()],
            lists: vec![list],
            account: self.0.lock().clone(),
            ..chain_in_reach("settlement")
        }]
    }
}

fn account(balances: Option<ChainBalances>, fault: Option<&str>) -> ChainAccount {
    ChainAccount { address: "0xabc".into(), balances, fault: fault.map(ToOwned::to_owned) }
}

const BALANCES: ChainBalances = ChainBalances {
    native_wei: 3_000_000_000_000_000_000_000,
    fee_token_microdollars: Some(2_500_000),
    block: 4,
    read_unix_s: START_S,
};

/// A contract that the worker does not call in any test.
struct NoContract;

impl ReportContract for NoContract {
    fn submit<'a>(
        &'a self,
        _: &'a PayerReport,
        _: &'a [Attestation],
    ) -> BoxFuture<'a, Result<Submitted, ContractError>> {
        async { unreachable!("the status submits nothing") }.boxed()
    }

    fn held(
        &self,
        _: OriginatorId,
        _: u64,
        _: ContractReport,
    ) -> BoxFuture<'_, Result<ContractReport, ContractError>> {
        async { unreachable!("the status asks no contract") }.boxed()
    }

    fn settle<'a>(
        &'a self,
        _: OriginatorId,
        _: u64,
        _: &'a [[u8; LEAF_LEN_BYTES]],
        _: &'a LeafProof,
    ) -> BoxFuture<'a, Result<GasUsed, ContractError>> {
        async { unreachable!("the status settles nothing") }.boxed()
    }
}

/// Serves the engine of a node once more, with a worker of payer reports and further settings.
async fn with_reporter(node: Node, adjust: impl FnOnce(&mut ApiSettings)) -> Node {
    let domain = DomainSeparator::of_contract(31337, [0x55; 20]);
    let contract = Arc::new(NoContract);
    let reporter =
        PayerReporter::new(&node.engine, node_key(), domain, Periods::default(), contract);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut settings = ApiSettings {
        listen: None,
        metrics: Some(any),
        payer_reports: Some(reporter),
        ..ApiSettings::default()
    };
    adjust(&mut settings);
    let peers = Arc::new(OnePeer);
    let api = hawser_api::start(settings, node.engine.clone(), peers).await.unwrap();
    Node { api, ..node }
}

/// One connected peer, from which a strand is pulled.
struct OnePeer;

impl PeerView for OnePeer {
    fn peers(&self) -> Vec<PeerState> {
        vec![PeerState {
            node: PEER,
            address: "peer.example:5050".into(),
            connected: true,
            transport: Some("quic"),
            round_trip: Some(Duration::from_millis(20)),
            clock: [EnvelopeId::new(PEER, SequenceId(1))].into_iter().collect(),
            last_error: None,
            failed_attempts: 0,
            refused: 0,
        }]
    }

    fn strands(&self) -> Vec<StrandState> {
        vec![StrandState {
            originator: PEER,
            source: Some(PEER),
            received: 1,
            searches: 0,
            refused: None,
            searched_through: None,
        }]
    }

    fn counts(&self) -> PeerCounts {
        PeerCounts::default()
    }
}

struct Disk;

impl DiskView for Disk {
    fn space(&self) -> Option<DiskSpace> {
        Some(DiskSpace { free_bytes: 1 << 39, total_bytes: 1 << 40 })
    }
}

#[tokio::test]
async fn a_price_list_by_which_nothing_is_judged_is_told_and_the_node_publishes() {
    let node = node().await;
    for (block_s, is_met) in [(START_S.unsigned_abs(), true), (0, false)] {
        let read = RateTable::new(vec![rate()], Some(START_NS)).unwrap().of_block(block_s);
        node.rates.send_replace(Arc::new(read));
        let shown = node.status().await;
        let condition = condition_of(&shown, "rates_uncontested").unwrap();
        assert_eq!((&condition["met"], &condition["for"]), (&is_met.into(), &"notice".into()));
        assert_eq!(node.page("/readyz?for=publish").await.0, 200);
    }
}

#[tokio::test]
async fn an_account_is_shown_as_it_was_read_last() {
    let chain = Arc::new(Chain::default());
    let view = chain.clone();
    let node = node_with(|settings| settings.chains = Some(view), Arc::new(NoPeers)).await;
    let wei = r#"xmtp_account_balance_wei{chain="settlement"}"#;
    let tokens = r#"xmtp_account_fee_token_microdollars{chain="settlement"}"#;
    assert_eq!(node.status().await["chains"][0].get("account"), None, "a replica has none");

    *chain.0.lock() = Some(account(None, Some("no answer")));
    let shown = node.status().await["chains"][0]["account"].clone();
    assert_eq!((&shown["native_wei"], &shown["fault"]), (&Value::Null, &"no answer".into()));
    assert_eq!(node.sample(wei).await, None);

    *chain.0.lock() = Some(account(Some(BALANCES), Some("no answer any more")));
    let shown = node.status().await["chains"][0]["account"].clone();
    assert_eq!((&shown["address"], &shown["block"]), (&"0xabc".into(), &4.into()));
    assert_eq!(shown["native_wei"], "3000000000000000000000", "more than 64 bits");
    assert_eq!(shown["fee_token_microdollars"], 2_500_000);
    assert_eq!(
        (&shown["read_unix_s"], &shown["fault"]),
        (&START_S.into(), &"no answer any more".into())
    );
    assert_eq!(node.sample(wei).await, Some(3e21));
    assert_eq!(node.sample(tokens).await, Some(2_500_000.0));

    let none = ChainBalances { native_wei: 0, fee_token_microdollars: None, ..BALANCES };
    *chain.0.lock() = Some(account(Some(none), None));
    assert_eq!(node.sample(wei).await, Some(0.0), "an empty account is told");
    assert_eq!(node.sample(tokens).await, None);
}

#[tokio::test]
async fn the_last_backup_and_the_last_check_are_shown_with_their_age() {
    let notes = Arc::new(Notes::default());
    let view = notes.clone();
    let node = node_with(|settings| settings.backups = Some(view), Arc::new(NoPeers)).await;
    let shown = node.status().await["backups"].clone();
    assert_eq!((&shown["last"], &shown["verified"]), (&Value::Null, &Value::Null));
    assert_eq!(node.sample("xmtp_backup_age_seconds").await, None);
    assert_eq!(node.sample("xmtp_backup_verified_whole").await, None);

    let of = |made: BackupMade, verified, fault: Option<&str>| {
        let fault = fault.map(ToOwned::to_owned);
        let made = Some(made);
        *notes.0.lock() = BackupNotes { made, verified, fault, ..BackupNotes::default() };
    };
    of(made("b2", 100), Some(verified("b1", true, 900)), None);
    let shown = node.status().await["backups"].clone();
    assert_eq!((&shown["last"]["backup"], &shown["last"]["age_s"]), (&"b2".into(), &100.into()));
    assert_eq!(shown["last"]["to"], "s3://bucket/node");
    assert_eq!(shown["last"]["verified"], false, "an older one was");
    assert_eq!(
        (&shown["verified"]["backup"], &shown["verified"]["whole"]),
        (&"b1".into(), &true.into())
    );
    assert_eq!(
        (&shown["verified"]["checked"], &shown["verified"]["damaged"]),
        (&3.into(), &1.into())
    );
    let samples = [
        ("xmtp_backup_age_seconds", 100.0),
        ("xmtp_backup_duration_seconds", 2.5),
        ("xmtp_backup_bytes", f64::from(1 << 30)),
        ("xmtp_backup_verified_age_seconds", 900.0),
        ("xmtp_backup_verified_whole", 1.0),
    ];
    for (name, value) in samples {
        assert_eq!(node.sample(name).await, Some(value), "{name}");
    }

    // An unreachable place is not damage; it has its own condition.
    assert_eq!(node.sample("xmtp_backup_place_unreachable").await, Some(0.0));
    notes.0.lock().unreachable = Some(silent());
    let shown = node.status().await;
    assert_eq!(shown["backups"]["verified"]["whole"], true);
    assert_eq!(shown["backups"]["unreachable"]["attempts"], 2);
    let condition = condition_of(&shown, "backup_place_reached").unwrap();
    assert_eq!((&condition["met"], &condition["for"]), (&false.into(), &"notice".into()));
    assert!(condition["reason"].as_str().unwrap().contains("no route"), "{condition}");
    assert_eq!(node.sample("xmtp_backup_place_unreachable").await, Some(1.0));
    assert_eq!(node.sample("xmtp_backup_verified_whole").await, Some(1.0));

    of(made("b2", 100), Some(verified("b2", true, 10)), None);
    node.clock.advance(60);
    let shown = node.status().await["backups"].clone();
    assert_eq!((&shown["last"]["verified"], &shown["last"]["age_s"]), (&true.into(), &160.into()));
    of(made("b2", 100), Some(verified("b2", false, 10)), Some("a note is no note"));
    let shown = node.status().await["backups"].clone();
    assert_eq!(
        (&shown["last"]["verified"], &shown["fault"]),
        (&false.into(), &"a note is no note".into())
    );
    assert_eq!(node.sample("xmtp_backup_verified_whole").await, Some(0.0));
}

/// A report about this node on the chain, which is not settled, ends a hundred minutes before the start of the clock.
fn submitted_report() -> PayerReportEvent {
    let end_minute = u32::try_from(START_S / 60 - 100).unwrap();
    let change = PayerReportChange::Submitted {
        start: SequenceId(0),
        end: SequenceId(9),
        end_minute,
        root: [7; 32],
        nodes: vec![NODE],
    };
    PayerReportEvent { block: 1, log_index: 0, originator: NODE, index: 0, change }
}

#[tokio::test]
async fn payer_reports_are_counted_without_a_request_that_waits_for_it() {
    let node = node().await;
    assert_eq!(node.status().await.get("payer_reports"), None, "it does not work on them");
    let unread = with_reporter(node, |_| {}).await;
    let fault = async || {
        for _ in 0..4000 {
            if let Some(fault) = unread.status().await["payer_reports"]["fault"].as_str() {
                return fault.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("nothing was counted");
    };
    assert!(!fault().await.is_empty(), "the chain was not read");
    assert_eq!(unread.sample(r#"xmtp_reports{state="submitted"}"#).await, None);

    let position = ChainPosition { block: 1, hash: [1; 32] };
    unread.engine.store().record_payer_reports(0, &[submitted_report()], position).unwrap();
    let node = with_reporter(unread, |_| {}).await;
    node.until_sample(r#"xmtp_reports{state="submitted"}"#, 1.0).await;
    assert_eq!(node.sample(r#"xmtp_reports{state="waiting"}"#).await, Some(0.0));
    let age_s = START_S % 60 + 99 * 60;
    let age = r#"xmtp_report_oldest_age_seconds{state="submitted"}"#;
    assert_eq!(node.sample(age).await, Some(age_s as f64));
    assert_eq!(node.sample(r#"xmtp_report_oldest_age_seconds{state="settled"}"#).await, None);
    let shown = node.status().await["payer_reports"].clone();
    assert_eq!((&shown["fault"], &shown["counted_unix_s"]), (&Value::Null, &START_S.into()));
    let stages = shown["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 5, "however many reports there are");
    let submitted = stages.iter().find(|row| row["stage"] == "submitted").unwrap();
    assert_eq!((&submitted["reports"], &submitted["oldest_age_s"]), (&1.into(), &age_s.into()));
    node.clock.advance(30);
    assert_eq!(node.sample(age).await, Some((age_s + 30) as f64), "an age goes on between counts");
}

fn report_about(accused: OriginatorId, class: ReportClass, sequence: u64) -> NewReport {
    let fact = ReportFact {
        accused,
        class,
        kind: 5,
        detail: 0,
        sequence: SequenceId(sequence),
        digest: [class as u8; 16],
    };
    NewReport { fact, signature: [1; 65], report: Bytes::from_static(b"a report") }
}

#[tokio::test]
async fn reports_of_misbehaviour_are_counted_by_node_and_by_maker() {
    let node = node().await;
    let shown = node.status().await["misbehavior_reports"].clone();
    assert_eq!(shown["against_this_node"], 0);
    assert_eq!(shown["by_node"].as_object().unwrap().len(), 0);
    let about = |class| report_about(PEER, class, 1);
    let reports = ReportClass::ALL.map(about).into_iter();
    let own = [ReportClass::Foreign, ReportClass::Proven].map(|it| report_about(NODE, it, 2));
    node.engine.store().record_reports(5, reports.chain(own).collect(), None).unwrap();

    let shown = node.status().await["misbehavior_reports"].clone();
    assert_eq!(shown["against_this_node"], 2);
    let peer = &shown["by_node"]["200"];
    assert_eq!((&peer["proven"], &peer["own_claims"]), (&2.into(), &1.into()));
    assert_eq!((&peer["own_liveness"], &peer["submitted"]), (&1.into(), &1.into()));
    assert_eq!(shown["by_node"]["100"]["proven"], 1);
    let proven = r#"xmtp_misbehavior_reports_kept{originator_id="200",class="proven"}"#;
    assert_eq!(node.sample(proven).await, Some(2.0));
    assert_eq!(node.sample("xmtp_misbehavior_reports_against_self").await, Some(2.0));
}

/// The paths of all values of a page, each with true for a value that is absent now. Keys that are node ids are `ID`.
fn paths(value: &Value, path: &str, found: &mut BTreeMap<String, bool>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_id = name.parse::<u32>().is_ok();
                let name = if is_id { "ID" } else { name.as_str() };
                let path = if path.is_empty() { name.into() } else { format!("{path}.{name}") };
                paths(value, &path, found);
            }
        }
        Value::Array(items) => {
            items.iter().for_each(|item| paths(item, &format!("{path}[]"), found))
        }
        value => {
            let is_absent = found.entry(path.to_owned()).or_insert(true);
            *is_absent &= value.is_null();
        }
    }
}

/// The fields in the tables of the documentation.
fn documented() -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/status.md");
    let text = std::fs::read_to_string(path).unwrap();
    let field = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    text.lines().filter_map(field).collect()
}

#[tokio::test]
async fn each_field_of_the_status_is_documented() {
    let node = node().await;
    node.publish(vec![message(1, "a")]).await;
    let store = node.engine.store();
    let evidence = Evidence {
        misbehavior: Misbehavior::TimeAhead,
        at: EnvelopeId::new(PEER, SequenceId(7)),
        from: None,
        envelopes: vec![b"first".as_slice().into()],
    };
    store.record_evidence(5, &[evidence]).unwrap();
    store.record_reports(5, vec![report_about(NODE, ReportClass::Foreign, 1)], None).unwrap();
    let position = ChainPosition { block: 1, hash: [1; 32] };
    store.record_payer_reports(0, &[submitted_report()], position).unwrap();
    let (from, through) = (SequenceId(2), SequenceId(9));
    let (time_ns, incarnation) = (5, [1; 16]);
    let void = VoidStatement { node: NODE, from, through, time_ns, incarnation };
    store.record_void_statements(&[void.sign(&node_key())]).unwrap();
    node.set_registry([]);
    let node = with_reporter(node, |settings| {
        let notes = BackupNotes {
            made: Some(made("b2", 100)),
            verified: Some(verified("b1", true, 900)),
            unreachable: Some(silent()),
            fault: None,
        };
        settings.backups = Some(Arc::new(Notes(Mutex::new(notes))));
        settings.chains = Some(Arc::new(Chain(Mutex::new(Some(account(Some(BALANCES), None))))));
        settings.disk = Some(Arc::new(Disk));
    })
    .await;
    node.until_sample(r#"xmtp_reports{state="settled"}"#, 0.0).await;
    let mut shown = BTreeMap::new();
    paths(&node.status().await, "", &mut shown);
    let documented = documented();
    let is_inside = |path: &str, of: &str| {
        path.strip_prefix(of).is_some_and(|rest| rest.starts_with('.') || rest.starts_with('['))
    };
    for (path, is_absent) in &shown {
        let below = *is_absent && documented.iter().any(|it| is_inside(it, path));
        assert!(documented.contains(path) || below, "docs/status.md lacks {path}");
    }
    for path in &documented {
        let above = shown.iter().any(|(it, is_absent)| *is_absent && is_inside(path, it));
        assert!(shown.contains_key(path) || above, "{path} of docs/status.md is not shown");
    }
}
