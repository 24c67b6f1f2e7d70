//! Reads and writes the rows of a strand's tree.

use hawser_proto::merkle::{CompactRange, Subtree, TreeHash, node_hash};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use rocksdb::{ColumnFamily, DBRawIterator, WriteBatch};

use crate::database::Database;
use crate::error::{DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::leaf::LeafKey;
use crate::keys::tree::{LEVELS, TreeKey};

/// A reader of one strand's tree: iterators over both families, opened once for many hashes.
pub(crate) struct TreeRows<'a> {
    originator: OriginatorId,
    leaves: DBRawIterator<'a>,
    nodes: DBRawIterator<'a>,
    /// The last read group: its first stored subtree, and the hashes of the group.
    group: Option<(Subtree, Vec<TreeHash>)>,
}

/// Number of neighbouring stored subtrees that form one of the next stored level.
const GROUP: u64 = 1 << LEVELS;
/// Damaged subtrees that are tried until the leaves are read instead. A guess: each try takes microseconds, and a
/// damaged block has a hundred.
const TRIES_MAX: u32 = 4096;

impl<'a> TreeRows<'a> {
    pub(crate) fn new(
        originator: OriginatorId,
        leaves: DBRawIterator<'a>,
        nodes: DBRawIterator<'a>,
    ) -> Self {
        Self { originator, leaves, nodes, group: None }
    }

    /// Returns the number of leaves: the place of the last one.
    pub(crate) fn size(&mut self) -> Result<u64, ReadError> {
        let end = EnvelopeId::new(self.originator, SequenceId(u64::MAX));
        self.leaves.seek_for_prev(LeafKey(end).encode());
        let Some(key) = self.leaves.key() else {
            self.leaves.status().map_err(DatabaseError::from)?;
            return Ok(0);
        };
        let LeafKey(id) =
            LeafKey::decode(key).ok_or_else(|| ReadError::corrupt(Family::Leaf, key))?;
        Ok(if id.originator == self.originator { id.sequence.0 } else { 0 })
    }

    /// Returns the hash of a complete subtree. A hash of a level that is not stored is computed from up to eight
    /// rows. Neighbouring rows are kept, because the next hash of a proof is usually computed from them.
    pub(crate) fn node(&mut self, at: Subtree) -> Result<TreeHash, ReadError> {
        let between = at.level % LEVELS;
        let first = Subtree { level: at.level - between, index: at.index << between };
        let group = Subtree { index: first.index - first.index % GROUP, ..first };
        if self.group.as_ref().is_none_or(|(held, _)| *held != group) {
            self.group = Some((group, self.read_group(group)?));
        }
        let held = self.group.as_ref().map_or(&[][..], |(_, hashes)| hashes);
        let offset = usize::try_from(first.index - group.index).unwrap_or(usize::MAX);
        let hashes = held.get(offset..).and_then(|rest| rest.get(..1 << between));
        let Some(hashes) = hashes else {
            // One of the hashes is missing; reading the last one returns an error with its key.
            let last = Subtree { index: first.index + (1 << between) - 1, ..first };
            return self.stored(last, false);
        };
        let mut hashes = hashes.to_vec();
        while hashes.len() > 1 {
            hashes = hashes.chunks_exact(2).map(|pair| node_hash(pair[0], pair[1])).collect();
        }
        Ok(hashes[0])
    }

    /// Reads the existing rows of a group.
    fn read_group(&mut self, group: Subtree) -> Result<Vec<TreeHash>, ReadError> {
        let mut hashes = Vec::with_capacity(16);
        for offset in 0..GROUP {
            let at = Subtree { index: group.index + offset, ..group };
            match self.stored(at, offset > 0) {
                Ok(hash) => hashes.push(hash),
                Err(ReadError::Corrupt { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(hashes)
    }

    /// Reads up to `count` hashes of a stored level from `index` on.
    pub(crate) fn level(
        &mut self,
        level: u8,
        index: u64,
        count: usize,
    ) -> Result<Vec<TreeHash>, ReadError> {
        debug_assert_eq!(level % LEVELS, 0);
        (0..count as u64)
            .map(|offset| self.stored(Subtree { level, index: index + offset }, offset > 0))
            .collect()
    }

    /// Reads a stored hash; `follows` is true if the iterator is at the one before it.
    fn stored(&mut self, at: Subtree, follows: bool) -> Result<TreeHash, ReadError> {
        if at.level == 0 {
            let id = EnvelopeId::new(self.originator, SequenceId(at.index + 1));
            row(&mut self.leaves, Family::Leaf, &LeafKey(id).encode(), follows)
        } else {
            let key = TreeKey::new(self.originator, at).encode();
            row(&mut self.nodes, Family::Tree, &key, follows)
        }
    }
}

/// Reads the hash at `key`, which must exist.
fn row(
    rows: &mut DBRawIterator<'_>,
    family: Family,
    key: &[u8],
    follows: bool,
) -> Result<TreeHash, ReadError> {
    if follows {
        rows.next();
    } else {
        rows.seek(key);
    }
    let found = rows.item().filter(|(found, _)| *found == key);
    let hash = found.and_then(|(_, value)| TreeHash::from_slice(value));
    if hash.is_none() {
        rows.status().map_err(DatabaseError::from)?;
    }
    hash.ok_or_else(|| ReadError::corrupt(family, key))
}

/// The families of the rows of trees, looked up once for many leaves.
#[derive(Clone, Copy)]
pub(crate) struct TreeFamilies<'a> {
    leaves: &'a ColumnFamily,
    nodes: &'a ColumnFamily,
}

impl TreeFamilies<'_> {
    /// Adds the next leaf to a tree and stages its rows.
    pub(crate) fn stage_leaf(
        self,
        originator: OriginatorId,
        tree: &mut CompactRange,
        leaf: TreeHash,
        batch: &mut WriteBatch,
    ) {
        tree.append(leaf, |at, hash| {
            if at.level % LEVELS == 0 {
                batch.put_cf(self.nodes, TreeKey::new(originator, at).encode(), hash.0);
            }
        });
        let id = EnvelopeId::new(originator, SequenceId(tree.size()));
        batch.put_cf(self.leaves, LeafKey(id).encode(), leaf.0);
    }
}

impl Database {
    /// Reads the edge of a strand's tree from its rows. Computes a subtree whose rows cannot be read from those below,
    /// or from its leaves: each commit to the strand needs the edge, and waits for it.
    pub(crate) fn load_tree(&self, originator: OriginatorId) -> Result<CompactRange, ReadError> {
        let mut rows = self.tree_rows(originator);
        let size = rows.size()?;
        CompactRange::load(size, |at| match rows.node(at) {
            Ok(hash) => Ok(hash),
            Err(error) => {
                let mut tries = if error.is_damage() { TRIES_MAX } else { 0 };
                let Ok(hash) = self.node_from_below(originator, at, &mut tries) else {
                    return Err(error);
                };
                tracing::error!(
                    code = "tree_unreadable",
                    originator_id = %originator,
                    leaves = 1_u64 << at.level,
                    %error,
                    "rows of a strand's tree cannot be read from the disk: computed from those below"
                );
                Ok(hash)
            }
        })
    }

    fn tree_rows(&self, originator: OriginatorId) -> TreeRows<'_> {
        let rows = |family| self.db.raw_iterator_cf(self.family(family));
        TreeRows::new(originator, rows(Family::Leaf), rows(Family::Tree))
    }

    /// Computes the hash of a complete subtree from the rows below it that can be read, and after `tries` damaged ones
    /// from leaves.
    fn node_from_below(
        &self,
        originator: OriginatorId,
        at: Subtree,
        tries: &mut u32,
    ) -> Result<TreeHash, ReadError> {
        if at.level <= LEVELS || *tries == 0 {
            return self.node_of_leaves(originator, at);
        }
        let child = |side| Subtree { level: at.level - 1, index: 2 * at.index + side };
        let left = self.node_or_below(originator, child(0), tries)?;
        let right = self.node_or_below(originator, child(1), tries)?;
        Ok(node_hash(left, right))
    }

    /// Reads the hash of a complete subtree, or computes it.
    fn node_or_below(
        &self,
        originator: OriginatorId,
        at: Subtree,
        tries: &mut u32,
    ) -> Result<TreeHash, ReadError> {
        // A new iterator: one that has met a damaged block may return its error for a sound one.
        let read = self.tree_rows(originator).node(at);
        read.or_else(|error| {
            *tries = if error.is_damage() { tries.saturating_sub(1) } else { 0 };
            self.node_from_below(originator, at, tries)
        })
    }

    /// Computes the hash of a complete subtree from its leaves. Takes a second or so for a few million.
    fn node_of_leaves(&self, originator: OriginatorId, at: Subtree) -> Result<TreeHash, ReadError> {
        let (first, count) = (at.index << at.level, 1_u64 << at.level);
        let mut leaves = self.db.raw_iterator_cf(self.family(Family::Leaf));
        let mut subtree = CompactRange::default();
        for index in first..first + count {
            let id = EnvelopeId::new(originator, SequenceId(index + 1));
            let leaf = row(&mut leaves, Family::Leaf, &LeafKey(id).encode(), index > first)?;
            subtree.append(leaf, |_, _| {});
        }
        Ok(subtree.root())
    }

    /// Looks up the families of trees.
    pub(crate) fn tree_families(&self) -> TreeFamilies<'_> {
        TreeFamilies { leaves: self.family(Family::Leaf), nodes: self.family(Family::Tree) }
    }

    /// Stages the removal of all rows of a tree after the leaf at `last`.
    pub(crate) fn stage_tree_end(&self, last: EnvelopeId, batch: &mut WriteBatch) {
        let originator = last.originator;
        let next = EnvelopeId { sequence: last.sequence.next(), ..last };
        let end = EnvelopeId::new(OriginatorId(originator.0 + 1), SequenceId::NONE);
        let leaves = self.family(Family::Leaf);
        batch.delete_range_cf(leaves, LeafKey(next).encode(), LeafKey(end).encode());
        let nodes = self.family(Family::Tree);
        for level in (LEVELS..64).step_by(usize::from(LEVELS)) {
            let from = TreeKey { originator, level, index: last.sequence.0 >> level };
            let to = TreeKey { originator, level: level + 1, index: 0 };
            batch.delete_range_cf(nodes, from.encode(), to.encode());
        }
    }
}
