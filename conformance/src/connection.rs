//! Calls to one node, each with a time limit.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use hawser_proto::codec::BoundedCodec;
use prost::Message;
use tokio_stream::Stream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::case_error::{CaseError, Checked};
use crate::channel::StatusChannel;
use crate::connector::NodeConnector;
use crate::http::{self, HttpAnswer, TargetAddress};

/// Largest message that is accepted from a node, bytes: the protocol's 25 MiB, and room for framing.
const MESSAGE_LEN_BYTES_MAX: usize = 26 * 1024 * 1024;
/// Levels of nested messages in an answer whose fields are counted before it is decoded. An empty element costs the
/// node two bytes and the decoder more than thirty, so a hostile node could otherwise exhaust the memory of the suite.
/// The lists in a frame of `Subscribe` are on the third level.
const ANSWER_LEVELS: usize = 3;
/// HTTP/2 window of a stream on a narrow connection, in bytes. A guess: far less than a page of envelopes, and still
/// several envelopes for each round trip.
const NARROW_WINDOW_BYTES: u32 = 16 * 1024;

/// The service that clients in use call.
pub const REPLICATION_API: &str = "/xmtp.xmtpv4.message_api.ReplicationApi";
/// The service for queries and subscriptions.
pub const QUERY_API: &str = "/xmtp.xmtpv4.message_api.QueryApi";
/// The service for push servers.
pub const NOTIFICATION_API: &str = "/xmtp.xmtpv4.message_api.NotificationApi";
/// The service for publishing.
pub const PUBLISH_API: &str = "/xmtp.xmtpv4.message_api.PublishApi";
/// The service for proofs, an extension of Hawser's.
pub const CHECKPOINT_API: &str = "/hawser.checkpoint_api.CheckpointApi";
/// The service for evidence against nodes.
pub const MISBEHAVIOR_API: &str = "/xmtp.xmtpv4.message_api.MisbehaviorApi";
/// The service for statements of a node about itself.
pub const METADATA_API: &str = "/xmtp.xmtpv4.metadata_api.MetadataApi";
/// The service of a gateway that clients in use call.
pub const PAYER_API: &str = "/xmtp.xmtpv4.payer_api.PayerApi";
/// The newer name of that service.
pub const GATEWAY_API: &str = "/xmtp.xmtpv4.gateway_api.GatewayApi";
/// The health service.
pub const HEALTH: &str = "/grpc.health.v1.Health";

/// One node or gateway as callers see it. Calls share an HTTP/2 connection, which is opened again when it breaks.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The address.
    pub address: TargetAddress,
    channel: StatusChannel,
    answer_timeout: Duration,
}

impl Connection {
    /// Makes a connection that opens with its first call. `answer_timeout` limits every call.
    ///
    /// # Errors
    /// Returns an error if the address is no URL that gRPC can dial.
    pub fn new(
        address: TargetAddress,
        answer_timeout: Duration,
    ) -> Result<Self, tonic::transport::Error> {
        Self::with_window(address, answer_timeout, None)
    }

    /// Makes a second connection with a small HTTP/2 window, so that a page of envelopes is in flight until the
    /// caller reads it.
    ///
    /// # Errors
    /// The errors of [`new`](Self::new).
    pub fn narrow(&self) -> Checked<Self> {
        Self::with_window(self.address.clone(), self.answer_timeout, Some(NARROW_WINDOW_BYTES))
            .map_err(|error| CaseError::new("an address", error))
    }

    fn with_window(
        address: TargetAddress,
        answer_timeout: Duration,
        window_bytes: Option<u32>,
    ) -> Result<Self, tonic::transport::Error> {
        let url = Endpoint::from_shared(address.url())?.uri().clone();
        // The connector speaks TLS, because the library's own would be above its meter of frames.
        let endpoint = Endpoint::from_static("http://node")
            .origin(url)
            .connect_timeout(answer_timeout)
            .initial_stream_window_size(window_bytes);
        let channel = endpoint.connect_with_connector_lazy(NodeConnector(address.clone()));
        Ok(Self { channel: StatusChannel(channel), address, answer_timeout })
    }

    /// Returns the time limit of each call.
    #[must_use]
    pub fn answer_timeout(&self) -> Duration {
        self.answer_timeout
    }

    /// Makes a call with one answer.
    ///
    /// # Errors
    /// The node's status; DEADLINE_EXCEEDED "no answer" after the timeout.
    pub async fn unary<Q, A>(&self, path: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        Ok(self.unary_response(path, request).await?.into_inner())
    }

    /// Makes a call with one answer and returns its metadata too.
    ///
    /// # Errors
    /// The errors of [`unary`](Self::unary).
    pub async fn unary_response<Q, A>(&self, path: &str, request: Q) -> Result<Response<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.within(async {
            let mut grpc = self.grpc().await?;
            let codec = BoundedCodec::<Q, A>::with_levels(ANSWER_LEVELS);
            grpc.unary(Request::new(request), route(path)?, codec).await
        })
        .await
    }

    /// Makes a call with an encoded message and returns the encoded answer.
    ///
    /// # Errors
    /// The errors of [`unary`](Self::unary).
    pub async fn raw(&self, path: &str, message: Bytes) -> Result<Bytes, Status> {
        self.within(async {
            let mut grpc = self.grpc().await?;
            Ok(grpc.unary(Request::new(message), route(path)?, BytesCodec).await?.into_inner())
        })
        .await
    }

    /// Makes a call with a stream of answers.
    ///
    /// # Errors
    /// The errors of [`unary`](Self::unary).
    pub async fn stream<Q, A>(&self, path: &str, request: Q) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.stream_with(path, Request::new(request)).await
    }

    /// Makes a call with a stream of answers and with metadata in the request.
    ///
    /// # Errors
    /// The errors of [`unary`](Self::unary).
    pub async fn stream_with<Q, A>(
        &self,
        path: &str,
        request: Request<Q>,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        Ok(self.stream_response(path, request).await?.into_inner())
    }

    /// Makes a call with a stream of answers and returns the answer's metadata too.
    ///
    /// # Errors
    /// The errors of [`unary`](Self::unary).
    pub async fn stream_response<Q, A>(
        &self,
        path: &str,
        request: Request<Q>,
    ) -> Result<Response<Streaming<A>>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.within(async {
            let mut grpc = self.grpc().await?;
            let codec = BoundedCodec::<Q, A>::with_levels(ANSWER_LEVELS);
            grpc.server_streaming(request, route(path)?, codec).await
        })
        .await
    }

    /// Makes a call with streams in both directions.
    ///
    /// # Errors
    /// The errors of [`unary`](Self::unary).
    pub async fn duplex<Q, A>(
        &self,
        path: &str,
        requests: impl Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.within(async {
            let mut grpc = self.grpc().await?;
            let codec = BoundedCodec::<Q, A>::with_levels(ANSWER_LEVELS);
            Ok(grpc.streaming(Request::new(requests), route(path)?, codec).await?.into_inner())
        })
        .await
    }

    /// Sends a request over a new HTTP/1.1 connection.
    ///
    /// # Errors
    /// Returns an error if there is no response within the timeout.
    pub async fn http(&self, request: &[u8]) -> Checked<HttpAnswer> {
        http::ask(&self.address, request, self.answer_timeout).await
    }

    /// Sends a `POST` request over a new HTTP/1.1 connection.
    ///
    /// # Errors
    /// The errors of [`http`](Self::http).
    pub async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Checked<HttpAnswer> {
        self.http(&http::post(path, headers, body)).await
    }

    /// Asks for a page over a new HTTP/1.1 connection.
    ///
    /// # Errors
    /// The errors of [`http`](Self::http).
    pub async fn page(&self, path: &str) -> Checked<HttpAnswer> {
        self.http(&http::get(path)).await
    }

    /// Checks that the node still answers.
    ///
    /// # Errors
    /// Returns an error if the node's health service does not answer within the timeout.
    pub async fn serves(&self) -> Checked {
        let path = format!("{HEALTH}/Check");
        self.raw(&path, Bytes::new())
            .await
            .map(|_| ())
            .map_err(|status| CaseError::from(status).at("the node answers afterwards"))
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let waited = || {
            Status::new(
                Code::DeadlineExceeded,
                format!("no answer within {} ms", self.answer_timeout.as_millis()),
            )
        };
        tokio::time::timeout(self.answer_timeout, call).await.unwrap_or_else(|_| Err(waited()))
    }

    async fn grpc(&self) -> Result<Grpc<StatusChannel>, Status> {
        let mut grpc =
            Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LEN_BYTES_MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }
}

fn route(path: &str) -> Result<PathAndQuery, Status> {
    path.parse().map_err(|_| Status::internal(format!("{path:?} is not a path")))
}

/// A codec that passes encoded messages through.
#[derive(Debug, Clone, Copy)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::budget;
    use hawser_proto::codec::MESSAGE_FIELDS_MAX;

    use super::*;
    use crate::wire::{Framed, Lane, List, SubscribeFrame, SubscribeV1};

    fn is_decoded(message: &[u8]) -> bool {
        budget::has_at_most(message, MESSAGE_FIELDS_MAX, ANSWER_LEVELS)
    }

    #[test]
    fn the_answers_of_nodes_are_decoded_and_millions_of_empty_elements_are_not() {
        let many = |count: usize| vec![Bytes::new(); count];
        let list = |count| List { items: many(count) };
        let framed = |count| Framed { envelopes: Some(list(count)), status: None };
        let frame = |count| {
            let envelopes = Some(Lane { envelopes: many(count), mutate_id: 1 });
            SubscribeFrame { v1: Some(SubscribeV1 { envelopes, ..SubscribeV1::default() }) }
        };
        for (count, expected) in [(100_000, true), (MESSAGE_FIELDS_MAX + 1, false)] {
            assert_eq!(is_decoded(&list(count).encode_to_vec()), expected);
            assert_eq!(is_decoded(&framed(count).encode_to_vec()), expected);
            assert_eq!(is_decoded(&frame(count).encode_to_vec()), expected);
        }
        // A page of a thousand envelopes, and bytes that are no message.
        assert!(is_decoded(
            &List { items: vec![Bytes::from(vec![7; 1_000]); 1_000] }.encode_to_vec()
        ));
        for malformed in [&[0x0a][..], &[0x0a, 0xff], &[0x0a, 5, 1], &[0xff; 20], &[0; 9]] {
            assert!(is_decoded(malformed), "the decoder refuses it");
        }
        // An end that is malformed takes nothing back.
        let mut late = [0x0a, 0].repeat(MESSAGE_FIELDS_MAX + 1);
        late.push(0xff);
        assert!(!is_decoded(&late));
    }
}
