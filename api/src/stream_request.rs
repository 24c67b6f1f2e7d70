//! The requests of streams that only answer, without a node, for the fuzzer: they are checked as a node checks them.

use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;

use crate::limits::{LimitError, Selected, Selection, originators, topic_filters};

/// A request of a stream that only answers.
#[derive(Debug, Clone)]
pub enum StreamRequest {
    /// The request of `SubscribeEnvelopes`.
    Envelopes(pb::SubscribeEnvelopesRequest),
    /// The request of `SubscribeOriginators`.
    Originators(pb::SubscribeOriginatorsRequest),
    /// The request of `SubscribeTopics`.
    Topics(pb::SubscribeTopicsRequest),
}

impl StreamRequest {
    /// Checks the request. Returns the number of topics that an envelope can have, or of originators, as often as they
    /// are named.
    ///
    /// # Errors
    /// The name of the limit that the request breaks, and the path of the field that is wrong.
    pub fn check(self) -> Result<usize, (&'static str, String)> {
        self.selected().map_err(|error| (error.name(), error.field().to_owned()))
    }

    fn selected(self) -> Result<usize, LimitError> {
        match self {
            Self::Envelopes(request) => match Selected::parse(request.query)?.selection {
                Selection::Nothing => Err(LimitError::Neither),
                Selection::Topics(topics) => Ok(topics.len()),
                Selection::Originators(ids) => Ok(ids.len()),
            },
            Self::Originators(request) => originators(request.filter).map(|(ids, _)| ids.len()),
            Self::Topics(request) => topic_filters(request.filters).map(|topics| topics.len()),
        }
    }
}
