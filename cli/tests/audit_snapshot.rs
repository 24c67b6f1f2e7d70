//! Snapshots for new nodes as logs that an auditor reads, exports and compares.

use std::fs;
use std::path::{Path, PathBuf};

use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::merkle::{CompactRange, envelope_leaf};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{EnvelopeId, OriginatorId, SecretKey, SequenceId};
use hawser_storage::{Change, Facts, LogEntry, SkipReason};
use prost::Message as _;
use serde_json::Value;

use crate::support::log_folder::{NODE, declare_gap, entry, folder, open, write_registry};
use crate::support::{VECTORS, json, run, stderr, stdout};

fn snapshot(place: &Path, data: &Path) -> (PathBuf, String) {
    let to = place.join("snapshots");
    let [to_text, data] = [&*to, data].map(|path| path.to_str().unwrap());
    json(&["snapshot", "create", "--json", "--to", to_text, "--data-dir", data]);
    let source = format!("snapshot:{to_text}");
    (to, source)
}

#[test]
fn a_snapshot_is_replayed_exported_and_compared_like_the_folder_that_it_is_of() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    let (snapshots, source) = snapshot(place.path(), &data);
    let [data_dir, registry] = [&data, &registry].map(|path| path.to_str().unwrap());
    // Keys are those of the other commands of auditors: here of an evidence file.
    let verify = ["snapshot", "verify", "--json", "--from", snapshots.to_str().unwrap()];
    let verified = json(&[&verify[..], &["--registry", registry]].concat());
    let strand = &verified["strands"][0];
    assert_eq!((&strand["signed"], &strand["envelopes"]), (&true.into(), &20.into()), "{verified}");
    let replay = ["audit", "replay", "--json", "--from", &source, "--registry", registry];
    let clean = json(&replay);
    assert_eq!(clean["verdict"], "clean", "{clean}");
    assert_eq!(clean["strands"][0]["figures"]["envelopes"], 20);
    assert!(clean["unchecked"].to_string().contains("a snapshot does not have them"), "{clean}");
    let equal = json(&["audit", "compare", "--json", data_dir, &source]);
    assert_eq!((&equal["equal"], &equal["compared"]["envelopes"]), (&true.into(), &20.into()));

    let to = place.path().join("export");
    let export = |source: &str| {
        let to = to.to_str().unwrap();
        json(&["audit", "export", "--json", "--from", source, "--registry", registry, "--to", to])
    };
    assert_eq!(export(&source)["rows"], 20);
    let store = open(&data, &SecretKey::from_bytes(&[2; 32]).unwrap());
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    store.commit(&[Change::Append(entry(&key, 21))]).unwrap();
    drop(store);
    let (_, again) = snapshot(place.path(), &data);
    assert_eq!(again, source);
    assert_eq!(export(&source)["rows"], 1, "the export goes on with the newest snapshot");
}

/// The registry of another network, and none: neither shows that the nodes have signed anything of it.
#[test]
fn a_snapshot_without_a_checked_signature_is_not_called_verified() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 3);
    let (snapshots, _) = snapshot(place.path(), &data);
    let other = SecretKey::from_bytes(&[3; 32]).unwrap();
    let other = write_registry(place.path(), "other.evidence", NODE + 100, &other);
    let [registry, other] = [&registry, &other].map(|path| path.to_str().unwrap());
    let verify = ["snapshot", "verify", "--json", "--from", snapshots.to_str().unwrap()];
    for (keys, code) in
        [(&[][..], 6), (&["--registry", registry][..], 0), (&["--registry", other][..], 1)]
    {
        let output = run(&[&verify[..], keys].concat());
        assert_eq!(output.status.code(), Some(code), "{keys:?}: {output:?}");
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["strands"][0]["signed"], keys.contains(&registry), "{found}");
        assert_eq!(stderr(&output).contains("the registry does not name"), code == 1, "{output:?}");
        assert_eq!(stderr(&output).contains("no signature of 1 snapshot"), code == 6, "{output:?}");
    }
}

/// Expired envelopes leave such places in honest snapshots, so they are named and change no exit code.
#[test]
fn a_checkpoint_behind_a_place_without_an_envelope_is_named_as_not_compared() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 3);
    let (key, node) = (SecretKey::from_bytes(&[2; 32]).unwrap(), OriginatorId(NODE));
    let store = open(&data, &key);
    let (from, reason) = (SequenceId(4), SkipReason::Missing);
    let skip = Change::Skip { originator: node, from, through: from, reason };
    store.commit(&[skip, Change::Append(entry(&key, 5))]).unwrap();
    drop(store);
    for (size, covered, is_short) in [(3, serde_json::json!(3), false), (5, Value::Null, true)] {
        let mut tree = CompactRange::default();
        for at in 1..=size {
            tree.append(envelope_leaf(&entry(&key, at).bytes).unwrap(), |_, _| {});
        }
        let of = Checkpoint { node, originator: node, size, root: tree.root(), time_ns: size };
        let store = open(&data, &key);
        store.put_checkpoint(&CosignedCheckpoint::from(of.sign(&key))).unwrap();
        drop(store);
        let folder = place.path().join(size.to_string());
        fs::create_dir(&folder).unwrap();
        let (to, _) = snapshot(&folder, &data);
        let [to, registry] = [&to, &registry].map(|path| path.to_str().unwrap());
        let verify = ["snapshot", "verify", "--json", "--from", to, "--registry", registry];
        let strand = json(&verify)["strands"][0].clone();
        assert_eq!(strand["covered"]["size"], covered, "{strand}");
        assert_eq!(strand["checkpoint_not_compared"], is_short, "{strand}");
    }
}

/// The first group message of the app chain, as nodes make it of an event.
fn of_chain(key: &SecretKey) -> LogEntry {
    let lines = fs::read_to_string(VECTORS).unwrap();
    let line = lines.lines().find(|line| line.contains("chain:group")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    let client = hex::decode(line["hex"].as_str().unwrap()).unwrap();
    let payer = pb::PayerEnvelope { unsigned_client_envelope: client.into(), ..Default::default() };
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: 0,
        originator_sequence_id: 1,
        originator_ns: 1_750_000_000_000_000_000,
        payer_envelope_bytes: payer.encode_to_vec().into(),
        ..Default::default()
    };
    let proof = Proof::Transaction([5; 32]);
    let bytes = OriginatorEnvelope::encode(statement.encode_to_vec().into(), proof);
    let facts = entry(key, 1).facts.unwrap();
    let facts = Facts { charge: None, counts_for_congestion: false, ..facts };
    let id = EnvelopeId::new(OriginatorId::GROUP_MESSAGES, SequenceId(1));
    LogEntry::valid(id, bytes, facts)
}

/// The maker of a snapshot can write any events into the strand of a chain.
#[test]
fn a_chains_strand_of_which_no_known_node_has_signed_a_tree_is_not_called_right() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 3);
    let registry = registry.to_str().unwrap();
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let made = of_chain(&key);
    let store = open(&data, &key);
    store.commit(&[Change::Append(made.clone())]).unwrap();
    drop(store);
    let verified = |name: &str| {
        let folder = place.path().join(name);
        fs::create_dir(&folder).unwrap();
        let (to, _) = snapshot(&folder, &data);
        let to = to.to_str().unwrap();
        run(&["snapshot", "verify", "--json", "--from", to, "--registry", registry])
    };
    let output = verified("unsigned");
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(stderr(&output).contains("no node of the registry has signed a tree"), "{output:?}");
    let mut tree = CompactRange::default();
    tree.append(envelope_leaf(&made.bytes).unwrap(), |_, _| {});
    let (node, originator) = (OriginatorId(NODE), OriginatorId::GROUP_MESSAGES);
    let of = Checkpoint { node, originator, size: 1, root: tree.root(), time_ns: 5 };
    let store = open(&data, &key);
    store.put_checkpoint(&CosignedCheckpoint::from(of.sign(&key))).unwrap();
    drop(store);
    let output = verified("signed");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["strands"][0]["covered"]["size"], 1, "{found}");
}

/// A node may have one key in two networks, so signatures alone do not tell them apart.
#[test]
fn a_snapshot_of_another_network_than_the_named_one_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 3);
    let (to, _) = snapshot(place.path(), &data);
    let [to, registry] = [&to, &registry].map(|path| path.to_str().unwrap());
    let verify = ["snapshot", "verify", "--json", "--from", to, "--registry", registry];
    let found = json(&[&verify[..], &["--network", "testnet"]].concat());
    let name = found["snapshot"].as_str().unwrap();
    for (further, code) in [(&[][..], 1), (&["--snapshot", name][..], 3)] {
        let output = run(&[&verify[..], &["--network", "mainnet"], further].concat());
        assert_eq!(output.status.code(), Some(code), "{further:?}: {output:?}");
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert!(said.contains("the snapshot is of network"), "{further:?}: {said}");
    }
    // No network has such a name, so the argument is wrong and not the snapshot.
    let output = run(&[&verify[..], &["--network", "a/b"]].concat());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stderr(&output).contains("a name of 1 to 64 letters"), "{output:?}");
}

#[test]
fn a_snapshot_with_a_forged_envelope_or_other_bytes_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let LogEntry { id, bytes, facts, .. } = entry(&key, 21);
    let (statement, _) = OriginatorEnvelope::open(bytes).unwrap();
    let forger = SecretKey::from_bytes(&[9; 32]).unwrap();
    let signature = forger.sign(originator_digest(&statement));
    let bytes = OriginatorEnvelope::encode(statement, Proof::Signature(signature));
    let store = open(&data, &key);
    store.commit(&[Change::Append(LogEntry::valid(id, bytes, facts.unwrap()))]).unwrap();
    drop(store);
    let (to, source) = snapshot(place.path(), &data);
    let registry = registry.to_str().unwrap();
    let replay = ["audit", "replay", "--json", "--from", &source, "--registry", registry];
    let output = run(&replay);
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let fault = &found["first_faults"][0];
    assert_eq!((&fault["kind"], &fault["sequence_id"]), (&"forged".into(), &21.into()));

    let chunk = fs::read_dir(to.join("chunks")).unwrap().next().unwrap().unwrap().path();
    let chunk = fs::read_dir(chunk).unwrap().next().unwrap().unwrap().path();
    let mut flipped = fs::read(&chunk).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&chunk, flipped).unwrap();
    let to = place.path().join("export");
    let export = ["audit", "export", "--from", &source, "--registry", registry, "--to"];
    let output = run(&[&export[..], &[to.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("strand 200"), "{output:?}");
    let none = format!("snapshot:{}", place.path().join("none").display());
    let output = run(&["audit", "replay", "--from", &none, "--registry", registry]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}

#[test]
fn a_snapshot_and_an_export_of_it_carry_the_statements_about_void_places() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    declare_gap(&data, 21, 25, 2);
    let (_, source) = snapshot(place.path(), &data);
    let [data, registry] = [&data, &registry].map(|path| path.to_str().unwrap());
    for from in [data, &source] {
        let replay = ["audit", "replay", "--json", "--from", from, "--registry", registry];
        let clean = json(&replay);
        assert_eq!(clean["verdict"], "clean", "{clean}");
        let gap = &clean["strands"][0]["figures"]["gaps"][0];
        assert_eq!(
            (&gap["from"], &gap["reason"]),
            (&21.into(), &"declared_void".into()),
            "{clean}"
        );
        let to = place.path().join(format!("export-{}", from == data));
        let export = ["audit", "export", "--json", "--from", from, "--registry", registry, "--to"];
        json(&[&export[..], &[to.to_str().unwrap()]].concat());
        let manifest = fs::read_to_string(to.join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_str(&manifest).unwrap();
        let stated = &manifest["manifest"]["void_statements"][0];
        assert_eq!((&stated["originator_id"], &stated["file"]["rows"]), (&NODE.into(), &1.into()));
    }
}

#[test]
fn a_snapshot_with_a_forged_statement_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    declare_gap(&data, 21, 25, 9);
    let (_, source) = snapshot(place.path(), &data);
    let registry = registry.to_str().unwrap();
    let output = run(&["audit", "replay", "--json", "--from", &source, "--registry", registry]);
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = found["first_faults"][0]["text"].to_string();
    assert!(text.contains("has not signed that places 21 to 25 are void"), "{found}");
    assert_eq!(found["strands"][0]["figures"]["gaps"][0]["reason"], "not_shown", "{found}");
}
