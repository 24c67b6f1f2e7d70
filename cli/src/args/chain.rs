//! Arguments of `hawser chain`: chains for development.

use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::Address;
use clap::{Args, Subcommand};

use hawser_node::settings::duration;

use super::onchain::address;

/// `hawser chain`.
#[derive(Debug, Subcommand)]
pub(crate) enum ChainCommand {
    /// Run the two chains of a development network, with all contracts on them.
    ///
    /// For development and tests only: every program that reaches the ports controls the chains, and
    /// the keys of all accounts are public. Both chains listen on this machine only.
    ///
    /// Every fresh start puts the contracts at the same addresses and writes them to chain.json, which configures other
    /// node software too. The reference node has other addresses compiled in for its own local chain (environment
    /// `anvil`): give it the file instead.
    Dev(ChainDevArgs),
}

/// `hawser chain dev`.
#[derive(Debug, Args)]
pub(crate) struct ChainDevArgs {
    /// The app chain is on port B + 10 and the settlement chain on B + 11, HTTP and WebSocket.
    #[arg(
        long,
        value_name = "B",
        default_value_t = 5050,
        value_parser = clap::value_parser!(u16).range(1..=65_524)
    )]
    pub(crate) base_port: u16,
    /// Time between two blocks, such as 5s; whole seconds from 1 s to 30 s [default: a block for each
    /// transaction].
    #[arg(long, value_name = "TIME", value_parser = block_time)]
    pub(crate) block_time: Option<Duration>,
    /// Folder in which the chains are kept [default: they end with the process].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// File for the addresses [default: chain.json in the data folder, or else
    /// hawser-chain/chain.json].
    #[arg(long, value_name = "FILE")]
    pub(crate) chain_json: Option<PathBuf>,
    /// Register the nodes of this file, in the form of registry.json, and make those canonical that are marked so in
    /// it.
    #[arg(long, value_name = "FILE")]
    pub(crate) register_nodes: Option<PathBuf>,
    /// Owner of the registered nodes [default: the account that deploys].
    #[arg(long, value_name = "ADDRESS", value_parser = address, requires = "register_nodes")]
    pub(crate) node_owner: Option<Address>,
    /// Fund this account for publishing: native tokens, and a balance in the payer registry.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) fund_payer: Option<Address>,
    /// Run the chains with anvil instead of this program [default: the one that HAWSER_ANVIL names,
    /// or that scripts/contract-tools has installed, or that PATH has].
    #[arg(long, value_name = "PROGRAM", num_args = 0..=1, require_equals = true)]
    pub(crate) anvil: Option<Option<PathBuf>>,
    /// True if the end of the standard input stops the process, so that a parent process leaves no
    /// chains behind.
    #[arg(long, hide = true)]
    pub(crate) exit_with_parent: bool,
}

/// Parses a block time: chains count whole seconds.
pub(super) fn block_time(text: &str) -> Result<Duration, String> {
    let whole = |time: &Duration| time.subsec_nanos() == 0 && (1..=30).contains(&time.as_secs());
    let expected = "expected whole seconds from 1s to 30s, such as 5s";
    duration(text).filter(whole).ok_or_else(|| expected.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_at_whole_seconds() {
        assert_eq!(block_time("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(block_time("1000ms"), Ok(Duration::from_secs(1)));
        for wrong in ["", "0s", "5", "1500ms", "31s", "-1s"] {
            assert!(block_time(wrong).is_err(), "{wrong}");
        }
    }
}
