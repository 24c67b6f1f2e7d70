//! The blocks up to which the readers of chains have rechecked what they read. Kept across restarts.

use rocksdb::WriteBatch;

use crate::error::{CommitError, ReadError};
use crate::keys::meta::MetaKey;
use crate::meta;
use crate::store::Store;

/// A reader of chain events without sequence ids. Later events do not show that an earlier one is missing, so the
/// reader requests each block a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecheckedReader {
    /// The reader of payer events.
    Ledger,
    /// The reader of payer reports.
    PayerReports,
    /// The reader of the node registry's events.
    Registry,
}

impl RecheckedReader {
    fn key(self) -> MetaKey {
        match self {
            Self::Ledger => MetaKey::RecheckLedger,
            Self::PayerReports => MetaKey::RecheckPayerReports,
            Self::Registry => MetaKey::RecheckRegistry,
        }
    }
}

impl Store {
    /// Returns the first block that this reader has not rechecked, as recorded last; `None` before the first record.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn chain_recheck_from(&self, reader: RecheckedReader) -> Result<Option<u64>, ReadError> {
        meta::chain_recheck_from(&self.database().db, reader.key())
    }

    /// Records the first block that this reader has not rechecked. The write becomes durable with the next commit.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn record_chain_recheck_from(
        &self,
        reader: RecheckedReader,
        block: u64,
    ) -> Result<(), CommitError> {
        let database = self.database();
        database.check_writable()?;
        let mut batch = WriteBatch::default();
        meta::put_chain_recheck_from(&database.db, &mut batch, reader.key(), block);
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
        let all =
            [RecheckedReader::Ledger, RecheckedReader::PayerReports, RecheckedReader::Registry];
        assert_eq!(all.map(|reader| store.chain_recheck_from(reader).unwrap()), [None; 3]);
        for (reader, block) in all.into_iter().zip([7, 0, u64::MAX]) {
            store.record_chain_recheck_from(reader, block).unwrap();
        }
        store.record_chain_recheck_from(RecheckedReader::Ledger, 5).unwrap();
        let read = all.map(|reader| store.chain_recheck_from(reader).unwrap());
        assert_eq!(read, [Some(5), Some(0), Some(u64::MAX)]);
    }
}
