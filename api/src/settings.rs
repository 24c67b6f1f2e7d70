//! Settings of the API.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tonic::service::Routes;

use crate::report_limits::REPORTS_PER_MINUTE;
use crate::stream_error::TOPICS_MAX;
use crate::views::{BackupsView, ChainsView, DiskView, FillingView, SnapshotsView};
use crate::witness_context::WitnessContext;
use hawser_engine::read::QUEUE_LEN_BYTES_MAX;
use hawser_engine::runtime::PayerReporter;
use hawser_proto::QuicAddress;
use hawser_serve::address::TrustedProxies;
use hawser_serve::tls::Tls;
use hawser_serve::{CALLERS_BYTES_MAX, RpcMethod};

/// Settings of the API. [`Default`] gives the documented defaults.
#[derive(Clone)]
pub struct ApiSettings {
    /// The address for clients, gateways and peers; port 0 takes a free one. `None`: no listener.
    /// Default: port 5050 of every IPv4 address.
    pub listen: Option<SocketAddr>,
    /// The address of the operators' port: metrics, readiness, status. `None`: no listener. Default:
    /// 127.0.0.1:8008.
    pub metrics: Option<SocketAddr>,
    /// Time without messages after which a stream sends a keepalive. Above 0; default 30 s. Each idle stream wakes
    /// its client once per interval.
    pub keepalive_interval: Duration,
    /// The address at which peers reach this node over QUIC, announced with the vector clock. Default: none; peers
    /// then use host and port of the registered URL.
    pub quic_address: Option<QuicAddress>,
    /// Serves gRPC reflection. Default: no.
    pub reflection: bool,
    /// Serves the API for misbehaviour reports. Default: yes.
    pub misbehavior_api: bool,
    /// The certificate of the API; `None` without TLS. Default: none.
    pub tls: Option<Tls>,
    /// The version of this program: SemVer, without a leading `v`.
    pub version: String,
    /// The commit that it was built from; empty if unknown.
    pub commit: String,
    /// Measures the free space for metrics and status; `None`: they do not show it.
    pub disk: Option<Arc<dyn DiskView>>,
    /// View of the recorded backups. With `None`, status and metrics have no section about backups.
    pub backups: Option<Arc<dyn BackupsView>>,
    /// Shows payer reports to operators; `None`: this node does not work on them. Default: none.
    pub payer_reports: Option<PayerReporter>,
    /// Answers logs that ask for cosignatures; `None`: this process is no witness. Default: none.
    pub witness: Option<WitnessContext>,
    /// View of the chains. `None` if files replace the chains.
    pub chains: Option<Arc<dyn ChainsView>>,
    /// The snapshots that new nodes download at `/snapshot`; `None`, the default, for none.
    pub snapshots: Option<Arc<dyn SnapshotsView>>,
    /// View of the snapshot from which strands are filled; nothing is published meanwhile. Default: none.
    pub filling: Option<Arc<dyn FillingView>>,
    /// Bound on the memory that requests and connections of callers take, bytes. Default: 288 MiB.
    pub callers_bytes_max: usize,
    /// Threads that answer queries. Default: two for each core, since reads wait for the disk about as
    /// long as they compute.
    pub read_threads: usize,
    /// An extra gRPC service on the same listener. Default: none.
    pub extra_service: Option<ExtraService>,
    /// Proxies whose `X-Forwarded-For` counts as their clients' addresses. Default: none.
    pub trusted_proxies: TrustedProxies,
    /// Connections that all clients together may have open at once. Default: no bound.
    pub connections_max: usize,
    /// Connections that one client address may have open at once. Default: 256.
    pub connections_per_address_max: usize,
    /// Calls that one connection may have open at once. Default: 1000.
    pub streams_per_connection_max: u32,
    /// Topics that one stream of `Subscribe` may have, whose client changes them while it runs. Default: 1,000,000.
    pub topics_per_stream_max: usize,
    /// Bytes in each of the two queues of a stream. A stream that is slower continues from disk. Default: 4 MiB.
    pub queue_per_stream_bytes: usize,
    /// Reports of misbehaviour that one address may submit in a minute; above 0. Ten times as many in an hour. Default:
    /// 10.
    pub misbehavior_reports_per_minute: u32,
    /// The runtime for connections that publish. Default: `None`, so they share the runtime of all other connections.
    pub publishers: Option<Handle>,
    /// Limits on the calls of each address; `None`: no limits, the default.
    pub rate_limits: Option<RateLimitSettings>,
    /// Serves the `ReplicationApi` to nodes only. Default: no.
    pub require_node_auth: bool,
}

/// Limits on the calls of each address. [`Default`] gives those of the network's reference node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitSettings {
    /// Tokens for queries that are added in each minute; above 0.
    pub per_minute: u64,
    /// Tokens for queries that are added in each hour; above 0.
    pub per_hour: u64,
    /// Streams of topics that an address may open in a minute; above 0.
    pub opens_per_minute: u64,
    /// Streams of all envelopes that an address may have open at once.
    pub subscribe_all_max: usize,
    /// The Redis that several processes share these limits in; `None`: each has its own.
    pub redis: Option<RedisSettings>,
}

/// A Redis that holds limits.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// Its URL, `redis://…`; may hold a password.
    pub url: String,
    /// Prefix of all keys.
    pub key_prefix: String,
    /// Time limit of the first connection.
    pub connect_timeout: Duration,
    /// Time after which a call passes without an answer.
    pub call_timeout: Duration,
    /// Failures in a row after which Redis is not asked for `breaker_cooldown`; above 0.
    pub breaker_failures_max: u32,
    /// Time for which Redis is not asked.
    pub breaker_cooldown: Duration,
    /// Time after which the places of a process that has ended are free.
    pub stream_ttl: Duration,
    /// Interval at which a process renews its places; well below `stream_ttl`.
    pub stream_refresh_interval: Duration,
}

impl RedisSettings {
    /// Returns settings with this URL and otherwise the defaults of the network's reference node.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            key_prefix: "xmtpd:".into(),
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_millis(50),
            breaker_failures_max: 5,
            breaker_cooldown: Duration::from_secs(10),
            stream_ttl: Duration::from_secs(900),
            stream_refresh_interval: Duration::from_secs(300),
        }
    }
}

impl std::fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSettings")
            .field("key_prefix", &self.key_prefix)
            .finish_non_exhaustive()
    }
}

impl Default for RateLimitSettings {
    fn default() -> Self {
        Self {
            per_minute: 60,
            per_hour: 1200,
            opens_per_minute: 10,
            subscribe_all_max: 2,
            redis: None,
        }
    }
}

/// A service of another crate on the same listener, with metrics and reflection like the API's own.
#[derive(Clone)]
pub struct ExtraService {
    /// The full name of the service.
    pub name: &'static str,
    /// Its methods, each with metrics of its own.
    pub methods: Vec<RpcMethod>,
    /// Its implementation.
    pub routes: Routes,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5050))),
            metrics: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8008))),
            keepalive_interval: Duration::from_secs(30),
            quic_address: None,
            reflection: false,
            misbehavior_api: true,
            tls: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: String::new(),
            disk: None,
            backups: None,
            payer_reports: None,
            witness: None,
            chains: None,
            filling: None,
            snapshots: None,
            callers_bytes_max: CALLERS_BYTES_MAX,
            read_threads: 2 * std::thread::available_parallelism().map_or(1, usize::from),
            extra_service: None,
            trusted_proxies: TrustedProxies::default(),
            connections_max: usize::MAX,
            connections_per_address_max: 256,
            streams_per_connection_max: 1000,
            topics_per_stream_max: TOPICS_MAX,
            queue_per_stream_bytes: QUEUE_LEN_BYTES_MAX,
            misbehavior_reports_per_minute: REPORTS_PER_MINUTE,
            publishers: None,
            rate_limits: None,
            require_node_auth: false,
        }
    }
}

impl std::fmt::Debug for ApiSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiSettings")
            .field("listen", &self.listen)
            .field("metrics", &self.metrics)
            .field("keepalive_interval", &self.keepalive_interval)
            .field("reflection", &self.reflection)
            .field("version", &self.version)
            .field("rate_limits", &self.rate_limits)
            .finish_non_exhaustive()
    }
}
