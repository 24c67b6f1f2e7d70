//! Rows of a source that omits places: gaps replace the omitted places.

use hawser_proto::SequenceId;

use crate::replay::{GapReason, LogRows, SourceError, StrandRow};

/// The rows of a strand, and a gap wherever the source omitted places between two of them.
///
/// Places behind the last row get no gap: a later run asks for them again.
pub(super) struct ShownRows<'a> {
    rows: LogRows<'a>,
    /// The last place that was reported.
    reached: SequenceId,
    /// The row behind a gap.
    held: Option<StrandRow>,
}

impl<'a> ShownRows<'a> {
    /// Takes the rows after a place.
    pub(super) fn new(rows: LogRows<'a>, after: SequenceId) -> Self {
        Self { rows, reached: after, held: None }
    }
}

impl Iterator for ShownRows<'_> {
    type Item = Result<StrandRow, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = match self.held.take() {
            Some(row) => row,
            None => match self.rows.next()? {
                Ok(row) => row,
                Err(error) => return Some(Err(error)),
            },
        };
        let StrandRow::Envelope { sequence, .. } = row else { return Some(Ok(row)) };
        let from = self.reached.next();
        if sequence < from || sequence > SequenceId::MAX {
            return Some(Err(SourceError(format!("place {sequence} came after {}", self.reached))));
        }
        if sequence > from {
            (self.held, self.reached) = (Some(row), sequence.previous());
            let (through, reason) = (self.reached, GapReason::NotShown);
            return Some(Ok(StrandRow::Gap { from, through, reason }));
        }
        self.reached = sequence;
        Some(Ok(row))
    }
}
