//! Nodes and the witnesses that they ask to cosign: real processes, and a witness that lies.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hawser_proto::Signature;
use hawser_proto::checkpoint::{
    Checkpoint, CheckpointSubmission, CosignedCheckpoint, SUBMISSION_PATH, SignedCheckpoint,
    WitnessName, WitnessSigner, cosignature_lines,
};
use hawser_proto::merkle::{ConsistencyProof, TreeHash};
use hawser_tests::harness::load::Plan;
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{raw, seed, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn witness(seed: u8) -> WitnessSigner {
    WitnessSigner::new(WitnessName::new("witness.example/w1").unwrap(), &[seed; 32])
}

async fn publish(node: &Node, round: u64) {
    let plan = Plan::new(node.port, node.id, seed::seed().wrapping_add(round));
    Plan { connections: 2, envelopes_max: 100, ..plan }.start(Vec::new()).join().await;
}

/// Returns the checkpoint that a process shows of a node's own strand, and its note.
async fn shown(port: u16, node: &Node) -> Option<(CosignedCheckpoint, String)> {
    let path = format!("/strands/{0}/{0}/checkpoint", node.id);
    let (code, note) = raw::get(port, &path).await.ok()?;
    let key = |id| (id == node.id).then(|| node.key.public_key());
    let read = CosignedCheckpoint::from_note(&note, "test", key).ok()?;
    (code == 200).then_some((read, note))
}

/// A process that cosigns with this key, and is not running.
fn replica_with_key(network: &Network, place: &Path, seed: u8) -> Node {
    let mut replica = network.replica("witness", &[]);
    let key_file = place.join("witness.key");
    std::fs::write(&key_file, hex::encode([seed; 32])).unwrap();
    std::fs::set_permissions(&key_file, Permissions::from_mode(0o600)).unwrap();
    let arguments = ["--witness-name", "witness.example/w1", "--witness-key-file"];
    replica.arguments.extend(arguments.map(ToOwned::to_owned));
    replica.arguments.push(key_file.to_str().unwrap().to_owned());
    replica
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_shows_the_cosignatures_of_the_witness_that_it_asks() {
    let mut network = Network::new(1);
    let place = tempfile::tempdir().unwrap();
    let (mut replica, witness) = (replica_with_key(&network, place.path(), 9), witness(9));
    let asked = format!("{} http://127.0.0.1:{}", witness.verifier_key(), replica.port);
    network.add_arguments(&["--checkpoint-witnesses", &asked]);
    network.start_all().await;
    replica.start();
    replica.readable().await;
    let node = &network.nodes[0];
    let mut before = 0;
    for round in 0..2 {
        publish(node, round).await;
        let head = node.client().cursor().await.unwrap().get(node.id).0;
        assert!(head > before);
        let found = wait::until("the node has the witness's word for all of it", async || {
            let (read, _) = shown(node.port, node).await?;
            let line = read.witnesses.first().cloned();
            line.filter(|_| read.signed.checkpoint.size == head).map(|line| (read, line))
        });
        let (read, line) = found.await;
        assert_eq!(read.signed.verify(&node.key.public_key()), Ok(()));
        assert_eq!(line.verify("test", &read.signed.checkpoint, &witness.key()), Ok(()));
        before = head;
    }
    let metrics = node.metrics().await;
    assert!(metrics.sum("xmtp_witness_requests_total", &[r#"result="cosigned""#]) >= 2.0);
    assert_answers_as_specified(&replica, node, before).await;
    assert!(replica.terminate().success());
}

/// Asserts the answers of C2SP `tlog-witness`, of a witness that has cosigned `size` places of the node's strand.
async fn assert_answers_as_specified(witness: &Node, node: &Node, size: u64) {
    let (read, note) = shown(node.port, node).await.unwrap();
    let ask = async |old_size, hashes: usize, note: &str| {
        let proof = ConsistencyProof(vec![TreeHash([1; 32]); hashes]);
        let body = CheckpointSubmission { old_size, proof, note: note.to_owned() }.encode();
        raw::post(witness.port, SUBMISSION_PATH, &body).await.unwrap()
    };
    let (status, _, again) = ask(size, 0, &note).await;
    assert_eq!(status, 200, "{again}");
    assert!(note.ends_with(&again), "the same line again: {again}");
    for old_size in [0, size - 1] {
        let (status, head, body) = ask(old_size, 0, &note).await;
        assert_eq!((status, body), (409, format!("{size}\n")));
        assert!(head.contains("text/x.tlog.size"), "{head}");
    }
    let other = note.replacen("test/", "other/", 1);
    assert_eq!(ask(size, 0, &other).await.0, 404);
    let unknown = note.replacen("/100/100\n", "/100/900\n", 1);
    assert_eq!(ask(size, 0, &unknown).await.0, 404);
    let altered = note.replacen(&format!("\n{size}\n"), &format!("\n{}\n", size + 1), 1);
    assert_eq!(ask(size, 0, &altered).await.0, 403, "its node has not signed this");
    let mut bytes = *read.signed.signature.as_bytes();
    bytes[64] += 2;
    let signature = Signature::from_bytes(&bytes).unwrap();
    let other_form = CosignedCheckpoint::from(SignedCheckpoint { signature, ..read.signed });
    let other_form = other_form.to_note("test", |_| Some(node.key.public_key()));
    assert_eq!(ask(size, 0, &other_form).await.0, 403, "a signature has one form");
    assert_eq!(ask(size + 1, 0, &note).await.0, 400);
    let post = async |body: &str| raw::post(witness.port, SUBMISSION_PATH, body).await.unwrap().0;
    assert_eq!(post("no submission").await, 400);
    // A node that is no witness takes nothing.
    let (status, ..) = raw::post(node.port, SUBMISSION_PATH, "old 0\n\n").await.unwrap();
    assert_eq!(status, 415);
}

/// The liar signs another size than it was asked for, under its right name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_signs_something_else_is_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU32::new(0));
    let mut network = Network::new(1);
    let liar = witness(7);
    network.add_arguments(&["--checkpoint-witnesses", &format!("{} {url}", liar.verifier_key())]);
    network.start_all().await;
    let node = &network.nodes[0];
    publish(node, 0).await;
    let counted = asked.clone();
    let (read, _) = wait::until("a checkpoint", async || shown(node.port, node).await).await;
    let of = read.signed.checkpoint;
    let other = Checkpoint { size: of.size + 1, ..of };
    let lines = cosignature_lines(&[liar.cosign("test", &other, 1_700_000_000)]);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 64 * 1024]).await;
            let len = lines.len();
            let head =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n");
            let _ = stream.write_all(format!("{head}{lines}").as_bytes()).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    // When it is asked again, the first answer has been judged.
    wait::until("it is asked twice", async || (asked.load(Ordering::Relaxed) >= 2).then_some(()))
        .await;
    assert_eq!(shown(node.port, node).await.unwrap().0.witnesses, []);
    let metrics = node.metrics().await;
    assert!(metrics.sum("xmtp_witness_requests_total", &[r#"result="failed""#]) >= 1.0);
    assert_eq!(metrics.sum("xmtp_witness_requests_total", &[r#"result="cosigned""#]), 0.0);
    assert!(node.client().cursor().await.is_ok(), "the node goes on");
}
