//! Disks that return other bytes than were written, under running nodes: found and repaired from peers, over QUIC and
//! over gRPC.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bytes::Bytes;
use hawser_proto::Cursor;
use hawser_tests::harness::binary::hawser;
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{envelopes, raw, seed, strand, wait};
use serde_json::Value;
use tonic::{Code, Status};

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

/// Flips bits of an envelope in the table file of a family, in place. Returns the file as it was.
fn damage(data_dir: &Path, family: &str, envelope: &Bytes) -> (PathBuf, Vec<u8>) {
    let properties = format!("name{family}");
    for file in fs::read_dir(data_dir).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|it| it != "sst") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        // The properties at a table file's end name its family; those of log and topics have the envelope.
        let is_family = bytes.windows(properties.len()).any(|it| it == properties.as_bytes());
        let at = bytes.windows(envelope.len()).position(|it| it == envelope);
        let Some(at) = at.filter(|_| is_family) else { continue };
        let writer = fs::File::options().write(true).open(&path).unwrap();
        for offset in [at + 1, at + 20, at + 90] {
            writer.write_all_at(&[!bytes[offset]], u64::try_from(offset).unwrap()).unwrap();
        }
        return (path, bytes);
    }
    panic!("no table file of {family} has it");
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

/// Returns the reason for which a condition is not met; empty if it is.
async fn reason(node: &Node, condition: &str) -> String {
    let (_, page) = raw::get(node.metrics_port, "/status").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    let conditions = page["conditions"].as_array().unwrap();
    let condition = conditions.iter().find(|it| it["name"] == condition).unwrap();
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
    let (file, before) = damage(&data_dir, "log", &published[PLACES / 2]);
    let (output, _) = scrub(&network.nodes[1], &["--repair"]);
    assert_eq!(output.status.code(), Some(4), "no node runs there: {output:?}");

    network.start_all().await;
    let node = &network.nodes[1];
    let (output, found) = scrub(node, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!((&found["whole"], &found["damages"][0]["family"]), (&false.into(), &"log".into()));
    assert_eq!(found["damages"][0]["originator"], 100, "{found}");
    wait::until("the operator is told", async || {
        reason(node, "disk_sound").await.contains("not repaired: 1;").then_some(())
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
        reason(node, "disk_sound").await.is_empty().then_some(())
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
    try_publish_one(node).await.unwrap()
}

async fn try_publish_one(node: &Node) -> Result<Bytes, Status> {
    let mut rng = seed::rng(seed::seed(), 2);
    let message = envelopes::group_message([7; 16], 300, &mut rng);
    let message = envelopes::sign(&message, node.id, &envelopes::payer(0));
    Ok(node.client().publish(vec![message]).await?.remove(0))
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
    assert!(network.nodes[1].terminate().success());
    let (file, before) = damage(&network.nodes[1].data_dir(), "log", &published[PLACES / 2]);
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

/// The node goes on without the end of its strand, which it has to know before it gives out the next place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_own_end_is_damaged_serves_readers_and_publishes_once_peers_have_repaired_it()
{
    let mut network = Network::start(2).await;
    let published = publish(&network.nodes[0]).await;
    network.converged().await;
    assert!(network.nodes[0].terminate().success());
    let data_dir = network.nodes[0].data_dir();
    let (file, before) = damage(&data_dir, "log", &published[PLACES - 1]);
    network.nodes[0].arguments.extend(["--scrub-interval".into(), "0".into()]);
    network.nodes[0].start();
    network.nodes[0].readable().await;

    let node = &network.nodes[0];
    let refusal = wait::until("the right to sign waits for the end of the strand", async || {
        let refusal = reason(node, "own_strand").await;
        refusal.contains("cannot be read").then_some(refusal)
    })
    .await;
    assert!(reason(node, "disk_sound").await.contains("not repaired: 1;"), "{refusal}");
    let refused = try_publish_one(node).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let read = node.client().query_originators(&[node.id], &Cursor::new(), 5).await.unwrap();
    assert_eq!(read, published[..5], "what is readable is served");

    wait::until("it is repaired", async || {
        let (output, _) = scrub(node, &["--repair"]);
        output.status.success().then_some(())
    })
    .await;
    assert!(is_as_before(&file, &before), "byte for byte");
    network.nodes[0].ready().await;
    let more = publish_one(&network.nodes[0]).await;
    assert_eq!(strand::id_of(&more).sequence.0, PLACES as u64 + 1, "no place is given out twice");
    network.converged().await;
    let expected: Vec<_> = published.into_iter().chain([more]).collect();
    for reader in &network.nodes {
        let held = strand::read(&reader.client(), network.nodes[0].id).await;
        assert!(held.into_values().eq(expected.iter().cloned()), "node {}", reader.id);
    }
}

/// Projections are made of the log, so that is repaired first. Readers get all rows, or an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_makes_damaged_projections_anew_and_readers_never_miss_rows() {
    let mut network = Network::start(2).await;
    let published = publish(&network.nodes[0]).await;
    network.converged().await;
    assert!(network.nodes[1].terminate().success());
    let data_dir = network.nodes[1].data_dir();
    damage(&data_dir, "log", &published[PLACES / 2]);
    damage(&data_dir, "topic", &published[PLACES / 2]);
    network.add_arguments(&["--scrub-interval", "200ms"]);
    network.nodes[1].start();
    network.nodes[1].readable().await;
    let node = &network.nodes[1];
    let topic = envelopes::group_topic([7; 16]);
    let client = node.client();
    let read =
        async || client.query_topics(std::slice::from_ref(&topic), &Cursor::new(), 100).await;
    wait::until("the projections are whole", async || {
        if let Ok(rows) = read().await {
            assert_eq!(rows, published, "all rows or none");
        }
        let repaired = node.metrics().await.sum("xmtp_scrub_repaired_total", &[]);
        let is_sound = reason(node, "disk_sound").await.is_empty();
        (repaired >= 2.0 && is_sound).then_some(())
    })
    .await;
    network.nodes[1].ready().await;
    assert_eq!(read().await.unwrap(), published);
    publish_one(&network.nodes[1]).await;
    network.converged().await;
}
