//! `hawser dev`: a whole network on this machine. Each node is a process of its own, so that it can be
//! killed and seen to recover; the gateway is one more, and both chains are another.

mod child;
mod folder;
mod ports;
mod report;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hawser_chain::addresses::Addresses;
use hawser_chain::admin::rates::{self, RateEntry};
use hawser_chain::admin::{self, ChainRole};
use hawser_devchain::devnet;
use hawser_node::error::RunError;
use hawser_node::files::rates::RateRecord;
use hawser_node::files::registry::RegistryFileEntry;
use hawser_node::service::stop_signal::{StopOn, StopReason, StopSignals};
use tokio::sync::{mpsc, watch};

use crate::args::dev::DevArgs;
use crate::client;
use crate::commands::chain;
use crate::commands::onchain::reach;
use crate::network_file::{NetworkChain, NetworkFile, NetworkGateway, NetworkNode};
use crate::output::Reporter;
use child::{
    ChainKind, ChildProcess, CommandLine, NetworkSource, ProcessEvent, ProcessName, ProcessOrder,
    StopStage,
};
use folder::Folder;
use ports::{DevPorts, SharedPorts};
use report::StartHints;

/// Default number of nodes: the fewest of which a majority survives the loss of one.
const NODES_DEFAULT: u16 = 3;
/// Time between two readiness checks during the start. A guess: soon noticed, and cheap.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Time after which the start prints the condition that it waits for. A guess.
const TELL_AFTER: Duration = Duration::from_secs(10);

/// Runs the command until a signal stops it.
///
/// # Errors
/// When the network does not start, or a node does not stop in order.
pub(super) async fn run(args: DevArgs, as_json: bool) -> Result<(), RunError> {
    let mut ends = StopSignals::listen(StopOn::Signals).map_err(RunError::failed)?;
    let source = match args.chain_file.as_deref() {
        Some(file) => NetworkSource::Files(existing(file)?),
        None => NetworkSource::Chains,
    };
    let anvil = args.anvil.then(|| chain::dev::anvil(None)).transpose()?;
    let folder = Folder::open(&args.data_dir, args.fresh)?;
    let (ports, shared) = choose_ports(&args, &folder)?;
    ports::require_free(&ports, shared).await?;
    let records = folder.prepare(&ports)?;
    folder.retract()?;
    let reporter = Reporter { as_json };
    report::starting(reporter, ports.len(), &args.data_dir);
    let kind = ChainKind { block_time: args.block_time, anvil, payer: folder.payer()? };
    let mut network = Network::empty(ports, shared, source, reporter)?;
    tokio::select! {
        ready = network.start(&folder, &kind) => if let Err(failure) = ready {
            // The error of the start matters more than one of stopping the others.
            let _ = network.stop(&mut ends).await;
            return Err(failure);
        },
        _ = ends.next() => return network.stop(&mut ends).await,
    }
    let described = network.describe(&folder, &records)?;
    if matches!(network.source, NetworkSource::Chains) {
        folder.write_rates(network.rates(&folder).await?)?;
    }
    folder.announce(&described)?;
    let network_file = args.data_dir.join(crate::network_file::FILE_NAME);
    let hints = StartHints {
        data_dir: &args.data_dir,
        network_file: &network_file,
        chain_file: args.chain_file.as_deref(),
    };
    report::ready(reporter, &described, &hints);
    network.watch_over(&mut ends).await;
    network.stop(&mut ends).await
}

fn existing(path: &Path) -> Result<PathBuf, RunError> {
    path.canonicalize()
        .map_err(|error| RunError::not_found(format!("--chain-file {}: {error}", path.display())))
}

/// Returns the ports that were given, or else those of the folder, or else the defaults.
fn choose_ports(args: &DevArgs, folder: &Folder) -> Result<(Vec<DevPorts>, SharedPorts), RunError> {
    let known = folder.known_nodes()?;
    let nodes = args.nodes.or_else(|| u16::try_from(known.len()).ok().filter(|nodes| *nodes > 0));
    let base = args.base_port.or_else(|| known.first().and_then(base_port_of));
    let base = base.unwrap_or(ports::BASE_DEFAULT);
    let nodes = DevPorts::of_network(nodes.unwrap_or(NODES_DEFAULT), base)?;
    Ok((nodes, SharedPorts::of_network(base)?))
}

fn base_port_of(first: &RegistryFileEntry) -> Option<u16> {
    let port = first.http_address.rsplit_once(':')?.1.parse().ok()?;
    (first.node_id == 100).then_some(port)
}

/// The processes of the network.
struct Network {
    program: PathBuf,
    ports: Vec<DevPorts>,
    shared: SharedPorts,
    source: NetworkSource,
    children: Vec<ChildProcess>,
    /// The processes that have not ended yet.
    running: Vec<ProcessName>,
    orders: watch::Sender<ProcessOrder>,
    sender: mpsc::Sender<ProcessEvent>,
    events: mpsc::Receiver<ProcessEvent>,
    reporter: Reporter,
}

impl Network {
    fn empty(
        ports: Vec<DevPorts>,
        shared: SharedPorts,
        source: NetworkSource,
        reporter: Reporter,
    ) -> Result<Self, RunError> {
        let program = std::env::current_exe().map_err(RunError::failed)?;
        let (orders, _) = watch::channel(ProcessOrder::Run);
        let (sender, events) = mpsc::channel(64);
        let (children, running) = (Vec::new(), Vec::new());
        Ok(Self {
            program,
            ports,
            shared,
            source,
            children,
            running,
            orders,
            sender,
            events,
            reporter,
        })
    }

    /// Starts chains, nodes and gateway in this order, because nodes need the registry and the gateway
    /// needs the nodes. Returns when everything is ready.
    async fn start(&mut self, folder: &Folder, kind: &ChainKind) -> Result<(), RunError> {
        let chains = CommandLine::of_chains(&self.program, folder, self.shared, kind);
        self.add(ProcessName::Chains, chains, &folder.chains().join("log.txt")).await?;
        let (chain_json, reporter) = (folder.chain_json(), self.reporter);
        self.wait(until_deployed(&chain_json, reporter)).await?;
        for ports in self.ports.clone() {
            let (program, shared, source) = (&self.program, self.shared, &self.source);
            let command = CommandLine::of_node(program, folder, ports, shared, source);
            let log_file = folder.node(ports.node_id).log_file;
            self.add(ProcessName::Node(ports.node_id), command, &log_file).await?;
        }
        for ports in self.ports.clone() {
            let who = ProcessName::Node(ports.node_id);
            self.wait(until_ready(who, ports.metrics(), "?for=publish", reporter)).await?;
        }
        if self.has_gateway() {
            let command = CommandLine::of_gateway(&self.program, folder, self.shared);
            self.add(ProcessName::Gateway, command, &folder.gateway().join("log.txt")).await?;
            let metrics = self.shared.gateway_metrics();
            self.wait(until_ready(ProcessName::Gateway, metrics, "", reporter)).await?;
        }
        Ok(())
    }

    /// A gateway needs the app chain: commits go over it to the nodes.
    fn has_gateway(&self) -> bool {
        matches!(self.source, NetworkSource::Chains)
    }

    async fn add(
        &mut self,
        who: ProcessName,
        command: CommandLine,
        log_file: &Path,
    ) -> Result<(), RunError> {
        let (orders, events) = (self.orders.subscribe(), self.sender.clone());
        let started = ChildProcess::start(command, who, log_file, orders, events).await;
        self.children.push(started.map_err(|error| RunError::failed(format!("{who}: {error}")))?);
        self.running.push(who);
        Ok(())
    }

    /// Waits for readiness, and fails if a process ends meanwhile.
    async fn wait(&mut self, ready: impl Future<Output = ()>) -> Result<(), RunError> {
        tokio::pin!(ready);
        loop {
            tokio::select! {
                () = &mut ready => return Ok(()),
                Some(event) = self.events.recv() => match event {
                    ProcessEvent::LogLine { who, line } => report::log_line(self.reporter, who, &line),
                    ProcessEvent::Ended { who, status } => {
                        self.running.retain(|running| *running != who);
                        return Err(self.not_started(who, &status));
                    }
                },
            }
        }
    }

    fn not_started(
        &self,
        who: ProcessName,
        status: &std::io::Result<std::process::ExitStatus>,
    ) -> RunError {
        let child = self.child(who);
        let log: String = child.last_lines().iter().map(|line| format!("\n  {line}")).collect();
        let status = status_text(status);
        RunError::failed(format!("{who} did not start: {status}; the end of its log:{log}"))
    }

    fn child(&self, who: ProcessName) -> &ChildProcess {
        let is_it = |child: &&ChildProcess| child.who == who;
        self.children.iter().find(is_it).expect("events come from children")
    }

    fn describe(
        &self,
        folder: &Folder,
        records: &[RegistryFileEntry],
    ) -> Result<NetworkFile, RunError> {
        let node = |(ports, record): (&DevPorts, &RegistryFileEntry)| NetworkNode {
            node_id: record.node_id,
            grpc: ports.api().to_string(),
            quic: ports.api().to_string(),
            metrics: ports.metrics().to_string(),
            address: record.signer.clone(),
            public_key: record.signing_public_key.clone(),
            data_dir: folder.node(record.node_id).data_dir,
            pid: self.child(ProcessName::Node(record.node_id)).pid,
        };
        let chains_pid = self.child(ProcessName::Chains).pid;
        let chain = |chain_id: u64, address: SocketAddr| NetworkChain {
            rpc: format!("http://{address}"),
            ws: format!("ws://{address}"),
            chain_id,
            pid: chains_pid,
        };
        let gateway = self.has_gateway().then(|| NetworkGateway {
            grpc: self.shared.gateway().to_string(),
            metrics: self.shared.gateway_metrics().to_string(),
            pid: self.child(ProcessName::Gateway).pid,
        });
        let contracts = Addresses::read(&folder.chain_json()).map_err(RunError::failed)?;
        Ok(NetworkFile {
            nodes: self.ports.iter().zip(records).map(node).collect(),
            payer_key_file: folder.payer_key(),
            gateway,
            app_chain: Some(chain(devnet::APP_ID, self.shared.app())),
            settlement_chain: Some(chain(devnet::SETTLEMENT_ID, self.shared.settlement())),
            contracts: contracts.to_json(),
        })
    }

    /// Returns the rates on the settlement chain, by which the nodes charge. Auditors of the folder need them.
    async fn rates(&self, folder: &Folder) -> Result<Vec<RateRecord>, RunError> {
        let url = format!("http://{}", self.shared.settlement());
        let network = admin::Network {
            settlement: reach(&[url], devnet::SETTLEMENT_ID, ChainRole::Settlement).await?,
            app: None,
            app_id: devnet::APP_ID,
            contracts: (&Addresses::read(&folder.chain_json()).map_err(RunError::failed)?).into(),
        };
        let record = |RateEntry { prices, start_time }| RateRecord {
            message_fee: prices.message_fee,
            storage_fee: prices.storage_fee,
            congestion_fee: prices.congestion_fee,
            target_rate_per_minute: prices.target_rate_per_minute,
            start_time,
        };
        Ok(rates::list(&network).await?.into_iter().map(record).collect())
    }

    fn running_nodes(&self) -> usize {
        self.running.iter().filter(|who| who.node_id().is_some()).count()
    }

    /// Reports events until a signal stops the network. A process that ends is not started again,
    /// because the user may have killed it on purpose.
    async fn watch_over(&mut self, ends: &mut StopSignals) {
        loop {
            tokio::select! {
                StopReason::Signal(_) | StopReason::Parent = ends.next() => return,
                Some(event) = self.events.recv() => match event {
                    ProcessEvent::LogLine { who, line } => report::log_line(self.reporter, who, &line),
                    ProcessEvent::Ended { who, status } => {
                        self.running.retain(|running| *running != who);
                        let left = self.running_nodes();
                        report::lost(self.reporter, self.child(who), &status_text(&status), left);
                    }
                },
                else => return,
            }
        }
    }

    /// Stops all running processes: first the gateway, then the nodes, then the chains that they read. The second
    /// signal kills the remaining ones.
    async fn stop(&mut self, ends: &mut StopSignals) -> Result<(), RunError> {
        if self.running.is_empty() {
            return Ok(());
        }
        report::stopping(self.reporter);
        let (mut in_order, mut order) = (true, ProcessOrder::Run);
        for stage in StopStage::ALL {
            if order != ProcessOrder::Kill {
                order = ProcessOrder::Stop(stage);
                self.orders.send_replace(order);
            }
            while self.running.iter().any(|who| who.ends_in(stage)) {
                tokio::select! {
                    _ = ends.next() => {
                        order = ProcessOrder::Kill;
                        self.orders.send_replace(order);
                    }
                    Some(event) = self.events.recv() => match event {
                        ProcessEvent::LogLine { who, line } => report::log_line(self.reporter, who, &line),
                        ProcessEvent::Ended { who, status } => {
                            self.running.retain(|running| *running != who);
                            in_order &=
                                status.as_ref().is_ok_and(std::process::ExitStatus::success);
                            report::stopped(self.reporter, who, &status_text(&status));
                        }
                    },
                }
            }
        }
        if in_order {
            Ok(())
        } else {
            Err(RunError::failed(
                "some processes of the network did not stop cleanly: see their logs",
            ))
        }
    }
}

/// Waits for the file that is written when the contracts are deployed.
async fn until_deployed(chain_json: &Path, reporter: Reporter) {
    let mut report_at = Instant::now() + TELL_AFTER;
    while !chain_json.exists() {
        if Instant::now() >= report_at {
            report::waiting(reporter, ProcessName::Chains, "the contracts are being deployed");
            report_at = Instant::now() + TELL_AFTER;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn until_ready(who: ProcessName, metrics: SocketAddr, purpose: &str, reporter: Reporter) {
    let mut report_at = Instant::now() + TELL_AFTER;
    loop {
        let why = match client::get(&metrics.to_string(), &format!("/readyz{purpose}")).await {
            Ok(answer) if answer.status == 200 => return,
            Ok(answer) => client::unmet_conditions(&answer.body),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= report_at {
            report::waiting(reporter, who, why.trim());
            report_at = Instant::now() + TELL_AFTER;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn status_text(status: &std::io::Result<std::process::ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("its status is not known: {error}"),
    }
}
