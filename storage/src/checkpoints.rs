//! Stores checkpoints with their known cosignatures. Rows are only added, and old ones removed.

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::{CODEC_LEN_BYTES_MAX, CosignedCheckpoint};
use rocksdb::{DBRawIterator, ReadOptions, WriteBatch};

use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::checkpoint::CheckpointKey;
use crate::snapshot::Snapshot;
use crate::store::Store;

/// Least number of checkpoints of a node for a strand that are kept. A guess: an hour with one each second.
const KEPT: usize = 4096;
/// Number of newest checkpoints among which a cosigned one is searched. A guess: four a second, and peers cosign
/// within two seconds.
const COSIGNED_AMONG: usize = 16;
/// Number of new checkpoints between two searches for old ones. A guess: a search visits all checkpoints that are
/// kept.
const LOOK_EVERY: u64 = 1024;

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
        let mut written = database.checkpoints.lock();
        let mut batch = WriteBatch::default();
        let family = database.family(Family::Checkpoint);
        for checkpoint in checkpoints {
            let of = checkpoint.signed.checkpoint;
            let key = CheckpointKey { originator: of.originator, node: of.node, size: of.size };
            let bytes = checkpoint.encode();
            debug_assert!(bytes.len() <= CODEC_LEN_BYTES_MAX, "its lists are bounded");
            batch.put_cf(family, key.encode(), bytes);
            let count = written.entry((of.originator, of.node)).or_insert(0_u64);
            *count += 1;
            if count.is_multiple_of(LOOK_EVERY)
                && let Some(oldest) = database.oldest_kept(key)?
            {
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

    /// Returns the newest cosigned checkpoint of a node for a strand, among the last `COSIGNED_AMONG`; the newest
    /// one if none is cosigned by another node or a witness.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn cosigned_checkpoint(
        &self,
        originator: OriginatorId,
        node: OriginatorId,
    ) -> Result<Option<CosignedCheckpoint>, ReadError> {
        let newest = self.checkpoint(originator, node, u64::MAX)?;
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

    /// Returns the checkpoint of a node for a strand, among the last `COSIGNED_AMONG`, with the most cosignatures
    /// of other nodes; the newest of several.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn most_cosigned_checkpoint(
        &self,
        originator: OriginatorId,
        node: OriginatorId,
    ) -> Result<Option<CosignedCheckpoint>, ReadError> {
        let mut most: Option<CosignedCheckpoint> = None;
        let mut size_max = Some(u64::MAX);
        for _ in 0..COSIGNED_AMONG {
            let Some(size) = size_max else { break };
            let Some(found) = self.checkpoint(originator, node, size)? else { break };
            size_max = found.signed.checkpoint.size.checked_sub(1);
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
