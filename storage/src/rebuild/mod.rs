//! Rebuilding all projections from the log.
//!
//! Deriving facts costs the most, because the payer of each envelope is recovered from a signature. One thread reads
//! the log and gives chunks of it to all cores. They derive the facts of a chunk together, which is cheaper than one by
//! one, and write the rows that depend on one envelope alone. Chunks come back in the order of the log, in which the one
//! thread then counts them.

mod log;
mod workers;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hawser_proto::EnvelopeId;
use rocksdb::WriteBatch;

use self::log::LogReader;
pub use self::log::StoredEnvelope;
pub use self::workers::DeriveMany;
use self::workers::{DerivedChunk, Workers};
use crate::change::{Facts, Validity};
use crate::database::Database;
use crate::error::CommitError;
use crate::error::ReadError;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::meta::MetaKey;
use crate::meta;
use crate::progress::{RebuildReport, Rebuilt};
use crate::projection::Projection;
use crate::projection_rows::ProjectionRows;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::tallies::{Pricing, TallyReport};
use crate::verified::VerifiedPlaces;

/// Places that are counted together, or up to a chunk more. Guessed: large enough that each counter is rarely read and
/// written.
const COUNTED_PLACES: usize = 4096;
/// Bytes of envelopes that are counted together, or up to a chunk more, however few they are. A guess: with large ones,
/// progress is told and recorded as often as with thousands of small ones.
const COUNTED_LEN_BYTES: usize = 16 << 20;

/// Above every key: none has more than 63 bytes of `0xff` in front.
const ABOVE_ALL_KEYS: [u8; 64] = [0xff; 64];

/// Derives the facts of a stored envelope from its bytes and its validity. Called from several threads.
pub type Derive<'a> = dyn Fn(EnvelopeId, &Bytes, Validity) -> Option<Facts> + Sync + 'a;

/// Called with the progress of a rebuild. Says if it goes on.
type Progress<'a> = dyn FnMut(RebuildProgress) -> ControlFlow<()> + 'a;

/// Progress of a rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Envelopes processed.
    pub done: u64,
    /// RocksDB's estimate of their number; may be below `done`.
    pub total_estimate: u64,
}

/// The reason a rebuild failed. The projections stay stale until a rebuild succeeds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RebuildError {
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The rows could not be written.
    #[error(transparent)]
    Write(CommitError),
    /// The caller has stopped it.
    #[error("stopped before it was done")]
    Stopped,
}

impl RebuildError {
    /// Returns true if the log, or what is recorded beside it, could not be read.
    #[must_use]
    pub fn is_of_reading(&self) -> bool {
        matches!(self, Self::Read(_) | Self::Write(CommitError::Read(_)))
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
    /// `derive` must be the function that made the facts of the commits: a pure function of an envelope
    /// and its validity. It runs on all cores; the rows do not depend on their number. Memory is bounded by three chunks
    /// of 1,024 envelopes for each core, by 2 MiB of envelopes for each of these chunks, and by one chunk with one
    /// envelope of any length.
    ///
    /// Commits wait until the rebuild is done; readers meanwhile see incomplete projections. After a
    /// crash the projections are stale, and the next rebuild goes on behind the last batch that is on disk,
    /// unless something was committed between or another version of this code had begun. `progress` is
    /// called once for some 4,096 places, or some 16 MiB of envelopes, and at least once.
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

    /// Does the same as long as `progress` says so. The next rebuild goes on behind the last batch, as after a crash.
    ///
    /// # Errors
    /// As [`Store::rebuild`], and [`RebuildError::Stopped`].
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

    /// Does the same with a function that derives the facts of many envelopes at once.
    ///
    /// # Errors
    /// As [`Store::rebuild_while`].
    pub fn rebuild_many(
        &self,
        derive: &DeriveMany<'_>,
        progress: &mut dyn FnMut(RebuildProgress) -> ControlFlow<()>,
    ) -> Result<RebuildReport, RebuildError> {
        self.database().rebuild(derive, progress)
    }
}

impl Database {
    fn rebuild(
        self: &Arc<Self>,
        derive: &DeriveMany<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<RebuildReport, RebuildError> {
        self.check_writable()?;
        let _no_commits = self.gate.write();
        let done = meta::rebuilt(&self.db)?;
        if done.is_none() {
            self.drop_projections()?;
        }
        self.rebuilt_in_part.store(true, Ordering::Release);
        let report = self.replay(done.unwrap_or_default(), derive, progress)?;
        self.finish_rebuild()?;
        Ok(report)
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
        self.stage_rebuild_from_the_beginning(batch);
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

    /// Stages that the next rebuild starts over. To be called for every change of the log, and of its marks,
    /// while projections have been rebuilt in part: what was counted already must not be counted again.
    pub(crate) fn stage_rebuild_from_the_beginning(&self, batch: &mut WriteBatch) {
        batch.put_cf(self.family(Family::Meta), MetaKey::Rebuilding.encode(), []);
    }

    fn replay(
        self: &Arc<Self>,
        done: Rebuilt,
        derive: &DeriveMany<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<RebuildReport, RebuildError> {
        let total_estimate = self.envelopes_estimate();
        let snapshot = Snapshot::new(self);
        let mut log = LogReader::new(&snapshot, done.through)?;
        let mut report = done.report;
        Workers::beside(self, derive, |mut workers| {
            let (mut is_read, mut derived) = (false, Vec::<DerivedChunk>::new());
            loop {
                while !is_read && workers.have_room() {
                    match log.chunk()? {
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
                    self.count(std::mem::take(&mut derived), &mut report)?;
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

    /// Writes the rows of chunks that depend on the order of the log, and that the log has been read up to there, without
    /// a sync. The write that ends the rebuild makes all earlier ones durable.
    fn count(
        &self,
        chunks: Vec<DerivedChunk>,
        report: &mut RebuildReport,
    ) -> Result<(), RebuildError> {
        let Some(through) = chunks.last().and_then(DerivedChunk::last) else { return Ok(()) };
        let rates = self.rate_list.read();
        let pricing = Pricing { price: self.price, rates: &rates };
        let mut rows = ProjectionRows::new(self, pricing);
        let mut verified = VerifiedPlaces::new(self);
        for DerivedChunk { held, pruned, .. } in chunks {
            let mut pruned = pruned.into_iter().peekable();
            for envelope in held {
                while let Some((id, record)) = pruned.next_if(|(id, _)| *id < envelope.id) {
                    rows.put_pruned(id, &record)?;
                }
                report.envelopes += 1;
                report.invalid += u64::from(envelope.is_invalid);
                if let Some(facts) = envelope.facts {
                    report.projected += 1;
                    let is_verified = verified.has(envelope.id)?;
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
        batch.put_cf(self.family(Family::Meta), MetaKey::Rebuilding.encode(), done.encode());
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
