//! The state of a topic in its stream.

use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId};

use crate::read::feed::CatchUpId;

/// State of one topic of the stream.
#[derive(Debug)]
pub(super) struct TopicState {
    /// Everything up to here was delivered from disk, or lies before the stream's cursor. Shared by
    /// most topics.
    pub(super) floor: Arc<Cursor>,
    /// The last commit that the reader has: by its own cursor, or because it was delivered. An envelope that depends on
    /// a later one is decided on disk, if that has come: it may be no commit of this topic.
    pub(super) commits: LastCommit,
    /// The catch-up that reads the topic; `None` when it is live.
    pub(super) catch_up: Option<CatchUpId>,
}

impl TopicState {
    /// Notes that an envelope of the topic is delivered.
    pub(super) fn note(&mut self, id: EnvelopeId) {
        if id.originator == OriginatorId::GROUP_MESSAGES {
            self.commits = self.commits.max(LastCommit::at(id.sequence));
        }
    }
}

/// The last commit of its group that the reader of a topic has, in half the room of a place: a stream may have a
/// million topics. Of a place that needs more room, the reader counts as having all commits, so that it is shown
/// strays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LastCommit(u32);

impl LastCommit {
    /// Returns the commit at a place.
    pub(super) fn at(place: SequenceId) -> Self {
        Self(u32::try_from(place.0).unwrap_or(u32::MAX))
    }

    /// Returns the place of the commit.
    pub(super) fn place(self) -> SequenceId {
        if self.0 == u32::MAX { SequenceId::MAX } else { SequenceId(self.0.into()) }
    }
}
