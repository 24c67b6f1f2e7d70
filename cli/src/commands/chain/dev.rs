//! `hawser chain dev`: both chains of a development network in one process.

use std::path::{Path, PathBuf};

use alloy::primitives::Address;
use hawser_devchain::deploy::{self, NodeRegistration};
use hawser_devchain::devnet::{Devnet, DevnetError, DevnetSettings};
use hawser_devchain::embedded::EmbeddedStartError;
use hawser_node::error::RunError;
use hawser_node::files::{self, registry};
use hawser_node::service::stop_signal::{StopOn, StopSignals};
use hawser_node::settings::LogSettings;
use tracing::Level;

use super::report;
use super::{APP_OFFSET, CHAIN_JSON, SETTLEMENT_OFFSET};
use crate::args::chain::ChainDevArgs;
use crate::logging;
use crate::output::Reporter;

/// Folder for the addresses when the chains are not kept.
const FOLDER_DEFAULT: &str = "hawser-chain";

/// Runs the command until a signal stops it. Needs several threads: requests are executed beside one another, and the
/// deployment waits for some.
///
/// # Errors
/// When the chains do not start, or a file cannot be read or written.
pub(super) async fn run(args: ChainDevArgs, as_json: bool) -> Result<(), RunError> {
    logging::install(LogSettings { level: Level::INFO, json: false });
    let reporter = Reporter { as_json };
    let mut ends =
        StopSignals::listen(StopOn::of_flag(args.exit_with_parent)).map_err(RunError::failed)?;
    let chain_json = chain_json(&args);
    let nodes = match &args.register_nodes {
        Some(file) => nodes_of(file, args.node_owner)?,
        None => Vec::new(),
    };
    let settings = DevnetSettings {
        app_port: args.base_port + APP_OFFSET,
        settlement_port: args.base_port + SETTLEMENT_OFFSET,
        data_dir: args.data_dir.clone(),
        block_time: args.block_time,
        nodes,
        payer: args.fund_payer,
        anvil: args.anvil.as_ref().map(|program| anvil(program.as_deref())).transpose()?,
    };
    let devnet = tokio::select! {
        started = Devnet::start(settings) => started.map_err(failure)?,
        _ = ends.next() => return Ok(()),
    };
    write(&chain_json, &devnet)?;
    report::ready(reporter, &devnet, &chain_json, args.data_dir.as_deref());
    ends.next().await;
    report::stopping(reporter);
    devnet.stop().await;
    Ok(())
}

/// Returns the anvil program.
///
/// # Errors
/// When there is no anvil.
pub(in crate::commands) fn anvil(named: Option<&Path>) -> Result<PathBuf, RunError> {
    let found = named.map(Path::to_owned).or_else(hawser_devchain::anvil::find_program);
    found.ok_or_else(|| {
        RunError::not_found(
            "there is no anvil: run scripts/contract-tools, or name the program in HAWSER_ANVIL",
        )
    })
}

fn chain_json(args: &ChainDevArgs) -> PathBuf {
    let folder = || args.data_dir.clone().unwrap_or_else(|| FOLDER_DEFAULT.into());
    args.chain_json.clone().unwrap_or_else(|| folder().join(CHAIN_JSON))
}

/// Reads the nodes of a registry file, in the form of the contract.
///
/// # Errors
/// When the file cannot be read, or a node has no URL.
pub(in crate::commands) fn nodes_of(
    file: &Path,
    owner: Option<Address>,
) -> Result<Vec<NodeRegistration>, RunError> {
    let registry = files::read(file, registry::parse).map_err(RunError::failed)?;
    let owner = owner.unwrap_or_else(|| deploy::deployer().address());
    let node = |record: &hawser_rules::NodeRecord| {
        let http_address = record.http_address.clone().ok_or_else(|| {
            let (file, id) = (file.display(), record.id);
            RunError::failed(format!("{file}: node {id} has no URL, or the key of another node"))
        })?;
        Ok(NodeRegistration {
            id: record.id.0,
            owner,
            public_key: *record.public_key.as_bytes(),
            http_address,
            is_canonical: record.canonical,
        })
    };
    registry.nodes().map(node).collect()
}

fn write(path: &Path, devnet: &Devnet) -> Result<(), RunError> {
    let fail = |error: std::io::Error| RunError::failed(format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    let text = format!("{:#}\n", devnet.deployment().addresses.to_json());
    files::write_whole(path, text.as_bytes()).map_err(fail)
}

fn failure(error: DevnetError) -> RunError {
    match &error {
        DevnetError::Start { error: EmbeddedStartError::Listen { .. }, .. }
        | DevnetError::Anvil { .. } => {
            RunError::failed(format!("{error} Stop that, or choose another --base-port"))
        }
        _ => RunError::failed(error),
    }
}
