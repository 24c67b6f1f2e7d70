//! The checkpoint that a proof carries: the one that the most nodes have signed.

use std::fs;
use std::path::Path;

use hawser_audit::{Judged, KnownKeys};
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::{OriginatorId, SecretKey};
use hawser_rules::Registry;
use serde_json::Value;

use crate::support::json;
use crate::support::log_folder::{NODE, folder, keys_of, open};

const COSIGNER: u32 = 300;

/// Proves place 7 of a folder, and returns what a stranger with the registry verifies.
fn proven(data: &Path, registry: &Path, out: &Path) -> Value {
    let [data, registry, out] = [data, registry, out].map(|path| path.to_str().unwrap());
    let prove = ["audit", "prove", "200:7", "--from", data, "--registry", registry, "--out", out];
    json(&[&prove[..], &["--json"]].concat());
    let verified = json(&["audit", "verify", "--json", out, "--registry", registry]);
    assert_eq!(verified["verdict"], "proven", "{verified}");
    verified["proof"].clone()
}

/// The node has signed its newest checkpoint, and others have not cosigned it yet.
#[test]
fn a_proof_has_the_cosignatures_of_an_earlier_checkpoint_that_covers_the_envelope() {
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 20);
    let [key, cosigner] = [2, 3].map(|seed| SecretKey::from_bytes(&[seed; 32]).unwrap());
    let records = [(NODE, &key), (COSIGNER, &cosigner)].map(|(id, key)| keys_of(id, key).registry);
    let registry: Registry = records.iter().flat_map(Registry::nodes).cloned().collect();
    let file = Judged::file("test", &[], &[], &KnownKeys { registry, rates: None });
    let registry = place.path().join("registry");
    fs::write(&registry, serde_json::to_string(&file).unwrap()).unwrap();

    let store = open(&data, &key);
    let originator = OriginatorId(NODE);
    let checkpoint = |node, size| {
        let root = store.snapshot().root(originator, size).unwrap();
        Checkpoint { node: OriginatorId(node), originator, size, root, time_ns: size }
    };
    let (earlier, newest) = (checkpoint(NODE, 10), checkpoint(NODE, 20));
    let mut cosigned = CosignedCheckpoint::from(earlier.sign(&key));
    assert!(cosigned.add_cosignature(earlier.cosign(OriginatorId(COSIGNER), 10, &cosigner)));
    store.put_checkpoints([&cosigned, &newest.sign(&key).into()]).unwrap();
    drop(store);

    let proof = proven(&data, &registry, &place.path().join("proof"));
    assert_eq!((&proof["size"], &proof["checkpoint_node_id"]), (&10.into(), &NODE.into()));
    assert_eq!(proof["cosigners"], serde_json::json!([COSIGNER]));
}
