//! Real nodes, each a process of its own, with a registry and rates made for the run.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use hawser_proto::pb::xmtp::xmtpv4::metadata_api as metadata;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SecretKey};
use hawser_rules::{NodeRecord, PicoDollarPrice, PicoDollarsPerByteDay, Rate, Registry};
use hawser_storage::UnknownFolder;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::child::Process;
use crate::error::BenchError;
use crate::process::Memory;
use crate::rpc::Connection;
use crate::{http, process, rpc};

/// Upper bound on the time until a node accepts publishes; a node with a large log reads it back first.
const START_MAX: Duration = Duration::from_secs(120);
/// The page that shows if a node accepts publishes.
const PUBLISHES: &str = "/readyz?for=publish";
/// Upper bound on the time until a node shows an acknowledged envelope.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// The price of all envelopes. The congestion target is above the rate of any run, because congestion is not measured.
pub(crate) const RATE: Rate = Rate {
    start_unix_s: 0,
    message_fee: PicoDollarPrice(100),
    storage_fee: PicoDollarsPerByteDay(200),
    congestion_fee: PicoDollarPrice(300),
    target_rate_per_minute: 2_000_000_000,
};

/// The files of a network. A temporary folder is removed on drop, so drop the nodes first.
pub(crate) struct Network {
    folder: Folder,
    hawser: PathBuf,
    members: Vec<Member>,
}

/// The folder of a network.
enum Folder {
    /// Removed on drop.
    Temporary(TempDir),
    /// Stays for later runs.
    Kept(PathBuf),
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(folder) => folder,
        }
    }
}

/// One record of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Member {
    id: OriginatorId,
    api: SocketAddr,
    metrics: SocketAddr,
}

/// A running node.
pub(crate) struct Node {
    process: Process,
    member: Member,
}

/// A running gateway.
pub(crate) struct Gateway {
    process: Process,
    api: SocketAddr,
}

impl Gateway {
    /// Returns the address of its API.
    pub(crate) fn api(&self) -> SocketAddr {
        self.api
    }

    /// Returns the CPU time of its process so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration, BenchError> {
        process::cpu_time(self.process.id())
    }
}

impl Network {
    /// Writes keys, registry and rates for `count` nodes into a new folder below `data_dir`. `hawser` is the program to
    /// start.
    pub(crate) fn new(hawser: &Path, data_dir: &Path, count: u32) -> Result<Self, BenchError> {
        let folder = tempfile::Builder::new().prefix("hawser-bench-").tempdir_in(data_dir)?;
        Self::with_folder(hawser, Folder::Temporary(folder), &Vec::from_iter(1..=count))
    }

    /// Writes them into a folder that is kept. Nodes that have run from it before continue with their data.
    pub(crate) fn kept(hawser: &Path, folder: &Path, count: u32) -> Result<Self, BenchError> {
        fs::create_dir_all(folder)?;
        Self::with_folder(hawser, Folder::Kept(folder.to_owned()), &Vec::from_iter(1..=count))
    }

    /// Writes them for the first node of a kept folder and for a follower, whose id is none of those that
    /// [`crate::seeded_history`] writes strands for.
    pub(crate) fn kept_with_follower(hawser: &Path, folder: &Path) -> Result<Self, BenchError> {
        Self::with_folder(hawser, Folder::Kept(folder.to_owned()), &[1, 3])
    }

    /// Returns the folder with all data of the nodes.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn with_folder(hawser: &Path, folder: Folder, numbers: &[u32]) -> Result<Self, BenchError> {
        let mut members = Vec::new();
        let mut records = Vec::new();
        for &number in numbers {
            let member = Member {
                id: OriginatorId(100 * number),
                api: free_address()?,
                metrics: free_address()?,
            };
            let key = node_key(member.id)?;
            write_secret(&folder.path().join(format!("{}.key", member.id.0)), &key)?;
            records.push(json!({
                "nodeId": member.id.0,
                "signer": key.public_key().address().to_string(),
                "isCanonical": true,
                "signingPublicKey": key.public_key().to_string(),
                "httpAddress": format!("http://{}", member.api),
            }));
            members.push(member);
        }
        let rates = json!({ "rates": [{
            "messageFee": RATE.message_fee.0,
            "storageFee": RATE.storage_fee.0,
            "congestionFee": RATE.congestion_fee.0,
            "targetRatePerMinute": RATE.target_rate_per_minute,
            "startTime": RATE.start_unix_s,
        }] });
        fs::write(folder.path().join("registry.json"), json!({ "nodes": records }).to_string())?;
        fs::write(folder.path().join("rates.json"), rates.to_string())?;
        Ok(Self { folder, hawser: hawser.to_owned(), members })
    }

    /// Returns the id of the `index`-th node.
    pub(crate) fn id(&self, index: usize) -> OriginatorId {
        self.members[index].id
    }

    /// Returns the address of the `index`-th node's API. QUIC has the same port.
    pub(crate) fn api(&self, index: usize) -> SocketAddr {
        self.members[index].api
    }

    /// Has the `from`-th node dial this address for QUIC to the `to`-th one, from its next start on.
    pub(crate) fn reroute(
        &self,
        from: usize,
        to: usize,
        address: SocketAddr,
    ) -> Result<(), BenchError> {
        let mut registry: Value = serde_json::from_slice(&fs::read(self.registry_file(from))?)?;
        registry["nodes"][to]["quicAddress"] = json!(address.to_string());
        Ok(fs::write(self.own_registry(from), registry.to_string())?)
    }

    /// Returns the file with the registry of the `index`-th node.
    fn registry_file(&self, index: usize) -> PathBuf {
        let own = self.own_registry(index);
        if own.exists() { own } else { self.folder.path().join("registry.json") }
    }

    /// Returns the file with the registry of the `index`-th node, if it dials other addresses than its peers.
    fn own_registry(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("{}.registry.json", self.members[index].id.0))
    }

    /// Returns the registry of all nodes.
    pub(crate) fn registry(&self) -> Result<Registry, BenchError> {
        let record = |member: &Member| {
            let key = node_key(member.id)?.public_key();
            Ok(NodeRecord {
                id: member.id,
                public_key: key,
                owner: key.address(),
                http_address: Some(format!("http://{}", member.api)),
                quic_address: None,
                canonical: true,
            })
        };
        self.members.iter().map(record).collect()
    }

    /// Starts the `index`-th node and waits until it accepts publishes.
    pub(crate) async fn start(&self, index: usize) -> Result<Node, BenchError> {
        self.start_with(index, &[], PUBLISHES).await
    }

    /// Starts the `index`-th node with further flags, and waits until it accepts publishes.
    pub(crate) async fn start_flagged(
        &self,
        index: usize,
        flags: &[String],
    ) -> Result<Node, BenchError> {
        self.start_with(index, flags, PUBLISHES).await
    }

    /// Returns the folder with the database of the `index`-th node.
    pub(crate) fn data_dir(&self, index: usize) -> PathBuf {
        node_data_dir(self.folder.path(), self.members[index].id)
    }

    /// Returns the folder with the state of the `index`-th node that its database does not hold.
    fn state_dir(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("{}.state", self.members[index].id.0))
    }

    /// Starts the `index`-th node with further flags, and waits until it answers queries.
    pub(crate) async fn start_reading(
        &self,
        index: usize,
        flags: &[String],
    ) -> Result<Node, BenchError> {
        self.start_with(index, flags, "/readyz").await
    }

    /// Starts the `index`-th node with further flags and an empty folder, and waits until its start is over. Removes
    /// what a run with the same kept folder has left of this node.
    pub(crate) async fn start_following(
        &self,
        index: usize,
        flags: &[String],
    ) -> Result<Node, BenchError> {
        self.remove_data(index)?;
        self.start_with(index, flags, "/startupz").await
    }

    /// Removes everything that the `index`-th node has stored. It does not run.
    pub(crate) fn remove_data(&self, index: usize) -> Result<(), BenchError> {
        for folder in [self.data_dir(index), self.state_dir(index)] {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    async fn start_with(
        &self,
        index: usize,
        flags: &[String],
        readiness: &str,
    ) -> Result<Node, BenchError> {
        let mut node = self.launch(index, flags)?;
        let (process, log) = (&mut node.process, self.log(index));
        if readiness == PUBLISHES {
            // The first node of a network has no peer yet that knows its key to be new.
            self.declare_new(process, index, &log).await?;
        }
        ready(process, node.member.metrics, readiness, &log).await?;
        accepts(process, node.member.api, &log).await?;
        Ok(node)
    }

    /// Starts the process of the `index`-th node with further flags. Waits for nothing, and answers no question of it.
    pub(crate) fn launch(&self, index: usize, flags: &[String]) -> Result<Node, BenchError> {
        let log = File::options().create(true).append(true).open(self.log(index))?;
        let mut command = self.command();
        command.args(["node", "--exit-with-parent"]);
        self.configure(&mut command, index, &self.data_dir(index));
        command.args(flags).stdout(Stdio::null()).stderr(log);
        Ok(Node { process: Process::start(&mut command)?, member: self.members[index] })
    }

    /// Returns the file with what the `index`-th node has logged.
    fn log(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("{}.log", self.members[index].id.0))
    }

    /// Waits until a node accepts publishes. Confirms as its operator that its key is new, if the node asks for that.
    /// Fails on any other question.
    async fn declare_new(
        &self,
        process: &mut Process,
        index: usize,
        log: &Path,
    ) -> Result<(), BenchError> {
        let member = self.members[index];
        let state_dir = self.state_dir(index);
        let until = Instant::now() + START_MAX;
        let mut confirming: Option<Child> = None;
        while !matches!(http::get(member.metrics, PUBLISHES).await, Ok((200, _))) {
            check_running(process, until, log)?;
            let mut child = match confirming.take() {
                Some(child) => child,
                None => self.confirmation(&state_dir).spawn()?,
            };
            match child.try_wait()? {
                None => confirming = Some(child),
                Some(_) => answered(&child.wait_with_output()?.stdout)?,
            }
            sleep(Duration::from_millis(20)).await;
        }
        // The command waits for a question, which a node of a known folder does not ask.
        if let Some(mut child) = confirming {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Returns the command by which an operator says that a node's key is new. It prints no question while the node
    /// does not ask.
    fn confirmation(&self, state_dir: &Path) -> Command {
        let mut command = self.command();
        command.args(["restore", "confirm", "--complete", "--yes", "--state-dir"]).arg(state_dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// Adds the settings of the `index`-th node, with its database in this folder.
    pub(crate) fn configure(&self, command: &mut Command, index: usize, data_dir: &Path) {
        let member = self.members[index];
        let at = |name: String| self.folder.path().join(name);
        command
            .args(["--network", "hawser-bench"])
            .args(["--log.log-level", "WARN", "--shutdown-drain", "0s"])
            .arg("--data-dir")
            .arg(data_dir)
            .arg("--signer.private-key-file")
            .arg(at(format!("{}.key", member.id.0)))
            .arg("--registry-file")
            .arg(self.registry_file(index))
            .arg("--rates-file")
            .arg(at("rates.json".to_owned()))
            .args(["--listen-address", &member.api.ip().to_string()])
            .args(["--api.port", &member.api.port().to_string()])
            .args(["--metrics.metrics-address", &member.metrics.ip().to_string()])
            .args(["--metrics.metrics-port", &member.metrics.port().to_string()])
            // As variables: a program of an earlier version, to compare with, passes over them.
            .env("HAWSER_STATE_DIR", self.state_dir(index))
            .env("HAWSER_NEW_STRAND", (!data_dir.exists()).to_string());
    }

    /// Starts a gateway to these nodes, without a chain, and waits until it is ready. All of them have one key, and
    /// share a Redis if one is named.
    pub(crate) async fn start_gateway(&self, redis: Option<&str>) -> Result<Gateway, BenchError> {
        let at = |name: &str| self.folder.path().join(name);
        let (api, metrics) = (free_address()?, free_address()?);
        let key = SecretKey::from_bytes(&blake3::derive_key("hawser-bench gateway", &[]))?;
        write_secret(&at("gateway.key"), &key)?;
        // The benchmark measures the gateway without its limits.
        std::fs::write(at("policies.toml"), "")?;
        let log = at("gateway.log");
        let mut command = self.command();
        command
            .args(["gateway", "--exit-with-parent", "--log.log-level", "WARN"])
            .args(["--shutdown-drain", "0s"])
            .arg("--payer.key-file")
            .arg(at("gateway.key"))
            .arg("--registry-file")
            .arg(at("registry.json"))
            .arg("--rates-file")
            .arg(at("rates.json"))
            .arg("--policies-file")
            .arg(at("policies.toml"))
            .args(["--listen-address", &api.ip().to_string()])
            .args(["--api.port", &api.port().to_string()])
            .args(["--metrics.metrics-address", &metrics.ip().to_string()])
            .args(["--metrics.metrics-port", &metrics.port().to_string()])
            .args(redis.map(|url| format!("--redis.redis-url={url}")))
            .env("HAWSER_ALLOW_PRIVATE_NODES", "true")
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&log)?);
        let mut process = Process::start(&mut command)?;
        ready(&mut process, metrics, "/readyz", &log).await?;
        Ok(Gateway { process, api })
    }

    /// The program, with nothing in its environment that it would heed.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.hawser);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("XMTPD_")
                || name.to_string_lossy().starts_with("HAWSER_")
            {
                command.env_remove(name);
            }
        }
        command
    }

    /// Starts all nodes.
    pub(crate) async fn start_all(&self) -> Result<Vec<Node>, BenchError> {
        let mut nodes = Vec::new();
        for index in 0..self.members.len() {
            nodes.push(self.start(index).await?);
        }
        Ok(nodes)
    }
}

impl Node {
    /// Returns the address of its API.
    pub(crate) fn api(&self) -> SocketAddr {
        self.member.api
    }

    /// Its id, whose strand it writes.
    pub(crate) fn id(&self) -> OriginatorId {
        self.member.id
    }

    /// Returns the CPU time of its process so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration, BenchError> {
        process::cpu_time(self.process.id())
    }

    /// Memory of its process now.
    pub(crate) fn memory(&self) -> Result<Memory, BenchError> {
        process::memory(self.process.id())
    }

    /// Bytes that its process has had written to disks so far.
    pub(crate) fn written_bytes(&self) -> Result<u64, BenchError> {
        process::written_bytes(self.process.id())
    }

    /// Returns status and body of a page for operators.
    pub(crate) async fn page(&self, path: &str) -> Result<(u16, String), BenchError> {
        http::get(self.member.metrics, path).await
    }

    /// Its metrics page.
    pub(crate) async fn metrics(&self) -> Result<String, BenchError> {
        Ok(http::get(self.member.metrics, "/metrics").await?.1)
    }

    /// Stops it in order.
    pub(crate) fn stop(self) {
        self.process.stop();
    }

    /// Kills it.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

/// Returns the folder with the database of a node whose network is in this folder.
pub(crate) fn node_data_dir(network: &Path, node: OriginatorId) -> PathBuf {
    network.join(format!("{}.data", node.0))
}

/// Waits until a process says that it is ready.
async fn ready(
    process: &mut Process,
    metrics: SocketAddr,
    path: &str,
    log: &Path,
) -> Result<(), BenchError> {
    let until = Instant::now() + START_MAX;
    loop {
        if let Ok((200, _)) = http::get(metrics, path).await {
            return Ok(());
        }
        check_running(process, until, log)?;
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until an address takes connections. A node answers operators a moment before clients, and ends if the port
/// for clients is taken.
async fn accepts(process: &mut Process, api: SocketAddr, log: &Path) -> Result<(), BenchError> {
    let until = Instant::now() + START_MAX;
    while TcpStream::connect(api).await.is_err() {
        check_running(process, until, log)?;
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Checks what a confirmation has printed.
///
/// # Errors
/// If the node asks anything else than whether its key is new.
fn answered(shown: &[u8]) -> Result<(), BenchError> {
    let shown = String::from_utf8_lossy(shown);
    match shown.is_empty() || shown.contains(UnknownFolder::Unanswered.explanation()) {
        true => Ok(()),
        false => Err(format!("a new node asks: {shown}").into()),
    }
}

/// Returns the end of the log as an error if the process has ended, or the time is over.
fn check_running(process: &mut Process, until: Instant, log: &Path) -> Result<(), BenchError> {
    if !process.poll_end() && Instant::now() <= until {
        return Ok(());
    }
    let log = fs::read_to_string(log).unwrap_or_default();
    let from = log.len().saturating_sub(4000);
    let tail = log.get(from..).unwrap_or(&log);
    Err(format!("what was started does not get ready:\n{tail}").into())
}

/// Returns the head of one strand at a node.
pub(crate) async fn head(
    connection: &mut Connection,
    originator: OriginatorId,
) -> Result<u64, BenchError> {
    Ok(cursor(connection).await?.get(originator).0)
}

/// Returns the heads of all strands at a node.
pub(crate) async fn cursor(connection: &mut Connection) -> Result<Cursor, BenchError> {
    let question = metadata::GetSyncCursorRequest {};
    let answer: metadata::GetSyncCursorResponse =
        connection.ask(rpc::GET_SYNC_CURSOR, &question).await?;
    Ok(answer.latest_sync.as_ref().map(Cursor::from).unwrap_or_default())
}

/// Returns a cursor at the head of one strand: a reader's whose topics only have envelopes of this originator. A kept
/// folder may know of more originators than the 100 that a request's cursor may name.
pub(crate) async fn cursor_of(
    connection: &mut Connection,
    originator: OriginatorId,
) -> Result<Cursor, BenchError> {
    let sequence = cursor(connection).await?.get(originator);
    Ok([EnvelopeId { originator, sequence }].into_iter().collect())
}

/// Checks that the strand has grown by exactly the acknowledged envelopes. Every figure depends on this check.
///
/// # Errors
/// Returns an error if it has grown by more, or by fewer after ten seconds.
pub(crate) async fn require_growth(
    connection: &mut Connection,
    originator: OriginatorId,
    before: u64,
    acknowledged: u64,
) -> Result<(), BenchError> {
    let until = Instant::now() + SETTLE_MAX;
    loop {
        let grown = head(connection, originator).await?.saturating_sub(before);
        if grown == acknowledged {
            return Ok(());
        }
        if grown > acknowledged || Instant::now() > until {
            let text = format!("{acknowledged} envelopes acknowledged, but strand grew by {grown}");
            return Err(text.into());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Returns an address that nothing listens on, below the ports that systems give to outgoing connections: nodes that
/// run already would take one of those before the node that is meant to listen there.
pub(crate) fn free_address() -> Result<SocketAddr, BenchError> {
    const PORTS: std::ops::Range<u16> = 12_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Concurrent runs on this machine begin at other ports.
    let first = u16::try_from(std::process::id() % u32::from(PORTS.end - PORTS.start))?;
    for _ in PORTS {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err("no port is free".into())
}

/// The key of a node. It never changes, so that a kept folder has one strand.
pub(crate) fn node_key(id: OriginatorId) -> Result<SecretKey, BenchError> {
    let number = id.0 / 100;
    let secret = blake3::derive_key("hawser-bench node", &number.to_be_bytes());
    Ok(SecretKey::from_bytes(&secret)?)
}

/// Writes a secret key into a file that only its owner may read.
pub(crate) fn write_secret(path: &Path, key: &SecretKey) -> Result<(), BenchError> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(hex::encode(key.to_bytes()).as_bytes())?;
    Ok(())
}
