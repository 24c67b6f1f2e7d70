//! The payers' ledger: append-only, beside the log, recorded and never derived.

use std::collections::HashMap;

use hawser_proto::PayerAddress;
use rocksdb::{DBRawIterator, WriteBatch};

use crate::change::ChainPosition;
use crate::commit::CommitError;
use crate::error::DatabaseError;
use crate::keys::Key;
use crate::keys::cursor::{CursorKey, encode_position};
use crate::keys::ledger::LedgerKey;
use crate::locks::lock;
use crate::snapshot::ReadError;
use crate::store::Store;

/// One entry of a payer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Names the chain's event.
    pub event: [u8; 32],
    /// The block that has it.
    pub block: u64,
    /// What it was.
    pub kind: LedgerKind,
    /// What it adds to the payer's balance.
    pub picodollars: i64,
}

/// What an entry stands for. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LedgerKind {
    /// Money came in.
    Deposit = 0,
    /// The payer wants money back; it is gone from the moment of asking.
    WithdrawalRequested = 1,
    /// Fees were paid.
    UsageSettled = 2,
    /// The payer no longer wants it back.
    WithdrawalCancelled = 3,
    /// The chain took the event back.
    Reversal = 4,
}

impl Store {
    /// Appends entries to the ledgers of their payers, all or none, together with how far the
    /// chain has been read, and returns when they are durable. What they say is not judged here.
    ///
    /// # Errors
    /// When the ledger cannot be read; after [`CommitError::Write`] the store is poisoned.
    pub fn record_ledger(
        &self,
        entries: &[(PayerAddress, LedgerEntry)],
        position: Option<ChainPosition>,
    ) -> Result<(), CommitError> {
        self.inner.poison.check()?;
        let _one_at_a_time = lock(&self.inner.ledger);
        let family = self.inner.family(LedgerKey::FAMILY);
        let mut batch = WriteBatch::default();
        let mut last: HashMap<PayerAddress, u64> = HashMap::new();
        for (payer, entry) in entries {
            let order = match last.get(payer) {
                Some(order) => order + 1,
                None => self.last_order(*payer)? + 1,
            };
            last.insert(*payer, order);
            let key = LedgerKey { payer: *payer, order };
            batch.put_cf(family, key.encode(), entry.encode());
        }
        if let Some(position) = position {
            let family = self.inner.family(CursorKey::FAMILY);
            batch.put_cf(family, CursorKey::LEDGER.encode(), encode_position(position));
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.inner.write_durable(batch)
    }

    fn last_order(&self, payer: PayerAddress) -> Result<u64, ReadError> {
        let mut rows = self.inner.db.raw_iterator_cf(self.inner.family(LedgerKey::FAMILY));
        rows.seek_for_prev(LedgerKey { payer, order: u64::MAX }.encode());
        let found = current(&rows)?.filter(|(key, _)| key.payer == payer);
        Ok(found.map_or(0, |(key, _)| key.order))
    }
}

/// The entry that `rows` stands on.
pub(crate) fn current(
    rows: &DBRawIterator<'_>,
) -> Result<Option<(LedgerKey, LedgerEntry)>, ReadError> {
    let Some((key, value)) = rows.item() else {
        rows.status().map_err(DatabaseError::from)?;
        return Ok(None);
    };
    match (LedgerKey::decode(key), LedgerEntry::decode(value)) {
        (Some(key), Some(entry)) => Ok(Some((key, entry))),
        _ => Err(ReadError::corrupt(LedgerKey::FAMILY, key)),
    }
}
