//! Audits with a chain. `hawser audit report` and `hawser audit network` judge chain envelopes, and dependencies on
//! them, by final blocks, on the word of all endpoints. `hawser audit replay` judges fees by the rates of the chain.

use std::fs;
use std::net::Ipv4Addr;

use alloy::primitives::FixedBytes;
use alloy::providers::Provider as _;
use hawser_audit::Judged;
use hawser_audit::evidence_file::FiledReport;
use hawser_chain::contracts::GroupMessageBroadcaster;
use hawser_chain::send::{Call, Chain, Sender};
use hawser_devchain::deploy;
use hawser_node::files::rates::parse_for_judging;
use hawser_proto::envelope::{
    ClientEnvelope, OriginatorEnvelope, PayerEnvelope, Proof, UnsealedEnvelope,
};
use hawser_proto::pb::xmtp::xmtpv4::message_api::misbehavior_api_server::{
    MisbehaviorApi, MisbehaviorApiServer,
};
use hawser_proto::pb::xmtp::xmtpv4::{envelopes as pb, message_api};
use hawser_proto::{Bytes, OriginatorId, SecretKey};
use hawser_rules::fees::base_fee;
use hawser_rules::misbehavior::MisbehaviorKind;
use hawser_rules::misbehavior::report::client_safety_report;
use hawser_rules::{PicoDollarPrice, Rate, RateTable};
use hawser_storage::{Change, LogEntry};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::support::chains::{ADMIN, Chains, STRANGER};
use crate::support::log_folder::{NODE, entry_at, folder, keys_of, open, write_registry};
use crate::support::{VECTORS, free_base, run, stderr, stdout};

const APP_ID: u64 = 31338;
/// The blocks of the embedded chain after which one is final, and some more.
const FINAL_AFTER: u64 = 70;

/// Recorded group messages.
fn recorded() -> Vec<Bytes> {
    let lines = fs::read_to_string(VECTORS).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_groups = lines.filter(|line| line["expect_route"] == "chain:group");
    of_groups.map(|line| hex::decode(line["hex"].as_str().unwrap()).unwrap().into()).collect()
}

/// Broadcasts a group message. Returns the hash of the transaction.
fn broadcast(chains: &Chains, client: &Bytes) -> [u8; 32] {
    let topic = ClientEnvelope::parse(client.clone()).unwrap().topic().clone();
    let call = GroupMessageBroadcaster::addMessageCall {
        groupId_: FixedBytes::from_slice(topic.identifier()),
        message_: client.clone().into(),
    };
    let call = Call::new(chains.contract("groupMessageBroadcaster"), &call);
    let key = deploy::accounts().swap_remove(STRANGER);
    Runtime::new().unwrap().block_on(async {
        let chain = Chain::connect(&chains.app, APP_ID).await.unwrap();
        Sender::new(chain, key).send(&call).await.unwrap().transaction_hash.0
    })
}

/// Makes all blocks so far final.
fn finalise(chains: &Chains) {
    Runtime::new().unwrap().block_on(async {
        let chain = Chain::connect(&chains.app, APP_ID).await.unwrap();
        let mined = chain.provider().raw_request::<_, Value>("anvil_mine".into(), [FINAL_AFTER]);
        mined.await.unwrap();
    });
}

/// The envelope of the app chain's group messages at a place.
fn of_chain(sequence: u64, client: &Bytes, transaction: [u8; 32]) -> Bytes {
    let payer =
        pb::PayerEnvelope { unsigned_client_envelope: client.clone(), ..Default::default() };
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: 0,
        originator_sequence_id: sequence,
        originator_ns: 5,
        payer_envelope_bytes: payer.encode_to_vec().into(),
        ..Default::default()
    };
    OriginatorEnvelope::encode(statement.encode_to_vec().into(), Proof::Transaction(transaction))
}

/// An envelope that the node has signed at this time, and that depends on a place of the group messages.
fn depending(client: &Bytes, originator_ns: i64, on: u64) -> Bytes {
    let mut client = pb::ClientEnvelope::decode(client.clone()).unwrap();
    let cursor = pb::Cursor { node_id_to_sequence_id: [(0, on)].into() };
    client.aad.as_mut().unwrap().depends_on = Some(cursor);
    let payer = SecretKey::from_bytes(&[9; 32]).unwrap();
    let paid = PayerEnvelope::sign(client.encode_to_vec().into(), OriginatorId(NODE), 60, &payer);
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: NODE,
        originator_sequence_id: 3,
        originator_ns,
        payer_envelope_bytes: paid.encode_to_vec().into(),
        ..Default::default()
    };
    UnsealedEnvelope::new(&statement).seal(&SecretKey::from_bytes(&[2; 32]).unwrap())
}

/// A node that keeps one report, without a signature.
struct Keeper(Bytes);

#[tonic::async_trait]
impl MisbehaviorApi for Keeper {
    async fn submit_misbehavior_report(
        &self,
        _: Request<message_api::SubmitMisbehaviorReportRequest>,
    ) -> Result<Response<message_api::SubmitMisbehaviorReportResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn query_misbehavior_reports(
        &self,
        request: Request<message_api::QueryMisbehaviorReportsRequest>,
    ) -> Result<Response<message_api::QueryMisbehaviorReportsResponse>, Status> {
        let report = message_api::MisbehaviorReport {
            server_time_ns: 1,
            unsigned_misbehavior_report: self.0.clone(),
            signature: None,
        };
        let is_first = request.into_inner().after_ns == 0;
        let reports = is_first.then_some(report).into_iter().collect();
        Ok(Response::new(message_api::QueryMisbehaviorReportsResponse { reports }))
    }
}

/// Serves a report. Returns the address of the node.
fn keep(runtime: &Runtime, report: Bytes) -> String {
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(MisbehaviorApiServer::new(Keeper(report)));
    runtime.spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    format!("http://{address}")
}

/// Judges a report of a chain's envelope, as [`judge_of`] does.
fn judge(chains: &Chains, envelope: &Bytes, flags: &[&str]) -> (i32, String, Value) {
    judge_of(chains, MisbehaviorKind::BlockchainInconsistency, envelope, flags)
}

/// Judges a report of an envelope. Returns the exit code, the name of the first fact, and the last line.
fn judge_of(
    chains: &Chains,
    kind: MisbehaviorKind,
    envelope: &Bytes,
    flags: &[&str],
) -> (i32, String, Value) {
    let keys = keys_of(NODE, &SecretKey::from_bytes(&[2; 32]).unwrap());
    let envelopes = std::slice::from_ref(envelope);
    let report = client_safety_report(5, OriginatorId(NODE), kind, envelopes).unwrap().to_bytes();
    let held = FiledReport { report, host_signature: None, host: None, server_time_ns: None };
    let file = Judged::file("test", &[held], &[], &keys);
    let path = chains.folder.path().join("evidence.json");
    fs::write(&path, serde_json::to_string(&file).unwrap()).unwrap();
    let path = path.to_str().unwrap();
    let output = run(&[&["audit", "report", "--json", path, "--registry", path], flags].concat());
    let shown = stdout(&output);
    let line = |line: Option<&str>| serde_json::from_str::<Value>(line.unwrap()).unwrap();
    let fact = line(shown.lines().next())["facts"][0]["fact"].as_str().unwrap().to_owned();
    (output.status.code().unwrap(), fact, line(shown.lines().last()))
}

#[test]
fn chain_envelopes_are_judged_by_final_blocks_if_a_flag_names_the_chain() {
    let chains = Chains::start();
    let addresses = chains.folder.path().join("chain.json");
    let addresses = addresses.to_str().unwrap();
    let messages = recorded();
    let transaction = broadcast(&chains, &messages[0]);
    let as_on_chain = of_chain(1, &messages[0], transaction);
    let known = ["--app-rpc-url", &chains.app, "--chain-json", addresses];
    let verdict = |envelope: &Bytes| {
        let (code, fact, last) = judge(&chains, envelope, &known);
        assert_eq!(last["chain_errors"], json!([]), "{last}");
        (code, fact)
    };
    let unknown = (6, "chain_unknown".to_owned());
    assert_eq!(verdict(&as_on_chain), unknown, "its block is not final");
    finalise(&chains);
    assert_eq!(verdict(&as_on_chain), (7, "as_on_chain".to_owned()));
    let is_false = (5, "false_chain_envelope".to_owned());
    assert_eq!(verdict(&of_chain(1, &messages[1], transaction)), is_false, "other content");
    assert_eq!(verdict(&of_chain(9, &messages[0], transaction)), is_false, "no such event");
    assert_eq!(verdict(&of_chain(1, &messages[0], [9; 32])), is_false, "it is in another one");
    assert_eq!(verdict(&of_chain(9, &messages[0], [9; 32])), unknown, "no such transaction");

    let (code, _, last) = judge(&chains, &as_on_chain, &[]);
    assert_eq!((code, &last["chain"]), (6, &Value::Null), "no flag names a chain");
    let (code, _, last) = judge(&chains, &as_on_chain, &known);
    let read = last["chain"].as_str().unwrap();
    assert_eq!(code, 7);
    assert!(read.starts_with("app chain 31338 up to") && read.ends_with(&chains.app), "{read}");

    // All endpoints have to answer.
    let dead = format!("http://127.0.0.1:{}", free_base(0));
    for urls in [dead.clone(), format!("{},{dead}", chains.app)] {
        let named = ["--app-rpc-url", &urls, "--chain-json", addresses];
        let (code, fact, last) = judge(&chains, &as_on_chain, &named);
        assert_eq!((code, fact), unknown, "{urls}");
        let error = last["chain_errors"][0].as_str().unwrap();
        assert!(error.starts_with(&format!("the app chain could not be asked: {dead}")), "{error}");
    }
    let twice = format!("{0},{0}", chains.app);
    let twice = ["--app-rpc-url", &twice, "--chain-json", addresses];
    assert_eq!(judge(&chains, &as_on_chain, &twice).0, 7);

    // Another chain answers nothing, and the settlement chain alone is not asked.
    let other = ["--app-rpc-url", &chains.settlement, "--chain-json", addresses];
    let (code, fact, last) = judge(&chains, &as_on_chain, &other);
    assert_eq!((code, fact), unknown, "{last}");
    let path = chains.folder.path().join("evidence.json");
    let path = path.to_str().unwrap();
    let output = run(&["audit", "report", path, "--rpc-url", &chains.settlement]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = stderr(&output);
    assert!(text.contains("contracts.app-chain.rpc-url"), "{text}");
}

#[test]
fn dependencies_on_places_of_the_chain_are_judged_by_the_times_of_final_blocks() {
    let chains = Chains::start();
    let addresses = chains.folder.path().join("chain.json");
    let addresses = addresses.to_str().unwrap();
    let message = recorded().swap_remove(0);
    broadcast(&chains, &message);
    let known = ["--app-rpc-url", &chains.app, "--chain-json", addresses];
    // Decades before the event, and decades after it.
    let (before, after) = (5, 4_000_000_000_000_000_000);
    let verdict = |originator_ns: i64, on: u64| {
        let envelope = depending(&message, originator_ns, on);
        let (code, fact, last) =
            judge_of(&chains, MisbehaviorKind::CausalOrdering, &envelope, &known);
        assert_eq!(last["chain_errors"], json!([]), "{last}");
        (code, fact)
    };
    let unknown = (6, "dependency_unknown".to_owned());
    assert_eq!(verdict(before, 1), unknown, "its block is not final");
    finalise(&chains);
    assert_eq!(verdict(before, 1), (5, "dependency_later".to_owned()));
    assert_eq!(verdict(before, 9), (5, "dependency_absent".to_owned()), "a lower place is later");
    assert_eq!(verdict(after, 1), (7, "dependencies_hold".to_owned()));
    assert_eq!(verdict(after, 9), unknown, "no event is that late");

    let envelope = depending(&message, before, 1);
    a_network_is_judged(&chains, &envelope, &known);
    let (code, fact, last) = judge_of(&chains, MisbehaviorKind::CausalOrdering, &envelope, &[]);
    assert_eq!((code, fact, &last["chain"]), (6, unknown.1.clone(), &Value::Null));
    let dead = format!("{},http://127.0.0.1:{}", chains.app, free_base(0));
    let named = ["--app-rpc-url", &dead, "--chain-json", addresses];
    let (code, fact, _) = judge_of(&chains, MisbehaviorKind::CausalOrdering, &envelope, &named);
    assert_eq!((code, fact), unknown, "all endpoints have to answer");
}

/// Collects the reports of a node that keeps one of this envelope.
fn a_network_is_judged(chains: &Chains, envelope: &Bytes, known: &[&str]) {
    let (kind, envelopes) = (MisbehaviorKind::CausalOrdering, std::slice::from_ref(envelope));
    let report = client_safety_report(5, OriginatorId(NODE), kind, envelopes).unwrap().to_bytes();
    let runtime = Runtime::new().unwrap();
    let url = keep(&runtime, report);
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let registry = write_registry(chains.folder.path(), "keys.evidence", NODE, &key);
    let registry = registry.to_str().unwrap();
    let audit = ["audit", "network", "--json", "--registry", registry, "--nodes", &url];
    for (flags, is_asked) in [(&[][..], false), (known, true)] {
        let output = run(&[&audit[..], flags].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let shown = stdout(&output);
        let lines = shown.lines().map(|line| serde_json::from_str(line).unwrap());
        let lines: Vec<Value> = lines.collect();
        assert_eq!((&lines[0]["proven"], &lines[0]["claims"][0]["kind"]), (&json!([]), &json!(6)));
        assert_eq!(lines[1]["chain"].is_string(), is_asked, "{lines:?}");
    }
}

/// An envelope of the newest time at which a list judges fees, which states `more` picodollars than the rate gives.
fn priced(sequence: u64, (table, rate): (&RateTable, &Rate), more: u64) -> LogEntry {
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let second = table.complete_until_ns().unwrap() / 1_000_000_000 - 1_750_000_000;
    let mut entry = entry_at(&key, sequence, second.try_into().unwrap());
    let signed = pb::OriginatorEnvelope::decode(entry.bytes.clone()).unwrap();
    let statement = signed.unsigned_originator_envelope;
    let mut statement = pb::UnsignedOriginatorEnvelope::decode(statement).unwrap();
    let charge = entry.facts.as_mut().unwrap().charge.as_mut().unwrap();
    let fee = base_fee(rate, charge.size_bytes, charge.retention_days).unwrap().0 + more;
    (statement.base_fee_picodollars, charge.stated_picodollars) = (fee, PicoDollarPrice(fee));
    entry.bytes = UnsealedEnvelope::new(&statement).seal(&key);
    entry
}

#[test]
fn a_replay_judges_fees_by_the_rates_of_the_settlement_chain_if_a_flag_names_it() {
    let chains = Chains::start();
    let addresses = chains.folder.path().join("chain.json");
    let addresses = addresses.to_str().unwrap();
    let file = chains.json(ADMIN, &["registry", "rates", "list", "--rates-file"]).to_string();
    let table = parse_for_judging(&file).unwrap();
    let by = (&table, &table.rates()[0]);
    let (data, registry) = folder(chains.folder.path(), "data", 0);
    let envelopes = [priced(1, by, 0), priced(2, by, 0), priced(3, by, 1)].map(Change::Append);
    open(&data, &SecretKey::from_bytes(&[2; 32]).unwrap()).commit(&envelopes).unwrap();
    let rates = chains.folder.path().join("rates.json");
    fs::write(&rates, &file).unwrap();
    let [data, registry, rates] = [&data, &registry, &rates].map(|path| path.to_str().unwrap());
    let audit = ["audit", "replay", "--from", data, "--registry", registry];
    let report = |flags: &[&str]| {
        let output = run(&[&audit[..], &["--json"], flags].concat());
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), shown)
    };
    let known = ["--rpc-url", &chains.settlement, "--chain-json", addresses];

    let (code, unjudged) = report(&[]);
    assert_eq!(code, 0, "{unjudged}");
    assert!(unjudged["unchecked"].to_string().contains("there are no rates"), "{unjudged}");
    let (code, by_chain) = report(&known);
    assert_eq!((code, &by_chain["faults"]), (8, &json!({ "fee": 1 })), "{by_chain}");
    assert_eq!(by_chain["first_faults"][0]["sequence_id"], 3, "{by_chain}");
    let keys = by_chain["keys"].as_str().unwrap();
    assert!(keys.contains("on settlement chain 31337, on the word of http://"), "{keys}");
    // The other command reads the same list from the chain.
    let (_, by_file) = report(&["--rates", rates]);
    for field in ["faults", "first_faults", "strands", "unchecked"] {
        assert_eq!(by_chain[field], by_file[field], "{field}");
    }

    let refused = |code: i32, named: &str, flags: &[&str]| {
        let output = run(&[&audit[..], flags].concat());
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(output.stdout.is_empty(), "no verdict without the chain: {output:?}");
        assert!(stderr(&output).contains(named), "{named}: {output:?}");
    };
    let dead = format!("http://127.0.0.1:{}", free_base(0));
    let named = "the rates of the settlement chain: ";
    refused(1, named, &["--rpc-url", &dead, "--chain-json", addresses]);
    refused(1, &dead, &["--rpc-url", &dead, "--chain-json", addresses]);
    refused(1, named, &["--rpc-url", &chains.app, "--chain-json", addresses]);
    let no_contract = format!("0x{}", "11".repeat(20));
    let other = ["--contracts.settlement-chain.rate-registry-address", &no_contract];
    refused(1, named, &[&known[..], &other].concat());
    let app_alone = ["--app-rpc-url", &chains.app, "--chain-json", addresses];
    refused(2, "contracts.settlement-chain.rpc-url", &app_alone);
    refused(2, "rates are given twice", &[&known[..], &["--rates", rates]].concat());
}

/// An endpoint that answers first has invented a rate. By its list alone, honest fees would be judged as wrong ones,
/// and an honest bill would differ.
#[test]
fn rates_that_another_endpoint_contradicts_judge_no_fee() {
    let (honest, liar) = (Chains::start(), Chains::start());
    assert_eq!(honest.contract("rateRegistry"), liar.contract("rateRegistry"), "one network");
    let add = ["registry", "rates", "add", "--message-fee", "101", "--storage-fee", "202"];
    let rest = ["--congestion-fee", "303", "--target-rate-per-minute", "6000"];
    liar.json(ADMIN, &[&add[..], &rest].concat());
    let addresses = honest.folder.path().join("chain.json");
    let (data, registry) = folder(honest.folder.path(), "data", 1);
    let [data, registry, addresses] =
        [&data, &registry, &addresses].map(|path| path.to_str().unwrap());
    let by = |command: &[&str], urls: &str| {
        run(&[command, &["--rpc-url", urls, "--chain-json", addresses]].concat())
    };
    let replay = ["audit", "replay", "--from", data, "--registry", registry];
    let bill = ["payer", "usage", &honest.accounts[STRANGER], "--verify", "--from", data];
    let estimate = ["payer", "estimate", "--size", "350"];
    for command in [&replay[..], &bill, &estimate] {
        let refused = by(command, &format!("{},{}", liar.settlement, honest.settlement));
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.stdout.is_empty(), "no verdict: {refused:?}");
        assert!(stderr(&refused).contains("an endpoint lies or is behind"), "{refused:?}");
    }
    for command in [&replay[..], &bill] {
        let alone = by(command, &honest.settlement);
        assert!(stdout(&alone).contains("verdict: "), "{alone:?}");
    }
}

/// An endpoint that answers first has invented a node, whose key would vouch for what no node of the network signed.
#[test]
fn nodes_that_another_endpoint_contradicts_are_in_no_registry_file() {
    let (honest, liar) = (Chains::start(), Chains::start());
    assert_eq!(honest.contract("nodeRegistry"), liar.contract("nodeRegistry"), "one network");
    let key = SecretKey::from_bytes(&[2; 32]).unwrap().public_key();
    let key = format!("0x{}", hex::encode(key.as_bytes()));
    let add = ["registry", "node", "add", "--owner", &liar.accounts[STRANGER]];
    let rest = ["--public-key", &key, "--http-address", "http://localhost:5050"];
    liar.json(ADMIN, &[&add[..], &rest].concat());
    let addresses = honest.folder.path().join("chain.json");
    let listed = |urls: &str| {
        let list = ["registry", "node", "list", "--registry-file", "--no-absences", "--rpc-url"];
        run(&[&list[..], &[urls, "--chain-json", addresses.to_str().unwrap()]].concat())
    };
    let refused = listed(&format!("{},{}", liar.settlement, honest.settlement));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stdout.is_empty(), "no file: {refused:?}");
    assert!(stderr(&refused).contains("an endpoint lies or is behind"), "{refused:?}");
    let alone = listed(&honest.settlement);
    assert!(alone.status.success(), "{alone:?}");
}
