//! Disks that return other bytes than were written, under running nodes: found and repaired from peers, over QUIC and over
//! gRPC.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bytes::Bytes;
use hawser_tests::harness::binary::hawser;
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{envelopes, raw, seed, strand, wait};
use serde_json::Value;

/// Envelopes of the strand that is damaged: some blocks.
const PLACES: usize = 60;

async fn publish(node: &Node) -> Vec<Bytes> {
    let mut rng = seed::rng(seed::seed(), 1);
    let mut published = Vec::new();
    for _ in 0..PLACES {
        let message = envelopes::group_message([7; 16], 300, &mut rng);
        let message = envelopes::sign(&message, node.id, &envelopes::payer(0));
        published.push(node.client().publish(vec![message]).await.unwrap().remove(0));
    }
    published
}

/// Flips bits of an envelope in the table file of the log, in place. Returns the file as it was.
fn damage(data_dir: &Path, envelope: &Bytes) -> (PathBuf, Vec<u8>) {
    for file in fs::read_dir(data_dir).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|it| it != "sst") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        // The properties at a table file's end name its family; that of topics has the envelope too.
        let is_log = bytes.windows(7).any(|it| it == b"namelog");
        let at = bytes.windows(envelope.len()).position(|it| it == envelope);
        let Some(at) = at.filter(|_| is_log) else { continue };
        let writer = fs::File::options().write(true).open(&path).unwrap();
        for offset in [at + 1, at + 20, at + 90] {
            writer.write_all_at(&[!bytes[offset]], u64::try_from(offset).unwrap()).unwrap();
        }
        return (path, bytes);
    }
    panic!("no table file of the log has it");
}

/// Returns true if the file is byte for byte as it was, or a compaction has taken its rows over: it can read them then.
fn is_as_before(file: &Path, before: &[u8]) -> bool {
    fs::read(file).map_or_else(|error| error.kind() == ErrorKind::NotFound, |bytes| bytes == before)
}

fn scrub(node: &Node, arguments: &[&str]) -> (Output, Value) {
    let output = Command::new(hawser())
        .args(["scrub", "--json", "--rate", "0", "--data-dir"])
        .arg(node.data_dir())
        .args(arguments)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output, json)
}

async fn conditions(node: &Node) -> String {
    let (_, page) = raw::get(node.metrics_port, "/status").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    let conditions = page["conditions"].as_array().unwrap();
    let condition = conditions.iter().find(|it| it["name"] == "disk_sound").unwrap();
    condition["reason"].as_str().unwrap_or_default().to_owned()
}

/// Damages a strand at one node of three, and has the node repair it while it runs.
async fn damaged_and_repaired(transport: &str) {
    let mut network = Network::new(3);
    network.add_arguments(&["--peer-transport", transport, "--scrub-interval", "0"]);
    network.start_all().await;
    let published = publish(&network.nodes[0]).await;
    network.converged().await;
    // After a restart in order everything is in tables, and the caches are empty.
    assert!(network.nodes[1].terminate().success());
    let data_dir = network.nodes[1].data_dir();
    let (file, before) = damage(&data_dir, &published[PLACES / 2]);
    let (output, _) = scrub(&network.nodes[1], &["--repair"]);
    assert_eq!(output.status.code(), Some(3), "no node runs there: {output:?}");

    network.start_all().await;
    let node = &network.nodes[1];
    let (output, found) = scrub(node, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!((&found["whole"], &found["damages"][0]["family"]), (&false.into(), &"log".into()));
    assert_eq!(found["damages"][0]["originator"], 100, "{found}");
    wait::until("the operator is told", async || {
        conditions(node).await.contains("not repaired: 1;").then_some(())
    })
    .await;

    // A peer may not have connected again yet.
    let repaired = wait::until("it is repaired", async || {
        let (output, done) = scrub(node, &["--repair"]);
        output.status.success().then_some(done)
    })
    .await;
    assert_eq!(
        (&repaired["whole"], &repaired["repaired"]),
        (&true.into(), &1.into()),
        "{repaired}"
    );
    assert!(is_as_before(&file, &before), "byte for byte");
    let held = strand::read(&node.client(), network.nodes[0].id).await;
    assert!(held.into_values().eq(published), "all of it is served again");
    wait::until("the condition is met again", async || {
        conditions(node).await.is_empty().then_some(())
    })
    .await;
    let metrics = node.metrics().await;
    assert!(metrics.sum("xmtp_scrub_repaired_total", &[]) >= 1.0, "{}", metrics.text());
    let (output, clean) = scrub(node, &[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((&clean["whole"], clean.get("repaired")), (&true.into(), None));

    // The strand is followed again.
    let more = publish_one(&network.nodes[0]).await;
    network.converged().await;
    let held = strand::read(&network.nodes[1].client(), network.nodes[0].id).await;
    assert_eq!(held.into_values().next_back(), Some(more));
}

async fn publish_one(node: &Node) -> Bytes {
    let mut rng = seed::rng(seed::seed(), 2);
    let message = envelopes::group_message([7; 16], 300, &mut rng);
    let message = envelopes::sign(&message, node.id, &envelopes::payer(0));
    node.client().publish(vec![message]).await.unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_repairs_from_peers_over_quic() {
    damaged_and_repaired("quic").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_repairs_from_peers_over_grpc() {
    damaged_and_repaired("grpc").await;
}

/// Without a command: the node's own scrub finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_repairs_itself_in_the_background() {
    let mut network = Network::start(2).await;
    let published = publish(&network.nodes[0]).await;
    network.converged().await;
    // In the middle: a node that starts reads the ends of strands, and needs them.
    assert!(network.nodes[1].terminate().success());
    let (file, before) = damage(&network.nodes[1].data_dir(), &published[PLACES / 2]);
    network.add_arguments(&["--scrub-interval", "200ms"]);
    network.start_all().await;
    wait::until("it is repaired", async || {
        let repaired = network.nodes[1].metrics().await.sum("xmtp_scrub_repaired_total", &[]);
        (repaired >= 1.0).then_some(())
    })
    .await;
    assert!(is_as_before(&file, &before), "byte for byte");
    for node in &network.nodes {
        let held = strand::read(&node.client(), network.nodes[0].id).await;
        assert!(held.into_values().eq(published.iter().cloned()), "all of it is served again");
    }
}
