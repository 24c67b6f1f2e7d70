//! The recorded rate history: append-only, beside the log.

use rocksdb::WriteBatch;

use crate::commit::CommitError;
use crate::error::DatabaseError;
use crate::keys::Key;
use crate::keys::rate::{RateKey, RateRow};
use crate::locks::lock;
use crate::snapshot::ReadError;
use crate::store::Store;

impl Store {
    /// Records rates, all or none, and returns when they are durable. What is recorded already
    /// is passed over.
    ///
    /// # Errors
    /// [`CommitError::OtherRates`] when other values are recorded for the same start, here or
    /// within `rates`; after [`CommitError::Write`] the store is poisoned.
    pub fn record_rates(&self, rates: &[RateRow]) -> Result<(), CommitError> {
        self.inner.poison.check()?;
        let _one_at_a_time = lock(&self.inner.rates);
        let mut known = self.snapshot().rates()?;
        let family = self.inner.family(RateKey::FAMILY);
        let mut batch = WriteBatch::default();
        for &row in rates {
            match known.iter().find(|known| known.start_unix_s == row.start_unix_s) {
                Some(&same) if same == row => {}
                Some(_) => {
                    return Err(CommitError::OtherRates { start_unix_s: row.start_unix_s });
                }
                None => {
                    let key = RateKey { start_unix_s: row.start_unix_s };
                    batch.put_cf(family, key.encode(), row.encode_value());
                    known.push(row);
                }
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.inner.write_durable(batch)
    }
}

/// Reads the rows from where `rows` stands to the end.
pub(crate) fn collect_rates(
    rows: &mut rocksdb::DBRawIterator<'_>,
) -> Result<Vec<RateRow>, ReadError> {
    let mut rates = Vec::new();
    while let Some((key, value)) = rows.item() {
        let rate = RateKey::decode(key).and_then(|key| RateRow::decode(key, value));
        rates.push(rate.ok_or_else(|| ReadError::corrupt(RateKey::FAMILY, key))?);
        rows.next();
    }
    rows.status().map_err(DatabaseError::from)?;
    Ok(rates)
}
