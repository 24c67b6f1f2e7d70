//! `hawser scrub` on the folder of a stopped node.

use hawser_proto::SecretKey;
use serde_json::{Value, json};

use crate::support::log_folder::{folder, open};
use crate::support::{run, stderr, stdout};

/// The tables of a damaged projection are dropped when the folder is opened, so the scrub itself meets no damage.
#[test]
fn a_projection_that_was_dropped_for_its_damage_is_named() {
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 3);
    let scrub = ["scrub", "--data-dir", data.to_str().unwrap()];
    let whole = run(&scrub);
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    open(&data, &key).condemn_damaged(&["topic"]).unwrap();
    let lacking = run(&scrub);
    assert_eq!(lacking.status.code(), Some(1), "{lacking:?}");
    assert!(stdout(&lacking).contains("topic  missing"), "{lacking:?}");
    assert!(stderr(&lacking).contains("1 projection not read"), "{lacking:?}");
    let shown = run(&[&scrub[..], &["--json"]].concat());
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["whole"], &shown["missing"]), (&json!(true), &json!(["topic"])));
    let rebuilt = run(&["rebuild", "--data-dir", data.to_str().unwrap()]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    let whole = run(&scrub);
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
}
