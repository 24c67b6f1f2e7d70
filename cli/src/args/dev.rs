//! Arguments of `hawser dev`: a whole network on this machine, and changes of one that runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::chain::block_time;
use super::running_node::time;

/// `hawser dev`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DevArgs {
    /// The subcommand; without one, a network runs.
    #[command(subcommand)]
    pub(crate) command: Option<DevCommand>,
    /// The network to run.
    #[command(flatten)]
    pub(crate) network: DevNetworkArgs,
}

/// Subcommands of `hawser dev`, for a network that runs.
#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Add a node: register it, start it, and wait until it can publish.
    AddNode(DevFolderArgs),
    /// Remove a node from the canonical network, and stop it. Its record and its data stay.
    RemoveNode(DevNodeArgs),
    /// Kill a node, without a moment to end its work.
    Kill(DevNodeArgs),
    /// Start a node again that has ended, and wait until it can publish.
    Start(DevNodeArgs),
    /// Cut the connections between groups of nodes. Clients, gateway and chains still reach every node.
    Partition(DevPartitionArgs),
    /// End a partition.
    Heal(DevFolderArgs),
    /// Stop the network. Its data stays.
    Down(DevFolderArgs),
    /// Delete keys and data of a network that does not run.
    Reset(DevResetArgs),
}

/// The folder of a network.
#[derive(Debug, Args)]
pub(crate) struct DevFolderArgs {
    /// Folder of the network.
    #[arg(long, value_name = "DIR", default_value = "hawser-dev")]
    pub(crate) data_dir: PathBuf,
}

/// A node of a network.
#[derive(Debug, Args)]
pub(crate) struct DevNodeArgs {
    /// Id of the node: 100, 200, 300, …
    #[arg(value_name = "ID")]
    pub(crate) node_id: u32,
    /// The folder.
    #[command(flatten)]
    pub(crate) folder: DevFolderArgs,
}

/// `hawser dev partition`.
#[derive(Debug, Args)]
pub(crate) struct DevPartitionArgs {
    /// Groups of node ids, such as `100,200 300`. Nodes that no group names are one more group.
    #[arg(value_name = "IDS", required = true, value_parser = group)]
    pub(crate) groups: Vec<NodeGroup>,
    /// Time after which the partition ends by itself; at most 24h.
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = time)]
    pub(crate) lasts: Duration,
    /// The folder.
    #[command(flatten)]
    pub(crate) folder: DevFolderArgs,
}

/// `hawser dev reset`.
#[derive(Debug, Args)]
pub(crate) struct DevResetArgs {
    /// Delete without being asked. Without a terminal nothing is deleted unless it is given.
    #[arg(long)]
    pub(crate) yes: bool,
    /// The folder.
    #[command(flatten)]
    pub(crate) folder: DevFolderArgs,
}

/// Ids of nodes on one side of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeGroup(pub(crate) Vec<u32>);

fn group(text: &str) -> Result<NodeGroup, String> {
    let ids: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
    ids.map(NodeGroup).map_err(|_| "node ids with commas between them, such as 100,200".to_owned())
}

/// The network that `hawser dev` runs.
#[derive(Debug, Args)]
pub(crate) struct DevNetworkArgs {
    /// Number of nodes [default: as many as the folder has, or 3].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) nodes: Option<u16>,
    /// Folder for keys and data of the network.
    #[arg(long, value_name = "DIR", default_value = "hawser-dev")]
    pub(crate) data_dir: PathBuf,
    /// Node i, counted from 0, has its API and QUIC on port B + 100·i and its metrics on the next
    /// one; the gateway is on B + 2 and its metrics on B + 3; the chains are on B + 10 and B + 11
    /// [default: that of the folder, or 5050].
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) base_port: Option<u16>,
    /// Envelopes ordered by a chain, as lines of JSON; appended lines are read. A line without `block_time` has
    /// 1750000000 s plus its number, counted from 1. The nodes take it in place of the chains, and there is no gateway.
    #[arg(long, value_name = "FILE")]
    pub(crate) chain_file: Option<PathBuf>,
    /// Time between two blocks of each chain, such as 5s; whole seconds from 1 s to 30 s [default: a
    /// block for each transaction].
    #[arg(long, value_name = "TIME", value_parser = block_time)]
    pub(crate) block_time: Option<Duration>,
    /// Run the chains with anvil instead of this program. The program is the one that HAWSER_ANVIL names, that
    /// scripts/contract-tools has installed, or that is in PATH.
    #[arg(long)]
    pub(crate) anvil: bool,
    /// Delete the keys and data of an earlier network in the folder first.
    #[arg(long)]
    pub(crate) fresh: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_ids_with_commas_between_them() {
        assert_eq!(group("100"), Ok(NodeGroup(vec![100])));
        assert_eq!(group("100,300"), Ok(NodeGroup(vec![100, 300])));
        for wrong in ["", "100,", "a", "-1", "100 200"] {
            assert!(group(wrong).is_err(), "{wrong}");
        }
    }
}
