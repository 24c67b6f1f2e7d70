//! Reads and writes payer reports from the chain, which are recorded and never derived, and reads the usage for
//! reports.

use std::collections::BTreeMap;

use hawser_proto::{EnvelopeId, OriginatorId, PayerAddress, SequenceId};
use rocksdb::{ReadOptions, WriteBatch};

use crate::change::ChainPosition;
use crate::database::{Database, LastingParts};
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::cursor::{CursorKey, HASH_UNKNOWN, decode_position, encode_position};
use crate::keys::mark::{Mark, MarkKey};
use crate::keys::payer_report::{PayerReportEvent, PayerReportKey};
use crate::keys::usage::{UsageKey, UsageRow};
use crate::raw_rows::current_mark_of;
use crate::snapshot::Snapshot;
use crate::store::Store;

/// The part of the recorded events that a reader has read. The reader continues after it, unless that part was
/// replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportEventsRead {
    /// Changes when existing rows are replaced.
    version: u64,
    last: Option<PayerReportKey>,
}

/// Events that a reader has not read yet, before they are read.
pub struct NewReportEvents<'a> {
    /// The snapshot from which they are read. All other reads from it are consistent with them, or with those that were
    /// read before, if rows are being replaced.
    pub snapshot: Snapshot<'a>,
    /// True if earlier rows are obsolete and all rows are returned again.
    pub is_anew: bool,
    read: ReportEventsRead,
    /// True if there are none for now: rows are being replaced, and the reader has read those of before.
    has_none: bool,
}

impl NewReportEvents<'_> {
    /// Calls `each` with the events, in the order of the chain, and returns the part that has been read.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn read(
        &self,
        mut each: impl FnMut(PayerReportEvent),
    ) -> Result<ReportEventsRead, ReadError> {
        let mut read = self.read;
        if self.has_none {
            return Ok(read);
        }
        let after = self.read.last;
        self.snapshot.each_report_event(after, |event| {
            read.last = Some(event.key());
            each(event);
        })?;
        Ok(read)
    }
}

impl Store {
    /// Returns the events that were recorded after `read`, with a snapshot; all events if `read` is `None`, or if that
    /// part was replaced. Waits for no write: while rows are being replaced, it returns none to a reader that has read
    /// since the last replacement. Such a write may hang, so the reader goes on with the events that it has already.
    #[must_use]
    pub fn new_report_events(&self, read: Option<ReportEventsRead>) -> NewReportEvents<'_> {
        let lasting = self.shared.how.lasting.clone();
        // Held while the snapshot is taken: no replacement begins or ends meanwhile.
        let version = lasting.report_version.lock();
        let known = read.filter(|read| version.is_current(read.version));
        let all = ReportEventsRead { version: version.number, last: None };
        NewReportEvents {
            snapshot: self.snapshot(),
            is_anew: known.is_none(),
            read: known.unwrap_or(all),
            has_none: known.is_some() && version.is_replacing,
        }
    }

    /// Replaces the recorded events of `from_block` and later blocks with `events`, and records the position of the
    /// chain reader, as one write. Returns when it is durable. If that removes events of blocks behind the position, no
    /// balance is known until a later position has reached the last of those blocks, which are read again, or until
    /// [`note_payer_reports_read`](Self::note_payer_reports_read).
    ///
    /// # Errors
    /// After [`CommitError::Write`] the store is poisoned.
    ///
    /// # Panics
    /// If an event belongs to a block before `from_block`: no later call would replace it.
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
    /// Replaces the events from `from_block` on in one synced write. The version rises unless the new events only
    /// continue the old ones, so that readers drop results that they have derived from replaced events. Its lock is not
    /// held during the write: a sync may hang, and any caller may ask for what the events say.
    fn record_payer_reports(
        &self,
        from_block: u64,
        events: &[PayerReportEvent],
        position: ChainPosition,
    ) -> Result<(), CommitError> {
        let is_replaced = |event: &PayerReportEvent| event.block >= from_block;
        assert!(events.iter().all(is_replaced), "no event is of a block before {from_block}");
        self.check_writable()?;
        let LastingParts { report_version, report_writes, .. } = &self.lasting;
        let _one_at_a_time = report_writes.lock();
        let only_adds = self.stand_among(from_block, events)?;
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
        // Usage that the ledger has settled counts as unsettled until they are there again.
        let (note_key, reader) = (CursorKey::REPORTS_READ, CursorKey::PAYER_REPORTS);
        let last = self.last_report_block()?;
        if let Some(note) = self.moved_note(note_key, reader, from_block, position, last)? {
            batch.put_cf(cursors, note_key.encode(), encode_position(note));
        }
        if !only_adds {
            report_version.lock().begin();
        }
        let written = self.write_durable(batch);
        // After a failed write, rows may be readable that a restart would not find, so cached results are discarded.
        if !only_adds || written.is_err() {
            report_version.lock().end();
        }
        written
    }

    /// Returns the block of the last row; `None` if there are no rows.
    fn last_report_block(&self) -> Result<Option<u64>, ReadError> {
        let mut rows = self.db.raw_iterator_cf(self.family(PayerReportKey::FAMILY));
        rows.seek_to_last();
        rows.status().map_err(DatabaseError::from)?;
        let Some(key) = rows.key() else { return Ok(None) };
        let last = PayerReportKey::decode(key);
        let last = last.ok_or_else(|| ReadError::corrupt(PayerReportKey::FAMILY, key))?;
        Ok(Some(last.block))
    }

    /// Returns true if the rows of `from_block` and later blocks are a prefix of `events`, so that writing these
    /// only adds rows.
    fn stand_among(&self, from_block: u64, events: &[PayerReportEvent]) -> Result<bool, ReadError> {
        let rows_of = |event: &PayerReportEvent| (event.key().encode(), event.encode_value());
        let new: BTreeMap<_, _> = events.iter().map(rows_of).collect();
        let mut new = new.iter();
        let mut rows = self.db.raw_iterator_cf(self.family(PayerReportKey::FAMILY));
        rows.seek(PayerReportKey { block: from_block, log_index: 0 }.encode());
        while let Some((key, value)) = rows.item() {
            let is_same = |(of, row): (&[u8; 16], &Vec<u8>)| of[..] == *key && row[..] == *value;
            if !new.next().is_some_and(is_same) {
                return Ok(false);
            }
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(true)
    }
}

impl Snapshot<'_> {
    /// Returns an old position of the reader of payer reports, as [`Self::payers_read`] does for that of payer events.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn payer_reports_read(&self) -> Result<Option<ChainPosition>, ReadError> {
        Ok(self.row(CursorKey::REPORTS_READ, decode_position)?.filter(|it| it.hash != HASH_UNKNOWN))
    }

    /// Calls `each` with the events from a key on, in the order of the chain.
    fn each_report_event(
        &self,
        after: Option<PayerReportKey>,
        mut each: impl FnMut(PayerReportEvent),
    ) -> Result<(), ReadError> {
        let mut rows = self.rows(PayerReportKey::FAMILY, ReadOptions::default());
        match after {
            None => rows.seek_to_first(),
            Some(after) => {
                rows.seek(after.encode());
                if rows.key() == Some(&after.encode()) {
                    rows.next();
                }
            }
        }
        while let Some((key, value)) = rows.item() {
            let event = PayerReportEvent::decode(key, value);
            each(event.ok_or_else(|| ReadError::corrupt(PayerReportKey::FAMILY, key))?);
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(())
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
        each: impl FnMut(u32, PayerAddress, UsageRow) -> bool,
    ) -> Result<(), ReadError> {
        let from = match after_minute {
            Some(u32::MAX) => return Ok(()),
            Some(minute) => minute + 1,
            None => 0,
        };
        self.usage_from(originator, (from, NO_PAYER), through_minute, each)
    }

    /// Calls `each` like [`Snapshot::usage_of_minutes`], from the row of a minute and payer on, included.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn usage_from(
        &self,
        originator: OriginatorId,
        (minute, payer): (u32, PayerAddress),
        through_minute: u32,
        mut each: impl FnMut(u32, PayerAddress, UsageRow) -> bool,
    ) -> Result<(), ReadError> {
        let mut rows = self.projected(Family::Usage, ReadOptions::default())?;
        rows.seek(UsageKey { originator, minute, payer }.encode());
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

    /// Returns the first range of places after `after` up to `through` that this node lacks although the originator
    /// filled them: places marked missing or expired. Places that are declared empty do not count.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn first_not_held(
        &self,
        originator: OriginatorId,
        after: SequenceId,
        through: SequenceId,
    ) -> Result<Option<(SequenceId, SequenceId)>, ReadError> {
        let first = EnvelopeId::new(originator, after.next());
        if first.sequence > through {
            return Ok(None);
        }
        let is_not_held = |mark: &Mark| matches!(mark, Mark::Missing { .. } | Mark::Expired { .. });
        // A range that covers the first place may begin below it.
        if let Some(mark) = self.mark(first)?.filter(is_not_held) {
            return Ok(Some((first.sequence, mark.end(first).min(through))));
        }
        let mut rows = self.rows(MarkKey::FAMILY, ReadOptions::default());
        rows.seek(MarkKey(first).encode());
        while let Some((at, mark)) = current_mark_of(&rows, originator)? {
            if at.sequence > through {
                break;
            }
            if is_not_held(&mark) {
                return Ok(Some((at.sequence, mark.end(at).min(through))));
            }
            rows.next();
        }
        Ok(None)
    }

    /// Returns the newest minute up to `through_minute` with usage at an originator, and the highest sequence id
    /// among its charged envelopes.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn last_used_minute(
        &self,
        originator: OriginatorId,
        through_minute: u32,
    ) -> Result<Option<(u32, SequenceId)>, ReadError> {
        let mut rows = self.projected(Family::Usage, ReadOptions::default())?;
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
    use hawser_proto::price::SettledAmount;

    use super::*;
    use crate::testing::{NODE, store};
    use crate::{Change, SkipReason};

    fn settled(block: u64, log_index: u64, left: u64) -> PayerReportEvent {
        let microdollars = SettledAmount(1);
        let change = crate::PayerReportChange::Settled { leaves: 1, left, microdollars };
        PayerReportEvent { block, log_index, originator: NODE, index: 0, change }
    }

    #[test]
    #[should_panic(expected = "no event is of a block before 3")]
    fn an_event_that_no_later_call_would_replace_is_not_recorded() {
        let position = ChainPosition { block: 9, hash: [9; 32] };
        _ = store().record_payer_reports(3, &[settled(3, 0, 5), settled(2, 7, 4)], position);
    }

    #[test]
    fn events_are_read_once_until_others_stand_in_their_place() {
        let store = store();
        let mut read = None;
        let mut next = || {
            let new = store.new_report_events(read);
            let mut events = Vec::new();
            read = Some(new.read(|event| events.push((event.block, event.log_index))).unwrap());
            (new.is_anew, events)
        };
        let record = |from, events: &[PayerReportEvent]| {
            let position = ChainPosition { block: 9, hash: [9; 32] };
            store.record_payer_reports(from, events, position).unwrap();
        };
        let first = [settled(1, 0, 5), settled(2, 0, 4), settled(2, 7, 3)];
        assert_eq!(next(), (true, vec![]));
        record(0, &first);
        assert_eq!(next(), (false, vec![(1, 0), (2, 0), (2, 7)]));
        assert_eq!(next(), (false, vec![]), "nothing is new");
        record(3, &[settled(3, 1, 2)]);
        assert_eq!(next(), (false, vec![(3, 1)]));
        record(2, &[settled(3, 1, 2), settled(2, 0, 4), settled(2, 7, 3), settled(4, 0, 1)]);
        assert_eq!(next(), (false, vec![(4, 0)]), "the same again, and one more");
        record(4, &[settled(4, 0, 0)]);
        assert_eq!(next(), (true, vec![(1, 0), (2, 0), (2, 7), (3, 1), (4, 0)]), "another row");
        record(3, &[]);
        assert_eq!(next(), (true, vec![(1, 0), (2, 0), (2, 7)]), "taken back");
        record(3, &[settled(3, 1, 2)]);
        assert_eq!(next(), (false, vec![(3, 1)]));
    }

    /// The reader goes back to an early block, and comes to later ones page by page.
    #[test]
    fn no_balance_is_known_while_removed_events_are_read_again() {
        let store = store();
        let at = |block| ChainPosition { block, hash: [9; 32] };
        let (early, late) = ([settled(3, 0, 1)], [settled(8, 0, 0)]);
        let all = [early.clone(), late.clone()].concat();
        store.record_payer_reports(0, &all, at(9)).unwrap();
        store.note_payers_read(at(9)).unwrap();
        store.note_payer_reports_read(at(9)).unwrap();
        let knows = || store.snapshot().knows_balances().unwrap();
        store.record_payer_reports(8, &[], at(8)).unwrap();
        assert!(knows(), "the chain has taken it back");
        store.record_payer_reports(8, &late, at(9)).unwrap();
        store.record_payer_reports(2, &early, at(7)).unwrap();
        assert!(!knows(), "the block of the last settlement comes next");
        store.record_payer_reports(6, &[], at(6)).unwrap();
        store.record_payer_reports(7, &[], at(7)).unwrap();
        assert!(!knows(), "it still follows");
        assert_eq!(
            store.snapshot().payer_reports_read().unwrap(),
            None,
            "the block may be another"
        );
        store.record_payer_reports(8, &late, at(8)).unwrap();
        assert!(knows(), "the events are there again, whatever the head is");
        assert_eq!(store.snapshot().payer_reports_read().unwrap(), Some(at(8)), "it has a hash");
    }

    /// Played by a disk whose sync hangs, while any caller may ask for what the events say.
    #[test]
    fn while_rows_are_replaced_each_reader_reads_them_once_at_most() {
        let store = store();
        let position = ChainPosition { block: 9, hash: [9; 32] };
        store.record_payer_reports(0, &[settled(1, 0, 5), settled(2, 0, 4)], position).unwrap();
        let read_by = |read| {
            let (new, mut events) = (store.new_report_events(read), 0);
            let read = new.read(|_| events += 1).unwrap();
            (new.is_anew, events, read)
        };
        let version = store.shared.how.lasting.report_version.clone();
        let (_, _, of_before) = read_by(None);
        version.lock().begin();
        assert_eq!(read_by(Some(of_before)), (false, 0, of_before));
        let (is_anew, events, meanwhile) = read_by(None);
        assert_eq!((is_anew, events), (true, 2), "another reader has nothing to go on with");
        assert_eq!(read_by(Some(meanwhile)), (false, 0, meanwhile));
        version.lock().end();
        for read in [of_before, meanwhile] {
            let (is_anew, events, _) = read_by(Some(read));
            assert_eq!((is_anew, events), (true, 2), "they may be others now");
        }
    }

    #[test]
    fn missing_and_expired_places_are_not_held_and_void_ones_are() {
        let store = store();
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
