//! Evidence is judged by a process of its own, with nothing but keys; and nodes keep what is submitted.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use hawser_audit::file::HeldReport;
use hawser_audit::{Judged, KnownKeys};
use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Address, Bytes, OriginatorId, PublicKey, SecretKey};
use hawser_rules::misbehavior::Kind;
use hawser_rules::misbehavior::report::{digest, own_safety_report};
use hawser_rules::{NodeRecord, Registry};
use prost::Message as _;
use serde_json::Value;
use support::{Dev, free_base, json, run, stdout};

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
    let record = |(id, public_key): &(u32, PublicKey)| NodeRecord {
        id: OriginatorId(*id),
        public_key: *public_key,
        owner: Address([0; 20]),
        http_address: String::new(),
        quic_address: None,
        canonical: true,
    };
    KnownKeys { registry: nodes.iter().map(record).collect::<Registry>(), rates: None }
}

/// Writes an evidence file of one report, which `host` signed.
fn write(
    place: &Path,
    name: &str,
    (kind, envelopes, time_ns): (Kind, &[Bytes], u64),
    host: &SecretKey,
    keys: &KnownKeys,
) -> PathBuf {
    let report = own_safety_report(time_ns, OriginatorId(ACCUSED), kind, envelopes).unwrap();
    let report = report.to_bytes();
    let signature = Bytes::copy_from_slice(host.sign(digest(&report)).as_bytes());
    let held = HeldReport {
        report,
        host_signature: Some(signature),
        host: None,
        server_time_ns: Some(time_ns),
    };
    let file = Judged::file("test", &[held], keys);
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
        ("proven", Kind::DuplicateSequenceId, &two, 0, "proven"),
        ("claim", Kind::OutOfOrder, &gap, 5, "claim"),
        ("refuted", Kind::DuplicateSequenceId, &same, 7, "refuted"),
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
    let kind = Kind::DuplicateSequenceId;
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
    let kind = Kind::DuplicateSequenceId;
    let keys = keys(&[(ACCUSED, accused.public_key())]);
    let file = write(place.path(), "two", (kind, &two, now_ns), &host, &keys);
    let node = dev.text(0, "grpc");
    let file = file.to_str().unwrap();
    assert_eq!(json(&["misbehavior", "submit", "--json", "--node", &node, file])["submitted"], 1);
    json(&["misbehavior", "submit", "--json", "--node", &node, file]);

    let out = place.path().join("kept.evidence");
    let out = out.to_str().unwrap();
    let export = ["misbehavior", "export", "--node", &node, "--registry", network];
    let kept = json(&[&export[..], &["--json", "--out", out]].concat());
    assert_eq!(kept["reports"], 1, "the same fact is kept once");
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
    let kind = Kind::DuplicateSequenceId;
    let keys = keys(&[(ACCUSED, accused.public_key())]);
    let file = write(place.path(), "two", (kind, &two, now_ns), &accused, &keys);
    for node in [0, 1] {
        let node = dev.text(node, "grpc");
        json(&["misbehavior", "submit", "--json", "--node", &node, file.to_str().unwrap()]);
    }
    let network = place.path().join("network.json");
    let audit = ["audit", "network", "--json", "--registry", network.to_str().unwrap()];
    let output = run(&audit);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0]["node_id"], ACCUSED);
    assert_eq!(lines[0]["proven"].as_array().unwrap().len(), 1, "two nodes keep one fact");
    assert_eq!((&lines[1]["nodes_asked"], &lines[1]["refuted"]), (&2.into(), &0.into()));
    assert!(dev.stop().success());
}
