//! `QueryApi.Subscribe` (XIP-83): one stream in both directions.

use std::time::Duration;

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use pb::subscribe_request::V1;
pub use pb::subscribe_request::v1::Mutate;
use pb::subscribe_request::v1::Request as Ask;
use pb::subscribe_request::v1::mutate::Subscription;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::case_error::{CaseError, Checked, ensure};
use crate::connection::{Connection, QUERY_API};
use crate::listener::{Listener, hold};
use crate::wire::{SubscribeFrame, SubscribeV1};

/// Frames that wait to be sent. A guess: more than a case sends before it listens.
const FRAMES_WAITING_MAX: usize = 1024;

/// An open stream.
#[derive(Debug)]
pub struct DuplexStream {
    requests: Option<mpsc::Sender<pb::SubscribeRequest>>,
    frames: Listener<SubscribeFrame>,
    /// Keepalive interval that the node has stated.
    pub interval: Duration,
}

/// A frame of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Envelopes of a wave, or live ones if the id is 0.
    Envelopes(u64, Vec<Bytes>),
    /// A ping with its nonce.
    Ping(u64),
    /// A pong with its nonce.
    Pong(u64),
    /// Topics that have no more history to come.
    Live(Vec<Bytes>),
    /// The end of a wave.
    Complete(u64),
    /// The first frame.
    Started(u32),
}

impl DuplexStream {
    /// Opens a stream, and checks that its first frame is `started`.
    ///
    /// # Errors
    /// Returns an error if the node refuses the stream, or its first frame is another one.
    pub async fn open(node: &Connection) -> Checked<Self> {
        let (requests, receiver) = mpsc::channel(FRAMES_WAITING_MAX);
        let path = format!("{QUERY_API}/Subscribe");
        let frames = node.duplex(&path, ReceiverStream::new(receiver)).await?;
        let frames = Listener::new(frames, node.answer_timeout());
        let mut duplex = Self { requests: Some(requests), frames, interval: Duration::ZERO };
        match duplex.receive_with_pings().await? {
            Frame::Started(interval_ms) => {
                duplex.interval = Duration::from_millis(interval_ms.into())
            }
            other => {
                return Err(CaseError::new("started as the first frame", format!("{other:?}")));
            }
        }
        ensure(!duplex.interval.is_zero(), "a keepalive interval", || "0 ms".to_owned())?;
        Ok(duplex)
    }

    /// Replaces the timeout of each later frame: the pings of a silent stream come after a keepalive interval.
    pub fn set_answer_timeout(&mut self, answer_timeout: Duration) {
        self.frames.set_answer_timeout(answer_timeout);
    }

    /// Sends any frame. After the end of the stream the frame is dropped; the caller learns of the end from the next
    /// frame it reads.
    pub async fn send(&self, request: pb::SubscribeRequest) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(request).await;
        }
    }

    /// Sends a request of the first version.
    pub async fn ask(&self, request: Option<Ask>) {
        let version = Some(pb::subscribe_request::Version::V1(V1 { request }));
        self.send(pb::SubscribeRequest { version }).await;
    }

    /// Sends a Mutate.
    pub async fn mutate(&self, mutate: Mutate) {
        self.ask(Some(Ask::Mutate(mutate))).await;
    }

    /// Sends a ping.
    pub async fn ping(&self, nonce: u64) {
        self.ask(Some(Ask::Ping(pb::Ping { nonce }))).await;
    }

    /// Sends a pong.
    pub async fn pong(&self, nonce: u64) {
        self.ask(Some(Ask::Pong(pb::Pong { nonce }))).await;
    }

    /// Closes the sending half of the stream; the receiving half stays open.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// Returns the next frame; pings are answered and passed over.
    ///
    /// # Errors
    /// Returns an error if no frame comes within the timeout, or it has no content.
    pub async fn receive(&mut self) -> Checked<Frame> {
        loop {
            match self.receive_with_pings().await? {
                Frame::Ping(nonce) => self.pong(nonce).await,
                frame => return Ok(frame),
            }
        }
    }

    /// Returns the next frame, also a ping.
    ///
    /// # Errors
    /// Returns an error if no frame comes within the timeout, or it has no content.
    pub async fn receive_with_pings(&mut self) -> Checked<Frame> {
        decode(self.frames.next().await?)
    }

    /// Returns the envelopes of lane `mutate_id` until `catchup_complete` of it, and the topics that `topics_live`
    /// named before. A live envelope in between is an error.
    ///
    /// # Errors
    /// Returns an error if a frame of another kind or lane comes, or the stream falls silent before `catchup_complete`.
    pub async fn wave(&mut self, mutate_id: u64) -> Checked<(Vec<Bytes>, Vec<Bytes>)> {
        let (mut envelopes, mut live) = (Vec::new(), Vec::new());
        loop {
            match self
                .receive()
                .await
                .map_err(|failure| failure.at(format_args!("wave {mutate_id}")))?
            {
                Frame::Envelopes(lane, more) if lane == mutate_id && live.is_empty() => {
                    hold(&mut envelopes, more)?
                }
                // A node may name them in several frames.
                Frame::Live(topics) => hold(&mut live, topics)?,
                Frame::Complete(id) if id == mutate_id => return Ok((envelopes, live)),
                other => {
                    let expected = format!(
                        "envelopes of wave {mutate_id}, topics_live, catchup_complete, in this order"
                    );
                    return Err(CaseError::new(expected, format!("{other:?}")));
                }
            }
        }
    }

    /// Returns the next `count` live envelopes.
    ///
    /// # Errors
    /// Returns an error if a frame of another kind comes, or too few envelopes come before the timeout.
    pub async fn live(&mut self, count: usize) -> Checked<Vec<Bytes>> {
        let mut envelopes = Vec::new();
        while envelopes.len() < count {
            match self.receive().await.map_err(|failure| failure.at("live envelopes"))? {
                Frame::Envelopes(0, more) => hold(&mut envelopes, more)?,
                other => {
                    return Err(CaseError::new("live envelopes, with id 0", format!("{other:?}")));
                }
            }
        }
        ensure(envelopes.len() == count, format_args!("{count} live envelopes"), || {
            envelopes.len().to_string()
        })?;
        Ok(envelopes)
    }

    /// Reads to the end of the stream and checks its status.
    ///
    /// # Errors
    /// Returns an error if the stream does not end, or ends with another status.
    pub async fn ends_with(&mut self, code: Code, text: &str) -> Checked {
        self.frames.ends_with(code, text).await
    }

    /// Returns the next frame, `None` at an end with OK, or the status of another end.
    ///
    /// # Errors
    /// Returns an error if no frame and no end come within the timeout, or a frame has no content.
    pub async fn receive_or_end(&mut self) -> Checked<Result<Option<Frame>, Status>> {
        Ok(match self.frames.next_or_end().await? {
            Ok(Some(frame)) => Ok(Some(decode(frame)?)),
            Ok(None) => Ok(None),
            Err(status) => Err(status),
        })
    }
}

fn decode(frame: SubscribeFrame) -> Checked<Frame> {
    Ok(match frame.v1 {
        Some(SubscribeV1 { envelopes: Some(lane), .. }) => {
            Frame::Envelopes(lane.mutate_id, lane.envelopes)
        }
        Some(SubscribeV1 { started: Some(interval), .. }) => Frame::Started(interval.value),
        Some(SubscribeV1 { ping: Some(nonce), .. }) => Frame::Ping(nonce.value),
        Some(SubscribeV1 { pong: Some(nonce), .. }) => Frame::Pong(nonce.value),
        Some(SubscribeV1 { topics_live: Some(topics), .. }) => Frame::Live(topics.items),
        Some(SubscribeV1 { complete: Some(id), .. }) => Frame::Complete(id.value),
        other => return Err(CaseError::new("a frame with content", format!("{other:?}"))),
    })
}

/// Returns a subscription of a Mutate.
#[must_use]
pub fn add(topic: &Bytes, last_seen: Option<Cursor>) -> Subscription {
    Subscription { topic: topic.clone(), last_seen }
}

/// Returns a Mutate that adds topics from their beginning.
#[must_use]
pub fn adds(mutate_id: u64, topics: &[&Bytes]) -> Mutate {
    let adds = topics.iter().map(|topic| add(topic, None)).collect();
    Mutate { adds, mutate_id, ..Mutate::default() }
}

/// Returns a Mutate that removes topics.
#[must_use]
pub fn removes(mutate_id: u64, topics: &[&Bytes]) -> Mutate {
    Mutate {
        removes: topics.iter().map(|&topic| topic.clone()).collect(),
        mutate_id,
        ..Mutate::default()
    }
}
