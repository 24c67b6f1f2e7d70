//! Reads the records of envelopes that this node has pruned.

use std::sync::Arc;

use hawser_proto::merkle::TreeHash;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use rocksdb::{DBRawIterator, ReadOptions};

use bytes::Bytes;

use crate::change::{SkipReason, Validity};
use crate::database::Database;
use crate::error::{DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::leaf::LeafKey;
use crate::keys::mark::{Mark, MarkKey};
use crate::keys::pruned::{PrunedEnvelope, PrunedKey};
use crate::log_scan::{LogItem, LogScan};
use crate::raw_rows::{current_mark_of, seek_nearest_mark, stored};
use crate::snapshot::Snapshot;
use crate::store::Store;

/// Marks of other kinds that the search for the last expired place passes over. A guess. If a strand ends with more of
/// them, readers get no information about it.
const MARKS_PASSED_MAX: usize = 4096;

/// A place of a strand, or a range of empty ones, with the values from which rows are derived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPlace {
    /// The envelope is stored.
    Held {
        /// Its place.
        id: EnvelopeId,
        /// The originator envelope as signed.
        bytes: Bytes,
        /// The envelope's validity, from its mark.
        validity: Validity,
    },
    /// The envelope was stored until it expired, and its record is left.
    Pruned {
        /// Its place.
        id: EnvelopeId,
        /// The record.
        envelope: PrunedEnvelope,
    },
    /// Places that never had an envelope in this node's log.
    Empty {
        /// The first place, included.
        from: SequenceId,
        /// The last place, included.
        through: SequenceId,
        /// The recorded reason.
        reason: SkipReason,
    },
}

/// A scan of one strand in ascending order, with a record for each pruned place; see [`Snapshot::places`]. A record
/// that cannot be read is an error; the scan then continues after its range.
pub struct PlaceScan<'s> {
    log: LogScan<'s>,
    pruned: PrunedScan<'s>,
}

impl Iterator for PlaceScan<'_> {
    type Item = Result<LogPlace, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(next) = self.pruned.next() {
            return Some(next.map(|(id, envelope)| LogPlace::Pruned { id, envelope }));
        }
        match self.log.next()? {
            Err(error) => Some(Err(error)),
            Ok(LogItem::Envelope { id, bytes, validity }) => {
                Some(Ok(LogPlace::Held { id, bytes, validity }))
            }
            Ok(LogItem::Skipped { from, through, reason: SkipReason::Pruned }) => {
                self.pruned.read(from, through);
                self.next()
            }
            Ok(LogItem::Skipped { from, through, reason }) => {
                Some(Ok(LogPlace::Empty { from, through, reason }))
            }
        }
    }
}

/// A scan of the records of pruned places. A place without a record is an error. The scan ends after
/// the first error.
pub struct PrunedScan<'s> {
    rows: DBRawIterator<'s>,
    originator: OriginatorId,
    /// The next place and the last one.
    left: Option<(SequenceId, SequenceId)>,
}

impl PrunedScan<'_> {
    fn read(&mut self, from: SequenceId, through: SequenceId) {
        self.rows.seek(PrunedKey(EnvelopeId::new(self.originator, from)).encode());
        self.left = Some((from, through));
    }

    fn step(&mut self, id: EnvelopeId) -> Result<PrunedEnvelope, ReadError> {
        let key = PrunedKey(id).encode();
        let Some((found, value)) = self.rows.item().filter(|(found, _)| *found == key) else {
            self.rows.status().map_err(DatabaseError::from)?;
            return Err(ReadError::corrupt(Family::Pruned, &key));
        };
        let row = PrunedEnvelope::decode(value);
        let row = row.ok_or_else(|| ReadError::corrupt(Family::Pruned, found))?;
        self.rows.next();
        Ok(row)
    }
}

impl Iterator for PrunedScan<'_> {
    type Item = Result<(EnvelopeId, PrunedEnvelope), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (next, through) = self.left.take()?;
        let id = EnvelopeId::new(self.originator, next);
        let row = self.step(id);
        if row.is_ok() && next < through {
            self.left = Some((next.next(), through));
        }
        Some(row.map(|row| (id, row)))
    }
}

impl Snapshot<'_> {
    /// Scans one strand like [`Snapshot::log`], and reads the record of each pruned place.
    #[must_use]
    pub fn places(&self, after: EnvelopeId, through: SequenceId) -> PlaceScan<'_> {
        let pruned = self.pruned_scan(after.originator);
        PlaceScan { log: self.log(after, through), pruned }
    }

    /// Reads the records of the places `from` to `through` of a strand. All of them must be pruned.
    #[must_use]
    pub fn pruned(
        &self,
        originator: OriginatorId,
        from: SequenceId,
        through: SequenceId,
    ) -> PrunedScan<'_> {
        let mut scan = self.pruned_scan(originator);
        if from <= through {
            scan.read(from, through);
        }
        scan
    }

    fn pruned_scan(&self, originator: OriginatorId) -> PrunedScan<'_> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let rows = self.rows(Family::Pruned, options);
        PrunedScan { rows, originator, left: None }
    }

    /// Returns the place after the last expired one of a strand; `None` if none has expired. Envelopes before it
    /// with a longer retention are still stored. In a strand of the older network, only places count that this node has
    /// pruned: its other places that are marked as expired are row numbers, and most of them were never used.
    ///
    /// Costs one seek in most strands.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn oldest(&self, originator: OriginatorId) -> Result<Option<SequenceId>, ReadError> {
        if originator.is_migrated() {
            return Ok(self.last_pruned(originator)?.map(SequenceId::next));
        }
        let open = || self.rows(MarkKey::FAMILY, ReadOptions::default());
        let mut rows = open();
        let last = EnvelopeId::new(originator, SequenceId(u64::MAX));
        if !seek_nearest_mark(&mut rows, open, last)? {
            return Ok(None);
        }
        for _ in 0..MARKS_PASSED_MAX {
            let Some((_, mark)) = current_mark_of(&rows, originator)? else { break };
            if let Mark::Expired { through } | Mark::Pruned { through } = mark {
                return Ok(Some(through.next()));
            }
            rows.prev();
        }
        Ok(None)
    }

    /// Returns the last place of a strand that this node has pruned.
    fn last_pruned(&self, originator: OriginatorId) -> Result<Option<SequenceId>, ReadError> {
        let mut rows = self.rows(Family::Pruned, ReadOptions::default());
        let end = EnvelopeId::new(originator, SequenceId(u64::MAX));
        rows.seek_for_prev(PrunedKey(end).encode());
        let Some(key) = rows.key() else {
            rows.status().map_err(DatabaseError::from)?;
            return Ok(None);
        };
        let last = PrunedKey::decode(key).ok_or_else(|| ReadError::corrupt(Family::Pruned, key))?.0;
        Ok((last.originator == originator).then_some(last.sequence))
    }
}

impl Store {
    /// Returns the result of [`oldest`](Self::oldest) if that needs no read; `None` if marks of ranges have changed
    /// since the last call.
    pub fn oldest_known(&self) -> Option<Arc<[EnvelopeId]>> {
        self.database().expired_ends.known().ok()
    }

    /// Returns, for each strand in which places have expired, the place after the last expired one.
    ///
    /// Costs a seek for each strand and reads of some marks if marks of ranges have changed since the last call;
    /// otherwise nothing. If the last marks of a strand cannot be read, any of its places may have expired. The result
    /// then has the place after the strand's head, because readers of other strands, and of topics, must not fail.
    ///
    /// # Errors
    /// When the heads cannot be read.
    pub fn oldest(&self) -> Result<Arc<[EnvelopeId]>, ReadError> {
        let database = self.database();
        // Read before the snapshot is taken, so that a change in between leads to a new search.
        let state = match database.expired_ends.known() {
            Ok(known) => return Ok(known),
            Err(state) => state,
        };
        let snapshot = Snapshot::new(&database);
        let (mut oldest, mut unread) = (Vec::new(), Vec::new());
        for head in snapshot.heads()?.iter() {
            let first = snapshot.oldest(head.originator).unwrap_or_else(|error| {
                unread.push((head.originator, error));
                Some(head.sequence.next())
            });
            oldest.extend(first.map(|sequence| EnvelopeId { sequence, ..head }));
        }
        let oldest: Arc<[EnvelopeId]> = oldest.into();
        database.expired_ends.report(&unread);
        // A failure that is no damage may pass, so the next call reads again.
        if unread.iter().all(|(_, error)| error.is_damage()) {
            database.expired_ends.note(&state, &oldest);
        }
        Ok(oldest)
    }
}

impl Database {
    /// Returns the leaf of a pruned place: from the strand's tree, or from its record if the tree had not reached it.
    pub(crate) fn pruned_leaf(&self, id: EnvelopeId) -> Result<TreeHash, ReadError> {
        if let Some(leaf) = stored(&self.db, LeafKey(id), TreeHash::from_slice)? {
            return Ok(leaf);
        }
        let key = PrunedKey(id);
        let record = stored(&self.db, key, PrunedEnvelope::decode)?.and_then(|it| it.leaf);
        record.ok_or_else(|| ReadError::corrupt(Family::Pruned, &key.encode()))
    }
}
