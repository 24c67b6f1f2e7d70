//! `hawser backup verify` checks signatures of envelopes, and has damaged files written again.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use hawser_proto::SecretKey;
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::sign::originator_digest;
use hawser_storage::{Change, LogEntry};
use serde_json::Value;

use crate::support::chains::write_key;
use crate::support::log_folder::{NODE, entry, folder, open, write_registry};
use crate::support::{hawser, json, run, stderr, stdout};

fn node_key() -> SecretKey {
    SecretKey::from_bytes(&[2; 32]).unwrap()
}

/// Adds an envelope that another key has signed. A database takes any bytes.
fn forge(data: &Path, sequence: u64) {
    let LogEntry { id, bytes, facts, .. } = entry(&node_key(), sequence);
    let (statement, _) = OriginatorEnvelope::open(bytes).unwrap();
    let forger = SecretKey::from_bytes(&[9; 32]).unwrap();
    let signature = forger.sign(originator_digest(&statement));
    let bytes = OriginatorEnvelope::encode(statement, Proof::Signature(signature));
    open(data, &node_key())
        .commit(&[Change::Append(LogEntry::valid(id, bytes, facts.unwrap()))])
        .unwrap();
}

/// Makes a signed backup of a folder, and returns the folder of backups and the name of this one.
fn back_up(place: &Path, data: &Path) -> (PathBuf, String) {
    let (key, to) = (place.join("node.key"), place.join("backups"));
    fs::write(&key, "02".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let [to_text, data, key] = [&*to, data, &*key].map(|path| path.to_str().unwrap());
    let create = ["backup", "create", "--json", "--to", to_text, "--data-dir", data];
    let made = json(&[&create[..], &["--key-file", key]].concat());
    (to, made["backup"].as_str().unwrap().to_owned())
}

fn verdict(args: &[&str]) -> (i32, Value) {
    let output = run(&[&["backup", "verify", "--json"], args].concat());
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn a_key_of_another_node_signs_no_backup_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 3);
    let (key, to) = (place.path().join("other.key"), place.path().join("backups"));
    write_key(key.clone(), &"09".repeat(32));
    let [to_text, data, key] = [&to, &data, &key].map(|path| path.to_str().unwrap());
    let output = run(&["backup", "create", "--to", to_text, "--data-dir", data, "--key-file", key]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = stderr(&output);
    assert!(text.contains(&node_key().public_key().address().to_string()), "{text}");
    assert!(!to.exists());
}

#[test]
fn a_forged_envelope_in_a_backup_whose_files_are_whole_is_named() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    let (to, _) = back_up(place.path(), &data);
    let [to, data_dir, registry] = [&to, &data, &registry].map(|path| path.to_str().unwrap());
    let elsewhere = place.path().join("elsewhere");
    let elsewhere = elsewhere.to_str().unwrap();
    // The node has made it, or the registry has its key.
    for (args, keys) in [
        (["--from", to, "--data-dir", data_dir, "--signatures", "all"], "manifest"),
        (["--from", to, "--data-dir", elsewhere, "--registry", registry], "registry"),
    ] {
        let (code, honest) = verdict(&args);
        assert_eq!((code, &honest["whole"]), (0, &true.into()), "{honest}");
        let signatures = &honest["signatures"];
        assert_eq!((&signatures["checked"], &signatures["faults"]), (&20.into(), &0.into()));
        assert_eq!(signatures["keys"], keys);
    }

    forge(&data, 21);
    let (_, name) = back_up(place.path(), &data);
    let of_new = ["--from", to, "--backup", &name, "--data-dir"];
    for more in [&[data_dir][..], &[elsewhere, "--registry", registry]] {
        let (code, forged) = verdict(&[&of_new[..], more].concat());
        assert_eq!((code, &forged["whole"]), (1, &false.into()), "{forged}");
        let signatures = &forged["signatures"];
        assert_eq!((&signatures["checked"], &signatures["faults"]), (&21.into(), &1.into()));
        let fault = &signatures["first_faults"][0];
        assert_eq!((&fault["kind"], &fault["sequence_id"]), (&"forged".into(), &21.into()));
    }
    let noted: Value =
        serde_json::from_slice(&fs::read(data.join("last-backup-check.json")).unwrap()).unwrap();
    assert_eq!(noted["whole"], false, "{noted}");
    let output = run(&[&["backup", "verify"], &of_new[..], &[data_dir]].concat());
    assert!(stdout(&output).contains("200:21  forged"), "{output:?}");

    // Without a reason to believe who has made it, the database is not opened.
    let (code, unknown) = verdict(&[&of_new[..], &[elsewhere]].concat());
    assert_eq!((code, &unknown["whole"]), (0, &true.into()), "{unknown}");
    assert!(unknown["signatures"]["unchecked"].is_string(), "{unknown}");
    let (code, asked) = verdict(&[&of_new[..], &[elsewhere, "--signatures", "all"]].concat());
    assert_eq!((code, &asked["signatures"]["faults"]), (1, &1.into()), "{asked}");
    let (code, _) = verdict(&[&of_new[..], &[data_dir, "--signatures", "0"]].concat());
    assert_eq!(code, 0);
}

/// A registry that was given says whose signatures are asked for.
#[test]
fn a_backup_with_the_strand_of_a_node_that_the_registry_does_not_name_is_not_called_verified() {
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 3);
    let (to, _) = back_up(place.path(), &data);
    let other = SecretKey::from_bytes(&[3; 32]).unwrap();
    let other = write_registry(place.path(), "other.evidence", NODE + 100, &other);
    let [to, data, other] = [&to, &data, &other].map(|path| path.to_str().unwrap());
    let (code, found) = verdict(&["--from", to, "--data-dir", data, "--registry", other]);
    assert_eq!((code, &found["whole"]), (1, &true.into()), "{found}");
    assert_eq!(found["signatures"]["unknown_nodes"][0], NODE, "{found}");
}

/// A full or missing disk of the checking machine says nothing about a backup. One whose signatures were asked for does
/// not pass, and is not called damaged.
#[test]
fn a_machine_without_room_for_the_check_calls_no_backup_damaged() {
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 3);
    let (to, name) = back_up(place.path(), &data);
    let [to, data_dir] = [&to, &data].map(|path| path.to_str().unwrap());
    for (more, wanted) in [(&[][..], 0), (&["--signatures", "all"], 1)] {
        let output = hawser()
            .args(["backup", "verify", "--json", "--from", to, "--data-dir", data_dir])
            .args(["--backup", &name])
            .args(more)
            .env("TMPDIR", place.path().join("no-such-folder"))
            .output()
            .unwrap();
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(wanted), "{output:?}");
        assert_eq!(shown["whole"], true, "{shown}");
        assert!(shown["signatures"]["unchecked"].to_string().contains("no-such-folder"), "{shown}");
        let noted = fs::read(data.join("last-backup-check.json")).unwrap();
        let noted: Value = serde_json::from_slice(&noted).unwrap();
        assert_eq!(noted["whole"], true, "{noted}");
    }
}

/// A backup to a bucket reads no file whose version it has seen, until a check has found a damaged one.
#[test]
fn a_check_that_finds_damage_has_the_next_backup_read_all_files() {
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 3);
    let (to, name) = back_up(place.path(), &data);
    let hash = blake3::hash(to.as_os_str().as_encoded_bytes()).to_hex();
    let seen = data.join(format!("seen-in-backups-{}", &hash[..16]));
    fs::write(&seen, "noise").unwrap();
    let [to_text, data_dir] = [&to, &data].map(|path| path.to_str().unwrap());
    let args = ["--from", to_text, "--backup", &name, "--data-dir", data_dir];
    assert_eq!(verdict(&args).0, 0);
    assert!(seen.exists());
    let mut files = fs::read_dir(to.join("files")).unwrap().flat_map(|folder| {
        fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().path())
    });
    let is_long = |path: &PathBuf| fs::metadata(path).unwrap().len() > 100;
    let file = files.find(is_long).unwrap();
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&file, &flipped).unwrap();
    let output = run(&[&["backup", "verify"], &args[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!seen.exists());
}
