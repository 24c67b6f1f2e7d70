//! Making all projections anew from the log.

use bytes::Bytes;
use hawser_proto::EnvelopeId;
use rocksdb::WriteBatch;

use crate::change::{Facts, InvalidRule};
use crate::commit::CommitError;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::meta::MetaKey;
use crate::locks::{lock, write};
use crate::log_scan::LogItem;
use crate::meta;
use crate::projections::{Projection, Rows};
use crate::snapshot::ReadError;
use crate::store::Store;

/// How many envelopes make one batch: enough that a counter is read and written rarely.
const BATCH_ENVELOPES: u64 = 4096;

/// Above every key: none has more than 63 bytes of `0xff` in front.
const ABOVE_ALL_KEYS: [u8; 64] = [0xff; 64];

/// Makes the facts of a stored envelope, given the rule it breaks.
pub type Derive<'a> = dyn Fn(EnvelopeId, &Bytes, Option<InvalidRule>) -> Option<Facts> + 'a;

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
    /// an envelope and of the rule it breaks.
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
        batch.put_cf(self.inner.family(Family::Meta), MetaKey::Rebuilding.encode(), []);
        for projection in Projection::ALL {
            let family = self.inner.family(projection.family());
            batch.delete_range_cf(family, &[][..], &ABOVE_ALL_KEYS[..]);
        }
        *lock(&self.inner.stale) = Projection::ALL.to_vec();
        self.inner.write_durable(batch)
    }

    fn replay(
        &self,
        derive: &Derive<'_>,
        progress: &mut dyn FnMut(RebuildProgress),
    ) -> Result<RebuildReport, RebuildError> {
        let total_estimate = self.envelopes_estimate();
        let snapshot = self.snapshot();
        let mut report = RebuildReport::default();
        let mut pending = Pending::new(self);
        for head in snapshot.heads()?.iter() {
            let beginning = EnvelopeId { sequence: hawser_proto::SequenceId::NONE, ..head };
            for item in snapshot.log(beginning, head.sequence) {
                let LogItem::Envelope { id, bytes, invalid } = item? else { continue };
                report.envelopes += 1;
                report.invalid += u64::from(invalid.is_some());
                if let Some(facts) = derive(id, &bytes, invalid) {
                    report.projected += 1;
                    pending.rows.put(&mut pending.batch, id, bytes.len(), &facts);
                }
                if report.envelopes.is_multiple_of(BATCH_ENVELOPES) {
                    std::mem::replace(&mut pending, Pending::new(self)).write(self)?;
                    progress(RebuildProgress { done: report.envelopes, total_estimate });
                }
            }
        }
        pending.write(self)?;
        progress(RebuildProgress { done: report.envelopes, total_estimate });
        Ok(report)
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

/// Rows that wait to be written.
struct Pending<'a> {
    rows: Rows<'a>,
    batch: WriteBatch,
}

impl<'a> Pending<'a> {
    fn new(store: &'a Store) -> Self {
        Self { rows: Rows::new(&store.inner), batch: WriteBatch::default() }
    }

    /// Not synced: the write that ends the rebuild makes everything before it durable.
    fn write(self, store: &Store) -> Result<(), RebuildError> {
        let Self { rows, mut batch } = self;
        rows.finish(&mut batch)?;
        Ok(store.inner.write_buffered(batch)?)
    }
}
