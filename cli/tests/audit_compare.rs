//! `hawser audit compare` on folders.

use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Proof, UnsealedEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{Bytes, OriginatorId, SecretKey};
use hawser_storage::{Change, LogEntry};
use prost::Message as _;
use serde_json::Value;

use crate::support::log_folder::{NODE, entry, folder, open};
use crate::support::{json, run, stdout};

fn node_key() -> SecretKey {
    SecretKey::from_bytes(&[2; 32]).unwrap()
}

/// A statement of the node for a place, other than the one in the folders.
fn another_statement(key: &SecretKey, sequence: u64) -> Bytes {
    let text = Bytes::from_static(b"another");
    let payer = PayerEnvelope::sign(text, OriginatorId(NODE), 30, key);
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: NODE,
        originator_sequence_id: sequence,
        originator_ns: 5,
        payer_envelope_bytes: payer.encode_to_vec().into(),
        ..Default::default()
    };
    UnsealedEnvelope::new(&statement).seal(key)
}

#[test]
fn folders_are_compared_and_the_first_difference_is_told() {
    let place = tempfile::tempdir().unwrap();
    let [(one, _), (same, _), (longer, _)] = [("one", 30), ("same", 30), ("longer", 31)]
        .map(|(name, len)| folder(place.path(), name, len));
    let [one, same, longer] = [&one, &same, &longer].map(|path| path.to_str().unwrap());
    let equal = json(&["audit", "compare", "--json", one, same]);
    assert_eq!((&equal["equal"], &equal["strands"]), (&true.into(), &1.into()));
    let read = serde_json::json!({ "envelopes": 30, "stored_leaves": 0, "by_stored_trees": 0 });
    assert_eq!((&equal["compared_by"], &equal["compared"]), (&"rows".into(), &read));
    let quick = json(&["audit", "compare", "--json", "--quick", one, same]);
    let believed = serde_json::json!({ "envelopes": 0, "stored_leaves": 0, "by_stored_trees": 30 });
    assert_eq!((&quick["compared_by"], &quick["compared"]), (&"stored_trees".into(), &believed));
    let output = run(&["audit", "compare", one, same, longer]);
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let text = stdout(&output);
    let equal = format!("{one} and {same}: 1 strand, equal: 30 envelopes compared");
    assert!(text.contains(&equal), "{text}");
    assert!(text.contains(&format!("strand 200: to 30 in {one}, to 31 in {longer}")), "{text}");

    // Another statement for a place, as a node signs it that shows different strands to different readers.
    let key = node_key();
    let other = place.path().join("other");
    let store = open(&other, &key);
    let changes: Vec<Change> = (1..=30)
        .map(|at| match at {
            17 => {
                let LogEntry { id, facts, .. } = entry(&key, at);
                let bytes = another_statement(&key, at);
                Change::Append(LogEntry::valid(id, bytes, facts.unwrap()))
            }
            _ => Change::Append(entry(&key, at)),
        })
        .collect();
    store.commit(&changes).unwrap();
    drop(store);
    let output = run(&["audit", "compare", "--json", one, other.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let strand = &found["differing"][0];
    assert_eq!((&strand["first_other_leaf"], &strand["other_count"]), (&17.into(), &1.into()));
    assert_eq!(strand["other"][0]["what"], "statement");
}

#[test]
fn logs_of_which_nothing_is_there_are_not_called_equal() {
    let place = tempfile::tempdir().unwrap();
    let folders = ["one", "two"].map(|name| folder(place.path(), name, 0).0);
    let [one, two] = folders.each_ref().map(|path| path.to_str().unwrap());
    let output = run(&["audit", "compare", one, two]);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("nothing to compare"), "{text}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("not compared") && !text.contains(", equal"), "{text}");
    let output = run(&["audit", "compare", "--json", one, two]);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["equal"], false);
}

/// Another key has signed one envelope, so both trees are equal and the logs are not.
#[test]
fn folders_with_equal_trees_are_compared_by_their_envelopes_unless_the_trees_are_believed() {
    let place = tempfile::tempdir().unwrap();
    let [(one, _), (forged, _)] = ["one", "two"].map(|name| folder(place.path(), name, 16));
    let store = open(&forged, &node_key());
    let forger = SecretKey::from_bytes(&[9; 32]).unwrap();
    let LogEntry { id, bytes, facts, .. } = entry(&node_key(), 17);
    let (statement, _) = OriginatorEnvelope::open(bytes.clone()).unwrap();
    let signature = forger.sign(originator_digest(&statement));
    let other = OriginatorEnvelope::encode(statement, Proof::Signature(signature));
    let entry_of = |bytes| [Change::Append(LogEntry::valid(id, bytes, facts.clone().unwrap()))];
    store.commit(&entry_of(other)).unwrap();
    drop(store);
    let store = open(&one, &node_key());
    store.commit(&entry_of(bytes)).unwrap();
    drop(store);
    let [one, forged] = [&one, &forged].map(|path| path.to_str().unwrap());
    let output = run(&["audit", "compare", one, forged]);
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    assert!(stdout(&output).contains("200:17  other signature"), "{output:?}");
    let output = run(&["audit", "compare", "--quick", one, forged]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).contains("17 places by stored trees alone"), "{output:?}");
}
