//! A node's API as clients, gateways and peers call it.
//!
//! Envelopes are kept as received bytes. The messages of the answers are declared again with bytes in place of nested
//! messages, which have the same encoding. A test thus compares the bytes that the node sent, not the result of
//! decoding and encoding them again.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use hawser_conformance::wire::{List, NewestList};
use hawser_proto::pb::xmtp::identity::associations::IdentifierKind;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_proto::pb::xmtp::xmtpv4::{envelopes as pb, metadata_api};
use hawser_proto::{Cursor, OriginatorId, Topic};
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// The service that clients in use call.
pub const REPLICATION_API: &str = "/xmtp.xmtpv4.message_api.ReplicationApi";
/// The service for queries and subscriptions.
pub const QUERY_API: &str = "/xmtp.xmtpv4.message_api.QueryApi";
/// The service for readers of all envelopes.
pub const NOTIFICATION_API: &str = "/xmtp.xmtpv4.message_api.NotificationApi";
/// The service for publishing.
pub const PUBLISH_API: &str = "/xmtp.xmtpv4.message_api.PublishApi";
/// The service for statements of a node about itself.
pub const METADATA_API: &str = "/xmtp.xmtpv4.metadata_api.MetadataApi";

/// Longest accepted message in bytes. Above the limit of nodes, so that the test and not the client library notices a
/// longer one.
const MESSAGE_BYTES_MAX: usize = 80 * 1024 * 1024;

/// Message of `SubscribeTopics` and `SubscribeOriginators`.
#[derive(Clone, PartialEq, Message)]
struct WireFrame {
    #[prost(message, optional, tag = "1")]
    envelopes: Option<List>,
    #[prost(message, optional, tag = "2")]
    status: Option<api::subscribe_topics_response::StatusUpdate>,
}

/// One message of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// Signed originator envelopes, in the order they came.
    pub envelopes: Vec<Bytes>,
    /// The status of a subscription by topics.
    pub status: Option<i32>,
}

/// One connection to a node. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Creates a client of a port of this machine. Connects with the first call.
    #[must_use]
    pub fn new(port: u16) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, port).into())
    }

    /// Creates a client of any address. Connects with the first call.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self { channel: endpoint.connect_timeout(Duration::from_secs(5)).connect_lazy() }
    }

    /// Creates a client over a connection that the test has made, such as one with TLS.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        Self { channel }
    }

    /// Publishes the envelopes in one request and returns the answer for each.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn publish(&self, envelopes: Vec<pb::PayerEnvelope>) -> Result<Vec<Bytes>, Status> {
        let request = api::PublishPayerEnvelopesRequest { payer_envelopes: envelopes };
        let path = format!("{PUBLISH_API}/PublishPayerEnvelopes");
        Ok(self.unary::<_, List>(&path, request).await?.items)
    }

    /// Queries by topics.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn query_topics(
        &self,
        topics: &[Topic],
        after: &Cursor,
        limit: u32,
    ) -> Result<Vec<Bytes>, Status> {
        let topics = topics.iter().map(|topic| topic.as_bytes().clone()).collect();
        let query =
            api::EnvelopesQuery { topics, last_seen: Some(after.to_pb()), ..Default::default() };
        self.query(query, limit).await
    }

    /// Queries by originators.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn query_originators(
        &self,
        originators: &[OriginatorId],
        after: &Cursor,
        limit: u32,
    ) -> Result<Vec<Bytes>, Status> {
        let query = api::EnvelopesQuery {
            originator_node_ids: originators.iter().map(|originator| originator.0).collect(),
            last_seen: Some(after.to_pb()),
            ..Default::default()
        };
        self.query(query, limit).await
    }

    /// Queries with any request.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn query(
        &self,
        query: api::EnvelopesQuery,
        limit: u32,
    ) -> Result<Vec<Bytes>, Status> {
        let request = api::QueryEnvelopesRequest { query: Some(query), limit };
        let path = format!("{QUERY_API}/QueryEnvelopes");
        Ok(self.unary::<_, List>(&path, request).await?.items)
    }

    /// Returns the newest envelope of each topic.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn newest(&self, topics: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, Status> {
        let request = api::GetNewestEnvelopeRequest { topics };
        let path = format!("{QUERY_API}/GetNewestEnvelope");
        let answer: NewestList = self.unary(&path, request).await?;
        Ok(answer.results.into_iter().map(|result| result.envelope).collect())
    }

    /// Returns the inbox of each address in lower-case hexadecimal, or `None` for an address without one.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn inbox_ids(&self, addresses: &[&str]) -> Result<Vec<Option<String>>, Status> {
        let asked = |address: &&str| api::get_inbox_ids_request::Request {
            identifier: (*address).to_owned(),
            identifier_kind: IdentifierKind::Ethereum.into(),
        };
        let request = api::GetInboxIdsRequest { requests: addresses.iter().map(asked).collect() };
        let path = format!("{QUERY_API}/GetInboxIds");
        let answer: api::GetInboxIdsResponse = self.unary(&path, request).await?;
        Ok(answer.responses.into_iter().map(|response| response.inbox_id).collect())
    }

    /// Returns the node's heads of all strands.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn cursor(&self) -> Result<Cursor, Status> {
        let path = format!("{METADATA_API}/GetSyncCursor");
        let answer: metadata_api::GetSyncCursorResponse =
            self.unary(&path, metadata_api::GetSyncCursorRequest {}).await?;
        Ok(answer.latest_sync.as_ref().map(Cursor::from).unwrap_or_default())
    }

    /// Makes any call with one answer.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn unary<Q, A>(&self, path: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.grpc().await?;
        let codec = ProstCodec::<Q, A>::default();
        Ok(grpc.unary(Request::new(request), route(path), codec).await?.into_inner())
    }

    /// Makes any call with a stream of answers.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn streaming<Q, A>(&self, path: &str, request: Q) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.grpc().await?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = grpc.server_streaming(Request::new(request), route(path), codec).await?;
        Ok(answer.into_inner())
    }

    /// Subscribes to topics, each with its own cursor, as published clients do: `SubscribeTopics`.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn subscribe_topics(
        &self,
        topics: &[(Topic, Cursor)],
    ) -> Result<Subscription, Status> {
        let filter =
            |(topic, cursor): &(Topic, Cursor)| api::subscribe_topics_request::TopicFilter {
                topic: topic.as_bytes().clone(),
                last_seen: Some(cursor.to_pb()),
            };
        let request = api::SubscribeTopicsRequest { filters: topics.iter().map(filter).collect() };
        self.subscribe_topics_with(request).await
    }

    /// The same with any request.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn subscribe_topics_with(
        &self,
        request: api::SubscribeTopicsRequest,
    ) -> Result<Subscription, Status> {
        let path = format!("{REPLICATION_API}/SubscribeTopics");
        Ok(Subscription(Wire::Framed(self.streaming(&path, request).await?)))
    }

    /// Subscribes by a query: `SubscribeEnvelopes`. Without `last_seen` there is no catch-up.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn subscribe_envelopes(
        &self,
        query: Option<api::EnvelopesQuery>,
    ) -> Result<Subscription, Status> {
        let path = format!("{REPLICATION_API}/SubscribeEnvelopes");
        let request = api::SubscribeEnvelopesRequest { query };
        Ok(Subscription(Wire::Plain(self.streaming(&path, request).await?)))
    }

    /// Subscribes to strands, as peers do: `SubscribeOriginators`.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn subscribe_originators(
        &self,
        originators: &[OriginatorId],
        after: &Cursor,
    ) -> Result<Subscription, Status> {
        let filter = api::subscribe_originators_request::OriginatorFilter {
            originator_node_ids: originators.iter().map(|originator| originator.0).collect(),
            last_seen: Some(after.to_pb()),
        };
        self.subscribe_originators_with(api::SubscribeOriginatorsRequest { filter: Some(filter) })
            .await
    }

    /// The same with any request.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn subscribe_originators_with(
        &self,
        request: api::SubscribeOriginatorsRequest,
    ) -> Result<Subscription, Status> {
        let path = format!("{REPLICATION_API}/SubscribeOriginators");
        Ok(Subscription(Wire::Framed(self.streaming(&path, request).await?)))
    }

    /// Subscribes to all later envelopes: `SubscribeAllEnvelopes`.
    ///
    /// # Errors
    /// The status of the node, or of the connection to it.
    pub async fn subscribe_all(&self) -> Result<Subscription, Status> {
        let path = format!("{NOTIFICATION_API}/SubscribeAllEnvelopes");
        let request = api::SubscribeAllEnvelopesRequest {};
        Ok(Subscription(Wire::Plain(self.streaming(&path, request).await?)))
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }
}

fn route(path: &str) -> PathAndQuery {
    PathAndQuery::try_from(path).unwrap()
}

/// A running subscription. Dropping it cancels the call.
#[derive(Debug)]
pub struct Subscription(Wire);

/// The two forms in which streams carry envelopes.
#[derive(Debug)]
enum Wire {
    /// In an inner list, with status messages between.
    Framed(Streaming<WireFrame>),
    /// Envelopes only.
    Plain(Streaming<List>),
}

impl Subscription {
    /// Returns the next message; `None` after the node has ended the stream with OK. Cancel safe.
    ///
    /// # Errors
    /// The final status of the stream, if that is not OK.
    pub async fn next(&mut self) -> Result<Option<Frame>, Status> {
        Ok(match &mut self.0 {
            Wire::Framed(stream) => stream.message().await?.map(|frame| Frame {
                envelopes: frame.envelopes.unwrap_or_default().items,
                status: frame.status.map(|update| update.status),
            }),
            Wire::Plain(stream) => {
                stream.message().await?.map(|list| Frame { envelopes: list.items, status: None })
            }
        })
    }
}
