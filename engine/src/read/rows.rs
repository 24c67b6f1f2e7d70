//! Where page plans get the rows of topics from.

use hawser_proto::{EnvelopeId, Topic};
use hawser_storage::{TopicRow, TopicScan};

use super::error::ReadError;

/// Rows of topics, by originator and then by sequence.
pub(crate) trait Rows {
    /// The first row of `topic` at or after `from`.
    fn seek(&mut self, topic: &Topic, from: EnvelopeId) -> Result<Option<TopicRow>, ReadError>;

    /// The row after the one returned last, within the same topic.
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

/// The first dependency of an envelope that its readers would have to wait for, if `satisfied`
/// says no.
///
/// Only envelopes of nodes wait, and only for chain strands. What a chain has ordered is shown in
/// the chain's order whatever it claims to depend on: anybody may write there, and a claim that
/// never comes true would otherwise stop a group for everybody.
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
