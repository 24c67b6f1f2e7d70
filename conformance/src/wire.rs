//! Protobuf messages that keep the envelopes of an answer as received bytes.
//!
//! Nested messages and byte strings have the same encoding, so these messages decode in place of those of the schema. A
//! case then compares the bytes that the node sent, not the result of decoding and encoding them again.

use bytes::Bytes;
use prost::Message;

/// Field 1, repeated: the layout of every answer with envelopes, of lists of envelopes and of lists of topics.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct List {
    /// The elements, in the order in which they came.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub items: Vec<Bytes>,
}

/// Answer of `GetNewestEnvelope`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NewestList {
    /// One result for each topic of the request.
    #[prost(message, repeated, tag = "1")]
    pub results: Vec<Newest>,
}

/// Result of `GetNewestEnvelope` for one topic.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Newest {
    /// The envelope, if the topic has one.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub envelope: Option<Bytes>,
}

/// Message of `SubscribeTopics` and `SubscribeOriginators`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Framed {
    /// Envelopes.
    #[prost(message, optional, tag = "1")]
    pub envelopes: Option<List>,
    /// A status of the subscription: 1 started, 2 caught up, 3 waiting.
    #[prost(message, optional, tag = "2")]
    pub status: Option<Number32>,
}

/// Field 1, a number of 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Number32 {
    /// The number.
    #[prost(uint32, tag = "1")]
    pub value: u32,
}

/// Field 1, a number of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Number64 {
    /// The number.
    #[prost(uint64, tag = "1")]
    pub value: u64,
}

/// Frame of the node on `Subscribe`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SubscribeFrame {
    /// The content, in the first version.
    #[prost(message, optional, tag = "1")]
    pub v1: Option<SubscribeV1>,
}

/// Content of a frame of `Subscribe`; one of the fields is set.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SubscribeV1 {
    /// Envelopes of one lane.
    #[prost(message, optional, tag = "1")]
    pub envelopes: Option<Lane>,
    /// The first frame; the value is the keepalive interval in milliseconds.
    #[prost(message, optional, tag = "2")]
    pub started: Option<Number32>,
    /// A ping; the value is its nonce.
    #[prost(message, optional, tag = "3")]
    pub ping: Option<Number64>,
    /// A pong; the value is its nonce.
    #[prost(message, optional, tag = "4")]
    pub pong: Option<Number64>,
    /// Topics that have no more history to come.
    #[prost(message, optional, tag = "5")]
    pub topics_live: Option<List>,
    /// The end of a wave; the value is the id of its Mutate.
    #[prost(message, optional, tag = "6")]
    pub complete: Option<Number64>,
}

/// Envelopes of one wave, or live ones.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Lane {
    /// The envelopes.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub envelopes: Vec<Bytes>,
    /// Id of the wave's Mutate; 0 for live envelopes.
    #[prost(uint64, tag = "2")]
    pub mutate_id: u64,
}

/// Request of reflection; one of the fields is set. Both versions of the service have this layout.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReflectionRequest {
    /// The full name of the service, method or type whose schema is requested.
    #[prost(string, optional, tag = "4")]
    pub symbol: Option<String>,
    /// A request for the names of the services. The text has no meaning.
    #[prost(string, optional, tag = "7")]
    pub services: Option<String>,
}

/// Answer of reflection; one of the fields is set.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReflectionAnswer {
    /// Files of the schema.
    #[prost(message, optional, tag = "4")]
    pub files: Option<List>,
    /// The services.
    #[prost(message, optional, tag = "6")]
    pub services: Option<List>,
}
