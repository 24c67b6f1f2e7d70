//! Blocks up to which the readers of chains have looked a second time. Kept across restarts.

use rocksdb::WriteBatch;

use crate::error::{CommitError, ReadError};
use crate::keys::meta::MetaKey;
use crate::meta;
use crate::store::Store;

/// A reader of chain events without sequence ids: an event that is missing does not become visible by later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookingReader {
    /// The reader of payer events.
    Ledger,
    /// The reader of payer reports.
    PayerReports,
    /// The reader of the node registry's events.
    Registry,
}

impl LookingReader {
    fn key(self) -> MetaKey {
        match self {
            Self::Ledger => MetaKey::LookedLedger,
            Self::PayerReports => MetaKey::LookedPayerReports,
            Self::Registry => MetaKey::LookedRegistry,
        }
    }
}

impl Store {
    /// Returns the first block without a second look of this reader, as recorded last; `None` before the first record.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn unlooked(&self, reader: LookingReader) -> Result<Option<u64>, ReadError> {
        meta::unlooked(&self.database().db, reader.key())
    }

    /// Records the first block without a second look of this reader. The write becomes durable with the next commit.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn record_unlooked(&self, reader: LookingReader, block: u64) -> Result<(), CommitError> {
        let database = self.database();
        database.check_writable()?;
        let mut batch = WriteBatch::default();
        meta::put_unlooked(&database.db, &mut batch, reader.key(), block);
        database.write_buffered(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store;

    #[test]
    fn each_reader_has_a_block_of_its_own() {
        let store = store();
        let all = [LookingReader::Ledger, LookingReader::PayerReports, LookingReader::Registry];
        assert_eq!(all.map(|reader| store.unlooked(reader).unwrap()), [None; 3]);
        for (reader, block) in all.into_iter().zip([7, 0, u64::MAX]) {
            store.record_unlooked(reader, block).unwrap();
        }
        store.record_unlooked(LookingReader::Ledger, 5).unwrap();
        let read = all.map(|reader| store.unlooked(reader).unwrap());
        assert_eq!(read, [Some(5), Some(0), Some(u64::MAX)]);
    }
}
