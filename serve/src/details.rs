//! Statuses with details for programs (`google.rpc`): the broken rule, the wrong part of the request, the time to
//! retry.

use prost::Message;
use prost::bytes::Bytes;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// The domain of the reasons in error details.
const DOMAIN: &str = "hawser";
/// Largest number of wrong parts of a request in a status. A guess: further parts mostly have the same mistake, and
/// clients' limits for all headers begin at 8 KiB.
const FIELDS_MAX: usize = 8;
/// The longest description of a part, and the longest text of a status that is repeated in its details, in
/// characters. A guess, for the same reason.
const DESCRIPTION_CHARS_MAX: usize = 120;

/// A part of a request that is wrong (`google.rpc.BadRequest.FieldViolation`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongField {
    /// The path of the field in the request, such as `payer_envelopes[3]`.
    pub field: String,
    /// The mistake, as text for developers. Long texts are cut.
    pub description: String,
    /// The name of the rule, a constant that programs can match: `TOPIC_MISMATCH`.
    pub reason: &'static str,
}

/// Details of a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusDetails {
    /// The reason, a constant that programs can match (`google.rpc.ErrorInfo`).
    pub reason: &'static str,
    /// The wrong parts of the request; the first 8 are sent.
    pub wrong: Vec<WrongField>,
    /// The time after which the same call may succeed, whole seconds (`google.rpc.RetryInfo`). Also sent as metadata
    /// `retry-after`.
    pub retry_after_s: Option<u64>,
}

impl StatusDetails {
    /// Creates details that name a reason.
    #[must_use]
    pub fn of(reason: &'static str) -> Self {
        Self { reason, wrong: Vec::new(), retry_after_s: None }
    }

    /// Renders a status with these details.
    #[must_use]
    pub fn into_status(self, code: Code, text: &str) -> Status {
        let mut metadata = MetadataMap::new();
        let info = ErrorInfo { reason: self.reason.to_owned(), domain: DOMAIN.to_owned() };
        let mut details = vec![Any::of("google.rpc.ErrorInfo", &info)];
        if !self.wrong.is_empty() {
            let fields = self.wrong.into_iter().take(FIELDS_MAX).map(|wrong| FieldViolation {
                field: wrong.field,
                description: cut(&wrong.description),
                reason: wrong.reason.to_owned(),
            });
            let request = BadRequest { field_violations: fields.collect() };
            details.push(Any::of("google.rpc.BadRequest", &request));
        }
        if let Some(seconds) = self.retry_after_s {
            metadata.insert("retry-after", MetadataValue::from(seconds));
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            let retry = RetryInfo { retry_delay: Some(Seconds { seconds }) };
            details.push(Any::of("google.rpc.RetryInfo", &retry));
        }
        let status = RpcStatus { code: code as i32, message: cut(text), details };
        Status::with_details_and_metadata(code, text, Bytes::from(status.encode_to_vec()), metadata)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(DESCRIPTION_CHARS_MAX).collect()
}

/// `google.rpc.Status`, the form of error details.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Any {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

impl Any {
    fn of(name: &str, message: &impl Message) -> Self {
        let value = Bytes::from(message.encode_to_vec());
        Self { type_url: format!("type.googleapis.com/{name}"), value }
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

/// `google.rpc.BadRequest`.
#[derive(Clone, PartialEq, Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

/// `google.rpc.BadRequest.FieldViolation`.
#[derive(Clone, PartialEq, Message)]
struct FieldViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
    #[prost(string, tag = "3")]
    reason: String,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_name_what_is_wrong_and_stay_small() {
        let wrong = (0..50).map(|number| WrongField {
            field: format!("payer_envelopes[{number}]"),
            description: "ä".repeat(5000),
            reason: "TOPIC_MISMATCH",
        });
        let details = StatusDetails { wrong: wrong.collect(), ..StatusDetails::of("REFUSED") };
        let status = details.into_status(Code::InvalidArgument, &"x".repeat(5000));
        assert!(status.details().len() < 3 * 1024, "{}", status.details().len());
        let rich = RpcStatus::decode(status.details()).unwrap();
        assert_eq!(rich.code, Code::InvalidArgument as i32);
        let kinds: Vec<_> = rich.details.iter().map(|any| any.type_url.as_str()).collect();
        let expected = ["google.rpc.ErrorInfo", "google.rpc.BadRequest"];
        assert_eq!(kinds, expected.map(|name| format!("type.googleapis.com/{name}")));
        let request = BadRequest::decode(rich.details[1].value.clone()).unwrap();
        assert_eq!(request.field_violations.len(), 8);
        assert_eq!(request.field_violations[3].field, "payer_envelopes[3]");
        assert_eq!(request.field_violations[3].reason, "TOPIC_MISMATCH");
    }

    #[test]
    fn a_time_is_told_to_programs_of_both_kinds() {
        let details = StatusDetails { retry_after_s: Some(7), ..StatusDetails::of("BUSY") };
        let status = details.into_status(Code::Unavailable, "busy");
        assert_eq!(status.metadata().get("retry-after").unwrap(), "7");
        let rich = RpcStatus::decode(status.details()).unwrap();
        let retry = RetryInfo::decode(rich.details[1].value.clone()).unwrap();
        assert_eq!(retry.retry_delay, Some(Seconds { seconds: 7 }));
    }
}
