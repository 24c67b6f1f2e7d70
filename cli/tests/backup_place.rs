//! Places of backups that do not answer or do not fit, and what commands say about them.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::log_folder::folder;
use crate::support::{hawser, run, stderr, stdout};

const PLACE: &str = "s3://the-bucket/nodes/100";

/// A service that ends each connection without an answer, until the process ends.
fn silent_service() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    format!("http://{address}")
}

fn verify(data: &Path, endpoint: &str) -> Output {
    hawser()
        .args(["backup", "verify", "--from", PLACE, "--data-dir"])
        .arg(data)
        .env("AWS_ENDPOINT_URL_S3", endpoint)
        .env("AWS_ACCESS_KEY_ID", "id")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .output()
        .unwrap()
}

fn note(data: &Path, name: &str) -> Value {
    serde_json::from_slice(&fs::read(data.join(name)).unwrap()).unwrap()
}

#[test]
fn a_place_that_does_not_answer_is_noted_and_nothing_is_called_damaged() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let made = json!({
        "backup": "000000000005-0123456789abcdef",
        "to": PLACE,
        "network": "testnet",
        "node_id": 100,
        "signer": "0x00",
        "made_unix_s": 5,
        "took_ms": 1,
        "bytes": 1,
        "bytes_new": 1,
        "signed": true,
    });
    fs::write(data.join("last-backup.json"), made.to_string()).unwrap();
    let checked = json!({
        "backup": "000000000005-0123456789abcdef",
        "verified_unix_s": 9,
        "whole": true,
        "checked": 1,
        "damaged": 0,
    });
    fs::write(data.join("last-backup-check.json"), checked.to_string()).unwrap();
    let endpoint = silent_service();
    for attempts in [1, 2] {
        let output = verify(data, &endpoint);
        assert_eq!(output.status.code(), Some(9), "{output:?}");
        assert!(stderr(&output).contains("does not answer"), "{output:?}");
        let silent = note(data, "backup-place-unreachable.json");
        assert_eq!((&silent["place"], &silent["attempts"]), (&PLACE.into(), &attempts.into()));
        assert!(!silent.to_string().contains("secret"), "{silent}");
        assert_eq!(note(data, "last-backup-check.json"), checked, "the last check stays");
    }
    // A folder to which no backup of this node was made is not watched.
    let other = tempfile::tempdir().unwrap();
    assert_eq!(verify(other.path(), &endpoint).status.code(), Some(9));
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
}

/// The owner of the place, or a thief, has removed all backups. A machine without the data folder has to notice.
#[test]
fn a_place_without_backups_fails_the_check() {
    let (place, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(place.path().join("manifests")).unwrap();
    let output = hawser()
        .args(["backup", "verify", "--full", "--json", "--from"])
        .arg(place.path())
        .arg("--data-dir")
        .arg(data.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("no backup"), "{}", stderr(&output));
}

/// A unit of systemd names the place in its environment.
#[test]
fn the_place_may_be_named_by_the_environment() {
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 3);
    let to = place.path().join("backups");
    let at_place = |command: &str, rest: &[&str]| {
        let mut command_line = hawser();
        command_line.args(["backup", command]).args(rest).env("HAWSER_BACKUP_DIR", &to);
        let output = command_line.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        stdout(&output)
    };
    at_place("create", &["--data-dir", data.to_str().unwrap()]);
    assert_eq!(at_place("list", &[]).lines().count(), 1);
    assert!(at_place("verify", &[]).contains("whole"));
    at_place("prune", &["--keep", "1"]);
    assert_eq!(run(&["backup", "list"]).status.code(), Some(2), "no place is named");
}

/// Nothing has a place beside a folder that is named so, and no rename replaces it.
#[test]
fn a_backup_is_restored_into_the_present_folder() {
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 3);
    let [to, restored] = ["backups", "restored"].map(|name| place.path().join(name));
    let output = hawser()
        .args(["backup", "create", "--data-dir"])
        .arg(&data)
        .arg("--to")
        .arg(&to)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::create_dir(&restored).unwrap();
    let output = hawser()
        .args(["restore", "--unsigned", "--data-dir", ".", "--from"])
        .arg(&to)
        .current_dir(&restored)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(restored.join("CURRENT").exists());
    assert!(!place.path().join("restored.restoring").exists());
}

/// A warning about a backup that is refused anyway hides the reason.
#[test]
fn only_a_backup_that_begins_warns_of_a_missing_key() {
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 3);
    let (absent, inside) = (place.path().join("absent"), data.join("backups"));
    let to = place.path().join("backups");
    let [data, absent, inside, to] =
        [&*data, &*absent, &*inside, &*to].map(|path| path.to_str().unwrap());
    for (data_dir, to, is_made) in [(absent, to, false), (data, inside, false), (data, to, true)] {
        let output = run(&["backup", "create", "--data-dir", data_dir, "--to", to]);
        assert_eq!(output.status.success(), is_made, "{output:?}");
        let warns = stderr(&output).contains("will not be signed");
        assert_eq!(warns, is_made, "{output:?}");
    }
}
