//! Making all projections anew from the log.
//!
//! Facts cost the most: for each envelope its payer is recovered from a signature. So they are made
//! on all cores, a batch at a time, while the batch before is written and the one after is read.
//! ProjectionRows are written in the order of the log by one thread.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, SequenceId};
use rocksdb::WriteBatch;

use crate::change::{Facts, Validity};
use crate::error::CommitError;
use crate::error::ReadError;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::meta::MetaKey;
use crate::locks::{lock, write};
use crate::log_scan::{LogItem, LogScan};
use crate::meta;
use crate::projection::Projection;
use crate::projection_rows::ProjectionRows;
use crate::snapshot::Snapshot;
use crate::store::Store;

/// How many envelopes make one batch: enough that a counter is read and written rarely.
const BATCH_ENVELOPES: usize = 4096;
/// A batch of large envelopes is over earlier. Two batches are in memory at a time.
const BATCH_LEN_BYTES: usize = 16 << 20;
/// What a thread takes at a time: about 2 ms of work, so that all of them end together.
const CHUNK: usize = 64;

/// Above every key: none has more than 63 bytes of `0xff` in front.
const ABOVE_ALL_KEYS: [u8; 64] = [0xff; 64];

/// Makes the facts of a stored envelope, given how it stands. Called from several threads.
pub type Derive<'a> = dyn Fn(EnvelopeId, &Bytes, Validity) -> Option<Facts> + Sync + 'a;

/// How far a rebuild has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Envelopes read.
    pub done: u64,
    /// About how many there are; may be below `done`.
    pub total_estimate: u64,
}

/// What a rebuild did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RebuildReport {
    /// Envelopes read.
    pub envelopes: u64,
    /// Those of them that projections keep something of.
    pub projected: u64,
    /// Those of them that are marked invalid.
    pub invalid: u64,
}

/// Why a rebuild did not finish. The projections are stale until one does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RebuildError {
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The rows could not be written.
    #[error(transparent)]
    Write(CommitError),
}

impl From<CommitError> for RebuildError {
    fn from(error: CommitError) -> Self {
        Self::Write(error)
    }
}

impl Store {
    /// Drops every projection and makes it anew from the log and the marks, which stay, as do
    /// heads and rates. `derive` must be what made the facts of the commits: a pure function of
    /// an envelope and of how it stands. It is called on all cores; the rows come out the same
    /// on however many.
    ///
    /// Commits wait until it is done; readers meanwhile see projections half made. After a crash
    /// the projections are stale, and the next rebuild begins anew. `progress` is called about
    /// every few thousand envelopes, and at the end.
    ///
    /// # Errors
    /// When the log cannot be read or the rows cannot be written.
    pub fn rebuild(
        &self,
        derive: &Derive<'_>,
        progress: &mut dyn FnMut(RebuildProgress),
    ) -> Result<RebuildReport, RebuildError> {
        self.inner.poison.check()?;
        let _no_commits = write(&self.inner.gate);
        self.drop_projections()?;
        let report = self.replay(derive, progress)?;
        self.finish_rebuild()?;
        Ok(report)
    }

    /// The flag and the dropping are one write: there is no moment at which rows are gone and
    /// nothing says so.
    fn drop_projections(&self) -> Result<(), CommitError> {
        let mut batch = WriteBatch::default();
        self.stage_drop_of_projections(&mut batch);
        self.inner.write_durable(batch)
    }

    pub(crate) fn stage_drop_of_projections(&self, batch: &mut WriteBatch) {
        batch.put_cf(self.inner.family(Family::Meta), MetaKey::Rebuilding.encode(), []);
        for projection in Projection::ALL {
            let family = self.inner.family(projection.family());
            batch.delete_range_cf(family, &[][..], &ABOVE_ALL_KEYS[..]);
        }
        *lock(&self.inner.stale) = Projection::ALL.to_vec();
    }

    fn replay(
        &self,
        derive: &Derive<'_>,
        progress: &mut dyn FnMut(RebuildProgress),
    ) -> Result<RebuildReport, RebuildError> {
        let total_estimate = self.envelopes_estimate();
        let snapshot = self.snapshot();
        let mut source = Source::new(&snapshot)?;
        let mut report = RebuildReport::default();
        let mut derived: Vec<Derived> = Vec::new();
        let mut read = source.batch()?;
        while !read.is_empty() || !derived.is_empty() {
            let (facts, beside) = derive_all(derive, &read, || {
                self.write_rows(&derived, &mut report)?;
                if !derived.is_empty() {
                    progress(RebuildProgress { done: report.envelopes, total_estimate });
                }
                Ok::<_, RebuildError>(source.batch()?)
            });
            let envelopes = std::mem::replace(&mut read, beside?);
            derived = envelopes.into_iter().zip(facts).map(Derived::from).collect();
        }
        if report.envelopes == 0 {
            progress(RebuildProgress { done: 0, total_estimate });
        }
        Ok(report)
    }

    /// Not synced: the write that ends the rebuild makes everything before it durable.
    fn write_rows(
        &self,
        derived: &[Derived],
        report: &mut RebuildReport,
    ) -> Result<(), RebuildError> {
        if derived.is_empty() {
            return Ok(());
        }
        let mut rows = ProjectionRows::new(&self.inner);
        let mut batch = WriteBatch::default();
        for envelope in derived {
            report.envelopes += 1;
            report.invalid += u64::from(envelope.invalid);
            if let Some(facts) = &envelope.facts {
                report.projected += 1;
                rows.put(&mut batch, envelope.id, envelope.len_bytes, facts);
            }
        }
        rows.finish(&mut batch)?;
        Ok(self.inner.write_buffered(batch)?)
    }

    fn finish_rebuild(&self) -> Result<(), CommitError> {
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.inner.family(Family::Meta), MetaKey::Rebuilding.encode());
        meta::put_projection_versions(&self.inner.db, &mut batch);
        self.inner.write_durable(batch)?;
        lock(&self.inner.stale).clear();
        Ok(())
    }

    fn envelopes_estimate(&self) -> u64 {
        let log = self.inner.family(Family::Log);
        let estimate = self.inner.db.property_int_value_cf(log, "rocksdb.estimate-num-keys");
        estimate.ok().flatten().unwrap_or_default()
    }
}

/// An envelope as it was read.
struct Stored {
    id: EnvelopeId,
    bytes: Bytes,
    validity: Validity,
}

/// What is left of an envelope once its facts are known.
struct Derived {
    id: EnvelopeId,
    len_bytes: usize,
    invalid: bool,
    facts: Option<Facts>,
}

impl From<(Stored, Option<Facts>)> for Derived {
    fn from((stored, facts): (Stored, Option<Facts>)) -> Self {
        let Stored { id, bytes, validity } = stored;
        let invalid = matches!(validity, Validity::Invalid(_));
        Self { id, len_bytes: bytes.len(), invalid, facts }
    }
}

/// The envelopes of all strands, one strand after the other.
struct Source<'s> {
    snapshot: &'s Snapshot<'s>,
    heads: Vec<EnvelopeId>,
    strand: Option<LogScan<'s>>,
}

impl<'s> Source<'s> {
    fn new(snapshot: &'s Snapshot<'s>) -> Result<Self, ReadError> {
        let heads: Cursor = snapshot.heads()?;
        let mut heads: Vec<EnvelopeId> = heads.iter().collect();
        heads.reverse(); // the first one is taken from the end
        Ok(Self { snapshot, heads, strand: None })
    }

    /// The next envelopes; empty at the end.
    fn batch(&mut self) -> Result<Vec<Stored>, ReadError> {
        let (mut batch, mut len_bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_ENVELOPES && len_bytes < BATCH_LEN_BYTES {
            let Some(stored) = self.envelope()? else { break };
            len_bytes += stored.bytes.len();
            batch.push(stored);
        }
        Ok(batch)
    }

    fn envelope(&mut self) -> Result<Option<Stored>, ReadError> {
        loop {
            match self.strand.as_mut().and_then(Iterator::next) {
                Some(Ok(LogItem::Envelope { id, bytes, validity })) => {
                    return Ok(Some(Stored { id, bytes, validity }));
                }
                Some(Ok(LogItem::Skipped { .. })) => {}
                Some(Err(error)) => return Err(error),
                None => {
                    let Some(head) = self.heads.pop() else { return Ok(None) };
                    let beginning = EnvelopeId { sequence: SequenceId::NONE, ..head };
                    self.strand = Some(self.snapshot.log(beginning, head.sequence));
                }
            }
        }
    }
}

/// Makes the facts of `envelopes` on all cores, in their order, and does something else meanwhile.
fn derive_all<T>(
    derive: &Derive<'_>,
    envelopes: &[Stored],
    meanwhile: impl FnOnce() -> T,
) -> (Vec<Option<Facts>>, T) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Vec<Option<Facts>>)>> = Mutex::default();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = envelopes.chunks(CHUNK).nth(index) else { return };
            let facts = chunk.iter().map(|it| derive(it.id, &it.bytes, it.validity)).collect();
            lock(&done).push((index, facts));
        }
    };
    let beside = std::thread::scope(|scope| {
        let threads = cores.min(envelopes.len().div_ceil(CHUNK));
        (0..threads).for_each(|_| drop(scope.spawn(work)));
        meanwhile()
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_unstable_by_key(|(index, _)| *index);
    (done.into_iter().flat_map(|(_, facts)| facts).collect(), beside)
}
