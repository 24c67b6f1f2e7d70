//! New nodes that start from a copy of the log that another node has made.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hawser_proto::SequenceId;
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_storage::{BootstrapChunk, BootstrapManifest, FileHash, decode_chunk, encode_chunk};
use hawser_tests::harness::binary::hawser;
use hawser_tests::harness::network::{Network, Node, forget_settings};
use hawser_tests::harness::{envelopes, files, projections, seed, strand, wait, web_server};
use prost::Message as _;
use serde_json::Value;

/// Counts the generators of this process: no message may repeat another one, whose answer it would get.
static GENERATORS: AtomicU64 = AtomicU64::new(0);

async fn publish(node: &Node, count: u64) {
    let mut rng = seed::rng(seed::seed(), GENERATORS.fetch_add(1, Ordering::Relaxed));
    let client = node.client();
    for _ in 0..count {
        let message = envelopes::group_message([7; 16], 64, &mut rng);
        client
            .publish(vec![envelopes::sign(&message, node.id, &envelopes::payer(0))])
            .await
            .unwrap();
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Makes a copy at a node, running or not, and returns its name.
fn create(node: &Node, to: &Path) -> String {
    let mut command = Command::new(hawser());
    forget_settings(&mut command);
    command.args(["--json", "snapshot", "create", "--rate", "0", "--to"]).arg(to);
    let output = command.arg("--data-dir").arg(node.data_dir()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    done["snapshot"].as_str().unwrap().to_owned()
}

/// The command that fills the folder of a node with its own settings.
fn fetch(node: &Node, from: &Path, further: &[&str]) -> Output {
    let of_node = node.command();
    let mut command = Command::new(of_node.get_program());
    command.args(["--json", "snapshot", "fetch", "--from"]).arg(from).args(further);
    command.args(of_node.get_args().skip(1));
    forget_settings(&mut command);
    command.output().unwrap()
}

fn fetched(node: &Node, from: &Path) -> Value {
    let output = fetch(node, from, &[]);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Checks a copy by the keys of the registry; the strand of the first node.
fn verified(node: &Node, from: &Path, name: &str) -> Value {
    let mut command = Command::new(hawser());
    command.args(["--json", "snapshot", "verify", "--from"]).arg(from);
    command.args(["--snapshot", name, "--keys"]).arg(node.folder().join("registry.json"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    done["strands"][0].clone()
}

/// Three nodes that run and a fourth that never has, and a copy that the first one made: all strands are whole in it,
/// and another node has cosigned the tree of the first one.
async fn network_with_copy(count: u64) -> (Network, PathBuf, String) {
    let mut network = Network::new(4);
    for node in &mut network.nodes[..3] {
        node.start();
    }
    for node in &mut network.nodes[..3] {
        node.ready().await;
    }
    publish(&network.nodes[0], count).await;
    publish(&network.nodes[1], count).await;
    let first = &network.nodes[0];
    let to = first.folder().join("snapshots");
    let name = wait::until("a copy whose tree another node has cosigned", async || {
        let cursor = first.client().cursor().await.ok()?;
        if cursor.get(network.nodes[1].id) != SequenceId(count) {
            return None;
        }
        // One copy is left, so it is the newest one.
        let _ = fs::remove_dir_all(&to);
        let name = create(first, &to);
        let strand = verified(first, &to, &name);
        let covered = &strand["covered"];
        let is_cosigned = covered["cosigners"].as_array().is_some_and(|it| !it.is_empty());
        (is_cosigned && covered["size"] == count).then_some(name)
    })
    .await;
    (network, to, name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_starts_from_the_copy_of_another_one_and_follows_from_there() {
    let (mut network, to, name) = network_with_copy(20).await;
    let done = fetched(&network.nodes[3], &to);
    assert_eq!(done["snapshot"], name.as_str());
    assert_eq!(done["resumed"], false);
    let strands = done["strands"].as_array().unwrap();
    let first = strands.iter().find(|it| it["originator"] == 100).unwrap();
    assert_eq!((&first["head"], &first["envelopes"]), (&20.into(), &20.into()));
    assert_eq!(first["covered"]["size"], 20);
    // It holds all of that before it has spoken with a peer.
    let price = hawser_engine::price::price;
    let (store, identity) =
        hawser_storage::Store::open_existing(&network.nodes[3].data_dir(), price).unwrap();
    assert_eq!(identity.node, network.nodes[3].id);
    for id in &network.ids()[..2] {
        assert_eq!(store.snapshot().head(*id).unwrap(), SequenceId(20));
        assert_eq!(store.snapshot().tree_size(*id).unwrap(), 20);
    }
    drop(store);
    publish(&network.nodes[0], 3).await;
    network.start_all().await;
    publish(&network.nodes[3], 2).await;
    network.converged().await;
    let all = strand::read_all(&network.nodes[0].client()).await;
    assert_eq!(all[&100].len(), 23);
    assert_eq!(strand::read_all(&network.nodes[3].client()).await, all);
    let node = &mut network.nodes[3];
    assert!(node.terminate().success());
    projections::assert_equal_a_rebuild(&node.data_dir());
    // A folder that holds something is never a target.
    let again = fetch(node, &to, &[]);
    assert_eq!(again.status.code(), Some(3), "{}", text(&again));
}

/// The node that starts from the folder checks the signatures, and ends like all others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_takes_a_strand_by_its_tree_and_checks_signatures_when_it_runs() {
    let (mut network, to, _) = network_with_copy(20).await;
    network.nodes[3].arguments.extend(["--catch-up", "checkpoints"].map(str::to_owned));
    let done = fetched(&network.nodes[3], &to);
    let strands = done["strands"].as_array().unwrap();
    let first = strands.iter().find(|it| it["originator"] == 100).unwrap();
    assert_eq!((&first["head"], &first["envelopes"]), (&20.into(), &20.into()), "{done}");
    assert_eq!(
        (&first["unverified"], &first["covered"]["size"]),
        (&20.into(), &20.into()),
        "{done}"
    );
    let id = network.nodes[0].id;
    let whole = strand::read(&network.nodes[0].client(), id).await;
    let price = hawser_engine::price::price;
    let (store, _) =
        hawser_storage::Store::open_existing(&network.nodes[3].data_dir(), price).unwrap();
    assert_eq!(store.snapshot().head(id).unwrap(), SequenceId(20));
    assert_eq!(store.snapshot().verified_head(id).unwrap(), SequenceId(0));
    drop(store);
    for node in &mut network.nodes[..3] {
        assert!(node.terminate().success());
    }
    // No peer runs. Readers of whole strands get what is verified.
    let node = &mut network.nodes[3];
    node.start();
    let client = node.client();
    wait::until_equal("all signatures are checked", &whole, async || {
        client.cursor().await.ok()?;
        Some(strand::read(&client, id).await)
    })
    .await;
    network.start_all().await;
    publish(&network.nodes[0], 3).await;
    network.converged().await;
    let node = &mut network.nodes[3];
    assert!(node.terminate().success());
    projections::assert_equal_a_rebuild(&node.data_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_interrupted_goes_on_and_starts_no_node_before() {
    let (mut network, to, name) = network_with_copy(5).await;
    let copy = Copy::read(&to, &name);
    let lost = copy.chunk_path(copy.manifest.strands[1].chunks[0].hash);
    let aside = network.nodes[0].folder().join("aside");
    fs::rename(&lost, &aside).unwrap();
    let node = &mut network.nodes[3];
    let output = fetch(node, &to, &[]);
    assert!(text(&output).contains("is missing"), "{}", text(&output));
    let start = node.command().output().unwrap();
    assert!(!start.status.success());
    assert!(text(&start).contains("has not come to its end"), "{}", text(&start));
    fs::rename(&aside, &lost).unwrap();
    let done = fetched(node, &to);
    assert_eq!(done["resumed"], true);
    let of_this_run: Vec<_> = done["strands"].as_array().unwrap().iter().collect();
    assert_eq!(of_this_run[0]["envelopes"], 0, "{done}");
    assert_eq!(of_this_run[1]["envelopes"], 5, "{done}");
    network.start_all().await;
    network.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_on_what_has_come_when_it_is_told_so_and_takes_the_rest_from_peers() {
    let (mut network, to, name) = network_with_copy(5).await;
    let node = &network.nodes[3];
    let early = fetch(node, &to, &["--release"]);
    assert!(text(&early).contains("nothing was taken yet"), "{}", text(&early));
    let copy = Copy::read(&to, &name);
    fs::remove_file(copy.chunk_path(copy.manifest.strands[1].chunks[0].hash)).unwrap();
    let output = fetch(node, &to, &[]);
    assert!(text(&output).contains("is missing"), "{}", text(&output));
    let output = fetch(node, &to, &["--release"]);
    assert!(output.status.success(), "{}", text(&output));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    let strands = done["strands"].as_array().unwrap();
    assert_eq!(strands.len(), 1, "{done}");
    assert_eq!((&strands[0]["head"], &strands[0]["covered"]["size"]), (&5.into(), &5.into()));
    network.start_all().await;
    network.converged().await;
    let all = strand::read_all(&network.nodes[0].client()).await;
    assert_eq!(strand::read_all(&network.nodes[3].client()).await, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_node_is_filled_strand_by_strand_and_serves_what_has_come() {
    let (mut network, to, name) = network_with_copy(5).await;
    let all = strand::read_all(&network.nodes[0].client()).await;
    for node in &mut network.nodes[..3] {
        assert!(node.terminate().success());
    }
    let copy = Copy::read(&to, &name);
    let lost = copy.chunk_path(copy.manifest.strands[1].chunks[0].hash);
    let aside = network.nodes[0].folder().join("aside");
    fs::rename(&lost, &aside).unwrap();
    let url = format!("http://{}", web_server::serve(&to));
    let ids = network.ids();
    let node = &mut network.nodes[3];
    node.arguments.extend(["--bootstrap-from".to_owned(), url]);
    node.start();
    // No peer runs. The first strand is there while the second one cannot be filled.
    wait::until("the first strand can be read", async || {
        (node.client().cursor().await.ok()?.get(ids[0]) == SequenceId(5)).then_some(())
    })
    .await;
    assert_eq!(strand::read_all(&node.client()).await[&100], all[&100]);
    assert_eq!(node.client().cursor().await.unwrap().get(ids[1]), SequenceId(0));
    fs::rename(&aside, &lost).unwrap();
    wait::until("the second strand can be read", async || {
        (node.client().cursor().await.ok()?.get(ids[1]) == SequenceId(5)).then_some(())
    })
    .await;
    assert_eq!(strand::read_all(&node.client()).await, all);
    // Its followers go on, and it publishes.
    network.start_all().await;
    publish(&network.nodes[0], 3).await;
    publish(&network.nodes[3], 2).await;
    network.converged().await;
    let node = &mut network.nodes[3];
    assert!(node.terminate().success());
    projections::assert_equal_a_rebuild(&node.data_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lies_to_a_running_node_leaves_it_with_its_peers() {
    let (mut network, to, name) = network_with_copy(5).await;
    let mut forged = Copy::read(&to, &name);
    let mut envelopes = forged.envelopes();
    let mut bytes = envelopes[2].1.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    envelopes[2].1 = bytes.into();
    forged.replace(&envelopes);
    // The newest one.
    forged.manifest.made_unix_s += 1;
    forged.write();
    for node in &mut network.nodes[..3] {
        assert!(node.terminate().success());
    }
    let from = to.to_str().unwrap().to_owned();
    let id = network.nodes[0].id;
    let node = &mut network.nodes[3];
    node.arguments.extend(["--bootstrap-from".to_owned(), from]);
    node.start();
    wait::until("the lie was found", async || {
        let output = node.process().output();
        let is_logged = output.contains("filling_failed") && output.contains("has not signed");
        is_logged.then_some(())
    })
    .await;
    let held = wait::until("the node serves", async || node.client().cursor().await.ok()).await;
    assert_eq!(held.get(id), SequenceId(0));
    network.start_all().await;
    network.converged().await;
    let all = strand::read_all(&network.nodes[0].client()).await;
    assert_eq!(strand::read_all(&network.nodes[3].client()).await, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_node_asks_peers_for_what_a_copy_leaves_out() {
    let (mut network, to, name) = network_with_copy(5).await;
    let mut short = Copy::read(&to, &name);
    let mut envelopes = short.envelopes();
    envelopes.remove(2);
    short.replace(&envelopes);
    // The newest one.
    short.manifest.made_unix_s += 1;
    short.write();
    for node in &mut network.nodes[..3] {
        assert!(node.terminate().success());
    }
    let from = to.to_str().unwrap().to_owned();
    let ids = network.ids();
    let node = &mut network.nodes[3];
    node.arguments.extend(["--bootstrap-from".to_owned(), from]);
    node.start();
    // No peer runs. The first strand is filled before the second one.
    let held = wait::until("the second strand can be read", async || {
        node.client().cursor().await.ok().filter(|held| held.get(ids[1]) == SequenceId(5))
    })
    .await;
    assert_eq!(held.get(ids[0]), SequenceId(2));
    network.start_all().await;
    network.converged().await;
    let all = strand::read_all(&network.nodes[0].client()).await;
    assert_eq!(strand::read_all(&network.nodes[3].client()).await, all);
    let node = &mut network.nodes[3];
    assert!(node.terminate().success());
    projections::assert_equal_a_rebuild(&node.data_dir());
}

/// The node that signed them may be the only one that runs, and then the strand is taken from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_copy_leaves_out_comes_from_the_only_peer() {
    let (mut network, to, name) = network_with_copy(5).await;
    let mut short = Copy::read(&to, &name);
    let mut envelopes = short.envelopes();
    envelopes.remove(2);
    short.replace(&envelopes);
    let output = fetch(&network.nodes[3], &to, &["--snapshot", &short.write()]);
    assert!(output.status.success(), "{}", text(&output));
    for node in &mut network.nodes[1..3] {
        assert!(node.terminate().success());
    }
    let id = network.nodes[0].id;
    let whole = strand::read(&network.nodes[0].client(), id).await;
    let node = &mut network.nodes[3];
    node.start();
    node.readable().await;
    let client = node.client();
    wait::until_equal("the strand is whole", &whole, async || {
        Some(strand::read(&client, id).await)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_starts_from_a_copy_on_a_web_server() {
    let (mut network, to, name) = network_with_copy(5).await;
    let url = PathBuf::from(format!("http://{}", web_server::serve(&to)));
    // One chunk is not there at first, as while a copy is being uploaded.
    let copy = Copy::read(&to, &name);
    let lost = copy.chunk_path(copy.manifest.strands[1].chunks[0].hash);
    let aside = network.nodes[0].folder().join("aside");
    fs::rename(&lost, &aside).unwrap();
    let output = fetch(&network.nodes[3], &url, &[]);
    assert!(text(&output).contains("is missing"), "{}", text(&output));
    fs::rename(&aside, &lost).unwrap();
    let done = fetched(&network.nodes[3], &url);
    assert_eq!((&done["snapshot"], &done["resumed"]), (&name.as_str().into(), &true.into()));
    let envelopes = |at: usize| &done["strands"][at]["envelopes"];
    assert_eq!((envelopes(0), envelopes(1)), (&0.into(), &5.into()), "{done}");
    network.start_all().await;
    network.converged().await;
    let other = Path::new("http://192.0.2.1/");
    let refused = fetch(&network.nodes[2], other, &[]);
    assert!(text(&refused).contains("--allow-http"), "{}", text(&refused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_starts_from_the_copy_that_a_peer_gives_out() {
    let (mut network, to, name) = network_with_copy(5).await;
    let peer = &mut network.nodes[0];
    assert!(peer.terminate().success());
    let folder = to.to_str().unwrap().to_owned();
    peer.arguments.extend(["--snapshot-serve".to_owned(), folder]);
    peer.start();
    peer.ready().await;
    let url = PathBuf::from(format!("http://{}/snapshot", peer.at(peer.port)));
    let done = fetched(&network.nodes[3], &url);
    assert_eq!(done["snapshot"], name.as_str());
    let envelopes = |at: usize| &done["strands"][at]["envelopes"];
    assert_eq!((envelopes(0), envelopes(1)), (&5.into(), &5.into()), "{done}");
    network.start_all().await;
    network.converged().await;
    let all = strand::read_all(&network.nodes[0].client()).await;
    assert_eq!(strand::read_all(&network.nodes[3].client()).await, all);
}

/// A copy in a folder, to be altered.
struct Copy {
    to: PathBuf,
    manifest: BootstrapManifest,
}

impl Copy {
    fn read(to: &Path, name: &str) -> Self {
        let path = to.join("snapshots").join(format!("{name}.snapshot"));
        let manifest = BootstrapManifest::decode(&fs::read(path).unwrap()).unwrap();
        Self { to: to.to_owned(), manifest }
    }

    fn chunk_path(&self, hash: FileHash) -> PathBuf {
        let hash = hash.to_string();
        self.to.join("chunks").join(&hash[..2]).join(&hash)
    }

    /// The envelopes of the first strand, which one chunk has.
    fn envelopes(&self) -> Vec<(SequenceId, Bytes)> {
        let strand = &self.manifest.strands[0];
        let bytes = fs::read(self.chunk_path(strand.chunks[0].hash)).unwrap();
        decode_chunk(&bytes.into(), strand.originator).unwrap()
    }

    /// Puts other envelopes into the first strand.
    fn replace(&mut self, envelopes: &[(SequenceId, Bytes)]) {
        let strand = &mut self.manifest.strands[0];
        let bytes = encode_chunk(strand.originator, envelopes);
        let hash = FileHash(blake3_of(&bytes));
        let (from, through) = (envelopes[0].0, envelopes[envelopes.len() - 1].0);
        let len_bytes = bytes.len() as u64;
        strand.chunks = vec![BootstrapChunk { from, through, len_bytes, hash }];
        let path = self.chunk_path(hash);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Writes the manifest under its name, and returns that.
    fn write(&self) -> String {
        let bytes = self.manifest.encode().unwrap();
        let hash = FileHash(blake3_of(&bytes)).to_string();
        let name = format!("{:012}-{}", self.manifest.made_unix_s, &hash[..16]);
        fs::write(self.to.join("snapshots").join(format!("{name}.snapshot")), bytes).unwrap();
        name
    }
}

fn blake3_of(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// The same place, signed by the node, with another time.
fn equivocation(node: &Node, bytes: &Bytes) -> Bytes {
    let envelope = pb::OriginatorEnvelope::decode(bytes.clone()).unwrap();
    let mut unsigned =
        pb::UnsignedOriginatorEnvelope::decode(envelope.unsigned_originator_envelope).unwrap();
    unsigned.originator_ns += 1;
    let unsigned = Bytes::from(unsigned.encode_to_vec());
    let signature = node.key.sign(originator_digest(&unsigned));
    OriginatorEnvelope::encode(unsigned, Proof::Signature(signature))
}

/// Asserts that a copy is refused for a reason, and that no node starts from what was written before it was noticed.
fn assert_refused(new: &Node, from: &Path, name: &str, reason: &str, is_written: bool) {
    let output = fetch(new, from, &["--snapshot", name]);
    assert!(!output.status.success(), "{reason}");
    assert!(text(&output).contains(reason), "{reason}: {}", text(&output));
    assert_eq!(new.data_dir().exists(), is_written, "{reason}");
    if is_written {
        let start = new.command().output().unwrap();
        assert!(text(&start).contains("has not come to its end"), "{}", text(&start));
        fs::remove_dir_all(new.data_dir()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_liar_has_altered_is_refused_by_name() {
    let (network, to, name) = network_with_copy(5).await;
    let (first, new) = (&network.nodes[0], &network.nodes[3]);
    let refused = |name: &str, reason: &str, is_written| {
        assert_refused(new, &to, name, reason, is_written);
    };
    let honest = || Copy::read(&to, &name);

    // An envelope that its node has not signed, and one in another place.
    let (mut forged, mut envelopes) = (honest(), honest().envelopes());
    let mut bytes = envelopes[2].1.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    envelopes[2].1 = bytes.into();
    forged.replace(&envelopes);
    refused(&forged.write(), "strand 100, place 3: the node has not signed", true);
    let (mut moved, mut envelopes) = (honest(), honest().envelopes());
    let (one, two) = (envelopes[0].1.clone(), envelopes[1].1.clone());
    (envelopes[0].1, envelopes[1].1) = (two, one);
    moved.replace(&envelopes);
    refused(&moved.write(), "strand 100, place 1: the node has not signed", true);

    // An envelope that the node has signed, and that is not in the tree which it has signed.
    let (mut exchanged, mut envelopes) = (honest(), honest().envelopes());
    envelopes[3].1 = equivocation(first, &envelopes[3].1);
    exchanged.replace(&envelopes);
    refused(&exchanged.write(), "make another tree than node 100 has signed", true);

    // A strand that ends before what was signed, and a checkpoint that was not signed.
    let (mut cut, envelopes) = (honest(), honest().envelopes());
    cut.replace(&envelopes[..2]);
    cut.manifest.strands[0].head = SequenceId(2);
    refused(&cut.write(), "it was cut off", false);
    let mut unsigned = honest();
    unsigned.manifest.strands[0].checkpoints[0].signed.checkpoint.root.0[0] ^= 1;
    refused(&unsigned.write(), "node 100 has not signed the checkpoint", false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_of_another_network_damaged_or_left_out_is_told() {
    let (network, to, name) = network_with_copy(5).await;
    let new = &network.nodes[3];
    let refused = |name: &str, reason: &str, is_written| {
        assert_refused(new, &to, name, reason, is_written);
    };
    let honest = || Copy::read(&to, &name);

    // Another network, also when it is the newest one.
    let mut foreign = honest();
    foreign.manifest.network = "other".to_owned();
    foreign.manifest.made_unix_s += 1000;
    refused(&foreign.write(), "the snapshot is of network", false);

    // Chunks that were damaged on the way.
    let chunk = honest().chunk_path(honest().manifest.strands[0].chunks[0].hash);
    let whole = fs::read(&chunk).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&chunk, flipped).unwrap();
    refused(&name, "the chunk from 1 is damaged", true);
    fs::write(&chunk, [&whole[..], b"more"].concat()).unwrap();
    refused(&name, "the chunk from 1 is damaged", true);
    fs::remove_file(&chunk).unwrap();
    refused(&name, "the chunk from 1 is missing", true);
    fs::write(&chunk, &whole).unwrap();

    // The command reports omitted envelopes, and every fetched envelope is genuine.
    let (mut less, mut envelopes) = (honest(), honest().envelopes());
    envelopes.remove(2);
    less.replace(&envelopes);
    let output = fetch(new, &to, &["--snapshot", &less.write()]);
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    let strand = &done["strands"][0];
    assert_eq!((&strand["missing"], &strand["envelopes"]), (&1.into(), &4.into()), "{done}");
    assert_eq!(
        (&strand["covered"], &strand["checkpoint_not_compared"]),
        (&Value::Null, &true.into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_another_registry_hold_for_nothing() {
    let (network, to, name) = network_with_copy(3).await;
    let new = &network.nodes[3];
    // The new node knows another key for the first one, so nothing of that strand is signed for it.
    let records: Vec<_> = network
        .nodes
        .iter()
        .map(|node| files::Record {
            id: node.id,
            key: match node.id.0 {
                100 => hawser_proto::SecretKey::from_bytes(&[0x55; 32]).unwrap().public_key(),
                _ => node.key.public_key(),
            },
            http_address: format!("http://127.0.0.1:{}", node.port),
            quic_address: None,
            canonical: true,
        })
        .collect();
    files::write_registry(&new.folder().join("registry.json"), &records);
    let output = fetch(new, &to, &["--snapshot", &name]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("node 100 has not signed the checkpoint"), "{}", text(&output));
    assert!(!new.data_dir().exists());
}
