//! The services that clients call: `PayerApi` and `GatewayApi`, which do the same.
//!
//! - `wire`: requests as bytes, so that client envelopes stay as they came;
//! - `publish`: one request from its bytes to its answer.

pub(crate) mod publish;
pub(crate) mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use hawser_proto::pb::xmtp::xmtpv4::payer_api::{
    GetNodesRequest, GetNodesResponse, PublishClientEnvelopesResponse,
};
use tonic::{Request, Response, Status};

use publish::Service;
use wire::PublishRequest;

/// The methods, whatever name they are called by.
#[derive(Clone)]
pub(crate) struct Api(pub(crate) Arc<Service>);

impl Api {
    pub(crate) async fn publish(
        &self,
        request: Request<PublishRequest>,
    ) -> Result<Response<PublishClientEnvelopesResponse>, Status> {
        let peer: Option<SocketAddr> = request.remote_addr();
        let (metadata, _, request) = request.into_parts();
        let headers = metadata.into_headers();
        self.0.publish(&headers, peer, request.envelopes).await.map(Response::new)
    }

    pub(crate) fn nodes(&self, _: &Request<GetNodesRequest>) -> Response<GetNodesResponse> {
        Response::new(self.0.nodes())
    }
}
