//! The settings and the inputs of a gateway.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hawser_chain::redis_link::RedisLink;
use hawser_proto::SecretKey;
use hawser_rules::{RateTable, Registry};
use hawser_serve::tls::Tls;
use hawser_serve::{CALLERS_BYTES_MAX, ChainListsView};
use tokio::sync::{Notify, watch};

use crate::chain::ChainWriter;
use crate::identity::IdentityCheck;
use crate::policy::config::PolicyFile;
use crate::select::Strategy;

/// The settings of a gateway. [`GatewaySettings::new`] gives the documented defaults.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Address of the API for clients. Port 0 takes a free one. Default: port 5050 of every IPv4
    /// address.
    pub listen: SocketAddr,
    /// Address of the port for operators; `None` for no such port. Default: 127.0.0.1:8008.
    pub metrics: Option<SocketAddr>,
    /// Memory that callers may make the process hold, bytes. Default: 288 MiB.
    pub callers_bytes_max: usize,
    /// Connections that callers may have open at once. Default: no bound.
    pub connections_max: usize,
    /// Answers gRPC reflection. Default: off.
    pub reflection: bool,
    /// The certificate of the API; `None` without TLS. Default: none.
    pub tls: Option<Tls>,
    /// The key that signs payer envelopes; its account pays.
    pub payer: SecretKey,
    /// The rule by which a node is chosen for a topic. Default: `stable`.
    pub strategy: Strategy,
    /// Interval at which the time to connect to each node is measured, for `closest`. Default: 5
    /// minutes.
    pub connect_time_every: Duration,
    /// Time after which such a connection counts as failed. Default: 2 s.
    pub connect_timeout: Duration,
    /// Time for one call to a node. Default: 30 s.
    pub attempt_timeout: Duration,
    /// Attempts for a request, each at another node, the first one included. Default: 5.
    pub attempts_max: usize,
    /// Retention that nodes are asked for, in days. Default: 60.
    pub retention_days: u32,
    /// Largest payload for the chain in bytes; 0 leaves that to the contracts. Default: 200,000.
    pub chain_payload_bytes_max: usize,
    /// Time in which a node has to show an envelope that is on the chain. Default: 15 s.
    pub shown_timeout: Duration,
    /// Time for which the result of a payload for the chain is kept whole; afterwards nodes are asked for it
    /// again. Default: 10 minutes.
    pub chain_results_kept: Duration,
    /// Time for which reading the node registry or the rates may fail before the gateway is not ready.
    /// Default: 5 minutes.
    pub list_failing_max: Duration,
    /// Uses nodes whose addresses lie in private networks too. Default: no.
    pub allow_private_nodes: bool,
    /// The policies for callers. Default: every caller may publish everything.
    pub policies: PolicyFile,
    /// Time for an answer of the Redis that gateways share. Default: 50 ms, that of the reference's limits.
    pub shared_call_max: Duration,
    /// Time for which a shutdown waits for publishes that are under way and have no caller any more. Default: 15 s, a
    /// guess: nodes and
    /// chains answer within seconds, and an orderly stop stays within its usual time limit of 30 s even with a silent
    /// node.
    pub running_wait_max: Duration,
    /// The key of each tenant of the policies; its account pays for the tenant. Default: none.
    pub tenant_payers: BTreeMap<String, SecretKey>,
    /// Version of this program: SemVer, without a leading `v`.
    pub version: String,
    /// Commit that this program was built from; empty if unknown.
    pub commit: String,
}

impl GatewaySettings {
    /// Returns the documented defaults.
    #[must_use]
    pub fn new(payer: SecretKey) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5050)),
            metrics: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8008))),
            callers_bytes_max: CALLERS_BYTES_MAX,
            connections_max: usize::MAX,
            reflection: false,
            tls: None,
            payer,
            strategy: Strategy::Stable,
            connect_time_every: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(2),
            attempt_timeout: Duration::from_secs(30),
            attempts_max: 5,
            retention_days: 60,
            chain_payload_bytes_max: 200_000,
            shown_timeout: Duration::from_secs(15),
            chain_results_kept: Duration::from_secs(600),
            list_failing_max: Duration::from_secs(300),
            allow_private_nodes: false,
            policies: PolicyFile::default(),
            shared_call_max: Duration::from_millis(50),
            running_wait_max: Duration::from_secs(15),
            tenant_payers: BTreeMap::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: String::new(),
        }
    }
}

/// The inputs of a gateway: the state of the network, and access to the chains.
#[derive(Clone)]
pub struct GatewayPorts {
    /// The node registry, as last read.
    pub registry: watch::Receiver<Arc<Registry>>,
    /// The price list, as last read.
    pub rates: watch::Receiver<Arc<RateTable>>,
    /// The state of reading both; `None` if they come from files.
    pub lists: Option<Arc<dyn ChainListsView>>,
    /// The payer's balance in the payer registry, in millionths of a dollar; `None` while it is unknown.
    pub deposit: watch::Receiver<Option<i128>>,
    /// Notified when a node charges an unknown price: the list should then be read again.
    pub rates_wanted: Arc<Notify>,
    /// The app chain; without one, envelopes for it are refused. With tenants it is not used.
    pub chain: Option<Arc<dyn ChainWriter>>,
    /// The app chain for each tenant, from the tenant's account; without one, its envelopes for the chain are refused.
    pub tenant_chains: BTreeMap<String, Arc<dyn ChainWriter>>,
    /// Validates identity updates before they are sent; without one, only nodes do.
    pub identity: Option<Arc<dyn IdentityCheck>>,
    /// The Redis in which several gateways share limits, budgets, the nodes of topics and the places of envelopes;
    /// `None` if this is the only one.
    pub redis: Option<Arc<RedisLink>>,
}

impl GatewayPorts {
    /// Returns a way to the app chain: the gateway's own, or a tenant's.
    pub(crate) fn any_chain(&self) -> Option<Arc<dyn ChainWriter>> {
        self.chain.clone().or_else(|| self.tenant_chains.values().next().cloned())
    }
}
