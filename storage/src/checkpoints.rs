//! Stores checkpoints with their known cosignatures. Rows are only added, and old ones removed.

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::{CODEC_LEN_BYTES_MAX, Checkpoint, CosignedCheckpoint};
use rocksdb::{DBRawIterator, ReadOptions, WriteBatch};

use crate::behind_damage::{end_of_damage, is_sound};
use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::checkpoint::CheckpointKey;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::tree_read::TreeError;

/// Least number of checkpoints of a node for a strand that are kept. A guess: an hour with one each second.
const KEPT: usize = 4096;
/// Number of newest checkpoints among which a cosigned one is searched. A guess: four a second, and peers cosign
/// within two seconds.
const COSIGNED_AMONG: usize = 16;
/// Number of new checkpoints between two searches for old ones. A guess: a search visits all checkpoints that are
/// kept. The first one after a start searches, too: otherwise a process that ends before so many would remove none.
const LOOK_EVERY: u64 = 1024;
/// Searches for old ones in one write; the others are made with later writes. A guess: a search reads some megabytes,
/// and after a start it is due for each node and strand at once.
const SEARCHES_MAX: usize = 4;

/// Rows of a node and strand that are passed over, at most. A guess: the rows of two blocks.
const PASSED_OVER_MAX: usize = 64;

/// The newest checkpoint of a node for a strand that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadableCheckpoint {
    /// The checkpoint; `None` if there is none, or none was found among the newest 64.
    pub newest: Option<CosignedCheckpoint>,
    /// The reason for which a row was passed over. There may be a larger checkpoint than the newest one here.
    pub passed_over: Option<ReadError>,
}

impl Store {
    /// Stores a checkpoint durably. It replaces the one of the same node, strand and size, so the caller must have
    /// compared the two. Checkpoints older than the newest few thousand are removed at intervals.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn put_checkpoint(&self, checkpoint: &CosignedCheckpoint) -> Result<(), CommitError> {
        self.put_checkpoints([checkpoint])
    }

    /// Stores several checkpoints in one durable write, like [`put_checkpoint`](Self::put_checkpoint). Writes
    /// nothing for an empty list.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn put_checkpoints<'a>(
        &self,
        checkpoints: impl IntoIterator<Item = &'a CosignedCheckpoint>,
    ) -> Result<(), CommitError> {
        let database = self.database();
        database.check_writable()?;
        let mut puts_left = database.checkpoints.lock();
        let (mut batch, mut searches_left) = (WriteBatch::default(), SEARCHES_MAX);
        let family = database.family(Family::Checkpoint);
        for checkpoint in checkpoints {
            let of = checkpoint.signed.checkpoint;
            let key = CheckpointKey { originator: of.originator, node: of.node, size: of.size };
            let bytes = checkpoint.encode();
            debug_assert!(bytes.len() <= CODEC_LEN_BYTES_MAX, "its lists are bounded");
            batch.put_cf(family, key.encode(), bytes);
            let left = puts_left.entry((of.originator, of.node)).or_default();
            if *left > 0 {
                *left -= 1;
                continue;
            }
            if searches_left == 0 {
                continue; // It stays due.
            }
            searches_left -= 1;
            *left = LOOK_EVERY - 1;
            // If a row cannot be read, the old ones stay: a new checkpoint must not depend on them.
            if let Ok(Some(oldest)) = database.oldest_kept(key) {
                let from = CheckpointKey { size: 0, ..key };
                batch.delete_range_cf(family, from.encode(), oldest.encode());
            }
        }
        if batch.is_empty() { Ok(()) } else { database.write_durable(batch) }
    }
}

impl Database {
    /// Returns the oldest checkpoint that is kept together with `newest`; `None` if there are fewer than [`KEPT`].
    fn oldest_kept(&self, newest: CheckpointKey) -> Result<Option<CheckpointKey>, ReadError> {
        let mut rows = self.db.raw_iterator_cf(self.family(Family::Checkpoint));
        rows.seek_for_prev(newest.encode());
        let mut kept = 0;
        while let Some(key) = rows.key() {
            let corrupt = || ReadError::corrupt(Family::Checkpoint, key);
            let found = CheckpointKey::decode(key).ok_or_else(corrupt)?;
            if (found.originator, found.node) != (newest.originator, newest.node) {
                return Ok(None);
            }
            kept += 1;
            if kept == KEPT {
                return Ok(Some(found));
            }
            rows.prev();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(None)
    }
}

/// Decodes the row at the iterator's position, if it is a checkpoint of this node for this strand.
///
/// # Errors
/// An error if the row cannot be read, or if its checkpoint does not match its key.
pub(crate) fn checkpoint_at(
    rows: &DBRawIterator<'_>,
    originator: OriginatorId,
    node: OriginatorId,
) -> Result<Option<CosignedCheckpoint>, ReadError> {
    let Some((key, value)) = rows.item() else {
        rows.status().map_err(DatabaseError::from)?;
        return Ok(None);
    };
    let corrupt = || ReadError::corrupt(Family::Checkpoint, key);
    let found = CheckpointKey::decode(key).ok_or_else(corrupt)?;
    if (found.originator, found.node) != (originator, node) {
        return Ok(None);
    }
    let checkpoint = CosignedCheckpoint::decode(value).map_err(|_| corrupt())?;
    let of = checkpoint.signed.checkpoint;
    let is_of_key =
        CheckpointKey { originator: of.originator, node: of.node, size: of.size } == found;
    if is_of_key { Ok(Some(checkpoint)) } else { Err(corrupt()) }
}

impl Snapshot<'_> {
    /// Returns the stored checkpoint of a node for a strand with the largest size up to `size_max`.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn checkpoint(
        &self,
        originator: OriginatorId,
        node: OriginatorId,
        size_max: u64,
    ) -> Result<Option<CosignedCheckpoint>, ReadError> {
        let mut rows = self.rows(Family::Checkpoint, ReadOptions::default());
        rows.seek_for_prev(CheckpointKey { originator, node, size: size_max }.encode());
        checkpoint_at(&rows, originator, node)
    }

    /// Returns true if the tree that is held here has the size and the root of a checkpoint. That of a chain's strand
    /// need not: the strand may have been cut since the checkpoint was signed, and read again.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn is_of_tree(&self, of: &Checkpoint) -> Result<bool, ReadError> {
        match self.root(of.originator, of.size) {
            Ok(root) => Ok(root == of.root),
            Err(TreeError::Beyond { .. } | TreeError::Proof(_)) => Ok(false),
            Err(TreeError::Read(error)) => Err(error),
        }
    }

    /// Returns the checkpoint that [`checkpoint`](Self::checkpoint) returns, and of a chain's strand the largest one of
    /// the tree that is held here. A node must not decide by this one what it may sign.
    ///
    /// A node that obeys the rules signs no tree of a chain's strand that does not begin with its last one. So its
    /// smaller checkpoints are of the tree, and its larger ones are not, and few of them have to be read.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn standing_checkpoint(
        &self,
        originator: OriginatorId,
        node: OriginatorId,
        size_max: u64,
    ) -> Result<Option<CosignedCheckpoint>, ReadError> {
        let Some(newest) = self.checkpoint(originator, node, size_max)? else { return Ok(None) };
        if !originator.is_of_chain() || self.is_of_tree(&newest.signed.checkpoint)? {
            return Ok(Some(newest));
        }
        // The result is `standing`, with `low` places, or has more than `low` and up to `high`.
        let (mut standing, mut low) = (None, 0);
        let mut high = newest.signed.checkpoint.size.saturating_sub(1);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let found = self.checkpoint(originator, node, middle)?;
            match found.filter(|it| it.signed.checkpoint.size > low) {
                Some(found) if self.is_of_tree(&found.signed.checkpoint)? => {
                    (standing, low) = (Some(found), middle);
                }
                Some(found) => high = found.signed.checkpoint.size - 1,
                None => low = middle,
            }
        }
        Ok(standing)
    }

    /// Returns the newest checkpoint of a node for a strand that can be read. A damaged row or block costs the rows in
    /// it: smaller checkpoints are searched. A block that is the last one of this node and strand in its table file
    /// also hides newer checkpoints in other files, because an iterator reads all files together. If several blocks are
    /// damaged, the result may be smaller than the newest checkpoint that can be read.
    #[must_use]
    pub fn readable_checkpoint(
        &self,
        originator: OriginatorId,
        node: OriginatorId,
    ) -> ReadableCheckpoint {
        let (mut key, mut passed_over) = (CheckpointKey { originator, node, size: u64::MAX }, None);
        for _ in 0..=PASSED_OVER_MAX {
            let rows = self.checkpoints_down_from(key);
            let error = match checkpoint_at(&rows, originator, node) {
                Ok(newest) => return ReadableCheckpoint { newest, passed_over },
                // Another read may succeed.
                Err(error) if !error.is_damage() => {
                    return ReadableCheckpoint { newest: None, passed_over: Some(error) };
                }
                Err(error) => error,
            };
            let below = match rows.key().and_then(CheckpointKey::decode) {
                Some(malformed) => Ok(malformed.size.checked_sub(1)),
                None => self.size_below_damage(key),
            };
            passed_over = passed_over.or(Some(error));
            match below {
                Ok(Some(size)) => key.size = size,
                Ok(None) => break,
                Err(error) => {
                    return ReadableCheckpoint { newest: None, passed_over: Some(error.into()) };
                }
            }
        }
        ReadableCheckpoint { newest: None, passed_over }
    }

    /// Returns the size below a damaged block from which smaller checkpoints of a node and strand can be read.
    /// `damaged` is in the block, or directly above it. `None` if no such size is found.
    fn size_below_damage(&self, damaged: CheckpointKey) -> Result<Option<u64>, DatabaseError> {
        let size = |distance: u128| {
            damaged.size.saturating_sub(u64::try_from(distance).unwrap_or(u64::MAX))
        };
        let end = end_of_damage(damaged.size.into(), |distance| {
            let below = CheckpointKey { size: size(distance), ..damaged };
            is_sound(&self.checkpoints_down_from(below))
        })?;
        Ok(end.map(size))
    }

    /// Opens an iterator at a checkpoint, or at the nearest one below it.
    fn checkpoints_down_from(&self, key: CheckpointKey) -> DBRawIterator<'_> {
        let mut rows = self.rows(Family::Checkpoint, ReadOptions::default());
        rows.seek_for_prev(key.encode());
        rows
    }

    /// Returns the newest cosigned checkpoint of a node for a strand, among the last `COSIGNED_AMONG` up to the
    /// [standing one](Self::standing_checkpoint); that one if none is cosigned by another node or a witness.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn cosigned_checkpoint(
        &self,
        originator: OriginatorId,
        node: OriginatorId,
    ) -> Result<Option<CosignedCheckpoint>, ReadError> {
        let newest = self.standing_checkpoint(originator, node, u64::MAX)?;
        let mut found = newest.clone();
        for _ in 0..COSIGNED_AMONG {
            let Some(it) = &found else { break };
            if !(it.cosignatures.is_empty() && it.witnesses.is_empty()) {
                return Ok(found);
            }
            let Some(size_max) = it.signed.checkpoint.size.checked_sub(1) else { break };
            found = self.checkpoint(originator, node, size_max)?;
        }
        Ok(newest)
    }

    /// Returns the checkpoint of a node for a strand with the most cosignatures of other nodes, among the last
    /// `COSIGNED_AMONG` up to the [standing one](Self::standing_checkpoint); the newest of several.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub(crate) fn most_cosigned_checkpoint(
        &self,
        originator: OriginatorId,
        node: OriginatorId,
    ) -> Result<Option<CosignedCheckpoint>, ReadError> {
        let mut most: Option<CosignedCheckpoint> = None;
        let mut next = self.standing_checkpoint(originator, node, u64::MAX)?;
        for _ in 0..COSIGNED_AMONG {
            let Some(found) = next else { break };
            next = match found.signed.checkpoint.size.checked_sub(1) {
                Some(size_max) => self.checkpoint(originator, node, size_max)?,
                None => None,
            };
            if most.as_ref().is_none_or(|it| it.cosignatures.len() < found.cosignatures.len()) {
                most = Some(found);
            }
        }
        Ok(most)
    }

    /// Returns the checkpoint of a node for a strand with exactly this size; `None` if it is not stored.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn checkpoint_at(
        &self,
        originator: OriginatorId,
        node: OriginatorId,
        size: u64,
    ) -> Result<Option<CosignedCheckpoint>, ReadError> {
        let key = CheckpointKey { originator, node, size };
        self.row(key, |value| CosignedCheckpoint::decode(value).ok())
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::merkle::TreeHash;

    use super::*;
    use crate::testing::store;

    fn checkpoint(node: OriginatorId, size: u64) -> CosignedCheckpoint {
        let of = Checkpoint { node, originator: node, size, root: TreeHash([1; 32]), time_ns: 1 };
        of.sign(&SecretKey::from_bytes(&[7; 32]).unwrap()).into()
    }

    #[test]
    fn a_damaged_row_costs_that_row_and_no_other_node_anything() {
        let store = store();
        let (damaged, sound) = (OriginatorId(200), OriginatorId(300));
        let all = [1, 2, 3].map(|size| checkpoint(damaged, size));
        store.put_checkpoints(all.iter().chain([&checkpoint(sound, 1)])).unwrap();
        let newest = |node| store.snapshot().readable_checkpoint(node, node);
        let of = |node, size| Some(checkpoint(node, size));
        assert_eq!(
            newest(damaged),
            ReadableCheckpoint { newest: of(damaged, 3), passed_over: None }
        );
        let key = |size| CheckpointKey { originator: damaged, node: damaged, size }.encode();
        store.put_raw_row(Family::Checkpoint, &key(3), b"damaged");
        assert_eq!(newest(damaged).newest, of(damaged, 2));
        assert!(newest(damaged).passed_over.is_some_and(|error| error.is_damage()));
        assert_eq!(newest(sound), ReadableCheckpoint { newest: of(sound, 1), passed_over: None });
        for size in [1, 2] {
            store.put_raw_row(Family::Checkpoint, &key(size), b"damaged");
        }
        assert_eq!(newest(damaged).newest, None);
        // A new one is the newest again.
        store.put_checkpoint(&checkpoint(damaged, 4)).unwrap();
        assert_eq!(
            newest(damaged),
            ReadableCheckpoint { newest: of(damaged, 4), passed_over: None }
        );
    }

    /// Each process may end before it has written as many as are between two searches.
    #[test]
    fn old_checkpoints_go_with_the_first_one_after_a_start() {
        let store = store();
        let (node, kept) = (OriginatorId(200), u64::try_from(KEPT).unwrap());
        let key = |size| CheckpointKey { originator: node, node, size }.encode();
        for size in 1..=2 * kept {
            store.put_raw_row(Family::Checkpoint, &key(size), b"of an earlier run");
        }
        store.put_checkpoint(&checkpoint(node, 2 * kept + 1)).unwrap();
        let snapshot = store.snapshot();
        assert_eq!(snapshot.checkpoint(node, node, kept), Ok(None), "they are gone");
        assert!(snapshot.checkpoint(node, node, kept + 1).is_err(), "the others are there");
    }

    /// After a start it is due for each node and strand, and other writers wait for it.
    #[test]
    fn a_write_searches_for_old_checkpoints_of_few_nodes_and_the_next_ones_of_the_others() {
        let store = store();
        let (kept, count) = (u64::try_from(KEPT).unwrap(), SEARCHES_MAX + 1);
        let nodes: Vec<_> = (200..).map(OriginatorId).take(count).collect();
        for node in &nodes {
            let key = |size| CheckpointKey { originator: *node, node: *node, size }.encode();
            for size in 1..=kept + 1 {
                store.put_raw_row(Family::Checkpoint, &key(size), b"of an earlier run");
            }
        }
        let put = |size| {
            let all: Vec<_> = nodes.iter().map(|node| checkpoint(*node, size)).collect();
            store.put_checkpoints(&all).unwrap();
        };
        let with_old = || {
            let snapshot = store.snapshot();
            let is_old = |node: &&OriginatorId| snapshot.checkpoint(**node, **node, 1) != Ok(None);
            nodes.iter().filter(is_old).count()
        };
        assert_eq!(with_old(), count);
        put(kept + 2);
        assert_eq!(with_old(), 1);
        put(kept + 3);
        assert_eq!(with_old(), 0);
    }

    #[test]
    fn damaged_rows_without_end_are_not_all_read() {
        let store = store();
        let node = OriginatorId(200);
        store.put_checkpoint(&checkpoint(node, 1)).unwrap();
        for size in 2..200 {
            let key = CheckpointKey { originator: node, node, size }.encode();
            store.put_raw_row(Family::Checkpoint, &key, b"damaged");
        }
        let found = store.snapshot().readable_checkpoint(node, node);
        assert!(found.newest.is_none() && found.passed_over.is_some());
    }
}
