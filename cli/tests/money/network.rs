//! Nodes as processes, three payers with deposits, and the contracts on a chain in this process.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alloy::primitives::Address;
use alloy::providers::Provider as _;
use hawser_chain::admin::{Contracts, Network};
use hawser_chain::send::{Chain, Sender};
use hawser_devchain::anvil::find_program;
use hawser_devchain::deploy::{self, NodeRegistration};
use hawser_devchain::devnet::{APP_ID, Devnet, DevnetSettings, SETTLEMENT_ID};
use hawser_proto::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};

use crate::publishing::{ENVELOPES, Load, Publisher};
use crate::support::{self, Running, WAIT_MAX, free_base, hawser, page, signal, until};

/// The nodes of the network, by place.
pub const NODES: [u32; 3] = [100, 200, 300];
/// Payers of the network.
const PAYERS: usize = 3;

/// A payer, with the file of its key.
pub struct Payer {
    pub key: PathBuf,
    pub address: Address,
}

/// The network.
pub struct MoneyNetwork {
    place: tempfile::TempDir,
    pub runtime: tokio::runtime::Runtime,
    pub chains: Devnet,
    base: u16,
    nodes: Vec<Option<Running>>,
    pub payers: Vec<Payer>,
    settings: MoneySettings,
    /// The address of the settlement chain that answers late.
    late: String,
    _alone: MutexGuard<'static, ()>,
}

/// One network runs at a time: each needs a machine's cores for itself to answer in time.
static ALONE: Mutex<()> = Mutex::new(());

/// The shape of a network.
#[derive(Debug, Clone, Copy)]
pub struct MoneySettings {
    /// Nodes, of which the first ones are [`NODES`].
    pub nodes: u16,
    /// The place of a node that is registered, and not canonical yet.
    pub joins_later: Option<usize>,
    /// The place of a node that charges by a list of prices of its own.
    pub liar: Option<usize>,
    /// The place of a node whose endpoint of the settlement chain answers late.
    pub late: Option<usize>,
    /// True to run the chains with anvil.
    pub anvil: bool,
}

impl Default for MoneySettings {
    fn default() -> Self {
        Self { nodes: 3, joins_later: None, liar: None, late: None, anvil: false }
    }
}

impl MoneyNetwork {
    /// Starts everything and waits until each node may publish. Only the test takes steps of payer reports.
    pub fn start(settings: MoneySettings) -> Self {
        let alone = ALONE.lock();
        let place = tempfile::tempdir().unwrap();
        let base = free_base(settings.nodes);
        let generate = |name: String| {
            let key = place.path().join(name);
            let made = support::json(&["keys", "generate", "--json", "--out", text(&key)]);
            (key, made)
        };
        let registered = (1..=u32::from(settings.nodes)).map(|number| 100 * number).enumerate();
        let registered = registered.map(|(at, id)| {
            let (_, made) = generate(format!("key-{at}"));
            let public_key = hex::decode(&made["public_key"].as_str().unwrap()[2..]).unwrap();
            NodeRegistration {
                id,
                owner: deploy::accounts()[1].address(),
                public_key: public_key.try_into().unwrap(),
                http_address: format!(
                    "http://127.0.0.1:{}",
                    base + 100 * u16::try_from(at).unwrap()
                ),
                is_canonical: settings.joins_later != Some(at),
            }
        });
        let of_chains = DevnetSettings {
            nodes: registered.collect(),
            anvil: settings.anvil.then(|| find_program().expect("scripts/test installs anvil")),
            ..DevnetSettings::default()
        };
        let payers = (0..PAYERS).map(|at| {
            let (key, made) = generate(format!("payer-{at}"));
            Payer { key, address: made["address"].as_str().unwrap().parse().unwrap() }
        });
        let payers: Vec<_> = payers.collect();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let chains = runtime.block_on(Devnet::start(of_chains)).unwrap();
        let addresses = chains.deployment().addresses.to_json().to_string();
        fs::write(place.path().join("chain.json"), addresses).unwrap();
        let rates = json!({ "rates": [{ "messageFee": 100_000, "storageFee": 200,
            "congestionFee": 300, "targetRatePerMinute": 6000, "startTime": 0 }] });
        fs::write(place.path().join("rates.json"), rates.to_string()).unwrap();
        let nodes = (0..settings.nodes).map(|_| None).collect();
        let late = late_endpoint(&chains.settlement_address().to_string());
        let mut network =
            Self { place, runtime, chains, base, nodes, payers, settings, late, _alone: alone };
        network.fund_payers();
        for at in 0..network.nodes.len() {
            network.start_node(at, &[]);
        }
        for at in (0..network.nodes.len()).filter(|at| settings.joins_later != Some(*at)) {
            network.until_ready(at);
        }
        network
    }

    /// The ids of the nodes, by place.
    pub fn ids(&self) -> Vec<u32> {
        (1..=u32::from(self.settings.nodes)).map(|number| 100 * number).collect()
    }

    fn fund_payers(&self) {
        let addresses = &self.chains.deployment().addresses;
        self.runtime.block_on(async {
            let url = format!("http://{}", self.chains.app_address());
            let app = Chain::connect(&url, APP_ID).await.unwrap();
            let admin = Sender::new(self.settlement().await, deploy::deployer());
            for payer in &self.payers {
                deploy::fund_payer(&admin, &app, addresses, payer.address).await.unwrap();
            }
        });
    }

    async fn settlement(&self) -> Chain {
        let url = format!("http://{}", self.chains.settlement_address());
        Chain::connect(&url, SETTLEMENT_ID).await.unwrap()
    }

    /// The contracts, to be read.
    pub fn contracts(&self) -> Network {
        let contracts = Contracts::from(&self.chains.deployment().addresses);
        let settlement = self.runtime.block_on(self.settlement());
        Network { settlement, app: None, app_id: APP_ID, contracts }
    }

    pub fn file(&self, name: &str) -> String {
        text(&self.place.path().join(name)).to_owned()
    }

    pub fn data_dir(&self, at: usize) -> String {
        self.file(&format!("data-{at}"))
    }

    fn port(&self, at: usize) -> u16 {
        self.base + 100 * u16::try_from(at).unwrap()
    }

    fn grpc(&self, at: usize) -> String {
        format!("127.0.0.1:{}", self.port(at))
    }

    pub fn metrics(&self, at: usize) -> String {
        format!("127.0.0.1:{}", self.port(at) + 1)
    }

    fn start_node(&mut self, at: usize, more: &[&str]) {
        let (app, settlement) = (self.chains.app_address(), self.chains.settlement_address());
        let data = self.data_dir(at);
        let mut command = hawser();
        command.args(["node", "--listen-address", "127.0.0.1", "--shutdown-drain", "0s"]);
        command.args(["--data-dir", &data, "-p", &self.port(at).to_string()]);
        command.args(["--state-dir", &self.file("state")]);
        if !Path::new(&data).exists() {
            command.env("HAWSER_NEW_STRAND", "true");
        }
        command.args(["--metrics.metrics-port", &(self.port(at) + 1).to_string()]);
        command.args(["--signer.private-key-file", &self.file(&format!("key-{at}"))]);
        command.args(["--contracts.config-file-path", &self.file("chain.json")]);
        command.args(["--contracts.app-chain.rpc-url", &format!("http://{app}")]);
        command.args(["--contracts.app-chain.wss-url", &format!("ws://{app}")]);
        let rpc = match self.settings.late == Some(at) {
            true => format!("http://{}", self.late),
            false => format!("http://{settlement}"),
        };
        command.args(["--contracts.settlement-chain.rpc-url", &rpc]);
        command.args(["--contracts.settlement-chain.wss-url", &format!("ws://{settlement}")]);
        // The test takes the steps: a worker that has minutes of its own in each hour would write reports that depend
        // on the time of day at which the test runs.
        command.args(["--payer-report-turns", "by-hand"]);
        for whose in ["self", "others"] {
            let period = format!("--payer-report.generate-report-{whose}-period");
            command.args([&period, "1m"]);
        }
        if self.settings.liar == Some(at) {
            command.args(["--rates-file", &self.file("rates.json")]);
        }
        command.args(more);
        let mut running = Running::start(command, true);
        running.line("start", |line| line.contains("started api server"));
        self.nodes[at] = Some(running);
    }

    pub fn until_ready(&self, at: usize) {
        until("the node may publish", || {
            page(&self.metrics(at), "/readyz?for=publish").contains("200 OK")
        });
    }

    /// Ends a node without notice, and starts it again.
    pub fn kill(&mut self, at: usize) {
        self.restart_with(at, &[]);
    }

    /// Ends a node without notice, and starts it again with these arguments beside its own.
    pub fn restart_with(&mut self, at: usize, more: &[&str]) {
        self.end(at);
        self.start_node(at, more);
        self.until_ready(at);
    }

    /// Ends a node without notice.
    pub fn end(&mut self, at: usize) {
        let node = self.nodes[at].take().unwrap();
        signal(node.pid(), "KILL");
        assert!(!node.end().success());
    }

    /// The line of a node's log that satisfies `wanted`.
    pub fn log_line(&mut self, at: usize, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.nodes[at].as_mut().unwrap().line(what, wanted)
    }

    /// Ends all nodes in order.
    pub fn stop(mut self) {
        for node in self.nodes.drain(..).flatten() {
            signal(node.pid(), "TERM");
            assert!(node.end().success());
        }
    }

    /// Lets each payer publish at each node.
    pub fn traffic(&self, name: &str) {
        self.traffic_at(name, &(0..self.nodes.len()).collect::<Vec<_>>());
    }

    /// Lets each payer publish at these nodes.
    pub fn traffic_at(&self, name: &str, places: &[usize]) {
        for publisher in self.publishers(places, "envelopes.jsonl") {
            let output = publisher.publish(name);
            assert!(output.status.success(), "{}", support::stderr(&output));
            let done: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(done["published"], ENVELOPES);
        }
    }

    /// Lets each payer publish at these nodes all the time, also while one of them ends and starts again.
    pub fn load_at(&self, name: &str, places: &[usize]) -> Load {
        Load::start(name.to_owned(), self.publishers(places, "load.jsonl"))
    }

    /// Each payer at each of these nodes.
    fn publishers(&self, places: &[usize], file: &str) -> Vec<Publisher> {
        let mut publishers = Vec::new();
        for &at in places {
            for (by, payer) in self.payers.iter().enumerate() {
                publishers.push(self.publisher(at, format!("{by} at {at}"), &payer.key, file));
            }
        }
        publishers
    }

    /// A new payer, who has no deposit, at a node.
    pub fn poor_publisher(&self, at: usize) -> Publisher {
        let key = self.file("poor");
        support::json(&["keys", "generate", "--json", "--out", &key]);
        self.publisher(at, format!("a poor payer at {at}"), Path::new(&key), "poor.jsonl")
    }

    fn publisher(&self, at: usize, of: String, key: &Path, file: &str) -> Publisher {
        Publisher {
            of,
            node: self.grpc(at),
            target: self.ids()[at].to_string(),
            key: text(key).to_owned(),
            file: self.file(file),
        }
    }

    /// The last place of each strand that a node holds.
    fn heads(&self, at: usize) -> BTreeMap<u64, u64> {
        let output = support::run(&["query", "--json", "cursors", "--node", &self.grpc(at)]);
        let lines = support::stdout(&output);
        let heads = lines.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            (line["originator_id"].as_u64().unwrap(), line["sequence_id"].as_u64().unwrap())
        });
        heads.filter(|(originator, _)| *originator >= 100).collect()
    }

    /// Waits until all nodes hold the same.
    pub fn replicate(&self) {
        until("all nodes hold the same", || {
            let first = self.heads(0);
            let count = self.nodes.len();
            first.len() == count && (1..count).all(|at| self.heads(at) == first)
        });
    }

    /// Waits until each of these holders has everything that each of these writers has ordered up to a moment. Writers
    /// may go on meanwhile.
    pub fn replicate_from(&self, writers: &[usize], holders: &[usize]) {
        let ids = self.ids();
        until("the strands have come", || {
            let ends = writers.iter().map(|at| {
                let id = u64::from(ids[*at]);
                (id, self.heads(*at).get(&id).copied())
            });
            let ends: Vec<_> = ends.collect();
            holders.iter().all(|at| {
                let held = self.heads(*at);
                ends.iter().all(|(id, end)| end.is_some() && held.get(id).copied() >= *end)
            })
        });
    }

    /// The envelopes of an originator as a node shows them.
    pub fn strand(&self, at: usize, originator: u32) -> Vec<OriginatorEnvelope> {
        let (node, originator) = (self.grpc(at), originator.to_string());
        let output =
            support::run(&["query", "--json", "originators", &originator, "--node", &node]);
        let lines = support::stdout(&output);
        let envelope = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            let bytes = hex::decode(line["hex"].as_str().unwrap()).unwrap();
            OriginatorEnvelope::parse(Bytes::from(bytes)).unwrap()
        };
        lines.lines().map(envelope).collect()
    }

    /// Takes a step of a node's worker; its exit code, and the outcomes.
    pub fn step(&self, at: usize, step: &str, about: u32, more: &[&str]) -> (i32, Vec<Value>) {
        let (data, about) = (self.data_dir(at), about.to_string());
        let args = ["report", step, "--json", "--data-dir", &data, "--about", &about];
        let output = support::run(&[&args[..], more].concat());
        let printed: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{step}: {}", support::stderr(&output)));
        let outcomes = printed["outcomes"].as_array().unwrap().clone();
        (output.status.code().unwrap(), outcomes)
    }

    /// Repeats a step until it is done, or was done before.
    pub fn until_done(&self, at: usize, step: &str, about: u32) {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let (_, outcomes) = self.step(at, step, about, &[]);
            let is_done = |it: &Value| it["state"] == "done";
            // There is a report, and it had taken this step before.
            let was_done = |it: &Value| it["state"] == "nothing" && !it["report"].is_null();
            if outcomes.iter().any(|it| is_done(it) || was_done(it)) {
                return;
            }
            let is_late = Instant::now() > deadline;
            assert!(!is_late, "not done: {step} about {about} at node {at}: {outcomes:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Has a node judge the reports about an originator until none of them waits; the exit code, and the outcomes.
    pub fn judged(&self, at: usize, about: u32) -> (i32, Vec<Value>) {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let (code, outcomes) = self.step(at, "attest", about, &[]);
            if !outcomes.is_empty() && outcomes.iter().all(|it| it["state"] != "waiting") {
                return (code, outcomes);
            }
            let is_late = Instant::now() > deadline;
            assert!(!is_late, "not judged: reports about {about} at node {at}: {outcomes:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The reports about an originator as a node sees them.
    pub fn reports(&self, at: usize, about: u32) -> Vec<Value> {
        support::reports(&self.metrics(at), about)
    }

    pub fn api(&self, at: usize) -> String {
        format!("http://{}", self.grpc(at))
    }

    /// Computes a payer's bill from a node's answers; returns the exit code and the bill.
    pub fn bill(&self, at: usize, payer: &str) -> (i32, Value) {
        let from = self.api(at);
        let args = ["payer", "usage", payer, "--verify", "--from", &from];
        let output = self.owner(&args).output().unwrap();
        let printed = support::stderr(&output);
        let bill = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{printed}"));
        (output.status.code().unwrap(), bill)
    }

    /// The address of the account that owns the nodes.
    pub fn owner_address(&self) -> String {
        deploy::accounts()[1].address().to_string()
    }

    /// Moves the clock of the settlement chain ahead.
    pub fn pass_time(&self, seconds: u64) {
        self.runtime.block_on(async {
            let chain = self.settlement().await;
            for (method, params) in
                [("evm_increaseTime", json!([seconds])), ("evm_mine", json!([]))]
            {
                chain.provider().raw_request::<_, Value>(method.into(), params).await.unwrap();
            }
        });
    }

    /// A command on the contracts that answers in JSON, for the owner of the nodes.
    pub fn owner(&self, args: &[&str]) -> Command {
        let mut command = self.owner_text(args);
        command.arg("--json");
        command
    }

    /// Runs a command for the administrator of the contracts.
    pub fn as_admin(&self, args: &[&str]) -> Value {
        let key = self.place.path().join("admin");
        write_secret(&key, &deploy::deployer().to_bytes().to_string());
        self.run_with(&key, args)
    }

    /// Runs a command for a payer.
    pub fn as_payer(&self, by: usize, args: &[&str]) -> Value {
        self.run_with(&self.payers[by].key, args)
    }

    fn run_with(&self, key: &Path, args: &[&str]) -> Value {
        let output = self.owner(args).env("HAWSER_KEY_FILE", key).output().unwrap();
        let printed = format!("{}{}", support::stdout(&output), support::stderr(&output));
        assert!(output.status.success(), "{args:?}: {printed}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A command on the contracts, for the owner of the nodes.
    pub fn owner_text(&self, args: &[&str]) -> Command {
        let key = self.place.path().join("owner");
        if !key.exists() {
            write_secret(&key, &deploy::accounts()[1].to_bytes().to_string());
        }
        let mut command = hawser();
        command.args(args).stdin(Stdio::null());
        let settlement = format!("http://{}", self.chains.settlement_address());
        command.env("XMTPD_SETTLEMENT_CHAIN_RPC_URL", settlement);
        let app = format!("http://{}", self.chains.app_address());
        command.env("XMTPD_APP_CHAIN_RPC_URL", app);
        command.env("XMTPD_CONTRACTS_CONFIG_FILE_PATH", self.file("chain.json"));
        command.env("HAWSER_KEY_FILE", &key);
        command
    }

    /// Runs a command for the owner of the nodes; returns its output.
    pub fn as_owner(&self, args: &[&str]) -> Value {
        let output = self.owner(args).output().unwrap();
        let printed = format!("{}{}", support::stdout(&output), support::stderr(&output));
        assert!(output.status.success(), "{args:?}: {printed}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Waits for the next minute of the clock: a report ends with a minute.
pub fn next_minute() {
    let minute = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60;
    let began = minute();
    while minute() == began {
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn write_secret(path: &Path, hex: &str) {
    fs::write(path, hex).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Time by which each part of an answer of the slow endpoint is late. A guess: some times that of a far one.
const LATE_BY: Duration = Duration::from_millis(150);

/// An endpoint that passes everything on, and its answers late.
fn late_endpoint(to: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let to = to.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            // One connection that fails ends no other one.
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(&to)) else { continue };
            let (from_client, from_server) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || pass_on(from_client, server, Duration::ZERO));
            std::thread::spawn(move || pass_on(from_server, client, LATE_BY));
        }
    });
    address
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, after: Duration) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        std::thread::sleep(after);
        if to.write_all(&bytes[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
