//! How a refusal reads on the wire. The only place where errors become statuses.

use hawser_engine::read::ReadError;
use hawser_engine::runtime::PublishError;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::limits::LimitError;
use hawser_serve::{MESSAGE_LEN_BYTES_MAX, SHUTTING_DOWN};

/// Why a call was not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("invalid query: {0}")]
    Query(LimitError),
    #[error("invalid subscription request: {0}")]
    Subscription(LimitError),
    /// A filter that is not there, or not whole.
    #[error("{0}")]
    Filter(LimitError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What is wrong with a request that is neither a query nor a subscription.
    #[error("{0}")]
    Request(LimitError),
    /// Of no use of this payer is anything known.
    #[error("payer {0} is not known")]
    UnknownPayer(String),
    /// What was read from the log is no envelope.
    #[error("a stored envelope does not decode")]
    Undecodable,
    /// The thread that read for it is gone.
    #[error("reading was interrupted")]
    Interrupted,
    #[error("the answer would exceed {MESSAGE_LEN_BYTES_MAX} bytes: ask for less at once")]
    AnswerTooLarge,
    #[error("{SHUTTING_DOWN}")]
    ShuttingDown,
    #[error("service not registered")]
    UnknownService,
    /// A part of the protocol that this node does not serve.
    #[error("{0} is not served by this node")]
    NotServed(&'static str),
}

/// Renders a refusal. Nothing is hidden: texts say what the caller or the operator can do.
pub(crate) fn into_status(refusal: impl Into<Refusal>) -> Status {
    let refusal = refusal.into();
    let text = refusal.to_string();
    match refusal {
        Refusal::Query(_)
        | Refusal::Subscription(_)
        | Refusal::Filter(_)
        | Refusal::Request(_)
        | Refusal::Publish(PublishError::Refused(_)) => Status::invalid_argument(text),
        Refusal::Publish(PublishError::AnswerTooLarge) | Refusal::AnswerTooLarge => {
            Status::resource_exhausted(text)
        }
        Refusal::Publish(PublishError::Unavailable { retry_after, .. }) => {
            unavailable(text, retry_after.as_secs())
        }
        Refusal::Read(_) | Refusal::Undecodable | Refusal::Interrupted => {
            tracing::error!(code = "read_failed", error = text, "a call could not be served");
            Status::internal(text)
        }
        Refusal::ShuttingDown => Status::unavailable(text),
        Refusal::UnknownService | Refusal::UnknownPayer(_) => Status::not_found(text),
        Refusal::NotServed(_) => Status::unimplemented(text),
    }
}

fn unavailable(text: String, retry_after_s: u64) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("retry-after", MetadataValue::from(retry_after_s));
    Status::with_metadata(Code::Unavailable, text, metadata)
}
