//! Stages the marks of a pruning step; neighbouring places share one row.

use std::collections::BTreeMap;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use rocksdb::{DBRawIterator, WriteBatch};

use crate::database::Database;
use crate::error::ReadError;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::mark::{Mark, MarkKey};
use crate::raw_rows::{current_mark_of, nearest_mark};

/// Finds the stored marks around places. Places must ascend, so that most need no read, because marks are few.
pub(crate) struct MarksAround<'a> {
    rows: DBRawIterator<'a>,
    last: Option<SurroundingMarks>,
    /// The place at which the last mark below the first place is expected.
    expected: Option<EnvelopeId>,
}

/// The last mark of a strand at or below a place, and its first one above it.
#[derive(Clone, Copy)]
struct SurroundingMarks {
    originator: OriginatorId,
    below: Option<(EnvelopeId, Mark)>,
    above: Option<(EnvelopeId, Mark)>,
}

impl<'a> MarksAround<'a> {
    /// Creates the reader from an iterator over `mark`, which sees one state of it.
    pub(crate) fn new(rows: DBRawIterator<'a>) -> Self {
        Self { rows, last: None, expected: None }
    }

    /// Expects the last mark below the first place at `expected`, where it then needs no search from above. That would
    /// pass the values that the row had before: each write of pruning adds one, until a memory table is written out.
    pub(crate) fn expecting(self, expected: Option<EnvelopeId>) -> Self {
        Self { expected, ..self }
    }

    /// Returns the marks around a place. Places must not descend.
    fn of(&mut self, id: EnvelopeId) -> Result<SurroundingMarks, ReadError> {
        let is_still = |it: &SurroundingMarks| {
            it.originator == id.originator && it.above.is_none_or(|(at, _)| id < at)
        };
        if let Some(around) = self.last.filter(is_still) {
            return Ok(around);
        }
        let expected = self.expected.take().and_then(|at| self.expected_around(at, id));
        let around = match expected {
            Some(around) => around,
            None => self.search(id)?,
        };
        self.last = Some(around);
        Ok(around)
    }

    /// Returns the marks around a place if the last one below it is at `expected`; `None` if it is another one, or if
    /// a search has to tell what cannot be read.
    fn expected_around(
        &mut self,
        expected: EnvelopeId,
        id: EnvelopeId,
    ) -> Option<SurroundingMarks> {
        if expected.originator != id.originator || expected.sequence > id.sequence {
            return None;
        }
        self.rows.seek(MarkKey(expected).encode());
        let below = current_mark_of(&self.rows, id.originator).ok()?;
        if below?.0 != expected {
            return None;
        }
        self.rows.next();
        let above = current_mark_of(&self.rows, id.originator).ok()?;
        let is_last = above.is_none_or(|(at, _)| id < at);
        is_last.then_some(SurroundingMarks { originator: id.originator, below, above })
    }

    /// Searches the marks around a place from above.
    fn search(&mut self, id: EnvelopeId) -> Result<SurroundingMarks, ReadError> {
        let (originator, below) = (id.originator, nearest_mark(&mut self.rows, id)?);
        // The row at or below the place may be one of another strand.
        if self.rows.valid() {
            self.rows.next();
        } else {
            self.rows.seek_to_first();
        }
        let above = current_mark_of(&self.rows, originator)?;
        Ok(SurroundingMarks { originator, below, above })
    }

    /// Returns true if a mark covers the place.
    pub(crate) fn cover(&mut self, id: EnvelopeId) -> Result<bool, ReadError> {
        Ok(self.of(id)?.below.is_some_and(|(at, mark)| mark.end(at) >= id.sequence))
    }
}

/// The ranges of pruned places of a batch, each joined with adjacent stored ranges. Places must ascend.
#[derive(Default)]
pub(crate) struct PrunedRanges {
    /// First place of each range → last one.
    made: BTreeMap<EnvelopeId, SequenceId>,
    /// Stored rows that a range has absorbed.
    taken: Vec<EnvelopeId>,
}

impl PrunedRanges {
    /// Adds a place that no mark covers.
    ///
    /// # Errors
    /// [`ReadError`] if the marks cannot be read, or the place lies below the last one.
    pub(crate) fn add(
        &mut self,
        id: EnvelopeId,
        marks: &mut MarksAround<'_>,
    ) -> Result<(), ReadError> {
        let is_behind = |(first, last): (&EnvelopeId, &SequenceId)| {
            EnvelopeId { sequence: *last, ..*first } < id
        };
        // Ranges that overlap would end every scan of the strand with an error. A damaged table can lead here.
        if !self.made.last_key_value().is_none_or(is_behind) {
            return Err(ReadError::corrupt(MarkKey::FAMILY, &MarkKey(id).encode()));
        }
        let SurroundingMarks { below, above, .. } = marks.of(id)?;
        let mut through = id.sequence;
        if let Some((at, Mark::Pruned { through: end })) = above
            && at == (EnvelopeId { sequence: id.sequence.next(), ..id })
        {
            self.taken.push(at);
            through = end;
        }
        let before = id.sequence.previous();
        if let Some(mut last) = self.made.last_entry()
            && last.key().originator == id.originator
            && *last.get() == before
        {
            last.insert(through);
            return Ok(());
        }
        let mut first = id;
        if let Some((at, Mark::Pruned { through: end })) = below
            && end == before
        {
            first = at;
        }
        self.made.insert(first, through);
        Ok(())
    }

    /// Returns the first place of the last range, which is the place of its mark.
    pub(crate) fn last_mark(&self) -> Option<EnvelopeId> {
        self.made.last_key_value().map(|(first, _)| *first)
    }

    /// Stages the ranges.
    pub(crate) fn stage(self, database: &Database, batch: &mut WriteBatch) {
        let family = database.family(Family::Mark);
        // Deleted before the ranges are put. No range begins at an absorbed row.
        for at in self.taken {
            batch.delete_cf(family, MarkKey(at).encode());
        }
        let mut value = Vec::new();
        for (first, through) in self.made {
            Mark::Pruned { through }.encode_into(&mut value);
            batch.put_cf(family, MarkKey(first).encode(), &value);
        }
    }
}
