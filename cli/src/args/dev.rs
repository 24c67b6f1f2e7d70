//! `hawser dev`: a whole network on this machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::chain::block_time;

/// `hawser dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
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
