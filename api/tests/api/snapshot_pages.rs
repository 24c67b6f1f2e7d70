//! Snapshots as files over HTTP: the files that new nodes read, and the paths that are refused.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use hawser_api::{NoPeers, RateLimitSettings, SnapshotFile, SnapshotsView};
use hawser_storage::SharedSnapshots;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::*;

const MANIFEST: &str = "snapshots/000001700000000-0123456789abcdef.snapshot";

struct View(SharedSnapshots);

impl SnapshotsView for View {
    fn open(&self, name: &str) -> io::Result<Option<SnapshotFile>> {
        let found = self.0.open(name)?;
        Ok(found.map(|(file, len_bytes)| SnapshotFile { file, len_bytes }))
    }
}

fn chunk_name() -> String {
    format!("chunks/ab/{}", "ab".repeat(32))
}

/// Returns a folder with a manifest of 600,000 bytes, a chunk of the greatest length, and a file that does not
/// belong to a snapshot.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("snapshots")).unwrap();
    fs::create_dir_all(folder.path().join("chunks/ab")).unwrap();
    fs::write(folder.path().join(MANIFEST), bytes()).unwrap();
    File::create(folder.path().join(chunk_name())).unwrap().set_len(64 << 20).unwrap();
    fs::write(folder.path().join("node.key"), "secret").unwrap();
    folder
}

fn bytes() -> Vec<u8> {
    (0..600_000_u32).map(|it| (it % 251) as u8).collect()
}

async fn node_of(folder: &Path, rate_limits: Option<RateLimitSettings>) -> Node {
    let view = View(SharedSnapshots::new(folder.to_owned()));
    let adjust = |settings: &mut hawser_api::ApiSettings| {
        settings.snapshots = Some(Arc::new(view));
        settings.rate_limits = rate_limits;
    };
    node_with(adjust, Arc::new(NoPeers)).await
}

fn request(method: &str, name: &str) -> String {
    format!("{method} /snapshot/{name} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

async fn ask(node: &Node, method: &str, name: &str) -> Http1Answer {
    node.ask(request(method, name).as_bytes()).await
}

#[tokio::test]
async fn files_of_snapshots_are_given_out_whole_and_no_others() {
    let folder = folder();
    let node = node_of(folder.path(), None).await;
    let answer = ask(&node, "GET", MANIFEST).await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("600000")));
    assert!(answer.body == bytes(), "the bytes of the file");
    let answer = ask(&node, "HEAD", MANIFEST).await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("600000")));
    assert!(answer.body.is_empty());
    for name in [
        "",
        "node.key",
        "../node.key",
        "snapshots/../node.key",
        "snapshots/%2e%2e/node.key",
        "snapshots",
        "snapshots/names",
        "snapshots/names?x=1",
        "chunks/ab",
    ] {
        let answer = ask(&node, "GET", name).await;
        assert_eq!((answer.status, answer.header("cache-control")), (404, Some("no-store")));
    }
    assert_eq!(ask(&node, "PUT", MANIFEST).await.status, 405);
}

#[tokio::test]
async fn a_node_gives_out_no_files_unless_it_is_told_to() {
    let node = node().await;
    assert_ne!(ask(&node, "GET", "snapshots/names").await.status, 200);
}

#[tokio::test]
async fn readers_that_do_not_read_hold_up_no_call_and_take_two_downloads() {
    let folder = folder();
    let node = node_of(folder.path(), None).await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(node.address()).await.unwrap();
        stream.write_all(request("GET", &chunk_name()).as_bytes()).await.unwrap();
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200");
        silent.push(stream);
    }
    let answer = ask(&node, "GET", MANIFEST).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    node.publish(vec![message(1, "others go on")]).await;
    drop(silent);
    // The listener notices the closed connections at its next write.
    while ask(&node, "HEAD", MANIFEST).await.status == 503 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&node, "GET", MANIFEST).await.status, 200);
}

#[tokio::test]
async fn downloads_count_as_calls_of_their_address() {
    let folder = folder();
    let limits = RateLimitSettings { per_minute: 3, ..RateLimitSettings::default() };
    let node = node_of(folder.path(), Some(limits)).await;
    for _ in 0..3 {
        assert_eq!(ask(&node, "HEAD", MANIFEST).await.status, 200);
    }
    assert_eq!(ask(&node, "GET", MANIFEST).await.status, 429);
}
