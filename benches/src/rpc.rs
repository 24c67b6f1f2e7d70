//! gRPC with bytes that are encoded already, so that the generator costs as little as it can.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use parking_lot::Mutex;
use prost::Message;
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::error::BenchError;

/// Same as the node's own limit on messages.
const MESSAGE_LEN_MAX: usize = 25 * 1024 * 1024;
const WINDOW: u32 = 4 * 1024 * 1024;

pub(crate) const PUBLISH: PathAndQuery =
    PathAndQuery::from_static("/xmtp.xmtpv4.message_api.PublishApi/PublishPayerEnvelopes");
pub(crate) const PUBLISH_CLIENT: PathAndQuery =
    PathAndQuery::from_static("/xmtp.xmtpv4.payer_api.PayerApi/PublishClientEnvelopes");
pub(crate) const QUERY: PathAndQuery =
    PathAndQuery::from_static("/xmtp.xmtpv4.message_api.QueryApi/QueryEnvelopes");
pub(crate) const NEWEST: PathAndQuery =
    PathAndQuery::from_static("/xmtp.xmtpv4.message_api.QueryApi/GetNewestEnvelope");
pub(crate) const PAYER_INFO: PathAndQuery =
    PathAndQuery::from_static("/xmtp.xmtpv4.metadata_api.MetadataApi/GetPayerInfo");
pub(crate) const SUBMIT_REPORT: PathAndQuery =
    PathAndQuery::from_static("/xmtp.xmtpv4.message_api.MisbehaviorApi/SubmitMisbehaviorReport");
pub(crate) const SUBSCRIBE_TOPICS: PathAndQuery =
    PathAndQuery::from_static("/xmtp.xmtpv4.message_api.QueryApi/SubscribeTopics");
pub(crate) const SUBSCRIBE: PathAndQuery =
    PathAndQuery::from_static("/xmtp.xmtpv4.message_api.QueryApi/Subscribe");
pub(crate) const SUBSCRIBE_ORIGINATORS: PathAndQuery =
    PathAndQuery::from_static("/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeOriginators");
/// A stream of [`crate::idle_server`].
pub(crate) const PLAIN_STREAM: PathAndQuery =
    PathAndQuery::from_static("/xmtp.xmtpv4.message_api.PublishApi/Stream");
pub(crate) const GET_SYNC_CURSOR: PathAndQuery =
    PathAndQuery::from_static("/xmtp.xmtpv4.metadata_api.MetadataApi/GetSyncCursor");

/// Passes messages through as the bytes they are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(item.len());
        out.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(1024, 32 * 1024)
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(input.copy_to_bytes(input.remaining())))
    }
}

/// The certificate that nodes show. Without one they speak no TLS.
static CERTIFICATE: Mutex<Option<Certificate>> = Mutex::new(None);

/// Has all connections from now on speak TLS, to nodes with this certificate for `localhost`, as PEM; or no TLS, if
/// there is none.
pub(crate) fn speak_tls(pem: Option<&[u8]>) {
    *CERTIFICATE.lock() = pem.map(Certificate::from_pem);
}

/// One HTTP/2 connection to a node. Clones share it.
#[derive(Clone)]
pub(crate) struct Connection(Grpc<Channel>);

impl Connection {
    /// Connects within ten seconds.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, BenchError> {
        Self::open_from(address, None).await
    }

    /// Connects within ten seconds, from an address of this machine if one is named.
    pub(crate) async fn open_from(
        address: SocketAddr,
        from: Option<IpAddr>,
    ) -> Result<Self, BenchError> {
        let certificate = CERTIFICATE.lock().clone();
        let scheme = if certificate.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(Duration::from_secs(10))
            .local_address(from)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .tcp_nodelay(true);
        if let Some(certificate) = certificate {
            let trusted = ClientTlsConfig::new().ca_certificate(certificate);
            endpoint = endpoint.tls_config(trusted.domain_name("localhost"))?;
        }
        let channel = endpoint.connect().await?;
        Ok(Self(Grpc::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX)))
    }

    /// Several connections to the same node.
    pub(crate) async fn open_many(
        address: SocketAddr,
        count: usize,
    ) -> Result<Vec<Self>, BenchError> {
        let mut connections = Vec::new();
        for _ in 0..count.max(1) {
            connections.push(Self::open(address).await?);
        }
        Ok(connections)
    }

    /// A call that is answered once.
    pub(crate) async fn call(&mut self, path: PathAndQuery, body: Bytes) -> Result<Bytes, Status> {
        self.ready().await?;
        Ok(self.0.unary(Request::new(body), path, RawCodec).await?.into_inner())
    }

    /// Calls with a message, and decodes the answer.
    pub(crate) async fn ask<A: Message + Default>(
        &mut self,
        path: PathAndQuery,
        question: &impl Message,
    ) -> Result<A, BenchError> {
        Ok(A::decode(self.call(path, question.encode_to_vec().into()).await?)?)
    }

    /// A call that is answered again and again.
    pub(crate) async fn stream(
        &mut self,
        path: PathAndQuery,
        question: &impl Message,
    ) -> Result<Streaming<Bytes>, Status> {
        self.ready().await?;
        let request = Request::new(question.encode_to_vec().into());
        Ok(self.0.server_streaming(request, path, RawCodec).await?.into_inner())
    }

    /// A call in which both sides send messages.
    pub(crate) async fn duplex(
        &mut self,
        path: PathAndQuery,
        questions: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Streaming<Bytes>, Status> {
        self.ready().await?;
        Ok(self.0.streaming(Request::new(questions), path, RawCodec).await?.into_inner())
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))
    }
}

/// Returns the count of length-delimited fields number 1 in a message: the envelopes in an answer.
/// `None` when it is no such list.
pub(crate) fn count_entries(mut message: &[u8]) -> Option<u64> {
    let mut entries = 0;
    while let Some((&tag, rest)) = message.split_first() {
        if tag != 0x0a {
            return None;
        }
        let mut rest = rest;
        let len = prost::encoding::decode_varint(&mut rest).ok()?;
        message = rest.get(usize::try_from(len).ok()?..)?;
        entries += 1;
    }
    Some(entries)
}

/// Returns the content of field number 1 at the beginning of a message; `None` if something else is there.
pub(crate) fn first_field(message: &[u8]) -> Option<&[u8]> {
    let mut rest = message.strip_prefix(&[0x0a])?;
    let len = prost::encoding::decode_varint(&mut rest).ok()?;
    rest.get(..usize::try_from(len).ok()?)
}

#[cfg(test)]
mod tests {
    use hawser_proto::pb::xmtp::xmtpv4::{envelopes as pb, message_api as api};

    use super::*;

    #[test]
    fn entries_of_an_answer_are_counted() {
        for len in [0, 1, 3, 200] {
            let envelope = pb::OriginatorEnvelope {
                unsigned_originator_envelope: vec![7; 1000].into(),
                proof: None,
            };
            let answer =
                api::PublishPayerEnvelopesResponse { originator_envelopes: vec![envelope; len] };
            let mut bytes = answer.encode_to_vec();
            assert_eq!(count_entries(&bytes), Some(len as u64));
            bytes.push(0x12);
            assert_eq!(count_entries(&bytes), None);
            if len > 0 {
                assert_eq!(count_entries(&bytes[..bytes.len() - 2]), None);
            }
        }
    }
}
