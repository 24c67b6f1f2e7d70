//! `hawser registry`: nodes, rates and parameters.

use std::path::PathBuf;

use alloy::primitives::Address;
use clap::{Args, Subcommand};
use hawser_chain::admin::MicroDollars;

use super::onchain::{NetworkArgs, SendArgs, address, amount};

/// `hawser registry`.
#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// The nodes.
    Node {
        /// What to do.
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Which nodes belong to the canonical network.
    Canonical {
        /// What to do.
        #[command(subcommand)]
        command: CanonicalCommand,
    },
    /// What messages cost.
    Rates {
        /// What to do.
        #[command(subcommand)]
        command: RatesCommand,
    },
    /// What the contracts go by.
    Params {
        /// What to do.
        #[command(subcommand)]
        command: ParamsCommand,
    },
}

/// `hawser registry node`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Register a node. It is not canonical yet.
    Add(NodeAddArgs),
    /// Print all records.
    List(NetworkArgs),
    /// Say where a node is reached from now on.
    UpdateHttp(UpdateHttpArgs),
}

/// `hawser registry node add`.
#[derive(Debug, Args)]
pub(crate) struct NodeAddArgs {
    /// The account that may change the node's address, and that has its fees.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) owner: Address,
    /// Where the node is reached: http://host:port or https://host.
    #[arg(long, value_name = "URL")]
    pub(crate) http_address: String,
    /// The node's public key: 65 bytes, hex, as `hawser keys show` prints it.
    #[arg(long, value_name = "HEX", required_unless_present = "node_key_file")]
    pub(crate) public_key: Option<String>,
    /// The node's secret key, of which only the public part is used.
    #[arg(long, value_name = "FILE", conflicts_with = "public_key")]
    pub(crate) node_key_file: Option<PathBuf>,
    /// Whether and how it is sent.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser registry node update-http`.
#[derive(Debug, Args)]
pub(crate) struct UpdateHttpArgs {
    /// The node's id.
    #[arg(value_name = "ID")]
    pub(crate) node: u32,
    /// Where it is reached: http://host:port or https://host.
    #[arg(value_name = "URL")]
    pub(crate) http_address: String,
    /// Whether and how it is sent.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser registry canonical`.
#[derive(Debug, Subcommand)]
pub(crate) enum CanonicalCommand {
    /// Take a node into the canonical network.
    Add(CanonicalArgs),
    /// Take a node out of the canonical network.
    Remove(CanonicalArgs),
}

/// `hawser registry canonical add` and `remove`.
#[derive(Debug, Args)]
pub(crate) struct CanonicalArgs {
    /// The node's id.
    #[arg(value_name = "ID")]
    pub(crate) node: u32,
    /// Whether and how it is sent.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser registry rates`.
#[derive(Debug, Subcommand)]
pub(crate) enum RatesCommand {
    /// Add prices that hold from a time on. All fees are in picodollars, 10^-12 of a dollar.
    Add(RatesAddArgs),
    /// Print all prices, oldest first.
    List(NetworkArgs),
}

/// `hawser registry rates add`.
#[derive(Debug, Args)]
pub(crate) struct RatesAddArgs {
    /// For each message, in picodollars.
    #[arg(long, value_name = "P$")]
    pub(crate) message_fee: u64,
    /// For each byte and day, in picodollars.
    #[arg(long, value_name = "P$")]
    pub(crate) storage_fee: u64,
    /// For each unit of congestion, in picodollars.
    #[arg(long, value_name = "P$")]
    pub(crate) congestion_fee: u64,
    /// Messages a minute from which congestion begins.
    #[arg(long, visible_alias = "target-rate", value_name = "N")]
    pub(crate) target_rate_per_minute: u64,
    /// From when on, in unix seconds [default: in two hours, when every node has read them].
    #[arg(long, value_name = "SECONDS")]
    pub(crate) start_time: Option<u64>,
    /// Whether and how it is sent.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser registry params`.
#[derive(Debug, Subcommand)]
pub(crate) enum ParamsCommand {
    /// Print what is set, and what the contracts go by.
    Get(ParamsGetArgs),
    /// Set parameters on the settlement chain.
    Set(ParamsSetArgs),
    /// Bring parameters to the app chain.
    Bridge(ParamsBridgeArgs),
}

/// `hawser registry params get`.
#[derive(Debug, Args)]
pub(crate) struct ParamsGetArgs {
    /// Names of parameters, such as xmtp.payerRegistry.minimumDeposit [default: all that are
    /// known].
    #[arg(value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser registry params set`.
#[derive(Debug, Args)]
pub(crate) struct ParamsSetArgs {
    /// Names and values: an address, true or false, a decimal number, or 32 bytes as 0x and 64
    /// digits.
    #[arg(value_name = "KEY=VALUE", required = true)]
    pub(crate) assignments: Vec<String>,
    /// Also call the functions that make the contracts take the values over.
    #[arg(long)]
    pub(crate) apply: bool,
    /// Whether and how it is sent.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser registry params bridge`.
#[derive(Debug, Args)]
pub(crate) struct ParamsBridgeArgs {
    /// Names of parameters.
    #[arg(value_name = "KEY", required = true)]
    pub(crate) keys: Vec<String>,
    /// Wait until they have arrived, and call the functions that make the contracts take them
    /// over.
    #[arg(long)]
    pub(crate) apply: bool,
    /// Gas on the app chain [default: 21000, and 120000 for each parameter].
    #[arg(long, value_name = "GAS")]
    pub(crate) gas_limit: Option<u64>,
    /// What is paid for a unit of it, in wei [default: 2 gwei].
    #[arg(long, value_name = "WEI")]
    pub(crate) max_fee_per_gas: Option<u64>,
    /// Fee tokens that are sent along for it [default: what it can cost].
    #[arg(long, value_name = "DOLLARS", value_parser = amount)]
    pub(crate) amount: Option<MicroDollars>,
    /// Make fee tokens that are missing of underlying tokens first.
    #[arg(long)]
    pub(crate) from_underlying: bool,
    /// Whether and how it is sent.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}
