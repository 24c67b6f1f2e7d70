//! Exports, snapshots and backups in a bucket of a real server with the S3 protocol. Skipped without one
//! (`scripts/s3`).

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use hawser_proto::SecretKey;
use hawser_storage::Change;
use serde_json::Value;

use crate::s3_server::Server;
use crate::support::log_folder::{entry, folder, open};
use crate::support::{hawser, stderr};

const BUCKET: &str = "the-bucket";
const EXPORT: &str = "exports/node_200";
/// The server checks no signature, and answers only requests that have one.
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=id/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

fn run(server: &Server, args: &[&str]) -> Output {
    let mut command = hawser();
    command.args(args).stdin(Stdio::null()).env("AWS_ENDPOINT_URL_S3", &server.endpoint);
    command.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "secret").output().unwrap()
}

fn json(server: &Server, args: &[&str]) -> Value {
    let output = run(server, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the bytes of an object.
fn object(server: &Server, name: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.endpoint.trim_start_matches("http://")).unwrap();
    let head = format!("Host: localhost\r\n{SIGNED}\r\nConnection: close\r\n\r\n");
    write!(stream, "GET /{BUCKET}/{name} HTTP/1.1\r\n{head}").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{name}: {}", String::from_utf8_lossy(&answer));
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    answer.split_off(head + 4)
}

/// Returns the files of an export in a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    let is_of_export = |path: &PathBuf| {
        path.ends_with("manifest.json") || path.extension().is_some_and(|it| it == "parquet")
    };
    all.filter(is_of_export).collect()
}

/// Asserts that the bucket has the same files as the folder.
fn assert_brought(server: &Server, work: &Path) {
    let all = files(work);
    assert!(all.len() >= 2, "{all:?}");
    for path in all {
        let name = path.strip_prefix(work).unwrap().to_str().unwrap();
        let brought = object(server, &format!("{EXPORT}/{name}"));
        assert!(brought == fs::read(&path).unwrap(), "{name}: {} bytes", brought.len());
    }
}

#[test]
fn an_export_in_a_bucket_grows_with_the_log_and_takes_no_other() {
    let Some(server) = Server::start() else { return };
    server.make_bucket(BUCKET);
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 700);
    let (work, to) = (place.path().join("work"), format!("s3://{BUCKET}/{EXPORT}"));
    let [data_dir, work_dir] = [&data, &work].map(|path| path.to_str().unwrap());
    let export = ["audit", "export", "--json", "--from", data_dir, "--work", work_dir, "--to", &to];
    let first = json(&server, &export);
    assert_eq!(first["rows"], 700, "{first}");
    assert_brought(&server, &work);
    assert_eq!(json(&server, &export)["files_brought"], 0, "the bucket has all of them");

    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    open(&data, &key).commit(&[Change::Append(entry(&key, 701))]).unwrap();
    let second = json(&server, &export);
    assert_eq!((&second["rows"], &second["files"]), (&1.into(), &1.into()), "{second}");
    assert_brought(&server, &work);

    let (other, _) = folder(place.path(), "other", 3);
    let other_work = place.path().join("other-work");
    let [other, other_work] = [&other, &other_work].map(|path| path.to_str().unwrap());
    let of_other = ["audit", "export", "--from", other, "--work", other_work, "--to", &to];
    let output = run(&server, &of_other);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_brought(&server, &work);
}

#[test]
fn a_snapshot_in_a_bucket_is_verified_and_replayed_from_there() {
    let Some(server) = Server::start() else { return };
    server.make_bucket(BUCKET);
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    let [data, registry] = [&data, &registry].map(|path| path.to_str().unwrap());
    let to = format!("s3://{BUCKET}/snapshots");
    json(&server, &["snapshot", "create", "--json", "--to", &to, "--data-dir", data]);
    let verify = ["snapshot", "verify", "--json", "--from", &to, "--registry", registry];
    let verified = json(&server, &verify);
    let strand = &verified["strands"][0];
    assert_eq!((&strand["signed"], &strand["envelopes"]), (&true.into(), &20.into()), "{verified}");
    let source = format!("snapshot:{to}");
    let replay = ["audit", "replay", "--json", "--from", &source, "--registry", registry];
    let clean = json(&server, &replay);
    assert_eq!(clean["verdict"], "clean", "{clean}");
    assert_eq!(clean["strands"][0]["figures"]["envelopes"], 20);
}

#[test]
fn a_backup_in_a_bucket_is_replayed_from_there_and_its_copy_is_removed() {
    let Some(server) = Server::start() else { return };
    server.make_bucket(BUCKET);
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    let work = place.path().join("work");
    fs::create_dir(&work).unwrap();
    let [data_dir, registry, work_dir] =
        [&data, &registry, &work].map(|path| path.to_str().unwrap());
    let from = format!("s3://{BUCKET}/backups/node_200");
    let create = ["backup", "create", "--json", "--to", &from, "--data-dir", data_dir];
    let first = json(&server, &create);
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    open(&data, &key).commit(&[Change::Append(entry(&key, 21))]).unwrap();
    json(&server, &create);

    let audit = ["audit", "replay", "--json", "--from", &from, "--registry", registry];
    let replay = |flags: &[&str]| run(&server, &[&audit[..], flags].concat());
    let reached = |flags: &[&str]| {
        let output = replay(flags);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["verdict"], "clean", "{report}");
        assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "the copy is removed");
        report["strands"][0]["reached"].clone()
    };
    assert_eq!(reached(&["--work", work_dir]), 21, "the newest one");
    let name = first["backup"].as_str().unwrap();
    assert_eq!(reached(&["--work", work_dir, "--backup", name]), 20);

    let refused = |code: i32, named: &str, output: Output| {
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(stderr(&output).contains(named), "{output:?}");
        assert_eq!(fs::read_dir(&work).unwrap().count(), 0);
    };
    refused(4, "none", replay(&["--work", work_dir, "--backup", "none"]));
    let nowhere = place.path().join("nowhere");
    refused(1, "nowhere", replay(&["--work", nowhere.to_str().unwrap()]));
    refused(2, "--work DIR", replay(&[]));
    let of_folder = ["audit", "replay", "--from", data_dir, "--registry", registry];
    refused(2, "s3://", run(&server, &[&of_folder[..], &["--work", work_dir]].concat()));
    refused(2, "is a bucket", run(&server, &["audit", "compare", data_dir, &from]));
}
