//! `hawser network-watcher` beside real nodes, and beside nodes that lie, flood, are silent or are old.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use hawser_conformance::envelopes::{message, new_group};
use hawser_node::files::registry::{RegistryFile, RegistryFileEntry};
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::merkle::envelope_leaf;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::{Cursor, UnsignedOriginatorEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_server::{
    MetadataApi, MetadataApiServer,
};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::{
    GetPayerInfoRequest, GetPayerInfoResponse, GetSyncCursorRequest, GetSyncCursorResponse,
    GetVersionRequest, GetVersionResponse,
};
use hawser_proto::{Bytes, OriginatorId, SecretKey};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::{self as streams, StreamExt as _};
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

use crate::support::fake_node::FakeNode;
use crate::support::log_folder::{NODE, entry_at};
use crate::support::{Dev, Running, free_base, hawser, page, signal, stderr, until};

/// Originators that a liar invents: about as many as fit into a message that the watcher takes.
const INVENTED: u32 = 5_000;
/// Originators of a cursor that is far larger than any message that the watcher takes.
const FAR_TOO_MANY: u32 = 1_000_000;

/// A node that sends the cursor that a test sets, and serves nothing else.
#[derive(Clone, Copy)]
enum Liar {
    /// Tells the same as the honest node, and stays.
    Honest,
    /// Invents originators.
    Inventor,
    /// Tells a cursor of a million originators.
    Giant,
    /// Tells an id that there cannot be, and goes back afterwards.
    Forgetful,
    /// Tells cursors without end and without a pause.
    Flooder,
    /// Answers with errors whose details are not Base64, at which the client of the gRPC library panics.
    Malformed,
}

fn malformed() -> Status {
    let mut headers = tonic::codegen::http::HeaderMap::new();
    headers.insert("grpc-status-details-bin", "!".parse().unwrap());
    Status::with_metadata(Code::Unavailable, "later", MetadataMap::from_headers(headers))
}

fn cursor(entries: impl IntoIterator<Item = (u32, u64)>) -> Result<GetSyncCursorResponse, Status> {
    let cursor = Cursor { node_id_to_sequence_id: entries.into_iter().collect() };
    Ok(GetSyncCursorResponse { latest_sync: Some(cursor) })
}

#[tonic::async_trait]
impl MetadataApi for Liar {
    type SubscribeSyncCursorStream = BoxStream<GetSyncCursorResponse>;

    async fn subscribe_sync_cursor(
        &self,
        _: Request<GetSyncCursorRequest>,
    ) -> Result<Response<Self::SubscribeSyncCursorStream>, Status> {
        const TRUTH: [(u32, u64); 2] = [(0, 5), (100, 9)];
        let invented = |count| (1_000..1_000 + count).map(|id| (id, 1));
        let cursors = match self {
            Self::Honest => vec![cursor(TRUTH)],
            Self::Inventor => vec![cursor(TRUTH.into_iter().chain(invented(INVENTED)))],
            Self::Giant => vec![cursor(invented(FAR_TOO_MANY))],
            Self::Forgetful => {
                vec![
                    cursor([(0, 5), (100, 9)]),
                    cursor([(0, u64::MAX), (100, 9)]),
                    cursor([(0, 2)]),
                ]
            }
            Self::Malformed => return Err(malformed()),
            Self::Flooder => {
                let flood = std::iter::repeat_with(|| cursor(TRUTH));
                return Ok(Response::new(Box::pin(streams::iter(flood))));
            }
        };
        let cursors = streams::iter(cursors).chain(streams::pending());
        Ok(Response::new(Box::pin(cursors)))
    }

    async fn get_sync_cursor(
        &self,
        _: Request<GetSyncCursorRequest>,
    ) -> Result<Response<GetSyncCursorResponse>, Status> {
        Err(malformed())
    }

    async fn get_version(
        &self,
        _: Request<GetVersionRequest>,
    ) -> Result<Response<GetVersionResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn get_payer_info(
        &self,
        _: Request<GetPayerInfoRequest>,
    ) -> Result<Response<GetPayerInfoResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }
}

/// The watcher of nodes at addresses of this machine.
fn watcher_command() -> Command {
    let mut command = hawser();
    command.args(["network-watcher", "--allow-private-nodes"]);
    command
}

/// A listener on a free port.
fn listener(runtime: &Runtime) -> (TcpListener, SocketAddr) {
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn start(runtime: &Runtime, liar: Liar) -> SocketAddr {
    let (listener, address) = listener(runtime);
    let server = Server::builder().add_service(MetadataApiServer::new(liar));
    runtime.spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

/// A node without any call of this network.
fn start_old(runtime: &Runtime) -> SocketAddr {
    let (listener, address) = listener(runtime);
    let mut server = Server::builder();
    let server = server.add_routes(tonic::service::Routes::default());
    runtime.spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

/// A node that takes connections and never answers.
fn start_silent(runtime: &Runtime) -> SocketAddr {
    let (listener, address) = listener(runtime);
    runtime.spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    address
}

/// A registry of nodes 100, 200, … at these addresses.
pub(crate) fn registry_file(place: &Path, addresses: &[SocketAddr]) -> PathBuf {
    let entry = |(number, address): (u8, &SocketAddr)| {
        let key = SecretKey::from_bytes(&[number; 32]).unwrap().public_key();
        RegistryFileEntry {
            node_id: OriginatorId(100 * u32::from(number)),
            signer: key.address().to_string(),
            is_canonical: true,
            signing_public_key: key.to_string(),
            http_address: format!("http://{address}"),
            quic_address: None,
            absences: Vec::new(),
        }
    };
    let nodes = (1..).zip(addresses).map(entry).collect();
    let path = place.join("registry.json");
    fs::write(&path, serde_json::to_string(&RegistryFile { nodes, source: None }).unwrap())
        .unwrap();
    path
}

/// The value of a row of a page of metrics, if it is there.
fn value(page: &str, name: &str, labels: &str) -> Option<u64> {
    let row = format!("xmtpd_network_watcher_{name}{{{labels}}} ");
    page.lines().find_map(|line| line.strip_prefix(&row)).map(|value| value.parse().unwrap())
}

fn of_node(page: &str, name: &str, node: u32) -> u64 {
    value(page, name, &format!("publisher_node_id=\"{node}\"")).unwrap_or_default()
}

fn errors(page: &str, node: u32, reason: &str) -> u64 {
    let labels = format!("publisher_node_id=\"{node}\",reason=\"{reason}\"");
    value(page, "node_stream_errors_total", &labels).unwrap_or_default()
}

pub(crate) fn alarms(seen: &Value) -> Vec<(&str, &str)> {
    let all = seen["alarms"].as_array().unwrap().iter();
    all.map(|it| (it["alarm"].as_str().unwrap(), it["text"].as_str().unwrap())).collect()
}

#[test]
fn a_watcher_without_settings_of_a_chain_ends_with_what_is_missing() {
    let place = tempfile::tempdir().unwrap();
    for watcher in ["chain-watcher", "network-watcher"] {
        let mut command = hawser();
        command.args([watcher, "--listen", "127.0.0.1:0"]).current_dir(&place);
        let mut running = Running::start(command, true);
        running.line("the setting", |line| line.contains("settlement-chain.rpc-url"));
        assert_eq!(running.end().code(), Some(2), "{watcher}");
    }
}

#[test]
fn nodes_that_lie_flood_or_are_silent_are_told_apart_and_hold_up_no_other() {
    let runtime = Runtime::new().unwrap();
    let liars = [Liar::Honest, Liar::Inventor, Liar::Giant, Liar::Forgetful, Liar::Flooder];
    let mut addresses: Vec<_> = liars.into_iter().map(|liar| start(&runtime, liar)).collect();
    addresses.push(start_old(&runtime));
    addresses.push(start_silent(&runtime));
    let place = tempfile::tempdir().unwrap();
    let registry = registry_file(place.path(), &addresses);

    let metrics = format!("127.0.0.1:{}", free_base(0));
    let mut command = watcher_command();
    command.args(["--listen", &metrics, "--reconnect-min-backoff", "10ms"]);
    command.args(["--reconnect-max-backoff", "100ms", "--registry-file"]).arg(&registry);
    let mut watcher = Running::start(command, true);
    watcher.line("address", |line| line.contains("/metrics"));
    let seen = || page(&metrics, "/metrics");
    until("the honest node is up", || of_node(&seen(), "node_up", 100) == 1);
    until("the invented are counted", || {
        of_node(&seen(), "unknown_originators", 200) == u64::from(INVENTED)
    });
    until("too large", || errors(&seen(), 300, "too_large") > 1);
    until("went back", || of_node(&seen(), "cursor_regressions_total", 400) == 2);
    until("flood", || errors(&seen(), 500, "flood") > 1);
    until("old", || errors(&seen(), 600, "unimplemented") > 1);
    until("silent", || errors(&seen(), 700, "silent") > 0);

    let seen = seen();
    assert_eq!(of_node(&seen, "node_up", 100), 1, "{seen}");
    assert_eq!([300, 600, 700].map(|node| of_node(&seen, "node_up", node)), [0; 3]);
    assert_eq!(value(&seen, "cursor_max", "originator_node_id=\"100\""), Some(9));
    let lag = "publisher_node_id=\"400\",originator_node_id=\"0\"";
    assert_eq!(value(&seen, "cursor_lag", lag), Some(3));
    assert_eq!(value(&seen, "cursor_divergence", "originator_node_id=\"0\""), Some(3));
    assert!(seen.contains("\nxmtpd_network_watcher_known_nodes 7\n"), "{seen}");
    assert!(!seen.contains("originator_node_id=\"1000\""), "an invented originator has a row");
    assert!(seen.lines().count() < 500, "{}", seen.lines().count());
    signal(watcher.pid(), "TERM");
    assert!(watcher.end().success());

    let mut command = watcher_command();
    command.args(["--once", "--json", "--registry-file"]).arg(&registry);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(8), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let raised = alarms(&report);
    let about = |kind: &str, node: &str| {
        raised.iter().any(|(alarm, text)| *alarm == kind && text.contains(node))
    };
    assert!(about("unknown_originators", "node 200"), "{raised:?}");
    for node in ["node 300", "node 600", "node 700"] {
        assert!(about("node_down", node), "{node}: {raised:?}");
    }
    assert!(!raised.iter().any(|(_, text)| text.contains("node 100")), "{raised:?}");
}

#[test]
fn a_node_outside_the_canonical_network_is_shown_and_raises_no_alarm() {
    let runtime = Runtime::new().unwrap();
    let addresses = [start(&runtime, Liar::Honest), start(&runtime, Liar::Inventor)];
    let place = tempfile::tempdir().unwrap();
    let registry = registry_file(place.path(), &addresses);
    let mut records: Value = serde_json::from_slice(&fs::read(&registry).unwrap()).unwrap();
    records["nodes"][1]["isCanonical"] = false.into();
    fs::write(&registry, records.to_string()).unwrap();
    let mut command = watcher_command();
    command.args(["--once", "--json", "--registry-file"]).arg(&registry);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes = ["canonical", "up"]
        .map(|field| [0_usize, 1].map(|node| seen["nodes"][node][field] == true));
    assert_eq!(nodes, [[true, false], [true, true]], "{seen}");
    assert_eq!(seen["nodes"][1]["unknown_originators"], INVENTED, "{seen}");
}

#[test]
fn a_table_of_the_nodes_is_printed_again_and_again() {
    let runtime = Runtime::new().unwrap();
    let place = tempfile::tempdir().unwrap();
    let registry = registry_file(place.path(), &[start(&runtime, Liar::Honest)]);
    let mut command = watcher_command();
    command.args(["--table", "--every", "50ms", "--registry-file"]);
    command.arg(&registry);
    let mut watcher = Running::start(command, false);
    let is_up = |line: &str| line.starts_with("node 100 at ") && line.contains(": up, cursor of ");
    for _ in 0..2 {
        watcher.line("row of the node", is_up);
        watcher.line("row of its strand", |line| line == "originator 100: 9, all nodes");
        watcher.line("verdict", |line| line == "no alarm");
    }
    signal(watcher.pid(), "TERM");
    assert!(watcher.end().success());
}

#[test]
fn malformed_details_of_an_error_end_no_command() {
    let runtime = Runtime::new().unwrap();
    let address = start(&runtime, Liar::Malformed);
    let place = tempfile::tempdir().unwrap();
    let registry = registry_file(place.path(), &[address]);
    let mut watch = watcher_command();
    watch.args(["--once", "--json", "--registry-file"]).arg(&registry);
    let mut query = hawser();
    query.args(["query", "cursors", "--node", &address.to_string()]);
    for (mut command, code) in [(watch, 8), (query, 1)] {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    }
}

#[test]
fn probes_measure_the_way_of_an_envelope_from_each_node_to_the_other() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(2), &["--nodes", "2"]);
    let metrics = format!("127.0.0.1:{}", free_base(0));
    let mut command = watcher_command();
    command.args(["--listen", &metrics, "--probe-every", "100ms", "--network"]);
    command.arg(place.path().join("network.json")).arg("--probe-key-file").arg(dev.payer_key());
    let mut watcher = Running::start(command, true);
    watcher.line("address", |line| line.contains("/metrics"));
    let has_delay = |seen: &str, from: u32, to: u32| {
        let labels = format!("publisher_node_id=\"{to}\",originator_node_id=\"{from}\"");
        seen.contains(&format!("xmtpd_network_watcher_probe_delay_seconds{{{labels}}} "))
    };
    until("an envelope of each node was shown by the other", || {
        let seen = page(&metrics, "/metrics");
        has_delay(&seen, 100, 200) && has_delay(&seen, 200, 100)
    });
    let seen = page(&metrics, "/metrics");
    let failures = |node: u32, phase: &str| {
        let labels = format!("publisher_node_id=\"{node}\",phase=\"{phase}\"");
        value(&seen, "probe_failures_total", &labels)
    };
    assert_eq!([100, 200].map(|node| failures(node, "publish")), [Some(0); 2], "{seen}");
    assert!(value(&seen, "probes_total", "originator_node_id=\"200\"") > Some(0), "{seen}");
    signal(watcher.pid(), "TERM");
    assert!(watcher.end().success());
}

#[test]
fn a_node_that_takes_no_probe_is_counted() {
    let runtime = Runtime::new().unwrap();
    let place = tempfile::tempdir().unwrap();
    let registry = registry_file(place.path(), &[start(&runtime, Liar::Honest)]);
    let key = place.path().join("payer.key");
    assert!(hawser().args(["keys", "generate", "--out"]).arg(&key).status().unwrap().success());
    let metrics = format!("127.0.0.1:{}", free_base(0));
    let mut command = watcher_command();
    command.args(["--listen", &metrics, "--probe-every", "20ms"]);
    command.arg("--registry-file").arg(&registry).arg("--probe-key-file").arg(&key);
    let mut watcher = Running::start(command, true);
    watcher.line("address", |line| line.contains("/metrics"));
    let labels = "publisher_node_id=\"100\",phase=\"publish\"";
    let failures = || value(&page(&metrics, "/metrics"), "probe_failures_total", labels);
    until("it does not know the call", || failures() > Some(1));
    signal(watcher.pid(), "TERM");
    assert!(watcher.end().success());

    let mut once = watcher_command();
    once.args(["--once", "--probe-key-file"]).arg(&key);
    assert_eq!(once.output().unwrap().status.code(), Some(2), "one look measures nothing");
}

#[test]
fn a_network_is_quiet_until_a_node_of_it_ends() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(2), &["--nodes", "2"]);
    let network = place.path().join("network.json");
    let once = || {
        let mut command = watcher_command();
        command.args(["--once", "--json", "--network"]).arg(&network);
        let output = command.output().unwrap();
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), seen)
    };
    let (code, seen) = once();
    assert_eq!(code, Some(0), "{seen}");
    assert_eq!(alarms(&seen), [], "{seen}");
    let up = |seen: &Value| {
        let nodes = seen["nodes"].as_array().unwrap().iter();
        nodes.map(|node| node["up"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(up(&seen), [true, true]);

    let metrics = format!("127.0.0.1:{}", free_base(0));
    let mut command = watcher_command();
    // As the reference implementation's watcher is configured.
    let settlement = dev.network["settlement_chain"]["rpc"].as_str().unwrap();
    let registry = dev.network["contracts"]["nodeRegistry"].as_str().unwrap();
    command.env("SETTLEMENT_CHAIN_RPC_URL", settlement).env("NODE_REGISTRY_ADDRESS", registry);
    command.args(["--listen", &metrics]);
    let mut watcher = Running::start(command, true);
    watcher.line("address", |line| line.contains("/metrics"));
    let topic = new_group();
    let line = |_| json!({ "hex": hex::encode(message(&topic)) }).to_string();
    let file = place.path().join("envelopes.jsonl");
    fs::write(&file, (0..20).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    dev.publish(0, file.to_str().unwrap());
    let held = "publisher_node_id=\"200\",originator_node_id=\"100\"";
    let place_of = |labels| value(&page(&metrics, "/metrics"), "cursor", labels);
    until("node 200 holds something of node 100", || place_of(held) > Some(0));
    let own = "publisher_node_id=\"100\",originator_node_id=\"100\"";
    until("both hold the same", || place_of(held) == place_of(own));
    let last = place_of(held);

    signal(dev.pid(1), "KILL");
    until("node 200 is down", || of_node(&page(&metrics, "/metrics"), "node_up", 200) == 0);
    assert_eq!(place_of(held), last, "its last cursor stays");
    assert_eq!(of_node(&page(&metrics, "/metrics"), "node_up", 100), 1);
    let (code, seen) = once();
    assert_eq!(code, Some(8), "{seen}");
    assert_eq!(up(&seen), [true, false]);
    assert_eq!(alarms(&seen)[0].0, "node_down", "{seen}");
    drop(dev);
}

/// Places of the strand of the fake nodes. The 64 random samples of one look meet each place of a strand that is no
/// longer than 16: the first 63 divide it into 32 parts, of which one at least lies within the place.
pub(crate) const PLACES: u64 = 16;

fn key() -> SecretKey {
    SecretKey::from_bytes(&[2; 32]).unwrap()
}

/// The envelope at a place: that of the strand, or another one that its node signed for the same place.
fn envelope(place: u64, is_other: bool) -> Bytes {
    entry_at(&key(), place, if is_other { place + 1_000 } else { place }).bytes
}

/// A node without a stream of cursors, which holds other envelopes at these places than the rest.
pub(crate) fn node_with_others(others: &'static [u64]) -> FakeNode {
    FakeNode::start(&[(NODE, PLACES)], move |_, after| match after < PLACES {
        true => vec![envelope(after + 1, others.contains(&(after + 1)))],
        false => Vec::new(),
    })
}

/// Runs the watcher once on these nodes, and returns its exit code and its view.
pub(crate) fn seen_once(nodes: &[FakeNode]) -> (Option<i32>, Value) {
    let place = tempfile::tempdir().unwrap();
    let addresses: Vec<SocketAddr> = nodes.iter().map(FakeNode::address).collect();
    let registry = registry_file(place.path(), &addresses);
    let mut command = watcher_command();
    command.args(["--once", "--json", "--registry-file"]).arg(&registry);
    let output = command.output().unwrap();
    let seen = serde_json::from_slice(&output.stdout);
    (output.status.code(), seen.unwrap_or_else(|_| panic!("{output:?}")))
}

fn leaf(place: u64, is_other: bool) -> String {
    envelope_leaf(&envelope(place, is_other)).unwrap().to_string()
}

#[test]
fn nodes_without_streams_and_trees_are_asked_and_their_envelopes_are_compared() {
    let mut nodes = vec![node_with_others(&[]), node_with_others(&[])];
    let (code, seen) = seen_once(&nodes);
    assert_eq!((code, alarms(&seen)), (Some(0), Vec::new()), "{seen}");
    let is_strand = |it: &&Value| it["originator_id"] == NODE;
    let compared = |seen: &Value| {
        seen["originators"].as_array().unwrap().iter().find(is_strand).unwrap()["compared"].clone()
    };
    // The place that all hold, and samples behind it.
    assert_eq!(compared(&seen), 1 + 64, "{seen}");

    // Equal but for the envelope at the place that all have.
    nodes.push(node_with_others(&[PLACES]));
    let (code, seen) = seen_once(&nodes);
    assert_eq!(code, Some(8), "{seen}");
    let raised = alarms(&seen);
    assert_eq!(raised.len(), 1, "{seen}");
    assert_eq!(raised[0].0, "content");
    for part in [leaf(PLACES, false), leaf(PLACES, true)] {
        assert!(raised[0].1.contains(&part), "{seen}");
    }
    let sides = &seen["differences"][0]["sides"];
    assert_eq!((&sides[0]["nodes"], &sides[1]["nodes"]), (&json!([100, 200]), &json!([300])));
}

#[test]
fn one_envelope_far_behind_the_head_is_found_by_the_trees_with_both_statements() {
    let nodes = [node_with_others(&[]), node_with_others(&[]), node_with_others(&[3, 13])];
    nodes.iter().for_each(FakeNode::grow_trees);
    let (code, seen) = seen_once(&nodes);
    assert_eq!(code, Some(8), "{seen}");
    let difference = &seen["differences"][0];
    assert_eq!(difference["first_sequence_id"], 3, "{seen}");
    let leaves = json!([
        { "node_id": 100, "leaf": leaf(3, false) },
        { "node_id": 300, "leaf": leaf(3, true) },
    ]);
    assert_eq!(difference["first_leaves"], leaves);
    let sides = difference["sides"].as_array().unwrap();
    assert_eq!(sides[0]["leaf"], sides[1]["leaf"], "the last envelope is the same");
    assert_ne!(sides[0]["root"], sides[1]["root"]);
    assert_eq!(sides[1]["nodes"], json!([300]));

    // A node without trees has the same envelope as the others.
    let mixed = [node_with_others(&[]), node_with_others(&[]), node_with_others(&[])];
    mixed[0].grow_trees();
    let (code, seen) = seen_once(&mixed);
    assert_eq!((code, alarms(&seen)), (Some(0), Vec::new()), "{seen}");
}

#[test]
fn one_envelope_far_behind_the_head_is_found_among_nodes_without_trees() {
    for with_trees in [0, 1] {
        let nodes = [node_with_others(&[]), node_with_others(&[]), node_with_others(&[3])];
        nodes[..with_trees].iter().for_each(FakeNode::grow_trees);
        let (code, seen) = seen_once(&nodes);
        assert_eq!(code, Some(8), "{seen}");
        let difference = &seen["differences"][0];
        assert_eq!(difference["sequence_id"], 3, "{seen}");
        let sides = difference["sides"].as_array().unwrap();
        assert_eq!(sides[0]["leaf"], leaf(3, false), "{seen}");
        assert_eq!((&sides[1]["leaf"], &sides[1]["nodes"]), (&leaf(3, true).into(), &json!([300])));
    }
}

/// An envelope of a chain as a node makes it by its own clock.
fn chain_envelope(place: u64, originator_ns: i64) -> Bytes {
    let statement = UnsignedOriginatorEnvelope {
        originator_sequence_id: place,
        originator_ns,
        ..Default::default()
    };
    OriginatorEnvelope::encode(statement.encode_to_vec().into(), Proof::Transaction([7; 32]))
}

/// Nodes of other software date a chain's envelopes by their own clocks, and have no trees.
#[test]
fn envelopes_of_a_chain_are_compared_by_trees_alone() {
    let node = |ns: i64| {
        FakeNode::start(&[(0, PLACES)], move |_, after| match after < PLACES {
            true => vec![chain_envelope(after + 1, ns)],
            false => Vec::new(),
        })
    };
    let nodes = [node(1), node(2)];
    let (code, seen) = seen_once(&nodes);
    assert_eq!((code, alarms(&seen)), (Some(0), Vec::new()), "{seen}");
    nodes.iter().for_each(FakeNode::grow_trees);
    let (code, seen) = seen_once(&nodes);
    assert_eq!(code, Some(8), "{seen}");
    assert_eq!(seen["differences"][0]["first_sequence_id"], 1, "{seen}");
}

/// An envelope of another place and a malformed one prove nothing about the strand.
#[test]
fn answers_that_are_none_are_counted_and_are_no_difference() {
    let wrong = FakeNode::start(&[(NODE, PLACES)], |_, _| vec![envelope(2, false)]);
    let nodes = [node_with_others(&[]), wrong, node_with_others(&[])];
    let (code, seen) = seen_once(&nodes);
    assert_eq!((code, alarms(&seen)), (Some(9), Vec::new()), "it was not compared: {seen}");
    assert_eq!(seen["nodes"][1]["content_errors"], 1, "{seen}");
    let error = seen["nodes"][1]["last_content_error"].as_str().unwrap();
    assert!(error.contains(&format!("{NODE}:{PLACES} was asked for")), "{error}");
}

#[test]
fn a_registry_that_cannot_be_read_is_an_error_and_no_verdict() {
    let place = tempfile::tempdir().unwrap();
    let missing = place.path().join("missing.json");
    let output = hawser()
        .args(["network-watcher", "--once", "--registry-file"])
        .arg(&missing)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let empty = registry_file(place.path(), &[]);
    let output = hawser()
        .args(["network-watcher", "--once", "--json", "--registry-file"])
        .arg(&empty)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(8), "{}", stderr(&output));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(alarms(&seen)[0].0, "registry", "nothing is watched: {seen}");
    let wrong = ["--reconnect-min-backoff", "2m", "--reconnect-max-backoff", "1m"];
    let output = hawser().arg("network-watcher").args(wrong).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}
