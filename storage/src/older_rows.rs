//! Upgrades topic rows of formats before 4: small envelopes are put beside them.
//!
//! A row without its envelope works, only more slowly, because the envelope is then read from the log. So
//! a node serves meanwhile, and rows are upgraded in steps. The write of a step also records the place
//! where the next one continues, so that a step is done once or not at all, whenever the process ends.

use hawser_proto::EnvelopeId;
use rocksdb::{ReadOptions, WriteBatch};

use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;
use crate::keys::meta::MetaKey;
use crate::keys::topic::{self, BESIDE_LEN_BYTES_MAX, TopicKey, TopicValue};
use crate::progress::OlderRows;
use crate::store::Store;

/// Largest number of rows that a step converts. Writers of all strands wait for a step. Measured: 10 µs for each
/// row whose envelope is in the page cache, so a step takes less than a millisecond then.
const STEP_ROWS: usize = 64;
/// Largest number of rows that a step visits. A guess: rows that need no change take less than a microsecond.
const STEP_VISITS: usize = 1024;

/// Progress with the rows of an older format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OlderRowsProgress {
    /// Rows visited since the folder was first opened by this version.
    pub looked_at: u64,
    /// RocksDB's estimate of the number of all rows; may be below `looked_at`.
    pub total_estimate: u64,
}

impl Store {
    /// Returns the progress with topic rows of an older format; `None` when there are none.
    #[must_use]
    pub fn older_topic_rows(&self) -> Option<OlderRowsProgress> {
        self.database().older_rows_progress()
    }

    /// Runs up to `steps_max` steps that add small envelopes to topic rows of an older format. Returns true when no
    /// such row is left. A step is one write and is not synced: a step that a crash loses is repeated.
    ///
    /// Commits wait for the running step. Pages are correct before, during and after it.
    ///
    /// # Errors
    /// An error if a row cannot be read or written. The caller should try again later.
    pub fn convert_topic_rows(&self, steps_max: usize) -> Result<bool, CommitError> {
        let database = self.database();
        for _ in 0..steps_max {
            if database.bring_up_step()? {
                return Ok(true);
            }
        }
        Ok(database.older_rows.lock().is_none())
    }
}

impl Database {
    fn older_rows_progress(&self) -> Option<OlderRowsProgress> {
        let looked_at = self.older_rows.lock().as_ref()?.looked_at;
        let family = self.family(Family::Topic);
        let estimate = self.db.property_int_value_cf(family, "rocksdb.estimate-num-keys");
        Some(OlderRowsProgress {
            looked_at,
            total_estimate: estimate.ok().flatten().unwrap_or_default(),
        })
    }

    /// Converts the next rows of the older format. Returns true when none are left.
    fn bring_up_step(&self) -> Result<bool, CommitError> {
        self.check_writable()?;
        let _no_rebuild = self.gate.read();
        // The rows are read twice. The first read is without locks, so that writers do not wait for a slow disk;
        // its result is discarded, because rows may change.
        let Some(from) = self.older_rows.lock().clone() else { return Ok(true) };
        self.stage_step(&from, &mut WriteBatch::default())?;
        // No writer may change a row between its reading and the write.
        let strands = self.strands.all();
        let _no_commits: Vec<_> = strands.iter().map(|(_, head)| head.lock()).collect();
        let mut older = self.older_rows.lock();
        let Some(from) = older.as_ref() else { return Ok(true) };
        let mut batch = WriteBatch::default();
        let next = self.stage_step(from, &mut batch)?;
        let meta = self.family(MetaKey::FAMILY);
        match &next {
            Some(next) => batch.put_cf(meta, MetaKey::OlderTopicRows.encode(), next.encode()),
            None => batch.delete_cf(meta, MetaKey::OlderTopicRows.encode()),
        }
        self.write_buffered(batch)?;
        *older = next;
        Ok(older.is_none())
    }

    /// Stages the rows of one step. Returns the place of the next one.
    fn stage_step(
        &self,
        from: &OlderRows,
        batch: &mut WriteBatch,
    ) -> Result<Option<OlderRows>, ReadError> {
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        options.fill_cache(false);
        let family = self.family(Family::Topic);
        let mut rows = self.db.raw_iterator_cf_opt(family, options);
        rows.seek(&from.next);
        let (mut visits, mut changed, mut value) = (0, 0, Vec::new());
        while let Some((key, stored)) = rows.item() {
            if visits == STEP_VISITS || changed == STEP_ROWS {
                let looked_at = from.looked_at.saturating_add(visits as u64);
                return Ok(Some(OlderRows { next: key.to_vec(), looked_at }));
            }
            visits += 1;
            let (id, row) = TopicKey::decode(key)
                .and_then(|key| Some((key.id(), TopicValue::decode(stored)?)))
                .ok_or_else(|| ReadError::corrupt(Family::Topic, key))?;
            let is_small =
                usize::try_from(row.len_bytes).is_ok_and(|len| len <= BESIDE_LEN_BYTES_MAX);
            if is_small
                && row.envelope.is_none()
                && let Some(envelope) = self.log_row(id)?
            {
                topic::encode_value(row.originator_ns, &envelope, &row.depends_on(), &mut value);
                batch.put_cf(family, key, &value);
                changed += 1;
            }
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(None)
    }

    fn log_row(&self, id: EnvelopeId) -> Result<Option<rocksdb::DBPinnableSlice<'_>>, ReadError> {
        let family = self.family(Family::Log);
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let row = self.db.get_pinned_cf_opt(family, EnvelopeKey(id).encode(), &options);
        Ok(row.map_err(DatabaseError::from)?)
    }
}
