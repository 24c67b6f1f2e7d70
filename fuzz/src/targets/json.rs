//! Fuzz target: bodies of the Connect protocol in JSON, and the messages that become JSON.

use bytes::Bytes;
use hawser_proto::pb::{MethodSchema, to_json};

use super::Target;
use crate::corpus;

pub(super) const TARGET: Target =
    Target { name: "json", run, seeds, memory_factor: BYTES_OF_A_BYTE };

/// Bytes that are held for each byte of JSON, at most, measured. `{},` in a list of messages is three bytes.
const BYTES_OF_A_BYTE: usize = 400;

/// The methods whose bodies are read, each with the type of its request.
const METHODS: [(&str, &str); 5] = [
    ("QueryApi/QueryEnvelopes", "QueryEnvelopesRequest"),
    ("QueryApi/GetNewestEnvelope", "GetNewestEnvelopeRequest"),
    ("QueryApi/GetInboxIds", "GetInboxIdsRequest"),
    ("QueryApi/SubscribeTopics", "SubscribeTopicsRequest"),
    ("PublishApi/PublishPayerEnvelopes", "PublishPayerEnvelopesRequest"),
];
const PACKAGE: &str = "xmtp.xmtpv4.message_api";

fn schema(method: &str) -> MethodSchema {
    MethodSchema::of_path(&format!("/{PACKAGE}.{method}")).expect("the schema has the method")
}

/// Requests of the vectors as JSON, some by hand, and the messages themselves: all may come as an answer.
fn seeds() -> Vec<Vec<u8>> {
    let requests = METHODS.iter().flat_map(|(_, request)| {
        let name = format!("{PACKAGE}.{request}");
        corpus::messages_of(&name).into_iter().filter_map(move |message| {
            let json = to_json(&name, &message).ok()?;
            Some(json.to_string().into_bytes())
        })
    });
    let by_hand = [
        r#"{"query":{"topics":["AQI="],"lastSeen":{"nodeIdToSequenceId":{"100":"7"}}},"limit":3}"#,
        r#"{"requests":[{"identifier":"0x00","identifierKind":"IDENTIFIER_KIND_ETHEREUM"}]}"#,
        r#"{"payer_envelopes":[{"unsignedClientEnvelope":"AQ","payerSignature":{"bytes":"AA=="}}]}"#,
        r#"{"filters":[{},{},{"topic":"\u0041Q=="}]}"#,
    ];
    let by_hand = by_hand.iter().map(|json| json.as_bytes().to_vec());
    requests.chain(by_hand).chain(corpus::messages()).collect()
}

/// A request that is read is the same one after it was written as JSON. The length of JSON goes by the values that
/// were counted before it was made.
fn run(input: &[u8]) {
    for (method, request) in METHODS {
        let schema = schema(method);
        if let Ok(bytes) = schema.request_from_json(input) {
            let name = format!("{PACKAGE}.{request}");
            let json = to_json(&name, &bytes).expect("a message was written");
            let again = schema.request_from_json(json.to_string().as_bytes());
            let again = again.expect("JSON of a message is read");
            // Compared as JSON: the entries of a map are written in any order.
            assert_eq!(to_json(&name, &again).expect("a message was written"), json);
        }
        let values = schema.response_values(input);
        let mut json = Vec::new();
        if schema.response_to_json(Bytes::copy_from_slice(input), &mut json).is_ok() {
            // A byte of text takes six at most, and a name or number some forty.
            let most = 8 * input.len() + 64 * (values + 1);
            assert!(json.len() <= most, "{} bytes of JSON of {values} values", json.len());
        }
    }
}
