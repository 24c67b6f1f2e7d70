//! The start of the API and its shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_engine::Engine;
use hawser_engine::runtime::{Committer, Heads, ProofReader};
use hawser_proto::pb::hawser::checkpoint_api::checkpoint_api_server::CheckpointApiServer;
use hawser_proto::pb::xmtp::xmtpv4::message_api::misbehavior_api_server::MisbehaviorApiServer;
use hawser_proto::pb::xmtp::xmtpv4::message_api::notification_api_server::NotificationApiServer;
use hawser_proto::pb::xmtp::xmtpv4::message_api::publish_api_server::PublishApiServer;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_server::QueryApiServer;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_server::ReplicationApiServer;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_server::MetadataApiServer;
use hawser_serve::public_pages::PublicPages;
use hawser_serve::readiness::{Purpose, Readiness};
use hawser_serve::{
    BuildInfo, CallMetrics, HealthService, MESSAGE_LEN_BYTES_MAX, MemoryBudget, ServeSettings,
    Server, pages, reflect,
};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::{InterceptorLayer, LayerExt as _, Routes, RoutesBuilder};

use crate::bound_ports::{BoundPort, BoundPorts};
use crate::callers::Callers;
use crate::checkpoint_api::Proofs;
use crate::conditions::NodeChecks;
use crate::cursor_stream::CursorMoves;
use crate::disk_trend::DiskTrend;
use crate::lag::LagTracker;
use crate::metadata::Metadata;
use crate::methods;
use crate::metrics::{self, HandlerMetrics};
use crate::misbehavior_api::MisbehaviorService;
use crate::node_api::NodeApi;
use crate::node_status::{NewestTimes, NodeObserver};
use crate::oldest_reads::OldestReads;
use crate::operator::NodePages;
use crate::payer_report_status::PayerReportCounts;
use crate::read_workers::ReadWorkers;
use crate::settings::ApiSettings;
use crate::snapshot_pages::SnapshotPages;
use crate::start_error::ApiStartError;
use crate::tree_pages::TreePages;
use crate::views::PeerView;

/// Time between two records of the positions, from which lags get their age. A guess: the age is
/// shown in seconds.
const POSITIONS_RECORDED_EVERY: Duration = Duration::from_millis(500);

/// The longest wait for the checks with which a shutdown is announced. A guess: they take milliseconds on a disk that
/// answers.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(1);

/// Time between two counts of the payer reports. A guess: with twenty nodes a count reads some ten thousand rows,
/// and a report takes hours to settle.
const PAYER_REPORTS_COUNTED_EVERY: Duration = Duration::from_secs(30);

/// A running API. Dropping it ends everything at once; [`ApiHandle::shutdown`] does so in order.
pub struct ApiHandle {
    server: Option<Server>,
    operators: Option<(SocketAddr, JoinHandle<()>)>,
    readiness: Readiness,
    committer: Committer,
    /// Ends the operators' port and the tasks that only observe.
    end: tokio_util::sync::DropGuard,
}

/// Serves clients at `settings.listen` and operators at `settings.metrics`.
///
/// # Errors
/// [`ApiStartError`] if an address cannot be bound or a setting is invalid. Nothing is served then.
pub async fn start(
    settings: ApiSettings,
    engine: Engine,
    peers: Arc<dyn PeerView>,
) -> Result<ApiHandle, ApiStartError> {
    let ports = BoundPorts::bind(settings.listen, settings.metrics).await?;
    start_on(ports, settings, engine, peers).await
}

/// Serves clients and operators at bound ports; the addresses of the settings are not read.
///
/// # Errors
/// [`ApiStartError`] if a setting is invalid. Nothing is served then.
pub async fn start_on(
    ports: BoundPorts,
    settings: ApiSettings,
    engine: Engine,
    peers: Arc<dyn PeerView>,
) -> Result<ApiHandle, ApiStartError> {
    if settings.keepalive_interval.is_zero() {
        return Err(ApiStartError::KeepaliveInterval);
    }
    let end = CancellationToken::new();
    let stop = CancellationToken::new();
    let checks = Arc::new(NodeChecks::new(engine.clone(), &settings, peers.clone()));
    let readiness = Readiness::new(checks.clone());
    let handler_metrics = Arc::new(HandlerMetrics::default());
    let mut served = methods::all();
    served.extend(settings.extra_service.iter().flat_map(|it| it.methods.iter().copied()));
    let calls = CallMetrics::new(&served);
    let callers = Callers::start(engine.clone(), &settings).await?;
    let api = NodeApi {
        engine: engine.clone(),
        checks,
        callers: callers.clone(),
        metrics: handler_metrics.clone(),
        reads: ReadWorkers::start(settings.read_threads),
        oldest: OldestReads::default(),
        keepalive_interval: settings.keepalive_interval,
        topics_per_stream_max: settings.topics_per_stream_max,
        queue_per_stream_bytes: settings.queue_per_stream_bytes,
        stop: stop.clone(),
    };
    let pages = public_pages(&settings, &api);
    let routes = routes(&settings, api, engine.verified_heads().clone(), readiness.clone())?;
    let memory = MemoryBudget::new(settings.callers_bytes_max);
    let serve = ports.api.map(|port| {
        let serve = serve_settings(&settings, port.address, &memory, pages);
        (serve, port.listener)
    });
    let committer = engine.committer().clone();
    let observer = observer(&settings, engine, &readiness, peers);
    let page = metrics::page(
        calls.clone(),
        memory,
        handler_metrics,
        callers.metrics(),
        observer.clone(),
        settings.tls,
    );
    let shown = NodePages::new(page, observer.clone(), settings.payer_reports, settings.publishers);
    let shown = Arc::new(shown);
    let server = match serve {
        Some((serve, listener)) => {
            let address = serve.listen;
            let served = Server::on(listener, serve, routes, calls, stop);
            Some(served.map_err(|source| ApiStartError::Listen { address, source })?)
        }
        None => None,
    };
    let end_guard = end.clone().drop_guard();
    // After the API: `/readyz` must not say that this node takes calls while none of its connections is served.
    let operators = serve_operators(ports.operators, shown, end.clone())?;
    if let Some(counts) = observer.payer_reports.clone() {
        tokio::spawn(count_payer_reports(counts, observer.clone(), end.clone()));
    }
    tokio::spawn(record_positions(observer, end.clone()));
    tokio::spawn(readiness.clone().keep_current(end));
    Ok(ApiHandle { server, operators, readiness, committer, end: end_guard })
}

fn observer(
    settings: &ApiSettings,
    engine: Engine,
    readiness: &Readiness,
    peers: Arc<dyn PeerView>,
) -> NodeObserver {
    let build = BuildInfo {
        version: settings.version.clone(),
        commit: settings.commit.clone(),
        started_ns: engine.ports().clock.now_ns(),
    };
    let payer_reports = settings.payer_reports.clone().map(PayerReportCounts::new);
    NodeObserver {
        engine,
        readiness: readiness.clone(),
        peers,
        disk: settings.disk.clone(),
        chains: settings.chains.clone(),
        backups: settings.backups.clone(),
        payer_reports: payer_reports.map(Arc::new),
        build: Arc::new(build),
        started: Instant::now(),
        newest: Arc::new(NewestTimes::default()),
        lags: Arc::new(LagTracker::default()),
        disk_trend: Arc::new(DiskTrend::default()),
    }
}

/// Serves operators, if the operators' port is bound.
fn serve_operators(
    port: Option<BoundPort>,
    pages: Arc<NodePages>,
    end: CancellationToken,
) -> Result<Option<(SocketAddr, JoinHandle<()>)>, ApiStartError> {
    let Some(BoundPort { address, listener }) = port else { return Ok(None) };
    let served = pages::serve(pages, listener, end);
    Ok(Some(served.map_err(|source| ApiStartError::Listen { address, source })?))
}

impl ApiHandle {
    /// Returns the address for clients, gateways and peers; `None` without a listener.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(Server::address)
    }

    /// Returns the address for operators; `None` without a listener.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.operators.as_ref().map(|(address, _)| *address)
    }

    /// Announces that this node is about to stop: health NOT_SERVING, `/readyz` 503. Calls are served
    /// as before.
    pub fn drain(&self) {
        self.readiness.drain();
    }

    /// Stops in order: announces it and waits `drain`, so that balancers notice; then refuses new
    /// connections and calls, lets unary calls finish, and ends streams with UNAVAILABLE. Returns
    /// when the last connection is closed. Slow clients may delay that: bound it by a timeout. The
    /// operators' port answers until then.
    ///
    /// The engine must still run, because accepted publishes are still acknowledged.
    pub async fn shutdown(self, drain: Duration) {
        // The checks read the disk. One that does not answer must not hold the task that bounds the shutdown.
        let readiness = self.readiness.clone();
        let announced = tokio::task::spawn_blocking(move || readiness.drain());
        // Checks that panicked have been reported by the panic hook.
        let _ = tokio::join!(timeout(ANNOUNCED_WITHIN, announced), sleep(drain));
        // Streams still deliver all envelopes that are committed by now.
        self.committer.streams_settled().await;
        if let Some(server) = self.server {
            server.close().await;
        }
        drop(self.end);
        if let Some((_, task)) = self.operators {
            let _ = task.await; // cancelled tasks end without an error
        }
    }
}

/// Records positions until `end`, so that lags have an age, and watches this machine's clock.
async fn record_positions(observer: NodeObserver, end: CancellationToken) {
    let mut is_clock_off = false;
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            () = sleep(POSITIONS_RECORDED_EVERY) => {
                observer.note_lags();
                observer.note_disk();
                is_clock_off = observer.warn_of_clock(is_clock_off);
            }
        }
    }
}

/// Counts the payer reports until `end`, so that neither a scrape nor a look at the status waits for it.
async fn count_payer_reports(
    counts: Arc<PayerReportCounts>,
    observer: NodeObserver,
    end: CancellationToken,
) {
    loop {
        let (counts, now_s) = (counts.clone(), observer.now_s());
        // A count that panicked has been reported by the panic hook.
        let _ = tokio::task::spawn_blocking(move || counts.count(now_s)).await;
        tokio::select! {
            () = end.cancelled() => return,
            () = sleep(PAYER_REPORTS_COUNTED_EVERY) => {}
        }
    }
}

fn public_pages(settings: &ApiSettings, api: &NodeApi) -> Vec<Arc<dyn PublicPages>> {
    let mut pages: Vec<Arc<dyn PublicPages>> =
        vec![Arc::new(TreePages::new(api, settings.witness.clone()))];
    if let Some(snapshots) = &settings.snapshots {
        pages.push(Arc::new(SnapshotPages::new(api, snapshots.clone())));
    }
    pages
}

fn serve_settings(
    settings: &ApiSettings,
    listen: SocketAddr,
    memory: &MemoryBudget,
    pages: Vec<Arc<dyn PublicPages>>,
) -> ServeSettings {
    ServeSettings {
        trusted_proxies: settings.trusted_proxies.clone(),
        connections_max: settings.connections_max,
        connections_per_address_max: settings.connections_per_address_max,
        streams_per_connection_max: settings.streams_per_connection_max,
        memory: memory.clone(),
        publishers: settings.publishers.clone(),
        tls: settings.tls.clone(),
        pages,
        ..ServeSettings::new(listen)
    }
}

/// Returns this node's QUIC address as a header value, if the node announces one.
fn quic_address(settings: &ApiSettings) -> Option<AsciiMetadataValue> {
    let address = settings.quic_address.as_ref()?;
    Some(address.as_str().parse().expect("a host and a port are visible ASCII"))
}

fn routes(
    settings: &ApiSettings,
    api: NodeApi,
    heads: Heads,
    readiness: Readiness,
) -> Result<Routes, ApiStartError> {
    let stop = api.stop.clone();
    let metadata = Metadata {
        engine: api.engine.clone(),
        cursor: CursorMoves::start(heads, stop.clone()),
        version: settings.version.as_str().into(),
        reads: api.reads.clone(),
        callers: api.callers.clone(),
        quic_address: quic_address(settings),
        stop: stop.clone(),
    };
    let proofs = Proofs {
        reader: ProofReader::new(api.engine.store().clone()),
        callers: api.callers.clone(),
        reads: api.reads.clone(),
    };
    let reports = MisbehaviorService::new(api.clone(), readiness.clone(), settings);
    let reports = MisbehaviorApiServer::new(reports)
        .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX);
    let extra = settings.extra_service.iter().map(|it| (it.name, Purpose::Read));
    let named: Vec<_> = methods::services(settings.misbehavior_api).chain(extra).collect();
    let health = HealthService::server(readiness, named.clone(), settings.reflection, stop.clone());
    let nodes = api.callers.check(settings.require_node_auth);
    let checked = InterceptorLayer::new(api.callers.check(false));
    let mut routes = match &settings.extra_service {
        Some(extra) => {
            let router = extra.routes.clone().into_axum_router();
            RoutesBuilder::from(router.layer(checked.clone()))
        }
        None => RoutesBuilder::default(),
    };
    let replication = ReplicationApiServer::new(api.clone())
        .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX);
    let query = QueryApiServer::new(api.clone())
        .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX);
    let publish = PublishApiServer::new(api.clone())
        .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX);
    let notification = NotificationApiServer::new(api)
        .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX);
    let metadata = MetadataApiServer::new(metadata)
        .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX);
    let proofs = CheckpointApiServer::new(proofs)
        .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX);
    routes
        .add_service(InterceptorLayer::new(nodes).named_layer(replication))
        .add_service(checked.named_layer(query))
        .add_service(checked.named_layer(publish))
        .add_service(checked.named_layer(notification))
        .add_service(checked.named_layer(metadata))
        .add_service(checked.named_layer(proofs))
        .add_service(checked.named_layer(reports))
        .add_service(health);
    if settings.reflection {
        let names = named.into_iter().map(|(name, _)| name).chain([HealthService::NAME]);
        reflect(&mut routes, names, &stop)?;
    }
    Ok(routes.routes())
}
