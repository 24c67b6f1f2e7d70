//! A bound on the reports of each writer that one look computes.

use std::collections::HashMap;

use hawser_proto::OriginatorId;

/// Reports of one writer that are recomputed in one look. A guess: an honest node has one report that waits. A node
/// that floods the topic delays the looks at its own reports.
const COMPUTED_AT_ONCE: usize = 4;

/// The reports that one look has recomputed, by writer.
#[derive(Debug, Default)]
pub(super) struct WriterTurns(HashMap<OriginatorId, usize>);

impl WriterTurns {
    /// Returns the first of the writers of a report of which this look may recompute another one.
    pub(super) fn first_with_turn(
        &self,
        mut writers: impl Iterator<Item = OriginatorId>,
    ) -> Option<OriginatorId> {
        writers.find(|it| self.0.get(it).is_none_or(|count| *count < COMPUTED_AT_ONCE))
    }

    /// Counts a report of a writer that is recomputed.
    pub(super) fn take(&mut self, writer: OriginatorId) {
        *self.0.entry(writer).or_default() += 1;
    }
}
