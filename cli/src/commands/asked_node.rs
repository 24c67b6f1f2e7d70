//! The running node that a command asks: one that is named, or the first one of a network of `hawser dev`, or
//! the one of the settings.

use std::path::{Path, PathBuf};

use hawser_node::error::RunError;
use hawser_node::settings::SettingSources;
use hawser_node::{files, settings};

use crate::args::backup::DataDirArgs;
use crate::network_file::{NetworkFile, NetworkNode};

/// Returns the address of the metrics of the node that is asked: the one that is named, or the first node of the
/// network file, or that of the settings.
///
/// # Errors
/// When the network file or the settings cannot be used.
pub(super) fn metrics(
    named: Option<&str>,
    network: Option<&Path>,
    sources: &SettingSources,
) -> Result<String, RunError> {
    if let Some(metrics) = named {
        return Ok(metrics.to_owned());
    }
    let Some(path) = network else {
        return Ok(settings::metrics_address(sources).map_err(RunError::usage)?.to_string());
    };
    Ok(first_node(path)?.metrics)
}

/// Returns the data folder of the node that is asked: that of the first node of the network file if one is named, the
/// one of the settings if they name it, that of the first node of the current folder's network, or the default.
///
/// # Errors
/// When the network file or the settings cannot be used, or when no folder is named and the current folder has both a
/// network and the default data folder.
pub(super) fn data_dir(args: &DataDirArgs, network: Option<&Path>) -> Result<PathBuf, RunError> {
    if let Some(path) = network {
        return Ok(first_node(path)?.data_dir);
    }
    let of_settings = settings::data_dir(&args.sources()).map_err(RunError::usage)?;
    if args.names_a_folder() {
        return Ok(of_settings);
    }
    let Some(path) = NetworkFile::of_current_folder() else { return Ok(of_settings) };
    let of_network = first_node(&path)?.data_dir;
    // Orders change the node that they reach, so the command does not guess between two.
    if of_settings.exists() {
        return Err(RunError::usage(format!(
            "the current folder has {} and {}: name the data folder of the node to ask, \
             with --data-dir {} or --data-dir {}",
            path.display(),
            of_settings.display(),
            of_network.display(),
            of_settings.display(),
        )));
    }
    Ok(of_network)
}

/// Returns the first node of a network file.
fn first_node(path: &Path) -> Result<NetworkNode, RunError> {
    let first = files::read(path, NetworkFile::parse)?.nodes.into_iter().next();
    first.ok_or_else(|| RunError::usage(format!("{} names no node", path.display())))
}
