//! The entry of all requests: identifies the caller, and passes the request to the service of the caller's tenant.
//! From there on tenants share nothing: each has its own payer key, limits, connections and transactions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::payer_api::{GetNodesResponse, PublishClientEnvelopesResponse};
use hawser_serve::CallCharge;
use http::HeaderMap;
use tonic::Status;

use super::publish::PublishService;
use crate::policy::{CallerId, Policies, PolicyError};

/// Passes each request to the service of its caller's tenant.
pub(crate) struct ServiceRouter {
    /// The policies that identify callers.
    policies: Arc<Policies>,
    /// The service of a gateway without tenants. With tenants it only lists nodes and counts refusals.
    own: Arc<PublishService>,
    tenants: BTreeMap<String, Arc<PublishService>>,
}

impl ServiceRouter {
    pub(crate) fn new(
        policies: Arc<Policies>,
        own: Arc<PublishService>,
        tenants: BTreeMap<String, Arc<PublishService>>,
    ) -> Self {
        Self { policies, own, tenants }
    }

    /// Returns the nodes from which clients should read, with their addresses.
    pub(crate) fn nodes(&self) -> GetNodesResponse {
        self.own.nodes()
    }

    /// Publishes client envelopes through the service of their caller's tenant. `charge` is the memory that the
    /// call is charged with.
    ///
    /// # Errors
    /// A status if the caller is not identified or has no tenant, otherwise the status of the service.
    pub(crate) async fn publish(
        &self,
        headers: &HeaderMap,
        peer: Option<SocketAddr>,
        envelopes: Vec<Bytes>,
        charge: CallCharge,
    ) -> Result<PublishClientEnvelopesResponse, Status> {
        let identified = self.policies.caller_of(headers, peer, crate::now_ms() / 1000).await;
        let (caller, tenant) = identified.map_err(|refusal| self.own.refused(&refusal))?;
        if envelopes.is_empty() {
            // No limit counts this request, so it causes no further call to Redis or the webhook.
            return Ok(PublishClientEnvelopesResponse::default());
        }
        if self.tenants.is_empty() {
            return self.publish_through(self.own.clone(), caller, envelopes, charge).await;
        }
        let tenant = match tenant {
            Some(tenant) => Ok(Some(tenant)),
            // Only callers with a valid API key or token come here, so an unidentified client cannot cause calls to
            // the webhook.
            None => self.policies.tenant_by_webhook(&caller).await,
        };
        let tenant = tenant.map_err(|refusal| self.own.refused(&refusal))?;
        let service = tenant.and_then(|tenant| self.tenants.get(&tenant));
        let service = service.ok_or_else(|| self.own.refused(&PolicyError::NoTenant))?;
        self.publish_through(service.clone(), caller, envelopes, charge).await
    }

    /// Publishes through a service. A request that has waited for the operator's service to name its caller would be
    /// read by a thread of the runtime, although it may have megabytes. A long one goes on beside these threads.
    async fn publish_through(
        &self,
        service: Arc<PublishService>,
        caller: CallerId,
        envelopes: Vec<Bytes>,
        charge: CallCharge,
    ) -> Result<PublishClientEnvelopesResponse, Status> {
        let of_call = charge.clone();
        let publishing = async move { service.publish(caller, envelopes, of_call).await };
        if self.policies.wait_for_names() {
            charge.go_on(publishing).await?
        } else {
            publishing.await
        }
    }
}
