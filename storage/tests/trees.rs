//! The trees of strands: they grow with commits, catch up in steps, and never change below a published size.

use std::path::Path;

use crate::support::*;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::merkle::{
    CompactRange, LeafData, ProofError, TILE_WIDTH, Tile, TreeHash, empty_root, envelope_leaf,
    leaf_hash, node_hash,
};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::SkipReason::{Expired, Missing, Void};
use hawser_storage::{
    Change, Family, InvalidRule, LogEntry, LogItem, SkipReason, Store, TreeBehind, TreeError,
    is_void_run_in_tree,
};
use proptest::prelude::*;

/// Places that one step adds to a tree.
const STEP: u64 = 512;

fn skip(from: u64, through: u64, reason: SkipReason) -> Change {
    let (from, through) = (SequenceId(from), SequenceId(through));
    Change::Skip { originator: PEER, from, through, reason }
}

fn appends(originator: OriginatorId, places: std::ops::RangeInclusive<u64>) -> Vec<Change> {
    places.map(|sequence| append(originator, sequence)).collect()
}

/// Returns the leaves of a strand by the specification: those before the first place that may still be filled.
fn leaves(store: &Store, originator: OriginatorId) -> Vec<TreeHash> {
    let snapshot = store.snapshot();
    let head = snapshot.head(originator).unwrap();
    let mut leaves = Vec::new();
    for item in snapshot.log(id(originator, 0), head) {
        match item.unwrap() {
            LogItem::Envelope { bytes, .. } => leaves.push(envelope_leaf(&bytes).unwrap()),
            LogItem::Skipped { from, through, reason: Void } => {
                leaves.extend((from.0..=through.0).map(|_| leaf_hash(LeafData::Void)));
            }
            LogItem::Skipped { .. } => break,
        }
    }
    leaves
}

fn roots(leaves: &[TreeHash]) -> Vec<TreeHash> {
    let mut tree = CompactRange::default();
    let mut roots = vec![tree.root()];
    for leaf in leaves {
        tree.append(*leaf, |_, _| {});
        roots.push(tree.root());
    }
    roots
}

/// Asserts that size, roots, leaves and proofs are those that follow from the log.
fn assert_tree(store: &Store, originator: OriginatorId) {
    let (leaves, snapshot) = (leaves(store, originator), store.snapshot());
    let size = leaves.len() as u64;
    assert_eq!(snapshot.tree_size(originator).unwrap(), size);
    let roots = roots(&leaves);
    let root = |size: u64| roots[usize::try_from(size).unwrap()];
    // All sizes of small trees, and some of large ones.
    let step = size.div_ceil(64).max(1);
    for at in (0..=size).rev().step_by(usize::try_from(step).unwrap()) {
        assert_eq!(snapshot.root(originator, at).unwrap(), root(at), "{at} of {size}");
        let proof = snapshot.consistency(originator, at, size).unwrap();
        assert_eq!(proof.verify(at, size, root(at), root(size)), Ok(()));
        if at > 0 {
            let id = id(originator, at);
            let leaf = leaves[usize::try_from(at - 1).unwrap()];
            assert_eq!(snapshot.leaf(id).unwrap(), Some(leaf));
            let proof = snapshot.inclusion(id, size).unwrap();
            assert_eq!(proof.verify(leaf, at - 1, size, root(size)), Ok(()));
        }
    }
    assert_eq!(snapshot.leaf(id(originator, size + 1)).unwrap(), None);
}

fn bring_up(store: &Store) {
    while !store.extend_trees(1).unwrap() {}
}

/// The disk has damaged the mark of a place that the first tree needs after the next one.
#[test]
fn a_tree_that_cannot_be_completed_keeps_no_other_behind() {
    let store = in_memory();
    let other = OriginatorId(300);
    for originator in [PEER, other] {
        let (from, through) = (SequenceId(1), SequenceId(1));
        let gap = Change::Skip { originator, from, through, reason: Missing };
        store.commit(&[gap, append(originator, 2)]).unwrap();
        store.commit(&[append(originator, 1)]).unwrap();
    }
    let key = [&PEER.0.to_be_bytes()[..], &2_u64.to_be_bytes()].concat();
    store.put_raw_row(Family::Mark, &key, &[0xff]);
    assert!(store.extend_trees(100).is_err());
    let sizes = [PEER, other].map(|strand| store.tree_edge(strand).unwrap().size());
    assert_eq!(sizes, [1, 2], "a tree ends before the damage");
}

/// The disk has damaged the row of a subtree and, in the same part of the tree, a leaf.
#[test]
fn a_damaged_row_of_a_tree_follows_from_the_rows_below_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, whole) = (Store::open(&settings(folder.path())).unwrap(), in_memory());
    for store in [&store, &whole] {
        extend(store, OWN, 300);
    }
    let row = [&OWN.0.to_be_bytes()[..], &[8], &0_u64.to_be_bytes()].concat();
    store.put_raw_row(Family::Tree, &row, b"damaged");
    let leaf = [&OWN.0.to_be_bytes()[..], &5_u64.to_be_bytes()].concat();
    store.put_raw_row(Family::Leaf, &leaf, b"damaged");
    drop(store);
    let store = Store::open(&settings(folder.path())).unwrap();
    for store in [&store, &whole] {
        extend(store, OWN, 2);
    }
    assert_eq!(store.tree_edge(OWN).unwrap(), whole.tree_edge(OWN).unwrap());
}

#[test]
fn a_commit_lengthens_the_trees_of_its_strands() {
    on_each(|store| {
        let mut changes = appends(OWN, 1..=20);
        changes.extend(appends(PEER, 1..=3));
        store.commit(&changes).unwrap();
        assert_tree(store, OWN);
        let invalid = id(PEER, 4);
        let invalid = LogEntry::invalid(invalid, entry(invalid).bytes, InvalidRule(1));
        let changes =
            [Change::Append(invalid), skip(5, 40, Void), append(PEER, 41), append(OWN, 21)];
        store.commit(&changes).unwrap();
        // A repeat, and a range that is partly known, change no existing leaf.
        store.commit(&[append(PEER, 3), skip(39, 43, Void)]).unwrap();
        for originator in [OWN, PEER] {
            assert_tree(store, originator);
        }
        assert_eq!(store.snapshot().tree_size(PEER).unwrap(), 43);
        assert_eq!(store.trees_behind().unwrap(), []);
        assert_eq!(store.snapshot().tree_size(OriginatorId(300)).unwrap(), 0);
        assert_eq!(store.snapshot().root(OriginatorId(300), 0).unwrap(), empty_root());
    });
}

/// One event of a chain skips all ids up to the last ones. A row for each of them would fill any disk.
#[test]
fn a_tree_ends_before_a_run_of_void_places_that_is_too_long() {
    let (short, long_end) = (1 << 12, 1 << 28);
    for last in [SequenceId::MAX.0, long_end + 2] {
        on_each(|store| {
            store.commit(&[append(PEER, 1)]).unwrap();
            store.commit(&[skip(2, last - 1, Void), append(PEER, last)]).unwrap();
            assert!(store.extend_trees(1).unwrap(), "there is nothing to do");
            let head = SequenceId(last);
            let behind = TreeBehind { originator: PEER, size: 1, head, waits: true };
            assert_eq!(store.trees_behind().unwrap(), [behind]);
            let snapshot = store.snapshot();
            assert_eq!(snapshot.leaf(id(PEER, 2)).unwrap(), None);
            assert!(snapshot.get(id(PEER, last)).unwrap().is_some(), "it is served");
            assert!(snapshot.consistency(PEER, 1, 1).unwrap().0.is_empty());
        });
    }
    let is_in = |from, through| is_void_run_in_tree(SequenceId(from), SequenceId(through));
    assert!(is_in(1, long_end) && !is_in(1, long_end + 1));
    let from = long_end + 5;
    assert!(is_in(from, from + short - 1) && !is_in(from, from + short));
    assert!(is_in(SequenceId::MAX.0, SequenceId::MAX.0));
}

/// The run is longer than the steps that add its leaves, and the tree of its strand goes on behind it.
#[test]
fn a_tree_has_the_leaves_of_a_long_run_of_void_places_among_the_first_ones() {
    let store = in_memory();
    let last = 10 * STEP;
    store.commit(&[append(PEER, 1), skip(2, last - 1, Void), append(PEER, last)]).unwrap();
    let size = |store: &Store| store.snapshot().tree_size(PEER).unwrap();
    assert_eq!(size(&store), 1);
    assert!(!store.extend_trees(1).unwrap());
    assert_eq!(size(&store), 1 + STEP);
    bring_up(&store);
    assert_eq!(size(&store), last);
    assert_tree(&store, PEER);
}

#[test]
fn a_tree_ends_before_a_place_that_may_be_found_and_goes_on_when_it_is() {
    for reason in [Missing, Expired] {
        let store = in_memory();
        store.commit(&[append(PEER, 1), skip(2, 3, reason), append(PEER, 4)]).unwrap();
        store.commit(&appends(PEER, 5..=9)).unwrap();
        assert_tree(&store, PEER);
        let behind = TreeBehind { originator: PEER, size: 1, head: SequenceId(9), waits: true };
        assert_eq!(store.trees_behind().unwrap(), [behind]);
        assert!(store.extend_trees(1).unwrap(), "there is nothing to do");
        let signed = store.snapshot().root(PEER, 1).unwrap();
        store.commit(&[append(PEER, 2)]).unwrap();
        bring_up(&store);
        assert_eq!(store.trees_behind().unwrap(), [TreeBehind { size: 2, ..behind }]);
        store.commit(&[append(PEER, 3)]).unwrap();
        assert_eq!(store.trees_behind().unwrap(), [TreeBehind { size: 2, waits: false, ..behind }]);
        bring_up(&store);
        assert_eq!(store.trees_behind().unwrap(), []);
        store.commit(&[append(PEER, 10)]).unwrap();
        assert_tree(&store, PEER);
        assert_eq!(store.snapshot().tree_size(PEER).unwrap(), 10);
        assert_eq!(store.snapshot().root(PEER, 1).unwrap(), signed);
    }
}

/// Converts the folder to the format of programs without trees.
fn make_older(folder: &Path) {
    let options = rocksdb::Options::default();
    let names = rocksdb::DB::list_cf(&options, folder).unwrap();
    let mut db = rocksdb::DB::open_cf(&options, folder, names).unwrap();
    for family in ["leaf", "tree", "checkpoint"] {
        db.drop_cf(family).unwrap();
    }
    db.put_cf(db.cf_handle("meta").unwrap(), "format", 4u32.to_be_bytes()).unwrap();
}

#[test]
fn an_older_folder_gets_its_trees_in_steps_while_it_is_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(&settings(folder.path())).unwrap();
    let older = open();
    older.commit(&appends(OWN, 1..=3 * STEP)).unwrap();
    older.commit(&[append(PEER, 1), skip(2, 2 * STEP, Void)]).unwrap();
    drop(older);
    make_older(folder.path());

    let store = open();
    assert_eq!(store.older_topic_rows(), None, "these rows are of this format");
    assert_eq!(store.snapshot().tree_size(OWN).unwrap(), 0);
    assert!(!store.extend_trees(1).unwrap());
    assert_eq!(store.snapshot().tree_size(OWN).unwrap(), STEP);
    store.commit(&appends(OWN, 3 * STEP + 1..=3 * STEP + 9)).unwrap();
    assert_eq!(store.snapshot().tree_size(OWN).unwrap(), STEP, "commits leave it alone");
    drop(store);

    let store = open();
    assert_eq!(store.snapshot().tree_size(OWN).unwrap(), STEP, "it goes on where it was");
    let mut next = 3 * STEP + 10;
    while !store.extend_trees(1).unwrap() {
        store.commit(&[append(OWN, next)]).unwrap();
        next += 1;
    }
    store.commit(&[append(OWN, next), append(PEER, 2 * STEP + 1)]).unwrap();
    assert_eq!(store.trees_behind().unwrap(), []);
    assert_tree(&store, OWN);
    assert_tree(&store, PEER);
    drop(store);
    let store = open();
    store.commit(&[append(OWN, next + 1)]).unwrap();
    assert_tree(&store, OWN);
}

#[test]
fn a_wide_void_range_is_left_to_the_steps() {
    let store = in_memory();
    store.commit(&[skip(1, 5 * STEP, Void)]).unwrap();
    assert_eq!(store.snapshot().tree_size(PEER).unwrap(), 0);
    bring_up(&store);
    assert_eq!(store.snapshot().tree_size(PEER).unwrap(), 5 * STEP);
    assert_tree(&store, PEER);
}

#[test]
fn a_strand_of_a_chain_is_cut_with_its_tree() {
    const CHAIN: OriginatorId = OriginatorId(1);
    on_each(|store| {
        store.commit(&appends(CHAIN, 1..=600)).unwrap();
        let before = store.snapshot().root(CHAIN, 529).unwrap();
        store.truncate_strand(id(CHAIN, 530), None).unwrap();
        assert_tree(store, CHAIN);
        assert_eq!(store.snapshot().root(CHAIN, 529).unwrap(), before);
        let other = |sequence| {
            let at = id(CHAIN, sequence);
            Change::Append(LogEntry { bytes: signed(&format!("other {at}"), 1), ..entry(at) })
        };
        let changes: Vec<_> = (530..=700).map(other).collect();
        store.commit(&changes).unwrap();
        assert_tree(store, CHAIN);
        store.truncate_strand(id(CHAIN, 1), None).unwrap();
        assert_eq!(store.snapshot().tree_size(CHAIN).unwrap(), 0);
        store.commit(&appends(CHAIN, 1..=3)).unwrap();
        assert_tree(store, CHAIN);
    });
}

#[test]
fn the_standing_checkpoint_of_a_chains_strand_is_the_largest_one_of_the_present_tree() {
    const CHAIN: OriginatorId = OriginatorId(1);
    const SIZES: [u64; 6] = [3, 7, 19, 20, 33, 40];
    on_each(|store| {
        store.commit(&appends(CHAIN, 1..=40)).unwrap();
        for size in SIZES {
            let root = store.snapshot().root(CHAIN, size).unwrap();
            let of = Checkpoint { node: OWN, originator: CHAIN, size, root, time_ns: size };
            store.put_checkpoint(&of.sign(&key(1)).into()).unwrap();
        }
        let size = |it: CosignedCheckpoint| it.signed.checkpoint.size;
        let standing = |size_max| {
            let found = store.snapshot().standing_checkpoint(CHAIN, OWN, size_max).unwrap();
            found.map(size)
        };
        assert_eq!([u64::MAX, 39, 2].map(standing), [Some(40), Some(33), None]);
        for from in [41, 40, 34, 20, 12, 4, 3] {
            store.truncate_strand(id(CHAIN, from), None).unwrap();
            let expected = SIZES.into_iter().filter(|size| *size < from).max();
            assert_eq!(standing(u64::MAX), expected, "cut off from {from} on");
            let other = |sequence| {
                let at = id(CHAIN, sequence);
                Change::Append(LogEntry { bytes: signed(&format!("other {at}"), 1), ..entry(at) })
            };
            store.commit(&(from..=45).map(other).collect::<Vec<_>>()).unwrap();
            assert_eq!(standing(u64::MAX), expected, "read again from {from} on");
            // What the node has signed is known as before.
            let newest = store.snapshot().checkpoint(CHAIN, OWN, u64::MAX).unwrap();
            assert_eq!(newest.map(size), Some(40));
        }
    });
}

#[test]
fn proofs_beyond_the_tree_are_refused() {
    let store = in_memory();
    store.commit(&appends(OWN, 1..=5)).unwrap();
    let snapshot = store.snapshot();
    let beyond = TreeError::Beyond { size: 6, held: 5 };
    assert_eq!(snapshot.root(OWN, 6), Err(beyond.clone()));
    assert_eq!(snapshot.inclusion(id(OWN, 1), 6), Err(beyond.clone()));
    assert_eq!(snapshot.consistency(OWN, 1, 6), Err(beyond));
    let none = |index, size| Err(TreeError::Proof(ProofError::NoSuchLeaf { index, size }));
    assert_eq!(snapshot.inclusion(id(OWN, 5), 4), none(4, 4));
    assert_eq!(snapshot.inclusion(id(OWN, 0), 4), none(u64::MAX, 4));
    let shrinks = TreeError::Proof(ProofError::Shrinks { from: 5, to: 4 });
    assert_eq!(snapshot.consistency(OWN, 5, 4), Err(shrinks));
}

#[test]
fn tiles_are_the_hashes_of_subtrees() {
    let store = in_memory();
    let size = 2 * u64::from(TILE_WIDTH) + 7;
    store.commit(&appends(OWN, 1..=size)).unwrap();
    let (leaves, snapshot) = (leaves(&store, OWN), store.snapshot());
    let tile =
        |level, index, width| snapshot.tile(OWN, Tile::new(level, index, width).unwrap()).unwrap();
    assert_eq!(tile(0, 1, TILE_WIDTH).unwrap(), leaves[256..512]);
    assert_eq!(tile(0, 2, 7).unwrap(), leaves[512..]);
    assert_eq!(tile(0, 2, 8), None);
    assert_eq!(tile(0, 3, 1), None);
    let whole = |from: usize| {
        let mut hashes = leaves[from..from + 256].to_vec();
        while hashes.len() > 1 {
            hashes = hashes.chunks(2).map(|pair| node_hash(pair[0], pair[1])).collect();
        }
        hashes[0]
    };
    assert_eq!(tile(1, 0, 2).unwrap(), [whole(0), whole(256)]);
    assert_eq!(tile(1, 0, 3), None);
    for (level, index) in [(2, 0), (7, 0), (0, (1 << 55) - 1)] {
        assert_eq!(tile(level, index, 1), None, "{level} {index}");
    }
}

fn checkpoint(node: u32, size: u64) -> CosignedCheckpoint {
    let (node, originator) = (OriginatorId(node), PEER);
    let root = leaf_hash(LeafData::Signed(&size.to_be_bytes()));
    Checkpoint { node, originator, size, root, time_ns: size }.sign(&key(1)).into()
}

#[test]
fn checkpoints_are_kept_by_strand_node_and_size() {
    on_each(|store| {
        for (node, size) in [(200, 5), (100, 9), (200, 7), (300, 1)] {
            store.put_checkpoint(&checkpoint(node, size)).unwrap();
        }
        let snapshot = store.snapshot();
        let latest = |node, size_max| {
            let found = snapshot.checkpoint(PEER, OriginatorId(node), size_max).unwrap();
            found.map(|it| it.signed.checkpoint.size)
        };
        assert_eq!(latest(200, u64::MAX), Some(7));
        assert_eq!(latest(200, 6), Some(5));
        assert_eq!(latest(200, 4), None);
        assert_eq!(latest(100, u64::MAX), Some(9));
        assert_eq!(latest(400, u64::MAX), None);
        let at = |size| snapshot.checkpoint_at(PEER, PEER, size).unwrap();
        assert_eq!(at(5), Some(checkpoint(200, 5)));
        assert_eq!(at(6), None);
    });
}

#[test]
fn old_checkpoints_go_and_those_of_other_nodes_stay() {
    let store = in_memory();
    store.put_checkpoint(&checkpoint(100, 1)).unwrap();
    for size in 1..=7_000 {
        store.put_checkpoint(&checkpoint(200, size)).unwrap();
    }
    let snapshot = store.snapshot();
    assert_eq!(snapshot.checkpoint_at(PEER, PEER, 1).unwrap(), None);
    assert!(snapshot.checkpoint_at(PEER, PEER, 7_000 - 4_095).unwrap().is_some());
    assert!(snapshot.checkpoint_at(PEER, OWN, 1).unwrap().is_some());
}

/// Generates the changes of a random strand: appends, and ranges of each kind, from the head on.
fn changes() -> impl Strategy<Value = Vec<(u8, u64)>> {
    prop::collection::vec((0..8_u8, 1..40_u64), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_history_gives_the_tree_of_its_log(history in changes()) {
        let store = in_memory();
        let (mut head, mut holes, mut signed): (u64, Vec<u64>, Vec<(u64, TreeHash)>) =
            (0, Vec::new(), Vec::new());
        for (kind, len) in history {
            let (from, through) = (head + 1, head + len);
            match kind {
                0 => {
                    store.commit(&[skip(from, through, Void)]).unwrap();
                    head = through;
                }
                1 => {
                    store.commit(&[skip(from, through, Missing)]).unwrap();
                    holes.extend(from..=through);
                    head = through;
                }
                2 | 3 => {
                    let found: Vec<EnvelopeId> =
                        holes.drain(..holes.len().min(50)).map(|at| id(PEER, at)).collect();
                    let found: Vec<_> = found.into_iter().map(|at| Change::Append(entry(at))).collect();
                    store.commit(&found).unwrap();
                }
                4 => _ = store.extend_trees(1).unwrap(),
                _ => {
                    store.commit(&appends(PEER, from..=through)).unwrap();
                    head = through;
                }
            }
            let snapshot = store.snapshot();
            let size = snapshot.tree_size(PEER).unwrap();
            signed.push((size, snapshot.root(PEER, size).unwrap()));
        }
        bring_up(&store);
        assert_tree(&store, PEER);
        for (size, root) in signed {
            prop_assert_eq!(store.snapshot().root(PEER, size).unwrap(), root);
        }
    }
}
