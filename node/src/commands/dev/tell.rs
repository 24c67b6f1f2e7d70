//! What `hawser dev` says: text for people, or one JSON object per event for programs.

use std::path::Path;

use serde_json::{Value, json};

use super::child::Child;
use crate::files::network::{NetworkFile, NetworkNode};
use crate::output;

/// Says things one way or the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Teller {
    pub(super) as_json: bool,
}

impl Teller {
    fn say(self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) {
        if self.as_json {
            output::line(json());
        } else {
            output::line(text());
        }
    }

    pub(super) fn starting(self, nodes: usize, folder: &Path) {
        self.say(
            || format!("starting {} in {}", output::count(nodes, "node"), folder.display()),
            || json!({ "event": "starting", "nodes": nodes, "data_dir": folder }),
        );
    }

    pub(super) fn waiting(self, node_id: u32, why: &str) {
        self.say(
            || format!("still waiting for node {node_id}: {why}"),
            || json!({ "event": "waiting", "node_id": node_id, "reason": why }),
        );
    }

    pub(super) fn ready(self, network: &NetworkFile, args: &Hints<'_>) {
        self.say(
            || ready_text(network, args),
            || json!({ "event": "ready", "network_file": args.network_file, "network": network }),
        );
    }

    pub(super) fn said(self, node_id: u32, line: &str) {
        self.say(
            || format!("node {node_id} | {line}"),
            || json!({ "event": "log", "node_id": node_id, "line": line }),
        );
    }

    /// A node that ended without being told to.
    pub(super) fn lost(self, child: &Child, status: &str, left: usize) {
        let (node_id, pid, command) = (child.ports.node_id, child.pid, &child.command);
        let others = match left {
            0 => "no node is running any more".to_owned(),
            1 => "1 node goes on".to_owned(),
            left => format!("{left} nodes go on"),
        };
        self.say(
            || {
                format!(
                    "node {node_id} (pid {pid}) has ended: {status}; {others}. To start it \
                     again:\n  {command}"
                )
            },
            || {
                json!({
                    "event": "ended", "node_id": node_id, "pid": pid, "status": status,
                    "running": left, "command": command.to_string(),
                })
            },
        );
    }

    pub(super) fn stopping(self) {
        self.say(|| "stopping all nodes".to_owned(), || json!({ "event": "stopping" }));
    }

    pub(super) fn stopped(self, node_id: u32, status: &str) {
        self.say(
            || format!("node {node_id} has ended: {status}"),
            || json!({ "event": "stopped", "node_id": node_id, "status": status }),
        );
    }
}

/// What the first thing to try is made of.
#[derive(Debug)]
pub(super) struct Hints<'a> {
    pub(super) data_dir: &'a Path,
    pub(super) network_file: &'a Path,
    pub(super) chain_file: Option<&'a Path>,
}

fn ready_text(network: &NetworkFile, hints: &Hints<'_>) -> String {
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
    let (Some(first), Some(last)) = (network.nodes.first(), network.nodes.last()) else {
        return lines.join("\n");
    };
    let envelopes =
        hints.chain_file.map_or("envelopes.jsonl".into(), |path| path.display().to_string());
    lines.extend([
        String::new(),
        "Watch what the last one gets, in another terminal:".into(),
        format!("  hawser tail --node {} --from start", last.grpc),
        "and give the first one something to sign:".into(),
        format!(
            "  hawser publish --node {} --payer-key-file {} --file {envelopes}",
            first.grpc,
            hints.data_dir.join("payer.key").display(),
        ),
        String::new(),
        format!(
            "Described in {}. Ctrl-C ends all nodes; their data stays.",
            hints.network_file.display()
        ),
    ]);
    lines.join("\n")
}
