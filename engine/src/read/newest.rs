//! The newest envelope of a topic.
//!
//! A strand is in its own order, and across strands time decides, as in pages. A time in the future decides
//! nothing: a node could otherwise date one envelope far ahead, or one after the other a little ahead, and hide all
//! others behind it for good. See `docs/decisions/0013-envelopes-dated-in-the-future.md`.

use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};
use hawser_storage::TopicRow;

use super::error::QueryError;
use super::rows::{Rows, first_unsatisfied, is_awaited};

/// The most by which an envelope may be dated ahead of this node's clock and still be the last one of its strand.
/// Specified: `docs/protocol/api.md`.
const FUTURE_NS_MAX: i64 = 5 * 60 * 1_000_000_000;

/// Rows at the end of a strand that are looked at one by one before the search takes larger steps.
/// Specified: `docs/protocol/api.md`. Mostly the first one counts.
const STEPS_MAX: u64 = 64;

/// Returns the row of the newest envelope of `topic` at `now_ns`.
///
/// Each strand has one candidate: its last envelope that depends on nothing above `heads` and is dated at most five
/// minutes ahead. It ranks by its time if that has come, and otherwise by that of the last such envelope of its strand
/// whose time has. The highest time is the newest, then the highest id. A candidate without such a time comes after all
/// others, and the one with the lowest time is the first of them. If no envelope of a strand counts, its last one is
/// the candidate, without such a time.
///
/// Times of chains have come if they are at most five minutes ahead, because no node dates the envelopes of chains.
///
/// Costs a seek for each strand in the topic, and at most some 400 rows for one whose end does not
/// count.
pub(crate) fn newest_visible(
    rows: &mut impl Rows,
    heads: &Cursor,
    topic: &Topic,
    now_ns: i64,
) -> Result<Option<TopicRow>, QueryError> {
    let mut search = NewestSearch { rows, heads, topic, now_ns };
    let mut newest: Option<(NewestRank, TopicRow)> = None;
    let mut highest = Some(OriginatorId(u32::MAX));
    while let Some(originator) = highest {
        let through = EnvelopeId::new(originator, SequenceId(u64::MAX));
        let Some(last) = search.rows.seek_back(topic, through)? else { break };
        highest = last.id.originator.0.checked_sub(1).map(OriginatorId);
        let found = search.candidate(last)?;
        let is_newer =
            |(rank, _): &(NewestRank, _)| newest.as_ref().is_none_or(|(most, _)| rank > most);
        if let Some(newer) = found.filter(is_newer) {
            newest = Some(newer);
        }
    }
    Ok(newest.map(|(_, row)| row))
}

/// Order of the candidates of strands: the greatest is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct NewestRank {
    has_come: bool,
    /// The last time of the strand that has come. If there is none, the time of the candidate, negated, so that a high
    /// value is no advantage.
    time: i64,
    id: EnvelopeId,
}

struct NewestSearch<'a, R> {
    rows: &'a mut R,
    heads: &'a Cursor,
    topic: &'a Topic,
    now_ns: i64,
}

impl<R: Rows> NewestSearch<'_, R> {
    /// Returns the candidate of the strand that ends with the row `last`, under the cursor of `rows`.
    fn candidate(&mut self, last: TopicRow) -> Result<Option<(NewestRank, TopicRow)>, QueryError> {
        let ahead_ns = self.now_ns.saturating_add(FUTURE_NS_MAX);
        let come_ns = if last.id.originator.is_node() { self.now_ns } else { ahead_ns };
        let Some(row) = self.last_of_strand(last, ahead_ns)? else { return Ok(None) };
        let (id, ns) = (row.id, row.originator_ns);
        let time = if ns <= come_ns {
            Some(ns)
        } else if ns <= ahead_ns {
            self.time_before(id, come_ns)?
        } else {
            None // the search has found no earlier time
        };
        let (has_come, time) = time.map_or((false, ns.saturating_neg()), |time| (true, time));
        Ok(Some((NewestRank { has_come, time, id }, row)))
    }

    /// Returns the time of the last envelope of a strand up to `through` that counts at `until_ns`.
    fn time_before(
        &mut self,
        through: EnvelopeId,
        until_ns: i64,
    ) -> Result<Option<i64>, QueryError> {
        let Some(row) = self.rows.seek_back(self.topic, through)? else { return Ok(None) };
        let found = self.last_of_strand(row, until_ns)?;
        Ok(found.map(|row| row.originator_ns).filter(|ns| *ns <= until_ns))
    }

    /// Returns the last envelope that counts at `until_ns` of the strand that ends with the row `last`, under the
    /// cursor of `rows`. If there is none, returns the last one that its readers may see.
    fn last_of_strand(
        &mut self,
        last: TopicRow,
        until_ns: i64,
    ) -> Result<Option<TopicRow>, QueryError> {
        let originator = last.id.originator;
        let mut early = None;
        let mut lowest = last.id;
        let mut row = Some(last);
        for _ in 0..STEPS_MAX {
            let Some(current) = row.filter(|row| row.id.originator == originator) else {
                return Ok(early);
            };
            if self.counts(&current, until_ns) {
                return Ok(Some(current));
            }
            lowest = current.id;
            if early.is_none() && self.is_visible(&current) {
                early = Some(current);
            }
            row = self.rows.previous_row()?;
        }
        Ok(self.search_below(lowest, until_ns)?.or(early))
    }

    /// Searches below a row that does not count, in steps that double, and then between the last two:
    /// if the times of a strand ascend, all rows that do not count are at its end. Otherwise this finds a row that
    /// counts directly before one that does not.
    fn search_below(
        &mut self,
        beyond: EnvelopeId,
        until_ns: i64,
    ) -> Result<Option<TopicRow>, QueryError> {
        let mut beyond = beyond;
        let (mut found, mut low): (Option<TopicRow>, u64) = (None, 0);
        let mut step = STEPS_MAX;
        while found.is_none() && low == 0 && beyond.sequence.0 > step {
            let target = beyond.sequence.0 - step;
            match self.at_or_before(beyond, target)? {
                Some(row) if !self.counts(&row, until_ns) => beyond = row.id,
                row => (found, low) = (row, target),
            }
            step = step.saturating_mul(2);
        }
        // No row lies above `found` and up to `low`.
        while beyond.sequence.0.saturating_sub(low) > 1 {
            let middle = low + (beyond.sequence.0 - low) / 2;
            match self.at_or_before(beyond, middle)? {
                Some(row) if found.as_ref().is_none_or(|found| found.id < row.id) => {
                    if self.counts(&row, until_ns) {
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
        let has_come = |on| !is_awaited(on) || self.heads.covers(on);
        self.heads.covers(row.id) && first_unsatisfied(row.id, &row.depends_on, has_come).is_none()
    }

    fn counts(&self, row: &TopicRow, until_ns: i64) -> bool {
        row.originator_ns <= until_ns && self.is_visible(row)
    }
}

#[cfg(test)]
#[path = "newest_tests.rs"]
mod tests;
