//! `hawser dev`: a whole network on this machine. Each node is a process of its own, so that it can be
//! killed and seen to recover; the gateway is one more, and both chains are another.
//!
//! - [`network`]: the processes of a network; [`child`], [`folder`], [`ports`]: what they need;
//! - [`changes`]: what a network does for the subcommands; [`control`]: how they reach it;
//! - [`partition`]: cuts between nodes; [`report`]: what is printed.

mod changes;
mod child;
mod control;
mod folder;
mod network;
mod partition;
mod ports;
mod report;

use std::path::{Path, PathBuf};

use hawser_node::error::RunError;
use hawser_node::files::registry::RegistryFileEntry;
use hawser_node::service::stop_signal::{StopOn, StopSignals};
use serde_json::json;

use crate::args::dev::{DevArgs, DevCommand, DevNetworkArgs, DevResetArgs};
use crate::commands::chain;
use crate::output::{self, Reporter};
use child::{ChainKind, NetworkSource};
use control::{Control, DevRequest};
use folder::Folder;
use network::Network;
use ports::{DevPorts, SharedPorts};
use report::StartHints;

/// Default number of nodes: the fewest of which a majority survives the loss of one.
const NODES_DEFAULT: usize = 3;

/// Runs the command: a network, until a signal or `hawser dev down` stops it, or a change of one that runs.
///
/// # Errors
/// When the network does not start, or a node does not stop in order; or when a change fails.
pub(super) async fn run(args: DevArgs, as_json: bool) -> Result<(), RunError> {
    let Some(command) = args.command else { return run_network(args.network, as_json).await };
    let (folder, request) = match command {
        DevCommand::AddNode(args) => (args, DevRequest::AddNode),
        DevCommand::RemoveNode(args) => (args.folder, DevRequest::RemoveNode(args.node_id)),
        DevCommand::Kill(args) => (args.folder, DevRequest::Kill(args.node_id)),
        DevCommand::Start(args) => (args.folder, DevRequest::Start(args.node_id)),
        DevCommand::Down(args) => (args, DevRequest::Down),
        DevCommand::Partition(args) => return partition::cut(&args, as_json),
        DevCommand::Heal(args) => return partition::heal(&args, as_json),
        DevCommand::Reset(args) => return reset(&args, as_json),
    };
    let done = control::ask(&folder.data_dir, request)?;
    if as_json {
        output::line(done);
    } else {
        output::line(report::done_text(&done));
    }
    Ok(())
}

/// Deletes the network of a folder.
fn reset(args: &DevResetArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = &args.folder.data_dir;
    if !data_dir.is_dir() {
        return Err(RunError::not_found(format!("there is no folder {}", data_dir.display())));
    }
    if !args.yes {
        let question = format!("Delete keys and data of the network in {}?", data_dir.display());
        output::confirm(question, "nothing was deleted")?;
    }
    Folder::open(data_dir, true)?;
    Reporter { as_json }.event(
        || format!("{}: keys and data of its network are deleted", data_dir.display()),
        || json!({ "event": "deleted", "data_dir": output::shown_path(data_dir) }),
    );
    Ok(())
}

async fn run_network(args: DevNetworkArgs, as_json: bool) -> Result<(), RunError> {
    let mut ends = StopSignals::listen(StopOn::Signals).map_err(RunError::failed)?;
    let source = match args.chain_file.as_deref() {
        Some(file) => NetworkSource::Files(existing(file)?),
        None => NetworkSource::Chains,
    };
    let anvil = args.anvil.then(|| chain::dev::anvil(None)).transpose()?;
    if !folder::is_of_network(&args.data_dir) {
        // The lock marks the folder as that of a network, of which `--fresh` deletes files. A network that cannot start
        // must not leave that mark.
        let (ports, shared) = choose_ports(&args, &[])?;
        ports::require_free(&ports, Some(shared)).await?;
    }
    let folder = Folder::open(&args.data_dir, args.fresh)?;
    let (ports, shared) = choose_ports(&args, &folder.known_nodes()?)?;
    ports::require_free(&ports, Some(shared)).await?;
    folder.prepare(&ports)?;
    folder.retract()?;
    let reporter = Reporter { as_json };
    report::starting(reporter, ports.len(), &args.data_dir);
    let kind = ChainKind { block_time: args.block_time, anvil, payer: folder.payer()? };
    let mut network = Network::empty(ports, shared, source, reporter)?;
    tokio::select! {
        ready = network.start(&folder, &kind) => if let Err(failure) = ready {
            // The error of the start matters more than one of stopping the others.
            let _ = network.stop(&mut ends).await;
            return Err(failure);
        },
        _ = ends.next() => return network.stop(&mut ends).await,
    }
    if matches!(network.source, NetworkSource::Chains) {
        folder.write_rates(network.rates(&folder).await?)?;
    }
    let mut control = Control::listen(folder.root());
    let described = network.announce(&folder)?;
    let network_file = args.data_dir.join(crate::network_file::FILE_NAME);
    let hints = StartHints {
        data_dir: &args.data_dir,
        network_file: &network_file,
        chain_file: args.chain_file.as_deref(),
    };
    report::ready(reporter, &described, &hints);
    let farewell = network.watch_over(&folder, &mut control, &mut ends).await;
    let stopped = network.stop(&mut ends).await;
    drop((control, network, folder));
    // `hawser dev down` waits for this, and finds the folder free.
    drop(farewell);
    stopped
}

fn existing(path: &Path) -> Result<PathBuf, RunError> {
    path.canonicalize()
        .map_err(|error| RunError::not_found(format!("--chain-file {}: {error}", path.display())))
}

/// Returns the ports that were given, or else those of the known nodes, or else the defaults. A node that was removed
/// keeps its id and does not run.
fn choose_ports(
    args: &DevNetworkArgs,
    known: &[RegistryFileEntry],
) -> Result<(Vec<DevPorts>, SharedPorts), RunError> {
    let is_removed =
        |id: &u32| known.iter().any(|node| node.node_id.0 == *id && !node.is_canonical);
    let members = known.iter().filter(|node| node.is_canonical).count();
    let nodes = args.nodes.map(usize::from).or(Some(members).filter(|members| *members > 0));
    let base = args.base_port.or_else(|| known.first().and_then(base_port_of));
    let base = base.unwrap_or(ports::BASE_DEFAULT);
    let ids = (1..).map(|number: u32| number * 100).filter(|id| !is_removed(id));
    let ids = ids.take(nodes.unwrap_or(NODES_DEFAULT));
    let nodes = ids.map(|id| DevPorts::of_node(id, base)).collect::<Result<_, RunError>>()?;
    Ok((nodes, SharedPorts::of_network(base)?))
}

fn base_port_of(first: &RegistryFileEntry) -> Option<u16> {
    let port = first.http_address.rsplit_once(':')?.1.parse().ok()?;
    (first.node_id.0 == 100).then_some(port)
}
