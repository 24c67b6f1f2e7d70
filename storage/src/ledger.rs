//! Writes the payers' ledger: append-only, and recorded beside the log. It does not follow from the log: only the chain
//! gives it anew, as a whole.

use std::collections::HashMap;

use hawser_proto::PayerAddress;
use rocksdb::WriteBatch;

use crate::change::ChainPosition;
use crate::database::Database;
use crate::error::{CommitError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::cursor::{CursorKey, HASH_UNKNOWN, decode_position, encode_position, is_reached};
use crate::keys::ledger::{LedgerEntry, LedgerKey, LedgerKind};
use crate::keys::meta::MetaKey;
use crate::raw_rows::{current_ledger_entry_of, stored};
use crate::store::Store;

impl Store {
    /// Appends entries to the ledgers of their payers, with the position of the chain reader that has read the blocks
    /// from `from_block` to there, as one write. Returns when it is durable.
    ///
    /// The caller decides about repeats and balances; storage checks neither. If it reverses an entry of a block behind
    /// the position, no balance is known until a later position has reached that block, which is read again, or until
    /// [`note_payers_read`](Self::note_payers_read).
    ///
    /// # Errors
    /// When the ledger cannot be read. After [`CommitError::Write`] the store is poisoned.
    ///
    /// # Panics
    /// If an entry's amount has the wrong sign for its kind. This is a mistake of the caller, whatever the chain's
    /// event has, and nothing is written.
    pub fn record_ledger(
        &self,
        from_block: u64,
        entries: &[(PayerAddress, LedgerEntry)],
        position: Option<ChainPosition>,
    ) -> Result<(), CommitError> {
        self.database().record_ledger(from_block, entries, position)
    }

    /// Removes the ledger, and everything that says how far its reader has been. The next reader of payer events begins
    /// at the first block of their contract. Returns when it is durable.
    ///
    /// # Errors
    /// After [`CommitError::Write`] the store is poisoned.
    pub fn drop_ledger(&self) -> Result<(), CommitError> {
        self.database().drop_ledger()
    }

    /// Records that the reader of payer events has come to the head of its chain, unless that is recorded and the
    /// reader is as far as then. Until then the ledger lacks an unknown part of the deposits and withdrawals. Returns
    /// when it is durable.
    ///
    /// # Errors
    /// The errors of [`record_ledger`](Self::record_ledger).
    pub fn note_payers_read(&self, position: ChainPosition) -> Result<(), CommitError> {
        self.note_read(CursorKey::PAYERS_READ, CursorKey::LEDGER, position)
    }

    /// Records that the reader of payer reports has come to the head of its chain, unless that is recorded and the
    /// reader is as far as then. Until then usage that the ledger has settled may count as unsettled. Returns when it
    /// is durable.
    ///
    /// # Errors
    /// The errors of [`record_ledger`](Self::record_ledger).
    pub fn note_payer_reports_read(&self, position: ChainPosition) -> Result<(), CommitError> {
        self.note_read(CursorKey::REPORTS_READ, CursorKey::PAYER_REPORTS, position)
    }

    /// Records the position of a reader as its note, unless it has reached that of its note.
    fn note_read(
        &self,
        key: CursorKey,
        reader: CursorKey,
        position: ChainPosition,
    ) -> Result<(), CommitError> {
        if self.snapshot().has_read(key, reader)? {
            return Ok(());
        }
        let database = self.database();
        database.check_writable()?;
        let mut batch = WriteBatch::default();
        let family = database.family(CursorKey::FAMILY);
        batch.put_cf(family, key.encode(), encode_position(position));
        database.write_durable(batch)
    }
}

impl Database {
    /// Appends entries behind each payer's last one, with the position, in one synced write. One caller at a time,
    /// because the order of an entry follows from the entry before.
    fn record_ledger(
        &self,
        from_block: u64,
        entries: &[(PayerAddress, LedgerEntry)],
        position: Option<ChainPosition>,
    ) -> Result<(), CommitError> {
        self.check_writable()?;
        let _one_at_a_time = self.ledger.lock();
        let family = self.family(LedgerKey::FAMILY);
        let mut batch = WriteBatch::default();
        let mut last: HashMap<PayerAddress, u64> = HashMap::new();
        for (payer, entry) in entries {
            assert!(entry.is_sound(), "{payer} would be booked {entry:?}");
            let order = match last.get(payer) {
                Some(order) => *order,
                None => self.last_order(*payer)?,
            };
            let last_key = LedgerKey { payer: *payer, order };
            // Only damage gives an entry the highest number, behind which none has a place.
            let order = order.checked_add(1);
            let order =
                order.ok_or_else(|| ReadError::corrupt(LedgerKey::FAMILY, &last_key.encode()))?;
            last.insert(*payer, order);
            let key = LedgerKey { payer: *payer, order };
            batch.put_cf(family, key.encode(), entry.encode());
        }
        if let Some(position) = position {
            let family = self.family(CursorKey::FAMILY);
            batch.put_cf(family, CursorKey::LEDGER.encode(), encode_position(position));
            // The chain may still have the events, such as a withdrawal that has been paid out.
            let entries = entries.iter().map(|(_, entry)| entry);
            let reversed = entries.filter(|entry| entry.kind == LedgerKind::Reversal);
            let last = reversed.map(|entry| entry.block).max();
            let (key, reader) = (CursorKey::PAYERS_READ, CursorKey::LEDGER);
            if let Some(note) = self.moved_note(key, reader, from_block, position, last)? {
                batch.put_cf(family, key.encode(), encode_position(note));
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.write_durable(batch)
    }

    /// Returns the note of a reader as it is once the blocks from `from_block` to `position` are read; `None` if it
    /// stays. `last_taken_back` is the last block of the events that the reader takes back: if that is behind the
    /// position, balances are not known before the reader has been there again. Otherwise those that are known stay
    /// known. If the block of the note is read again, another one may be in its place, so the note moves.
    pub(crate) fn moved_note(
        &self,
        key: CursorKey,
        reader: CursorKey,
        from_block: u64,
        position: ChainPosition,
        last_taken_back: Option<u64>,
    ) -> Result<Option<ChainPosition>, ReadError> {
        let Some(note) = stored(&self.db, key, decode_position)? else { return Ok(None) };
        let is_known = is_reached(note, stored(&self.db, reader, decode_position)?);
        let is_reached_now = is_known || position.block >= note.block;
        let moved = match last_taken_back.filter(|block| *block > position.block) {
            Some(back) if is_known => ChainPosition { block: back, hash: HASH_UNKNOWN },
            Some(back) => ChainPosition { block: back.max(note.block), hash: HASH_UNKNOWN },
            None if from_block <= note.block && is_reached_now => position,
            None => note,
        };
        Ok((moved != note).then_some(moved))
    }

    /// Removes all entries, the position of their reader and the notes of what it has read, in one synced write.
    fn drop_ledger(&self) -> Result<(), CommitError> {
        self.check_writable()?;
        let _one_at_a_time = self.ledger.lock();
        let mut batch = WriteBatch::default();
        // Longer than any key, so above all of them.
        batch.delete_range_cf(self.family(LedgerKey::FAMILY), &[0_u8; 0][..], &[0xff; 29][..]);
        for key in [CursorKey::LEDGER, CursorKey::PAYERS_READ] {
            batch.delete_cf(self.family(CursorKey::FAMILY), key.encode());
        }
        batch.delete_cf(self.family(Family::Meta), MetaKey::RecheckLedger.encode());
        self.write_durable(batch)
    }

    /// Returns the number of a payer's last entry; 0 if there is none.
    fn last_order(&self, payer: PayerAddress) -> Result<u64, ReadError> {
        let mut rows = self.db.raw_iterator_cf(self.family(LedgerKey::FAMILY));
        rows.seek_for_prev(LedgerKey { payer, order: u64::MAX }.encode());
        Ok(current_ledger_entry_of(&rows, payer)?.map_or(0, |(key, _)| key.order))
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::Address;
    use hawser_proto::price::PicoDollarChange;

    use super::*;
    use crate::chain_recheck::RecheckedReader;
    use crate::keys::ledger::LedgerEventId;
    use crate::testing::store;

    #[test]
    fn a_ledger_that_was_dropped_is_as_one_that_was_never_read() {
        let store = store();
        let entry = |event, picodollars| LedgerEntry {
            event: LedgerEventId([event; 32]),
            block: 5,
            kind: LedgerKind::Deposit,
            picodollars: PicoDollarChange(picodollars),
        };
        let payers = [Address([0; 20]), Address([0xff; 20])];
        let at = ChainPosition { block: 5, hash: [5; 32] };
        store.record_ledger(0, &payers.map(|payer| (payer, entry(1, 7))), Some(at)).unwrap();
        store.note_payers_read(at).unwrap();
        store.note_payer_reports_read(at).unwrap();
        for reader in [RecheckedReader::Ledger, RecheckedReader::PayerReports] {
            store.record_chain_recheck_from(reader, 3).unwrap();
        }
        assert!(store.snapshot().knows_balances().unwrap());
        store.drop_ledger().unwrap();
        let snapshot = store.snapshot();
        assert!(payers.iter().all(|payer| snapshot.ledger(*payer).unwrap().is_empty()));
        assert_eq!(snapshot.ledger_position().unwrap(), None);
        assert!(!snapshot.knows_balances().unwrap(), "no balance counts until all is read again");
        assert_eq!(store.chain_recheck_from(RecheckedReader::Ledger).unwrap(), None);
        assert_eq!(
            store.chain_recheck_from(RecheckedReader::PayerReports).unwrap(),
            Some(3),
            "it stays"
        );

        store.record_ledger(0, &[(payers[1], entry(2, 9))], Some(at)).unwrap();
        store.note_payers_read(at).unwrap();
        let snapshot = store.snapshot();
        assert_eq!(snapshot.ledger(payers[1]).unwrap(), [entry(2, 9)]);
        assert!(snapshot.knows_balances().unwrap());
    }

    /// The next number would end the process at each event of the payer, also after each restart.
    #[test]
    fn nothing_is_booked_behind_a_damaged_entry_with_the_highest_number() {
        let store = store();
        let [payer, other] = [Address([7; 20]), Address([8; 20])];
        let entry = LedgerEntry {
            event: LedgerEventId([1; 32]),
            block: 5,
            kind: LedgerKind::Deposit,
            picodollars: PicoDollarChange(7),
        };
        let damaged = LedgerKey { payer, order: u64::MAX };
        store.put_raw_row(LedgerKey::FAMILY, &damaged.encode(), &entry.encode());
        let refused = store.record_ledger(0, &[(payer, entry)], None);
        let is_damage = matches!(&refused, Err(CommitError::Read(error)) if error.is_damage());
        assert!(is_damage, "{refused:?}");
        store.record_ledger(0, &[(other, entry)], None).unwrap();
        assert_eq!(store.snapshot().ledger(other).unwrap(), [entry]);
    }

    /// The reader goes back to an early block, and comes to later ones page by page.
    #[test]
    fn no_balance_is_known_while_blocks_with_reversed_entries_are_read_again() {
        let store = store();
        let (payer, at) = (Address([7; 20]), |block| ChainPosition { block, hash: [5; 32] });
        let entry = |kind, picodollars| LedgerEntry {
            event: LedgerEventId([1; 32]),
            block: 5,
            kind,
            picodollars: PicoDollarChange(picodollars),
        };
        let withdrawn = entry(LedgerKind::WithdrawalRequested, -7);
        store.record_ledger(0, &[(payer, withdrawn)], Some(at(6))).unwrap();
        store.note_payers_read(at(6)).unwrap();
        store.note_payer_reports_read(at(6)).unwrap();
        let knows = || store.snapshot().knows_balances().unwrap();
        let reversed = entry(LedgerKind::Reversal, 7);
        store.record_ledger(0, &[(payer, reversed)], Some(at(5))).unwrap();
        assert!(knows(), "the chain has taken it back");
        store.record_ledger(0, &[(payer, withdrawn)], Some(at(6))).unwrap();
        store.record_ledger(0, &[], Some(at(2))).unwrap();
        assert!(knows(), "the ledger is as before");
        store.record_ledger(0, &[(payer, reversed)], Some(at(3))).unwrap();
        assert!(!knows(), "the block of the withdrawal follows");
        for block in [4, 2, 4] {
            store.record_ledger(0, &[], Some(at(block))).unwrap();
            assert!(!knows(), "it still follows");
        }
        assert_eq!(store.snapshot().payers_read().unwrap(), None, "the block may be another one");
        store.record_ledger(0, &[(payer, withdrawn)], Some(at(5))).unwrap();
        assert!(knows(), "the ledger is as far again, whatever the head is");
        assert_eq!(store.snapshot().payers_read().unwrap(), Some(at(5)), "it has a hash again");
    }

    /// The next page after a reorganisation goes further than the block that it has replaced. By the former hash of
    /// that block, the chain would look as if it was started anew.
    #[test]
    fn an_old_position_is_of_no_branch_that_the_chain_has_left() {
        let store = store();
        let at = |block, hash| ChainPosition { block, hash: [hash; 32] };
        let old = || store.snapshot().payers_read().unwrap();
        store.record_ledger(0, &[], Some(at(6, 1))).unwrap();
        store.note_payers_read(at(6, 1)).unwrap();
        store.record_ledger(7, &[], Some(at(9, 1))).unwrap();
        assert_eq!(old(), Some(at(6, 1)));
        store.record_ledger(6, &[], Some(at(11, 2))).unwrap();
        assert_eq!(old(), Some(at(11, 2)));
        store.record_ledger(12, &[], Some(at(13, 2))).unwrap();
        assert_eq!(old(), Some(at(11, 2)));
    }

    /// A development chain may be started anew, and then has fewer blocks.
    #[test]
    fn balances_are_known_at_the_head_of_a_chain_that_ends_before_the_reversed_entries() {
        let store = store();
        let (payer, at) = (Address([7; 20]), |block| ChainPosition { block, hash: [5; 32] });
        let entry = |kind, picodollars| LedgerEntry {
            event: LedgerEventId([1; 32]),
            block: 500,
            kind,
            picodollars: PicoDollarChange(picodollars),
        };
        store.record_ledger(0, &[(payer, entry(LedgerKind::Deposit, 7))], Some(at(500))).unwrap();
        store.note_payers_read(at(500)).unwrap();
        store.note_payer_reports_read(at(500)).unwrap();
        store.record_ledger(0, &[(payer, entry(LedgerKind::Reversal, -7))], Some(at(3))).unwrap();
        assert!(!store.snapshot().knows_balances().unwrap());
        store.note_payers_read(at(3)).unwrap();
        assert!(store.snapshot().knows_balances().unwrap());
    }
}
