//! A process of the network: its start, its log and its end.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hawser_devchain::devnet;
use parking_lot::Mutex;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncSeekExt as _, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::folder::{Folder, NETWORK};
use super::ports::{DevPorts, SharedPorts};

/// Time after which a process that does not end is killed: more than a node's own limit of 30 s.
const STOP_MAX: Duration = Duration::from_secs(35);
/// Time between two reads of a log. A guess.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Lines of the log that are shown when a process does not start. A guess.
const LAST_LINES: usize = 20;

/// A process of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProcessName {
    /// The gateway.
    Gateway,
    /// The node of this id.
    Node(u32),
    /// The process of both chains.
    Chains,
}

impl ProcessName {
    /// Returns the id of a node; `None` for other processes.
    pub(super) fn node_id(self) -> Option<u32> {
        match self {
            Self::Gateway | Self::Chains => None,
            Self::Node(node_id) => Some(node_id),
        }
    }

    /// Returns the stage of stopping: a process stops before those that it needs.
    fn stage(self) -> StopStage {
        match self {
            Self::Gateway => StopStage::Gateway,
            Self::Node(_) => StopStage::Nodes,
            Self::Chains => StopStage::Chains,
        }
    }

    /// Returns true if it stops in this stage.
    pub(super) fn ends_in(self, stage: StopStage) -> bool {
        self.stage() == stage
    }
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway => f.write_str("gateway"),
            Self::Chains => f.write_str("chains"),
            Self::Node(node_id) => write!(f, "node {node_id}"),
        }
    }
}

/// Program and arguments of a process.
#[derive(Debug, Clone)]
pub(super) struct CommandLine {
    program: PathBuf,
    args: Vec<String>,
    /// The process is a node that has no strand yet. Not part of the line as it is shown: a node that is
    /// started again by hand has one.
    is_new_node: bool,
}

/// An event of a process.
#[derive(Debug)]
pub(super) enum ProcessEvent {
    /// A line of its log that the user should see.
    LogLine { who: ProcessName, line: String },
    /// Its process has ended.
    Ended { who: ProcessName, status: io::Result<ExitStatus> },
}

/// An order to all processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProcessOrder {
    Run,
    /// Stop the processes of this stage and of the stages before it.
    Stop(StopStage),
    Kill,
}

/// The order in which a network is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StopStage {
    Gateway,
    Nodes,
    Chains,
}

impl StopStage {
    pub(super) const ALL: [Self; 3] = [Self::Gateway, Self::Nodes, Self::Chains];
}

impl ProcessOrder {
    fn ends(self, who: ProcessName) -> bool {
        match self {
            Self::Run => false,
            Self::Stop(stage) => who.stage() <= stage,
            Self::Kill => true,
        }
    }

    fn is_kill(&self) -> bool {
        *self == Self::Kill
    }
}

/// Source of registry, rates and chain strands for the nodes.
#[derive(Debug, Clone)]
pub(super) enum NetworkSource {
    /// Both chains.
    Chains,
    /// Registry and rates in the folder, and this file instead of the app chain.
    Files(PathBuf),
}

/// A running process. It is killed when the program ends without stopping it.
#[derive(Debug)]
pub(super) struct ChildProcess {
    pub(super) who: ProcessName,
    pub(super) pid: u32,
    pub(super) command: CommandLine,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    /// The order to this process alone.
    order: watch::Sender<ProcessOrder>,
}

impl CommandLine {
    fn new(program: &Path, command: &[&str]) -> Self {
        let args = command.iter().map(|word| (*word).to_owned()).collect();
        Self { program: program.to_owned(), args, is_new_node: false }
    }

    fn add(&mut self, flag: &str, value: impl fmt::Display) {
        self.args.extend([format!("--{flag}"), value.to_string()]);
    }

    fn add_path(&mut self, flag: &str, path: &Path) {
        self.add(flag, path.display());
    }

    /// Lets tools such as `grpcurl` ask for the schema. A port of this network is on the loopback interface.
    fn add_reflection(&mut self) {
        self.args.push("--reflection.enable".to_owned());
    }

    fn add_chains(&mut self, folder: &Folder, shared: SharedPorts) {
        self.add_path("contracts.config-file-path", &folder.chain_json());
        let chains = [("app-chain", shared.app()), ("settlement-chain", shared.settlement())];
        for (chain, address) in chains {
            self.add(&format!("contracts.{chain}.rpc-url"), format!("http://{address}"));
        }
        self.add("contracts.settlement-chain.wss-url", format!("ws://{}", shared.settlement()));
        // Contract wallets of the network's users are on one of these chains.
        let wallets =
            [(devnet::APP_ID, shared.app()), (devnet::SETTLEMENT_ID, shared.settlement())];
        let wallets = wallets.map(|(chain, address)| format!("{chain}=http://{address}"));
        self.add("wallet-rpc", wallets.join(","));
        self.add("wallet-chains", format!("{},{}", devnet::APP_ID, devnet::SETTLEMENT_ID));
    }

    /// `hawser node …` for one node of the network.
    pub(super) fn of_node(
        program: &Path,
        folder: &Folder,
        ports: DevPorts,
        shared: SharedPorts,
        source: &NetworkSource,
    ) -> Self {
        let node = folder.node(ports.node_id);
        let mut line = Self::new(program, &["node"]);
        line.add("network", NETWORK);
        line.add_path("data-dir", &node.data_dir);
        line.add_path("state-dir", &node.state_dir);
        line.is_new_node = folder.is_new(ports.node_id);
        line.add_path("signer.private-key-file", &node.key_file);
        match source {
            NetworkSource::Chains => {
                line.add_chains(folder, shared);
                // A gateway reads no events.
                line.add("contracts.app-chain.wss-url", format!("ws://{}", shared.app()));
            }
            NetworkSource::Files(chain_file) => {
                line.add_path("registry-file", &folder.registry());
                line.add_path("rates-file", &folder.rates());
                line.add_path("chain-file", chain_file);
            }
        }
        line.add("listen-address", ports.api().ip());
        line.add("api.port", ports.api().port());
        line.add("metrics.metrics-address", ports.metrics().ip());
        line.add("metrics.metrics-port", ports.metrics().port());
        // The examples of all calls (`docs/api`) work here.
        line.args.push("--validation-api".to_owned());
        line.add_reflection();
        // No load balancer has to notice that a node stops.
        line.add("shutdown-drain", "0s");
        line
    }

    /// `hawser gateway …` for the gateway of the network.
    pub(super) fn of_gateway(program: &Path, folder: &Folder, shared: SharedPorts) -> Self {
        let mut line = Self::new(program, &["gateway"]);
        line.add_path("payer.key-file", &folder.payer_key());
        line.add_path("nonce-record", &folder.gateway().join("nonces"));
        line.add_path("policies-file", &folder.gateway_policies());
        line.args.push("--allow-private-nodes".to_owned());
        line.add_reflection();
        line.add_chains(folder, shared);
        line.add("listen-address", shared.gateway().ip());
        line.add("api.port", shared.gateway().port());
        line.add("metrics.metrics-address", shared.gateway_metrics().ip());
        line.add("metrics.metrics-port", shared.gateway_metrics().port());
        line
    }

    /// `hawser chain dev …` for the chains of the network.
    pub(super) fn of_chains(
        program: &Path,
        folder: &Folder,
        shared: SharedPorts,
        kind: &ChainKind,
    ) -> Self {
        let mut line = Self::new(program, &["chain", "dev"]);
        line.add("base-port", shared.base());
        line.add_path("data-dir", &folder.chains());
        line.add_path("chain-json", &folder.chain_json());
        line.add_path("register-nodes", &folder.registry());
        line.add("fund-payer", &kind.payer);
        if let Some(block_time) = kind.block_time {
            line.add("block-time", format!("{}s", block_time.as_secs()));
        }
        if let Some(anvil) = &kind.anvil {
            line.args.push(format!("--anvil={}", anvil.display()));
        }
        line
    }
}

/// Settings of the chains of a network.
#[derive(Debug, Clone)]
pub(super) struct ChainKind {
    /// Time between two blocks.
    pub(super) block_time: Option<Duration>,
    /// The program that runs them, if it is not this one.
    pub(super) anvil: Option<PathBuf>,
    /// Address of the account that is funded for publishing.
    pub(super) payer: String,
}

/// Returns the command as it can be typed into a shell.
impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", quoted(&self.program.display().to_string()))?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

impl ChildProcess {
    /// Starts the process. It watches a pipe to this process, so that it ends when this one ends, even by a kill.
    ///
    /// # Errors
    /// When the system starts no process, or the log cannot be written.
    pub(super) async fn start(
        command: CommandLine,
        who: ProcessName,
        log_file: &Path,
        orders: watch::Receiver<ProcessOrder>,
        events: mpsc::Sender<ProcessEvent>,
    ) -> io::Result<Self> {
        // The process writes its log itself, so that it does not depend on a reader.
        let log = std::fs::File::options().create(true).append(true).open(log_file)?;
        let mut reader = File::open(log_file).await?;
        reader.seek(SeekFrom::End(0)).await?;
        let mut process = Command::new(&command.program);
        process
            .args(&command.args)
            .arg("--exit-with-parent")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // A group of its own: Ctrl-C in the terminal is ours to pass on.
            .process_group(0)
            .kill_on_drop(true);
        without_settings(&mut process);
        if command.is_new_node {
            process.env("HAWSER_NEW_STRAND", "true");
        }
        let mut process = process.spawn()?;
        let pid = process.id().unwrap_or_default();
        let input = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let follower = LogFollower {
            who,
            reader: BufReader::new(reader),
            line: Vec::new(),
            last_lines: Arc::default(),
            events: events.clone(),
        };
        let last_lines = follower.last_lines.clone();
        let (order, own_orders) = watch::channel(ProcessOrder::Run);
        let (ended, has_ended) = oneshot::channel();
        let followed = tokio::spawn(follower.follow(has_ended));
        tokio::spawn(async move {
            let status = keep(who, process, input, [orders, own_orders]).await;
            // The last lines of the log come before the event of the end.
            drop(ended);
            let _ = followed.await;
            let _ = events.send(ProcessEvent::Ended { who, status }).await;
        });
        Ok(Self { who, pid, command, last_lines, order })
    }

    /// Stops this process in order.
    pub(super) fn stop(&self) {
        self.order.send_replace(ProcessOrder::Stop(self.who.stage()));
    }

    /// Kills this process.
    pub(super) fn kill(&self) {
        self.order.send_replace(ProcessOrder::Kill);
    }

    /// Returns the last lines of its log.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let lines = self.last_lines.lock();
        lines.iter().cloned().collect()
    }
}

/// Removes settings from the environment of a process, because they are meant for a node that is run by hand. The log
/// level stays.
fn without_settings(process: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let setting = text.starts_with("XMTPD_") || text.starts_with("HAWSER_");
        if setting && text != "XMTPD_LOG_LEVEL" {
            process.env_remove(&name);
        }
    }
}

/// Waits until the process has ended, by itself or by an order to all processes or to this one.
async fn keep(
    who: ProcessName,
    mut process: tokio::process::Child,
    input: ChildStdin,
    [mut all, mut own]: [watch::Receiver<ProcessOrder>; 2],
) -> io::Result<ExitStatus> {
    tokio::select! {
        status = process.wait() => return status,
        _ = all.wait_for(|order| order.ends(who)) => {}
        _ = own.wait_for(|order| order.ends(who)) => {}
    }
    if !all.borrow().is_kill() && !own.borrow().is_kill() {
        drop(input); // the process takes the end of its input for a signal
        tokio::select! {
            status = timeout(STOP_MAX, process.wait()) => {
                if let Ok(status) = status {
                    return status;
                }
            }
            _ = all.wait_for(ProcessOrder::is_kill) => {}
            _ = own.wait_for(ProcessOrder::is_kill) => {}
        }
    }
    process.kill().await?;
    process.wait().await
}

/// Reads the log of a process as it grows, and passes on the lines that the user should see.
struct LogFollower {
    who: ProcessName,
    reader: BufReader<File>,
    /// The incomplete last line.
    line: Vec<u8>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    events: mpsc::Sender<ProcessEvent>,
}

impl LogFollower {
    /// Follows the log to its end at the time when `has_ended` closes.
    async fn follow(mut self, mut has_ended: oneshot::Receiver<()>) {
        let mut last_look = false;
        loop {
            while let Ok(len) = self.reader.read_until(b'\n', &mut self.line).await
                && len > 0
            {
                if self.line.ends_with(b"\n") {
                    self.take_line().await;
                }
            }
            if last_look {
                return;
            }
            tokio::select! {
                _ = &mut has_ended => last_look = true,
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn take_line(&mut self) {
        let text = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        self.line.clear();
        if is_important(&text) {
            let event = ProcessEvent::LogLine { who: self.who, line: text.clone() };
            let _ = self.events.send(event).await;
        }
        let mut lines = self.last_lines.lock();
        lines.push_back(text);
        if lines.len() > LAST_LINES {
            lines.pop_front();
        }
    }
}

/// Returns true for warnings, errors, and lines in no known form.
fn is_important(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let Some(first) = words.next() else { return false };
    let is_log_line = first.starts_with(|c: char| c.is_ascii_digit()) && first.contains('T');
    !is_log_line || matches!(words.next(), Some("WARN" | "ERROR"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_typed_into_a_shell() {
        let command = CommandLine {
            program: "/opt/my tools/hawser".into(),
            args: vec!["node".into(), "--data-dir".into(), "it's".into(), String::new()],
            is_new_node: false,
        };
        assert_eq!(command.to_string(), r"'/opt/my tools/hawser' node --data-dir 'it'\''s' ''");
    }

    #[test]
    fn warnings_and_strange_lines_are_for_people() {
        assert!(is_important("2025-06-15T15:06:41.000000000Z  WARN hawser_net: lost"));
        assert!(is_important("2025-06-15T15:06:41.000000000Z ERROR hawser_net: lost"));
        assert!(!is_important("2025-06-15T15:06:41.000000000Z  INFO hawser_net: found"));
        assert!(is_important("hawser: no"));
        assert!(!is_important(""));
    }
}
