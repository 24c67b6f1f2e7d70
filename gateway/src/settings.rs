//! The settings and the inputs of a gateway.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hawser_chain::admin::SignedMicroDollars;
use hawser_chain::broadcast::TransactionTimes;
use hawser_chain::redis_link::RedisLink;
use hawser_proto::SecretKey;
use hawser_rules::{RateTable, Registry};
use hawser_serve::tls::Tls;
use hawser_serve::{CALLERS_BYTES_MAX, ChainListsView};
use tokio::sync::{Notify, watch};

use crate::chain::{ChainRecordPlace, ChainWriter};
use crate::identity::IdentityCheck;
use crate::policy::config::PolicyFile;
use crate::select::Strategy;

/// The settings of a gateway. [`GatewaySettings::new`] gives the documented defaults.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Address of the API for clients. Port 0 takes a free one. Default: port 5050 of every IPv4
    /// address.
    pub listen: SocketAddr,
    /// Address of the operators' port; `None` for no such port. Default: 127.0.0.1:8008.
    pub metrics: Option<SocketAddr>,
    /// Bound on the memory that requests and connections of callers take, bytes. Default: 288 MiB.
    pub callers_bytes_max: usize,
    /// Largest number of open connections of callers. Default: no bound.
    pub connections_max: usize,
    /// Largest number of open connections of one client address; further ones are refused. Those of trusted proxies
    /// count for the clients that they name. Default: no bound.
    pub connections_per_address_max: usize,
    /// Serves gRPC reflection. Default: off.
    pub reflection: bool,
    /// Certificate and key of the API; `None` serves plain text. Default: none.
    pub tls: Option<Tls>,
    /// Key that signs payer envelopes; its account pays the fees.
    pub payer: SecretKey,
    /// The rule by which a node is chosen for a topic. Default: `stable`.
    pub strategy: Strategy,
    /// Interval at which the time to connect to each node is measured, for `closest`. Default: 5
    /// minutes.
    pub connect_time_every: Duration,
    /// Time after which a measured connection counts as failed. Default: 2 s.
    pub connect_timeout: Duration,
    /// Time for one call to a node. Default: 30 s.
    pub attempt_timeout: Duration,
    /// Largest number of attempts for an envelope, the first one included. Each attempt goes to another node.
    /// Default: 5.
    pub attempts_max: usize,
    /// Retention that payer envelopes ask nodes for, days. Default: 60.
    pub retention_days: u32,
    /// Largest payload for the chain, bytes; with 0 only the contracts limit it. Default: 200,000.
    pub chain_payload_bytes_max: usize,
    /// Time for a node to show an envelope after its transaction was mined. Default: 15 s.
    pub shown_timeout: Duration,
    /// Time for which the complete result of a payload for the chain is kept; a repeat after that asks nodes for
    /// the envelope. Default: 10 minutes.
    pub chain_results_kept: Duration,
    /// Uses nodes whose addresses lie in private networks, too. Default: no.
    pub allow_private_nodes: bool,
    /// The policies for callers. Default: every caller may publish every kind of envelope without a limit.
    pub policies: PolicyFile,
    /// Time for the shared Redis to answer a call; afterwards a request continues without it. Default: 50 ms, as in
    /// the network's reference gateway.
    pub shared_call_max: Duration,
    /// Longest time for which a shutdown waits for publishes whose callers have hung up. Default: 15 s, a guess:
    /// nodes and chains answer within seconds, and with a silent node an orderly stop still ends within the usual
    /// limit of service managers, 30 s.
    pub running_wait_max: Duration,
    /// Payer key of each tenant of the policies, by the tenant's name; its account pays for the tenant. Default:
    /// none.
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
            connections_per_address_max: usize::MAX,
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

/// The inputs of a gateway: the state of the network, and access to the chains and to Redis.
#[derive(Clone)]
pub struct GatewayPorts {
    /// The last node registry that was read.
    pub registry: watch::Receiver<Arc<Registry>>,
    /// The last price list that was read.
    pub rates: watch::Receiver<Arc<RateTable>>,
    /// The status of the reader of both; `None` if they come from files.
    pub lists: Option<Arc<dyn ChainListsView>>,
    /// The payer's balance in the payer registry; `None` while it is unknown.
    pub deposit: watch::Receiver<Option<SignedMicroDollars>>,
    /// Notified when a node charges a price that the list does not have; the reader then reads the list again.
    pub rates_wanted: Arc<Notify>,
    /// The app chain as the gateway's own payer writes to it; without it, envelopes for the chain are refused. With
    /// tenants it is not used.
    pub chain: Option<Arc<dyn ChainWriter>>,
    /// The app chain as each tenant's account writes to it; envelopes for the chain are refused for a tenant
    /// without an entry.
    pub tenant_chains: BTreeMap<String, Arc<dyn ChainWriter>>,
    /// The durations of the transactions of all these accounts.
    pub transaction_times: TransactionTimes,
    /// The file that remembers payloads on the chain across restarts; each tenant has one of its own, beside it.
    /// Without it, a restarted gateway pays for a repeated payload again.
    pub chain_record: Option<ChainRecordPlace>,
    /// Validates identity updates before they are sent; without it, only nodes validate them.
    pub identity: Option<Arc<dyn IdentityCheck>>,
    /// The Redis in which several gateways share limits, budgets, the nodes of topics and the ids of published
    /// envelopes; `None` for a single gateway.
    pub redis: Option<Arc<RedisLink>>,
}

impl GatewayPorts {
    /// Returns a writer to the app chain for probes: the gateway's own, otherwise that of the first tenant.
    pub(crate) fn any_chain(&self) -> Option<Arc<dyn ChainWriter>> {
        self.chain.clone().or_else(|| self.tenant_chains.values().next().cloned())
    }
}
