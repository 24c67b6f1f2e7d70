//! The status of a call that exceeds a limit: a text for people, and the same for programs in the details
//! and the metadata.

use prost::Message;
use prost::bytes::Bytes;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// The domain of the reasons, as error details name it.
const DOMAIN: &str = "hawser";

/// Renders a refusal as RESOURCE_EXHAUSTED. `reason` is a constant that programs can match; with a time,
/// the caller succeeds if it waits as long.
pub(crate) fn limited(text: &str, reason: &'static str, retry_after_s: Option<u64>) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("limit-reason", MetadataValue::from_static(reason));
    let info = ErrorInfo { reason: reason.to_owned(), domain: DOMAIN.to_owned() };
    let mut details = vec![Any::of("google.rpc.ErrorInfo", &info)];
    if let Some(seconds) = retry_after_s {
        metadata.insert("retry-after", MetadataValue::from(seconds));
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let retry = RetryInfo { retry_delay: Some(Seconds { seconds }) };
        details.push(Any::of("google.rpc.RetryInfo", &retry));
    }
    let status =
        RpcStatus { code: Code::ResourceExhausted as i32, message: text.to_owned(), details };
    let details = Bytes::from(status.encode_to_vec());
    Status::with_details_and_metadata(Code::ResourceExhausted, text, details, metadata)
}

/// `google.rpc.Status`, the form of error details.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

impl Any {
    fn of(name: &str, message: &impl Message) -> Self {
        Self { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
    }
}

/// `google.rpc.ErrorInfo`, without its map.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Seconds>,
}

/// `google.protobuf.Duration` in whole seconds.
#[derive(Clone, PartialEq, Message)]
struct Seconds {
    #[prost(int64, tag = "1")]
    seconds: i64,
}
