//! The two services on the wire.
//!
//! The generated server would decode client envelopes and this gateway would have to encode them
//! again, which changes the bytes of many (a map entry may be written in several ways), and with
//! them their meaning as what was signed. So the request is read as a list of byte strings, which
//! is the same on the wire.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hawser_proto::Bytes;
use hawser_proto::codec::BoundedCodec;
use hawser_proto::pb::xmtp::xmtpv4::payer_api::{
    GetNodesRequest, GetNodesResponse, PublishClientEnvelopesResponse,
};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tower::Service;

use super::Api;
use hawser_serve::MESSAGE_LEN_BYTES_MAX;

/// The two services by name.
pub(crate) const SERVICES: [&str; 2] = [Payer::NAME, Gateway::NAME];

/// `PublishClientEnvelopesRequest`, with each envelope as it came.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PublishRequest {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) envelopes: Vec<Bytes>,
}

/// The name that clients use.
#[derive(Clone)]
pub(crate) struct Payer;

/// The name that clients shall use.
#[derive(Clone)]
pub(crate) struct Gateway;

impl NamedService for Payer {
    const NAME: &'static str = "xmtp.xmtpv4.payer_api.PayerApi";
}

impl NamedService for Gateway {
    const NAME: &'static str = "xmtp.xmtpv4.gateway_api.GatewayApi";
}

/// The methods under one of the names.
#[derive(Clone)]
pub(crate) struct Server<N> {
    api: Api,
    name: std::marker::PhantomData<N>,
}

impl<N> Server<N> {
    pub(crate) fn new(api: Api) -> Self {
        Self { api, name: std::marker::PhantomData }
    }
}

impl<N: NamedService> NamedService for Server<N> {
    const NAME: &'static str = N::NAME;
}

impl<N> Service<http::Request<Body>> for Server<N> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let api = self.api.clone();
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        match method {
            "PublishClientEnvelopes" => Box::pin(async move {
                let mut grpc = Grpc::new(BoundedCodec::<
                    PublishClientEnvelopesResponse,
                    PublishRequest,
                >::default())
                .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX);
                Ok(grpc.unary(Publish(api), request).await)
            }),
            "GetNodes" => Box::pin(async move {
                let mut grpc =
                    Grpc::new(BoundedCodec::<GetNodesResponse, GetNodesRequest>::default());
                Ok(grpc.unary(Nodes(api), request).await)
            }),
            _ => Box::pin(async move { Ok(Status::unimplemented("").into_http()) }),
        }
    }
}

struct Publish(Api);

impl UnaryService<PublishRequest> for Publish {
    type Response = PublishClientEnvelopesResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::Response>, Status>> + Send>>;

    fn call(&mut self, request: Request<PublishRequest>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move { api.publish(request).await })
    }
}

struct Nodes(Api);

impl UnaryService<GetNodesRequest> for Nodes {
    type Response = GetNodesResponse;
    type Future = std::future::Ready<Result<Response<Self::Response>, Status>>;

    fn call(&mut self, request: Request<GetNodesRequest>) -> Self::Future {
        std::future::ready(Ok(self.0.nodes(&request)))
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::pb::xmtp::xmtpv4::{envelopes, payer_api};
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_request_is_read_without_touching_its_envelopes() {
        let aad = envelopes::AuthenticatedData {
            target_topic: Bytes::from_static(&[1, 2]),
            depends_on: None,
        };
        let envelope = envelopes::ClientEnvelope { aad: Some(aad), payload: None };
        let request =
            payer_api::PublishClientEnvelopesRequest { envelopes: vec![envelope.clone(); 3] };
        let read = PublishRequest::decode(request.encode_to_vec().as_slice()).unwrap();
        assert_eq!(read.envelopes, vec![Bytes::from(envelope.encode_to_vec()); 3]);
        // A map entry whose key is 0 and not written: the generated type would write it.
        let odd = hex::decode("0a0a120011223344aabbccdd").unwrap();
        let mut bytes = vec![0x0a, 12];
        bytes.extend(&odd);
        let read = PublishRequest::decode(bytes.as_slice()).unwrap();
        assert_eq!(read.envelopes, [Bytes::from(odd)]);
    }
}
