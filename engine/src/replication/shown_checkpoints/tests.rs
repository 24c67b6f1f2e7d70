//! Queues of checkpoints, with nodes that flood and nodes that come back.

use std::time::Duration;

use hawser_proto::SecretKey;
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::merkle::TreeHash;

use super::*;

const LIAR: OriginatorId = OriginatorId(300);

#[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
fn start() -> Instant {
    Instant::now()
}

fn checkpoint(size: u64) -> CosignedCheckpoint {
    let (node, root) = (OriginatorId(100), TreeHash([1; 32]));
    let of = Checkpoint { node, originator: node, size, root, time_ns: 1 };
    of.sign(&SecretKey::from_bytes(&[7; 32]).unwrap()).into()
}

fn sizes(taken: Vec<(OriginatorId, CosignedCheckpoint)>) -> Vec<(u32, u64)> {
    taken.into_iter().map(|(by, it)| (by.0, it.signed.checkpoint.size)).collect()
}

#[test]
fn nodes_have_their_turns_however_much_one_of_them_shows() {
    let (start, mut shown) = (start(), ShownCheckpoints::default());
    let flood = checkpoint(9);
    let taken = (0..5_000).filter(|_| shown.show(start, LIAR, flood.clone())).count();
    assert_eq!(taken, OF_NODE_MAX);
    for by in [100, 200, 400] {
        assert!(shown.show(start, OriginatorId(by), checkpoint(1)), "{by}");
        assert!(shown.show(start, OriginatorId(by), checkpoint(2)), "{by}");
    }
    let first = sizes(shown.take(start, 4));
    assert_eq!(first, [(100, 1), (200, 1), (300, 9), (400, 1)]);
    let second = sizes(shown.take(start, 6));
    assert_eq!(second, [(100, 2), (200, 2), (300, 9), (400, 2), (300, 9), (300, 9)]);
    assert_eq!(shown.take(start, 5_000).len(), OF_NODE_MAX - 4);
    assert!(shown.take(start, 5_000).is_empty());
}

#[test]
fn a_node_that_comes_back_gets_no_new_allowance() {
    let (start, mut shown) = (start(), ShownCheckpoints::default());
    let flood = checkpoint(9);
    let mut taken = 0;
    // Each connection shows many checkpoints, and waiting ones are examined in between.
    for connection in 0..100_u32 {
        let now = start + Duration::from_millis(10) * connection;
        taken += (0..200).filter(|_| shown.show(now, LIAR, flood.clone())).count();
        shown.take(now, usize::MAX);
    }
    // 1,024 at once, and 256 for the second that has passed.
    assert!(taken <= 1_024 + 256, "{taken}");
    assert!(taken > 1_024, "{taken}");
}

#[test]
fn nodes_that_show_nothing_are_forgotten() {
    let (start, mut shown) = (start(), ShownCheckpoints::default());
    for by in 0..10_000 {
        shown.show(start, OriginatorId(by), checkpoint(1));
    }
    assert_eq!(shown.nodes.len(), NODES_MAX);
    assert!(!shown.show(start, OriginatorId(10_000), checkpoint(1)));
    shown.take(start, usize::MAX);
    assert_eq!(shown.nodes.len(), NODES_MAX, "their allowances are not full");
    shown.take(start + Duration::from_secs(1), usize::MAX);
    assert_eq!(shown.nodes.len(), 0);
    assert!(shown.show(start + Duration::from_secs(1), OriginatorId(10_000), checkpoint(1)));
}
