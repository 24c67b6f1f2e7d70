//! The status of a call in the headers or trailers of its answer.

use http::{HeaderMap, HeaderValue};
use tonic::{Code, Status};

/// The longest text of a status, in its percent-encoded form. A guess: clients' limits for all headers
/// begin at 8 KiB.
const STATUS_TEXT_LEN_BYTES_MAX: usize = 4096;
/// Beginnings of the libraries' texts about a message that is malformed: it is no protobuf or, in the text form of
/// gRPC-Web, no base64.
const MALFORMED: [&[u8]; 2] =
    [b"failed%20to%20decode%20Protobuf", b"tonic-web:%20malformed%20base64"];

/// Returns the gRPC status in headers or trailers, if there is one.
pub(crate) fn status_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(HeaderValue::as_bytes).map(Code::from_bytes)
}

/// Replaces INTERNAL by INVALID_ARGUMENT if a message did not decode, because the caller sent the malformed bytes. Cuts
/// texts that are too long for clients. Returns the status, if there is one.
pub(crate) fn correct(headers: &mut HeaderMap) -> Option<Code> {
    if let Some(text) = headers.get_mut(Status::GRPC_MESSAGE)
        && text.len() > STATUS_TEXT_LEN_BYTES_MAX
    {
        *text = cut(text);
    }
    let status = status_of(headers);
    if status != Some(Code::Internal) {
        return status;
    }
    let undecodable = headers.get(Status::GRPC_MESSAGE).is_some_and(|text| {
        MALFORMED.iter().any(|beginning| text.as_bytes().starts_with(beginning))
    });
    if !undecodable {
        return status;
    }
    headers.insert(Status::GRPC_STATUS, HeaderValue::from(Code::InvalidArgument as i32));
    Some(Code::InvalidArgument)
}

/// Returns the beginning of a percent-encoded text, cut between two characters.
fn cut(text: &HeaderValue) -> HeaderValue {
    let bytes = text.as_bytes();
    let mut end = STATUS_TEXT_LEN_BYTES_MAX;
    // Does not cut a percent code of three bytes.
    end -= (1..=2).find(|back| bytes[end - back] == b'%').unwrap_or(0);
    // Does not cut a character of several codes: its first is C0 or above, the others are 80 to BF.
    while bytes[end - 3] == b'%' && bytes[end - 2] >= b'8' {
        end -= 3;
        if !matches!(bytes[end + 1], b'8' | b'9' | b'A' | b'B' | b'a' | b'b') {
            break;
        }
    }
    HeaderValue::from_bytes(&bytes[..end]).expect("a part of a header's text is one too")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_stays_readable() {
        for letters in 0..6 {
            let text = "x".repeat(letters) + &"ä".repeat(5000);
            let mut response = Status::not_found(text.clone()).into_http::<()>();
            correct(response.headers_mut());
            let cut = Status::from_header_map(response.headers()).unwrap();
            assert_eq!(cut.code(), Code::NotFound);
            assert!(cut.message().len() > 1300 && text.starts_with(cut.message()));
        }
    }

    #[test]
    fn an_undecodable_message_is_an_invalid_argument() {
        for text in [
            "failed to decode Protobuf message: invalid wire type",
            "tonic-web: malformed base64 request",
        ] {
            let mut response = Status::internal(text).into_http::<()>();
            correct(response.headers_mut());
            assert_eq!(status_of(response.headers()), Some(Code::InvalidArgument), "{text}");
        }

        let mut response = Status::internal("the disk is gone").into_http::<()>();
        correct(response.headers_mut());
        assert_eq!(status_of(response.headers()), Some(Code::Internal));
    }
}
