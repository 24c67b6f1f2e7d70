//! Pruning: removes envelopes and their rows by topic and expiry. The places are marked, the leaves stay, and a
//! record of each envelope keeps the figures that tallies need. Receipts stay, too: otherwise a payer could be
//! charged again for a pruned envelope.
//!
//! This file decides nothing about time or payment: the caller names the envelopes. It refuses only what would
//! break the log itself. One batch has all rows of an envelope, so a crash leaves the envelope either stored or
//! pruned. The batches are not synced. A batch that a crash loses is repeated. A later synced commit makes earlier
//! batches durable, because the write-ahead log keeps their order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use parking_lot::MutexGuard;
use rocksdb::{BottommostLevelCompaction, CompactOptions, ReadOptions};

use crate::change::Validity;
use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::expiring::{
    DeriveExpired, ExpiredEnvelope, Expiring, LeavingEnvelope, LeavingPart, LeavingRows,
    LeavingStrand, tell_unread,
};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;
use crate::keys::expiry::{ExpiryKey, ExpiryRow};
use crate::keys::mark::MarkKey;
use crate::options::LARGE_AGE_MOVED;
use crate::pruned_ranges::{MarksAround, PrunedRanges};
use crate::rebuild::Derive;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::strands::Head;
use crate::trees::leaf_of;

/// Receives the outcome of each write, while only other pruning is locked. It may sleep as long as necessary, and
/// returns `Break` to end pruning.
pub type AfterPruned<'a> = dyn FnMut(PrunedBatch) -> ControlFlow<()> + 'a;

/// The outcome of pruning some envelopes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PrunedBatch {
    /// Places that are pruned now, with the lengths of their envelopes in bytes.
    pub pruned: Vec<(EnvelopeId, usize)>,
    /// Places that stay because the log needs their envelopes, because their rows do not agree, or because the disk
    /// cannot read them.
    pub refused: Vec<EnvelopeId>,
}

/// Places of a strand, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrandPlaces {
    /// The strand.
    pub originator: OriginatorId,
    /// The first place.
    pub from: SequenceId,
    /// The last place.
    pub through: SequenceId,
}

impl Snapshot<'_> {
    /// Calls `each` with the envelopes after `after` in the order of their expiry, at most `visits_max`. Returns
    /// the last one if there may be more; `None` at the end, or after `each` returned `Break`.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn expiring(
        &self,
        after: Option<Expiring>,
        visits_max: usize,
        mut each: impl FnMut(Expiring) -> ControlFlow<()>,
    ) -> Result<Option<Expiring>, ReadError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut rows = self.projected(Family::Expiry, options)?;
        match after {
            None => rows.seek_to_first(),
            Some(Expiring { expiry_unix_s, id, .. }) => {
                let key = ExpiryKey { expiry_unix_s, id }.encode();
                rows.seek(key);
                if rows.key() == Some(key.as_ref()) {
                    rows.next();
                }
            }
        }
        let mut last = after;
        for _ in 0..visits_max {
            let Some((key, value)) = rows.item() else {
                rows.status().map_err(DatabaseError::from)?;
                return Ok(None);
            };
            let corrupt = || ReadError::corrupt(Family::Expiry, key);
            let ExpiryKey { expiry_unix_s, id } = ExpiryKey::decode(key).ok_or_else(corrupt)?;
            let ExpiryRow { payer, receipt } = ExpiryRow::decode(value).ok_or_else(corrupt)?;
            let found = Expiring { expiry_unix_s, id, payer, receipt };
            if each(found).is_break() {
                return Ok(None);
            }
            last = Some(found);
            rows.next();
        }
        Ok(last)
    }
}

impl Store {
    /// Removes these envelopes from the log like [`Store::prune_many`], one by one and without pauses. `derive`
    /// must be the function that a rebuild gets.
    ///
    /// # Errors
    /// The errors of [`Store::prune_many`].
    pub fn prune(
        &self,
        expired: &[Expiring],
        derive: &Derive<'_>,
    ) -> Result<PrunedBatch, CommitError> {
        let one_by_one = |expired: &[ExpiredEnvelope]| {
            expired.iter().map(|it| derive(it.id, &it.bytes, Validity::Valid)).collect()
        };
        let mut all = PrunedBatch::default();
        let _ = self.prune_many(expired, &one_by_one, &mut |mut done| {
            all.pruned.append(&mut done.pruned);
            all.refused.append(&mut done.refused);
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }

    /// Removes these envelopes from the log, some of a strand as one write. Leaves, tallies, marks of rules and
    /// evidence stay. Ends early if `after` returns `Break`. Returns the last value of `after`.
    ///
    /// An envelope stays if it is absent, marked, not yet verified, the last one of its strand, without the stated
    /// expiry, or a source of inboxes. `derive` must return the facts that a rebuild gets, and must not use the store,
    /// parts of which are locked. Commits to a strand wait for its writes. Nothing is pruned while projections have to
    /// be rebuilt. A nearly full disk does not stop pruning, because pruning makes room.
    ///
    /// # Errors
    /// An error if rows cannot be written. Envelopes before it, in the order of places, are removed.
    pub fn prune_many(
        &self,
        expired: &[Expiring],
        derive: &DeriveExpired<'_>,
        after: &mut AfterPruned<'_>,
    ) -> Result<ControlFlow<()>, CommitError> {
        self.database().prune(expired, derive, after)
    }

    /// Removes the next unverified places of a strand that readers get, up to `through` or the head, a few hundred
    /// at a time as one durable write. Their originator does not have them any more, so they cannot be verified.
    /// They are marked as pruned, and no payer is charged; leaves stay. An envelope that has not expired by
    /// `now_unix_s`, or for which `derive` returns nothing, ends the range before it, because its node has signed a
    /// tree with its statement. Returns the last place that is verified or removed afterwards.
    ///
    /// # Errors
    /// When rows cannot be read or written.
    pub fn prune_shown(
        &self,
        originator: OriginatorId,
        through: SequenceId,
        now_unix_s: u64,
        derive: &Derive<'_>,
    ) -> Result<SequenceId, CommitError> {
        self.database().prune_shown(originator, through, now_unix_s, derive)
    }

    /// Compacts everything from which envelopes were pruned, by this run or earlier ones, so that the files shrink.
    /// Takes as long as reading and writing the rest of these files, and cannot be cancelled: a running node leaves it
    /// to compactions in the background.
    ///
    /// # Errors
    /// When the heads cannot be read.
    pub fn compact_pruned(&self) -> Result<(), ReadError> {
        let up_to_the_last_expired = |behind: &EnvelopeId| StrandPlaces {
            originator: behind.originator,
            from: SequenceId(1),
            through: behind.sequence.previous(),
        };
        let places: Vec<_> = self.oldest()?.iter().map(up_to_the_last_expired).collect();
        if !places.is_empty() {
            self.compact_places(&places);
        }
        Ok(())
    }

    /// Compacts the parts of the log with these places, and the indexes if they have deleted rows, so that the files
    /// shrink. Takes long, and cannot be cancelled. Commits and readers continue meanwhile. Without this call, RocksDB
    /// compacts the files later: when it finds that they are mostly deletions, or when they are a month old
    /// (`options`).
    pub fn compact_places(&self, places: &[StrandPlaces]) {
        let database = self.database();
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        database.compact_log(places, &options);
        for family in [Family::Expiry, Family::Topic] {
            // Otherwise a family is left alone: after its first compaction it is one run, and each further compaction
            // would read and write all of it.
            if database.has_deletions(family) {
                let family = database.family(family);
                database.db.compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &options);
            }
        }
        database.compact_large();
    }
}

/// Largest number of unverified places that one write removes. Their envelopes are read and decoded while writers of
/// the strand, a rebuild, and behind it all writers wait. A guess: some milliseconds.
const SHOWN_PLACES: u64 = 256;
/// Largest number of places that one write removes. Writers of the strand wait for it, and commits of all strands
/// queue behind it, for a tenth of a millisecond (measured: 3 µs for each place). With half the number, the write
/// itself would be a fifth of the work.
const WRITE_PLACES: usize = 32;
/// Files of large envelopes are written again if more than one of so many of their bytes is unused. A guess: for less,
/// writing the rest takes longer than it is worth.
const UNUSED_PART: u64 = 4;
/// RocksDB's option for [`LARGE_AGE_MOVED`].
const LARGE_AGE: &str = "blob_garbage_collection_age_cutoff";
/// Pause between two tries to find no commit, and to lock the head of a strand. A guess: a part of a commit. The system
/// makes it about twice as long.
const BUSY_PAUSE: Duration = Duration::from_micros(50);
/// Tries after which pruning stands in line. A guess: they take as long as a commit to a usual disk. So pruning goes on
/// where a commit follows upon the other, by one write for each millisecond.
const BUSY_TRIES: usize = 8;

impl Database {
    /// Removes expired envelopes strand by strand, in writes of at most [`WRITE_PLACES`] places. Ends early
    /// while projections have to be rebuilt, or if `after` returns `Break`; removed envelopes stay removed.
    fn prune(
        self: &Arc<Self>,
        expired: &[Expiring],
        derive: &DeriveExpired<'_>,
        after: &mut AfterPruned<'_>,
    ) -> Result<ControlFlow<()>, CommitError> {
        self.poison.check()?;
        let _one = self.pruning.lock();
        let mut strands: BTreeMap<OriginatorId, Vec<Expiring>> = BTreeMap::new();
        for &it in expired {
            strands.entry(it.id.originator).or_default().push(it);
        }
        for (originator, mut expired) in strands {
            expired.sort_unstable_by_key(|it| it.id);
            expired.dedup_by_key(|it| it.id);
            let mut strand = LeavingStrand::new(self, originator, &expired, derive);
            while let Some(LeavingPart { leaving, refused }) = strand.next_part() {
                let mut done = PrunedBatch { pruned: Vec::new(), refused };
                let mut is_told = false;
                let parts = leaving.chunks(WRITE_PLACES);
                // `after` is called at least once, with the refused places.
                let parts = parts.chain(leaving.is_empty().then_some(&leaving[..]));
                for part in parts {
                    if !self.prune_or_keep(&mut strand, part, &mut done, &mut is_told)? {
                        return Ok(ControlFlow::Continue(()));
                    }
                    if after(std::mem::take(&mut done)).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Removes the next shown envelopes from the verified end on, up to the first one that has not expired. They were
    /// never booked, so their records have no charge.
    fn prune_shown(
        self: &Arc<Self>,
        originator: OriginatorId,
        through: SequenceId,
        now_unix_s: u64,
        derive: &Derive<'_>,
    ) -> Result<SequenceId, CommitError> {
        self.check_writable()?;
        let _one = self.pruning.lock();
        let _no_rebuild = self.gate.read();
        let head = self.strands.head(originator);
        let head = head.lock();
        let Some(verified) = self.verified(originator)? else { return Ok(*head) };
        // A damaged row may name a place behind the head, and readers would be told that it is verified.
        let verified = verified.min(*head);
        let most = SequenceId(verified.0.saturating_add(SHOWN_PLACES));
        let through = through.min(*head).min(most);
        if through <= verified {
            return Ok(verified);
        }
        let snapshot = Snapshot::new(self);
        let tree_size = snapshot.tree_size(originator)?;
        let mut marks = MarksAround::new(self.db.raw_iterator_cf(self.family(Family::Mark)));
        let mut ranges = PrunedRanges::default();
        let mut rows = LeavingRows::new(self);
        let mut gone = verified;
        for place in verified.0 + 1..=through.0 {
            let id = EnvelopeId::new(originator, SequenceId(place));
            let corrupt = || ReadError::corrupt(Family::Log, &EnvelopeKey(id).encode());
            let bytes = snapshot.get(id)?.ok_or_else(corrupt)?;
            // A snapshot may have brought one whose layers cannot be read: it states no time.
            let Some(facts) = derive(id, &bytes, Validity::Valid) else { break };
            let Some(expiry_unix_s) = facts.expiry_unix_s.filter(|at| *at <= now_unix_s) else {
                break;
            };
            let leaf = (place > tree_size).then(|| leaf_of(&bytes));
            let facts = facts.unbooked();
            let leaving =
                LeavingEnvelope { id, expiry_unix_s, len_bytes: bytes.len(), leaf, facts };
            rows.stage(&leaving);
            if marks.cover(id)? {
                // It was withdrawn. The mark of its range takes the place of its own.
                rows.batch.delete_cf(self.family(Family::Mark), MarkKey(id).encode());
            }
            ranges.add(id, &mut marks)?;
            gone = id.sequence;
        }
        if gone == verified {
            return Ok(verified);
        }
        let mut batch = rows.batch;
        ranges.stage(self, &mut batch);
        self.stage_verified_head(EnvelopeId::new(originator, gone), *head, &mut batch);
        let writing = self.expired_ends.writing();
        self.write_change(batch)?;
        drop(writing);
        self.recent.forget(originator);
        Ok(gone)
    }

    /// Removes these envelopes like [`Self::prune_strand`]. If the marks around them, or another row that decides,
    /// cannot be read, they stay, and keep no other ones: marks are not repaired. Says so once, and sets `is_told`.
    fn prune_or_keep(
        &self,
        strand: &mut LeavingStrand<'_>,
        leaving: &[LeavingEnvelope],
        done: &mut PrunedBatch,
        is_told: &mut bool,
    ) -> Result<bool, CommitError> {
        let refused = done.refused.len();
        let error = match self.prune_strand(strand, leaving, done) {
            // All rows are read before anything is written.
            Err(CommitError::Read(error)) => error,
            pruned => return pruned,
        };
        strand.last_mark = None;
        done.refused.truncate(refused);
        done.refused.extend(leaving.iter().map(|it| it.id));
        if let Some(first) = leaving.first()
            && !std::mem::replace(is_told, true)
        {
            tell_unread(first.id, &error);
        }
        Ok(true)
    }

    /// Removes these envelopes, except those that have to stay, as one write. Returns false, and removes nothing,
    /// while projections have to be rebuilt.
    fn prune_strand(
        &self,
        strand: &mut LeavingStrand<'_>,
        leaving: &[LeavingEnvelope],
        done: &mut PrunedBatch,
    ) -> Result<bool, CommitError> {
        let originator = strand.originator();
        // Computed before any lock: this is most of the work besides the write, and nearly always all envelopes are
        // removed.
        let rows = LeavingRows::of(self, leaving.iter());
        let head = self.strands.head(originator);
        if head.is_locked() || self.lasting.last_commit.is_running() {
            // Before the gate: a thread that waits to have it alone keeps all commits waiting, and a disk may be slow.
            strand.read_ahead();
        }
        let _no_rebuild = self.gate.read();
        if self.rebuilt_in_part.load(Ordering::Acquire) || !self.stale.is_empty() {
            return Ok(false);
        }
        // A late find reads marks, and a verdict writes them.
        let head = self.lock_between_commits(&head);
        let end = self.verified(originator)?.unwrap_or(*head);
        let marks = MarksAround::new(self.db.raw_iterator_cf(self.family(Family::Mark)));
        let mut marks = marks.expecting(strand.last_mark);
        let (mut ranges, mut goes) = (PrunedRanges::default(), Vec::with_capacity(leaving.len()));
        for leaving in leaving {
            let id = leaving.id;
            assert_eq!(id.originator, originator, "only the head of this strand is locked");
            if marks.cover(id)? || id.sequence >= *head || id.sequence > end {
                done.refused.push(id);
                continue;
            }
            ranges.add(id, &mut marks)?;
            goes.push(leaving);
        }
        if goes.is_empty() {
            return Ok(true);
        }
        let rows = match goes.len() == leaving.len() {
            true => rows,
            false => LeavingRows::of(self, goes.iter().copied()),
        };
        let mut batch = rows.batch;
        let last_mark = ranges.last_mark();
        ranges.stage(self, &mut batch);
        let writing = self.expired_ends.writing();
        self.write_buffered(batch)?;
        drop(writing);
        strand.last_mark = last_mark;
        done.pruned.extend(goes.into_iter().map(|leaving| (leaving.id, leaving.len_bytes)));
        Ok(true)
    }
}

impl Database {
    fn compact_log(&self, places: &[StrandPlaces], options: &CompactOptions) {
        let log = self.family(Family::Log);
        for &StrandPlaces { originator, from, through } in places {
            let key = |sequence| EnvelopeKey(EnvelopeId::new(originator, sequence)).encode();
            let (from, end) = (key(from), key(through.next()));
            self.db.compact_range_cf_opt(log, Some(from), Some(end), options);
        }
    }

    /// Moves the large envelopes of all strands into new files if many of their files' bytes are unused. A file of
    /// large envelopes has those of all strands that were written at one time, also of strands that are kept for ever.
    /// It stays as a whole while one of them is stored: RocksDB moves those of its oldest files only.
    fn compact_large(&self) {
        let log = self.family(Family::Log);
        let bytes = |property: &str| self.db.property_int_value_cf(log, property).ok().flatten();
        let all = bytes("rocksdb.live-blob-file-size").unwrap_or(0);
        let unused = bytes("rocksdb.live-blob-file-garbage-size").unwrap_or(0);
        if unused <= all / UNUSED_PART {
            return;
        }
        let move_of_age = |age: f64| {
            let age = age.to_string();
            self.db.set_options_cf(log, &[(LARGE_AGE, age.as_str())])
        };
        if let Err(error) = move_of_age(1.0) {
            tracing::warn!(%error, "files of large envelopes keep the room of those that were pruned");
            return;
        }
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.db.compact_range_cf_opt(log, None::<&[u8]>, None::<&[u8]>, &options);
        if let Err(error) = move_of_age(LARGE_AGE_MOVED) {
            // The next opening does it.
            tracing::warn!(%error, "compactions go on moving large envelopes of all ages");
        }
    }

    /// Locks the head of a strand while no commit runs. At first it only tries the lock and does not queue for it. A
    /// queued thread is handed the lock, and then the turn to write, before it has a core: commits would wait for the
    /// core as well.
    ///
    /// It tries only while no commit to any strand runs. A commit to another strand holds the turn to write. A commit
    /// that waits for this head needs a core before it can take the lock, so pruning would take the lock first.
    fn lock_between_commits<'h>(&self, head: &'h Head) -> MutexGuard<'h, SequenceId> {
        for _ in 0..BUSY_TRIES {
            if !self.lasting.last_commit.is_running()
                && let Some(head) = head.try_lock()
            {
                return head;
            }
            let began = Instant::now();
            std::thread::sleep(BUSY_PAUSE);
            self.lasting.last_commit.note_wait(began.elapsed());
        }
        let began = Instant::now();
        let head = head.lock();
        self.lasting.last_commit.note_wait(began.elapsed());
        head
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytes::Bytes;
    use hawser_proto::envelope::{OriginatorEnvelope, Proof};

    use super::*;
    use crate::change::{Change, Facts, LogEntry};
    use crate::keys::cursor::{CursorKey, CursorName};
    use crate::testing::{self, PEER, expiring, facts, id};

    /// A thread that waits to have the gate alone keeps all commits waiting, for as long as a slow disk reads.
    #[test]
    fn envelopes_are_read_ahead_outside_of_the_gate() {
        let store = testing::store();
        let append = |place| {
            let statement = Bytes::from(format!("envelope {place}").into_bytes());
            let bytes = OriginatorEnvelope::encode(statement, Proof::Transaction([1; 32]));
            Change::Append(LogEntry::valid(id(place), bytes, facts(place)))
        };
        store.commit(&(1..=600).map(append).collect::<Vec<_>>()).unwrap();
        let expired: Vec<Expiring> = (1..600).map(expiring).collect();
        let database = store.database();
        let head = database.strands.head(PEER);
        let commit = head.lock(); // as a commit has it
        let (read, reads) = mpsc::channel();
        std::thread::scope(|scope| {
            let pruning = scope.spawn(|| {
                let derive = |held: &[ExpiredEnvelope]| -> Vec<Option<Facts>> {
                    read.send(database.gate.try_write().is_some()).unwrap();
                    held.iter().map(|it| Some(facts(it.id.sequence.0))).collect()
                };
                store.prune_many(&expired, &derive, &mut |_| ControlFlow::Continue(()))
            });
            // The first part, and the one that is read ahead.
            let are_outside = [reads.recv().unwrap(), reads.recv().unwrap()];
            drop(commit);
            assert_eq!(pruning.join().unwrap(), Ok(ControlFlow::Continue(())));
            assert_eq!(are_outside, [true, true]);
        });
    }

    #[test]
    fn a_damaged_end_of_the_verified_places_ends_no_pruning() {
        let store = testing::store();
        let entry = LogEntry::valid(id(1), Bytes::from(vec![7; 100]), facts(1));
        store.commit(&[Change::Append(entry)]).unwrap();
        let verified = CursorKey { name: CursorName::InDoubt, originator: PEER };
        let damaged = u64::MAX.to_be_bytes();
        store.put_raw_row(CursorKey::FAMILY, &verified.encode(), &damaged);
        let derive = |id: EnvelopeId, _: &Bytes, _: Validity| -> Option<Facts> {
            Some(facts(id.sequence.0))
        };
        let end = store.prune_shown(PEER, SequenceId(1), 1, &derive);
        assert_eq!(end, Ok(SequenceId(1)), "no place behind the head is verified");
        assert!(store.snapshot().get(id(1)).unwrap().is_some());
    }

    /// One of ten stays, and one of a strand that has nothing to prune. They keep the whole file, also when compactions
    /// in the background have removed all others: a node that runs has pruned them, and the command comes later.
    #[test]
    fn the_room_of_pruned_large_envelopes_beside_one_that_stays_is_given_back() {
        const PLACES: u64 = 40;
        let store = testing::store();
        let append = |(originator, place, len): (u32, u64, usize)| {
            let text = format!("{place:len$}");
            let bytes = OriginatorEnvelope::encode(text.into(), Proof::Transaction([1; 32]));
            let id = EnvelopeId::new(OriginatorId(originator), SequenceId(place));
            Change::Append(LogEntry::valid(id, bytes, facts(place)))
        };
        // Small envelopes part the rows of the two strands, so that a compaction puts them into different files.
        let small = (1..=100).map(|place| (PEER.0 + 1, place, 1000));
        let others = small.chain([(PEER.0 + 2, 1, 10_000)]);
        let all = (1..=PLACES).map(|place| (PEER.0, place, 10_000)).chain(others);
        store.commit(&all.map(append).collect::<Vec<_>>()).unwrap();
        store.flush().unwrap();
        let database = store.database();
        let short_files = [("target_file_size_base", "16384")];
        database.db.set_options_cf(database.family(Family::Log), &short_files).unwrap();
        let large_bytes = || {
            let log = database.family(Family::Log);
            let bytes = database.db.property_int_value_cf(log, "rocksdb.live-blob-file-size");
            bytes.unwrap().unwrap()
        };
        let before = large_bytes();
        assert!(before > PLACES * 8192, "{before}");
        let goes = (1..PLACES).filter(|place| !place.is_multiple_of(10));
        let derive = |id: EnvelopeId, _: &Bytes, _: Validity| Some(facts(id.sequence.0));
        let pruned = store.prune(&goes.map(expiring).collect::<Vec<_>>(), &derive).unwrap();
        assert_eq!(pruned.pruned.len(), 36);
        let all = None::<&[u8]>;
        database.db.compact_range_cf(database.family(Family::Log), all, all);
        assert_eq!(large_bytes(), before, "compactions alone give nothing back");

        store.compact_pruned().unwrap();
        assert!(large_bytes() < before / 4, "{} of {before}", large_bytes());
        let kept = store.snapshot().get(id(30)).unwrap().unwrap();
        assert!(kept.len() > 8192);
    }
}
