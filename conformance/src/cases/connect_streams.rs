//! Server streams over HTTP/1.1: the Connect protocol and gRPC-Web. Messages with their lengths, and an end with its
//! status.

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use prost::Message as _;
use serde_json::{Value, json};

use crate::case::Need::Payer;
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, same};
use crate::connection::REPLICATION_API;
use crate::context::{JudgedNodes, same_envelopes};
use crate::envelopes::new_group;
use crate::http::{self, HttpAnswer, HttpStream, framed, whole_messages};
use crate::listener::{Received, hold};
use crate::wire::Framed;

use super::web::speaks_connect;

const AREA: Area = Area::EndToEnd;
const CONNECT: &str = "docs/protocol/api.md#connect";
const PROTO: &str = "application/connect+proto";
const JSON: &str = "application/connect+json";
const WEB: &str = "application/grpc-web+proto";
/// Flag of the message that ends a stream.
const END: u8 = 2;

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "connect-stream-reads",
        "a stream of topics over Connect has the stored envelopes and then new ones, each message with its length",
        CONNECT,
        |c| Box::pin(reads(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "connect-stream-ends-with-its-status",
        "a stream over Connect that is refused has status 200 of HTTP, and its last message has flag 2 and the error",
        CONNECT,
        |c| Box::pin(ends(c)),
    ),
    Case::new(
        AREA,
        "grpc-web-stream-reads",
        "a stream of topics over gRPC-Web and HTTP/1.1 has the stored envelopes and then new ones",
        "docs/protocol/api.md#the-port",
        |c| Box::pin(web_reads(c)),
    )
    .needs(&[Payer]),
];

fn path() -> String {
    format!("{REPLICATION_API}/SubscribeTopics")
}

/// Returns the request for a stream of a topic.
fn request(topic: &Bytes) -> api::SubscribeTopicsRequest {
    let filter =
        api::subscribe_topics_request::TopicFilter { topic: topic.clone(), last_seen: None };
    api::SubscribeTopicsRequest { filters: vec![filter] }
}

/// Checks the head of an answer over Connect.
fn is_connect_stream(answer: &HttpAnswer, content_type: &str) -> Checked {
    speaks_connect(answer)?;
    is_stream(answer, content_type)
}

/// Checks the head of an answer.
fn is_stream(answer: &HttpAnswer, content_type: &str) -> Checked {
    same("the HTTP status", &200, &answer.status)?;
    same("content-type", &Some(content_type), &answer.header("content-type"))
}

/// Returns the envelopes of the messages that have come.
fn envelopes(answer: &HttpAnswer) -> Checked<Vec<Bytes>> {
    let mut found = Vec::new();
    for (flag, message) in whole_messages(&answer.body) {
        if flag == END {
            let text = String::from_utf8_lossy(message).into_owned();
            return Err(CaseError::new("a stream without an end", text));
        }
        same("the flag of a message", &0, &flag)?;
        let message = Framed::decode(message)
            .map_err(|error| CaseError::new("a message of SubscribeTopics", error))?;
        hold(&mut found, Received::from(message).envelopes)?;
    }
    Ok(found)
}

async fn reads(c: &JudgedNodes) -> Checked {
    let headers = [("content-type", PROTO), ("connect-protocol-version", "1")];
    stored_and_new(c, &headers, |answer| is_connect_stream(answer, PROTO)).await
}

async fn web_reads(c: &JudgedNodes) -> Checked {
    let headers = [("content-type", WEB), ("x-grpc-web", "1"), ("accept", WEB)];
    stored_and_new(c, &headers, |answer| is_stream(answer, WEB)).await
}

/// Reads a stream of a topic: what is stored, and what is published then. `judge` checks the head of the answer.
async fn stored_and_new(
    c: &JudgedNodes,
    headers: &[(&str, &str)],
    judge: fn(&HttpAnswer) -> Checked,
) -> Checked {
    let topic = new_group();
    let mut sent = c.send(&topic, 2).await?;
    let body = framed(&request(&topic).encode_to_vec());
    let request = http::post(&path(), headers, &body);
    let mut stream =
        HttpStream::open(&c.target.address, &request, c.target.answer_timeout()).await?;
    for what in ["the stored envelopes", "the stored envelopes and a new one"] {
        let count = sent.len();
        let has_come = |answer: &HttpAnswer| {
            answer.status != 200 || envelopes(answer).map_or(true, |found| found.len() >= count)
        };
        let answer = stream.until(has_come).await.map_err(|failure| failure.at(what))?;
        judge(&answer)?;
        same_envelopes(what, &sent, &envelopes(&answer)?)?;
        sent.extend(c.send(&topic, 1).await?);
    }
    Ok(())
}

async fn ends(c: &JudgedNodes) -> Checked {
    let headers = [("content-type", JSON), ("connect-protocol-version", "1")];
    let body = json!({ "filters": [{ "topic": "" }] }).to_string();
    let answer = c.target.post(&path(), &headers, &framed(body.as_bytes())).await?;
    is_connect_stream(&answer, JSON)?;
    let messages = whole_messages(&answer.body);
    let Some((END, end)) = messages.last() else {
        let flags: Vec<u8> = messages.iter().map(|(flag, _)| *flag).collect();
        return Err(CaseError::new("a last message with flag 2", format!("flags {flags:?}")));
    };
    let end: Value = serde_json::from_slice(end)
        .map_err(|error| CaseError::new("JSON in the last message", error))?;
    same("code", &json!("invalid_argument"), &end["error"]["code"])
}
