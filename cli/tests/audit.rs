//! A separate process judges evidence with only the keys, and nodes keep submitted reports.

use std::fs;
use std::path::{Path, PathBuf};

use hawser_audit::evidence_file::FiledReport;
use hawser_audit::{Judged, KnownKeys};
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
use hawser_proto::merkle::TreeHash;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, OriginatorId, PublicKey, SecretKey, SequenceId};
use hawser_rules::misbehavior::report::{digest, own_safety_report};
use hawser_rules::misbehavior::{MisbehaviorKind, TreeEvidence, TreeFault};
use hawser_rules::{PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable, Registry};
use hawser_storage::{ChainPosition, Change, Facts, LogEntry, PayerReportChange, PayerReportEvent};
use prost::Message as _;
use serde_json::Value;

use crate::support::log_folder::{entry, entry_at, folder, open, record};
use crate::support::{self, Dev, free_base, hawser, json, run, stdout};

const ACCUSED: u32 = 200;

fn statement(key: &SecretKey, sequence: u64, text: &'static [u8], ns: i64) -> Bytes {
    let accused = OriginatorId(ACCUSED);
    let payer = PayerEnvelope::sign(Bytes::from_static(text), accused, 30, key);
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: ACCUSED,
        originator_sequence_id: sequence,
        originator_ns: ns,
        payer_envelope_bytes: payer.encode_to_vec().into(),
        ..Default::default()
    };
    UnsealedEnvelope::new(&statement).seal(key)
}

fn keys(nodes: &[(u32, PublicKey)]) -> KnownKeys {
    let registry: Registry = nodes.iter().map(|(id, key)| record(*id, *key)).collect();
    KnownKeys { registry, rates: None }
}

/// Writes an evidence file of one report, which `host` signed.
fn write(
    place: &Path,
    name: &str,
    (kind, envelopes, time_ns): (MisbehaviorKind, &[Bytes], u64),
    host: &SecretKey,
    keys: &KnownKeys,
) -> PathBuf {
    let report = own_safety_report(time_ns, OriginatorId(ACCUSED), kind, envelopes).unwrap();
    let report = report.to_bytes();
    let signature = Bytes::copy_from_slice(host.sign(digest(&report)).as_bytes());
    let held = FiledReport {
        report,
        host_signature: Some(signature),
        host: None,
        server_time_ns: Some(time_ns),
    };
    let file = Judged::file("test", &[held], &[], keys);
    let path = place.join(name);
    fs::write(&path, serde_json::to_string(&file).unwrap()).unwrap();
    path
}

#[test]
fn a_process_of_its_own_judges_evidence_offline_and_exits_by_the_verdict() {
    let place = tempfile::tempdir().unwrap();
    let [host, accused] = [1, 2].map(|seed| SecretKey::from_bytes(&[seed; 32]).unwrap());
    let keys = keys(&[(100, host.public_key()), (ACCUSED, accused.public_key())]);
    let at = |sequence, text, ns| statement(&accused, sequence, text, ns);
    let two = [at(7, b"one", 5), at(7, b"two", 5)];
    let same = [at(7, b"one", 5), at(7, b"one", 5)];
    let gap = [at(7, b"one", 5), at(9, b"two", 5)];
    for (name, kind, envelopes, code, verdict) in [
        ("proven", MisbehaviorKind::DuplicateSequenceId, &two, 0, "proven"),
        ("claim", MisbehaviorKind::OutOfOrder, &gap, 5, "claim"),
        ("refuted", MisbehaviorKind::DuplicateSequenceId, &same, 7, "refuted"),
    ] {
        let path = write(place.path(), name, (kind, envelopes, 5), &host, &keys);
        let path = path.to_str().unwrap();
        let output = run(&["audit", "report", path, "--registry", path]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(stdout(&output).starts_with(verdict), "{output:?}");
        assert!(stdout(&output).contains("kept by node 100, which says that it saw it"));
        let output = run(&["misbehavior", "verify", "--json", path, "--registry", path]);
        assert_eq!(output.status.code(), Some(code));
        let first: Value = serde_json::from_str(stdout(&output).lines().next().unwrap()).unwrap();
        assert_eq!(first["verdict"], verdict);
        assert_eq!(first["misbehaving_node_id"], ACCUSED);
    }
    // With the keys of the writer of the file nothing is proven: those of the reader decide.
    let forger = SecretKey::from_bytes(&[9; 32]).unwrap();
    let forged = [b"one", b"two"].map(|text| statement(&forger, 7, text, 5));
    let own_keys = self::keys(&[(100, host.public_key()), (ACCUSED, forger.public_key())]);
    let kind = MisbehaviorKind::DuplicateSequenceId;
    let path = write(place.path(), "forged", (kind, &forged, 5), &host, &own_keys);
    let honest = write(place.path(), "honest", (kind, &two, 5), &host, &keys);
    let output = run(&["audit", "report", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(5));
    assert!(stdout(&output).contains("taken on trust"));
    let with_keys = ["audit", "report", path.to_str().unwrap(), "--registry"];
    let output = run(&[&with_keys[..], &[honest.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(7), "{output:?}");

    fs::write(place.path().join("noise"), "noise").unwrap();
    let noise = place.path().join("noise");
    assert_eq!(run(&["audit", "report", noise.to_str().unwrap()]).status.code(), Some(1));
    assert_eq!(run(&["audit", "report", "nowhere"]).status.code(), Some(4));
}

/// An accuser adds a price list by which an honest node's fees are wrong. With the reader's keys, it is not used.
#[test]
fn rates_of_the_accuser_prove_nothing_with_the_keys_of_the_reader() {
    let place = tempfile::tempdir().unwrap();
    let [host, accused] = [1, 2].map(|seed| SecretKey::from_bytes(&[seed; 32]).unwrap());
    let known = keys(&[(100, host.public_key()), (ACCUSED, accused.public_key())]);
    let made_up = Rate {
        start_unix_s: 0,
        message_fee: PicoDollarPrice(1 << 40),
        storage_fee: PicoDollarsPerByteDay(0),
        congestion_fee: PicoDollarPrice(0),
        target_rate_per_minute: 10,
    };
    let rates = RateTable::new(vec![made_up], Some(1_750_000_001_000_000_000)).ok();
    let of_accuser = KnownKeys { registry: known.registry.clone(), rates };
    let kind = MisbehaviorKind::InvalidPayload;
    let honest = [entry(&accused, 1).bytes];
    let accusation = write(place.path(), "made-up", (kind, &honest, 5), &host, &of_accuser);
    let of_reader = write(place.path(), "keys", (kind, &honest, 5), &host, &known);
    let [accusation, of_reader] = [&accusation, &of_reader].map(|path| path.to_str().unwrap());
    let output = run(&["audit", "report", accusation]);
    assert_eq!(output.status.code(), Some(5), "on trust it is a claim: {output:?}");
    let output = run(&["audit", "report", accusation, "--registry", of_reader]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let shown = stdout(&output);
    assert!(shown.contains("to decide it takes: rates"), "{output:?}");
    assert!(shown.contains("rates: none were given") && shown.contains("--rates FILE"), "{shown}");
    let output = run(&["--json", "audit", "report", accusation, "--registry", of_reader]);
    let last: serde_json::Value =
        serde_json::from_str(stdout(&output).lines().last().unwrap()).unwrap();
    assert_eq!(last["verdict"], "inconclusive");
    assert!(last["rates"].as_str().unwrap().contains("--rates FILE"), "{last}");
    // The output distinguishes a list that begins behind the envelope from a missing list, and names neither where
    // rates decide nothing.
    let rates = place.path().join("rates.json");
    let with_rates = |start_unix_s: u64, complete_until: Option<u64>| {
        let rate = serde_json::json!({
            "messageFee": 1, "storageFee": 0, "congestionFee": 0, "targetRatePerMinute": 10, "startTime": start_unix_s,
        });
        let mut file = serde_json::json!({ "rates": [rate] });
        if let Some(until) = complete_until {
            file["completeUntil"] = until.into();
        }
        fs::write(&rates, file.to_string()).unwrap();
        let rates = rates.to_str().unwrap();
        stdout(&run(&["audit", "report", accusation, "--registry", of_reader, "--rates", rates]))
    };
    // A list that may lack the envelope's rate counts as one that does not cover it: honest nodes apply newer rates.
    let envelope_unix_s = 1_750_000_001;
    for (start_unix_s, complete_until) in
        [(1 << 40, None), (0, None), (0, Some(envelope_unix_s)), (0, Some(envelope_unix_s + 299))]
    {
        let shown = with_rates(start_unix_s, complete_until);
        assert!(
            shown.contains("rates: the given ones do not cover"),
            "{complete_until:?}: {shown}"
        );
        assert!(shown.contains("to decide it takes: rates"), "{complete_until:?}: {shown}");
    }
    let shown = with_rates(0, Some(envelope_unix_s + 300));
    assert!(!shown.contains("--rates FILE"), "{shown}");
    assert!(!shown.contains("to decide it takes: rates"), "{shown}");
}

/// Any caller can add a worthless report to those that a node keeps.
#[test]
fn a_worthless_report_takes_nothing_from_a_proof_beside_it() {
    let place = tempfile::tempdir().unwrap();
    let [host, accused] = [1, 2].map(|seed| SecretKey::from_bytes(&[seed; 32]).unwrap());
    let keys = keys(&[(100, host.public_key()), (ACCUSED, accused.public_key())]);
    let at = |sequence, text, ns| statement(&accused, sequence, text, ns);
    let reports = [
        (MisbehaviorKind::DuplicateSequenceId, [at(7, b"one", 5), at(7, b"one", 5)]),
        (MisbehaviorKind::DuplicateSequenceId, [at(7, b"one", 5), at(7, b"two", 5)]),
        (MisbehaviorKind::OutOfOrder, [at(7, b"one", 5), at(9, b"two", 5)]),
    ];
    let held = reports.map(|(kind, envelopes)| {
        let report = own_safety_report(5, OriginatorId(ACCUSED), kind, &envelopes).unwrap();
        FiledReport {
            report: report.to_bytes(),
            host_signature: None,
            host: None,
            server_time_ns: None,
        }
    });
    let file = Judged::file("test", &held, &[], &keys);
    let path = place.path().join("mixed");
    fs::write(&path, serde_json::to_string(&file).unwrap()).unwrap();
    let path = path.to_str().unwrap();
    let output = run(&["audit", "report", path, "--registry", path]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).contains("verdicts: 1 proven, 1 claim, 1 refuted"), "{output:?}");
    let output = run(&["audit", "report", "--json", path, "--registry", path]);
    let last: Value = serde_json::from_str(stdout(&output).lines().last().unwrap()).unwrap();
    assert_eq!(last["verdict"], "proven");
    assert_eq!(last["counts"], serde_json::json!({ "proven": 1, "claim": 1, "refuted": 1 }));
    assert_eq!(run(&["audit", "report", path]).status.code(), Some(5), "with keys on trust");
}

#[test]
fn checkpoints_that_contradict_each_other_are_judged_offline() {
    let place = tempfile::tempdir().unwrap();
    let [accused, other] = [2, 3].map(|seed| SecretKey::from_bytes(&[seed; 32]).unwrap());
    let keys = keys(&[(ACCUSED, accused.public_key())]);
    let signed = |root: u8, size, key: &SecretKey| {
        let (node, root) = (OriginatorId(ACCUSED), TreeHash([root; 32]));
        let of = Checkpoint { node, originator: node, size, root, time_ns: size };
        Bytes::copy_from_slice(&of.sign(key).encode())
    };
    let first = signed(1, 7, &accused);
    for (name, fault, pieces, code) in [
        ("proven", TreeFault::TwoCheckpoints, vec![first.clone(), signed(2, 7, &accused)], 0),
        ("claim", TreeFault::OtherTree, vec![first.clone()], 5),
        ("inconclusive", TreeFault::TwoCheckpoints, vec![first.clone(), signed(2, 8, &accused)], 6),
        ("refuted", TreeFault::TwoCheckpoints, vec![first.clone(), signed(2, 7, &other)], 7),
    ] {
        let file = Judged::file("test", &[], &[TreeEvidence { fault, pieces }], &keys);
        let path = place.path().join(name);
        fs::write(&path, serde_json::to_string(&file).unwrap()).unwrap();
        let path = path.to_str().unwrap();
        let output = run(&["audit", "report", path, "--registry", path]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(stdout(&output).starts_with(name), "{output:?}");
        let output = run(&["audit", "report", "--json", path, "--registry", path]);
        let first: Value = serde_json::from_str(stdout(&output).lines().next().unwrap()).unwrap();
        assert_eq!((&first["verdict"], &first["fault"]), (&name.into(), &fault.name().into()));
    }
}

#[test]
fn a_network_keeps_what_strangers_prove_and_can_be_audited() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(2), &["--nodes", "2"]);
    let nodes = dev.network["nodes"].as_array().unwrap();
    let key_file = Path::new(nodes[1]["data_dir"].as_str().unwrap()).with_file_name("key");
    let accused = SecretKey::from_hex(&fs::read_to_string(key_file).unwrap()).unwrap();
    let host = SecretKey::from_bytes(&[9; 32]).unwrap();
    let network = place.path().join("network.json");
    let network = network.to_str().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now_ns = u64::try_from(now.as_nanos()).unwrap();
    let two = [b"one", b"two"].map(|text| statement(&accused, 7, text, 5));
    let kind = MisbehaviorKind::DuplicateSequenceId;
    let keys = keys(&[(ACCUSED, accused.public_key())]);
    let file = write(place.path(), "two", (kind, &two, now_ns), &host, &keys);
    let node = dev.text(0, "grpc");
    let file = file.to_str().unwrap();
    assert_eq!(json(&["misbehavior", "submit", "--json", "--node", &node, file])["submitted"], 1);
    // A report that the node refuses does not keep it from the next one.
    let mut both: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let old = write(place.path(), "old", (kind, &two, 5), &host, &keys);
    let old: Value = serde_json::from_str(&fs::read_to_string(old).unwrap()).unwrap();
    both["reports"].as_array_mut().unwrap().insert(0, old["reports"][0].clone());
    let both_path = place.path().join("both");
    fs::write(&both_path, both.to_string()).unwrap();
    let output =
        run(&["misbehavior", "submit", "--json", "--node", &node, both_path.to_str().unwrap()]);
    assert!(!output.status.success(), "one is refused");
    let submission: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&submission["submitted"], &submission["refused"][0]["report"]),
        (&1.into(), &1.into())
    );

    let out = place.path().join("kept.evidence");
    let out = out.to_str().unwrap();
    let metrics = dev.text(0, "metrics");
    let export = ["misbehavior", "export", "--node", &node, "--registry", network];
    let export = [&export[..], &["--metrics", &metrics]].concat();
    let kept = json(&[&export[..], &["--json", "--out", out]].concat());
    assert_eq!(kept["reports"], 1, "the same fact is kept once");
    assert_eq!((&kept["trees"], &kept["has_more"]), (&0.into(), &false.into()));
    let file: Value = serde_json::from_str(&fs::read_to_string(out).unwrap()).unwrap();
    let contract = file["registry_source"]["contract"].as_str().unwrap();
    let of_network = dev.network["contracts"]["nodeRegistry"].as_str().unwrap();
    assert!(contract.eq_ignore_ascii_case(of_network), "{contract} is not {of_network}");
    let chain_id = &dev.network["settlement_chain"]["chain_id"];
    assert_eq!(&file["registry_source"]["chain_id"], chain_id);
    let time = kept["last"].as_u64().unwrap().to_string();
    let show = ["misbehavior", "show", "--json", "--node", &node, "--registry", network, &time];
    let shown = json(&show);
    assert_eq!((&shown["verdict"], &shown["host_node_id"]), (&"proven".into(), &100.into()));
    assert!(dev.stop().success());

    // All of it is judged after the network is gone.
    let output = run(&["audit", "report", out, "--registry", network]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn the_nodes_of_a_network_are_asked_together() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(2), &["--nodes", "2"]);
    let nodes = dev.network["nodes"].as_array().unwrap();
    let key_file = Path::new(nodes[1]["data_dir"].as_str().unwrap()).with_file_name("key");
    let accused = SecretKey::from_hex(&fs::read_to_string(key_file).unwrap()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now_ns = u64::try_from(now.as_nanos()).unwrap();
    let two = [b"one", b"two"].map(|text| statement(&accused, 7, text, 5));
    let kind = MisbehaviorKind::DuplicateSequenceId;
    let keys = keys(&[(ACCUSED, accused.public_key())]);
    let file = write(place.path(), "two", (kind, &two, now_ns), &accused, &keys);
    let network = place.path().join("network.json");
    let audit = ["audit", "network", "--json", "--registry", network.to_str().unwrap()];
    let url = format!("http://{}", dev.text(0, "grpc"));
    let asked = format!("{url},http://127.0.0.1:1");
    // A node that could not be asked may keep the only proof.
    let output = run(&[&audit[..], &["--nodes", &asked]].concat());
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    for node in [0, 1].map(|node| dev.text(node, "grpc")) {
        json(&["misbehavior", "submit", "--json", "--node", &node, file.to_str().unwrap()]);
    }
    let registry = network.to_str().unwrap();
    // A log that shows nothing is not clean.
    let replayed = run(&["audit", "replay", "--json", "--from", &url, "--registry", registry]);
    assert_eq!(replayed.status.code(), Some(9), "{replayed:?}");
    let replayed: Value = serde_json::from_slice(&replayed.stdout).unwrap();
    assert_eq!(replayed["verdict"], "incomplete", "{replayed}");
    a_node_proves_its_envelopes(&dev, place.path());
    let output = run(&[&audit[..], &["--allow-private-nodes"]].concat());
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let lines: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0]["node_id"], ACCUSED);
    assert_eq!(lines[0]["proven"].as_array().unwrap().len(), 1, "two nodes keep one fact");
    assert_eq!((&lines[1]["nodes_asked"], &lines[1]["refuted"]), (&2.into(), &0.into()));
    // A proof stands beside a node that could not be asked.
    let output = run(&[&audit[..], &["--nodes", &asked]].concat());
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let last: Value = serde_json::from_str(stdout(&output).lines().last().unwrap()).unwrap();
    assert_eq!((&last["nodes_asked"], last["silent"].as_array().unwrap().len()), (&1.into(), 1));
    assert!(dev.stop().success());
}

#[test]
fn a_folder_is_replayed_and_what_lies_in_it_is_named() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 700);
    let [data_dir, registry] = [&data, &registry].map(|path| path.to_str().unwrap());
    let state = place.path().join("state");
    let state = state.to_str().unwrap();
    let replay = ["audit", "replay", "--from", data_dir, "--registry", registry, "--state", state];
    let clean = json(&[&replay[..], &["--json"]].concat());
    assert_eq!(clean["verdict"], "clean", "{clean}");
    let strand = &clean["strands"][0];
    assert_eq!((&strand["reached"], &strand["tree_size"]), (&700.into(), &700.into()));
    assert_eq!(strand["figures"]["envelopes"], 700);
    let output = run(&replay);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).contains("verdict: clean"), "{output:?}");

    // The log grows by an envelope that another key has signed. The replay goes on from where it was.
    let store = open(&data, &SecretKey::from_bytes(&[2; 32]).unwrap());
    let forged = entry(&SecretKey::from_bytes(&[3; 32]).unwrap(), 701);
    store.commit(&[Change::Append(forged)]).unwrap();
    drop(store);
    let output = run(&[&replay[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let faulty: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(faulty["verdict"], "faulty");
    assert_eq!(faulty["faults"], serde_json::json!({ "forged": 1 }), "{faulty}");
    assert_eq!(faulty["first_faults"][0]["sequence_id"], 701);
    let without_state = &replay[..6];
    let output = run(&[without_state, &["--threads", "1"]].concat());
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    assert!(stdout(&output).contains("200:701  forged, of the keeper"), "{output:?}");

    // A state of another log is refused, and so is a folder without one.
    let (other, _) = folder(place.path(), "other", 3);
    let other = other.to_str().unwrap();
    let of_other =
        run(&["audit", "replay", "--from", other, "--registry", registry, "--state", state]);
    assert_eq!(of_other.status.code(), Some(3), "{of_other:?}");
    let nowhere = place.path().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let output = run(&["audit", "replay", "--from", nowhere, "--registry", registry]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}

/// Readers may be shown the end of a strand before its signatures are checked. It counts for nothing yet.
#[test]
fn what_is_not_verified_yet_is_left_out_of_a_replay_and_named() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    let store = open(&data, &SecretKey::from_bytes(&[2; 32]).unwrap());
    let forged = entry(&SecretKey::from_bytes(&[3; 32]).unwrap(), 21);
    let forged = LogEntry { facts: forged.facts.map(Facts::unbooked), ..forged };
    store.commit_shown(&[Change::Append(forged)]).unwrap();
    drop(store);
    let [data, registry] = [&data, &registry].map(|path| path.to_str().unwrap());
    let replay = json(&["audit", "replay", "--from", data, "--registry", registry, "--json"]);
    assert_eq!(replay["verdict"], "clean", "{replay}");
    assert_eq!(replay["strands"][0]["reached"], 20, "{replay}");
    let unchecked = replay["unchecked"].as_array().unwrap();
    let is_named = |it: &Value| it.as_str().unwrap().starts_with("strand 200 behind place 20:");
    assert!(unchecked.iter().any(is_named), "{replay}");
}

/// Pruning by command reports the removed envelopes and why the others stay, and an audit of the rest finds no fault.
#[test]
fn a_folder_is_pruned_and_still_replays_clean() {
    let place = tempfile::tempdir().unwrap();
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let (data, registry) = folder(place.path(), "data", 0);
    let store = open(&data, &key);
    // The end of the report is dated when all have expired: it shows the time by then.
    let expiring = |at: u64| {
        let LogEntry { id, bytes, validity, facts } =
            entry_at(&key, at, if at < 200 { at } else { 9_999_800 + at });
        let expiry_unix_s = Some(1_750_000_000 + at + 30 * 86_400);
        let facts = facts.map(|facts| Facts { expiry_unix_s, ..facts });
        Change::Append(LogEntry { id, bytes, validity, facts })
    };
    store.commit(&(1..=300).map(expiring).collect::<Vec<_>>()).unwrap();
    let data_dir = data.to_str().unwrap();
    let submitted = PayerReportChange::Submitted {
        start: SequenceId(0),
        end: SequenceId(200),
        end_minute: 1_760_000_000 / 60,
        root: [1; 32],
        nodes: vec![OriginatorId(100), OriginatorId(200)],
    };
    drop(store);
    let nothing = json(&["prune", "--json", "--data-dir", data_dir]);
    assert_eq!((&nothing["pruned"], &nothing["compared_with_unix_s"]), (&0.into(), &0.into()));

    let store = open(&data, &key);
    let originator = OriginatorId(ACCUSED);
    let event =
        PayerReportEvent { block: 1, log_index: 0, originator, index: 0, change: submitted };
    store.record_payer_reports(0, &[event], ChainPosition { block: 1, hash: [1; 32] }).unwrap();
    drop(store);
    let would = json(&["prune", "--dry-run", "--json", "--data-dir", data_dir]);
    assert_eq!((&would["pruned"], &would["dry_run"]), (&199.into(), &true.into()), "{would}");
    assert_eq!(would["strands"][0]["stays"], serde_json::json!({ "not_reported": 101 }));
    let output = run(&["prune", "--dry-run", "--data-dir", data_dir]);
    assert!(stdout(&output).contains("strand 200: 199 envelopes would go"), "{output:?}");
    let total = "199 envelopes would go in all, of those that had expired at 2025-10-09T08:53:00";
    assert!(stdout(&output).contains(total), "{output:?}");
    let mut kept = hawser();
    kept.args(["prune", "--json", "--data-dir", data_dir]).env("XMTPD_PRUNE_DRY_RUN", "true");
    let kept = kept.output().unwrap();
    let kept: Value = serde_json::from_slice(&kept.stdout).unwrap();
    assert_eq!((&kept["pruned"], &kept["dry_run"]), (&199.into(), &true.into()), "{kept}");
    let done = json(&["prune", "--json", "--data-dir", data_dir]);
    assert_eq!((&done["pruned"], &done["dry_run"]), (&199.into(), &false.into()), "{done}");
    assert_eq!(json(&["prune", "--json", "--data-dir", data_dir])["pruned"], 0, "once");

    let registry = registry.to_str().unwrap();
    let replay = ["audit", "replay", "--json", "--from", data_dir, "--registry", registry];
    let clean = json(&replay);
    assert_eq!(clean["verdict"], "clean", "{clean}");
    let strand = &clean["strands"][0];
    assert_eq!((&strand["reached"], &strand["tree_size"]), (&300.into(), &300.into()));
    assert_eq!(strand["figures"]["envelopes"], 101);
    assert_eq!(strand["figures"]["absent"], serde_json::json!({ "pruned": 199 }));
    let rebuilt = json(&["rebuild", "--json", "--data-dir", data_dir]);
    assert_eq!(rebuilt["envelopes"], 101, "{rebuilt}");
    assert_eq!(json(&replay)["verdict"], "clean", "tallies come from the records");
}

/// Publishes at a node and has a stranger verify the proof of the first envelope.
fn a_node_proves_its_envelopes(dev: &Dev, place: &Path) {
    let (address, key) = (dev.text(0, "grpc"), dev.payer_key());
    // Some of the envelopes are for a chain that this network does not have.
    let target = ["--node", &address, "--payer-key-file", key.to_str().unwrap()];
    run(&[&["publish", "--file", support::session_file()], &target[..]].concat());
    let url = format!("http://{}", dev.text(0, "grpc"));
    let network = place.join("network.json");
    let network = network.to_str().unwrap();
    let file = place.join("proof.json");
    let file = file.to_str().unwrap();
    let prove = ["audit", "prove", "100:1", "--from", &url, "--registry", network, "--out", file];
    // The node signs a checkpoint within a second or so after the envelope.
    support::until("a checkpoint covers the envelope", || run(&prove).status.success());
    let proven = json(&["audit", "verify", "--json", file, "--registry", network]);
    assert_eq!(proven["verdict"], "proven", "{proven}");
    assert_eq!(
        (&proven["proof"]["originator_id"], &proven["proof"]["sequence_id"]),
        (&100.into(), &1.into())
    );
    let on_trust = run(&["audit", "verify", file]);
    assert_eq!(on_trust.status.code(), Some(5), "{on_trust:?}");
    assert_eq!(run(&prove).status.code(), Some(3), "a file is never replaced");

    let replayed = json(&["audit", "replay", "--json", "--from", &url, "--registry", network]);
    assert_eq!(replayed["verdict"], "clean", "{replayed}");

    let text = fs::read_to_string(file).unwrap();
    let mut changed: Value = serde_json::from_str(&text).unwrap();
    changed["hashes"] = serde_json::json!(vec!["00".repeat(32); 64]);
    let other = place.join("changed.json");
    fs::write(&other, changed.to_string()).unwrap();
    let refuted = run(&["audit", "verify", other.to_str().unwrap(), "--registry", network]);
    assert_eq!(refuted.status.code(), Some(7), "{refuted:?}");
}

/// Events of chains in it may not be verified yet, and neither a backup nor a snapshot has a sign of that.
#[test]
fn no_command_opens_a_folder_whose_import_has_not_come_to_its_end() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 3);
    fs::write(data.join("import-unfinished"), "of a snapshot").unwrap();
    let [backups, snapshots] = ["backups", "snapshots"].map(|name| place.path().join(name));
    let [data, backups, to] = [&data, &backups, &snapshots].map(|path| path.to_str().unwrap());
    let (backup, snapshot) =
        (["backup", "create", "--to", backups], ["snapshot", "create", "--to", to]);
    for command in [&backup[..], &snapshot, &["rebuild"], &["scrub"]] {
        let refused = run(&[command, &["--data-dir", data]].concat());
        assert_eq!(refused.status.code(), Some(3), "{refused:?}");
        assert!(support::stderr(&refused).contains("has not come to its end"), "{refused:?}");
    }
    // An import whose sides differ leaves its folder, to be looked at.
    let audited =
        run(&["audit", "replay", "--from", data, "--registry", registry.to_str().unwrap()]);
    let noted = support::stderr(&audited);
    assert!(noted.contains("has not come to its end"), "{audited:?}");
    assert!(noted.contains("reads the part that is there"), "{audited:?}");
    let made = fs::read_dir(Path::new(backups).join("manifests"));
    assert_eq!(made.map_or(0, Iterator::count), 0);
    assert!(!snapshots.exists());
    fs::remove_file(Path::new(data).join("import-unfinished")).unwrap();
    for command in [&backup, &snapshot] {
        assert!(run(&[&command[..], &["--data-dir", data]].concat()).status.success());
    }
}

/// A backup is audited where it is kept, and nothing there changes.
#[test]
fn a_backup_is_replayed_and_exported_like_the_folder_that_it_was_made_of() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 40);
    let (data, registry) = (data.to_str().unwrap(), registry.to_str().unwrap());
    let backups = place.path().join("backups");
    let kept = backups.to_str().unwrap();
    let first = json(&["backup", "create", "--json", "--data-dir", data, "--to", kept]);
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let changes = [Change::Append(entry(&key, 41))];
    open(Path::new(data), &key).commit(&changes).unwrap();
    run(&["backup", "create", "--data-dir", data, "--to", kept]);

    let replay = |from: &str, more: &[&str]| {
        let arguments = ["audit", "replay", "--json", "--from", from, "--registry", registry];
        run(&[&arguments[..], more].concat())
    };
    let strands = |output: &std::process::Output| {
        let report: Value = serde_json::from_str(stdout(output).lines().next().unwrap()).unwrap();
        assert_eq!(report["verdict"], "clean", "{report}");
        (report["strands"].clone(), report["strands"][0]["reached"].clone())
    };
    let of_folder = strands(&replay(data, &[]));
    assert_eq!(of_folder.1, 41);
    assert_eq!(strands(&replay(kept, &[])), of_folder, "the newest one");
    let name = first["backup"].as_str().unwrap();
    assert_eq!(strands(&replay(kept, &["--backup", name])).1, 40);
    assert_eq!(replay(kept, &["--backup", "none"]).status.code(), Some(4));
    assert_eq!(replay(data, &["--backup", name]).status.code(), Some(4), "no backups are there");

    let export = place.path().join("export");
    let export = export.to_str().unwrap();
    let done = json(&["audit", "export", "--json", "--from", kept, "--to", export]);
    assert_eq!(done["rows"], 41, "{done}");
    let again = json(&["audit", "export", "--json", "--from", data, "--to", export]);
    assert_eq!(again["rows"], 0, "the export of the backup is that of the folder");

    // A file that is not as it was written is named before anything of it is opened.
    let files = walk(&backups.join("files"));
    let table = files.iter().max_by_key(|it| fs::metadata(it).unwrap().len()).unwrap();
    let mut bytes = fs::read(table).unwrap();
    bytes[9] ^= 1;
    fs::write(table, bytes).unwrap();
    let refused = replay(kept, &[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
    entries.flat_map(|it| if it.is_dir() { walk(&it) } else { vec![it] }).collect()
}
