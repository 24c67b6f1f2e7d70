//! Fuzz target: requests of the Connect protocol: their headers, and the framing and compression of their bodies.

use bytes::Bytes;
use hawser_serve::{ConnectRequest, MESSAGE_LEN_BYTES_MAX};
use http::{HeaderMap, HeaderValue};

use super::Target;
use crate::corpus;

pub(super) const TARGET: Target =
    Target { name: "connect-request", run, seeds, memory_factor: UNPACKED_OF_A_BYTE };

/// Bytes that are held for each byte of a body, at most. A byte of gzip becomes 1,032 (RFC 1951), in pieces that are
/// then copied into one.
const UNPACKED_OF_A_BYTE: usize = 4096;
/// The longest JSON after decompression, in bytes (`docs/protocol/api.md`, *Connect*).
const JSON_LEN_BYTES_MAX: usize = 36 * 1024 * 1024;
/// The first byte of an input chooses one.
const CONTENT_TYPES: [&str; 4] = [
    "application/proto",
    "application/json",
    "application/connect+proto",
    "application/connect+json",
];
/// `{}` in gzip.
const GZIPPED: &[u8] =
    &[31, 139, 8, 0, 0, 0, 0, 0, 2, 255, 171, 174, 5, 0, 67, 191, 166, 163, 2, 0, 0, 0];

/// The parts of an input: a byte for the content type, one with the length of the headers' values, the values, one on
/// each line, and the body.
fn input(content_type: u8, values: &str, body: &[u8]) -> Vec<u8> {
    let len = u8::try_from(values.len()).expect("seeds are short");
    [&[content_type, len][..], values.as_bytes(), body].concat()
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let len = u32::try_from(message.len()).expect("seeds are short");
    [&[flag][..], &len.to_be_bytes(), message].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let by_hand = [
        input(1, "1\n250\nidentity\n", b"{}"),
        input(1, "1\n9999999999\ngzip\n", GZIPPED),
        input(3, "1\n0\n\ngzip", &framed(0, br#"{"filters":[{"topic":"AQI="}]}"#)),
        input(3, "1\n\n\ngzip", &framed(1, GZIPPED)),
        input(2, "\n1\n\nidentity", &framed(0, &[10, 0])),
    ];
    run(&by_hand[1]); // makes what a process has once; its memory is no input's
    let messages = corpus::messages().into_iter().take(20);
    let of_corpus = messages.flat_map(|it| [input(0, "1", &it), input(2, "", &framed(0, &it))]);
    by_hand.into_iter().chain(of_corpus).collect()
}

fn headers(values: &[u8]) -> HeaderMap {
    const NAMES: [&str; 4] = [
        "connect-protocol-version",
        "connect-timeout-ms",
        "content-encoding",
        "connect-content-encoding",
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in NAMES.iter().zip(values.split(|byte| *byte == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(value)
            && !value.is_empty()
        {
            headers.insert(*name, value);
        }
    }
    headers
}

/// A request that is taken is one of gRPC: no header of Connect is left, a deadline has the digits that gRPC has room
/// for, and a message on a stream is exactly what its head claims.
fn run(input: &[u8]) {
    let [content_type, len, rest @ ..] = input else { return };
    let kind = usize::from(*content_type) % CONTENT_TYPES.len();
    let (values, body) = rest.split_at(usize::from(*len).min(rest.len()));
    let read =
        ConnectRequest::read(CONTENT_TYPES[kind], headers(values), Bytes::copy_from_slice(body));
    let Ok(request) = read.expect("the content type is one of the protocol's") else { return };
    let is_json = kind % 2 == 1;
    let left = |name: &str| name.starts_with("connect-") || name == "content-encoding";
    assert!(!request.headers.keys().any(|name| left(name.as_str())), "{:?}", request.headers);
    if let Some(timeout) = request.headers.get("grpc-timeout") {
        let text = timeout.to_str().expect("it was written in digits");
        let (digits, unit) = text.split_at(text.len() - 1);
        assert!(
            matches!(unit, "m" | "S") && digits.parse::<u32>().is_ok_and(|it| it < 100_000_000)
        );
    }
    assert!(!(is_json && request.is_compressed), "JSON comes out decompressed");
    let len_bytes_max = if is_json { JSON_LEN_BYTES_MAX } else { MESSAGE_LEN_BYTES_MAX };
    assert!(request.message.len() <= len_bytes_max);
    if kind == 2 {
        let claimed = u32::from_be_bytes([body[1], body[2], body[3], body[4]]);
        assert_eq!(request.message.len(), claimed as usize, "as long as its head says");
    }
}
