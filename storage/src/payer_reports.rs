//! Payer reports on the chain, recorded and never derived, and the usage that reports are made of.

use hawser_proto::{EnvelopeId, OriginatorId, PayerAddress, SequenceId};
use rocksdb::{ReadOptions, WriteBatch};

use crate::change::ChainPosition;
use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::cursor::{CursorKey, encode_position};
use crate::keys::mark::{Mark, MarkKey};
use crate::keys::payer_report::{PayerReportEvent, PayerReportKey};
use crate::keys::usage::{UsageKey, UsageRow};
use crate::raw_rows::current_mark;
use crate::snapshot::Snapshot;
use crate::store::Store;

impl Store {
    /// Replaces the recorded events of `from_block` and later blocks by `events`, and records the position of the chain
    /// reader that saw them, as one write. Returns when it is durable.
    ///
    /// # Errors
    /// After [`CommitError::Write`] the store is poisoned.
    pub fn record_payer_reports(
        &self,
        from_block: u64,
        events: &[PayerReportEvent],
        position: ChainPosition,
    ) -> Result<(), CommitError> {
        self.database().record_payer_reports(from_block, events, position)
    }
}

impl Database {
    fn record_payer_reports(
        &self,
        from_block: u64,
        events: &[PayerReportEvent],
        position: ChainPosition,
    ) -> Result<(), CommitError> {
        self.check_writable()?;
        let family = self.family(PayerReportKey::FAMILY);
        let mut batch = WriteBatch::default();
        let start = PayerReportKey { block: from_block, log_index: 0 }.encode();
        // Longer than any key, so above all of them.
        batch.delete_range_cf(family, &start[..], &[0xff; 17][..]);
        for event in events {
            batch.put_cf(family, event.key().encode(), event.encode_value());
        }
        let cursors = self.family(CursorKey::FAMILY);
        batch.put_cf(cursors, CursorKey::PAYER_REPORTS.encode(), encode_position(position));
        self.write_durable(batch)
    }
}

impl Snapshot<'_> {
    /// Returns what the chain has of payer reports, in its order.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn payer_report_events(&self) -> Result<Vec<PayerReportEvent>, ReadError> {
        let mut rows = self.rows(PayerReportKey::FAMILY, ReadOptions::default());
        let mut events = Vec::new();
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            let event = PayerReportEvent::decode(key, value);
            events.push(event.ok_or_else(|| ReadError::corrupt(PayerReportKey::FAMILY, key))?);
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(events)
    }

    /// Returns the position of the reader of payer reports; `None` before its first record.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn payer_reports_position(&self) -> Result<Option<ChainPosition>, ReadError> {
        self.row(CursorKey::PAYER_REPORTS, crate::keys::cursor::decode_position)
    }

    /// Calls `each` with the usage at one originator in the minutes after `after_minute` (`None` for all) up to
    /// `through_minute`, by minute and payer ascending, until it returns false.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn usage_of_minutes(
        &self,
        originator: OriginatorId,
        after_minute: Option<u32>,
        through_minute: u32,
        mut each: impl FnMut(u32, PayerAddress, UsageRow) -> bool,
    ) -> Result<(), ReadError> {
        let from = match after_minute {
            Some(u32::MAX) => return Ok(()),
            Some(minute) => minute + 1,
            None => 0,
        };
        let mut rows = self.rows(Family::Usage, ReadOptions::default());
        rows.seek(UsageKey { originator, minute: from, payer: NO_PAYER }.encode());
        while let Some((key, value)) = rows.item() {
            let corrupt = || ReadError::corrupt(Family::Usage, key);
            let found = UsageKey::decode(key).ok_or_else(corrupt)?;
            if found.originator != originator || found.minute > through_minute {
                return Ok(());
            }
            let row = UsageRow::decode(value).ok_or_else(corrupt)?;
            if !each(found.minute, found.payer, row) {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(())
    }

    /// Returns the first range of places after `after` up to `through` that this node does not hold although the originator
    /// filled them: marked missing or expired. Places that are declared empty are none of these.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn first_not_held(
        &self,
        originator: OriginatorId,
        after: SequenceId,
        through: SequenceId,
    ) -> Result<Option<(SequenceId, SequenceId)>, ReadError> {
        let mut rows = self.rows(MarkKey::FAMILY, ReadOptions::default());
        let first = MarkKey(EnvelopeId::new(originator, after)).encode();
        // A range that covers the first place may begin below it, possibly in another strand.
        rows.seek_for_prev(first);
        if !rows.valid() {
            rows.status().map_err(DatabaseError::from)?;
            rows.seek(first);
        }
        while let Some((at, mark)) = current_mark(&rows)? {
            if at > EnvelopeId::new(originator, through) {
                break;
            }
            let is_not_held = matches!(mark, Mark::Missing { .. } | Mark::Expired { .. });
            if is_not_held && at.originator == originator && mark.end(at) > after {
                let from = at.sequence.max(after.next());
                return Ok(Some((from, mark.end(at).min(through))));
            }
            rows.next();
        }
        Ok(None)
    }

    /// Returns the newest minute up to `through_minute` with usage at an originator, and the highest sequence id among
    /// the envelopes that payers pay for in it.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn last_used_minute(
        &self,
        originator: OriginatorId,
        through_minute: u32,
    ) -> Result<Option<(u32, SequenceId)>, ReadError> {
        let mut rows = self.rows(Family::Usage, ReadOptions::default());
        let last = UsageKey { originator, minute: through_minute, payer: LAST_PAYER };
        rows.seek_for_prev(last.encode());
        let mut found: Option<(u32, SequenceId)> = None;
        while let Some((key, value)) = rows.item() {
            let corrupt = || ReadError::corrupt(Family::Usage, key);
            let key = UsageKey::decode(key).ok_or_else(corrupt)?;
            if key.originator != originator || found.is_some_and(|(minute, _)| minute != key.minute)
            {
                break;
            }
            let row = UsageRow::decode(value).ok_or_else(corrupt)?;
            let last = found.map_or(SequenceId::NONE, |(_, last)| last).max(row.last_sequence);
            found = Some((key.minute, last));
            rows.prev();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(found)
    }
}

/// The lowest and the highest payer, as bounds of scans.
const NO_PAYER: PayerAddress = hawser_proto::Address([0; 20]);
const LAST_PAYER: PayerAddress = hawser_proto::Address([0xff; 20]);

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;

    use super::*;
    use crate::{Change, SkipReason, StoreIdentity};

    const NODE: OriginatorId = OriginatorId(100);

    #[test]
    fn missing_and_expired_places_are_not_held_and_void_ones_are() {
        let public_key = SecretKey::from_bytes(&[1; 32]).unwrap().public_key();
        let identity = StoreIdentity { network: "testnet".to_owned(), node: NODE, public_key };
        let store = Store::in_memory(identity, |_, _| 0).unwrap();
        let skip = |from, through, reason| {
            let (from, through) = (SequenceId(from), SequenceId(through));
            Change::Skip { originator: NODE, from, through, reason }
        };
        store.commit(&[skip(1, 3, SkipReason::Expired)]).unwrap();
        store.commit(&[skip(4, 6, SkipReason::Void)]).unwrap();
        store.commit(&[skip(7, 9, SkipReason::Missing)]).unwrap();
        let snapshot = store.snapshot();
        let not_held = |node, after, through| {
            let found = snapshot.first_not_held(node, SequenceId(after), SequenceId(through));
            found.unwrap().map(|(from, through)| (from.0, through.0))
        };
        assert_eq!(not_held(NODE, 0, 9), Some((1, 3)));
        assert_eq!(not_held(NODE, 1, 2), Some((2, 2)), "inside of a range");
        assert_eq!(not_held(NODE, 3, 6), None, "declared empty");
        assert_eq!(not_held(NODE, 3, 8), Some((7, 8)));
        assert_eq!(not_held(NODE, 9, 20), None);
        assert_eq!(not_held(OriginatorId(99), 0, 20), None, "another strand");
        assert_eq!(not_held(OriginatorId(101), 0, 20), None, "another strand");
    }
}
