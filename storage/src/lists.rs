//! Rows of `meta` that are lists: each is written as a whole, in place of the list before.

use rocksdb::WriteBatch;

use crate::database::Database;
use crate::error::{CommitError, ReadError};
use crate::keys::meta::MetaKey;
use crate::meta;

impl Database {
    /// Reads the list of a row, empty before its first record. `decode` returns `None` for a damaged row.
    ///
    /// # Errors
    /// When the row cannot be read, or is damaged.
    pub(crate) fn read_list<T>(
        &self,
        row: MetaKey,
        decode: impl FnOnce(&[u8]) -> Option<Vec<T>>,
    ) -> Result<Vec<T>, ReadError> {
        Ok(meta::row(&self.db, row, decode)?.unwrap_or_default())
    }

    /// Writes the list of a row without a sync. It becomes durable with the next durable write.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub(crate) fn record_list(&self, row: MetaKey, list: &[u8]) -> Result<(), CommitError> {
        self.write_buffered(self.staged_list(row, list)?)
    }

    /// Writes the list of a row durably.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub(crate) fn record_list_durably(&self, row: MetaKey, list: &[u8]) -> Result<(), CommitError> {
        self.write_durable(self.staged_list(row, list)?)
    }

    fn staged_list(&self, row: MetaKey, list: &[u8]) -> Result<WriteBatch, CommitError> {
        self.check_writable()?;
        let mut batch = WriteBatch::default();
        meta::put(&self.db, &mut batch, row, list);
        Ok(batch)
    }
}

/// Decodes a row of items of `LEN` bytes each; `None` if a part of an item is left, or if `decode` returns `None` for
/// one of them.
pub(crate) fn decode_items<T, const LEN: usize>(
    row: &[u8],
    decode: impl Fn(&[u8; LEN]) -> Option<T>,
) -> Option<Vec<T>> {
    let (items, rest) = row.as_chunks::<LEN>();
    if rest.is_empty() { items.iter().map(decode).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store;

    #[test]
    fn the_whole_row_is_the_last_list_and_a_damaged_one_is_an_error() {
        let store = store();
        let database = store.database();
        let number = |item: &[u8; 2]| (item[0] == 1).then_some(item[1]);
        let decode = |row: &[u8]| decode_items(row, number);
        let read = || database.read_list(MetaKey::LateSearches, decode);
        assert!(read().unwrap().is_empty());
        database.record_list(MetaKey::LateSearches, &[1, 7, 1, 8]).unwrap();
        assert_eq!(read().unwrap(), [7, 8]);
        database.record_list_durably(MetaKey::LateSearches, &[1, 9]).unwrap();
        assert_eq!(read().unwrap(), [9]);
        for damaged in [&[1][..], &[1, 9, 1], &[1, 9, 2, 9]] {
            database.record_list(MetaKey::LateSearches, damaged).unwrap();
            assert!(matches!(read(), Err(ReadError::Corrupt { .. })), "{damaged:?}");
        }
        database.record_list(MetaKey::LateSearches, &[]).unwrap();
        assert!(read().unwrap().is_empty());
    }
}
