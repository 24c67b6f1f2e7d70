//! Nodes that join a network by its contracts: registry, rates and chain strands come from chains.

mod shown;

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use alloy::primitives::FixedBytes;
use alloy::providers::Provider as _;
use hawser_chain::contracts::{GroupMessageBroadcaster, IdentityUpdateBroadcaster, NodeRegistry};
use hawser_chain::send::{Call, Chain, Sender};
use hawser_devchain::deploy::{self, NodeRegistration};
use hawser_devchain::devnet::{APP_ID, Devnet, DevnetSettings, SETTLEMENT_ID};
use hawser_proto::Bytes;
use hawser_proto::envelope::ClientEnvelope;
use serde_json::Value;

use crate::support::{self, Running, VECTORS, free_base, hawser, json, page, signal, until};

/// Chains in this process, and the files that nodes need to join them.
struct Joined {
    place: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    settings: DevnetSettings,
    chains: Devnet,
    base: u16,
}

impl Joined {
    /// Chains whose registry has this many canonical nodes.
    fn new(nodes: u16) -> Self {
        Self::with(nodes, |_, _| DevnetSettings::default())
    }

    /// Chains that keep their state, so that they can be started again.
    fn kept(nodes: u16) -> Self {
        Self::with(nodes, |place, base| DevnetSettings {
            app_port: base + 10,
            settlement_port: base + 11,
            data_dir: Some(place.join("chains")),
            ..DevnetSettings::default()
        })
    }

    fn with(nodes: u16, settings: impl FnOnce(&Path, u16) -> DevnetSettings) -> Self {
        let place = tempfile::tempdir().unwrap();
        let base = free_base(nodes);
        let registered = (0..nodes).map(|i| {
            let key = place.path().join(format!("key-{i}"));
            let made = json(&["keys", "generate", "--json", "--out", key.to_str().unwrap()]);
            let public_key = hex::decode(&made["public_key"].as_str().unwrap()[2..]).unwrap();
            NodeRegistration {
                id: 100 * (u32::from(i) + 1),
                owner: deploy::accounts()[1].address(),
                public_key: public_key.try_into().unwrap(),
                http_address: format!("http://127.0.0.1:{}", base + 100 * i),
                is_canonical: true,
            }
        });
        let settings =
            DevnetSettings { nodes: registered.collect(), ..settings(place.path(), base) };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let chains = runtime.block_on(Devnet::start(settings.clone())).unwrap();
        let addresses = chains.deployment().addresses.to_json().to_string();
        fs::write(place.path().join("chain.json"), addresses).unwrap();
        Self { place, runtime, settings, chains, base }
    }

    /// Ends the chains, does something, and starts them again.
    fn without_chains(self, meanwhile: impl FnOnce()) -> Self {
        let Self { place, runtime, settings, chains, base } = self;
        runtime.block_on(chains.stop());
        meanwhile();
        let chains = runtime.block_on(Devnet::start(settings.clone())).unwrap();
        Self { place, runtime, settings, chains, base }
    }

    /// A gateway that reads registry and rates, and puts nothing on a chain.
    fn gateway(&self) -> Command {
        let file = |name: &str| self.place.path().join(name).display().to_string();
        let key = file("payer");
        json(&["keys", "generate", "--json", "--out", &key]);
        let mut command = hawser();
        command.args(["gateway", "--listen-address", "127.0.0.1", "--shutdown-drain", "0s"]);
        command.arg("--allow-private-nodes");
        command.args(["--payer.key-file", &key, "-p", &(self.base + 2).to_string()]);
        command.args(["--metrics.metrics-port", &(self.base + 3).to_string()]);
        command.args(["--contracts.config-file-path", &file("chain.json")]);
        let settlement = format!("http://{}", self.chains.settlement_address());
        command.args(["--contracts.settlement-chain.rpc-url", &settlement]);
        command
    }

    fn command(&self, node: u16) -> Command {
        let file = |name: String| self.place.path().join(name).display().to_string();
        let (app, settlement) = (self.chains.app_address(), self.chains.settlement_address());
        let port = self.base + 100 * node;
        let mut command = hawser();
        command.args(["node", "--listen-address", "127.0.0.1", "--shutdown-drain", "0s"]);
        command.args(["--data-dir", &file(format!("data-{node}")), "-p", &port.to_string()]);
        let (data, state) = (file(format!("data-{node}")), file(format!("state-{node}")));
        command.args(["--state-dir", &state]);
        if !std::path::Path::new(&data).exists() {
            command.env("HAWSER_NEW_STRAND", "true");
        }
        command.args(["--metrics.metrics-port", &(port + 1).to_string()]);
        command.args(["--signer.private-key-file", &file(format!("key-{node}"))]);
        command.args(["--contracts.config-file-path", &file("chain.json".into())]);
        command.args(["--contracts.app-chain.rpc-url", &format!("http://{app}")]);
        command.args(["--contracts.app-chain.wss-url", &format!("ws://{app}")]);
        command.args(["--contracts.settlement-chain.rpc-url", &format!("http://{settlement}")]);
        command.args(["--contracts.settlement-chain.wss-url", &format!("ws://{settlement}")]);
        command
    }

    fn start(&self, node: u16) -> Running {
        let mut running = Running::start(self.command(node), true);
        running.line("start", |line| line.contains("started api server"));
        running
    }

    fn sender(&self, on_app: bool) -> Sender {
        let (address, id) = if on_app {
            (self.chains.app_address(), APP_ID)
        } else {
            (self.chains.settlement_address(), SETTLEMENT_ID)
        };
        let chain = self.runtime.block_on(Chain::connect(&format!("http://{address}"), id));
        Sender::new(chain.unwrap(), deploy::deployer())
    }

    /// Broadcasts the recorded client envelopes of this route. Returns their number.
    fn broadcast(&self, route: &str) -> u64 {
        let payloads = recorded(route);
        self.send(route, &payloads);
        payloads.len() as u64
    }

    fn send(&self, route: &str, payloads: &[Bytes]) {
        let addresses = &self.chains.deployment().addresses;
        let sender = self.sender(true);
        for payload in payloads {
            let client = ClientEnvelope::parse(payload.clone()).unwrap();
            let id = client.topic().identifier();
            let call = if route == "chain:group" {
                let group = FixedBytes::from_slice(id);
                let message = payload.clone().into();
                let call =
                    GroupMessageBroadcaster::addMessageCall { groupId_: group, message_: message };
                Call::new(addresses.group_message_broadcaster, &call)
            } else {
                let inbox = FixedBytes::from_slice(id);
                let update = payload.clone().into();
                let call = IdentityUpdateBroadcaster::addIdentityUpdateCall {
                    inboxId_: inbox,
                    identityUpdate_: update,
                };
                Call::new(addresses.identity_update_broadcaster, &call)
            };
            self.runtime.block_on(sender.send(&call)).unwrap();
        }
    }

    /// Other blocks, with nothing in them, in place of the app chain's last ones.
    fn reorganise(&self, depth: u64) {
        let chain = format!("http://{}", self.chains.app_address());
        let chain = self.runtime.block_on(Chain::connect(&chain, APP_ID)).unwrap();
        let done = chain.provider().raw_request::<_, Value>("anvil_reorg".into(), (depth, ()));
        self.runtime.block_on(done).unwrap();
    }

    fn app_head(&self) -> u64 {
        let chain = format!("http://{}", self.chains.app_address());
        let chain = self.runtime.block_on(Chain::connect(&chain, APP_ID)).unwrap();
        self.runtime.block_on(async { chain.provider().get_block_number().await }).unwrap()
    }

    /// `hawser truncate-strand` with the settings of a node; `recut` is its former name.
    fn truncate_strand(&self, name: &str, node: u16, from_block: u64) -> Command {
        let mut command = hawser();
        command.args([name, "--json", "--strand", "group-messages"]);
        command.args(["--from-block", &from_block.to_string()]);
        command.args(self.command(node).get_args().skip(1));
        command
    }

    fn strand(&self, node: u16, originator: &str, count: u64) -> Vec<String> {
        strand_at(&format!("127.0.0.1:{}", self.base + 100 * node), originator, count)
    }

    fn page(&self, node: u16, path: &str) -> String {
        page(&format!("127.0.0.1:{}", self.base + 100 * node + 1), path)
    }

    /// True if `hawser keys rotate` takes one node for the successor of the other, proven by its signature.
    fn rotation_has_started(&self, old: u16, new: u16) -> bool {
        let file = |name: String| self.place.path().join(name).display().to_string();
        let mut command = hawser();
        command.args(["keys", "rotate", "--check", "--json"]);
        command.args(["--key-file", &file(format!("key-{old}"))]);
        command.args(["--new-key-file", &file(format!("key-{new}"))]);
        command.env("XMTPD_CONTRACTS_CONFIG_FILE_PATH", file("chain.json".into()));
        let settlement = format!("http://{}", self.chains.settlement_address());
        command.env("XMTPD_SETTLEMENT_CHAIN_RPC_URL", settlement);
        let output = command.output().unwrap();
        let plan: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", support::stderr(&output)));
        let start = &plan["steps"][2];
        // A node that does not answer in time is asked again.
        let found = start["found"].as_str().unwrap_or_default();
        let is_other = ["leads to node", "without the key"].iter().any(|it| found.contains(it));
        assert!(!is_other, "the address leads to another node: {plan}");
        start["state"] == "done"
    }

    /// Confirms as the operator that a node whose peers are not all there signs nothing twice.
    fn confirm(&self, node: u16) {
        let state = self.place.path().join(format!("state-{node}"));
        until("the node may publish", || {
            let mut confirm = hawser();
            confirm.args(["restore", "confirm", "--complete", "--yes", "--state-dir"]);
            // Without a question, the command fails: the node has not asked yet, or has its answer.
            let _ = confirm.arg(&state).output();
            self.is_ready_to_publish(node)
        });
    }

    fn is_ready_to_publish(&self, node: u16) -> bool {
        self.page(node, "/readyz?for=publish").contains("200 OK")
    }
}

/// Reads the first envelopes of a strand at a node.
fn strand_at(address: &str, originator: &str, count: u64) -> Vec<String> {
    let mut command = hawser();
    command.args(["tail", "--json", "--node", address, "--originator", originator]);
    command.args(["--from", "start", "--limit", &count.to_string()]);
    let mut running = Running::start(command, false);
    (0..count)
        .map(|_| {
            let line = running.line("envelope", |_| true);
            let value: Value = serde_json::from_str(&line).unwrap();
            value["hex"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn recorded(route: &str) -> Vec<Bytes> {
    let text = fs::read_to_string(VECTORS).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let wanted = lines.filter(|line| line["expect_route"] == route);
    wanted.map(|line| hex::decode(line["hex"].as_str().unwrap()).unwrap().into()).collect()
}

fn stop(node: Running) {
    signal(node.pid(), "TERM");
    assert!(node.end().success());
}

#[test]
fn chain_strands_are_equal_at_all_nodes_and_after_a_restart() {
    let network = Joined::new(2);
    let first = network.start(0);
    let groups = network.broadcast("chain:group");
    let second = network.start(1); // reads what is there already
    let identities = network.broadcast("chain:identity");
    let mut held = Vec::new();
    for (originator, count) in [("0", groups), ("1", identities)] {
        assert!(count > 1);
        let strand = network.strand(0, originator, count);
        assert_eq!(network.strand(1, originator, count), strand);
        held.push((originator, strand));
    }
    until("the node may publish", || network.is_ready_to_publish(0));
    until("both nodes are told apart by what they signed", || {
        network.rotation_has_started(0, 1) && network.rotation_has_started(1, 0)
    });
    stop(first);
    let more = network.broadcast("chain:group");
    let first = network.start(0);
    assert_eq!(network.strand(0, "0", groups + more), network.strand(1, "0", groups + more));
    for (originator, strand) in held {
        assert_eq!(network.strand(0, originator, strand.len() as u64), strand);
    }
    stop(first);
    stop(second);
}

impl Joined {
    /// Has a node copy its log into a folder.
    fn snapshot(&self, node: u16, to: &Path) {
        let mut command = hawser();
        command.args(["--json", "snapshot", "create", "--rate", "0", "--to"]).arg(to);
        command.arg("--data-dir").arg(self.place.path().join(format!("data-{node}")));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", support::stderr(&output));
    }

    /// Fills the folder of a node from a copy, its strands of chains included.
    fn fetch(&self, node: u16, from: &Path) -> Output {
        let of_node = self.command(node);
        let mut command = hawser();
        command.args(["--json", "snapshot", "fetch", "--trust-nodes-for-chains", "--from"]);
        // There is one endpoint.
        command.arg(from).arg("--bootstrap-trust-one-endpoint");
        command.args(of_node.get_args().skip(1));
        command.output().unwrap()
    }
}

#[test]
fn a_new_node_takes_strands_of_chains_on_the_word_of_most_nodes_and_reads_on_from_there() {
    let network = Joined::new(3);
    let nodes = [network.start(0), network.start(1)];
    (0..2).for_each(|node| network.confirm(node));
    let groups = network.broadcast("chain:group");
    let identities = network.broadcast("chain:identity");
    let to = network.place.path().join("snapshots");
    // Two of two other nodes are wanted. Nothing is written before both have signed.
    let done = RefCell::new(Value::Null);
    until("both nodes have signed all of both strands", || {
        network.strand(0, "0", groups);
        let _ = fs::remove_dir_all(&to);
        network.snapshot(0, &to);
        let output = network.fetch(2, &to);
        if !output.status.success() {
            let text = support::stderr(&output);
            assert!(text.contains("have signed the same tree"), "{text}");
            assert!(!network.place.path().join("data-2").exists());
            return false;
        }
        let fetched: Value = serde_json::from_slice(&output.stdout).unwrap();
        let is_whole = (&fetched["strands"][0]["head"], &fetched["strands"][1]["head"])
            == (&groups.into(), &identities.into());
        done.replace(fetched);
        if !is_whole {
            fs::remove_dir_all(network.place.path().join("data-2")).unwrap();
        }
        is_whole
    });
    let done = done.into_inner();
    for strand in 0..2 {
        let chain = &done["strands"][strand]["chain"];
        assert_eq!(chain["nodes"], serde_json::json!([100, 200]), "{done}");
        assert!(chain["confirmed"].as_u64().unwrap() > 1, "{done}");
        assert!(chain["next_block"].as_u64().unwrap() > 1, "{done}");
    }
    // It goes on from there, and has what nodes have that read the chain themselves.
    let more = network.broadcast("chain:group");
    let mut command = network.command(2);
    command.env("HAWSER_NEW_STRAND", "true");
    let mut new = Running::start(command, true);
    new.line("start", |line| line.contains("started api server"));
    assert_eq!(network.strand(2, "0", groups + more), network.strand(0, "0", groups + more));
    assert_eq!(network.strand(2, "1", identities), network.strand(0, "1", identities));
    until("the node may publish", || network.is_ready_to_publish(2));
    stop(new);

    // A reorganisation has removed the last update, so a snapshot with it is refused, no matter how many nodes have
    // signed it.
    fs::remove_dir_all(network.place.path().join("data-2")).unwrap();
    nodes.into_iter().for_each(stop);
    network.reorganise(more + 1);
    let output = network.fetch(2, &to);
    let text = support::stderr(&output);
    assert!(text.contains("the chain does not have this event"), "{text}");
    let start = network.command(2).output().unwrap();
    assert!(support::stderr(&start).contains("has not come to its end"));
}

#[test]
fn a_node_whose_key_is_not_registered_does_not_start() {
    let network = Joined::new(1);
    let stranger = network.place.path().join("stranger");
    json(&["keys", "generate", "--json", "--out", stranger.to_str().unwrap()]);
    let mut command = network.command(0);
    command.args(["--signer.private-key-file", stranger.to_str().unwrap()]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let text = support::stderr(&output);
    assert!(text.contains("no node of the node registry 0x"), "{text}");
}

#[test]
fn a_node_that_loses_its_canonical_place_publishes_nothing_from_then_on() {
    let network = Joined::new(1);
    let node = network.start(0);
    until("the node may publish", || network.is_ready_to_publish(0));
    let registry = network.chains.deployment().addresses.node_registry;
    let call = Call::new(registry, &NodeRegistry::removeFromNetworkCall { nodeId_: 100 });
    network.runtime.block_on(network.sender(false).send(&call)).unwrap();
    until("the node may not publish", || !network.is_ready_to_publish(0));
    assert!(network.page(0, "/readyz").contains("200 OK"), "it goes on reading");
    stop(node);
}

#[test]
fn without_a_chain_nothing_is_published_after_a_while_and_reading_goes_on() {
    let network = Joined::new(1);
    let groups = network.broadcast("chain:group");
    let mut command = network.command(0);
    command.args(["--contracts.app-chain.max-chain-disconnect-time", "2s"]);
    let mut node = Running::start(command, true);
    node.line("start", |line| line.contains("started api server"));
    until("the node may publish", || network.is_ready_to_publish(0));
    network.strand(0, "0", groups);
    let Joined { place, runtime, chains, base, .. } = network;
    runtime.block_on(chains.stop());
    let address = format!("127.0.0.1:{}", base + 1);
    until("the node may not publish", || {
        let page = page(&address, "/readyz?for=publish");
        page.contains("503") && page.contains("app_chain_reached")
    });
    assert!(page(&address, "/readyz").contains("200 OK"), "it goes on reading");
    runtime.shutdown_timeout(Duration::from_secs(1));
    stop(node);
    drop(place);
}

/// The chains are away when a node is started again, and come back while it runs.
#[test]
fn a_known_folder_serves_readers_while_the_chains_are_away_at_the_start() {
    let network = Joined::kept(1);
    let groups = network.broadcast("chain:group");
    let node = network.start(0);
    until("the node may publish", || network.is_ready_to_publish(0));
    let held = network.strand(0, "0", groups);
    let state = network.place.path().join("state-0");
    let entries = || fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
    let is_kept = |path: &Path| path.file_name().unwrap().to_str().unwrap().starts_with("chain-l");
    until("the lists are kept", || entries().any(|path| is_kept(&path)));
    stop(node);

    let start = || network.command(0);
    let (mut unknown, known) = (start(), start());
    let [api, metrics] = [0, 1].map(|offset| format!("127.0.0.1:{}", network.base + offset));
    let marker = entries().map(|path| path.join("marker")).find(|path| path.exists()).unwrap();
    let aside = marker.with_extension("aside");
    let mut again = None;
    let network = network.without_chains(|| {
        // The same folder on a host that does not know it.
        fs::rename(&marker, &aside).unwrap();
        let output = unknown.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(support::stderr(&output).contains("not known"), "{output:?}");
        fs::rename(&aside, &marker).unwrap();

        let mut node = Running::start(known, true);
        node.line("notice", |line| line.contains("chain_lists_kept"));
        node.line("start", |line| line.contains("started api server"));
        assert!(page(&metrics, "/readyz").contains("200 OK"), "it serves readers");
        let publishing = page(&metrics, "/readyz?for=publish");
        assert!(publishing.contains("503"), "{publishing}");
        assert!(publishing.contains("the node_registry was last read"), "{publishing}");
        assert_eq!(strand_at(&api, "0", groups), held);
        again = Some(node);
    });
    until("the node may publish", || network.is_ready_to_publish(0));
    stop(again.unwrap());
}

#[test]
fn a_strand_that_the_chain_took_back_halts_and_is_cut_off_and_read_anew_when_told() {
    let network = Joined::new(2);
    let payloads = recorded("chain:group");
    network.send("chain:group", &payloads[..6]);
    let identities = network.broadcast("chain:identity");
    network.send("chain:group", &payloads[6..9]);
    let node = network.start(0);
    let before = network.strand(0, "0", 9);
    let others = network.strand(0, "1", identities);

    // The last three are removed, and others take their places.
    let fork = network.app_head() - 2;
    network.reorganise(3);
    network.send("chain:group", &payloads[..4]);
    until("the strand has halted", || network.page(0, "/status").contains("halted"));
    assert_eq!(network.strand(0, "0", 9), before, "it keeps what it has");
    let held = network.truncate_strand("recut", 0, fork).arg("--yes").output().unwrap();
    assert_eq!(held.status.code(), Some(3), "{}", support::stderr(&held));
    stop(node);

    let refusal = |more: &[&str], from_block: u64, what: &str| {
        let mut command = network.truncate_strand("truncate-strand", 0, from_block);
        let output = command.arg("--yes").args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", support::stderr(&output));
        assert!(support::stderr(&output).contains(what), "{}", support::stderr(&output));
    };
    refusal(&["--network", "other"], fork, "belongs to network");
    refusal(&[], fork + 1000, "has no block");
    refusal(&[], fork + 2, "is older than block");
    // A second endpoint shows another chain. The first one that answers does not decide what is cut off.
    let other = Joined::new(0);
    let urls = [&other, &network].map(|it| format!("http://{}", it.chains.app_address())).join(",");
    let mut disputed = network.truncate_strand("truncate-strand", 0, fork);
    disputed.args(["--yes", "--contracts.app-chain.rpc-url", &urls]);
    let disputed = disputed.output().unwrap();
    assert_eq!(disputed.status.code(), Some(3), "{}", support::stderr(&disputed));
    assert!(support::stderr(&disputed).contains("do not agree"), "{}", support::stderr(&disputed));
    let unasked = network.truncate_strand("truncate-strand", 0, fork).output().unwrap();
    assert!(support::stderr(&unasked).contains("--yes"), "{}", support::stderr(&unasked));
    let done = network.truncate_strand("truncate-strand", 0, fork).arg("--yes").output().unwrap();
    assert!(done.status.success(), "{}", support::stderr(&done));
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done["envelopes"], 3);
    assert_eq!((&done["from_sequence_id"], &done["through_sequence_id"]), (&7.into(), &9.into()));
    let kept = fs::read_to_string(done["kept_in"].as_str().unwrap()).unwrap();
    let kept: Vec<Value> = kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let hex: Vec<_> = kept.iter().map(|line| line["hex"].as_str().unwrap()).collect();
    assert_eq!(hex, before[6..], "what was cut off is kept");
    refusal(&[], fork, "nothing of block");

    // Now it has what a node has that comes later.
    let node = network.start(0);
    let late = network.start(1);
    let anew = network.strand(0, "0", 10);
    assert_eq!(anew, network.strand(1, "0", 10));
    assert_eq!(anew[..6], before[..6]);
    assert_ne!(anew[6..9], before[6..]);
    assert_eq!(network.strand(0, "1", identities), others);
    until("the node may publish", || network.is_ready_to_publish(0));
    stop(node);
    stop(late);
}
