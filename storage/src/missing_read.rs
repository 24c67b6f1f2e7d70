//! The ranges of a part of a strand that are marked missing, as peers ask for them.

use hawser_proto::{EnvelopeId, SequenceId};
use rocksdb::ReadOptions;

use crate::error::ReadError;
use crate::keys::Key;
use crate::keys::mark::{Mark, MarkKey};
use crate::raw_rows::current_mark_of;
use crate::snapshot::Snapshot;

impl Snapshot<'_> {
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
}
