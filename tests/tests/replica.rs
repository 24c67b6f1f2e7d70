//! Replicas: processes without a node's key that follow a network, believe no node, and answer readers as its
//! nodes do.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use hawser_proto::checkpoint::{CosignedCheckpoint, WitnessName, WitnessSigner};
use hawser_proto::{Cursor, OriginatorId, SecretKey};
use hawser_tests::harness::binary::hawser;
use hawser_tests::harness::client::Client;
use hawser_tests::harness::load::Plan;
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::scripted_peer::{Attack, Habits, ScriptedPeer};
use hawser_tests::harness::{envelopes, projections, raw, seed, strand, wait};

/// Publishes a little at every node.
async fn publish(network: &Network, round: u64) {
    for node in &network.nodes {
        let seed =
            seed::seed().wrapping_mul(31).wrapping_add(round * 10_000 + u64::from(node.id.0));
        let plan = Plan::new(node.port, node.id, seed);
        let ledger =
            Plan { connections: 2, envelopes_max: 100, ..plan }.start(Vec::new()).join().await;
        assert!(ledger.acknowledged().count() >= 100, "node {} takes publishes", node.id);
    }
    network.converged().await;
}

/// Waits until a replica holds what a node holds, and compares what both answer.
async fn assert_reads_as(replica: &Node, node: &Node) {
    let (of_replica, of_node) = (replica.client(), node.client());
    let heads = of_node.cursor().await.expect("the node answers");
    wait::until_equal("the replica to catch up", &heads, async || of_replica.cursor().await.ok())
        .await;
    assert!(strand::read_all(&of_replica).await == strand::read_all(&of_node).await);
    for group in 1..=8 {
        let topic = envelopes::group_topic([group; 16]);
        let read = async |client: &Client| {
            let page = client.query_topics(std::slice::from_ref(&topic), &Cursor::new(), 50).await;
            page.expect("it answers")
        };
        let page = read(&of_replica).await;
        assert!(!page.is_empty() && page.len() == read(&of_node).await.len(), "group {group}");
    }
}

async fn status(node: &Node) -> serde_json::Value {
    let (code, text) = raw::get(node.metrics_port, "/status").await.expect("it answers");
    assert_eq!(code, 200, "{text}");
    serde_json::from_str(&text).expect("a page of JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_reads_like_a_node_refuses_publishes_and_goes_on_after_a_crash() {
    let network = Network::start(3).await;
    publish(&network, 1).await;
    let mut replica = network.replica("replica", &[]);
    replica.start();
    replica.readable().await;
    assert_reads_as(&replica, &network.nodes[0]).await;

    // New envelopes reach streams of readers at the replica.
    let mut live = replica.client().subscribe_all().await.unwrap();
    let node = &network.nodes[1];
    let client_bytes = envelopes::group_message([9; 16], 40, &mut seed::rng(seed::seed(), 77));
    let paid = envelopes::sign(&client_bytes, node.id, &envelopes::payer(1));
    let answer = node.client().publish(vec![paid.clone()]).await.unwrap();
    wait::until("the new envelope is shown", async || {
        let frame = live.next().await.unwrap().expect("the stream goes on");
        frame.envelopes.contains(&answer[0]).then_some(())
    })
    .await;

    let refusal = replica.client().publish(vec![paid]).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::Unavailable);
    assert!(refusal.message().contains("this is a replica"), "{refusal}");
    let status = status(&replica).await;
    assert_eq!(status["role"], "replica");
    assert_eq!(status["node_id"], serde_json::Value::Null);
    assert_eq!(status["verdict"], "ok", "{status:#}");
    assert_eq!(status["ready"]["read"], true);
    assert_eq!(status["ready"]["publish"], false);
    // It proves no id, and the nodes need not know it.
    assert_eq!(network.nodes[0].metrics().await.sum("xmtp_peer_up", &[]), 2.0);

    replica.kill();
    publish(&network, 2).await;
    replica.start();
    replica.readable().await;
    assert_reads_as(&replica, &network.nodes[2]).await;
    assert!(replica.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_key_cosigns_what_it_has_verified() {
    let network = Network::start(2).await;
    publish(&network, 1).await;
    let name = WitnessName::new("witness.example/w1").unwrap();
    let witness = WitnessSigner::new(name, &[9; 32]);
    let mut replica = network.replica("witness", &[]);
    let place = tempfile::tempdir().unwrap();
    let key_file = place.path().join("witness.key");
    std::fs::write(&key_file, "09".repeat(32)).unwrap();
    // A secret that others can read is refused.
    std::fs::set_permissions(&key_file, Permissions::from_mode(0o600)).unwrap();
    let arguments = ["--witness-name", "witness.example/w1", "--witness-key-file"];
    replica.arguments.extend(arguments.map(ToOwned::to_owned));
    replica.arguments.push(key_file.to_str().unwrap().to_owned());
    replica.start();
    replica.readable().await;
    assert_reads_as(&replica, &network.nodes[0]).await;
    for restarts in 0..2 {
        for node in &network.nodes {
            let head = node.client().cursor().await.unwrap().get(node.id).0;
            let path = format!("/strands/{0}/{0}/checkpoint", node.id);
            let found = wait::until("the witness has cosigned", async || {
                let (code, note) = raw::get(replica.port, &path).await.ok()?;
                let key = |id| (id == node.id).then(|| node.key.public_key());
                let read = CosignedCheckpoint::from_note(&note, "test", key).ok()?;
                let is_whole = code == 200 && read.signed.checkpoint.size == head;
                read.witnesses.first().filter(|_| is_whole).cloned().map(|it| (read.clone(), it))
            });
            let (read, line) = found.await;
            let of = read.signed.checkpoint;
            assert_eq!(read.signed.verify(&node.key.public_key()), Ok(()));
            assert_eq!(line.verify("test", &of, &witness.key()), Ok(()));
        }
        if restarts == 0 {
            replica.kill();
            publish(&network, 2).await;
            replica.start();
            replica.readable().await;
        }
    }
    assert!(replica.terminate().success());
    // A new folder lacks what the key has cosigned.
    std::fs::remove_dir_all(replica.data_dir()).unwrap();
    let mut process = replica.command().spawn().unwrap();
    let ended = wait::until("the witness has ended", async || process.try_wait().unwrap());
    assert_eq!(ended.await.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_follows_another_one_at_an_address_that_no_registry_has() {
    let network = Network::start(2).await;
    publish(&network, 1).await;
    let mut first = network.replica("first", &[]);
    first.start();
    first.readable().await;
    let url = format!("http://127.0.0.1:{}", first.port);
    let mut second = network.replica("second", std::slice::from_ref(&url));
    second.start();
    second.readable().await;
    assert_reads_as(&second, &network.nodes[0]).await;
    let peers = status(&second).await["peers"].clone();
    assert_eq!(peers.as_array().map(Vec::len), Some(1), "{peers:#}");
    assert_eq!((&peers[0]["address"], &peers[0]["connected"]), (&url.into(), &true.into()));
}

/// Several replicas may answer at one address, each call another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_on_at_another_replica_with_its_cursor() {
    let network = Network::start(2).await;
    publish(&network, 1).await;
    let mut replicas = ["first", "second"].map(|name| network.replica(name, &[]));
    replicas.iter_mut().for_each(Node::start);
    for replica in &mut replicas {
        replica.readable().await;
        assert_reads_as(replica, &network.nodes[0]).await;
    }
    let strands = network.ids();
    let wanted = strand::read_all(&network.nodes[0].client()).await;
    let (mut read, mut cursor) = (BTreeMap::<_, BTreeMap<_, _>>::new(), Cursor::new());
    for replica in replicas.iter().cycle() {
        let page = replica.client().query_originators(&strands, &cursor, 30).await.unwrap();
        if page.is_empty() {
            break;
        }
        for envelope in page {
            let id = strand::id_of(&envelope);
            cursor.merge(&Cursor::from_iter([id]));
            let earlier = read.entry(id.originator.0).or_default().insert(id.sequence.0, envelope);
            assert_eq!(earlier, None, "{id} comes twice");
        }
    }
    assert!(read == wanted);
}

/// The liar is in the registry, signs its own strand well, and forges everything else that it sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_lies_is_caught_and_the_other_ones_make_up_for_it() {
    let mut liar =
        ScriptedPeer::start(300, Habits { attack: Some(Attack::Forged), ..Habits::default() });
    liar.originate(10, 60);
    let mut network = Network::new(1);
    network.register(liar.record());
    network.start_all().await;
    publish_at_first(&network).await;
    let mut replica = network.replica("replica", &[]);
    replica.start();
    replica.readable().await;
    let counted = wait::until("the liar is caught", async || {
        let metrics = replica.metrics().await;
        let kind = &[r#"kind="forged_signature""#];
        (metrics.sum("xmtp_verify_failures_total", kind) > 0.0).then_some(metrics)
    });
    counted.await;
    let (of_replica, of_node) = (replica.client(), network.nodes[0].client());
    let own = network.nodes[0].id;
    let wanted = strand::read(&of_node, own).await;
    wait::until_equal("the honest strand", &wanted, async || {
        Some(strand::read(&of_replica, own).await)
    })
    .await;
    assert_eq!(of_replica.cursor().await.unwrap().get(liar.id).0, 0, "nothing forged is stored");
    assert!(liar.seen().without_token > 0, "a replica has no token to show");
    liar.change(|habits| habits.attack = None);
    wait::until_equal("what it has signed", &liar.strand(), async || {
        Some(strand::read(&of_replica, OriginatorId(300)).await)
    })
    .await;
}

async fn publish_at_first(network: &Network) {
    let node = &network.nodes[0];
    let plan = Plan::new(node.port, node.id, seed::seed());
    Plan { connections: 2, envelopes_max: 100, ..plan }.start(Vec::new()).join().await;
}

/// A node lost its folder, and has continued behind a gap before the replica begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_gets_the_statements_about_void_places_that_its_sources_keep() {
    let mut network = Network::start(3).await;
    publish(&network, 1).await;
    let of = network.nodes[0].id;
    let head = network.nodes[0].client().cursor().await.expect("it answers").get(of).0;
    // Sources show the statements beside a checkpoint of the strand.
    for node in &network.nodes[1..] {
        let path = format!("/strands/{of}/{of}/checkpoint");
        wait::until("the peers hold a checkpoint", async || {
            let (code, _) = raw::get(node.port, &path).await.ok()?;
            (code == 200).then_some(())
        })
        .await;
    }
    let node = &mut network.nodes[0];
    assert!(node.terminate().success());
    std::fs::remove_dir_all(node.data_dir()).unwrap();
    std::fs::remove_dir_all(node.state_dir()).unwrap();
    node.is_new = true;
    node.start();
    node.ready().await;

    let mut replica = network.replica("replica", &[]);
    replica.start();
    let declared = wait::until("the replica shows that the gap is declared void", async || {
        let (_, page) = raw::get(replica.metrics_port, "/status").await.ok()?;
        let status: serde_json::Value = serde_json::from_str(&page).ok()?;
        let strands = status["originators"].as_array()?;
        let strand = strands.iter().find(|it| it["originator_id"] == of.0)?;
        strand["declared_void"].get(0).cloned()
    })
    .await;
    assert_eq!(declared["from"].as_u64(), Some(head + 1), "{declared}");
}

/// Returns the command that gives the folder of a replica to the node of this id, which has this key.
fn command_of(replica: &Node, id: OriginatorId, key: &SecretKey) -> Command {
    let (id, signer) = (id.to_string(), key.public_key().address().to_string());
    let mut command = Command::new(hawser());
    command.args(["promote", "--yes", "--node-id", &id, "--signer", &signer]);
    command.arg("--data-dir").arg(replica.data_dir());
    command
}

fn promote(replica: &Node, id: OriginatorId, key: &SecretKey) -> Output {
    command_of(replica, id, key).output().expect("the program of the tests is there")
}

/// A node's host is lost. The folder of a replica lacks the node's last envelopes, which its peers have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_on_from_the_folder_of_a_replica_and_signs_no_place_twice() {
    let mut network = Network::start(3).await;
    publish(&network, 1).await;
    let mut replica = network.replica("standby", &[]);
    replica.start();
    replica.readable().await;
    assert_reads_as(&replica, &network.nodes[0]).await;
    let of = network.nodes[0].id;
    let running = promote(&replica, of, &network.nodes[0].key);
    assert_eq!(running.status.code(), Some(3), "{running:?}");
    assert!(replica.terminate().success());

    publish(&network, 2).await;
    let before = strand::read(&network.nodes[0].client(), of).await;
    let other_key = promote(&replica, of, &network.nodes[1].key);
    assert_eq!(other_key.status.code(), Some(3), "{other_key:?}");
    for id in [OriginatorId::GROUP_MESSAGES, OriginatorId(5)] {
        let no_node = promote(&replica, id, &network.nodes[0].key);
        assert_eq!(no_node.status.code(), Some(2), "{no_node:?}");
    }
    let node = &mut network.nodes[0];
    node.kill();
    std::fs::remove_dir_all(node.data_dir()).unwrap();
    std::fs::remove_dir_all(node.state_dir()).unwrap();
    let other_network = command_of(&replica, of, &node.key).args(["--network", "other"]).output();
    assert_eq!(other_network.unwrap().status.code(), Some(3));
    let promoted = promote(&replica, of, &node.key);
    assert!(promoted.status.success(), "{promoted:?}");
    std::fs::rename(replica.data_dir(), node.data_dir()).unwrap();
    node.start();
    node.readable().await;
    let (code, page) = raw::get(node.metrics_port, "/readyz?for=publish").await.unwrap();
    assert!(code == 503 && page.contains("in quarantine"), "{code}: {page}");
    let mut complete = Command::new(hawser());
    complete.args(["restore", "confirm", "--complete", "--yes", "--state-dir"]);
    let complete = complete.arg(node.state_dir()).output().unwrap();
    assert_eq!(complete.status.code(), Some(3), "{complete:?}");
    node.ready().await;

    publish(&network, 3).await;
    let after = strand::read(&network.nodes[0].client(), of).await;
    assert!(before.iter().all(|(place, bytes)| after.get(place) == Some(bytes)), "nothing is lost");
    let last = *before.keys().next_back().unwrap();
    let next = after.range(last + 1..).next().map(|(place, _)| *place);
    let left_out = next.map(|next| next - last - 1);
    assert!(left_out.is_some_and(strand::is_gap), "{left_out:?}");
    for node in &network.nodes[1..] {
        assert!(strand::read(&node.client(), of).await == after, "node {} has it", node.id);
    }
    assert!(network.nodes[0].terminate().success());
    projections::assert_equal_a_rebuild(&network.nodes[0].data_dir());
}
