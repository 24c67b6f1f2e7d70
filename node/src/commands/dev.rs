//! `hawser dev`: a whole network on this machine, each node as its own process, so that one can
//! be killed and seen to recover.

mod child;
mod folder;
mod ports;
mod tell;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::cli::DevArgs;
use crate::client;
use crate::failure::Failure;
use crate::files::network::{NetworkFile, NetworkNode};
use crate::files::registry::NodeEntry;
use crate::service::ends::{End, Ends};
use child::{Child, CommandLine, Event, Order};
use folder::Folder;
use ports::Ports;
use tell::{Hints, Teller};

const NODES_DEFAULT: u16 = 3;
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Somebody who waits wants to know for what.
const TELL_AFTER: Duration = Duration::from_secs(10);

/// Runs the command until it is told to stop.
///
/// # Errors
/// When the network does not start, or a node does not stop in order.
pub(super) async fn run(args: DevArgs, as_json: bool) -> Result<(), Failure> {
    let mut ends = Ends::listen(false).map_err(Failure::failed)?;
    let chain_file = args.chain_file.as_deref().map(existing).transpose()?;
    let folder = Folder::open(&args.data_dir, args.fresh)?;
    let ports = choose_ports(&args, &folder)?;
    ports::require_free(&ports).await?;
    let records = folder.prepare(&ports)?;
    folder.retract()?;
    let teller = Teller { as_json };
    teller.starting(ports.len(), &args.data_dir);
    let mut network = Network::start(&folder, &ports, chain_file.as_deref(), teller).await?;
    tokio::select! {
        ready = network.wait_until_ready() => if let Err(failure) = ready {
            // That the others end badly is of less interest than why one did not begin.
            let _ = network.stop(&mut ends).await;
            return Err(failure);
        },
        _ = ends.next() => return network.stop(&mut ends).await,
    }
    let described = network.describe(&folder, &records);
    folder.announce(&described)?;
    let network_file = args.data_dir.join(crate::files::network::FILE_NAME);
    let hints = Hints {
        data_dir: &args.data_dir,
        network_file: &network_file,
        chain_file: args.chain_file.as_deref(),
    };
    teller.ready(&described, &hints);
    network.watch_over(&mut ends).await;
    network.stop(&mut ends).await
}

fn existing(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize()
        .map_err(|error| Failure::not_found(format!("--chain-file {}: {error}", path.display())))
}

/// What was asked for, or else what the folder had, or else the defaults.
fn choose_ports(args: &DevArgs, folder: &Folder) -> Result<Vec<Ports>, Failure> {
    let known = folder.known_nodes()?;
    let nodes = args.nodes.or_else(|| u16::try_from(known.len()).ok().filter(|nodes| *nodes > 0));
    let base = args.base_port.or_else(|| known.first().and_then(base_port_of));
    Ports::of_network(nodes.unwrap_or(NODES_DEFAULT), base.unwrap_or(ports::BASE_DEFAULT))
}

fn base_port_of(first: &NodeEntry) -> Option<u16> {
    let port = first.http_address.rsplit_once(':')?.1.parse().ok()?;
    (first.node_id == 100).then_some(port)
}

/// The nodes as they run.
struct Network {
    children: Vec<Child>,
    /// Who has not ended yet.
    running: Vec<u32>,
    orders: watch::Sender<Order>,
    events: mpsc::Receiver<Event>,
    teller: Teller,
}

impl Network {
    async fn start(
        folder: &Folder,
        ports: &[Ports],
        chain_file: Option<&Path>,
        teller: Teller,
    ) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(Failure::failed)?;
        let (orders, _) = watch::channel(Order::Run);
        let (sender, events) = mpsc::channel(64);
        let mut children = Vec::new();
        for &ports in ports {
            let command = CommandLine::new(&program, folder, ports, chain_file);
            let log_file = folder.node(ports.node_id).log_file;
            let started =
                Child::start(command, ports, &log_file, orders.subscribe(), sender.clone());
            let child = started
                .await
                .map_err(|error| Failure::failed(format!("node {}: {error}", ports.node_id)))?;
            children.push(child);
        }
        let running = children.iter().map(|child| child.ports.node_id).collect();
        Ok(Self { children, running, orders, events, teller })
    }

    /// Waits until every node takes publishes.
    async fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let all: Vec<Ports> = self.children.iter().map(|child| child.ports).collect();
        let teller = self.teller;
        let ready = async {
            for ports in all {
                until_ready(ports, teller).await;
            }
        };
        tokio::pin!(ready);
        loop {
            tokio::select! {
                () = &mut ready => return Ok(()),
                Some(event) = self.events.recv() => match event {
                    Event::Said { node_id, line } => teller.said(node_id, &line),
                    Event::Ended { node_id, status } => {
                        self.running.retain(|running| *running != node_id);
                        return Err(self.not_started(node_id, &status));
                    }
                },
            }
        }
    }

    fn not_started(
        &self,
        node_id: u32,
        status: &std::io::Result<std::process::ExitStatus>,
    ) -> Failure {
        let child = self.child(node_id);
        let log: String = child.last_lines().iter().map(|line| format!("\n  {line}")).collect();
        let status = status_text(status);
        Failure::failed(format!("node {node_id} did not start: {status}; it said last:{log}"))
    }

    fn child(&self, node_id: u32) -> &Child {
        let of_id = |child: &&Child| child.ports.node_id == node_id;
        self.children.iter().find(of_id).expect("events come from children")
    }

    fn describe(&self, folder: &Folder, records: &[NodeEntry]) -> NetworkFile {
        let node = |(child, record): (&Child, &NodeEntry)| NetworkNode {
            node_id: record.node_id,
            grpc: child.ports.api().to_string(),
            quic: child.ports.api().to_string(),
            metrics: child.ports.metrics().to_string(),
            address: record.signer.clone(),
            public_key: record.signing_public_key.clone(),
            data_dir: folder.node(record.node_id).data_dir,
            pid: child.pid,
        };
        NetworkFile {
            nodes: self.children.iter().zip(records).map(node).collect(),
            payer_key_file: folder.payer_key(),
        }
    }

    /// Tells what happens until somebody says stop. A node that dies is not started again: it was
    /// killed to see what happens then.
    async fn watch_over(&mut self, ends: &mut Ends) {
        loop {
            tokio::select! {
                End::Signal(_) | End::Parent = ends.next() => return,
                Some(event) = self.events.recv() => match event {
                    Event::Said { node_id, line } => self.teller.said(node_id, &line),
                    Event::Ended { node_id, status } => {
                        self.running.retain(|running| *running != node_id);
                        let left = self.running.len();
                        self.teller.lost(self.child(node_id), &status_text(&status), left);
                    }
                },
                else => return,
            }
        }
    }

    /// Ends all nodes that still run, in order; the second signal kills them.
    async fn stop(&mut self, ends: &mut Ends) -> Result<(), Failure> {
        if self.running.is_empty() {
            return Ok(());
        }
        self.teller.stopping();
        self.orders.send_replace(Order::Stop);
        let mut in_order = true;
        while !self.running.is_empty() {
            tokio::select! {
                _ = ends.next() => { self.orders.send_replace(Order::Kill); }
                event = self.events.recv() => match event {
                    Some(Event::Said { node_id, line }) => self.teller.said(node_id, &line),
                    Some(Event::Ended { node_id, status }) => {
                        self.running.retain(|running| *running != node_id);
                        in_order &= status.as_ref().is_ok_and(std::process::ExitStatus::success);
                        self.teller.stopped(node_id, &status_text(&status));
                    }
                    None => break,
                },
            }
        }
        if in_order { Ok(()) } else { Err(Failure::failed("not every node has ended in order")) }
    }
}

async fn until_ready(ports: Ports, teller: Teller) {
    let address = ports.metrics().to_string();
    let mut tell_at = Instant::now() + TELL_AFTER;
    loop {
        let why = match client::get(&address, "/readyz?for=publish").await {
            Ok(answer) if answer.status == 200 => return,
            Ok(answer) => unmet(&answer.body),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= tell_at {
            teller.waiting(ports.node_id, why.trim());
            tell_at = Instant::now() + TELL_AFTER;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// What a node says that it still lacks.
pub(super) fn unmet(readiness: &str) -> String {
    let page: serde_json::Value = serde_json::from_str(readiness).unwrap_or_default();
    let conditions = page["conditions"].as_array().into_iter().flatten();
    let unmet: Vec<String> = conditions
        .filter(|condition| condition["met"] == false)
        .map(|condition| {
            let text = |field: &str| condition[field].as_str().unwrap_or("?").to_owned();
            format!("{}: {}", text("name"), text("reason"))
        })
        .collect();
    if unmet.is_empty() { readiness.to_owned() } else { unmet.join("; ") }
}

fn status_text(status: &std::io::Result<std::process::ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("its status is not known: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_lacks_is_told_in_words() {
        let page = r#"{"conditions":[{"name":"a","met":true,"reason":null},
            {"name":"log_writable","met":false,"reason":"a write has failed"}]}"#;
        assert_eq!(unmet(page), "log_writable: a write has failed");
        assert_eq!(unmet("strange"), "strange");
    }
}
