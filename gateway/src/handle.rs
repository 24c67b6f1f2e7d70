//! The start of a gateway and its shutdown.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hawser_proto::{Address, SecretKey};
use hawser_serve::readiness::{Purpose, Readiness};
use hawser_serve::{
    BuildInfo, CallMetrics, FieldCost, HealthService, MemoryBudget, MethodKind, RpcMethod,
    SchemaError, ServeSettings, Server, pages, reflect,
};
use hawser_validation::limits::ACTION_BYTES;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::server::NamedService as _;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::pb::health_server::HealthServer;

use crate::chain::{ChainPath, ChainRecordError, ChainWriter};
use crate::conditions::GatewayChecks;
use crate::exposition::{self, GatewayCollector};
use crate::gateway_status::GatewayObserver;
use crate::identity::TenantIdentity;
use crate::metrics::GatewayMetrics;
use crate::nodes::{
    ChainStrands, NodeSetup, Nodes, PayerSettings, Reporter, follow_registry, reporter,
};
use crate::operator::GatewayPages;
use crate::policy::config::PolicyFile;
use crate::policy::{KeyFetchSettings, Policies, PoliciesError};
use crate::publish::NodePublisher;
use crate::running::RunningTasks;
use crate::select::Strategy;
use crate::serve::publish::PublishService;
use crate::serve::router::ServiceRouter;
use crate::serve::wire;
use crate::settings::{GatewayPorts, GatewaySettings};
use crate::sharing::GatewayShare;
use crate::status;

/// Pause between two probes of the app chain. A guess: a block takes about a second.
const CHAIN_PROBED_EVERY: Duration = Duration::from_secs(2);
/// Time for the app chain to answer a probe. A guess: RPC providers answer within seconds.
const CHAIN_PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest number of envelopes in a request. One with more is refused before it is decoded. Chosen: nodes take as many
/// in one publish.
const ENVELOPES_MAX: usize = 10_000;

fn too_many_envelopes(count: usize) -> Status {
    status::of_count(count, ENVELOPES_MAX)
}

/// The memory that a publish request takes once it is decoded. A client envelope is copied three times: to be
/// signed, to be sent, and into the response. The identity updates in it decode into many small messages. The
/// other factors are guesses.
const PUBLISH_FIELDS: &[FieldCost] = &[FieldCost::with_length(
    1,
    1024,
    3,
    &[
        FieldCost::each(1, 0, &[FieldCost::each(3, 0, &[FieldCost::each(1, 96, &[])])]),
        FieldCost::with_length(5, 128, 64, &[FieldCost::each(1, ACTION_BYTES, &[])]),
        FieldCost::each(6, 256, &[FieldCost::by_length(6, 16)]),
    ],
)
.decoded_apart()
.at_most(ENVELOPES_MAX, too_many_envelopes)];

/// All methods that a gateway serves, for metrics and for the memory that their requests take.
const METHODS: [RpcMethod; 8] = [
    RpcMethod::new("/xmtp.xmtpv4.payer_api.PayerApi/PublishClientEnvelopes", MethodKind::Unary)
        .decoding(PUBLISH_FIELDS),
    RpcMethod::new("/xmtp.xmtpv4.payer_api.PayerApi/GetNodes", MethodKind::Unary),
    RpcMethod::new("/xmtp.xmtpv4.gateway_api.GatewayApi/PublishClientEnvelopes", MethodKind::Unary)
        .decoding(PUBLISH_FIELDS),
    RpcMethod::new("/xmtp.xmtpv4.gateway_api.GatewayApi/GetNodes", MethodKind::Unary),
    RpcMethod::new("/grpc.health.v1.Health/Check", MethodKind::Unary),
    RpcMethod::new("/grpc.health.v1.Health/Watch", MethodKind::ServerStream),
    RpcMethod::new("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", MethodKind::Bidi),
    RpcMethod::new(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        MethodKind::Bidi,
    ),
];

/// The services that health checks may name. Both report whether the gateway is ready to publish.
const HEALTH: [(&str, Purpose); 2] =
    [(wire::Payer::NAME, Purpose::Publish), (wire::Gateway::NAME, Purpose::Publish)];

/// Error of [`start`]: nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address as configured.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The schema that reflection would serve is broken.
    #[error("reflection cannot be served: {0}")]
    Reflection(#[from] SchemaError),
    /// The policies have a tenant without a key.
    #[error("policies: the tenant {0:?} has no payer key")]
    NoTenantKey(String),
    /// The record of the payloads on the chain cannot be used.
    #[error(transparent)]
    ChainRecord(#[from] ChainRecordError),
    /// The policies cannot be applied.
    #[error("policies: {0}")]
    Policies(#[from] PoliciesError),
}

/// A running gateway. Dropping it ends everything at once; [`GatewayHandle::shutdown`] stops in order.
pub struct GatewayHandle {
    server: Server,
    operators: Option<(SocketAddr, JoinHandle<()>)>,
    readiness: Readiness,
    /// The publishes that continue after their callers have hung up, and the longest time for which a shutdown
    /// waits for them.
    running: (RunningTasks, Duration),
    /// When dropped, ends the tasks that follow the registry and observe nodes and chain.
    end: DropGuard,
}

/// Checks the files and secrets that policies name, as a start does for the gateway and for each tenant.
///
/// # Errors
/// [`PoliciesError`] if one cannot be used.
pub fn check_policies(file: &PolicyFile) -> Result<(), PoliciesError> {
    Policies::new(file.clone(), None)?;
    for (name, tenant) in &file.tenants {
        Policies::new(file.of_tenant(name, tenant), None)?;
    }
    Ok(())
}

/// Starts a gateway, which serves clients and operators when this returns.
///
/// # Errors
/// [`StartError`] if an address cannot be bound, a policy cannot be applied or a tenant has no key. Nothing is served
/// then.
pub async fn start(
    settings: GatewaySettings,
    ports: GatewayPorts,
) -> Result<GatewayHandle, StartError> {
    let (end, stop) = (CancellationToken::new(), CancellationToken::new());
    let end_guard = end.clone().drop_guard();
    let payer = settings.payer.public_key().address();
    let metrics = Arc::new(GatewayMetrics::new(&settings.policies));
    let share = share(&settings, &ports, &metrics, payer);
    let policies = Arc::new(Policies::new(settings.policies.clone(), share.clone())?);
    let strands = ChainStrands::default();
    let (reporter, report_task) = reporter(metrics.clone());
    let common = GatewayParts { settings: &settings, ports: &ports, metrics: &metrics, reporter };
    let nodes = common.nodes(&settings.payer, &strands, share, end.clone());
    report_task.start(nodes.clone(), ports.registry.clone(), ports.rates.clone(), end.clone());
    let checks = GatewayChecks::new(&settings, &ports, nodes.clone(), policies.clone());
    let checks = Arc::new(checks);
    let readiness = Readiness::new(checks.clone());
    let calls = CallMetrics::new(&METHODS);
    let observer = observer(&settings, nodes.clone(), checks.clone(), readiness.clone());
    let serve = listener(&settings);
    let collector = GatewayCollector {
        metrics: metrics.clone(),
        observer: observer.clone(),
        deposit: ports.deposit.clone(),
        transactions: ports.transaction_times.clone(),
    };
    let page = exposition::page(calls.clone(), &serve, collector);
    let pages = Arc::new(GatewayPages { metrics: page, observer, counted: metrics.clone() });
    let listen = |address| move |source| StartError::Listen { address, source };
    let probe = ports.any_chain();
    let running = RunningTasks::default();
    let own = Part {
        tenant: "",
        policies: policies.clone(),
        nodes,
        strands,
        running: running.clone(),
        end: end.clone(),
    };
    let own = service(&settings, &ports, own, ports.chain.clone(), metrics.clone())?;
    let tenants = tenants(&common, &running, &end)?;
    let router = Arc::new(ServiceRouter::new(policies.clone(), own, tenants));
    let has_reflection = settings.reflection;
    let health = HealthService::server(readiness.clone(), HEALTH, has_reflection, stop.clone());
    let routes = routes(router, health, settings.reflection, &stop)?;
    let server = Server::bind(serve, routes, calls, stop).await.map_err(listen(settings.listen))?;
    // After the API: `/readyz` must not say that this gateway takes calls while its port still refuses connections.
    let operators = match settings.metrics {
        Some(address) => {
            Some(pages::bind(pages, address, end.clone()).await.map_err(listen(address))?)
        }
        None => None,
    };
    if let Some(chain) = probe {
        tokio::spawn(probe_chain(chain, checks, end.clone()));
    }
    tokio::spawn(readiness.clone().keep_current(end.clone()));
    tokio::spawn(async move { policies.keep_keys(KeyFetchSettings::default(), end).await });
    let running = (running, settings.running_wait_max);
    Ok(GatewayHandle { server, operators, readiness, running, end: end_guard })
}

/// Returns the settings of the clients' port.
fn listener(settings: &GatewaySettings) -> ServeSettings {
    ServeSettings {
        trusted_proxies: settings.policies.identity.trusted_proxies.clone(),
        memory: MemoryBudget::new(settings.callers_bytes_max),
        connections_max: settings.connections_max,
        connections_per_address_max: settings.connections_per_address_max,
        tls: settings.tls.clone(),
        ..ServeSettings::new(settings.listen)
    }
}

/// Returns the state that the gateways of one payer share; `None` without a Redis.
fn share(
    settings: &GatewaySettings,
    ports: &GatewayPorts,
    metrics: &GatewayMetrics,
    payer: Address,
) -> Option<Arc<GatewayShare>> {
    let redis = ports.redis.clone()?;
    let failures = metrics.redis_failures.clone();
    Some(Arc::new(GatewayShare::new(redis, payer, settings.shared_call_max, failures)))
}

fn observer(
    settings: &GatewaySettings,
    nodes: Nodes,
    checks: Arc<GatewayChecks>,
    readiness: Readiness,
) -> GatewayObserver {
    let build = BuildInfo {
        version: settings.version.clone(),
        commit: settings.commit.clone(),
        started_ns: crate::now_ns(),
    };
    let payer = settings.payer.public_key().address().to_string().into();
    GatewayObserver { nodes, checks, readiness, build: Arc::new(build), payer }
}

/// Starts the parts that each tenant has of its own: its policies, its connections to nodes, its way to the chain.
fn tenants(
    common: &GatewayParts<'_>,
    running: &RunningTasks,
    end: &CancellationToken,
) -> Result<BTreeMap<String, Arc<PublishService>>, StartError> {
    let GatewayParts { settings, ports, metrics, .. } = *common;
    let mut services = BTreeMap::new();
    for (name, tenant) in &settings.policies.tenants {
        let Some(payer) = settings.tenant_payers.get(name) else {
            return Err(StartError::NoTenantKey(name.clone()));
        };
        let account = payer.public_key().address();
        let share = share(settings, ports, metrics, account);
        let policies = Policies::new(settings.policies.of_tenant(name, tenant), share.clone())?;
        let strands = ChainStrands::default();
        let nodes = common.nodes(payer, &strands, share, end.clone());
        let (policies, running, end) = (Arc::new(policies), running.clone(), end.clone());
        let part = Part { tenant: name, policies, nodes, strands, running, end };
        let chain = ports.tenant_chains.get(name).cloned();
        let service = service(settings, ports, part, chain, metrics.clone())?;
        services.insert(name.clone(), service);
        tracing::info!(tenant = name, payer = %account, "a tenant is served");
    }
    Ok(services)
}

/// The parts that each tenant has of its own; a gateway without tenants has them once.
struct Part<'a> {
    tenant: &'a str,
    policies: Arc<Policies>,
    nodes: Nodes,
    strands: ChainStrands,
    running: RunningTasks,
    /// Cancelled when the gateway ends.
    end: CancellationToken,
}

fn service(
    settings: &GatewaySettings,
    ports: &GatewayPorts,
    part: Part<'_>,
    chain: Option<Arc<dyn ChainWriter>>,
    metrics: Arc<GatewayMetrics>,
) -> Result<Arc<PublishService>, StartError> {
    let Part { tenant, policies, nodes, strands, running, end } = part;
    let identity = ports.identity.clone().map(|check| Arc::new(TenantIdentity::new(check, tenant)));
    let has_chain = chain.is_some();
    let mut chain = ChainPath::new(
        chain,
        nodes.clone(),
        strands.clone(),
        identity.clone(),
        metrics.clone(),
        settings.shown_timeout,
        settings.chain_results_kept,
    )
    .counted_in(running.clone());
    if let Some(place) = ports.chain_record.as_ref().filter(|_| has_chain) {
        chain = match tenant {
            "" => chain.recorded_at(place)?,
            name => chain.recorded_at(&place.of_tenant(name))?,
        };
    }
    tokio::spawn(chain.clone().keep_resumed(end));
    let (timeout, attempts_max) = (settings.attempt_timeout, settings.attempts_max);
    let publisher = NodePublisher::new(nodes.clone(), strands, timeout, attempts_max, running);
    Ok(Arc::new(PublishService {
        tenant: tenant.into(),
        policies,
        nodes,
        publisher,
        chain,
        identity,
        rates: ports.rates.clone(),
        retention_days: settings.retention_days,
        chain_payload_bytes_max: settings.chain_payload_bytes_max,
        metrics,
    }))
}

impl GatewayHandle {
    /// Returns the address for clients.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Returns the address for operators; `None` without a listener.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.operators.as_ref().map(|(address, _)| *address)
    }

    /// Stops in order, with the steps of [`GatewayHandle::stop_steps`].
    pub async fn shutdown(self, drain: Duration) {
        for (_, step) in self.stop_steps(drain) {
            step.await;
        }
    }

    /// Returns the steps of a stop with their names, each of which begins when it is polled. The first reports that
    /// the gateway is not ready, and waits `drain`, so that load balancers send no new callers. Then it refuses new
    /// connections and calls, and waits for calls that are under way; slow clients may delay this, so bound it with a
    /// timeout. The second waits at most `running_wait_max` for publishes whose callers have hung up, so that they
    /// are metered and other gateways learn of them. The last ends the observing tasks and the operators' port.
    #[must_use]
    pub fn stop_steps(self, drain: Duration) -> [(&'static str, BoxFuture<'static, ()>); 3] {
        let Self { server, operators, readiness, running: (running, wait_max), end } = self;
        let calls = async move {
            readiness.drain();
            tokio::time::sleep(drain).await;
            server.close().await;
        };
        let publishes = async move {
            if tokio::time::timeout(wait_max, running.ended()).await.is_err() {
                tracing::warn!(
                    "publishes without a caller did not end in time: their envelopes may be published and are not \
                     metered"
                );
            }
        };
        let port = async move {
            drop(end);
            if let Some((_, task)) = operators {
                let _ = task.await; // cancelled tasks end without an error
            }
        };
        [
            ("calls and streams of clients", calls.boxed()),
            ("publishes without a caller", publishes.boxed()),
            ("the operators' port", port.boxed()),
        ]
    }
}

/// The values that the gateway and all its tenants use.
struct GatewayParts<'a> {
    settings: &'a GatewaySettings,
    ports: &'a GatewayPorts,
    metrics: &'a Arc<GatewayMetrics>,
    reporter: Reporter,
}

impl GatewayParts<'_> {
    /// Starts the connections to all nodes for one payer.
    fn nodes(
        &self,
        payer: &SecretKey,
        strands: &ChainStrands,
        share: Option<Arc<GatewayShare>>,
        end: CancellationToken,
    ) -> Nodes {
        let Self { settings, ports, metrics, .. } = *self;
        let payer = PayerSettings {
            key: payer.clone(),
            public_key: payer.public_key(),
            attempt_timeout: settings.attempt_timeout,
            rates: ports.rates.clone(),
            rates_wanted: ports.rates_wanted.clone(),
        };
        let closest = matches!(settings.strategy, Strategy::Closest(_));
        let setup = NodeSetup {
            strategy: settings.strategy.clone(),
            payer: Arc::new(payer),
            metrics: metrics.clone(),
            reporter: self.reporter.clone(),
            chain_strands: ports.any_chain().is_some().then(|| strands.clone()),
            connect_time_every: closest.then_some(settings.connect_time_every),
            connect_timeout: settings.connect_timeout,
            allow_private: settings.allow_private_nodes,
            share,
        };
        follow_registry(setup, ports.registry.clone(), end)
    }
}

fn routes(
    service: Arc<ServiceRouter>,
    health: HealthServer<HealthService>,
    reflection: bool,
    stop: &CancellationToken,
) -> Result<Routes, SchemaError> {
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(wire::GatewayMethods::<wire::Payer>::new(service.clone()))
        .add_service(wire::GatewayMethods::<wire::Gateway>::new(service))
        .add_service(health);
    if reflection {
        let services = wire::SERVICES.into_iter().chain([HealthService::NAME]);
        reflect(&mut routes, services, stop)?;
    }
    Ok(routes.routes())
}

/// Probes the app chain and records each result for the readiness, until `end`.
async fn probe_chain(
    chain: Arc<dyn ChainWriter>,
    checks: Arc<GatewayChecks>,
    end: CancellationToken,
) {
    loop {
        let answer = tokio::time::timeout(CHAIN_PROBE_TIMEOUT, chain.reachable()).await;
        checks.set_chain(answer.unwrap_or_else(|_| Err("the app chain does not answer".into())));
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(CHAIN_PROBED_EVERY) => {}
        }
    }
}
