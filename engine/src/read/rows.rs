//! The source of a page plan's rows, and the dependencies that hold a row back.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, Topic};
use hawser_storage::{TopicRow, TopicScan};

use super::error::QueryError;
use super::limits::is_deliverable;

/// Rows that one seek counts as in [`Rows::looked_at`]. A guess at the cost of a seek relative to a
/// row.
pub(crate) const ROWS_PER_SEEK: usize = 10;

/// Bytes of an envelope from the log that count as one row. A guess: what copying them costs beside a row.
pub(crate) const BYTES_PER_ROW: usize = 1024;

/// Rows of topics, by originator and then by sequence.
pub(crate) trait Rows {
    /// Returns the number of rows looked at so far, with [`ROWS_PER_SEEK`] for each seek: the work that was done.
    fn looked_at(&self) -> usize;

    /// Returns false if `topic` certainly has no row after `after` and up to `ends`.
    fn probe_newer(
        &mut self,
        topic: &Topic,
        after: &dyn Fn(OriginatorId) -> SequenceId,
        ends: &[EnvelopeId],
    ) -> bool;

    /// Moves to the first row of `topic` at or after `from`.
    fn seek(&mut self, topic: &Topic, from: EnvelopeId) -> Result<Option<TopicRow>, QueryError>;

    /// Moves to the row after the one returned last, within the same topic.
    fn next_row(&mut self) -> Result<Option<TopicRow>, QueryError>;

    /// Moves to the last row of `topic` at or before `through`, which may belong to a lower strand.
    fn seek_back(
        &mut self,
        topic: &Topic,
        through: EnvelopeId,
    ) -> Result<Option<TopicRow>, QueryError>;

    /// Moves to the row before the one returned last, within the same topic.
    fn previous_row(&mut self) -> Result<Option<TopicRow>, QueryError>;
}

/// Rows on disk. Envelopes that fit into no answer are skipped: a hostile node may have had one stored, and it must
/// not block the others of its topic.
impl Rows for TopicScan<'_> {
    fn looked_at(&self) -> usize {
        self.rows_read() + ROWS_PER_SEEK * self.seeks()
    }

    fn probe_newer(
        &mut self,
        topic: &Topic,
        after: &dyn Fn(OriginatorId) -> SequenceId,
        ends: &[EnvelopeId],
    ) -> bool {
        TopicScan::probe_newer(self, topic.as_bytes(), after, ends)
    }

    fn seek(&mut self, topic: &Topic, from: EnvelopeId) -> Result<Option<TopicRow>, QueryError> {
        let found = TopicScan::seek(self, topic.as_bytes(), from)?;
        deliverable(self, found, TopicScan::next_row)
    }

    fn next_row(&mut self) -> Result<Option<TopicRow>, QueryError> {
        let found = TopicScan::next_row(self)?;
        deliverable(self, found, TopicScan::next_row)
    }

    fn seek_back(
        &mut self,
        topic: &Topic,
        through: EnvelopeId,
    ) -> Result<Option<TopicRow>, QueryError> {
        let found = TopicScan::seek_back(self, topic.as_bytes(), through)?;
        deliverable(self, found, TopicScan::previous_row)
    }

    fn previous_row(&mut self) -> Result<Option<TopicRow>, QueryError> {
        let found = TopicScan::previous_row(self)?;
        deliverable(self, found, TopicScan::previous_row)
    }
}

/// Steps on until a row's envelope fits into an answer.
fn deliverable<'s>(
    scan: &mut TopicScan<'s>,
    mut found: Option<TopicRow>,
    step: impl Fn(&mut TopicScan<'s>) -> Result<Option<TopicRow>, hawser_storage::ReadError>,
) -> Result<Option<TopicRow>, QueryError> {
    while found.as_ref().is_some_and(|row| !is_deliverable(row.len_bytes as usize)) {
        found = step(scan)?;
    }
    Ok(found)
}

/// Returns true if `place` is at or below `commits`, the last commit of its group that a reader has.
pub(crate) fn is_commit_read(place: EnvelopeId, commits: SequenceId) -> bool {
    place.originator == OriginatorId::GROUP_MESSAGES && place.sequence <= commits
}

/// Returns true if readers wait for a place until this node has it: a place of a chain, which every node reads.
///
/// An envelope may also name a place of the older network. Its strands are at some nodes alone and have no commits, so
/// readers elsewhere would wait for ever, and with them everything behind the envelope. Such an envelope goes on, and
/// is a [stray](crate::read::plan) unless the place is one of its topic. Of strands that no node has, a row names one
/// place.
pub(crate) fn is_awaited(place: EnvelopeId) -> bool {
    place.originator.is_of_chain()
}

/// Returns the first dependency of an envelope that is not `satisfied`, and that its readers wait for or have to be
/// spared: an envelope that depends on it may be a [stray](crate::read::plan).
///
/// Only envelopes of nodes wait, and only for what [is awaited](is_awaited). Envelopes of a chain are shown in the
/// chain's order, independently of their claimed dependencies. Any account may write to the contract, and one
/// dependency that never arrives would stop the group for all its members. Queries leave such an envelope out instead
/// ([strays](crate::read::plan)).
pub(crate) fn first_unsatisfied(
    id: EnvelopeId,
    depends_on: &[EnvelopeId],
    satisfied: impl Fn(EnvelopeId) -> bool,
) -> Option<EnvelopeId> {
    if !id.originator.is_node() {
        return None;
    }
    depends_on.iter().copied().find(|&on| !on.originator.is_node() && !satisfied(on))
}
