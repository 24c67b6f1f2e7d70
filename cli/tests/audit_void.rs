//! Proofs that a node has declared a place void, made on one machine and verified on another.

use std::path::Path;

use hawser_proto::void::VoidStatement;
use hawser_proto::{Bytes, OriginatorId, SecretKey, SequenceId};
use serde_json::Value;

use crate::support::fake_node::FakeNode;
use crate::support::log_folder::{NODE, declare_gap, entry, folder, write_registry};
use crate::support::{json, run, stderr, stdout};

/// Runs `prove`, and returns the exit code.
fn prove(place: &str, data: &str, registry: &str, out: &Path, more: &[&str]) -> Option<i32> {
    let out = out.to_str().unwrap();
    let prove = ["audit", "prove", place, "--from", data, "--registry", registry, "--out", out];
    let output = run(&[&prove[..], more].concat());
    assert!(output.status.success() || !stderr(&output).is_empty(), "{output:?}");
    output.status.code()
}

/// Verifies a proof as a stranger who has the registry.
fn verified(proof: &Path, registry: &str) -> Value {
    let proof = proof.to_str().unwrap();
    json(&["audit", "verify", "--json", proof, "--registry", registry])
}

#[test]
fn the_statement_that_a_place_is_void_is_written_and_verified_elsewhere() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    // The statement is about places 18 to 25, and the folder holds 18 to 20, which were signed later than it.
    declare_gap(&data, 18, 25, 2);
    let [data, registry] = [&data, &registry].map(|path| path.to_str().unwrap());
    let at = |name: &str| place.path().join(name);
    assert_eq!(prove("200:22", data, registry, &at("missing"), &[]), Some(0));
    let shown = verified(&at("missing"), registry);
    assert_eq!(shown["verdict"], "proven", "{shown}");
    let proof = &shown["proof"];
    assert_eq!((&proof["void_from"], &proof["void_through"]), (&18.into(), &25.into()));
    assert_eq!(proof["envelope"], Value::Null);

    // The folder has the envelope: without `--void` its place in the tree is asked for, and no checkpoint covers it.
    assert_eq!(prove("200:19", data, registry, &at("none"), &[]), Some(4));
    assert_eq!(prove("200:19", data, registry, &at("broken"), &["--void"]), Some(0));
    // The clock of a lost machine may have been ahead, so the two signatures prove no guilt.
    let broken = at("broken");
    let broken = broken.to_str().unwrap();
    let output = run(&["audit", "verify", "--json", broken, "--registry", registry]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let shown: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(shown["verdict"], "claim", "{shown}");
    let envelope = &shown["proof"]["envelope"];
    let broken = (&envelope["sequence_id"], &envelope["signed_afterwards"]);
    assert_eq!(broken, (&19.into(), &true.into()), "{shown}");
    let text = shown["text"].as_str().unwrap();
    assert!(
        text.contains("has signed envelope 200:19 for one of them, dated afterwards"),
        "{text}"
    );
    for void in [&["--void"][..], &[]] {
        assert_eq!(prove("200:17", data, registry, &at("none"), void), Some(4));
        assert_eq!(prove("200:26", data, registry, &at("none"), void), Some(4));
    }
    assert!(!at("none").exists());

    // A replay names these places, and proves nothing either.
    let replay = ["audit", "replay", "--json", "--from", data, "--registry", registry];
    let output = run(&replay);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let replayed: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let named = (&replayed["verdict"], &replayed["faults"]);
    assert_eq!(named, (&"claim".into(), &serde_json::json!({ "void_signed": 3 })), "{replayed}");

    // The keys of the writer alone make it a claim.
    let output = run(&["audit", "verify", at("missing").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(stdout(&output).contains("declared places 18 to 25 void"), "{output:?}");
}

#[test]
fn a_statement_that_the_node_has_not_signed_is_neither_written_nor_proven() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    declare_gap(&data, 21, 25, 9);
    let key = SecretKey::from_bytes(&[9; 32]).unwrap();
    let other = write_registry(place.path(), "other.evidence", NODE, &key);
    let [data, registry, other] = [&data, &registry, &other].map(|path| path.to_str().unwrap());
    let proof = place.path().join("proof");
    assert_eq!(prove("200:22", data, registry, &proof, &[]), Some(4));
    // The maker of the proof has other keys than its reader.
    assert_eq!(prove("200:22", data, other, &proof, &[]), Some(0));
    let output = run(&["audit", "verify", proof.to_str().unwrap(), "--registry", registry]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(stdout(&output).contains("not signed with the key of node 200"), "{output:?}");
}

#[test]
fn a_node_that_runs_shows_the_statements_beside_its_checkpoints() {
    let place = tempfile::tempdir().unwrap();
    let (_, registry) = folder(place.path(), "data", 0);
    let registry = registry.to_str().unwrap();
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let strand: Vec<Bytes> = (1..=20).map(|at| entry(&key, at).bytes).collect();
    let node = FakeNode::start(&[(NODE, 25)], move |_, after| {
        strand[usize::try_from(after).unwrap().min(strand.len())..].to_vec()
    });
    node.sign_as(NODE, key.clone());
    node.sign_up_to(Some(20));
    let url = node.url();
    let replayed = || {
        let replay = ["audit", "replay", "--json", "--from", &url, "--registry", registry];
        let report: Value = serde_json::from_str(&stdout(&run(&replay))).unwrap();
        let gap = report["strands"][0]["figures"]["gaps"][0]["reason"].clone();
        (report["verdict"].clone(), gap, report["first_faults"].to_string())
    };
    let (verdict, gap, _) = replayed();
    assert_eq!((verdict, gap), ("incomplete".into(), "not_shown".into()));
    let (from, through) = (SequenceId(21), SequenceId(25));
    let of =
        VoidStatement { node: OriginatorId(NODE), from, through, time_ns: 5, incarnation: [4; 16] };
    node.show_voids(vec![Bytes::copy_from_slice(&of.sign(&key).encode())]);
    let (verdict, gap, faults) = replayed();
    assert_eq!((verdict, gap), ("clean".into(), "declared_void".into()), "{faults}");
    let proof = place.path().join("proof");
    assert_eq!(prove("200:22", &url, registry, &proof, &[]), Some(0));
    assert_eq!(verified(&proof, registry)["proof"]["void_from"], 21);
    let written: Value = serde_json::from_slice(&std::fs::read(&proof).unwrap()).unwrap();
    assert_eq!(written["network"], "", "the address of the node is no network");
    // A tree that has the places: the envelopes were found again, and the node hides them.
    node.sign_up_to(None);
    let (verdict, gap, _) = replayed();
    assert_eq!((verdict, gap), ("incomplete".into(), "not_shown".into()));
    node.sign_up_to(Some(20));
    node.show_voids(vec![Bytes::from_static(b"noise")]);
    let (verdict, _, faults) = replayed();
    assert_eq!(verdict, "faulty");
    assert!(faults.contains("malformed statement"), "{faults}");
    node.show_voids(vec![Bytes::new(); 65]);
    assert!(replayed().2.contains("sent 65 statements"), "more than nodes keep");
    node.show_voids(vec![Bytes::new(); 64 * 1024]);
    assert!(replayed().2.contains("too large"), "they are not decoded");
}

#[test]
fn another_nodes_checkpoints_refute_a_statement_behind_which_a_node_hides_envelopes() {
    let place = tempfile::tempdir().unwrap();
    let (_, registry) = folder(place.path(), "data", 0);
    let registry = registry.to_str().unwrap();
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let strand: Vec<Bytes> = (1..=25).map(|at| entry(&key, at).bytes).collect();
    let start = |held: u64| {
        let shown = strand[..usize::try_from(held).unwrap()].to_vec();
        let node = FakeNode::start(&[(NODE, 25)], move |_, after| {
            shown[usize::try_from(after).unwrap().min(shown.len())..].to_vec()
        });
        node.sign_as(NODE, key.clone());
        node.sign_up_to(Some(held));
        node
    };
    let (keeper, other) = (start(20), start(25));
    let (from, through) = (SequenceId(21), SequenceId(25));
    let of =
        VoidStatement { node: OriginatorId(NODE), from, through, time_ns: 5, incarnation: [4; 16] };
    keeper.show_voids(vec![Bytes::copy_from_slice(&of.sign(&key).encode())]);
    let url = keeper.url();
    let replay = ["audit", "replay", "--json", "--from", &url, "--registry", registry];
    let verdict = |more: &[&str]| {
        let output = run(&[&replay[..], more].concat());
        let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
        (report["verdict"].clone(), report["strands"][0]["figures"]["gaps"][0]["reason"].clone())
    };
    assert_eq!(verdict(&[]), ("clean".into(), "declared_void".into()));
    let second = other.url();
    let with_second = verdict(&["--checkpoints-from", &second]);
    assert_eq!(with_second, ("incomplete".into(), "not_shown".into()));
    drop(other);
    let silent = run(&[&replay[..], &["--checkpoints-from", &second]].concat());
    assert!(!silent.status.success() && !stdout(&silent).contains("verdict"), "{silent:?}");
}
