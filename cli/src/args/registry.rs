//! Arguments of `hawser registry`: nodes, rates and parameters.

use std::path::PathBuf;

use alloy::primitives::Address;
use clap::{Args, Subcommand};

use super::onchain::{BridgeArgs, NetworkArgs, TransactionArgs, address};

/// `hawser registry`.
#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// Register and list nodes.
    Node {
        /// The subcommand.
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Choose the nodes of the canonical network.
    Canonical {
        /// The subcommand.
        #[command(subcommand)]
        command: CanonicalCommand,
    },
    /// List and add rates, the prices of messages.
    Rates {
        /// The subcommand.
        #[command(subcommand)]
        command: RatesCommand,
    },
    /// Read and set parameters of the contracts.
    Params {
        /// The subcommand.
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
    List(NodeListArgs),
    /// Print one record, and the account that may transfer it beside its owner.
    Get(NodeGetArgs),
    /// Change the URL of a node's API.
    UpdateHttp(UpdateHttpArgs),
    /// Give a node's token to another account, and with it the right to its URL and its fees.
    Transfer(NodeTokenArgs),
    /// Let another account transfer a node's token; the zero address lets none.
    Approve(NodeTokenArgs),
    /// Set the URL before the id in the URI of each node's token.
    BaseUri(BaseUriArgs),
}

/// `hawser registry node list`.
#[derive(Debug, Args)]
pub(crate) struct NodeListArgs {
    /// Print a registry file, which names the contract, the chain's newest block, and the periods in which a node was
    /// not in the network.
    #[arg(long)]
    pub(crate) registry_file: bool,
    /// Leave these periods out of the file, instead of reading all events of the contract since its deployment.
    #[arg(long, requires = "registry_file")]
    pub(crate) no_absences: bool,
    /// Chains and contracts.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser registry node get`.
#[derive(Debug, Args)]
pub(crate) struct NodeGetArgs {
    /// The node's id.
    #[arg(value_name = "ID")]
    pub(crate) node: u32,
    /// Chains and contracts.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser registry node transfer` and `approve`.
#[derive(Debug, Args)]
pub(crate) struct NodeTokenArgs {
    /// The node's id.
    #[arg(value_name = "ID")]
    pub(crate) node: u32,
    /// The other account.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) to: Address,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser registry node base-uri`.
#[derive(Debug, Args)]
pub(crate) struct BaseUriArgs {
    /// The URL; it must end with a slash.
    #[arg(value_name = "URL")]
    pub(crate) base_uri: String,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser registry node add`.
#[derive(Debug, Args)]
pub(crate) struct NodeAddArgs {
    /// Account that may change the node's URL and that receives its fees.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) owner: Address,
    /// URL of the node's API: http://host:port or https://host.
    #[arg(long, value_name = "URL")]
    pub(crate) http_address: String,
    /// Public key of the node: 65 bytes, hex, as `hawser keys show` prints it.
    #[arg(long, value_name = "HEX", required_unless_present = "node_key_file")]
    pub(crate) public_key: Option<String>,
    /// File with the node's secret key; only the public key is used.
    #[arg(long, value_name = "FILE", conflicts_with = "public_key")]
    pub(crate) node_key_file: Option<PathBuf>,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser registry node update-http`.
#[derive(Debug, Args)]
pub(crate) struct UpdateHttpArgs {
    /// The node's id.
    #[arg(value_name = "ID")]
    pub(crate) node: u32,
    /// URL of the node's API: http://host:port or https://host.
    #[arg(value_name = "URL")]
    pub(crate) http_address: String,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser registry canonical`.
#[derive(Debug, Subcommand)]
pub(crate) enum CanonicalCommand {
    /// Add a node to the canonical network.
    Add(CanonicalArgs),
    /// Remove a node from the canonical network.
    Remove(CanonicalArgs),
}

/// `hawser registry canonical add` and `remove`.
#[derive(Debug, Args)]
pub(crate) struct CanonicalArgs {
    /// The node's id.
    #[arg(value_name = "ID")]
    pub(crate) node: u32,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser registry rates`.
#[derive(Debug, Subcommand)]
pub(crate) enum RatesCommand {
    /// Add rates that apply from a time on. All fees are in picodollars, 10^-12 of a dollar.
    Add(RatesAddArgs),
    /// Print all rates, oldest first.
    List(RatesListArgs),
}

/// `hawser registry rates list`.
#[derive(Debug, Args)]
pub(crate) struct RatesListArgs {
    /// Print a rates file, as `hawser audit` takes it (`--rates`). It names the time of the chain's newest block, up to
    /// which the list is complete.
    #[arg(long)]
    pub(crate) rates_file: bool,
    /// Chains and contracts.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser registry rates add`.
#[derive(Debug, Args)]
pub(crate) struct RatesAddArgs {
    /// Fee for each message, picodollars.
    #[arg(long, value_name = "P$")]
    pub(crate) message_fee: u64,
    /// Fee for each byte and day, picodollars.
    #[arg(long, value_name = "P$")]
    pub(crate) storage_fee: u64,
    /// Fee for each unit of congestion, picodollars.
    #[arg(long, value_name = "P$")]
    pub(crate) congestion_fee: u64,
    /// Messages per minute at which congestion begins.
    #[arg(long, visible_alias = "target-rate", value_name = "N")]
    pub(crate) target_rate_per_minute: u64,
    /// Start in unix seconds [default: in two hours, so that every node has read them].
    #[arg(long, value_name = "SECONDS")]
    pub(crate) start_time: Option<u64>,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser registry params`.
#[derive(Debug, Subcommand)]
pub(crate) enum ParamsCommand {
    /// Print the parameters that are set, and the values that the contracts use.
    Get(ParamsGetArgs),
    /// Set parameters on the settlement chain.
    Set(ParamsSetArgs),
    /// Bridge parameters to the app chain.
    Bridge(ParamsBridgeArgs),
}

/// `hawser registry params get`.
#[derive(Debug, Args)]
pub(crate) struct ParamsGetArgs {
    /// Names of parameters, such as xmtp.payerRegistry.minimumDeposit [default: all known ones].
    #[arg(value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Chains and contracts.
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
    /// Also call the functions with which the contracts take the values over.
    #[arg(long)]
    pub(crate) apply: bool,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser registry params bridge`.
#[derive(Debug, Args)]
pub(crate) struct ParamsBridgeArgs {
    /// Names of parameters.
    #[arg(value_name = "KEY", required = true)]
    pub(crate) keys: Vec<String>,
    /// Wait until they have arrived, and call the functions with which the contracts take them over.
    #[arg(long)]
    pub(crate) apply: bool,
    /// Payment for gas on the app chain.
    #[command(flatten)]
    pub(crate) bridge: BridgeArgs,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}
