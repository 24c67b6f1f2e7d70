//! The newest visible envelope of a topic.

use hawser_proto::{Cursor, EnvelopeId, SequenceId, Topic};
use hawser_storage::{Snapshot, TopicRow};

use super::error::ReadError;
use super::rows::{Rows, first_unsatisfied};

/// Sequence ids in the first window that is read backwards when the last envelope has to wait.
/// Guessed: mostly a few envelopes wait.
const WINDOW_MIN: u64 = 64;

/// Returns the newest envelope of `topic` that depends on nothing above `heads`: highest
/// `originator_ns`, ties by envelope id.
pub(crate) fn newest_visible(
    snapshot: &Snapshot<'_>,
    heads: &Cursor,
    topic: &Topic,
) -> Result<Option<EnvelopeId>, ReadError> {
    let Some(newest) = snapshot.newest(topic.as_bytes())? else { return Ok(None) };
    let mut rows = snapshot.topics();
    match Rows::seek(&mut rows, topic, newest)? {
        Some(row) if is_visible(&row, heads) => Ok(Some(newest)),
        _ => newest_visible_of_strands(&mut rows, heads, topic),
    }
}

fn is_visible(row: &TopicRow, heads: &Cursor) -> bool {
    heads.covers(row.id)
        && first_unsatisfied(row.id, &row.depends_on, |on| heads.covers(on)).is_none()
}

/// Searches each strand on its own: the newest visible envelope may lie behind one that waits.
fn newest_visible_of_strands(
    rows: &mut impl Rows,
    heads: &Cursor,
    topic: &Topic,
) -> Result<Option<EnvelopeId>, ReadError> {
    let mut newest = None;
    for head in heads.iter() {
        let last = last_visible(rows, heads, topic, head)?;
        newest = newest.max(last.map(|row| (row.originator_ns, row.id)));
    }
    Ok(newest.map(|(_, id)| id))
}

/// Returns the last visible row of the strand of `head`. Reads backwards in windows that grow: the
/// cost is a few seeks and the rows that wait.
fn last_visible(
    rows: &mut impl Rows,
    heads: &Cursor,
    topic: &Topic,
    head: EnvelopeId,
) -> Result<Option<TopicRow>, ReadError> {
    let mut window = WINDOW_MIN;
    let mut end = head.sequence;
    while end > SequenceId::NONE {
        let begin = SequenceId(end.0.saturating_sub(window));
        let mut found = None;
        let mut row = rows.seek(topic, EnvelopeId { sequence: begin.next(), ..head })?;
        while let Some(current) = row {
            if current.id.originator != head.originator || current.id.sequence > end {
                break;
            }
            found = Some(current).filter(|row| is_visible(row, heads)).or(found);
            row = rows.next_row()?;
        }
        if found.is_some() {
            return Ok(found);
        }
        end = begin;
        window = window.saturating_mul(4);
    }
    Ok(None)
}

#[cfg(test)]
#[path = "newest_tests.rs"]
mod tests;
