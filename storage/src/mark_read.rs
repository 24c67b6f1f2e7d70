//! Reads the mark of a place, and the ranges of a part of a strand that are marked missing, as peers ask for them.

use hawser_proto::{EnvelopeId, SequenceId};
use rocksdb::ReadOptions;

use crate::error::ReadError;
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;
use crate::keys::mark::{Mark, MarkKey};
use crate::raw_rows::{current_mark, current_mark_of, seek_nearest_mark};
use crate::snapshot::Snapshot;

impl Snapshot<'_> {
    /// Returns the mark of a place. For a place within a skipped range this is the range's mark.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn mark(&self, id: EnvelopeId) -> Result<Option<Mark>, ReadError> {
        let open = || self.rows(MarkKey::FAMILY, ReadOptions::default());
        let mut rows = open();
        if !seek_nearest_mark(&mut rows, open, id)? {
            return Ok(None);
        }
        let nearest = match current_mark(&rows) {
            Ok(nearest) => nearest,
            // It may be the mark of a range, and no range covers a stored envelope.
            Err(_) if rows.key() != Some(&MarkKey(id).encode()[..]) && self.is_stored(id) => None,
            Err(error) => return Err(error),
        };
        Ok(nearest.filter(|(at, mark)| mark.end(*at) >= id.sequence).map(|(_, mark)| mark))
    }

    /// Returns true if a place has an envelope that can be read.
    fn is_stored(&self, id: EnvelopeId) -> bool {
        matches!(self.row(EnvelopeKey(id), |_| Some(())), Ok(Some(())))
    }

    /// Returns the ranges that are marked missing and begin after a place of their strand, ascending, both ends
    /// included: those among the next `marks_max` marks. A strand has other marks, too.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn missing_after(
        &self,
        after: EnvelopeId,
        marks_max: usize,
    ) -> Result<Vec<(SequenceId, SequenceId)>, ReadError> {
        let mut missing = Vec::new();
        let mut rows = self.rows(MarkKey::FAMILY, ReadOptions::default());
        let first = EnvelopeId::new(after.originator, after.sequence.next());
        rows.seek(MarkKey(first).encode());
        for _ in 0..marks_max {
            let Some((at, mark)) = current_mark_of(&rows, after.originator)? else { break };
            if let Mark::Missing { through } = mark {
                missing.push((at.sequence, through));
            }
            rows.next();
        }
        Ok(missing)
    }

    /// Returns true if one of these places of a strand, both ends included, is marked missing or expired: this node has
    /// not held its envelope. Looks at each mark between them.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn has_unheld(&self, from: EnvelopeId, through: SequenceId) -> Result<bool, ReadError> {
        let is_unheld = |mark: Mark| matches!(mark, Mark::Missing { .. } | Mark::Expired { .. });
        // Its range may begin before.
        if self.mark(from)?.is_some_and(is_unheld) {
            return Ok(true);
        }
        let mut rows = self.rows(MarkKey::FAMILY, ReadOptions::default());
        rows.seek(MarkKey(from).encode());
        while let Some((at, mark)) = current_mark_of(&rows, from.originator)? {
            if at.sequence > through {
                break;
            }
            if is_unheld(mark) {
                return Ok(true);
            }
            rows.next();
        }
        Ok(false)
    }
}
