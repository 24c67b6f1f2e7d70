//! Errors of calls, and their gRPC statuses. The only place where errors become statuses.

use hawser_engine::read::ReadError;
use hawser_engine::runtime::PublishError;
use hawser_serve::{MESSAGE_LEN_BYTES_MAX, SHUTTING_DOWN};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::limits::LimitError;

/// The error of a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// A query breaks a limit.
    #[error("invalid query: {0}")]
    Query(LimitError),
    /// A subscription breaks a limit.
    #[error("invalid subscription request: {0}")]
    Subscription(LimitError),
    /// The filter of a subscription is missing or incomplete.
    #[error("{0}")]
    Filter(LimitError),
    /// The engine refused a publish.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Another request breaks a limit.
    #[error("{0}")]
    Request(LimitError),
    /// This node has no usage rows for the payer.
    #[error("payer {0} is not known")]
    UnknownPayer(String),
    /// The log holds bytes that are no envelope.
    #[error("a stored envelope does not decode")]
    Undecodable,
    /// The thread that read the log panicked.
    #[error("reading was interrupted")]
    Interrupted,
    /// The response would exceed the limit of a message.
    #[error("the answer would exceed {MESSAGE_LEN_BYTES_MAX} bytes: ask for less at once")]
    AnswerTooLarge,
    /// The server stops and ends its streams.
    #[error("{SHUTTING_DOWN}")]
    ShuttingDown,
    /// This node does not serve that part of the protocol.
    #[error("{0} is not served by this node")]
    NotServed(&'static str),
}

impl CallError {
    /// Returns the error of a subscription that breaks `limit`. Missing parts of a filter keep
    /// their bare texts, which clients match.
    pub(crate) fn of_subscription(limit: LimitError) -> Self {
        match limit {
            LimitError::FilterMissing
            | LimitError::OriginatorsMissing
            | LimitError::CursorMissing => Self::Filter(limit),
            limit => Self::Subscription(limit),
        }
    }
}

/// Renders an error as a status. Texts reach the caller as they are: they name the next step of the
/// caller or the operator.
pub(crate) fn into_status(error: impl Into<CallError>) -> Status {
    let error = error.into();
    let text = error.to_string();
    match error {
        CallError::Query(_)
        | CallError::Subscription(_)
        | CallError::Filter(_)
        | CallError::Request(_)
        | CallError::Publish(PublishError::Refused(_)) => Status::invalid_argument(text),
        CallError::Publish(PublishError::AnswerTooLarge) | CallError::AnswerTooLarge => {
            Status::resource_exhausted(text)
        }
        CallError::Publish(PublishError::Unavailable { retry_after, .. }) => {
            unavailable(text, retry_after.as_secs())
        }
        CallError::Read(_) | CallError::Undecodable | CallError::Interrupted => {
            tracing::error!(code = "read_failed", error = text, "a call could not be served");
            Status::internal(text)
        }
        CallError::ShuttingDown => Status::unavailable(text),
        CallError::UnknownPayer(_) => Status::not_found(text),
        CallError::NotServed(_) => Status::unimplemented(text),
    }
}

fn unavailable(text: String, retry_after_s: u64) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("retry-after", MetadataValue::from(retry_after_s));
    Status::with_metadata(Code::Unavailable, text, metadata)
}
