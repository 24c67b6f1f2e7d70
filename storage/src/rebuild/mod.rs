//! Rebuilds projections from the log.
//!
//! Deriving facts is most of the work, because the payer of each envelope is recovered from a signature. One thread
//! reads the log and gives chunks of it to workers on all cores. A worker derives the facts of a chunk together,
//! which is cheaper than one by one, and writes the rows that depend on one envelope alone. Chunks return in the
//! order of the log, and the one thread counts them in this order.

mod log;
mod workers;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId};
use parking_lot::RwLockWriteGuard;
use rocksdb::WriteBatch;

pub use self::log::StoredEnvelope;
use self::log::{CHUNK_LEN_BYTES, CHUNK_PLACES_MAX, Chunk, LogReader};
pub use self::workers::DeriveMany;
use self::workers::{DerivedChunk, Workers};
use crate::change::{Facts, Validity};
use crate::database::Database;
use crate::error::CommitError;
use crate::error::ReadError;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::meta::MetaKey;
use crate::meta::{self, RebuiltSet};
use crate::progress::{RebuildReport, Rebuilt};
use crate::projection::{Projection, ProjectionSet};
use crate::projection_rows::ProjectionRows;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::tallies::{Pricing, TallyReport};
use crate::verified::VerifiedPlaces;

/// Number of places, plus up to a chunk, that are counted together. A guess: large enough that each counter is
/// rarely read and written.
const COUNTED_PLACES: usize = 4096;
/// Bytes of envelopes, plus up to a chunk, that are counted together. A guess: with large envelopes progress is
/// recorded as often as with thousands of small ones.
const COUNTED_LEN_BYTES: usize = 16 << 20;
/// Largest number of places of a step beside commits. A guess: commits wait for some ten milliseconds, the time to
/// recover this number of payers on two cores.
const STEP_PLACES_MAX: usize = 1024;
/// Time for which such a step waits for running changes of the log. A guess: most commits take less.
const GATE_WITHIN: Duration = Duration::from_millis(20);
/// Pause before the next attempt. A guess: commits get most of the time.
const GATE_PAUSE: Duration = Duration::from_millis(50);

/// Above every key: none has more than 63 bytes of `0xff` in front.
const ABOVE_ALL_KEYS: [u8; 64] = [0xff; 64];

/// Derives the facts of a stored envelope from its bytes and its validity. Called from several threads.
pub type Derive<'a> = dyn Fn(EnvelopeId, &Bytes, Validity) -> Option<Facts> + Sync + 'a;

/// Callback with the progress of a rebuild. Returns `Break` to stop it.
type Progress<'a> = dyn FnMut(RebuildProgress) -> ControlFlow<()> + 'a;

/// Progress of a rebuild, counted in envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Number of envelopes that were processed.
    pub done: u64,
    /// RocksDB's estimate of their number; may be below `done`.
    pub total_estimate: u64,
}

/// The reason for which a rebuild failed. The projections stay stale until a rebuild succeeds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RebuildError {
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The rows could not be written.
    #[error(transparent)]
    Write(CommitError),
    /// The caller has stopped the rebuild.
    #[error("the rebuild was stopped before it was done")]
    Stopped,
}

impl RebuildError {
    /// Returns true if the log, or the history recorded beside it, could not be read.
    #[must_use]
    pub fn is_of_reading(&self) -> bool {
        matches!(self, Self::Read(_) | Self::Write(CommitError::Read(_)))
    }

    /// Returns true if the disk has too little room.
    #[must_use]
    pub fn is_of_room(&self) -> bool {
        matches!(self, Self::Write(CommitError::NoRoom { .. }))
    }
}

impl From<CommitError> for RebuildError {
    fn from(error: CommitError) -> Self {
        Self::Write(error)
    }
}

impl Store {
    /// Drops every projection and derives it again from the log, the marks and the records of pruned envelopes. Log,
    /// marks, records, heads, rates and ledger stay.
    ///
    /// `derive` must be the function that derived the facts of the commits: a pure function of an envelope and its
    /// validity. It runs on all cores; the rows do not depend on their number. Memory is bounded by three chunks of
    /// 1,024 envelopes for each core, by 2 MiB of envelopes for each of these chunks, by one chunk with one envelope of
    /// any length, and by what `derive` takes on each core.
    ///
    /// After [`Store::condemn_damaged`] only those projections are rebuilt. If no tallies are among them, commits
    /// wait for one step at a time: the rows of the others depend on one envelope each, so commits write the rows
    /// of new envelopes.
    ///
    /// Otherwise commits wait until the rebuild is done; readers meanwhile see incomplete projections. After a
    /// crash the projections are stale, and the next rebuild continues after the last durable batch, unless tallies
    /// are rebuilt and the log has changed since, or another version of this code had begun. `progress` is called
    /// about every 4,096 places or 16 MiB of envelopes, and at least once.
    ///
    /// # Errors
    /// When the log cannot be read or the rows cannot be written.
    pub fn rebuild(
        &self,
        derive: &Derive<'_>,
        progress: &mut dyn FnMut(RebuildProgress),
    ) -> Result<RebuildReport, RebuildError> {
        let mut go_on = |made| {
            progress(made);
            ControlFlow::Continue(())
        };
        self.rebuild_while(derive, &mut go_on)
    }

    /// Like [`Store::rebuild`], until `progress` returns `Break`. The next rebuild then continues after the last
    /// batch, as after a crash.
    ///
    /// # Errors
    /// The errors of [`Store::rebuild`], and [`RebuildError::Stopped`].
    pub fn rebuild_while(
        &self,
        derive: &Derive<'_>,
        progress: &mut dyn FnMut(RebuildProgress) -> ControlFlow<()>,
    ) -> Result<RebuildReport, RebuildError> {
        let one_by_one = |stored: &[StoredEnvelope]| {
            stored.iter().map(|it| derive(it.id, &it.bytes, it.validity)).collect()
        };
        self.rebuild_many(&one_by_one, progress)
    }

    /// Like [`Store::rebuild_while`], with a function that derives the facts of many envelopes at once. It may hold
    /// them decoded.
    ///
    /// # Errors
    /// The errors of [`Store::rebuild_while`].
    pub fn rebuild_many(
        &self,
        derive: &DeriveMany<'_>,
        progress: &mut dyn FnMut(RebuildProgress) -> ControlFlow<()>,
    ) -> Result<RebuildReport, RebuildError> {
        self.database().rebuild(derive, progress)
    }
}

impl Database {
    /// Rebuilds the stale projections, or continues an interrupted rebuild. A set without amounts is rebuilt beside
    /// commits; for any other one the gate is held, so that no place is counted twice.
    fn rebuild(
        self: &Arc<Self>,
        derive: &DeriveMany<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<RebuildReport, RebuildError> {
        self.check_writable()?;
        let no_commits = self.gate_for_a_step()?;
        // If other projections are stale as well, all have to be rebuilt.
        let part = meta::part(&self.db)?.filter(|part| self.is_all_stale(part.set));
        if let Some(part) = part.filter(|part| !part.set.has_tallies()) {
            drop(no_commits);
            return self.rebuild_beside_commits(part, derive, progress);
        }
        let done = match part {
            Some(part) => part.done,
            None => meta::rebuilt(&self.db)?,
        };
        match part {
            _ if done.is_some() => {}
            Some(part) => self.drop_rows_of(part.set)?,
            None => self.drop_projections()?,
        }
        let set = part.map_or_else(ProjectionSet::all, |part| part.set);
        let made = DerivedProjections { set, is_part: part.is_some() };
        self.rebuilt_in_part.store(true, Ordering::Release);
        let report = self.replay(done.unwrap_or_default(), made, derive, progress)?;
        self.finish_rebuild()?;
        Ok(report)
    }

    /// Returns true if exactly these projections are stale.
    fn is_all_stale(&self, set: ProjectionSet) -> bool {
        self.stale.list() == set.list()
    }

    /// Rebuilds projections whose rows depend on one envelope each, one step at a time. The rows of a step are
    /// written before anything else changes the log or its marks, so a step never restores a row that another
    /// change has deleted. For the same reason an interrupted rebuild continues after its last step, even if the
    /// log has changed since.
    fn rebuild_beside_commits(
        self: &Arc<Self>,
        RebuiltSet { set, done }: RebuiltSet,
        derive: &DeriveMany<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<RebuildReport, RebuildError> {
        let total_estimate = self.envelopes_estimate();
        // Later commits write their own rows.
        let ends = Snapshot::new(self).heads()?;
        let Rebuilt { mut report, through: mut after } = done.unwrap_or_default();
        let made = DerivedProjections { set, is_part: true };
        let mut is_reported = false;
        Workers::beside(self, derive, set, |mut workers| {
            loop {
                let no_commits = self.gate_for_a_step()?;
                if !self.is_all_stale(set) {
                    // The end of a chain's strand was removed meanwhile: all projections have to be rebuilt.
                    return Err(RebuildError::Stopped);
                }
                let chunks = self.chunks_behind(after, &ends, workers.threads())?;
                let count = chunks.len();
                chunks.into_iter().for_each(|chunk| workers.give(chunk));
                // All results are awaited, also after an error: no worker may write once commits continue.
                let taken: Vec<_> = (0..count).map(|_| workers.take()).collect();
                let derived = taken.into_iter().filter_map(Result::transpose);
                let derived = derived.collect::<Result<Vec<_>, _>>()?;
                let last = derived.last().and_then(DerivedChunk::last);
                self.count(derived, made, &mut report)?;
                let reached = RebuildProgress { done: report.envelopes, total_estimate };
                match last {
                    Some(last) => {
                        assert!(last > after, "a step goes on behind the last one");
                        after = last;
                    }
                    None if !is_reported && progress(reached).is_break() => {
                        return Err(RebuildError::Stopped);
                    }
                    None => {
                        self.finish_rebuild()?;
                        return Ok(report);
                    }
                }
                // Fair: waiting commits get the lock first.
                RwLockWriteGuard::unlock_fair(no_commits);
                is_reported = true;
                if progress(reached).is_break() {
                    return Err(RebuildError::Stopped);
                }
            }
        })
    }

    /// Waits until nothing changes the log. A thread that waits for this lock blocks all commits, and a step that
    /// verifies, judges or prunes a strand may hold the lock for long on a slow disk. So the wait is repeatedly
    /// given up, and commits continue in between. A nearly full disk does not stop it: the rebuild checks the room
    /// itself, and nothing is pruned before the projections are complete.
    pub(crate) fn gate_for_a_step(&self) -> Result<RwLockWriteGuard<'_, ()>, CommitError> {
        loop {
            self.poison.check()?;
            if let Some(no_commits) = self.gate.try_write_for(GATE_WITHIN) {
                return Ok(no_commits);
            }
            std::thread::sleep(GATE_PAUSE);
        }
    }

    /// Reads the places of one step after `after`, up to `ends`, as one chunk for each thread.
    fn chunks_behind(
        self: &Arc<Self>,
        after: EnvelopeId,
        ends: &Cursor,
        threads: usize,
    ) -> Result<Vec<Chunk>, ReadError> {
        let snapshot = Snapshot::new(self);
        let mut log = LogReader::through(&snapshot, ends, after)?;
        let (mut chunks, mut len_bytes) = (Vec::new(), 0);
        while chunks.len() < threads && len_bytes < threads * CHUNK_LEN_BYTES {
            let Some(chunk) = log.chunk(STEP_PLACES_MAX.div_ceil(threads))? else { break };
            len_bytes += chunk.len_bytes;
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    /// Drops the rows of some projections, which have to be rebuilt.
    fn drop_rows_of(&self, set: ProjectionSet) -> Result<(), CommitError> {
        let mut batch = WriteBatch::default();
        for family in Family::ALL.into_iter().filter(|it| set.covers(*it)) {
            batch.delete_range_cf(self.family(family), &[][..], &ABOVE_ALL_KEYS[..]);
        }
        self.repricing.lock().forget_all();
        self.recent.forget_all();
        self.write_durable(batch)
    }

    /// Drops the rows and sets the flag of a running rebuild in one write, so that a crash never leaves
    /// dropped rows without the flag.
    fn drop_projections(&self) -> Result<(), CommitError> {
        let mut batch = WriteBatch::default();
        self.stage_drop_of_projections(&mut batch);
        self.write_durable(batch)
    }

    /// Stages the flag and the deletion of all projection rows, and of the marks of minutes to be priced
    /// again.
    pub(crate) fn stage_drop_of_projections(&self, batch: &mut WriteBatch) {
        self.stale.add_all();
        meta::put_emptied(&self.db, batch, ProjectionSet::all());
        for projection in Projection::ALL {
            let family = self.family(projection.family());
            batch.delete_range_cf(family, &[][..], &ABOVE_ALL_KEYS[..]);
        }
        let marked = self.family(Family::Reprice);
        batch.delete_range_cf(marked, &[][..], &ABOVE_ALL_KEYS[..]);
        // All topic rows will be of this format.
        batch.delete_cf(self.family(Family::Meta), MetaKey::OlderTopicRows.encode());
        *self.older_rows.lock() = None;
        self.repricing.lock().forget_all();
        self.recent.forget_all();
    }

    /// Stages the record that the next rebuild starts over. Call it for every change of the log or its marks while
    /// projections are partly rebuilt: otherwise envelopes would be counted twice.
    pub(crate) fn stage_rebuild_from_the_beginning(
        &self,
        batch: &mut WriteBatch,
    ) -> Result<(), ReadError> {
        let set = meta::part(&self.db)?.map_or_else(ProjectionSet::all, |part| part.set);
        meta::put_emptied(&self.db, batch, set);
        Ok(())
    }

    /// Reads the log after `done` and rebuilds the rows. One thread reads and counts, in the order of the log; the
    /// workers between the two derive facts and write rows that depend on one envelope alone.
    fn replay(
        self: &Arc<Self>,
        done: Rebuilt,
        made: DerivedProjections,
        derive: &DeriveMany<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<RebuildReport, RebuildError> {
        let total_estimate = self.envelopes_estimate();
        let snapshot = Snapshot::new(self);
        let mut log = LogReader::new(&snapshot, done.through)?;
        let mut report = done.report;
        Workers::beside(self, derive, made.set, |mut workers| {
            let (mut is_read, mut derived) = (false, Vec::<DerivedChunk>::new());
            loop {
                while !is_read && workers.have_room() {
                    match log.chunk(CHUNK_PLACES_MAX)? {
                        Some(chunk) => workers.give(chunk),
                        None => is_read = true,
                    }
                }
                let next = workers.take()?;
                let is_over = next.is_none();
                derived.extend(next);
                let places: usize = derived.iter().map(DerivedChunk::len).sum();
                let len_bytes: usize = derived.iter().map(|it| it.len_bytes).sum();
                let is_much = places >= COUNTED_PLACES || len_bytes >= COUNTED_LEN_BYTES;
                if is_much || (is_over && places > 0) {
                    self.count(std::mem::take(&mut derived), made, &mut report)?;
                    let done = report.envelopes;
                    if progress(RebuildProgress { done, total_estimate }).is_break() {
                        return Err(RebuildError::Stopped);
                    }
                }
                if is_over {
                    return Ok::<_, RebuildError>(());
                }
            }
        })?;
        let nothing = RebuildProgress { done: 0, total_estimate };
        if report.envelopes == 0 && progress(nothing).is_break() {
            return Err(RebuildError::Stopped);
        }
        Ok(report)
    }

    /// Writes the rows of chunks that depend on the order of the log, with the progress, without a sync. The final
    /// write of the rebuild makes all earlier ones durable.
    fn count(
        &self,
        chunks: Vec<DerivedChunk>,
        made: DerivedProjections,
        report: &mut RebuildReport,
    ) -> Result<(), RebuildError> {
        let Some(through) = chunks.last().and_then(DerivedChunk::last) else { return Ok(()) };
        // Each envelope is counted once, and prices depend on those before it.
        let ascend = |pair: &[DerivedChunk]| pair[0].last() < pair[1].last();
        assert!(chunks.windows(2).all(ascend), "chunks come in the order of the log");
        let rates = self.rate_list.read();
        let pricing = Pricing { price: self.price, rates: &rates };
        let mut rows = ProjectionRows::new(self, pricing).only(made.set);
        if !made.set.has_tallies() {
            // A concurrent commit may have written a later receipt.
            rows.expect_out_of_order();
        }
        let mut verified = VerifiedPlaces::new(self);
        for DerivedChunk { held, pruned, .. } in chunks {
            let mut pruned = pruned.into_iter().peekable();
            for envelope in held {
                while let Some((id, record)) = pruned.next_if(|(id, _)| *id < envelope.id) {
                    rows.put_pruned(id, &record)?;
                }
                report.add(envelope.is_invalid, envelope.facts.is_some());
                if let Some(facts) = envelope.facts {
                    let is_verified = !made.set.has_tallies() || verified.has(envelope.id)?;
                    let facts = if is_verified { facts } else { facts.unbooked() };
                    rows.count_kept(envelope.id, &facts)?;
                }
            }
            for (id, record) in pruned {
                rows.put_pruned(id, &record)?;
            }
        }
        let mut batch = WriteBatch::default();
        let TallyReport { has_marked, .. } = rows.finish(&mut batch)?;
        debug_assert!(!has_marked, "a rebuild goes in the order of each strand");
        let done = Rebuilt { through, report: *report };
        let value = match made.is_part {
            true => RebuiltSet { set: made.set, done: Some(done) }.encode(),
            false => done.encode(),
        };
        batch.put_cf(self.family(Family::Meta), MetaKey::Rebuilding.encode(), value);
        Ok(self.write_buffered(batch)?)
    }

    fn finish_rebuild(&self) -> Result<(), CommitError> {
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.family(Family::Meta), MetaKey::Rebuilding.encode());
        meta::put_projection_versions(&self.db, &mut batch);
        self.write_durable(batch)?;
        self.rebuilt_in_part.store(false, Ordering::Release);
        self.stale.clear();
        Ok(())
    }

    fn envelopes_estimate(&self) -> u64 {
        let log = self.family(Family::Log);
        let estimate = self.db.property_int_value_cf(log, "rocksdb.estimate-num-keys");
        estimate.ok().flatten().unwrap_or_default()
    }
}

/// The projections that a rebuild derives.
#[derive(Debug, Clone, Copy)]
struct DerivedProjections {
    set: ProjectionSet,
    /// True if the other projections are complete.
    is_part: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, LogEntry};
    use crate::testing::{facts, id, store};

    /// The next rebuild would end in the same way, and none of its projections could be read.
    #[test]
    fn damaged_counts_of_an_interrupted_rebuild_end_none() {
        let store = store();
        let bytes = Bytes::from(vec![7; 100]);
        store.commit(&[Change::Append(LogEntry::valid(id(1), bytes, facts(1)))]).unwrap();
        let counted = RebuildReport { envelopes: u64::MAX, projected: u64::MAX, invalid: 0 };
        let done = Rebuilt { through: EnvelopeId::default(), report: counted };
        store.put_raw_row(Family::Meta, MetaKey::Rebuilding.encode(), &done.encode());
        let derive = |id: EnvelopeId, _: &Bytes, _: Validity| -> Option<Facts> {
            Some(facts(id.sequence.0))
        };
        assert_eq!(store.rebuild(&derive, &mut |_| {}), Ok(counted));
    }
}
