//! Writing the rate history: append-only, beside the log.

use rocksdb::WriteBatch;

use crate::error::CommitError;
use crate::keys::Key;
use crate::keys::rate::{RateKey, RateRow};
use crate::store::Store;

impl Store {
    /// Records rates as one write and returns when it is durable. Rates that are recorded already
    /// are skipped. Minutes that were booked without one of the new rates are marked to be priced
    /// again ([`Store::reprice`]). Commits wait.
    ///
    /// # Errors
    /// [`CommitError::OtherRates`] when different values exist for the same start, in the database
    /// or within `rates`. After [`CommitError::Write`] the store is poisoned.
    pub fn record_rates(&self, rates: &[RateRow]) -> Result<(), CommitError> {
        self.inner.poison.check()?;
        let mut list = self.inner.rate_list.write();
        let (mut known, mut fresh) = (list.clone(), Vec::new());
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
                    fresh.push(row);
                }
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        known.sort_unstable_by_key(|row| row.start_unix_s);
        // The marks come first: after a crash in between they cost a needless calculation.
        self.mark_minutes_of(&fresh, &known)?;
        self.inner.write_durable(batch)?;
        *list = known;
        Ok(())
    }
}
