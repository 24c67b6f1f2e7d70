//! Repairs damage that a scrub has found, while the database is open.
//!
//! A damaged block of a table file is reconstructed from its rows, and the differing bytes are written to their
//! place in the file. The file then has the bytes that RocksDB wrote, on any level, and compactions can read it. A
//! readable but wrong row, or an absent one, is written again. Nothing is deleted, so after a crash the next scrub
//! finds the remaining damage. The caller supplies the envelopes that this node cannot read itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;
use hawser_proto::merkle::{LeafData, TreeHash, leaf_hash};
use hawser_proto::{EnvelopeId, SequenceId};
use rocksdb::WriteBatch;

use super::block::{self, KnownRow};
use super::report::Damage;
use crate::error::{CommitError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;
use crate::keys::mark::Mark;
use crate::options::BLOB_LEN_BYTES_MIN;
use crate::prune::StrandPlaces;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::trees::leaf_of;

/// Largest number of places of a damaged part that is repaired. A guess: a block has a dozen, a torn megabyte some
/// thousand. With more, most of a file is lost.
const PLACES_MAX: usize = 10_000;
/// Largest block that is read for a repair, bytes. A block has one row more than fits into 8 KiB, and in a table file
/// that a snapshot was loaded with, a row has a whole envelope: 25 MiB at most.
const BLOCK_LEN_BYTES_MAX: u64 = 32 << 20;
/// The byte after a block that is not compressed.
const NOT_COMPRESSED: u8 = 0;

/// A place whose envelope this node cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostPlace {
    /// Originator and sequence id.
    pub id: EnvelopeId,
    /// The leaf of the strand's tree at the place; `None` if the tree does not reach it, or if the leaf itself is
    /// damaged.
    pub leaf: Option<TreeHash>,
}

/// The reason for which a damaged part was not repaired. The file is unchanged, unless the disk failed.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The rows are neither envelopes nor leaves.
    #[error(
        "rows of {family} are not made of single envelopes: the folder has to be replaced, or rebuilt"
    )]
    NotOfPlaces {
        /// The column family.
        family: &'static str,
    },
    /// The end of the damage is unknown, or it has too many places.
    #[error("the damaged part holds more than {PLACES_MAX} places, or its end is not known")]
    TooLarge,
    /// An envelope cannot be read, and no peer has sent it.
    #[error("no peer has sent the envelope at {at}")]
    Lost {
        /// The place.
        at: EnvelopeId,
    },
    /// A peer sent another envelope than the strand's tree contains.
    #[error("a peer sent another envelope for {at} than the tree of the strand contains")]
    Other {
        /// The place.
        at: EnvelopeId,
    },
    /// The strand's tree does not reach a place of this node's own strand, or has no readable leaf at a place that
    /// it reaches.
    #[error(
        "the envelope at {at} cannot be proven: its leaf in the tree is missing or cannot be read"
    )]
    Unproven {
        /// The place of the envelope.
        at: EnvelopeId,
    },
    /// The damaged block does not consist of the rows alone, or its checksum is damaged.
    #[error("{file} cannot be repaired in place")]
    NotInPlace {
        /// The file.
        file: String,
    },
    /// The database is in memory.
    #[error("a database in memory has no files")]
    InMemory,
    /// The file could not be read or written.
    #[error("{0}")]
    File(#[from] io::Error),
    /// A row that is needed could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A row could not be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// The bytes of a damaged block before [`Store::put_back`] wrote to it. The caller restores them unless
/// [`Store::recheck`] finds the block whole, so that an unproven repair never hides the bytes on the disk.
#[derive(Debug)]
pub struct OverwrittenBlock {
    file: File,
    /// The name of the file.
    name: String,
    /// Offset of the block in the file.
    offset: u64,
    /// The block, and the byte after it.
    before: Vec<u8>,
}

impl OverwrittenBlock {
    /// Returns true if the block is among these damages.
    #[must_use]
    pub fn is_in(&self, damages: &[Damage]) -> bool {
        let mut blocks = damages.iter().filter_map(Damage::block);
        blocks.any(|(name, offset, _)| name == self.name && offset == self.offset)
    }

    /// Writes the bytes back, and waits until they are durable.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn restore(&self) -> Result<(), RepairError> {
        self.file.write_all_at(&self.before, self.offset)?;
        Ok(self.file.sync_data()?)
    }

    /// Writes the differing bytes, and waits until they are durable. Returns false if no byte differs.
    fn replace(&self, whole: &[u8]) -> io::Result<bool> {
        let mut has_changed = false;
        let mut at = 0;
        while at < whole.len() {
            let differing = (at..whole.len()).find(|&it| whole[it] != self.before[it]);
            let Some(from) = differing else { break };
            let through = (from..whole.len()).find(|&it| whole[it] == self.before[it]);
            at = through.unwrap_or(whole.len());
            let place = self.offset.saturating_add(u64::try_from(from).unwrap_or(u64::MAX));
            self.file.write_all_at(&whole[from..at], place)?;
            has_changed = true;
        }
        if has_changed {
            self.file.sync_data()?;
        }
        Ok(has_changed)
    }
}

impl Store {
    /// Returns the places of a damaged part whose envelopes must be supplied before the part can be
    /// repaired.
    ///
    /// # Errors
    /// An error if the part cannot be repaired at all, or if the rows that determine its content cannot be read.
    pub fn lost_places(&self, damage: &Damage) -> Result<Vec<LostPlace>, RepairError> {
        let snapshot = self.snapshot();
        let mut lost = Vec::new();
        for id in held_places(&snapshot, damage)? {
            let leaf = known_leaf(&snapshot, damage, id)?;
            if readable(&snapshot, id, leaf).is_some() {
                continue;
            }
            if leaf.is_none() && id.originator == self.identity().node {
                return Err(RepairError::Unproven { at: id });
            }
            lost.push(LostPlace { id, leaf });
        }
        Ok(lost)
    }

    /// Repairs a damaged part. `brought` has the envelopes of [`Store::lost_places`], whose signatures the caller
    /// has verified. Until the repair, reads of the part return errors: its rows never count as absent.
    ///
    /// [`Store::recheck`] shows if the part is intact again, because only a read verifies the checksum. If it is
    /// not, the caller restores the returned bytes. `None` if no block was overwritten.
    ///
    /// # Errors
    /// [`RepairError`].
    pub fn put_back(
        &self,
        damage: &Damage,
        brought: &BTreeMap<EnvelopeId, Bytes>,
    ) -> Result<Option<OverwrittenBlock>, RepairError> {
        let folder = self.path().ok_or(RepairError::InMemory)?;
        // Envelopes that are pruned meanwhile must not be restored.
        let database = self.database();
        let _no_pruning = database.pruning.lock();
        let snapshot = self.snapshot();
        let mut envelopes = Vec::new();
        for id in held_places(&snapshot, damage)? {
            let leaf = known_leaf(&snapshot, damage, id)?;
            let bytes = match (readable(&snapshot, id, leaf), brought.get(&id)) {
                (Some(bytes), _) => bytes,
                (None, None) => return Err(RepairError::Lost { at: id }),
                (None, Some(_)) if leaf.is_none() && id.originator == self.identity().node => {
                    return Err(RepairError::Unproven { at: id });
                }
                (None, Some(bytes)) if leaf.is_none_or(|leaf| leaf == leaf_of(bytes)) => {
                    bytes.clone()
                }
                (None, Some(_)) => return Err(RepairError::Other { at: id }),
            };
            envelopes.push((id, bytes));
        }
        if damage.family == Family::Leaf.name() {
            let rows = leaf_rows(&snapshot, damage, &envelopes)?;
            return mend_file(folder, damage, &rows);
        }
        if damage.block().is_some() {
            let rows: Vec<_> = envelopes.into_iter().map(log_row).collect();
            return mend_file(folder, damage, &rows);
        }
        // Bytes that are overwritten in a file take no room; rows that are written again do.
        database.check_writable()?;
        let mut batch = WriteBatch::default();
        for (id, bytes) in &envelopes {
            batch.put_cf(database.family(Family::Log), EnvelopeKey(*id).encode(), bytes);
        }
        database.write_durable(batch)?;
        Ok(None)
    }
}

/// Returns the places of a damaged part that should have an envelope, ascending.
fn held_places(snapshot: &Snapshot<'_>, damage: &Damage) -> Result<Vec<EnvelopeId>, RepairError> {
    let is_leaf = damage.family == Family::Leaf.name();
    if !is_leaf && damage.family != Family::Log.name() {
        return Err(RepairError::NotOfPlaces { family: damage.family });
    }
    let mut held = Vec::new();
    for id in places(snapshot, damage)? {
        match snapshot.mark(id)? {
            None | Some(Mark::Invalid(_) | Mark::Waiting) => held.push(id),
            Some(
                Mark::Missing { .. }
                | Mark::Void { .. }
                | Mark::Expired { .. }
                | Mark::Pruned { .. },
            ) => {}
        }
    }
    Ok(held)
}

/// Returns every place of a damaged part, ascending.
fn places(snapshot: &Snapshot<'_>, damage: &Damage) -> Result<Vec<EnvelopeId>, RepairError> {
    let strands = damage.strands(&snapshot.heads()?).ok_or(RepairError::TooLarge)?;
    let mut places = Vec::new();
    for StrandPlaces { originator, from, through } in strands {
        for sequence in from.0..=through.0 {
            if places.len() == PLACES_MAX {
                return Err(RepairError::TooLarge);
            }
            places.push(EnvelopeId::new(originator, SequenceId(sequence)));
        }
    }
    Ok(places)
}

/// Returns the leaf of the strand's tree at a place; `None` if the tree does not reach it. Unreadable leaves of a
/// damaged part of leaves are `None`, too: the checksum of their block proves the rebuilt ones.
///
/// # Errors
/// [`RepairError::Unproven`] for a place of the log that the tree reaches, or may reach, without a readable leaf: a
/// signature alone does not prove that an envelope is the stored one.
fn known_leaf(
    snapshot: &Snapshot<'_>,
    damage: &Damage,
    id: EnvelopeId,
) -> Result<Option<TreeHash>, RepairError> {
    if damage.family == Family::Leaf.name() {
        return Ok(snapshot.leaf(id).unwrap_or(None));
    }
    let unproven = || RepairError::Unproven { at: id };
    let leaf = snapshot.leaf(id).map_err(|_| unproven())?;
    if leaf.is_none() {
        let size = snapshot.tree_size(id.originator).map_err(|_| unproven())?;
        if id.sequence.0 <= size {
            return Err(unproven());
        }
    }
    Ok(leaf)
}

/// Returns an envelope that is readable, perhaps from a cache, and matches the strand's tree.
fn readable(snapshot: &Snapshot<'_>, id: EnvelopeId, leaf: Option<TreeHash>) -> Option<Bytes> {
    let bytes = snapshot.get(id).ok()??;
    leaf.is_none_or(|leaf| leaf == leaf_of(&bytes)).then_some(bytes)
}

fn log_row((id, bytes): (EnvelopeId, Bytes)) -> KnownRow {
    let may_be_blob = u64::try_from(bytes.len()).is_ok_and(|len| len >= BLOB_LEN_BYTES_MIN);
    KnownRow { key: EnvelopeKey(id).encode().to_vec(), value: bytes, may_be_blob }
}

/// Returns the leaves of a damaged part, computed from envelopes, marks and records.
fn leaf_rows(
    snapshot: &Snapshot<'_>,
    damage: &Damage,
    envelopes: &[(EnvelopeId, Bytes)],
) -> Result<Vec<KnownRow>, RepairError> {
    let mut rows = Vec::new();
    for id in places(snapshot, damage)? {
        let held = envelopes.binary_search_by_key(&id, |(at, _)| *at).ok().map(|at| &envelopes[at]);
        let leaf = match held {
            Some((_, bytes)) => Some(leaf_of(bytes)),
            None => match snapshot.mark(id)? {
                Some(Mark::Void { .. }) => Some(leaf_hash(LeafData::Void)),
                Some(Mark::Pruned { .. }) => {
                    let mut records = snapshot.pruned(id.originator, id.sequence, id.sequence);
                    records.next().transpose()?.and_then(|(_, record)| record.leaf)
                }
                _ => None,
            },
        };
        let leaf = leaf.ok_or(RepairError::Lost { at: id })?;
        let value = Bytes::copy_from_slice(&leaf.0);
        rows.push(KnownRow { key: EnvelopeKey(id).encode().to_vec(), value, may_be_blob: false });
    }
    Ok(rows)
}

/// Writes the bytes of a damaged block that differ from the block reconstructed from its rows. `None` if the file
/// does not exist any more.
fn mend_file(
    folder: &Path,
    damage: &Damage,
    rows: &[KnownRow],
) -> Result<Option<OverwrittenBlock>, RepairError> {
    let not_in_place = || RepairError::NotInPlace { file: damage.file.clone().unwrap_or_default() };
    let (name, offset, len) = damage.block().ok_or_else(not_in_place)?;
    let file = match File::options().read(true).write(true).open(folder.join(name)) {
        // A compaction has moved the rows to another file, so they were readable.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if len > BLOCK_LEN_BYTES_MAX {
        return Err(not_in_place());
    }
    let len = usize::try_from(len).map_err(|_| not_in_place())?;
    let mut before = vec![0; len + 1];
    file.read_exact_at(&mut before, offset)?;
    let mut whole = block::mend(&before[..len], rows).ok_or_else(not_in_place)?;
    whole.push(NOT_COMPRESSED);
    let overwritten = OverwrittenBlock { file, name: name.to_owned(), offset, before };
    match overwritten.replace(&whole) {
        Ok(true) => Ok(Some(overwritten)),
        Ok(false) => Err(not_in_place()),
        Err(error) => {
            // A part of it may have been written.
            overwritten.restore()?;
            Err(error.into())
        }
    }
}
