//! The content of a stopped node that has to be equal at all nodes of its network.

use std::collections::BTreeMap;
use std::path::Path;

use hawser_proto::merkle::TreeHash;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{LogItem, Snapshot, Store};

use super::files;

/// Receipts are kept by the node that a strand belongs to, and by no other.
const OWN_PROJECTION: &str = "receipt";

/// The state of a stopped node.
#[derive(Debug, PartialEq, Eq)]
pub struct NodeContent {
    /// Its vector clock: the heads of all strands.
    pub clock: Cursor,
    /// The root of the tree of each strand, at its head.
    pub roots: BTreeMap<OriginatorId, TreeHash>,
    /// BLAKE3 over places, bytes and marks of each strand.
    pub strands: BTreeMap<OriginatorId, String>,
    /// BLAKE3 over the rows of each projection that is the same at every node.
    pub projections: BTreeMap<&'static str, String>,
}

impl NodeContent {
    /// Reads the state from a copy of the folder, so that the node itself recovers from a crash later.
    ///
    /// # Panics
    /// Panics if the folder cannot be read, or a tree lacks leaves.
    #[must_use]
    pub fn read(data_dir: &Path) -> Self {
        let copy = tempfile::tempdir().unwrap();
        files::copy_folder(data_dir, copy.path());
        let (store, _) = Store::open_existing(copy.path(), hawser_engine::price::price).unwrap();
        let snapshot = store.snapshot();
        let clock = snapshot.heads().unwrap();
        let root = |head: EnvelopeId| {
            let size = head.sequence.0;
            assert_eq!(snapshot.tree_size(head.originator).unwrap(), size, "the tree of {head}");
            (head.originator, snapshot.root(head.originator, size).unwrap())
        };
        let roots = clock.iter().map(root).collect();
        let strands = clock.iter().map(|head| (head.originator, strand(&snapshot, head))).collect();
        let mut projections = snapshot.projection_digests().unwrap();
        assert!(projections.remove(OWN_PROJECTION).is_some(), "the name has changed");
        let projections = projections.into_iter().map(|(name, it)| (name, hex::encode(it)));
        Self { projections: projections.collect(), clock, roots, strands }
    }
}

/// Returns the digest of a strand up to its head.
fn strand(snapshot: &Snapshot<'_>, head: EnvelopeId) -> String {
    let mut hasher = blake3::Hasher::new();
    let start = EnvelopeId::new(head.originator, SequenceId::NONE);
    for item in snapshot.log(start, head.sequence) {
        match item.unwrap() {
            LogItem::Envelope { id, bytes, validity } => {
                hasher.update(format!("{id} {validity:?} {} ", bytes.len()).as_bytes());
                hasher.update(&bytes);
            }
            skipped @ LogItem::Skipped { .. } => {
                hasher.update(format!("{skipped:?}").as_bytes());
            }
        }
    }
    hasher.finalize().to_string()
}
