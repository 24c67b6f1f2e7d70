//! The events that `hawser dev` reports.

use std::path::Path;

use serde_json::{Value, json};

use super::child::{ChildProcess, ProcessName};
use crate::network_file::{NetworkChain, NetworkFile, NetworkNode};
use crate::output::{self, Reporter};

pub(super) fn starting(reporter: Reporter, nodes: usize, folder: &Path) {
    reporter.event(
        || format!("starting {} in {}", output::count(nodes, "node"), folder.display()),
        || json!({ "event": "starting", "nodes": nodes, "data_dir": output::shown_path(folder) }),
    );
}

pub(super) fn waiting(reporter: Reporter, who: ProcessName, why: &str) {
    reporter.event(
        || format!("still waiting for {}: {why}", named(who)),
        || event("waiting", who, json!({ "reason": why })),
    );
}

pub(super) fn ready(reporter: Reporter, network: &NetworkFile, args: &StartHints<'_>) {
    reporter.event(
        || ready_text(network, args),
        || {
            let file = output::shown_path(args.network_file);
            json!({ "event": "ready", "network_file": file, "network": network })
        },
    );
}

pub(super) fn log_line(reporter: Reporter, who: ProcessName, line: &str) {
    reporter.event(|| format!("{who} | {line}"), || event("log", who, json!({ "line": line })));
}

/// Reports a process that ended without an order; `left` nodes still run.
pub(super) fn lost(reporter: Reporter, child: &ChildProcess, status: &str, left: usize) {
    let (who, pid, command) = (child.who, child.pid, &child.command);
    let others = match left {
        0 => "no node is running any more".to_owned(),
        1 => "1 node goes on".to_owned(),
        left => format!("{left} nodes go on"),
    };
    reporter.event(
        || {
            format!(
                "{} (pid {pid}): ended, {status}; {others}. To start again:\n  {command}",
                named(who)
            )
        },
        || {
            let more = json!({
                "pid": pid, "status": status, "running": left, "command": command.to_string(),
            });
            event("ended", who, more)
        },
    );
}

pub(super) fn stopping(reporter: Reporter) {
    reporter.event(|| "stopping everything".to_owned(), || json!({ "event": "stopping" }));
}

pub(super) fn stopped(reporter: Reporter, who: ProcessName, status: &str) {
    reporter.event(
        || format!("{}: ended, {status}", named(who)),
        || event("stopped", who, json!({ "status": status })),
    );
}

/// Reports a node that was added or started again, and can publish.
pub(super) fn node_up(reporter: Reporter, what: &str, who: ProcessName, pid: u32) {
    reporter.event(
        || format!("{} (pid {pid}): {what}", named(who)),
        || event(what, who, json!({ "pid": pid })),
    );
}

/// Returns the answer to a command of the user as text.
pub(super) fn done_text(done: &Value) -> String {
    let (what, node) = (done["event"].as_str().unwrap_or_default(), &done["node"]);
    match what {
        "down" => "the network has ended; its data stays".to_owned(),
        "added" | "started" => {
            let text = |field: &str| node[field].as_str().unwrap_or_default();
            format!(
                "node {} is {what} and can publish: grpc http://{}  metrics http://{}/metrics",
                node["node_id"],
                text("grpc"),
                text("metrics")
            )
        }
        _ => format!("node {} is {what}", done["node_id"]),
    }
}

fn named(who: ProcessName) -> String {
    match who {
        ProcessName::Chains => "the chains".to_owned(),
        ProcessName::Gateway => "the gateway".to_owned(),
        ProcessName::Node(_) => who.to_string(),
    }
}

/// Returns an event of one process. `node_id` is null for the gateway and the chains.
fn event(name: &str, who: ProcessName, more: Value) -> Value {
    let mut event = json!({ "event": name, "process": who.to_string(), "node_id": who.node_id() });
    if let (Value::Object(event), Value::Object(more)) = (&mut event, more) {
        event.extend(more);
    }
    event
}

fn shared_lines(network: &NetworkFile) -> Vec<String> {
    let gateway = network.gateway.as_ref().map(|gateway| {
        format!(
            "  gateway  grpc http://{}  metrics http://{}/metrics  pid {}",
            gateway.grpc, gateway.metrics, gateway.pid
        )
    });
    let row = |name: &str, chain: &NetworkChain| {
        format!("  {name}  id {}  {}  {}  pid {}", chain.chain_id, chain.rpc, chain.ws, chain.pid)
    };
    let app = network.app_chain.as_ref().map(|chain| row("app chain", chain));
    let settlement = network.settlement_chain.as_ref().map(|chain| row("settlement chain", chain));
    gateway.into_iter().chain(app).chain(settlement).collect()
}

/// Paths for the commands that are suggested at the start.
#[derive(Debug)]
pub(super) struct StartHints<'a> {
    pub(super) data_dir: &'a Path,
    pub(super) network_file: &'a Path,
    pub(super) chain_file: Option<&'a Path>,
}

fn ready_text(network: &NetworkFile, hints: &StartHints<'_>) -> String {
    let mut lines = vec![String::new()];
    let row = |node: &NetworkNode| {
        format!(
            "  node {}  grpc http://{}  quic {}  metrics http://{}/metrics  pid {}",
            node.node_id, node.grpc, node.quic, node.metrics, node.pid
        )
    };
    lines.push(format!(
        "{} up:",
        if network.nodes.len() == 1 { "The node is" } else { "All nodes are" }
    ));
    lines.extend(network.nodes.iter().map(row));
    lines.extend(shared_lines(network));
    let (Some(first), Some(last)) = (network.nodes.first(), network.nodes.last()) else {
        return lines.join("\n");
    };
    lines.push(String::new());
    match (&network.gateway, hints.chain_file) {
        (Some(gateway), _) => lines.extend([
            "Point clients at the gateway:".into(),
            format!("  http://{}", gateway.grpc),
            "and watch what the last node gets, in another terminal:".into(),
            format!("  hawser tail --node {} --from start", last.grpc),
        ]),
        (None, file) => lines.extend([
            "Watch what the last one gets, in another terminal:".into(),
            format!("  hawser tail --node {} --from start", last.grpc),
            "and give the first one something to sign:".into(),
            format!(
                "  hawser publish --node {} --payer-key-file {} --file {}",
                first.grpc,
                hints.data_dir.join("payer.key").display(),
                file.map_or("envelopes.jsonl".into(), |path| path.display().to_string()),
            ),
        ]),
    }
    lines.extend([
        String::new(),
        format!(
            "Described in {}. Ctrl-C ends everything; the data stays.",
            hints.network_file.display()
        ),
    ]);
    lines.join("\n")
}
