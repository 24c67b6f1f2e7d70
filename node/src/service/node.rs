//! A running node: its parts in the order in which they start and stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hawser_api::{
    ApiHandle, ApiSettings, ApiStartError, BoundPorts, ExtraService, PeerView, WitnessContext,
};
use hawser_engine::Engine;
use hawser_engine::runtime::replication::{CheckpointWitnesses, ReplicationSettings};
use hawser_engine::runtime::{
    PayerReporter, PublisherThreads, StoppableTask, at_begin_of_publish_threads,
    at_begin_of_reader_threads, at_begin_of_threads_behind, start_checkpoint_task, start_disk_task,
    start_older_rows_task, start_payer_report_task, start_price_task, start_prune_task,
    start_report_task, start_scrub_task, start_trees_task,
};
use hawser_net::{NetSettings, NetStartError};
use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::WitnessSigner;
use hawser_proto::pb::xmtp::mls_validation::v1::validation_api_server::ValidationApiServer;
use hawser_serve::address::TrustedProxies;
use hawser_serve::tls::{Tls, TlsFilesError};
use hawser_serve::{FieldCost, MESSAGE_LEN_BYTES_MAX, MethodKind, RpcMethod};
use hawser_validation::limits::{ACTION_BYTES, LOG_BYTES_PER_BYTE};
use hawser_validation::service::{ServiceCaller, ValidationService};
use hawser_validation::wallets::{WalletTask, Wallets};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;

use super::admin_server::AdminServer;
use super::bootstrap::{ChainFill, FillTask};
use super::network::chains::{Chains, RunningChains};
use super::network::stand_in_files::{FileWatcher, StandInReader};
use super::open::{self, OpenNodeError, OpenedNode};
use super::payer_reports;
use super::peers::Peers;
use super::restore_prompt::RestorePromptTask;
use super::service_manager::serve_until_stopped;
use super::snapshot_folder::SnapshotFolder;
use super::stop_signal::{StopOn, StopSignals};
use super::stop_steps::StopSteps;
use super::system::{self, Disk, OpenFiles};
use super::validation::HeldUpdates;
use super::witness_folder::{COUNT_EVERY, WitnessRight, WitnessRun};
use super::{blocking, free_ports, tls};
use crate::backup_notes::FolderNotes;
use crate::clock::now_unix_s;
use crate::error::RunError;
use crate::settings::{NodeServiceSettings, StopSettings, WalletSettings, place_of};

/// The time limit for remaining tasks of each runtime after everything has stopped in order. A guess: they hold no
/// state.
const REST_MAX: Duration = Duration::from_secs(1);

/// The time limit for asking peers about the own strand at the start, after which readers are served anyway. A guess:
/// above the limit of the request itself.
const ASK_MAX: Duration = Duration::from_secs(2);

/// Error of starting the listeners after the database was opened.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Net(#[from] NetStartError),
    #[error(transparent)]
    Api(#[from] ApiStartError),
    #[error(transparent)]
    Tls(#[from] TlsFilesError),
    #[error("the thread that watches files cannot be started: {0}")]
    Files(std::io::Error),
}

impl ServeError {
    /// Returns advice for the operator; may be empty.
    fn hint(&self) -> &'static str {
        match self {
            Self::Net(NetStartError::Listen { source, .. })
            | Self::Api(ApiStartError::Listen { source, .. }) => free_ports::hint(source),
            _ => "",
        }
    }
}

/// Runs a node until one of the events stops it.
///
/// # Errors
/// Fails when it does not start, or does not stop in order.
pub fn run(config: NodeServiceSettings, stop_on: StopOn) -> Result<(), RunError> {
    system::return_freed_memory();
    at_begin_of_reader_threads(system::stand_back);
    at_begin_of_publish_threads(system::take_short_turns);
    at_begin_of_threads_behind(system::stand_back);
    system::require_open_files().map_err(RunError::failed)?;
    // The file is read again when the listener starts. A mistake should be reported before the database is opened.
    tls::load(config.api.tls.as_ref()).map_err(RunError::usage)?;
    let runtime = system::runtime().map_err(RunError::failed)?;
    let publishers = system::publisher_runtime().map_err(RunError::failed)?;
    let done = runtime.block_on(live(config, stop_on, publishers.handle().clone()));
    system::shut_down(runtime, publishers, REST_MAX);
    done
}

async fn live(
    config: NodeServiceSettings,
    stop_on: StopOn,
    publishers: Handle,
) -> Result<(), RunError> {
    let mut ends = StopSignals::listen(stop_on).map_err(RunError::failed)?;
    let stop = config.stop;
    let node = start(config, &mut ends, publishers.clone()).await?;
    serve_until_stopped(&mut ends, Some(publishers)).await;
    node.stop(stop, &mut ends).await;
    Ok(())
}

/// Starts a node. A signal during the start ends the process at once; the next start continues an interrupted rebuild.
async fn start(
    config: NodeServiceSettings,
    ends: &mut StopSignals,
    publishers: Handle,
) -> Result<Node, RunError> {
    let config = Arc::new(config);
    let opening = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || open::open(&config))
    };
    let opened: Result<OpenedNode, OpenNodeError> = tokio::select! {
        opened = opening => opened.expect("a panic ends the process"),
        end = ends.next() => {
            tracing::info!(?end, "stopped before the node had started");
            system::exit_now(0);
        }
    };
    let fail = |error: ServeError| RunError::failed(format!("{error}{}", error.hint()));
    Node::serve(opened?, &config, publishers).await.map_err(fail)
}

/// The payer report worker and its task.
struct PayerReports {
    reporter: PayerReporter,
    task: StoppableTask,
}

impl PayerReports {
    /// Starts worker and task; `None` if payer reports are disabled, or there is no contract.
    fn start(engine: &Engine, chains: &Chains, config: &NodeServiceSettings) -> Option<Self> {
        let (at, settings) = (chains.report_contract.clone()?, config.payer_reports?);
        let (spending, state_dir) = (config.report_spending, &config.store.state_dir);
        let reporter =
            payer_reports::reporter(engine, &config.signer, at, settings, spending, state_dir);
        let task = start_payer_report_task(engine, reporter.clone(), settings);
        Some(Self { reporter, task })
    }
}

/// The parts of a running node in the order in which they stop.
struct Node {
    api: ApiHandle,
    inner: InnerParts,
}

/// The parts of a node behind its API, in the order in which they stop.
struct InnerParts {
    engine: Engine,
    threads: PublisherThreads,
    /// The runtime of connections that publish.
    publishers: Handle,
    restore_prompt: RestorePromptTask,
    admin: AdminServer,
    /// The peer connections; `None` if the address could not be listened on.
    peers: Option<Peers>,
    /// The filling task; `None` if no snapshot source is configured, or its thread could not be started.
    filling: Option<FillTask>,
    /// The file watcher; `None` if its thread could not be started.
    files: Option<FileWatcher>,
    chains: RunningChains,
    wallets: WalletTask,
    prices: StoppableTask,
    older_rows: StoppableTask,
    trees: StoppableTask,
    /// The pruning task; `None` if pruning is disabled.
    prune: Option<StoppableTask>,
    /// The scrub task; `None` if scrubs are disabled.
    scrub: Option<StoppableTask>,
    checkpoints: StoppableTask,
    reports: StoppableTask,
    /// The payer report task; `None` if payer reports are disabled, or there is no contract.
    payer_reports: Option<PayerReports>,
    disk: StoppableTask,
    /// The right to cosign, of a replica that is a witness.
    witness: Option<WitnessRun>,
}

impl Node {
    /// Starts all parts. If one fails to start, the earlier ones are stopped in order, because threads and tasks that
    /// outlived the runtime would end the process with a signal instead of the error.
    async fn serve(
        opened: OpenedNode,
        config: &NodeServiceSettings,
        publishers: Handle,
    ) -> Result<Self, ServeError> {
        let OpenedNode { engine, threads, inputs, chains, wallets, witness, rebuild } = opened;
        if let Some(pages) = rebuild {
            pages.end().await;
        }
        // Before the first part that a peer, a chain or a client notices.
        let listen = config.api.enable.then_some(config.api.address);
        let ports = match BoundPorts::bind(listen, config.metrics).await {
            Ok(ports) => ports,
            Err(error) => {
                engine.drain();
                let end = move || {
                    threads.join();
                    close(&engine);
                };
                blocking(end).await;
                return Err(error.into());
            }
        };
        let own = inputs.network.own;
        let is_node = config.follow.is_none();
        let payer_reports = PayerReports::start(&engine, &chains, config);
        let fill = ChainFill::new(config, &chains);
        let chains = chains.start(&engine, inputs.network.clone(), &fill.gate());
        let held = HeldUpdates { appender: engine.chain_appender(), chains: chains.view() };
        let key = is_node.then(|| config.signer.clone());
        let reporter = payer_reports.as_ref().map(|it| it.reporter.clone());
        let mut inner = InnerParts {
            restore_prompt: RestorePromptTask::start(&engine),
            admin: AdminServer::start(&engine, key, reporter, config),
            peers: None,
            filling: None,
            files: None,
            chains,
            wallets: wallets.start(Arc::new(held)),
            prices: start_price_task(&engine),
            older_rows: start_older_rows_task(&engine),
            trees: start_trees_task(&engine),
            prune: (!config.prune.every.is_zero()).then(|| start_prune_task(&engine, config.prune)),
            scrub: config.scrub.map(|settings| start_scrub_task(&engine, settings)),
            checkpoints: start_checkpoint_task(&engine, config.signer.clone()),
            reports: start_report_task(&engine),
            payer_reports,
            disk: start_disk_task(&engine),
            witness: witness.map(|right| keep_counting(right, &engine)),
            engine,
            threads,
            publishers,
        };
        match inner.listen(inputs, config, fill, ports).await {
            Ok(api) => {
                announce(&api, own);
                Ok(Self { api, inner })
            }
            Err(error) => {
                let mut steps = StopSteps::default();
                inner.add_to(&mut steps);
                steps.run().await;
                Err(error)
            }
        }
    }

    /// Stops all parts in order. Exits with code 1 at the second signal, or after the time limit.
    async fn stop(self, config: StopSettings, ends: &mut StopSignals) {
        // Some calls wait for commits, and some for a rebuild.
        self.inner.engine.scrubs().end_remake();
        let mut steps = StopSteps::default();
        steps.add("calls and streams of clients", self.api.shutdown(config.drain));
        self.inner.add_to(&mut steps);
        steps.run_or_exit(config, ends).await;
    }
}

impl InnerParts {
    /// Starts the peers, and then to serve at the ports.
    async fn listen(
        &mut self,
        inputs: StandInReader,
        config: &NodeServiceSettings,
        fill: ChainFill,
        ports: BoundPorts,
    ) -> Result<ApiHandle, ServeError> {
        let settings = NetSettings {
            listen: config.api.address,
            key: config.signer.clone(),
            transport: config.peer_transport,
            plain_text: config.plain_text_peers,
            private: config.private_peers,
            observed: config.follow.clone(),
        };
        let (settings, witness) = (config.sync.then_some(settings), config.witness.clone());
        let witness_key = witness.as_ref().map(WitnessSigner::key);
        let own_waits = self.witness.as_ref().map(WitnessRun::waits).unwrap_or_default();
        let trusted = &config.witnesses;
        let replication = ReplicationSettings {
            migrated: config.migrated,
            witnesses: CheckpointWitnesses { own: witness, own_waits, trusted: Vec::new() },
            catch_up: config.catch_up,
            ..ReplicationSettings::default()
        };
        let peers = Peers::start(settings, &self.engine, replication, trusted).await?;
        self.admin.set_peers(peers.status_view());
        let replication = peers.replication().clone();
        let witness = witness_key.map(|key| WitnessContext { replication, key });
        let view = peers.view();
        if let Some(from) = &config.bootstrap_from {
            let replication = peers.replication().clone();
            let filling = FillTask::start(from, &self.engine, replication, fill);
            match filling {
                Ok(filling) => self.filling = Some(filling),
                Err(error) => {
                    let from = place_of(from);
                    tracing::warn!(code = "filling_failed", from, %error, "strands cannot be filled: no thread can be started");
                }
            }
        }
        self.peers = Some(peers);
        // Peers are asked first: a restart ends when the node may publish, which usually
        // depends on their answers within moments.
        if timeout(ASK_MAX, self.engine.own_strand_asked()).await.is_err() {
            tracing::warn!(
                "the node serves readers while a peer is asked for the end of its strand"
            );
        }
        self.files = Some(inputs.watch().map_err(ServeError::Files)?);
        let files = config.api.tls.as_ref();
        tls::warn_without(files, config.api.address);
        let tls = tls::load(files)?;
        Ok(self.serve_api(ports, config, view, witness, tls).await?)
    }

    /// Serves the API and the operator port.
    async fn serve_api(
        &self,
        ports: BoundPorts,
        config: &NodeServiceSettings,
        peers: Arc<dyn PeerView>,
        witness: Option<WitnessContext>,
        tls: Option<Tls>,
    ) -> Result<ApiHandle, ApiStartError> {
        let settings = ApiSettings {
            keepalive_interval: config.api.keep_alive,
            quic_address: config.announced_quic_address(),
            reflection: config.api.reflection,
            misbehavior_api: config.api.misbehavior,
            tls,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: config.commit.to_owned(),
            disk: Some(Arc::new(Disk(config.store.data_dir.clone()))),
            backups: Some(Arc::new(FolderNotes(config.store.data_dir.clone()))),
            chains: Some(self.chains.view()),
            filling: self.filling.as_ref().map(FillTask::view),
            snapshots: config.snapshot_serve.as_deref().map(SnapshotFolder::view),
            witness,
            payer_reports: self.payer_reports.as_ref().map(|it| it.reporter.clone()),
            callers_bytes_max: config.api.callers_bytes_max(),
            extra_service: config.validation_api.then(|| {
                validation_service(&config.wallets, config.limits.trusted_proxies.clone())
            }),
            trusted_proxies: config.limits.trusted_proxies.clone(),
            connections_max: OpenFiles::of_process(config.store.open_files).connections,
            connections_per_address_max: config.limits.connections_per_address,
            streams_per_connection_max: config.limits.streams_per_connection,
            topics_per_stream_max: config.limits.topics_per_stream,
            queue_per_stream_bytes: config.limits.queue_per_stream_bytes,
            misbehavior_reports_per_minute: config.limits.misbehavior_reports_per_address,
            publishers: Some(self.publishers.clone()),
            rate_limits: config.limits.rates.clone(),
            require_node_auth: config.limits.require_node_auth,
            ..ApiSettings::default()
        };
        hawser_api::start_on(ports, settings, self.engine.clone(), peers).await
    }

    /// Adds the end of each part, in an order in which none misses another: those that publish come first, the database
    /// last.
    fn add_to(self, steps: &mut StopSteps) {
        if let Some(payer_reports) = self.payer_reports {
            steps.add("payer reports", payer_reports.task.stop());
        }
        let (engine, threads) = (self.engine, self.threads);
        let publisher = engine.clone();
        steps.add("publishes that were accepted", async move {
            publisher.drain();
            blocking(move || threads.join()).await;
        });
        steps.add("the question about a restore", self.restore_prompt.stop());
        steps.add("commands of the operator", self.admin.stop());
        if let Some(filling) = self.filling {
            steps.add("filling from a snapshot", blocking(move || filling.stop()));
        }
        if let Some(peers) = self.peers {
            steps.add("peers and their strands", peers.stop());
        }
        steps.add("chains", self.chains.stop());
        steps.add("questions to contract wallets", self.wallets.stop());
        steps.add("corrections of booked amounts", self.prices.stop());
        steps.add("rows of an older format", self.older_rows.stop());
        steps.add("trees of strands", self.trees.stop());
        if let Some(prune) = self.prune {
            steps.add("pruning", prune.stop());
        }
        if let Some(scrub) = self.scrub {
            steps.add("scrubs", scrub.stop());
        }
        steps.add("checkpoints", self.checkpoints.stop());
        steps.add("reports of misbehaviour", self.reports.stop());
        if let Some(files) = self.files {
            steps.add("files", blocking(move || files.stop()));
        }
        steps.add("looking after the disk", self.disk.stop());
        let witness = self.witness;
        let end = move || {
            let right = witness.map(WitnessRun::stop);
            close(&engine);
            drop(right);
        };
        steps.add("database", blocking(end));
    }
}

fn announce(api: &ApiHandle, own: OriginatorId) {
    match api.address() {
        // Test harnesses and scripts wait for exactly this line.
        Some(address) => {
            tracing::info!(port = address.port(), node_id = own.0, %address, "started api server");
        }
        None => tracing::warn!(node_id = own.0, "api.enable is off: no clients are served"),
    }
}

/// Offers this node's payload validation to other software over gRPC. Its cached wallet answers and its threads are
/// separate, so that its callers cannot exhaust the node's, and it uses half of the cores. Callers take turns by their
/// addresses, and the networks of these share its places.
fn validation_service(wallets: &WalletSettings, proxies: TrustedProxies) -> ExtraService {
    const ITEMS: [&str; 2] = [
        "/xmtp.mls_validation.v1.ValidationApi/ValidateGroupMessages",
        "/xmtp.mls_validation.v1.ValidationApi/ValidateInboxIdKeyPackages",
    ];
    /// Group messages or key packages, each with its answer. Reading a message takes no memory, and its group id, which
    /// may be as long as the message, comes back as text of twice its length. A key package has 64 KiB at most.
    const ITEM_FIELDS: &[FieldCost] = &[FieldCost::with_length(1, 1024, 6, &[])];
    const WALLETS: &str =
        "/xmtp.mls_validation.v1.ValidationApi/VerifySmartContractWalletSignatures";
    const STATE: &str = "/xmtp.mls_validation.v1.ValidationApi/GetAssociationState";
    const ACTIONS: &[FieldCost] = &[FieldCost::each(1, ACTION_BYTES, &[])];
    /// Earlier and new updates, with their actions.
    const UPDATES: &[FieldCost] = &[
        FieldCost::with_length(1, 128, LOG_BYTES_PER_BYTE, ACTIONS),
        FieldCost::with_length(2, 128, LOG_BYTES_PER_BYTE, ACTIONS),
    ];
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wallets = Arc::new(Wallets::over_rpc(wallets.rpcs.clone(), wallets.list()));
    let caller_name = move |metadata: &MetadataMap, peer: Option<SocketAddr>| {
        let address = proxies.client(metadata.as_ref(), peer);
        let (network, name) = (address.network().to_string(), address.to_string());
        ServiceCaller { network: network.into(), name: name.into() }
    };
    let (clock, caller_name) = (Arc::new(now_unix_s), Arc::new(caller_name));
    let validation = ValidationService::new(wallets, clock, caller_name, cores / 2);
    let service = ValidationApiServer::new(validation)
        .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX);
    let state = RpcMethod::new(STATE, MethodKind::Unary).decoding(UPDATES);
    let asking_wallets = RpcMethod::new(WALLETS, MethodKind::Unary);
    let items = |path| RpcMethod::new(path, MethodKind::Unary).decoding(ITEM_FIELDS);
    ExtraService {
        name: "xmtp.mls_validation.v1.ValidationApi",
        methods: ITEMS.into_iter().map(items).chain([asking_wallets, state]).collect(),
        routes: Routes::new(service),
    }
}

/// Counts a witness's run from time to time and at its end.
fn keep_counting(right: WitnessRight, engine: &Engine) -> WitnessRun {
    let engine = engine.clone();
    WitnessRun::start(right, COUNT_EVERY, move |right| right.count_again(engine.store()))
}

/// Flushes the database, so that the next start need not replay the write-ahead log. A failure only costs that time.
fn close(engine: &Engine) {
    let store = engine.store();
    if store.is_poisoned() {
        return; // nothing more is written to a disk that has failed
    }
    if let Err(error) = store.flush() {
        tracing::warn!(%error, "the database was not flushed: the next start has to replay the write-ahead log");
        return;
    }
    if let Err(error) = store.note_on_disk() {
        tracing::warn!(%error, "the state folder cannot be written to");
    }
}
