//! The source of a page plan's rows, and the dependencies that hold a row back.

use hawser_proto::{EnvelopeId, Topic};
use hawser_storage::{TopicRow, TopicScan};

use super::error::ReadError;

/// Rows of topics, by originator and then by sequence.
pub(crate) trait Rows {
    /// Moves to the first row of `topic` at or after `from`.
    fn seek(&mut self, topic: &Topic, from: EnvelopeId) -> Result<Option<TopicRow>, ReadError>;

    /// Moves to the row after the one returned last, within the same topic.
    fn next_row(&mut self) -> Result<Option<TopicRow>, ReadError>;
}

impl Rows for TopicScan<'_> {
    fn seek(&mut self, topic: &Topic, from: EnvelopeId) -> Result<Option<TopicRow>, ReadError> {
        Ok(TopicScan::seek(self, topic.as_bytes(), from)?)
    }

    fn next_row(&mut self) -> Result<Option<TopicRow>, ReadError> {
        Ok(TopicScan::next_row(self)?)
    }
}

/// Returns the first dependency of an envelope that is not `satisfied` and that its readers have to
/// wait for.
///
/// Only envelopes of nodes wait, and only for chain strands. Envelopes of a chain are shown in the
/// chain's order whatever they claim to depend on: any account may write to the contract, and one
/// claim that never comes true would stop the group for all its members.
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
