//! Nodes whose data folder is not what their host wrote last: nothing is signed twice, and they publish
//! again.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{Backups, FolderObjects};
use hawser_tests::harness::binary::hawser;
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{envelopes, files, projections, raw, seed, strand, wait};
use rand::RngExt as _;
use serde_json::{Value, json};
use tonic::Code;

/// Counts the generators of this process: no message may repeat another one, whose answer it would get.
static GENERATORS: AtomicU64 = AtomicU64::new(0);

/// Publishes some envelopes, one by one; returns them by place.
async fn publish(node: &Node, count: u64) -> BTreeMap<u64, Bytes> {
    let mut rng = seed::rng(seed::seed(), GENERATORS.fetch_add(1, Ordering::Relaxed));
    let client = node.client();
    let mut published = BTreeMap::new();
    for _ in 0..count {
        let message = envelopes::group_message([7; 16], 64, &mut rng);
        let message = envelopes::sign(&message, node.id, &envelopes::payer(0));
        let answer = client.publish(vec![message]).await.unwrap().remove(0);
        published.insert(strand::id_of(&answer).sequence.0, answer);
    }
    published
}

/// Asserts that a publish is refused because of a quarantine.
async fn assert_quarantined(node: &Node) {
    let mut rng = seed::rng(seed::seed(), GENERATORS.fetch_add(1, Ordering::Relaxed));
    let message = envelopes::group_message([7; 16], 64, &mut rng);
    let message = envelopes::sign(&message, node.id, &envelopes::payer(0));
    let refused = node.client().publish(vec![message]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("in quarantine"), "{refused}");
    assert!(refused.metadata().contains_key("retry-after"), "{refused:?}");
    let (status, page) = raw::get(node.metrics_port, "/readyz?for=publish").await.unwrap();
    assert_eq!(status, 503);
    assert!(page.contains("own_strand"), "{page}");
}

/// Asserts that every node of the network holds the same strand of the first node, with these envelopes.
async fn assert_everywhere(network: &Network, published: &BTreeMap<u64, Bytes>) {
    network.converged().await;
    for node in &network.nodes {
        let held = strand::read(&node.client(), network.nodes[0].id).await;
        assert!(held == *published, "node {}: {:?}", node.id, held.keys());
    }
}

/// Asserts that a node has continued behind a gap above a place. Returns the first place behind it.
fn behind_gap(last: u64, after: &BTreeMap<u64, Bytes>) -> u64 {
    let first = *after.keys().next().unwrap();
    assert!(first > last && strand::is_gap(first - last - 1), "{first} after {last}");
    first
}

/// Puts the files of a copy in place of those of the node's folder.
fn put_back(backup: &Path, node: &Node) {
    for file in fs::read_dir(node.data_dir()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    files::copy_folder(backup, &node.data_dir());
}

/// Runs a command on the data folder of a node; returns its answer.
fn on_folder(node: &Node, arguments: &[&str]) -> Result<Value, String> {
    let mut command = Command::new(hawser());
    command.arg("--json").args(arguments).arg("--data-dir").arg(node.data_dir());
    let output = command.output().unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Makes a backup of a node while some envelopes are published to it. Returns the backup's name and what it
/// states of the node's strand.
async fn back_up_while_publishing(
    node: &Node,
    to: &str,
    published: &mut BTreeMap<u64, Bytes>,
) -> (String, u64) {
    let before = published.len() as u64;
    let (answer, during) = tokio::join!(
        async {
            tokio::task::block_in_place(|| on_folder(node, &["backup", "create", "--to", to]))
        },
        publish(node, 12),
    );
    let answer = answer.unwrap();
    published.extend(during);
    let head = answer["heads"][node.id.to_string()].as_u64().unwrap();
    assert!((before..=published.len() as u64).contains(&head), "{answer}");
    (answer["backup"].as_str().unwrap().to_owned(), head)
}

fn try_confirm(node: &Node, further: &[&str]) -> Output {
    let mut command = Command::new(hawser());
    command.args(["restore", "confirm", "--yes", "--state-dir"]).arg(node.state_dir());
    command.args(further).output().unwrap()
}

fn confirm(node: &Node, further: &[&str]) {
    let output = try_confirm(node, further);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_of_one_node_and_of_all_leave_no_gap() {
    let mut network = Network::start(3).await;
    let mut published = publish(&network.nodes[0], 5).await;
    network.nodes[0].kill();
    network.start_all().await;
    published.extend(publish(&network.nodes[0], 5).await);
    network.nodes.iter_mut().for_each(Node::kill);
    network.start_all().await;
    published.extend(publish(&network.nodes[0], 5).await);
    for node in &mut network.nodes {
        assert!(node.terminate().success());
    }
    network.start_all().await;
    published.extend(publish(&network.nodes[0], 5).await);
    assert_eq!(published.keys().copied().collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    assert_everywhere(&network, &published).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_folder_signs_nothing_while_peers_do_not_answer_and_nothing_twice_after() {
    let mut network = Network::with_cables(3).await;
    network.start_all().await;
    let mut published = publish(&network.nodes[0], 5).await;
    let backup = network.nodes[0].folder().join("backup");
    assert!(network.nodes[0].terminate().success());
    files::copy_folder(&network.nodes[0].data_dir(), &backup);
    network.start_all().await;
    published.extend(publish(&network.nodes[0], 5).await);
    network.converged().await;
    assert!(network.nodes[0].terminate().success());

    put_back(&backup, &network.nodes[0]);
    network.cut(0, 1);
    network.cut(0, 2);
    network.nodes[0].start();
    network.nodes[0].readable().await;
    let held = strand::read(&network.nodes[0].client(), network.nodes[0].id).await;
    assert_eq!(held.len(), 5, "it serves readers");
    // Longer than the shortest quarantine.
    for _ in 0..12 {
        assert_quarantined(&network.nodes[0]).await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    let refused = try_confirm(&network.nodes[0], &["--complete"]);
    assert_eq!(refused.status.code(), Some(3), "its host knows of more");
    network.mend(0, 1);
    network.mend(0, 2);
    network.nodes[0].ready().await;
    let after = publish(&network.nodes[0], 3).await;
    let behind = behind_gap(10, &after);
    published.extend(after);
    assert_everywhere(&network, &published).await;
    // From now on the folder is known.
    network.nodes[0].kill();
    network.start_all().await;
    let after = publish(&network.nodes[0], 1).await;
    assert_eq!(after.keys().next(), Some(&(behind + 3)));
}

/// The worst mistake: the settings and the key of a node that has a strand, on a new host, with the flag
/// for new nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_folder_with_a_used_key_takes_the_strand_over_from_peers() {
    let mut network = Network::start(3).await;
    let mut published = publish(&network.nodes[0], 8).await;
    network.converged().await;
    let node = &mut network.nodes[0];
    assert!(node.terminate().success());
    fs::remove_dir_all(node.data_dir()).unwrap();
    fs::remove_dir_all(node.state_dir()).unwrap();
    node.is_new = true;
    node.start();
    node.ready().await;
    let after = publish(node, 2).await;
    let behind = behind_gap(8, &after);
    published.extend(after);
    assert_everywhere(&network, &published).await;
    let of = network.nodes[0].id;
    for node in &network.nodes {
        let what = format!("node {} shows that the gap is declared void", node.id);
        let declared = wait::until(&what, async || declared_void(node, of).await).await;
        let (from, through) = (declared["from"].as_u64(), declared["through"].as_u64());
        assert_eq!((from, through), (Some(9), Some(behind - 1)), "{declared}");
    }
}

/// The first range of a strand that its node has declared void, as another node's status shows it.
async fn declared_void(node: &Node, of: OriginatorId) -> Option<Value> {
    let (_, page) = raw::get(node.metrics_port, "/status").await.ok()?;
    let status: Value = serde_json::from_str(&page).ok()?;
    let strands = status["originators"].as_array()?;
    let strand = strands.iter().find(|it| it["originator_id"] == of.0)?;
    strand["declared_void"].get(0).cloned()
}

/// The same mistake while the peers that could refute it are cut off for longer than a known folder asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_key_that_is_declared_new_signs_nothing_while_its_peers_are_cut_off() {
    let mut network = Network::with_cables(3).await;
    network.start_all().await;
    let mut published = publish(&network.nodes[0], 8).await;
    network.converged().await;
    let node = &mut network.nodes[0];
    assert!(node.terminate().success());
    fs::remove_dir_all(node.data_dir()).unwrap();
    fs::remove_dir_all(node.state_dir()).unwrap();
    network.cut(0, 1);
    network.cut(0, 2);
    let node = &mut network.nodes[0];
    node.is_new = true;
    node.start();
    wait::until("it waits for answers although it is declared new", async || {
        let (_, page) = raw::get(node.metrics_port, "/readyz?for=publish").await.ok()?;
        (page.contains("in quarantine") && page.contains("--new-strand")).then_some(())
    })
    .await;
    node.readable().await;
    assert_quarantined(node).await;
    // One of two other nodes is no majority; it shows the strand before the other one is heard.
    network.mend(0, 1);
    wait::until_equal("the strand is taken over", &8, async || {
        let node = &network.nodes[0];
        Some(node.client().cursor().await.ok()?.get(node.id).0)
    })
    .await;
    assert_quarantined(&network.nodes[0]).await;
    network.mend(0, 2);
    network.nodes[0].ready().await;
    let after = publish(&network.nodes[0], 2).await;
    behind_gap(8, &after);
    published.extend(after);
    assert_everywhere(&network, &published).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_anyone_to_ask_waits_for_its_operator() {
    // The other node never runs, and is not asked for either.
    let mut network = Network::new(2);
    let node = &mut network.nodes[0];
    node.arguments = vec!["--sync.enable=false".into()];
    node.start();
    node.ready_by_word().await;
    let mut last = *publish(node, 5).await.keys().next_back().unwrap();
    for (further, is_complete) in [(&["--complete"][..], true), (&[], false)] {
        assert!(node.terminate().success());
        fs::remove_dir_all(node.state_dir()).unwrap();
        node.start();
        node.readable().await;
        assert_quarantined(node).await;
        confirm(node, further);
        node.ready().await;
        let place = *publish(node, 1).await.keys().next().unwrap();
        let left_out = place - last - 1;
        let is_right = if is_complete { left_out == 0 } else { strand::is_gap(left_out) };
        assert!(is_right, "{left_out} after {last}");
        last = place;
    }
    node.kill();
    node.start();
    node.ready().await;
    assert_eq!(publish(node, 1).await.keys().next(), Some(&(last + 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_key_is_refused_as_new_and_never_runs_twice_on_a_host() {
    let mut network = Network::start(1).await;
    let node = &mut network.nodes[0];
    publish(node, 1).await;
    let copy = node.folder().join("copy");
    files::copy_folder(&node.data_dir(), &copy);
    let mut second = node.command();
    second.arg("--data-dir").arg(&copy);
    let second = second.output().unwrap();
    let error = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(3), "{error}");
    assert!(error.contains("two processes never share a key"), "{error}");

    assert!(node.terminate().success());
    let again = node.command().arg("--new-strand").output().unwrap();
    let error = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(3), "{error}");
    assert!(error.contains("its strand ends at 1"), "{error}");
    let mut other = node.command();
    other.arg("--new-strand").arg("--data-dir").arg(node.folder().join("none"));
    let other = other.output().unwrap();
    assert_eq!(other.status.code(), Some(3), "{}", String::from_utf8_lossy(&other.stderr));
}

/// A snapshot of a whole machine brings the marker along, so only peers can show it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_was_set_back_is_stopped_by_its_peers() {
    let mut network = Network::start(3).await;
    let mut published = publish(&network.nodes[0], 5).await;
    let (backup, state) =
        (network.nodes[0].folder().join("backup"), network.nodes[0].folder().join("backup-state"));
    assert!(network.nodes[0].terminate().success());
    let host_dir = |node: &Node| {
        let mut entries = fs::read_dir(node.state_dir()).unwrap();
        entries.next().unwrap().unwrap().path()
    };
    files::copy_folder(&network.nodes[0].data_dir(), &backup);
    files::copy_folder(&host_dir(&network.nodes[0]), &state);
    network.start_all().await;
    published.extend(publish(&network.nodes[0], 5).await);
    network.converged().await;
    assert!(network.nodes[0].terminate().success());
    put_back(&backup, &network.nodes[0]);
    fs::copy(state.join("marker"), host_dir(&network.nodes[0]).join("marker")).unwrap();
    network.nodes[0].start();
    network.nodes[0].readable().await;
    network.nodes[0].ready().await;
    let after = publish(&network.nodes[0], 1).await;
    behind_gap(10, &after);
    published.extend(after);
    assert_everywhere(&network, &published).await;
}

/// A day of load in small: backups of a node that publishes, and a restore of each. The node goes on from one
/// of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_backup_of_a_busy_node_restores_and_no_place_is_signed_twice() {
    let mut network = Network::start(3).await;
    let (mut published, mut backups) = (publish(&network.nodes[0], 5).await, Vec::new());
    let to = network.nodes[0].folder().join("backups").to_str().unwrap().to_owned();
    for _ in 0..3 {
        backups.push(back_up_while_publishing(&network.nodes[0], &to, &mut published).await);
    }
    network.converged().await;
    let node = &mut network.nodes[0];
    assert!(node.terminate().success());
    let restore = |node: &Node, name: &str| {
        let node_id = node.id.to_string();
        let manifest = Backups::existing(Arc::new(FolderObjects::new(Path::new(&to))))
            .unwrap()
            .manifest(name)
            .unwrap();
        let signer = manifest.manifest.identity.public_key.address().to_string();
        let wanted = ["--network", "test", "--node-id", &node_id, "--signer", &signer];
        let arguments = [&["restore", "--from", &to, "--backup", name][..], &wanted].concat();
        on_folder(node, &arguments)
    };
    let of_any_key = on_folder(node, &["restore", "--from", &to]).unwrap_err();
    assert!(of_any_key.contains("--signer"), "{of_any_key}");
    let refused = restore(node, &backups[0].0).unwrap_err();
    assert!(refused.contains("never replaces data"), "{refused}");
    for (name, head) in &backups {
        fs::remove_dir_all(node.data_dir()).unwrap();
        restore(node, name).unwrap();
        let price = hawser_engine::price::price;
        let (store, _) = hawser_storage::Store::open_existing(&node.data_dir(), price).unwrap();
        let snapshot = store.snapshot();
        assert_eq!(snapshot.head(node.id).unwrap().0, *head);
        for (place, bytes) in published.range(..=head) {
            let id = EnvelopeId::new(node.id, SequenceId(*place));
            assert_eq!(snapshot.get(id).unwrap().as_ref(), Some(bytes));
        }
    }
    let chosen = seed::rng(seed::seed(), u64::MAX).random_range(0..backups.len());
    fs::remove_dir_all(node.data_dir()).unwrap();
    restore(node, &backups[chosen].0).unwrap();
    node.start();
    node.readable().await;
    assert_quarantined(node).await;
    node.ready().await;
    let after = publish(node, 3).await;
    let last = *published.keys().next_back().unwrap();
    behind_gap(last, &after);
    published.extend(after);
    assert_everywhere(&network, &published).await;
    assert!(network.nodes[0].terminate().success());
    projections::assert_equal_a_rebuild(&network.nodes[0].data_dir());
}

/// Hours of a day in small, each with a backup: `HAWSER_TEST_HOURS` makes it longer. After each of them the node leaves
/// out places, for which every node searches a minute, so a day of `n` hours takes some `n²` minutes
/// (`HAWSER_TEST_LIMIT` bounds a program in `scripts/test`).
fn hours() -> u64 {
    std::env::var("HAWSER_TEST_HOURS").map_or(2, |text| text.parse().unwrap())
}

/// Random load at two nodes, and a backup in each hour. The node is set back to every one of them, in a random order,
/// and publishes again: the strands of all nodes have every envelope that was ever acknowledged, and equal trees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_on_from_every_backup_of_a_day_of_random_load() {
    let mut network = Network::start(3).await;
    let mut rng = seed::rng(seed::seed(), u64::MAX - 1);
    let (mut published, mut backups) = (publish(&network.nodes[0], 3).await, Vec::new());
    let to = network.nodes[0].folder().join("backups").to_str().unwrap().to_owned();
    // The last place before the places that were left out, each time.
    let mut ends = Vec::new();
    for _ in 0..hours() {
        let (own, other) = (rng.random_range(0..20), rng.random_range(0..20));
        published.extend(publish(&network.nodes[0], own).await);
        publish(&network.nodes[1], other).await;
        backups.push(back_up_while_publishing(&network.nodes[0], &to, &mut published).await.0);
    }
    while !backups.is_empty() {
        let name = backups.swap_remove(rng.random_range(0..backups.len()));
        // The peers have the envelopes that the backup lacks.
        network.converged().await;
        let node = &mut network.nodes[0];
        assert!(node.terminate().success());
        fs::remove_dir_all(node.data_dir()).unwrap();
        let of_node = ["--network", "test", "--node-id", "100", "--any-signer"];
        let restore = [&["restore", "--from", &to, "--backup", &name][..], &of_node].concat();
        on_folder(node, &restore).unwrap();
        node.start();
        node.readable().await;
        assert_quarantined(node).await;
        for end in &ends {
            wait::until(&format!("it has what came after {end} again"), async || {
                let own = node.client().cursor().await.unwrap().get(node.id).0;
                (own > *end).then_some(())
            })
            .await;
        }
        node.ready().await;
        let after = publish(node, 2).await;
        let last = *published.keys().next_back().unwrap();
        ends.push(last);
        assert!(after.keys().all(|place| *place > last), "{name}: {:?}", after.keys());
        published.extend(after);
        assert_everywhere(&network, &published).await;
    }
    let ids = network.ids();
    let mut stores = Vec::new();
    for node in &mut network.nodes {
        assert!(node.terminate().success());
        let price = hawser_engine::price::price;
        let (store, _) = hawser_storage::Store::open_existing(&node.data_dir(), price).unwrap();
        while !store.extend_trees(1024).unwrap() {}
        stores.push(store);
    }
    for id in ids {
        let snapshots: Vec<_> = stores.iter().map(hawser_storage::Store::snapshot).collect();
        let sizes = snapshots.iter().map(|it| it.tree_size(id).unwrap());
        let size = sizes.min().unwrap();
        let roots: Vec<_> = snapshots.iter().map(|it| it.root(id, size).unwrap()).collect();
        assert!(roots.windows(2).all(|pair| pair[0] == pair[1]), "{id} at {size}: {roots:?}");
        assert!(id != stores[0].identity().node || size > 3, "{id} at {size}");
    }
}

/// The node makes the backup itself, so it ends with its command and with the node, and two never add up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_ends_with_its_command_and_with_the_node() {
    let mut network = Network::start(1).await;
    let node = &mut network.nodes[0];
    publish(node, 5).await;
    let to = node.folder().join("backups").to_str().unwrap().to_owned();
    // So slow that it does not end by itself before the test does.
    let begin = |node: &Node| {
        let request = json!({ "backup": { "to": { "folder": to }, "bytes_per_s": 1 } });
        let mut stream = UnixStream::connect(node.data_dir().join("admin.sock")).unwrap();
        writeln!(stream, "{request}").unwrap();
        BufReader::new(stream)
    };
    let line = |answer: &mut BufReader<UnixStream>| {
        let mut line = String::new();
        answer.read_line(&mut line).unwrap();
        line
    };
    let mut first = begin(node);
    assert!(line(&mut first).contains("progress"));
    assert!(line(&mut begin(node)).contains("another command is at work"));
    publish(node, 1).await;
    drop(first);
    let create = ["backup", "create", "--rate", "0", "--to", &to];
    wait::until("the first backup has ended", async || on_folder(node, &create).ok()).await;

    // Another command of the same server: no report is settled, so nothing is pruned, and the command says so.
    let not_pruned = |node: &Node| {
        let pruned = on_folder(node, &["prune", "--dry-run"]).unwrap();
        assert_eq!((&pruned["pruned"], &pruned["compared_with_unix_s"]), (&json!(0), &json!(0)));
        assert_eq!(pruned["strands"][0]["not_expired"], 6, "{pruned}");
    };
    not_pruned(node);

    let mut last = begin(node);
    assert!(line(&mut last).contains("progress"));
    assert!(node.terminate().success(), "it waits for no backup");
    let end = last.lines().map(|line| line.unwrap()).find(|line| !line.contains("progress"));
    assert!(end.unwrap().contains("stopped before it was done"));
    let backups = Backups::existing(Arc::new(FolderObjects::new(Path::new(&to)))).unwrap();
    assert_eq!(backups.names().unwrap().len(), 1);
    assert!(!node.data_dir().join("admin.sock").exists());
    // The command opens the folder of a stopped node itself.
    let stopped = on_folder(node, &create).unwrap();
    assert_eq!(stopped["heads"]["100"], 6, "{stopped}");
    not_pruned(node);
}

/// The part of the status about backups.
async fn backups_in_status(node: &Node) -> Value {
    let (code, page) = raw::get(node.metrics_port, "/status").await.unwrap();
    assert_eq!(code, 200, "{page}");
    serde_json::from_str::<Value>(&page).unwrap()["backups"].take()
}

/// The files that backups in a folder consist of.
fn files_of_backups(to: &str) -> BTreeSet<PathBuf> {
    let folders = fs::read_dir(Path::new(to).join("files")).unwrap();
    let inside = |folder: fs::DirEntry| fs::read_dir(folder.path()).unwrap();
    folders.flat_map(|folder| inside(folder.unwrap())).map(|file| file.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_shows_the_last_backup_and_the_last_check() {
    let mut network = Network::start(1).await;
    let node = &mut network.nodes[0];
    publish(node, 5).await;
    let none = backups_in_status(node).await;
    assert_eq!((&none["last"], &none["verified"]), (&Value::Null, &Value::Null));
    let to = node.folder().join("backups").to_str().unwrap().to_owned();
    let create = ["backup", "create", "--rate", "0", "--to", &to];
    let verify = |node: &Node, name: &Value| {
        let name = name.as_str().unwrap();
        on_folder(node, &["backup", "verify", "--from", &to, "--backup", name])
    };

    let first = on_folder(node, &create).unwrap();
    let shown = backups_in_status(node).await;
    assert_eq!((&shown["last"]["backup"], &shown["last"]["to"]), (&first["backup"], &json!(to)));
    assert_eq!(
        (&shown["last"]["bytes"], &shown["last"]["signed"]),
        (&first["bytes"], &json!(true))
    );
    assert_eq!((&shown["last"]["verified"], &shown["verified"]), (&json!(false), &Value::Null));

    let elsewhere = node.folder().join("elsewhere");
    let mut command = Command::new(hawser());
    command.args(["backup", "verify", "--from", &to, "--data-dir"]).arg(&elsewhere);
    assert!(command.output().unwrap().status.success());
    assert!(!elsewhere.exists(), "a check on another machine notes nothing");
    verify(node, &first["backup"]).unwrap();
    let shown = backups_in_status(node).await;
    assert_eq!(
        (&shown["last"]["verified"], &shown["verified"]["whole"]),
        (&json!(true), &json!(true))
    );
    assert_eq!((&shown["verified"]["checked"], &shown["fault"]), (&json!(1), &Value::Null));

    // The command notes the backup of a stopped node, and a check that fails.
    publish(node, 5).await;
    assert!(node.terminate().success());
    let before = files_of_backups(&to);
    let second = on_folder(node, &create).unwrap();
    let new = &files_of_backups(&to) - &before;
    fs::write(new.first().expect("something was published"), "rotten").unwrap();
    verify(node, &second["backup"]).unwrap_err();
    node.start();
    node.ready().await;
    let shown = backups_in_status(node).await;
    assert_eq!(
        (&shown["last"]["backup"], &shown["last"]["signed"]),
        (&second["backup"], &json!(false))
    );
    assert_eq!(shown["last"]["verified"], false);
    assert_eq!(
        (&shown["verified"]["backup"], &shown["verified"]["whole"]),
        (&second["backup"], &json!(false))
    );
    assert_eq!(shown["verified"]["damaged"], 1);
    let told = Command::new(hawser())
        .args(["status", "--metrics", &format!("127.0.0.1:{}", node.metrics_port)])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("not to be restored"), "{told}");
    // A malformed note is reported, and the other fields are still shown.
    fs::write(node.data_dir().join("last-backup-check.json"), "{").unwrap();
    let shown = backups_in_status(node).await;
    assert_eq!((&shown["last"]["backup"], &shown["verified"]), (&second["backup"], &Value::Null));
    assert!(shown["fault"].as_str().unwrap().contains("last-backup-check.json"), "{shown}");
}
