//! Writes the rate history: append-only, beside the log. An operator can have it dropped as a whole, because only the
//! chain says which rates are right.

use hawser_proto::price::Rate;
use rocksdb::WriteBatch;

use crate::database::Database;
use crate::error::CommitError;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::meta::MetaKey;
use crate::keys::rate::{RateKey, encode_value};
use crate::meta;
use crate::store::Store;

impl Store {
    /// Records rates as one write, and returns when it is durable. Skips recorded rates. Minutes that were booked
    /// without one of the new rates are marked to be priced again ([`Store::reprice`]). Commits wait while new
    /// rates are written.
    ///
    /// # Errors
    /// [`CommitError::OtherRates`] when different values exist for the same start, in the database
    /// or within `rates`. After [`CommitError::Write`] the store is poisoned.
    pub fn record_rates(&self, rates: &[Rate]) -> Result<(), CommitError> {
        self.database().record_rates(rates)
    }

    /// Removes all recorded rates, and the note of how long they are complete. Returns when it is durable. Then every
    /// rate can be recorded anew. Amounts stay as they are booked until a rebuild, or until rates are recorded.
    ///
    /// # Errors
    /// After [`CommitError::Write`] the store is poisoned.
    pub fn drop_rates(&self) -> Result<(), CommitError> {
        self.database().drop_rates()
    }

    /// Notes that the recorded rates are all that honest nodes may have applied to envelopes up to `until_ns`, unix
    /// nanoseconds, so that the folder can be audited by them. A time that is not later than the noted one, or than
    /// 1970, changes nothing. The write becomes durable with the next commit.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn note_rates_complete(&self, until_ns: i64) -> Result<(), CommitError> {
        let database = self.database();
        if until_ns <= meta::rates_complete(&database.db)?.unwrap_or_default() {
            return Ok(());
        }
        database.check_writable()?;
        let mut batch = WriteBatch::default();
        meta::put_rates_complete(&database.db, &mut batch, until_ns);
        database.write_buffered(batch)
    }
}

impl Database {
    fn record_rates(&self, rates: &[Rate]) -> Result<(), CommitError> {
        // Usually nothing is new, and a waiting writer would block all commits.
        if fresh(&self.rate_list.read(), rates)?.is_empty() {
            return Ok(());
        }
        self.check_writable()?;
        let mut list = self.rate_list.write();
        let fresh = fresh(&list, rates)?;
        if fresh.is_empty() {
            return Ok(());
        }
        let family = self.family(RateKey::FAMILY);
        let mut batch = WriteBatch::default();
        for row in &fresh {
            let key = RateKey { start_unix_s: row.start_unix_s };
            batch.put_cf(family, key.encode(), encode_value(row));
        }
        let mut known = list.clone();
        known.extend(&fresh);
        known.sort_unstable_by_key(|row| row.start_unix_s);
        let ascend = |pair: &[Rate]| pair[0].start_unix_s < pair[1].start_unix_s;
        assert!(known.windows(2).all(ascend), "each start has one rate");
        // The marks are written first: after a crash in between they only cause a needless calculation.
        self.mark_minutes_of(&fresh, &known)?;
        self.write_durable(batch)?;
        *list = known;
        Ok(())
    }

    fn drop_rates(&self) -> Result<(), CommitError> {
        self.check_writable()?;
        let mut list = self.rate_list.write();
        let mut batch = WriteBatch::default();
        for row in list.iter() {
            let key = RateKey { start_unix_s: row.start_unix_s };
            batch.delete_cf(self.family(RateKey::FAMILY), key.encode());
        }
        batch.delete_cf(self.family(Family::Meta), MetaKey::RatesComplete.encode());
        self.write_durable(batch)?;
        list.clear();
        Ok(())
    }
}

/// Returns the rates of `rates` that are not `known`, each once.
fn fresh(known: &[Rate], rates: &[Rate]) -> Result<Vec<Rate>, CommitError> {
    let mut fresh: Vec<Rate> = Vec::new();
    for &row in rates {
        let same_start = |other: &&Rate| other.start_unix_s == row.start_unix_s;
        match known.iter().chain(&fresh).find(same_start) {
            Some(&same) if same == row => {}
            Some(_) => return Err(CommitError::OtherRates { start_unix_s: row.start_unix_s }),
            None => fresh.push(row),
        }
    }
    Ok(fresh)
}
