//! Errors in the form of the Connect protocol: JSON with the name of a code, a text and details.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use prost::Message as _;
use serde_json::{Map, Value, json};
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Code, Status};

use crate::status_details::RpcStatus;

/// Flag of the last message of a stream (Connect protocol, enveloped messages).
const END_OF_STREAM: u8 = 0b10;
/// Largest number of details of a status that are passed on. A guess: this program writes at most three.
const DETAILS_MAX: usize = 16;

/// Returns the name of a code (Connect protocol, Error Codes).
fn name(code: Code) -> &'static str {
    match code {
        Code::Cancelled => "canceled",
        // Never written: OK is not an error.
        Code::Ok | Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// Returns the HTTP status of a unary answer that is an error (Connect protocol, Error Codes).
pub(super) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Cancelled => StatusCode::from_u16(499).expect("a number of three digits"),
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
    }
}

/// Returns the error as JSON.
pub(super) fn to_json(status: &Status) -> Value {
    let mut error = json!({ "code": name(status.code()) });
    if !status.message().is_empty() {
        error["message"] = status.message().into();
    }
    let rich = RpcStatus::decode(status.details()).unwrap_or_default();
    let details = rich.details.iter().take(DETAILS_MAX).map(|detail| {
        let (_, name) = detail.type_url.rsplit_once('/').unwrap_or(("", &detail.type_url));
        json!({ "type": name, "value": STANDARD_NO_PAD.encode(&detail.value) })
    });
    let details: Vec<Value> = details.collect();
    if !details.is_empty() {
        error["details"] = details.into();
    }
    error
}

/// Returns the message that ends a stream: the error, if there is one, and the metadata of the service.
pub(super) fn end_of_stream(status: &Status) -> Bytes {
    let mut end = Map::new();
    if status.code() != Code::Ok {
        end.insert("error".into(), to_json(status));
    }
    let metadata = metadata(status.metadata());
    if !metadata.is_empty() {
        end.insert("metadata".into(), metadata.into());
    }
    let text = Value::from(end).to_string();
    let len = u32::try_from(text.len()).expect("headers are bounded far below 4 GiB");
    let mut message = BytesMut::with_capacity(5 + text.len());
    message.put_u8(END_OF_STREAM);
    message.put_u32(len);
    message.put_slice(text.as_bytes());
    message.freeze()
}

/// Returns the values of each metadata name of the service, bytes as base64. Leaves out the headers of gRPC itself,
/// which come with a status in the headers of an answer.
fn metadata(metadata: &MetadataMap) -> Map<String, Value> {
    let mut names = Map::new();
    for entry in metadata.iter() {
        let (name, value) = match entry {
            KeyAndValueRef::Ascii(name, value) => {
                (name.as_str(), value.to_str().ok().map(ToOwned::to_owned))
            }
            KeyAndValueRef::Binary(name, value) => {
                (name.as_str(), value.to_bytes().ok().map(|it| STANDARD_NO_PAD.encode(it)))
            }
        };
        let Some(value) = value.filter(|_| !is_of_grpc(name)) else { continue };
        let values = names.entry(name).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(values) = values {
            values.push(value.into());
        }
    }
    names
}

/// Returns true for a header of the protocol, which is no metadata (gRPC over HTTP/2, Custom-Metadata).
fn is_of_grpc(name: &str) -> bool {
    ["content-type", "te", "user-agent"].contains(&name) || name.starts_with("grpc-")
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    #[test]
    fn metadata_of_a_service_is_passed_on_and_headers_of_grpc_are_not() {
        let mut refused = Status::unavailable("later");
        refused.metadata_mut().insert("retry-after", MetadataValue::from(7_u64));
        refused.metadata_mut().insert_bin("proof-bin", MetadataValue::from_bytes(&[0xff, 0]));
        // The status is in the headers of the answer.
        let mut response = refused.into_http::<()>();
        response.headers_mut().insert("grpc-accept-encoding", "gzip".parse().unwrap());
        let status = Status::from_header_map(response.headers()).unwrap();
        let end = end_of_stream(&status);
        let end: Value = serde_json::from_slice(&end[5..]).unwrap();
        let error = json!({ "code": "unavailable", "message": "later" });
        let metadata = json!({ "retry-after": ["7"], "proof-bin": ["/wA"] });
        assert_eq!(end, json!({ "error": error, "metadata": metadata }));
    }
}
