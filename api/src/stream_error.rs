//! Errors that end a stream of `QueryApi.Subscribe`, and the limits of a stream.

use hawser_engine::read::QueryError;
use hawser_proto::topic::TopicError;
use hawser_proto::{TOPIC_LEN_BYTES_MAX, Topic};
use hawser_serve::{StatusDetails, WrongField};
use tonic::Code;

/// Largest number of topics of a stream, unless the operator allows fewer. Specified: `docs/protocol/api.md`.
pub(crate) const TOPICS_MAX: usize = 1_000_000;
/// Largest number of adds in a Mutate, repeated topics included. Specified there.
pub(crate) const ADDS_MAX: usize = 100_000;
/// Largest number of entries of all cursors in a Mutate. Specified there.
pub(crate) const ADDED_ENTRIES_MAX: usize = 1_000_000;
/// Largest number of waves in flight. Specified there.
pub(crate) const WAVES_MAX: usize = 256;

/// The reason for which a stream ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("unrecognized SubscribeRequest version")]
    Version,
    #[error(transparent)]
    Mutate(#[from] MutateError),
    #[error("no Pong within deadline")]
    NoPong,
    #[error("send stalled; client not reading")]
    Stalled,
    #[error("the last frames were not read in time")]
    DrainLate,
    /// The log could not be read.
    #[error(transparent)]
    Read(QueryError),
    #[error("requests could not be received: {0}")]
    Receive(String),
}

impl StreamError {
    /// Returns the machine-readable details beside the text.
    pub(crate) fn details(&self) -> StatusDetails {
        let reason = match self {
            Self::Version => "REQUEST_VERSION",
            Self::Mutate(error) => {
                let wrong = error.wrong().into_iter().collect();
                return StatusDetails { wrong, ..StatusDetails::of(error.name()) };
            }
            Self::NoPong => "NO_PONG",
            Self::Stalled => "STALLED",
            Self::DrainLate => "DRAIN_LATE",
            Self::Read(_) => "LOG_UNREADABLE",
            Self::Receive(_) => "REQUESTS_LOST",
        };
        StatusDetails::of(reason)
    }

    /// Returns the code of the status.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Mutate(error) if error.is_limit() => Code::ResourceExhausted,
            Self::Version | Self::Mutate(_) => Code::InvalidArgument,
            Self::NoPong | Self::DrainLate => Code::DeadlineExceeded,
            Self::Stalled | Self::Read(_) | Self::Receive(_) => Code::Unavailable,
        }
    }
}

/// The check that a Mutate fails. The stream ends with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MutateError {
    #[error("mutate_id must not be 0 if there are adds")]
    IdMissing,
    #[error("mutate_id {0} names a wave that is still in flight")]
    IdInUse(u64),
    #[error("too many adds: {0}, at most {ADDS_MAX} are allowed in one Mutate")]
    TooManyAdds(usize),
    #[error("too many cursor entries: {0}, at most {ADDED_ENTRIES_MAX} are allowed in one Mutate")]
    TooManyCursorEntries(usize),
    // The first number is the place of the remove or add in the Mutate.
    #[error("remove: {1}")]
    Remove(usize, TopicError),
    #[error("add: {1}")]
    Add(usize, TopicError),
    #[error(
        "add: topic {} is subscribed already, and history_only would not change that",
        named(.1)
    )]
    Subscribed(usize, Topic),
    #[error("add: topic {} has a history_only wave in flight", named(.1))]
    HistoryInFlight(usize, Topic),
    #[error("add: cursor entry {1}:{2} is out of range")]
    CursorEntry(usize, u32, u64),
    // The second number is the largest one that this node allows.
    #[error("too many topics: {0}, at most {1} are allowed on one stream")]
    TooManyTopics(usize, usize),
    #[error("too many waves: {WAVES_MAX} are in flight")]
    TooManyWaves,
}

/// Returns the name of a topic, and of a long one its beginning: topics of a stream have no upper bound, and texts of
/// statuses have one.
fn named(topic: &Topic) -> String {
    let bytes = topic.as_bytes();
    if bytes.len() <= TOPIC_LEN_BYTES_MAX {
        return topic.to_string();
    }
    let beginning = Topic::parse(bytes.slice(..TOPIC_LEN_BYTES_MAX));
    beginning.map_or_else(|error| error.to_string(), |topic| format!("{topic}..."))
}

impl MutateError {
    /// Returns the name of the check, a constant that programs can match.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::IdMissing => "MUTATE_ID_MISSING",
            Self::IdInUse(_) => "MUTATE_ID_IN_FLIGHT",
            Self::TooManyAdds(_) => "TOO_MANY_ADDS",
            Self::TooManyCursorEntries(_) => "CURSOR_ENTRIES",
            Self::Remove(..) => "REMOVE_TOPIC",
            Self::Add(..) => "ADD_TOPIC",
            Self::Subscribed(..) => "HISTORY_OF_SUBSCRIBED",
            Self::HistoryInFlight(..) => "HISTORY_IN_FLIGHT",
            Self::CursorEntry(..) => "CURSOR_RANGE",
            Self::TooManyTopics(..) => "TOO_MANY_TOPICS",
            Self::TooManyWaves => "TOO_MANY_WAVES",
        }
    }

    /// Returns the remove or add that is wrong; `None` if the error is not about a single one.
    fn wrong(&self) -> Option<WrongField> {
        let field = match self {
            Self::Remove(place, _) => format!("v1.mutate.removes[{place}]"),
            Self::Add(place, _)
            | Self::Subscribed(place, _)
            | Self::HistoryInFlight(place, _)
            | Self::CursorEntry(place, ..) => format!("v1.mutate.adds[{place}]"),
            Self::IdMissing
            | Self::IdInUse(_)
            | Self::TooManyAdds(_)
            | Self::TooManyCursorEntries(_)
            | Self::TooManyTopics(..)
            | Self::TooManyWaves => return None,
        };
        Some(WrongField { field, description: self.to_string(), reason: self.name().into() })
    }

    /// Returns true if the Mutate exceeds a limit, and false if it is malformed.
    pub(crate) fn is_limit(&self) -> bool {
        matches!(
            self,
            Self::TooManyAdds(_)
                | Self::TooManyCursorEntries(_)
                | Self::TooManyTopics(..)
                | Self::TooManyWaves
        )
    }
}
