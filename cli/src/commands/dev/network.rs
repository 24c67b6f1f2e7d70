//! The processes of a network: how they start, are watched and stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hawser_chain::addresses::Addresses;
use hawser_chain::admin::rates;
use hawser_chain::admin::{self, ChainRole};
use hawser_devchain::devnet;
use hawser_node::error::RunError;
use hawser_node::files::rates::RateRecord;
use hawser_node::service::stop_signal::StopSignals;
use tokio::sync::{mpsc, watch};

use super::child::{
    ChainKind, ChildProcess, CommandLine, NetworkSource, ProcessEvent, ProcessName, ProcessOrder,
    StopStage,
};
use super::folder::{self, Folder};
use super::ports::{DevPorts, SharedPorts};
use super::report;
use crate::client;
use crate::commands::onchain::reach;
use crate::network_file::{NetworkChain, NetworkFile, NetworkGateway, NetworkNode};
use crate::output::Reporter;

/// Time between two readiness checks during the start. A guess: soon noticed, and cheap.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Time after which the start prints the condition that it waits for. A guess.
const TELL_AFTER: Duration = Duration::from_secs(10);

/// The processes of the network.
pub(super) struct Network {
    pub(super) program: PathBuf,
    pub(super) ports: Vec<DevPorts>,
    pub(super) shared: SharedPorts,
    pub(super) source: NetworkSource,
    children: Vec<ChildProcess>,
    /// The processes that have not ended yet.
    pub(super) running: Vec<ProcessName>,
    orders: watch::Sender<ProcessOrder>,
    sender: mpsc::Sender<ProcessEvent>,
    pub(super) events: mpsc::Receiver<ProcessEvent>,
    pub(super) reporter: Reporter,
}

impl Network {
    pub(super) fn empty(
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
    pub(super) async fn start(
        &mut self,
        folder: &Folder,
        kind: &ChainKind,
    ) -> Result<(), RunError> {
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
            folder.note_started(ports.node_id)?;
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

    pub(super) async fn add(
        &mut self,
        who: ProcessName,
        command: CommandLine,
        log_file: &Path,
    ) -> Result<(), RunError> {
        let (orders, events) = (self.orders.subscribe(), self.sender.clone());
        let started = ChildProcess::start(command, who, log_file, orders, events).await;
        let started = started.map_err(|error| RunError::failed(format!("{who}: {error}")))?;
        self.children.retain(|child| child.who != who); // an earlier life of it
        self.children.push(started);
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

    pub(super) fn not_started(
        &self,
        who: ProcessName,
        status: &std::io::Result<std::process::ExitStatus>,
    ) -> RunError {
        let child = self.child(who);
        let log: String = child.last_lines().iter().map(|line| format!("\n  {line}")).collect();
        let status = status_text(status);
        RunError::failed(format!("{who} did not start: {status}; the end of its log:{log}"))
    }

    pub(super) fn child(&self, who: ProcessName) -> &ChildProcess {
        let is_it = |child: &&ChildProcess| child.who == who;
        self.children.iter().find(is_it).expect("events come from children")
    }

    /// Writes the description of the network.
    pub(super) fn announce(&self, folder: &Folder) -> Result<NetworkFile, RunError> {
        let described = self.describe(folder)?;
        folder.announce(&described)?;
        Ok(described)
    }

    fn describe(&self, folder: &Folder) -> Result<NetworkFile, RunError> {
        let records = folder.known_nodes()?;
        let node = |ports: &DevPorts| -> Result<NetworkNode, RunError> {
            let record = records.iter().find(|record| record.node_id.0 == ports.node_id);
            let record = record.ok_or_else(|| folder::unknown(ports.node_id))?;
            Ok(NetworkNode {
                node_id: ports.node_id,
                grpc: ports.api().to_string(),
                quic: ports.api().to_string(),
                metrics: ports.metrics().to_string(),
                address: record.signer.clone(),
                public_key: record.signing_public_key.clone(),
                data_dir: folder.node(ports.node_id).data_dir,
                pid: self.child(ProcessName::Node(ports.node_id)).pid,
            })
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
            nodes: self.ports.iter().map(node).collect::<Result<_, RunError>>()?,
            payer_key_file: folder.payer_key(),
            gateway,
            app_chain: Some(chain(devnet::APP_ID, self.shared.app())),
            settlement_chain: Some(chain(devnet::SETTLEMENT_ID, self.shared.settlement())),
            contracts: contracts.to_json(),
        })
    }

    /// Returns the rates on the settlement chain, by which the nodes charge. Auditors of the folder need them.
    pub(super) async fn rates(&self, folder: &Folder) -> Result<Vec<RateRecord>, RunError> {
        let url = format!("http://{}", self.shared.settlement());
        let network = admin::Network {
            settlement: reach(&[url], devnet::SETTLEMENT_ID, ChainRole::Settlement).await?,
            app: None,
            app_id: devnet::APP_ID,
            contracts: (&Addresses::read(&folder.chain_json()).map_err(RunError::failed)?).into(),
        };
        Ok(rates::list(&network).await?.iter().map(RateRecord::of).collect())
    }

    pub(super) fn running_nodes(&self) -> usize {
        self.running.iter().filter(|who| who.node_id().is_some()).count()
    }

    /// Reports an event.
    pub(super) fn note(&mut self, event: ProcessEvent) {
        match event {
            ProcessEvent::LogLine { who, line } => report::log_line(self.reporter, who, &line),
            ProcessEvent::Ended { who, status } => {
                self.running.retain(|running| *running != who);
                let left = self.running_nodes();
                report::lost(self.reporter, self.child(who), &status_text(&status), left);
            }
        }
    }

    /// Stops all running processes: first the gateway, then the nodes, then the chains that they read. The second
    /// signal kills the remaining ones.
    pub(super) async fn stop(&mut self, ends: &mut StopSignals) -> Result<(), RunError> {
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

pub(super) async fn until_ready(
    who: ProcessName,
    metrics: SocketAddr,
    purpose: &str,
    reporter: Reporter,
) {
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

pub(super) fn status_text(status: &std::io::Result<std::process::ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("its status is not known: {error}"),
    }
}
