//! Scans one strand: merges its envelopes with its marks.

use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use rocksdb::{DBRawIterator, ReadOptions};

use crate::change::{SkipReason, Validity};
use crate::error::{DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;
use crate::keys::mark::{Mark, MarkKey};
use crate::raw_rows::seek_nearest_mark;
use crate::shared_copies::SharedCopies;

/// An item of a strand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogItem {
    /// A stored envelope.
    Envelope {
        /// Originator and sequence id.
        id: EnvelopeId,
        /// The originator envelope as signed.
        bytes: Bytes,
        /// The envelope's validity, from its mark.
        validity: Validity,
    },
    /// A range of places without envelopes.
    Skipped {
        /// The first place, included.
        from: SequenceId,
        /// The last place, included.
        through: SequenceId,
        /// The recorded reason.
        reason: SkipReason,
    },
}

/// A scan of one strand in ascending order; see [`Snapshot::log`](crate::Snapshot::log). Ends after
/// the first error.
///
/// Its valid envelopes share memory in pieces of at most 64 KiB: one that is kept keeps its piece. Others have memory
/// of their own, because a reader that leaves them out would keep theirs too.
pub struct LogScan<'s> {
    log: DBRawIterator<'s>,
    marks: DBRawIterator<'s>,
    /// The mark under the iterator. Strands have few marks, so the database is asked for the next one once and not
    /// before each envelope.
    upcoming: UpcomingMark,
    /// The first place that no item has covered yet.
    next: EnvelopeId,
    through: SequenceId,
    ended: bool,
    /// Memory for valid envelopes.
    copies: SharedCopies,
}

/// The mark under an iterator.
#[derive(Debug, Clone, Copy)]
enum UpcomingMark {
    /// The mark was not read yet.
    Unread,
    /// The mark at a place; `None` if its value cannot be decoded. Reads of this place, and of places that the mark may
    /// cover, then fail; envelopes before it are read.
    Mark(EnvelopeId, Option<Mark>),
    /// There are no more.
    Ended,
}

impl<'s> LogScan<'s> {
    /// Merges an iterator over `log` with one over `mark`, both opened with [`read_options`].
    pub(crate) fn new(
        mut log: DBRawIterator<'s>,
        open_marks: impl Fn() -> DBRawIterator<'s>,
        after: EnvelopeId,
        through: SequenceId,
    ) -> Self {
        let next = EnvelopeId { sequence: after.sequence.next(), ..after };
        let from = EnvelopeKey(next).encode();
        log.seek(from);
        // A range that covers the first place may begin below it.
        let mut marks = open_marks();
        match seek_nearest_mark(&mut marks, &open_marks, next) {
            Ok(false) => marks.seek(from),
            // No range covers a stored envelope, so what cannot be read below it tells nothing about it.
            Err(_) if log.key() == Some(&from[..]) => {
                marks = open_marks();
                marks.seek(from);
            }
            // A failed iterator stays: the first step returns its error. A later mark would hide the range.
            Ok(true) | Err(_) => {}
        }
        let (upcoming, ended) = (UpcomingMark::Unread, through <= after.sequence);
        Self { log, marks, upcoming, next, through, ended, copies: SharedCopies::new() }
    }

    /// Hands the next valid envelope to `take`, as it lies in the database's memory, and moves behind it if `take`
    /// returns true. Returns its id then. Returns `None` if `take` has refused the envelope, or if the next item is a
    /// mark, an invalid envelope, an error or the end: then [`next`](Iterator::next) returns that item.
    pub fn take_valid(&mut self, take: impl FnOnce(&[u8]) -> bool) -> Option<EnvelopeId> {
        if self.ended {
            return None;
        }
        let id = self.envelope().ok().flatten()?;
        loop {
            match self.mark().ok()? {
                // Of an envelope that is not there.
                Some((at, Some(Mark::Invalid(_) | Mark::Waiting))) if at < id => self.pass_mark(),
                Some((at, _)) if at <= id => return None,
                _ => break,
            }
        }
        if id < self.next || !take(self.log.value().expect("the iterator stands on it")) {
            return None;
        }
        self.log.next();
        self.next.sequence = id.sequence.next();
        Some(id)
    }

    /// Merges the two iterators: returns the next envelope with the validity of its mark, or the next skipped range.
    fn step(&mut self) -> Result<Option<LogItem>, ReadError> {
        loop {
            let envelope = self.envelope()?;
            let Some((at, mark)) = self.mark()? else {
                return envelope.map(|id| self.take_envelope(id, Validity::Valid)).transpose();
            };
            if let Some(id) = envelope.filter(|id| *id < at) {
                return self.take_envelope(id, Validity::Valid).map(Some);
            }
            let Some(mark) = mark else {
                return Err(ReadError::corrupt(MarkKey::FAMILY, &MarkKey(at).encode()));
            };
            match (envelope, mark) {
                (Some(id), Mark::Invalid(rule)) if id == at => {
                    self.pass_mark();
                    return self.take_envelope(id, Validity::Invalid(rule)).map(Some);
                }
                (Some(id), Mark::Waiting) if id == at => {
                    self.pass_mark();
                    return self.take_envelope(id, Validity::Waiting).map(Some);
                }
                // The mark's envelope is beyond the bound of the scan.
                (_, Mark::Invalid(_) | Mark::Waiting) => self.pass_mark(),
                (_, Mark::Missing { through }) => {
                    return self.take_range(at, through, SkipReason::Missing).map(Some);
                }
                (_, Mark::Void { through }) => {
                    return self.take_range(at, through, SkipReason::Void).map(Some);
                }
                (_, Mark::Expired { through }) => {
                    return self.take_range(at, through, SkipReason::Expired).map(Some);
                }
                (_, Mark::Pruned { through }) => {
                    return self.take_range(at, through, SkipReason::Pruned).map(Some);
                }
            }
        }
    }

    /// Returns the id under the log iterator.
    fn envelope(&self) -> Result<Option<EnvelopeId>, ReadError> {
        let Some(key) = self.log.key() else {
            self.log.status().map_err(DatabaseError::from)?;
            return Ok(None);
        };
        let id = EnvelopeKey::decode(key).ok_or_else(|| ReadError::corrupt(Family::Log, key))?;
        Ok(Some(id.0))
    }

    /// Returns the next mark that covers a place at or after `next`, or that cannot be decoded and may cover one.
    fn mark(&mut self) -> Result<Option<(EnvelopeId, Option<Mark>)>, ReadError> {
        loop {
            match self.upcoming {
                UpcomingMark::Unread => self.upcoming = self.read_mark()?,
                UpcomingMark::Mark(at, mark) => {
                    let is_passed = match mark {
                        Some(mark) => mark.end(at) < self.next.sequence,
                        // An envelope is stored at `next`, so no range of marked places reaches it.
                        None => at < self.next && self.is_stored_next(),
                    };
                    if !is_passed {
                        return Ok(Some((at, mark)));
                    }
                    self.pass_mark();
                }
                UpcomingMark::Ended => return Ok(None),
            }
        }
    }

    /// Reads the mark under the iterator.
    fn read_mark(&self) -> Result<UpcomingMark, ReadError> {
        let Some((key, value)) = self.marks.item() else {
            self.marks.status().map_err(DatabaseError::from)?;
            return Ok(UpcomingMark::Ended);
        };
        let MarkKey(at) =
            MarkKey::decode(key).ok_or_else(|| ReadError::corrupt(MarkKey::FAMILY, key))?;
        Ok(UpcomingMark::Mark(at, Mark::decode(value)))
    }

    /// Returns true if the place `next` has an envelope.
    fn is_stored_next(&self) -> bool {
        self.log.key() == Some(&EnvelopeKey(self.next).encode()[..])
    }

    /// Moves to the next mark.
    fn pass_mark(&mut self) {
        self.marks.next();
        self.upcoming = UpcomingMark::Unread;
    }

    /// Takes the envelope under the log iterator.
    ///
    /// An envelope inside a skipped range is damage on the disk, not a broken invariant of this process: it ends
    /// the scan with an error, so that no place is returned twice.
    fn take_envelope(&mut self, id: EnvelopeId, validity: Validity) -> Result<LogItem, ReadError> {
        if id < self.next {
            return Err(ReadError::corrupt(Family::Log, &EnvelopeKey(id).encode()));
        }
        let value = self.log.value().expect("the iterator stands on it");
        let bytes = match validity {
            Validity::Valid => self.copies.copy(value),
            Validity::Invalid(_) | Validity::Waiting => Bytes::copy_from_slice(value),
        };
        self.log.next();
        self.next.sequence = id.sequence.next();
        Ok(LogItem::Envelope { id, bytes, validity })
    }

    fn take_range(
        &mut self,
        at: EnvelopeId,
        end: SequenceId,
        reason: SkipReason,
    ) -> Result<LogItem, ReadError> {
        let from = at.sequence.max(self.next.sequence);
        let through = end.min(self.through);
        if from > through {
            return Err(ReadError::corrupt(MarkKey::FAMILY, &MarkKey(at).encode()));
        }
        self.pass_mark();
        self.next.sequence = through.next();
        Ok(LogItem::Skipped { from, through, reason })
    }
}

impl Iterator for LogScan<'_> {
    type Item = Result<LogItem, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.step().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

/// Bounds an iterator to the places of one strand up to `through`.
pub(crate) fn read_options(originator: OriginatorId, through: SequenceId) -> ReadOptions {
    let end = EnvelopeId::new(originator, through.next());
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(MarkKey(end).encode());
    options.fill_cache(false);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NODE, bare_facts, store};
    use crate::{Change, InvalidRule, LogEntry, Store};

    /// Returns a store with the places 1 to 5 skipped, and damage: an envelope within them.
    fn damaged() -> Store {
        let store = store();
        let (from, through) = (SequenceId(1), SequenceId(5));
        let skip = Change::Skip { originator: NODE, from, through, reason: SkipReason::Missing };
        store.commit(&[skip]).unwrap();
        let key = EnvelopeKey(EnvelopeId::new(NODE, SequenceId(3))).encode();
        let database = store.database();
        database.db.put_cf(database.family(Family::Log), key, b"envelope").unwrap();
        store
    }

    #[test]
    fn an_envelope_inside_a_skipped_range_ends_the_scan_with_an_error() {
        let store = damaged();
        let snapshot = store.snapshot();
        let mut scan = snapshot.log(EnvelopeId::new(NODE, SequenceId::NONE), SequenceId(9));
        let (from, through) = (SequenceId(1), SequenceId(5));
        let skipped = LogItem::Skipped { from, through, reason: SkipReason::Missing };
        assert_eq!(scan.next(), Some(Ok(skipped)));
        assert_eq!(scan.take_valid(|_| true), None);
        let key = EnvelopeKey(EnvelopeId::new(NODE, SequenceId(3))).encode();
        assert_eq!(scan.next(), Some(Err(ReadError::corrupt(Family::Log, &key))));
        assert_eq!(scan.next(), None, "it goes on after an error");
        assert_eq!(scan.take_valid(|_| true), None);
    }

    /// Returns a store with the places 1 to 20, of which every fifth has a valid envelope.
    fn mostly_invalid() -> Store {
        let store = store();
        let entry = |place: u64| {
            let (id, bytes) = (EnvelopeId::new(NODE, SequenceId(place)), Bytes::from(vec![7; 100]));
            match place % 5 {
                0 => LogEntry::valid(id, bytes, bare_facts()),
                _ => LogEntry::invalid(id, bytes, InvalidRule(1)),
            }
        };
        let changes: Vec<Change> = (1..=20).map(|place| Change::Append(entry(place))).collect();
        store.commit(&changes).unwrap();
        store
    }

    #[test]
    fn valid_envelopes_are_taken_where_they_lie_and_other_items_are_left_to_the_scan() {
        let store = mostly_invalid();
        let snapshot = store.snapshot();
        let mut scan = snapshot.log(EnvelopeId::new(NODE, SequenceId::NONE), SequenceId(20));
        let (mut taken, mut passed) = (Vec::new(), 0);
        loop {
            let id = scan.take_valid(|bytes| {
                assert_eq!(bytes, [7; 100]);
                true
            });
            match (id, id.is_none().then(|| scan.next()).flatten()) {
                (Some(id), _) => taken.push(id.sequence.0),
                (None, Some(item)) => passed += u64::from(item.is_ok()),
                (None, None) => break,
            }
        }
        assert_eq!((taken, passed), (vec![5, 10, 15, 20], 16));

        let mut scan = snapshot.log(EnvelopeId::new(NODE, SequenceId(4)), SequenceId(20));
        assert_eq!(scan.take_valid(|_| false), None);
        let next = scan.next().unwrap().unwrap();
        assert!(matches!(next, LogItem::Envelope { id, .. } if id.sequence == SequenceId(5)));
    }

    /// Returns the places of the valid envelopes behind `after`, and the error that ends the scan.
    fn scanned(store: &Store, after: u64, takes: bool) -> (Vec<u64>, Option<ReadError>) {
        let (snapshot, mut places) = (store.snapshot(), Vec::new());
        let mut scan = snapshot.log(EnvelopeId::new(NODE, SequenceId(after)), SequenceId(20));
        loop {
            if let Some(id) = takes.then(|| scan.take_valid(|_| true)).flatten() {
                places.push(id.sequence.0);
                continue;
            }
            match scan.next() {
                Some(Ok(LogItem::Envelope { id, validity: Validity::Valid, .. })) => {
                    places.push(id.sequence.0);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return (places, Some(error)),
                None => return (places, None),
            }
        }
    }

    /// The disk has changed a mark in a way that no checksum shows.
    #[test]
    fn a_mark_that_cannot_be_decoded_is_an_error_of_its_own_place_only() {
        let store = mostly_invalid();
        let database = store.database();
        let key = MarkKey(EnvelopeId::new(NODE, SequenceId(12))).encode();
        database.db.put_cf(database.family(Family::Mark), key, [0xff_u8]).unwrap();
        for place in [11_u64, 13] {
            let key = MarkKey(EnvelopeId::new(NODE, SequenceId(place))).encode();
            database.db.delete_cf(database.family(Family::Mark), key).unwrap();
        }
        let error = ReadError::corrupt(Family::Mark, &key);
        for takes in [false, true] {
            let read = scanned(&store, 0, takes);
            assert_eq!(read, (vec![5, 10, 11], Some(error.clone())), "those before it");
            assert_eq!(scanned(&store, 11, takes), (vec![], Some(error.clone())), "its own");
            assert_eq!(scanned(&store, 12, takes), (vec![13, 15, 20], None), "those behind it");
        }
        // It may be the mark of a range, which covers no stored envelope.
        let log = database.family(Family::Log);
        let key = EnvelopeKey(EnvelopeId::new(NODE, SequenceId(13))).encode();
        database.db.delete_cf(log, key).unwrap();
        assert_eq!(scanned(&store, 12, false), (vec![], Some(error)), "it may cover the next one");
        assert_eq!(scanned(&store, 13, false), (vec![15, 20], None));
    }

    /// A registered node may have had millions of envelopes stored that break rules. Pages leave them out.
    #[test]
    fn envelopes_that_readers_do_not_get_take_no_room_beside_those_that_they_keep() {
        let store = mostly_invalid();
        let snapshot = store.snapshot();
        let scan = snapshot.log(EnvelopeId::new(NODE, SequenceId::NONE), SequenceId(20));
        let valid = scan.filter_map(|item| match item.unwrap() {
            LogItem::Envelope { bytes, validity: Validity::Valid, .. } => Some(bytes),
            _ => None,
        });
        let valid: Vec<Bytes> = valid.collect();
        assert_eq!(valid.len(), 4);
        let follows = |pair: &[Bytes]| pair[0].as_ptr_range().end == pair[1].as_ptr();
        assert!(valid.windows(2).all(follows), "nothing lies between those that are kept");
    }
}
