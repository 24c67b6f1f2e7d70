//! The rule by which a command chooses the running node that it asks. `docs/operating.md` describes it:
//!
//! 1. the node that a flag names: its address, its data folder, its settings, or the network file of `hawser dev`;
//! 2. the node of the settings, if the environment is that of a node with settings of its own;
//! 3. the network of the current folder, if `hawser dev` has left one there;
//! 4. the node of the default settings.

use std::path::{Path, PathBuf};

use hawser_node::error::RunError;
use hawser_node::settings::SettingSources;
use hawser_node::{files, settings};

use crate::args::backup::DataDirArgs;
use crate::network_file::{NetworkFile, NetworkNode};

/// Variables that are about the metrics, or name a file with settings or the node's data folder: each is set only where
/// a node has settings of its own.
const NODE_VARIABLES: [&str; 5] = [
    "XMTPD_METRICS_ENABLE",
    "XMTPD_METRICS_METRICS_ADDRESS",
    "XMTPD_METRICS_METRICS_PORT",
    "HAWSER_CONFIG",
    "HAWSER_DATA_DIR",
];

/// Returns true if the environment is that of a node with settings of its own. Such a node is asked at its own address,
/// which may be the default one, whatever the current folder holds.
fn is_beside_a_node() -> bool {
    is_of_a_node(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Returns true for the environment of a node. `is_given` tells of each variable if it has a value.
fn is_of_a_node(is_given: impl Fn(&str) -> bool) -> bool {
    NODE_VARIABLES.into_iter().any(is_given)
}

/// Returns the network file whose nodes are asked: the one that is named, or that of the current folder. `None` means
/// the node of the settings. `has_settings` tells if other flags give settings.
#[must_use]
pub(super) fn network_file(named: Option<&Path>, has_settings: bool) -> Option<PathBuf> {
    if let Some(path) = named {
        return Some(path.to_owned());
    }
    if has_settings || is_beside_a_node() { None } else { NetworkFile::of_current_folder() }
}

/// Returns the address of the metrics of the node to ask: the named node, or else the first node of the network file,
/// or else the node of the settings.
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

/// Returns the data folder of the node that gets an order: that of the first node of the network file, or that of the
/// settings.
///
/// # Errors
/// When the network file or the settings cannot be used, or when nothing names a node and the current folder has both a
/// network and the default data folder.
pub(super) fn data_dir(args: &DataDirArgs, network: Option<&Path>) -> Result<PathBuf, RunError> {
    if let Some(path) = network {
        return Ok(first_node(path)?.data_dir);
    }
    let of_settings = settings::data_dir(&args.sources()).map_err(RunError::usage)?;
    let Some(path) = network_file(None, args.are_given()) else { return Ok(of_settings) };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The image of the program names its data folder and no port, and a network of `hawser dev` leaves its folder
    /// when it ends.
    #[test]
    fn a_data_folder_or_a_setting_of_metrics_tells_of_a_node() {
        for name in [
            "HAWSER_DATA_DIR",
            "HAWSER_CONFIG",
            "XMTPD_METRICS_ENABLE",
            "XMTPD_METRICS_METRICS_ADDRESS",
            "XMTPD_METRICS_METRICS_PORT",
        ] {
            assert!(is_of_a_node(|given| given == name), "{name}");
        }
        assert!(!is_of_a_node(|_| false));
        assert!(!is_of_a_node(|given| given == "XMTPD_API_PORT"));
    }
}
