//! A peer that replays the recorded strand of a real node byte for byte.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hawser_conformance::wire::Framed;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api;
use hawser_proto::{OriginatorId, PublicKey};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, Response};
use prost::Message as _;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::Server;

use super::files::Record;
use super::frame_body::FrameBody;
use super::ports;

/// The calls that passed between two nodes of different software while they followed each other, as
/// `tests/beside/record` keeps them.
#[derive(Debug, Deserialize)]
pub struct Recording {
    /// The nodes.
    pub nodes: Vec<RecordedNode>,
    /// The calls.
    pub calls: Vec<RecordedCall>,
}

/// A node of a recording.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedNode {
    /// Its id.
    pub id: u32,
    /// Its software.
    pub kind: String,
    public_key: String,
}

/// A call of a recording. Messages are in gRPC's framing.
#[derive(Debug, Clone, Deserialize)]
pub struct RecordedCall {
    /// The software of the node that was called.
    pub to: String,
    path: String,
    #[serde(with = "lines")]
    request: Vec<Bytes>,
    #[serde(with = "lines")]
    response: Vec<Bytes>,
}

/// Bytes as hex.
mod lines {
    use super::{Bytes, Deserialize};

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Bytes>, D::Error> {
        let lines = Vec::<String>::deserialize(deserializer)?;
        let bytes = lines.iter().map(|line| hex::decode(line).map(Bytes::from));
        bytes.collect::<Result<_, _>>().map_err(serde::de::Error::custom)
    }
}

impl Recording {
    /// Returns the longest stream of a node's own strand that the other one has asked for, with its first message.
    ///
    /// # Panics
    /// Panics if the recording has no such stream.
    #[must_use]
    pub fn stream_of(&self, node: &RecordedNode) -> &RecordedCall {
        let asks = |call: &&RecordedCall| {
            let filter = call.asked().filter.unwrap_or_default();
            call.to == node.kind && filter.originator_node_ids == [node.id]
        };
        let streams = self.calls.iter().filter(|it| it.path.ends_with("/SubscribeOriginators"));
        streams.filter(asks).max_by_key(|call| call.response.len()).unwrap()
    }
}

impl RecordedCall {
    /// Returns the one message of the request.
    ///
    /// # Panics
    /// Panics if the bytes are not those of a request as this version would write it.
    #[must_use]
    pub fn asked(&self) -> api::SubscribeOriginatorsRequest {
        let [message] = &self.request[..] else { panic!("{} messages", self.request.len()) };
        api::SubscribeOriginatorsRequest::decode(message.slice(5..)).unwrap()
    }

    /// Returns the envelopes of the stream, in order, each as it was sent.
    ///
    /// # Panics
    /// Panics if a message is compressed or malformed.
    #[must_use]
    pub fn envelopes(&self) -> Vec<Bytes> {
        let of_message = |message: &Bytes| {
            assert_eq!(message[0], 0, "compressed");
            let framed = Framed::decode(message.slice(5..)).unwrap();
            framed.envelopes.unwrap_or_default().items
        };
        self.response.iter().flat_map(of_message).collect()
    }

    /// Returns the last place in the stream.
    ///
    /// # Panics
    /// Panics if the stream has no envelope.
    #[must_use]
    pub fn head(&self) -> u64 {
        let last = self.envelopes().pop().unwrap();
        let last = pb::OriginatorEnvelope::decode(last).unwrap().unsigned_originator_envelope;
        pb::UnsignedOriginatorEnvelope::decode(last).unwrap().originator_sequence_id
    }

    /// Returns the length of the first message, without its framing.
    #[must_use]
    pub fn first_len(&self) -> usize {
        self.response.first().map_or(0, |message| message.len() - 5)
    }
}

/// A running peer. Dropping it closes its port.
#[derive(Debug)]
pub struct RecordedPeer {
    id: OriginatorId,
    key: PublicKey,
    port: u16,
    server: AbortHandle,
}

impl RecordedPeer {
    /// Starts it on a free port.
    ///
    /// # Panics
    /// Panics if the recording has no stream of the node, or no key.
    #[must_use]
    pub fn start(recording: &Recording, node: &RecordedNode) -> Self {
        let calls = Calls(Arc::new(Strand {
            id: node.id,
            head: recording.stream_of(node).head(),
            stream: recording.stream_of(node).response.clone(),
        }));
        let key = hex::decode(node.public_key.trim_start_matches("0x")).unwrap();
        let port = ports::free();
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let server = tokio::spawn(async move {
            Server::builder().serve(address, calls).await.unwrap();
        });
        Self {
            id: OriginatorId(node.id),
            key: PublicKey::from_sec1(&key).unwrap(),
            port,
            server: server.abort_handle(),
        }
    }

    /// Returns its record in the registry.
    #[must_use]
    pub fn record(&self) -> Record {
        Record {
            id: self.id,
            key: self.key,
            http_address: format!("http://127.0.0.1:{}", self.port),
            quic_address: None,
            canonical: true,
        }
    }
}

impl Drop for RecordedPeer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Debug)]
struct Strand {
    id: u32,
    head: u64,
    stream: Vec<Bytes>,
}

#[derive(Debug, Clone)]
struct Calls(Arc<Strand>);

impl Service<Request<tonic::body::Body>> for Calls {
    type Response = Response<FrameBody>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let strand = self.0.clone();
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        Box::pin(async move {
            let (to, frames) = mpsc::channel(4);
            let mut answer = Response::new(FrameBody(frames));
            let headers = answer.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            match &method[..] {
                "SubscribeOriginators" => {
                    tokio::spawn(async move { strand.play(&to).await });
                }
                "GetSyncCursor" => {
                    let sent = [Frame::data(strand.clock()), ok()];
                    sent.into_iter().for_each(|frame| to.try_send(frame).unwrap());
                }
                // Unimplemented, in the headers.
                _ => drop(headers.insert("grpc-status", HeaderValue::from_static("12"))),
            }
            Ok(answer)
        })
    }
}

impl Strand {
    /// Sends the stream, and keeps it open until the caller has gone.
    async fn play(&self, to: &mpsc::Sender<Frame<Bytes>>) {
        for message in &self.stream {
            if to.send(Frame::data(message.clone())).await.is_err() {
                return;
            }
        }
        to.closed().await;
    }

    fn clock(&self) -> Bytes {
        let heads = [(self.id, self.head)].into_iter().collect();
        let cursor = pb::Cursor { node_id_to_sequence_id: heads };
        let answer = metadata_api::GetSyncCursorResponse { latest_sync: Some(cursor) };
        super::raw::grpc_message(&answer.encode_to_vec()).into()
    }
}

fn ok() -> Frame<Bytes> {
    let mut map = HeaderMap::new();
    map.insert("grpc-status", HeaderValue::from_static("0"));
    Frame::trailers(map)
}
