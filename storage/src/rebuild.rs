//! Rebuilding all projections from the log.
//!
//! Deriving facts costs the most, because the payer of each envelope is recovered from a signature. All
//! cores derive the facts of one batch while one thread writes the rows of the batch before and reads
//! the batch after. Rows are written in the order of the log.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, SequenceId};
use parking_lot::Mutex;
use rocksdb::WriteBatch;

use crate::change::{Facts, Validity};
use crate::database::Database;
use crate::error::CommitError;
use crate::error::ReadError;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::meta::MetaKey;
use crate::keys::pruned::PrunedEnvelope;
use crate::meta;
use crate::progress::{RebuildReport, Rebuilt};
use crate::projection::Projection;
use crate::projection_rows::ProjectionRows;
use crate::pruned::{Place, PlaceScan};
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::tallies::{Pricing, TallyReport};

/// Most envelopes in one batch. Guessed: large enough that each counter is rarely read and written.
const BATCH_ENVELOPES: usize = 4096;
/// Bytes of envelopes that close a batch early. Guessed. Three batches are in memory at a time.
const BATCH_LEN_BYTES: usize = 16 << 20;
/// Envelopes that a thread takes at a time. Calculated from 37 µs per recovered key: about 2 ms, so that
/// all threads end together.
const CHUNK: usize = 64;

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
    /// and its validity. It runs on all cores; the rows do not depend on their number.
    ///
    /// Commits wait until the rebuild is done; readers meanwhile see incomplete projections. After a
    /// crash the projections are stale, and the next rebuild goes on behind the last batch that is on disk,
    /// unless something was committed between or another version of this code had begun. `progress` is
    /// called once per batch, and at least once.
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
        self.database().rebuild(derive, progress)
    }
}

impl Database {
    fn rebuild(
        self: &Arc<Self>,
        derive: &Derive<'_>,
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
        derive: &Derive<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<RebuildReport, RebuildError> {
        let total_estimate = self.envelopes_estimate();
        let snapshot = Snapshot::new(self);
        let mut log = LogReader::new(&snapshot, done.through)?;
        let mut report = done.report;
        let mut derived: Vec<DerivedEnvelope> = Vec::new();
        let mut read = log.batch()?;
        while !read.is_empty() || !derived.is_empty() {
            let (facts, beside) = derive_all(derive, &read, || {
                self.write_rows(&derived, &mut report)?;
                let made = RebuildProgress { done: report.envelopes, total_estimate };
                if !derived.is_empty() && progress(made).is_break() {
                    return Err(RebuildError::Stopped);
                }
                Ok::<_, RebuildError>(log.batch()?)
            });
            let envelopes = std::mem::replace(&mut read, beside?);
            derived = envelopes.into_iter().zip(facts).map(DerivedEnvelope::from).collect();
        }
        let nothing = RebuildProgress { done: 0, total_estimate };
        if report.envelopes == 0 && progress(nothing).is_break() {
            return Err(RebuildError::Stopped);
        }
        Ok(report)
    }

    /// Writes the rows of one batch, and that the log has been read up to there, without a sync. The write
    /// that ends the rebuild makes all earlier ones durable.
    fn write_rows(
        &self,
        derived: &[DerivedEnvelope],
        report: &mut RebuildReport,
    ) -> Result<(), RebuildError> {
        let Some(last) = derived.last() else { return Ok(()) };
        let rates = self.rate_list.read();
        let pricing = Pricing { price: self.price, rates: &rates };
        let mut rows = ProjectionRows::new(self, pricing);
        let mut batch = WriteBatch::default();
        for DerivedEnvelope { stored, facts } in derived {
            match stored {
                StoredEnvelope::Pruned { id, envelope } => rows.put_pruned(*id, envelope)?,
                StoredEnvelope::Held { id, bytes, validity } => {
                    report.envelopes += 1;
                    report.invalid += u64::from(matches!(validity, Validity::Invalid(_)));
                    if let Some(facts) = facts {
                        report.projected += 1;
                        rows.put(&mut batch, *id, bytes, facts)?;
                    }
                }
            }
        }
        let TallyReport { has_marked, .. } = rows.finish(&mut batch)?;
        debug_assert!(!has_marked, "a rebuild goes in the order of each strand");
        let done = Rebuilt { through: last.stored.id(), report: *report };
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

/// An envelope as read from the log, or what is left of it.
enum StoredEnvelope {
    Held { id: EnvelopeId, bytes: Bytes, validity: Validity },
    Pruned { id: EnvelopeId, envelope: PrunedEnvelope },
}

impl StoredEnvelope {
    fn id(&self) -> EnvelopeId {
        match self {
            Self::Held { id, .. } | Self::Pruned { id, .. } => *id,
        }
    }

    fn len_bytes(&self) -> usize {
        match self {
            Self::Held { bytes, .. } => bytes.len(),
            Self::Pruned { .. } => 0,
        }
    }

    fn derive(&self, derive: &Derive<'_>) -> Option<Facts> {
        match self {
            Self::Held { id, bytes, validity } => derive(*id, bytes, *validity),
            Self::Pruned { .. } => None,
        }
    }
}

/// An envelope with its facts.
struct DerivedEnvelope {
    stored: StoredEnvelope,
    facts: Option<Facts>,
}

impl From<(StoredEnvelope, Option<Facts>)> for DerivedEnvelope {
    fn from((stored, facts): (StoredEnvelope, Option<Facts>)) -> Self {
        Self { stored, facts }
    }
}

/// Reader over the envelopes of all strands, one strand after the other.
struct LogReader<'s> {
    snapshot: &'s Snapshot<'s>,
    heads: Vec<EnvelopeId>,
    /// Envelopes up to this one are left out.
    after: EnvelopeId,
    strand: Option<PlaceScan<'s>>,
}

impl<'s> LogReader<'s> {
    fn new(snapshot: &'s Snapshot<'s>, after: EnvelopeId) -> Result<Self, ReadError> {
        let heads: Cursor = snapshot.heads()?;
        let is_left = |head: &EnvelopeId| head.originator >= after.originator;
        let mut heads: Vec<EnvelopeId> = heads.iter().filter(is_left).collect();
        heads.reverse(); // `pop` then yields ascending originators
        Ok(Self { snapshot, heads, after, strand: None })
    }

    /// Reads the next batch; empty at the end of the log.
    fn batch(&mut self) -> Result<Vec<StoredEnvelope>, ReadError> {
        let (mut batch, mut len_bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_ENVELOPES && len_bytes < BATCH_LEN_BYTES {
            let Some(stored) = self.envelope()? else { break };
            len_bytes += stored.len_bytes();
            batch.push(stored);
        }
        Ok(batch)
    }

    fn envelope(&mut self) -> Result<Option<StoredEnvelope>, ReadError> {
        loop {
            match self.strand.as_mut().and_then(Iterator::next) {
                Some(Ok(Place::Held { id, bytes, validity })) => {
                    return Ok(Some(StoredEnvelope::Held { id, bytes, validity }));
                }
                Some(Ok(Place::Pruned { id, envelope })) => {
                    return Ok(Some(StoredEnvelope::Pruned { id, envelope }));
                }
                Some(Ok(Place::Empty { .. })) => {}
                Some(Err(error)) => return Err(error),
                None => {
                    let Some(head) = self.heads.pop() else { return Ok(None) };
                    let beginning = EnvelopeId { sequence: SequenceId::NONE, ..head };
                    let after = beginning.max(self.after);
                    self.strand = Some(self.snapshot.places(after, head.sequence));
                }
            }
        }
    }
}

/// Derives the facts of `envelopes` on all cores, in their order, and runs `meanwhile` on this thread.
fn derive_all<T>(
    derive: &Derive<'_>,
    envelopes: &[StoredEnvelope],
    meanwhile: impl FnOnce() -> T,
) -> (Vec<Option<Facts>>, T) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Vec<Option<Facts>>)>> = Mutex::default();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = envelopes.chunks(CHUNK).nth(index) else { return };
            let facts = chunk.iter().map(|it| it.derive(derive)).collect();
            done.lock().push((index, facts));
        }
    };
    let beside = std::thread::scope(|scope| {
        let threads = cores.min(envelopes.len().div_ceil(CHUNK));
        (0..threads).for_each(|_| drop(scope.spawn(work)));
        meanwhile()
    });
    let mut done = done.into_inner();
    done.sort_unstable_by_key(|(index, _)| *index);
    (done.into_iter().flat_map(|(_, facts)| facts).collect(), beside)
}
