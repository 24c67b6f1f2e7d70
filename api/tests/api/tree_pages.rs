//! Trees over HTTP, for caches, witnesses and readers without gRPC.

use std::path::Path;
use std::process::Command;

use hawser_api::RateLimitSettings;
use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::merkle::{CompactRange, Tile, TreeHash};

use crate::common::*;

async fn get(node: &Node, path: &str) -> Http1Answer {
    read_page(node.address(), path, "").await
}

/// Fills the node's own strand and signs a checkpoint of everything.
async fn grown(node: &Node, places: u64) -> Checkpoint {
    let store = node.engine.store();
    while store.snapshot().tree_size(NODE).unwrap() < places {
        let left = places - store.snapshot().tree_size(NODE).unwrap();
        let texts = (0..left.min(200)).map(|text| message(1, &format!("{left} {text}")));
        node.publish(texts.collect()).await;
    }
    sign(node, places)
}

fn sign(node: &Node, size: u64) -> Checkpoint {
    let store = node.engine.store();
    let root = store.snapshot().root(NODE, size).unwrap();
    let checkpoint = Checkpoint { node: NODE, originator: NODE, size, root, time_ns: size };
    store.put_checkpoint(&checkpoint.sign(&node_key()).into()).unwrap();
    checkpoint
}

/// Reads a note with the node's key only, as any reader can.
fn read_note(answer: &Http1Answer) -> CosignedCheckpoint {
    let note = std::str::from_utf8(&answer.body).unwrap();
    let key = |node| (node == NODE).then(|| node_key().public_key());
    let read = CosignedCheckpoint::from_note(note, "test", key).unwrap();
    assert_eq!(read.signed.verify(&node_key().public_key()), Ok(()));
    read
}

fn hashes(answer: &Http1Answer) -> Vec<TreeHash> {
    answer.body.chunks(32).map(|hash| TreeHash::from_slice(hash).unwrap()).collect()
}

fn root(leaves: impl IntoIterator<Item = TreeHash>) -> TreeHash {
    let mut tree = CompactRange::default();
    leaves.into_iter().for_each(|leaf| tree.append(leaf, |_, _| {}));
    tree.root()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_tiles_of_a_strand_lead_to_the_root_of_its_checkpoint() {
    let node = node().await;
    let signed = grown(&node, 600).await;
    let answer = get(&node, "/strands/100/100/checkpoint").await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("public, max-age=1")));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let of = read_note(&answer).signed.checkpoint;
    assert_eq!(of, signed);

    let (mut leaves, mut parents) = (Vec::new(), Vec::new());
    for tile in Tile::all(of.size) {
        let answer = get(&node, &format!("/strands/100/100/tile/{tile}")).await;
        assert_eq!(answer.status, 200, "{tile}");
        assert_eq!(answer.header("content-length"), Some(&*(32 * tile.width()).to_string()));
        let age = answer.header("cache-control").unwrap();
        assert!(age.ends_with("immutable"), "{tile}: {age}");
        assert_eq!(age.contains("31536000"), tile.width() == 256, "{tile}: {age}");
        match tile.level() {
            0 => leaves.extend(hashes(&answer)),
            level => parents.extend(hashes(&answer).into_iter().map(|hash| (level, hash))),
        }
    }
    assert_eq!((leaves.len(), root(leaves.iter().copied())), (600, of.root));
    let whole = leaves.chunks_exact(256).map(|tile| (1, root(tile.iter().copied())));
    assert_eq!(parents, whole.collect::<Vec<_>>());
    second_implementation_agrees(&node, &of);
    assert_eq!(node.sample("xmtp_api_pages_total{status=\"200\"}").await, Some(5.0));
}

/// Asserts that an independent program, written from the specification alone, reads the same tiles.
fn second_implementation_agrees(node: &Node, of: &Checkpoint) {
    let store = node.engine.store();
    let tiles = Tile::all(of.size).map(|tile| {
        let hashes = store.snapshot().tile(NODE, tile).unwrap().unwrap();
        let hashes: Vec<String> = hashes.iter().map(ToString::to_string).collect();
        (tile.to_string(), hashes.concat())
    });
    let tiles: serde_json::Map<_, _> = tiles.map(|(path, hex)| (path, hex.into())).collect();
    let case = serde_json::json!({
        "kind": "tiles", "size": of.size, "tiles": tiles,
    });
    let folder = std::env::temp_dir().join(format!("hawser-tiles-{}", std::process::id()));
    std::fs::write(&folder, format!("{case}\n")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/second/checkpoints.py");
    let found = Command::new("python3")
        .arg(script)
        .arg("check")
        .stdin(std::fs::File::open(&folder).unwrap())
        .output()
        .expect("Python 3 is installed");
    std::fs::remove_file(&folder).unwrap();
    assert_eq!(String::from_utf8(found.stdout).unwrap().trim(), format!("\"{}\"", of.root));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_served_that_the_node_has_not_signed() {
    let node = node().await;
    node.publish((0..10).map(|it| message(1, &it.to_string())).collect()).await;
    let status = async |path: &str| get(&node, &format!("/strands/{path}")).await.status;
    assert_eq!(status("100/100/checkpoint").await, 404, "nothing is signed");
    assert_eq!(status("100/100/tile/0/000.p/1").await, 404);
    sign(&node, 7);
    for (path, expected) in [
        ("100/100/checkpoint", 200),
        ("100/100/tile/0/000.p/7", 200),
        ("100/100/tile/0/000.p/3", 200),
        ("100/100/tile/0/000.p/8", 404),
        ("100/100/tile/0/000", 404),
        ("100/100/tile/0/000.p/0", 404),
        ("100/100/tile/0/000.p/256", 404),
        ("100/100/tile/1/000.p/1", 404),
        ("100/100/tile/7/000.p/1", 404),
        ("100/100/tile/8/000.p/1", 404),
        ("100/100/tile/0/x001/x152/x921/x504/x606/x846/976.p/1", 404),
        ("100/100/tile/0/x018/x446/x744/x073/x709/x551/615", 404),
        ("100/100/tile/entries/000.p/1", 404),
        ("100/200/checkpoint", 404),
        ("100/200/tile/0/000.p/1", 404),
        ("900/100/checkpoint", 404),
        ("100/100/../../100/100/checkpoint", 404),
        ("100/100/%63heckpoint", 404),
        ("100/100/checkpoint?again=1", 404),
        ("100/100/tile/0/000.p/7?", 404),
        ("", 404),
    ] {
        assert_eq!(status(path).await, expected, "{path}");
    }
    let answer = get(&node, "/strands/100/100/tile/0/000").await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tree_that_is_not_the_signed_one_is_not_served_for_it() {
    let node = node().await;
    node.publish((0..10).map(|it| message(1, &it.to_string())).collect()).await;
    let mut other = sign(&node, 7);
    other.root.0[0] ^= 1;
    node.engine.store().put_checkpoint(&other.sign(&node_key()).into()).unwrap();
    assert_eq!(get(&node, "/strands/100/100/tile/0/000.p/7").await.status, 404);
    assert_eq!(get(&node, "/strands/100/100/checkpoint").await.status, 200, "it was signed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_strand_of_a_chain_is_the_log_of_each_node_that_observes_it() {
    let node = node().await;
    node.commit_on_chain(1, 1);
    let store = node.engine.store();
    let originator = OriginatorId(0);
    let root = store.snapshot().root(originator, 1).unwrap();
    let of = Checkpoint { node: NODE, originator, size: 1, root, time_ns: 5 };
    store.put_checkpoint(&of.sign(&node_key()).into()).unwrap();
    let answer = get(&node, "/strands/0/100/checkpoint").await;
    assert!(answer.body.starts_with(b"test/strands/0/100\n1\n"));
    assert_eq!(hashes(&get(&node, "/strands/0/100/tile/0/000.p/1").await), [root]);
    assert_eq!(get(&node, "/strands/0/0/checkpoint").await.status, 404, "a chain signs nothing");
    // The chain was reorganised, and the strand cut, after the node had signed a larger tree.
    let before = Checkpoint { size: 2, root: TreeHash([1; 32]), ..of };
    store.put_checkpoint(&before.sign(&node_key()).into()).unwrap();
    let answer = get(&node, "/strands/0/100/checkpoint").await;
    assert!(answer.body.starts_with(b"test/strands/0/100\n1\n"), "it shows no other tree");
    assert_eq!(hashes(&get(&node, "/strands/0/100/tile/0/000.p/1").await), [root]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pages_take_from_the_limits_of_their_caller() {
    let limits = RateLimitSettings { per_minute: 3, ..RateLimitSettings::default() };
    let node = node_with(
        |settings| settings.rate_limits = Some(limits),
        std::sync::Arc::new(hawser_api::NoPeers),
    )
    .await;
    grown(&node, 5).await;
    for path in ["/strands/100/100/checkpoint", "/strands/x", "/strands/100/100/tile/0/000.p/5"] {
        assert_ne!(get(&node, path).await.status, 429, "{path}");
    }
    let answer = get(&node, "/strands/100/100/checkpoint").await;
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(node.sample("xmtp_api_pages_total{status=\"429\"}").await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_page_is_refused_when_callers_hold_too_much() {
    let node = node_with(
        |settings| settings.callers_bytes_max = 256 * 1024,
        std::sync::Arc::new(hawser_api::NoPeers),
    )
    .await;
    grown(&node, 5).await;
    let answer = get(&node, "/strands/100/100/checkpoint").await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    assert_eq!(get(&node, "/strands/100/100/tile/0/000.p/5").await.status, 200);
}

#[tokio::test]
async fn pages_are_read_only() {
    let node = node().await;
    for method in ["PUT", "DELETE"] {
        let request = format!(
            "{method} /strands/100/100/checkpoint HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        );
        let answer = node.ask(request.as_bytes()).await;
        assert_eq!(answer.status, 405, "{method}");
    }
}
