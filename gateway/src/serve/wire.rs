//! The gRPC servers of `PayerApi` and `GatewayApi`.
//!
//! A generated server would decode client envelopes, and the gateway would have to encode them again. That changes
//! the bytes of some of them, because protobuf allows several encodings of a map entry, and signatures cover the
//! bytes. So these servers decode a request as a list of byte strings, which has the same form on the wire.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hawser_proto::Bytes;
use hawser_proto::codec::BoundedCodec;
use hawser_proto::pb::xmtp::xmtpv4::payer_api::{
    GetNodesRequest, GetNodesResponse, PublishClientEnvelopesResponse,
};
use hawser_serve::{CallCharge, MESSAGE_LEN_BYTES_MAX};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tower::Service;

use super::router::ServiceRouter;

/// The full names of both services.
pub(crate) const SERVICES: [&str; 2] = [Payer::NAME, Gateway::NAME];

/// `PublishClientEnvelopesRequest` with each envelope as the received bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PublishRequest {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) envelopes: Vec<Bytes>,
}

/// The service name that clients use today.
#[derive(Clone)]
pub(crate) struct Payer;

/// The service name that replaces it.
#[derive(Clone)]
pub(crate) struct Gateway;

impl NamedService for Payer {
    const NAME: &'static str = "xmtp.xmtpv4.payer_api.PayerApi";
}

impl NamedService for Gateway {
    const NAME: &'static str = "xmtp.xmtpv4.gateway_api.GatewayApi";
}

/// A server of the methods under the service name `N`.
#[derive(Clone)]
pub(crate) struct GatewayMethods<N> {
    service: Arc<ServiceRouter>,
    name: std::marker::PhantomData<N>,
}

impl<N> GatewayMethods<N> {
    pub(crate) fn new(service: Arc<ServiceRouter>) -> Self {
        Self { service, name: std::marker::PhantomData }
    }
}

impl<N: NamedService> NamedService for GatewayMethods<N> {
    const NAME: &'static str = N::NAME;
}

impl<N> Service<http::Request<Body>> for GatewayMethods<N> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.service.clone();
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        match method {
            "PublishClientEnvelopes" => Box::pin(async move {
                let mut grpc = Grpc::new(BoundedCodec::<
                    PublishClientEnvelopesResponse,
                    PublishRequest,
                >::default())
                .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX);
                Ok(grpc.unary(Publish(service), request).await)
            }),
            "GetNodes" => Box::pin(async move {
                let mut grpc =
                    Grpc::new(BoundedCodec::<GetNodesResponse, GetNodesRequest>::default())
                        .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
                        .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX);
                Ok(grpc.unary(GetNodes(service), request).await)
            }),
            _ => Box::pin(async move { Ok(Status::unimplemented("").into_http()) }),
        }
    }
}

struct Publish(Arc<ServiceRouter>);

impl UnaryService<PublishRequest> for Publish {
    type Response = PublishClientEnvelopesResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::Response>, Status>> + Send>>;

    fn call(&mut self, request: Request<PublishRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            let peer = request.remote_addr();
            let (metadata, extensions, request) = request.into_parts();
            let charge = CallCharge::of(&extensions);
            let headers = metadata.into_headers();
            service.publish(&headers, peer, request.envelopes, charge).await.map(Response::new)
        })
    }
}

struct GetNodes(Arc<ServiceRouter>);

impl UnaryService<GetNodesRequest> for GetNodes {
    type Response = GetNodesResponse;
    type Future = std::future::Ready<Result<Response<Self::Response>, Status>>;

    fn call(&mut self, _: Request<GetNodesRequest>) -> Self::Future {
        std::future::ready(Ok(Response::new(self.0.nodes())))
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
        // A map entry whose key 0 is not encoded: the generated type would encode it.
        let odd = hex::decode("0a0a120011223344aabbccdd").unwrap();
        let mut bytes = vec![0x0a, 12];
        bytes.extend(&odd);
        let read = PublishRequest::decode(bytes.as_slice()).unwrap();
        assert_eq!(read.envelopes, [Bytes::from(odd)]);
    }
}
