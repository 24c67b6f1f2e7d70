//! Changes answers as the present fault demands.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hawser_conformance::http::{framed, messages};
use http::header::HeaderValue;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::content::{Body, whole};
use super::fault::{AnswerFault, DELAY, Faults};
use super::messages::{self, Layout};

const INTERNAL: &str = "13";
const UNAVAILABLE: &str = "14";
/// The metadata of a wrong claim: the strand of the first node begins at its second place.
const EXPIRED: &str = "100=2";
/// Flag of the message that ends a stream over Connect.
const CONNECT_END: u8 = 2;
/// Flag of the trailers in the body of a gRPC-Web answer.
const WEB_END: u8 = 0x80;
/// The media type of the binary form of gRPC-Web.
const WEB: &str = "application/grpc-web+proto";
/// Id of the Mutate that [`AnswerFault::AppliesRefused`] completes.
const FIRST_MUTATE: u64 = 1;
/// Frames of an answer that may wait to be sent. A guess: enough that the sender rarely waits.
const FRAMES_WAITING_MAX: usize = 16;

/// Changes an answer.
pub(super) async fn changed(
    response: Response<Incoming>,
    fault: Option<AnswerFault>,
    path: String,
    faults: Arc<Faults>,
) -> Response<Body> {
    let Some(fault) = fault else { return response.map(BodyExt::boxed) };
    let (mut parts, body) = response.into_parts();
    parts.headers.remove("content-length");
    change_status(&mut parts.headers, fault);
    if fault == AnswerFault::NoHeaders {
        let names: Vec<_> = parts.headers.keys().cloned().collect();
        for name in names.iter().filter(|name| name.as_str().starts_with("access-control")) {
            parts.headers.remove(name);
        }
    }
    if fault == AnswerFault::WrongStatus && parts.status.as_u16() >= 400 {
        parts.status = StatusCode::INTERNAL_SERVER_ERROR;
    }
    change_oldest(&mut parts.headers, fault);
    let content_type = parts.headers.get("content-type").and_then(|value| value.to_str().ok());
    let has_messages = content_type.is_some_and(|it| {
        ["application/grpc", "application/grpc+proto"].contains(&it)
            || it.starts_with("application/connect+")
            // Other answers of gRPC-Web end, and are changed as a whole.
            || (it == WEB && path.contains("Subscribe"))
    });
    if has_messages {
        let (sender, receiver) = mpsc::channel(FRAMES_WAITING_MAX);
        let pump =
            Pump { fault, layout: Layout::of(&path), path, faults, sender, count: 0, held: None };
        tokio::spawn(pump.run(body));
        return Response::from_parts(parts, StreamBody::new(ReceiverStream::new(receiver)).boxed());
    }
    let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if fault == AnswerFault::LateError && content_type_is_connect(&parts.headers) {
        parts.status = StatusCode::SERVICE_UNAVAILABLE;
    }
    let is_tile = path.starts_with("/strands/") && path.contains("/tile/");
    let bytes = match fault {
        AnswerFault::WrongProof if is_tile => messages::flipped(&bytes),
        _ => web(&bytes, fault),
    };
    Response::from_parts(parts, whole(bytes))
}

/// Changes the metadata about expired places.
fn change_oldest(headers: &mut HeaderMap, fault: AnswerFault) {
    const NAME: &str = "hawser-oldest";
    let moved = |by: i64| {
        let entry = |entry: &str| {
            let (node, place) = entry.split_once('=')?;
            Some(format!("{node}={}", place.parse::<u64>().ok()?.checked_add_signed(by)?))
        };
        let text = headers.get(NAME)?.to_str().ok()?;
        let entries: Option<Vec<String>> = text.split(',').map(entry).collect();
        HeaderValue::try_from(entries?.join(",")).ok()
    };
    let value = match fault {
        AnswerFault::WrongOldest => Some(HeaderValue::from_static(EXPIRED)),
        AnswerFault::EarlyOldest => moved(-1),
        AnswerFault::LateOldest => moved(1),
        AnswerFault::SilentAboutOldest | AnswerFault::LostStrand | AnswerFault::MissingServices => {
            headers.remove(NAME);
            None
        }
        _ => None,
    };
    if let Some(value) = value {
        headers.insert(NAME, value);
    }
}

fn content_type_is_connect(headers: &HeaderMap) -> bool {
    let is = |value: &HeaderValue| value == "application/json" || value == "application/proto";
    headers.get("content-type").is_some_and(is)
}

/// Returns true for headers or trailers that state a refusal.
fn is_refusal(headers: &HeaderMap) -> bool {
    headers.get("grpc-status").is_some_and(|status| status != "0")
}

/// Changes headers or trailers that state a refusal.
fn change_status(headers: &mut HeaderMap, fault: AnswerFault) {
    if fault == AnswerFault::WrongStatus && is_refusal(headers) {
        headers.insert("grpc-status", HeaderValue::from_static(INTERNAL));
        headers.remove("grpc-message");
        headers.remove("grpc-status-details-bin");
    }
}

/// Changes the trailers in the body of a gRPC-Web answer.
fn web(body: &Bytes, fault: AnswerFault) -> Bytes {
    let status = match fault {
        AnswerFault::WrongStatus => INTERNAL,
        AnswerFault::LateError => UNAVAILABLE,
        _ => return body.clone(),
    };
    let Some(parts) = messages(body) else {
        // The text form, which is cut off before its trailers.
        return if fault == AnswerFault::LateError {
            body.slice(..body.len() / 8 * 4)
        } else {
            body.clone()
        };
    };
    let mut changed = Vec::new();
    for (flag, content) in parts {
        let text = String::from_utf8_lossy(content).replace(' ', "");
        let is_ok = text.contains("grpc-status:0");
        let replace = flag == WEB_END && (fault == AnswerFault::LateError || !is_ok);
        let trailers = format!("grpc-status:{status}\r\n");
        let mut message = framed(if replace { trailers.as_bytes() } else { content });
        message[0] = flag;
        changed.extend(message);
    }
    changed.into()
}

/// Carries the messages of a gRPC answer.
struct Pump {
    fault: AnswerFault,
    layout: Layout,
    path: String,
    faults: Arc<Faults>,
    sender: mpsc::Sender<Result<Frame<Bytes>, hyper::Error>>,
    /// Messages that have come.
    count: usize,
    /// Messages with envelopes that wait for one without.
    held: Option<Vec<Bytes>>,
}

impl Pump {
    async fn run(mut self, mut body: Incoming) {
        let mut waiting = BytesMut::new();
        let mut trailers = HeaderMap::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return };
            match frame.into_data() {
                Ok(data) => waiting.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            }
            while let Some((flag, message)) = next_framed(&mut waiting) {
                if flag == CONNECT_END {
                    let _ = self.sender.send(Ok(Frame::data(self.connect_end(&message)))).await;
                    return;
                }
                if flag == WEB_END {
                    let mut end = framed(&message);
                    end[0] = WEB_END;
                    let _ = self.sender.send(Ok(Frame::data(web(&end.into(), self.fault)))).await;
                    return;
                }
                if self.fault == AnswerFault::Slow && self.path.contains("Subscribe") {
                    tokio::time::sleep(DELAY).await;
                }
                for message in self.changed(&message) {
                    if self.sender.send(Ok(Frame::data(framed(&message).into()))).await.is_err() {
                        return;
                    }
                }
                if self.fault == AnswerFault::LateError {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static(UNAVAILABLE));
                    let _ = self.sender.send(Ok(Frame::trailers(trailers))).await;
                    return;
                }
            }
        }
        if self.fault == AnswerFault::AppliesRefused
            && self.layout == Layout::Subscribe
            && is_refusal(&trailers)
        {
            let completed = framed(&messages::completed(FIRST_MUTATE));
            let _ = self.sender.send(Ok(Frame::data(completed.into()))).await;
        }
        if !trailers.is_empty() {
            change_status(&mut trailers, self.fault);
            let _ = self.sender.send(Ok(Frame::trailers(trailers))).await;
        }
    }

    /// Returns the last message of a stream over Connect, with its head.
    fn connect_end(&self, message: &[u8]) -> Bytes {
        let is_refusal = message.windows(7).any(|window| window == b"\"error\"");
        let wrong: &[u8] = br#"{"error":{"code":"internal"}}"#;
        let is_changed = self.fault == AnswerFault::WrongStatus && is_refusal;
        let mut framed = framed(if is_changed { wrong } else { message });
        framed[0] = CONNECT_END;
        framed.into()
    }

    /// Returns the messages to send in place of one message.
    fn changed(&mut self, message: &Bytes) -> Vec<Bytes> {
        self.count += 1;
        let is_publish = self.path.contains("Publish");
        let layout = self.layout;
        let items = layout.items(message);
        let has_items = items.is_some();
        let with = |change: &dyn Fn(&mut Vec<Bytes>)| match items {
            Some(mut items) => {
                change(&mut items);
                layout.with_items(message, items)
            }
            None => message.clone(),
        };
        match self.fault {
            AnswerFault::LostEnvelope if !is_publish => vec![with(&|items| drop(items.pop()))],
            AnswerFault::LostStrand if !is_publish => vec![with(&|items| items.clear())],
            AnswerFault::RepeatedEnvelope if !is_publish => {
                vec![with(&|items| items.extend(items.last().cloned()))]
            }
            AnswerFault::WrongOrder => vec![with(&|items| items.reverse())],
            AnswerFault::Altered if has_items => vec![with(&|items| {
                for item in items.iter_mut() {
                    *item = messages::altered(item, self.faults.next_number());
                }
            })],
            AnswerFault::Altered => vec![messages::flipped(message)],
            AnswerFault::EarlierExpiry if is_publish => vec![with(&|items| {
                for item in items.iter_mut() {
                    *item = messages::kept_for_less(item);
                }
            })],
            AnswerFault::WrongProof => vec![messages::wrong_proof(&self.path, message)],
            AnswerFault::StaleAnswer if !self.path.contains("Subscribe") => {
                vec![self.faults.first_answer(&self.path, message.clone())]
            }
            AnswerFault::NoSignsOfLife
                if self.path.contains("Subscribe") && !has_items && self.count > 1 =>
            {
                Vec::new()
            }
            AnswerFault::EarlyMessage if self.path.contains("Subscribe") => {
                self.held_back(message, has_items)
            }
            _ => vec![message.clone()],
        }
    }

    /// Holds messages with envelopes back until one without has passed.
    fn held_back(&mut self, message: &Bytes, has_items: bool) -> Vec<Bytes> {
        if has_items {
            self.held.get_or_insert_default().push(message.clone());
            return Vec::new();
        }
        let mut passing = vec![message.clone()];
        passing.extend(self.held.take().unwrap_or_default());
        passing
    }
}

/// Takes the next whole message from the bytes that have come.
pub(super) fn next_message(waiting: &mut BytesMut) -> Option<Bytes> {
    next_framed(waiting).map(|(_, message)| message)
}

/// Takes the next whole message with its flag.
fn next_framed(waiting: &mut BytesMut) -> Option<(u8, Bytes)> {
    let head: [u8; 5] = *waiting.first_chunk()?;
    let len = usize::try_from(u32::from_be_bytes([head[1], head[2], head[3], head[4]])).ok()?;
    if waiting.len() < 5 + len {
        return None;
    }
    Some((head[0], waiting.split_to(5 + len).split_off(5).freeze()))
}
