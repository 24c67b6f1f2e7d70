//! The newest envelope of a topic.
//!
//! A strand is in its own order, and across strands time decides, as in pages. A time in the future decides
//! nothing: a node could otherwise date one envelope far ahead and hide all others behind it for good. See
//! `docs/decisions/0013-envelopes-dated-in-the-future.md`.

use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};
use hawser_storage::TopicRow;

use super::error::QueryError;
use super::rows::{Rows, first_unsatisfied};

/// The most by which a time may lie ahead of this node's clock and still count. Specified:
/// `docs/protocol/api.md`.
pub(crate) const FUTURE_NS_MAX: i64 = 5 * 60 * 1_000_000_000;

/// Rows at the end of a strand that are looked at one by one before the search takes larger steps.
/// Specified: `docs/protocol/api.md`. Mostly the first one counts.
const STEPS_MAX: u64 = 64;

/// Returns the row of the newest envelope of `topic` at `horizon_ns`.
///
/// Each strand has one candidate: its last envelope that depends on nothing above `heads` and whose time
/// is at most `horizon_ns`. The candidate with the highest time is the newest, then the one with the
/// highest id. If no strand has a candidate, returns the last envelope with the lowest time.
///
/// Costs a seek for each strand in the topic, and at most some 200 rows for one whose end does not
/// count.
pub(crate) fn newest_visible(
    rows: &mut impl Rows,
    heads: &Cursor,
    topic: &Topic,
    horizon_ns: i64,
) -> Result<Option<TopicRow>, QueryError> {
    let mut search = NewestSearch { rows, heads, topic, horizon_ns };
    let mut newest: Option<(NewestRank, TopicRow)> = None;
    let mut highest = Some(OriginatorId(u32::MAX));
    while let Some(originator) = highest {
        let through = EnvelopeId::new(originator, SequenceId(u64::MAX));
        let Some(last) = search.rows.seek_back(topic, through)? else { break };
        highest = last.id.originator.0.checked_sub(1).map(OriginatorId);
        let found = search.last_of_strand(last)?.map(|row| (search.rank(&row), row));
        let is_newer =
            |(rank, _): &(NewestRank, _)| newest.as_ref().is_none_or(|(most, _)| rank > most);
        if let Some(newer) = found.filter(is_newer) {
            newest = Some(newer);
        }
    }
    Ok(newest.map(|(_, row)| row))
}

/// Order of the last envelopes of strands: the greatest is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct NewestRank {
    has_come: bool,
    /// The time; negated if it is in the future, so that a high value is no advantage.
    time: i64,
    id: EnvelopeId,
}

struct NewestSearch<'a, R> {
    rows: &'a mut R,
    heads: &'a Cursor,
    topic: &'a Topic,
    horizon_ns: i64,
}

impl<R: Rows> NewestSearch<'_, R> {
    /// Returns the last envelope that counts of the strand that ends with the row `last`, under the
    /// cursor of `rows`.
    fn last_of_strand(&mut self, last: TopicRow) -> Result<Option<TopicRow>, QueryError> {
        let originator = last.id.originator;
        let mut early = None;
        let mut lowest = last.id;
        let mut row = Some(last);
        for _ in 0..STEPS_MAX {
            let Some(current) = row.filter(|row| row.id.originator == originator) else {
                return Ok(early);
            };
            if self.counts(&current) {
                return Ok(Some(current));
            }
            lowest = current.id;
            if early.is_none() && self.is_visible(&current) {
                early = Some(current);
            }
            row = self.rows.previous_row()?;
        }
        Ok(self.search_below(lowest)?.or(early))
    }

    /// Searches below a row that does not count, in steps that double, and then between the last two:
    /// if the times of a strand ascend, all rows that do not count are at its end. Otherwise this finds a row that
    /// counts directly before one that does not.
    fn search_below(&mut self, beyond: EnvelopeId) -> Result<Option<TopicRow>, QueryError> {
        let mut beyond = beyond;
        let (mut found, mut low): (Option<TopicRow>, u64) = (None, 0);
        let mut step = STEPS_MAX;
        while found.is_none() && low == 0 && beyond.sequence.0 > step {
            let target = beyond.sequence.0 - step;
            match self.at_or_before(beyond, target)? {
                Some(row) if !self.counts(&row) => beyond = row.id,
                row => (found, low) = (row, target),
            }
            step = step.saturating_mul(2);
        }
        // No row lies above `found` and up to `low`.
        while beyond.sequence.0.saturating_sub(low) > 1 {
            let middle = low + (beyond.sequence.0 - low) / 2;
            match self.at_or_before(beyond, middle)? {
                Some(row) if found.as_ref().is_none_or(|found| found.id < row.id) => {
                    if self.counts(&row) {
                        (found, low) = (Some(row), middle);
                    } else {
                        beyond = row.id;
                    }
                }
                _ => low = middle,
            }
        }
        Ok(found)
    }

    /// Returns the row at `sequence` or the last one before it, in the strand of `of`.
    fn at_or_before(
        &mut self,
        of: EnvelopeId,
        sequence: u64,
    ) -> Result<Option<TopicRow>, QueryError> {
        let row = self
            .rows
            .seek_back(self.topic, EnvelopeId::new(of.originator, SequenceId(sequence)))?;
        Ok(row.filter(|row| row.id.originator == of.originator))
    }

    fn is_visible(&self, row: &TopicRow) -> bool {
        self.heads.covers(row.id)
            && first_unsatisfied(row.id, &row.depends_on, |on| self.heads.covers(on)).is_none()
    }

    fn counts(&self, row: &TopicRow) -> bool {
        row.originator_ns <= self.horizon_ns && self.is_visible(row)
    }

    fn rank(&self, row: &TopicRow) -> NewestRank {
        let has_come = row.originator_ns <= self.horizon_ns;
        let time = if has_come { row.originator_ns } else { row.originator_ns.saturating_neg() };
        NewestRank { has_come, time, id: row.id }
    }
}

#[cfg(test)]
#[path = "newest_tests.rs"]
mod tests;
