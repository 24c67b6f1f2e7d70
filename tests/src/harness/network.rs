//! Nodes that know one another: their keys, folders, ports and files, and the running processes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use hawser_proto::{Cursor, OriginatorId, SecretKey};
use hawser_storage::UnknownFolder;
use tempfile::TempDir;

use super::balancer::{Balancer, BalancerTls};
use super::binary::hawser;
use super::client::Client;
use super::clock::WallClock;
use super::disk::DiskFaults;
use super::files::{self, Record};
use super::namespaces::{Host, Hosts};
use super::ports;
use super::power::SyncLog;
use super::process::Process;
use super::udp::Cable;
use super::{open_files, raw, wait};

/// The name of the network that all databases belong to.
pub const NAME: &str = "test";

/// A network of nodes with ids 100, 200, 300, … The nodes do not run until they are started.
#[derive(Debug)]
pub struct Network {
    /// The nodes, by id.
    pub nodes: Vec<Node>,
    /// `cables[a][b]` is what node `a` dials to reach the QUIC port of node `b`.
    cables: Vec<Vec<Option<Cable>>>,
    /// Nodes of other software.
    others: Vec<Record>,
    /// Balancers in front of the APIs, which all registries name in place of the nodes.
    balancers: Vec<Balancer>,
    _folder: TempDir,
}

/// One node: its settings, and its process while it runs.
#[derive(Debug)]
pub struct Node {
    /// Its id.
    pub id: OriginatorId,
    /// Its key.
    pub key: SecretKey,
    /// Port of its API and of QUIC.
    pub port: u16,
    /// Port of metrics and readiness.
    pub metrics_port: u16,
    /// Further arguments, from the next start on.
    pub arguments: Vec<String>,
    /// Records its syncs, from the next start on.
    pub sync_log: Option<SyncLog>,
    /// Its host, where that is not this machine.
    pub host: Option<Host>,
    /// Its wall clock, where that is not the machine's, from the next start on.
    pub clock: Option<WallClock>,
    /// Faults of its disk, from the next start on.
    pub disk_faults: Option<DiskFaults>,
    /// The injected fault of `hawser_storage::faults`, from the next start on. Programs that
    /// are built without the feature `faults` ignore it.
    pub fault: Option<String>,
    /// The files that the process may have open, from the next start on; `None` as the test's own.
    pub open_files: Option<u64>,
    /// A file of authorities that it trusts beside the public ones, from the next start on.
    pub authorities: Option<PathBuf>,
    /// True if the next start is the first one, which the operator confirms by an argument.
    pub is_new: bool,
    canonical: bool,
    folder: PathBuf,
    process: Option<Process>,
}

/// Returns the key of the node with this id, the same in every network.
///
/// # Panics
/// Never: each id gives a valid key.
#[must_use]
pub fn node_key(id: OriginatorId) -> SecretKey {
    let mut scalar = [0x11; 32];
    scalar[..4].copy_from_slice(&id.0.to_be_bytes());
    SecretKey::from_bytes(&scalar).unwrap()
}

impl Network {
    /// Creates nodes that reach each other directly.
    #[must_use]
    pub fn new(count: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nodes = (1..=count).map(|number| Node::new(number, folder.path())).collect();
        let network = Self {
            nodes,
            cables: Vec::new(),
            others: Vec::new(),
            balancers: Vec::new(),
            _folder: folder,
        };
        network.write_registries();
        network
    }

    /// Creates nodes that are registered at balancers, which forward TCP and not UDP. With `tls` the balancers
    /// terminate TLS, and the nodes trust their authority.
    pub async fn behind_balancers(count: u32, tls: Option<&BalancerTls>) -> Self {
        let mut network = Self::new(count);
        for node in &mut network.nodes {
            let target = SocketAddr::from((Ipv4Addr::LOCALHOST, node.port));
            network.balancers.push(Balancer::to(target, tls).await);
            node.authorities = tls.map(|tls| {
                let file = node.folder.join("authorities.pem");
                std::fs::write(&file, &tls.authority).unwrap();
                file
            });
        }
        network.write_registries();
        network
    }

    /// Creates nodes behind balancers, and one cable to each node that carries QUIC's datagrams from the host and port
    /// of its registered URL. The cables are cut at first.
    pub async fn behind_balancers_beside_cables(count: u32) -> (Self, Vec<Cable>) {
        let mut network = Self::behind_balancers(count, None).await;
        let mut cables = Vec::new();
        for (node, balancer) in network.nodes.iter().zip(&mut network.balancers) {
            let target = SocketAddr::from((Ipv4Addr::LOCALHOST, node.port));
            let cable = loop {
                let front = balancer.url().trim_start_matches("http://").parse().unwrap();
                match Cable::from(front, target).await {
                    Some(cable) => break cable,
                    // Another program has the port for its datagrams.
                    None => *balancer = Balancer::to(target, None).await,
                }
            };
            cable.cut();
            cables.push(cable);
        }
        network.write_registries();
        (network, cables)
    }

    /// Creates nodes on separate hosts with separate clocks.
    #[must_use]
    pub fn on_hosts(hosts: &Hosts) -> Self {
        let mut network = Self::new(u32::try_from(hosts.all().len()).unwrap());
        for (node, host) in network.nodes.iter_mut().zip(hosts.all()) {
            node.host = Some(*host);
            node.clock = Some(WallClock::new(node.folder.join("clock")));
        }
        network.write_registries();
        network
    }

    /// Adds a node of other software to every registry.
    pub fn register(&mut self, record: Record) {
        self.others.push(record);
        self.write_registries();
    }

    /// Replaces the record of a node of other software.
    pub fn replace(&mut self, record: Record) {
        self.others.retain(|other| other.id != record.id);
        self.register(record);
    }

    /// Returns a replica that has the registry of the first node, and is not running. It follows `urls`, or all
    /// nodes without any. `name` is its folder.
    #[must_use]
    pub fn replica(&self, name: &str, urls: &[String]) -> Node {
        let mut replica = Node::of(OriginatorId::REPLICA, self._folder.path().join(name));
        let registry = self.nodes[0].folder.join("registry.json");
        std::fs::copy(registry, replica.folder.join("registry.json")).unwrap();
        if !urls.is_empty() {
            replica.arguments = vec!["--follow".to_owned(), urls.join(",")];
        }
        replica
    }

    /// Adds arguments to every node, from the next start on.
    pub fn add_arguments(&mut self, arguments: &[&str]) {
        for node in &mut self.nodes {
            node.arguments.extend(arguments.iter().map(|&it| it.to_owned()));
        }
    }

    /// Changes whether a node belongs to the network, in every registry.
    pub fn set_canonical(&mut self, node: usize, canonical: bool) {
        self.nodes[node].canonical = canonical;
        self.write_registries();
    }

    /// Creates nodes that reach each other over QUIC only, through cables that can be cut.
    pub async fn with_cables(count: u32) -> Self {
        let mut network = Self::with_cables_for_quic(count).await;
        network.add_arguments(&["--peer-transport", "quic"]);
        network
    }

    /// Creates nodes whose QUIC connections go through cables that can be cut. Calls of the API go directly.
    pub async fn with_cables_for_quic(count: u32) -> Self {
        let mut network = Self::new(count);
        for from in 0..network.nodes.len() {
            let mut cables = Vec::new();
            for (to, node) in network.nodes.iter().enumerate() {
                let target = SocketAddr::from((Ipv4Addr::LOCALHOST, node.port));
                cables.push(if from == to { None } else { Some(Cable::to(target).await) });
            }
            network.cables.push(cables);
        }
        network.write_registries();
        network
    }

    /// Writes one registry for each node, since each node dials other ends of cables.
    fn write_registries(&self) {
        for (from, node) in self.nodes.iter().enumerate() {
            let quic_address = |to: usize| {
                let cable = self.cables.get(from)?.get(to)?.as_ref()?;
                Some(cable.address().to_string())
            };
            let records: Vec<Record> = self
                .nodes
                .iter()
                .enumerate()
                .map(|(to, node)| Record {
                    id: node.id,
                    key: node.key.public_key(),
                    http_address: match self.balancers.get(to) {
                        Some(balancer) => balancer.url().to_owned(),
                        None => format!("http://{}", node.at(node.port)),
                    },
                    quic_address: quic_address(to),
                    canonical: node.canonical,
                })
                .chain(self.others.iter().cloned())
                .collect();
            files::write_registry(&node.folder.join("registry.json"), &records);
        }
    }

    /// Starts nodes and waits until all of them are ready.
    pub async fn start(count: u32) -> Self {
        let mut network = Self::new(count);
        network.start_all().await;
        network
    }

    /// Starts every node that is not running and waits until all are ready. Beside nodes of other software, which may
    /// not answer, the operator says that the keys are new.
    pub async fn start_all(&mut self) {
        if !self.others.is_empty() {
            return self.start_by_word().await;
        }
        self.nodes.iter_mut().filter(|node| node.process.is_none()).for_each(Node::start);
        for node in &mut self.nodes {
            node.ready().await;
        }
    }

    /// Starts every node that is not running and waits until all are ready. The operator says that the keys are new,
    /// because too few nodes can answer.
    pub async fn start_by_word(&mut self) {
        self.nodes.iter_mut().filter(|node| node.process.is_none()).for_each(Node::start);
        for node in &mut self.nodes {
            node.ready_by_word().await;
        }
    }

    /// Iterates over the cables between two nodes, in both directions.
    fn between(&self, a: usize, b: usize) -> impl Iterator<Item = &Cable> {
        [&self.cables[a][b], &self.cables[b][a]].into_iter().flatten()
    }

    /// Cuts the cables between two nodes.
    pub fn cut(&self, a: usize, b: usize) {
        self.between(a, b).for_each(Cable::cut);
    }

    /// Mends the cables between two nodes.
    pub fn mend(&self, a: usize, b: usize) {
        self.between(a, b).for_each(Cable::mend);
    }

    /// Returns the count of datagrams that have passed the cables between two nodes.
    #[must_use]
    pub fn passed(&self, a: usize, b: usize) -> u64 {
        self.between(a, b).map(Cable::passed).sum()
    }

    /// Returns the ids of all nodes.
    #[must_use]
    pub fn ids(&self) -> Vec<OriginatorId> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// Waits until every node has reached the highest present head of each strand.
    ///
    /// # Panics
    /// Panics if the nodes do not converge in time.
    pub async fn converged(&self) {
        let mut furthest = Cursor::new();
        for node in &self.nodes {
            furthest.merge(&node.client().cursor().await.unwrap());
        }
        for node in &self.nodes {
            let client = node.client();
            wait::until_equal(&format!("node {} to converge", node.id), &furthest, async || {
                client.cursor().await.ok()
            })
            .await;
        }
    }
}

impl Node {
    fn new(number: u32, folder: &Path) -> Self {
        let id = OriginatorId(number * 100);
        Self::of(id, folder.join(id.to_string()))
    }

    fn of(id: OriginatorId, folder: PathBuf) -> Self {
        std::fs::create_dir(&folder).unwrap();
        let key = node_key(id);
        files::write_key(&folder.join("node.key"), &key);
        files::write_rates(&folder.join("rates.json"), &[(0, 200)]);
        Self {
            id,
            key,
            port: ports::free(),
            metrics_port: ports::free(),
            arguments: Vec::new(),
            sync_log: None,
            host: None,
            clock: None,
            disk_faults: None,
            fault: None,
            open_files: None,
            authorities: None,
            is_new: true,
            canonical: true,
            folder,
            process: None,
        }
    }

    /// Returns the folder of its database.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Returns the folder of the node's state outside of its database.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Returns a folder for the test's own files about this node.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the rates: pairs of a start time in unix seconds and a price in picodollars for a byte and day.
    pub fn write_rates(&self, rates: &[(u64, u64)]) {
        files::write_rates(&self.folder.join("rates.json"), rates);
    }

    /// Returns the address of one of its ports.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.host.map_or(Ipv4Addr::LOCALHOST, Host::address), port).into()
    }

    /// Returns the command line of its process.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(hawser());
        if self.id == OriginatorId::REPLICA {
            // It has no record by which its network would be a private one.
            command.args(["audit", "watch", "--allow-private-nodes"]);
        } else {
            command.arg("node").arg("--signer.private-key-file").arg(self.folder.join("node.key"));
        }
        command
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--state-dir")
            .arg(self.state_dir())
            .args(["--network", NAME])
            .arg("--registry-file")
            .arg(self.folder.join("registry.json"))
            .arg("--rates-file")
            .arg(self.folder.join("rates.json"))
            .args(["--listen-address", &self.at(0).ip().to_string()])
            .args(["--api.port", &self.port.to_string()])
            .args(["--metrics.metrics-port", &self.metrics_port.to_string()])
            .args(["--shutdown-drain", "0s"])
            .args(&self.arguments);
        if let Some(host) = self.host {
            command.args(["--metrics.metrics-address", &host.address().to_string()]);
        }
        forget_settings(&mut command);
        if let Some(authorities) = &self.authorities {
            command.env("SSL_CERT_FILE", authorities);
        }
        command
    }

    /// Starts the process without waiting for it.
    pub fn start(&mut self) {
        let mut command = self.command();
        if self.is_new && self.id != OriginatorId::REPLICA {
            command.env("HAWSER_NEW_STRAND", "true");
            self.is_new = false;
        }
        if let Some(log) = &self.sync_log {
            log.watch(&mut command);
        }
        if let Some(faults) = &self.disk_faults {
            faults.arm(&mut command);
        }
        if let Some(fault) = &self.fault {
            command.env("HAWSER_FAULT", fault);
        }
        if let Some(files) = self.open_files {
            open_files::limit_at_start(&mut command, files);
        }
        if let Some(clock) = &self.clock {
            clock.arm(&mut command);
        }
        if let Some(host) = self.host {
            command = host.command(&command);
        }
        let name = format!("node {}", self.id);
        self.process = Some(Process::start(&name, command, &self.folder.join("output")));
    }

    /// Waits until the node accepts publishes.
    ///
    /// # Panics
    /// Panics if the process ends, or is not ready in time.
    pub async fn ready(&mut self) {
        self.ready_for("publish").await;
    }

    /// Waits until the node accepts publishes for the first time. If too few other nodes run to say that its key is
    /// new, its operator says so.
    ///
    /// # Panics
    /// Panics if the process ends, is not ready in time, or asks its operator anything else.
    pub async fn ready_by_word(&mut self) {
        let (id, address, state_dir) = (self.id, self.at(self.metrics_port), self.state_dir());
        let process = self.process.as_mut().expect("the node was started");
        wait::until(&format!("node {id} is ready to publish"), async || {
            if let Some(status) = process.ended() {
                panic!("node {id} has ended: {status}");
            }
            let answer = raw::get_from(address, "/readyz?for=publish").await;
            if answer.is_ok_and(|(status, _)| status == 200) {
                return Some(());
            }
            let mut confirm = Command::new(hawser());
            confirm.args(["restore", "confirm", "--complete", "--yes", "--state-dir"]);
            // Without a question, the command fails and prints none: the node has not asked yet, or has its answer.
            let shown = confirm.arg(&state_dir).output().expect("the program can be run").stdout;
            let shown = String::from_utf8_lossy(&shown);
            let expected = UnknownFolder::Unanswered.explanation();
            assert!(shown.is_empty() || shown.contains(expected), "node {id} asks: {shown}");
            None
        })
        .await;
    }

    /// Waits until the node answers queries.
    ///
    /// # Panics
    /// Panics if the process ends, or is not ready in time.
    pub async fn readable(&mut self) {
        self.ready_for("read").await;
    }

    async fn ready_for(&mut self, purpose: &str) {
        let (id, address) = (self.id, self.at(self.metrics_port));
        let process = self.process.as_mut().expect("the node was started");
        wait::until(&format!("node {id} is ready to {purpose}"), async || {
            if let Some(status) = process.ended() {
                panic!("node {id} has ended: {status}");
            }
            let answer = raw::get_from(address, &format!("/readyz?for={purpose}")).await;
            answer.is_ok_and(|(status, _)| status == 200).then_some(())
        })
        .await;
    }

    /// Returns the running process.
    ///
    /// # Panics
    /// Panics if the node is not running.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the node is running")
    }

    /// Kills the process, as a crash does.
    pub fn kill(&mut self) {
        self.process().kill();
        self.process = None;
    }

    /// Asks the process to end and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        let status = self.process().terminate();
        self.process = None;
        status
    }

    /// Returns a new connection to the node.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::at(self.at(self.port))
    }

    /// Returns the current lines of the metrics page, without comments.
    ///
    /// # Panics
    /// Panics if the node does not answer.
    pub async fn metrics(&self) -> Metrics {
        let (status, text) = raw::get_from(self.at(self.metrics_port), "/metrics").await.unwrap();
        assert_eq!(status, 200, "{text}");
        Metrics(text)
    }
}

/// Removes the settings of nodes from a command's environment, so that the environment of the test does not change the
/// nodes.
pub fn forget_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let ours = name
            .to_str()
            .is_some_and(|name| name.starts_with("HAWSER_") || name.starts_with("XMTPD_"));
        if ours {
            command.env_remove(name);
        }
    }
}

/// A metrics page.
#[derive(Debug, Clone)]
pub struct Metrics(String);

impl Metrics {
    /// Returns the sum over all samples of a metric whose labels contain each of `labels`, for example
    /// `code="invalid_argument"`; 0 without a sample.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            let matches = found == name && labels.iter().all(|label| rest.contains(label));
            if matches { value.parse::<f64>().ok() } else { None }
        };
        self.0.lines().filter(|line| !line.starts_with('#')).filter_map(sample).sum()
    }

    /// Returns the text of the page.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}
