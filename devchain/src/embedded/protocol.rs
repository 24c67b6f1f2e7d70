//! JSON-RPC 2.0: parses requests and batches and returns responses.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::node::EmbeddedNode;
use super::rpc::args::Args;
use super::rpc::error::{RpcError, code, too_much};
use super::rpc::{self, Method, RpcResult};
use super::session::Session;

/// The largest number of requests in a batch, as in go-ethereum.
pub(super) const BATCH_MAX: usize = 1000;
/// The largest total of responses to one batch, in bytes; the last response may exceed it. A guess.
const ANSWERS_BYTES_MAX: usize = 64 << 20;

/// All methods except the subscriptions, by name.
static METHODS: LazyLock<HashMap<&str, Method>> =
    LazyLock::new(|| rpc::methods().map(|method| (method.name, method)).collect());

/// Answers one message. Returns `None` if it contains only notifications.
pub(super) fn answer(node: &EmbeddedNode, session: &mut Session, message: &[u8]) -> Option<String> {
    let Ok(message) = serde_json::from_slice::<&RawValue>(message) else {
        return Some(render(
            None,
            &Err(RpcError::new(code::PARSE, "parse error: this is no JSON")),
        ));
    };
    if !message.get().starts_with('[') {
        return one(node, session, message);
    }
    match serde_json::from_str(message.get()) {
        Ok(Batch(requests)) if requests.is_empty() => {
            Some(render(None, &Err(invalid_request("an empty batch"))))
        }
        Ok(Batch(requests)) => batch(node, session, &requests),
        Err(_) => {
            let reason = format!("a batch of more than {BATCH_MAX} requests");
            Some(render(None, &Err(invalid_request(&reason))))
        }
    }
}

/// Returns the response to a message of more than `bytes_max` bytes.
pub(super) fn too_long(bytes_max: usize) -> String {
    render(None, &Err(invalid_request(&format!("a message of more than {bytes_max} bytes"))))
}

/// Returns the response after a panic in a method.
pub(super) fn broken() -> String {
    render(None, &Err(RpcError::new(code::INTERNAL, "a fault in the chain itself: see its log")))
}

/// Answers the requests of a batch one after another.
fn batch(node: &EmbeddedNode, session: &mut Session, requests: &[&RawValue]) -> Option<String> {
    let mut answers = String::new();
    for request in requests {
        let answer = if answers.len() < ANSWERS_BYTES_MAX {
            one(node, session, request)
        } else {
            let reason = format!("the answers before take {ANSWERS_BYTES_MAX} bytes already");
            Request::parse(request)
                .and_then(|request| request.id.map(|id| render(Some(id), &Err(too_much(&reason)))))
        };
        if let Some(answer) = answer {
            answers.push(if answers.is_empty() { '[' } else { ',' });
            answers.push_str(&answer);
        }
    }
    (!answers.is_empty()).then(|| answers + "]")
}

fn one(node: &EmbeddedNode, session: &mut Session, request: &RawValue) -> Option<String> {
    let Some(request) = Request::parse(request) else {
        return Some(render(None, &Err(invalid_request("this is no request object"))));
    };
    if let Err(error) = request.check() {
        return Some(render(request.id.filter(|id| is_id(id)), &Err(error)));
    }
    let answer = call(node, session, &request);
    request.id.map(|id| render(Some(id), &answer))
}

fn call(node: &EmbeddedNode, session: &mut Session, request: &Request<'_>) -> RpcResult {
    let name: String = request.method.and_then(text).expect("checked before");
    let args = Args::parse(request.params.map(RawValue::get))?;
    match name.as_str() {
        "eth_subscribe" => session.subscribe(node, &args),
        "eth_unsubscribe" => session.unsubscribe(&args),
        name => match METHODS.get(name) {
            Some(method) => method.call(node, &args),
            None => {
                let reason = format!("the method {name} does not exist here");
                Err(RpcError::new(code::METHOD_NOT_FOUND, reason))
            }
        },
    }
}

fn invalid_request(reason: &str) -> RpcError {
    RpcError::new(code::INVALID_REQUEST, format!("invalid request: {reason}"))
}

fn render(id: Option<&RawValue>, answer: &RpcResult) -> String {
    let id = id.map_or("null", RawValue::get);
    match answer {
        Ok(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
        Err(error) => {
            let error = serde_json::to_string(error).expect("an error is plain data");
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
        }
    }
}

/// A request before its members are checked.
#[derive(Debug, Deserialize)]
struct Request<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
}

/// Distinguishes a member that is null from an absent one.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Request<'a> {
    /// Parses a request. Returns `None` if it is not an object or has a member twice.
    fn parse(request: &'a RawValue) -> Option<Self> {
        // The type can also be deserialized from a list, which is not a valid request.
        let object = request.get().starts_with('{');
        object.then(|| serde_json::from_str(request.get()).ok()).flatten()
    }

    fn check(&self) -> Result<(), RpcError> {
        if self.jsonrpc.and_then(text).as_deref() != Some("2.0") {
            return Err(invalid_request("jsonrpc has to be \"2.0\""));
        }
        if self.method.and_then(text).is_none() {
            return Err(invalid_request("the method has to be a string"));
        }
        if self.id.is_some_and(|id| !is_id(id)) {
            return Err(invalid_request("the id has to be a string, a number or null"));
        }
        Ok(())
    }
}

fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// Returns true for an id that clients can read back: a string, null, or a number within the range that they parse.
fn is_id(id: &RawValue) -> bool {
    let id = serde_json::from_str::<Value>(id.get());
    id.is_ok_and(|id| id.is_string() || id.is_number() || id.is_null())
}

/// The unparsed requests of a batch.
struct Batch<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Batch<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Requests;

        impl<'de> Visitor<'de> for Requests {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {BATCH_MAX} requests")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut requests = Vec::new();
                while let Some(request) = list.next_element()? {
                    if requests.len() == BATCH_MAX {
                        return Err(A::Error::custom("too many"));
                    }
                    requests.push(request);
                }
                Ok(requests)
            }
        }

        deserializer.deserialize_seq(Requests).map(Batch)
    }
}
