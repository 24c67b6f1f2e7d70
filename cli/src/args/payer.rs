//! Arguments of `hawser payer` and `hawser fees`: payments in and out.

use alloy::primitives::Address;
use clap::{ArgGroup, Args, Subcommand};
use hawser_chain::admin::MicroDollars;
use hawser_proto::PublicKey;

use super::onchain::{NetworkArgs, TransactionArgs, address, amount};
use super::report::ReportNodeArgs;
use super::size::retention;

/// `hawser payer`.
#[derive(Debug, Subcommand)]
pub(crate) enum PayerCommand {
    /// Deposit into a payer's balance.
    Deposit(DepositArgs),
    /// Fund a payer on both chains with one transaction: its balance in the registry, and native tokens on the app
    /// chain.
    Fund(FundArgs),
    /// Make underlying tokens, on a network whose underlying token is a stand-in without value.
    Mint(UnwrapArgs),
    /// Convert underlying tokens into fee tokens.
    Wrap(AmountArgs),
    /// Convert fee tokens into underlying tokens.
    Unwrap(UnwrapArgs),
    /// Send native tokens of the app chain back to the settlement chain, as fee tokens.
    LeaveApp(LeaveAppArgs),
    /// Print a payer's balance.
    Balance(BalanceArgs),
    /// Print a payer's usage as a node has booked it: settled, and not settled yet.
    Usage(UsageArgs),
    /// Estimate the cost of envelopes at the rates of the settlement chain, without congestion.
    Estimate(EstimateArgs),
    /// Withdraw from the sending account's balance.
    Withdraw {
        /// The subcommand.
        #[command(subcommand)]
        command: WithdrawCommand,
    },
}

/// Amount of money that a transaction moves: all of `hawser payer wrap` and `hawser payer withdraw request`.
#[derive(Debug, Args)]
pub(crate) struct AmountArgs {
    /// Amount in dollars with at most 6 decimals, such as 25 or 10.50.
    #[arg(long, value_name = "DOLLARS", value_parser = amount)]
    pub(crate) amount: MicroDollars,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser payer deposit`.
#[derive(Debug, Args)]
pub(crate) struct DepositArgs {
    /// Address of the payer [default: the account that sends].
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) payer: Option<Address>,
    /// Convert underlying tokens into missing fee tokens first.
    #[arg(long)]
    pub(crate) from_underlying: bool,
    /// Amount and sending.
    #[command(flatten)]
    pub(crate) sum: AmountArgs,
}

/// `hawser payer fund`.
#[derive(Debug, Args)]
pub(crate) struct FundArgs {
    /// Amount for the registry, dollars with at most 6 decimals.
    #[arg(long = "registry-amount", value_name = "DOLLARS", value_parser = amount, default_value = "0")]
    pub(crate) registry_amount: MicroDollars,
    /// Amount for the app chain with the cost of the way, dollars with at most 6 decimals.
    #[arg(long, value_name = "DOLLARS", value_parser = amount, default_value = "0")]
    pub(crate) app_amount: MicroDollars,
    /// Address of the payer [default: the account that sends].
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) payer: Option<Address>,
    /// Account of the app chain that gets the tokens [default: the payer, unless it is a contract].
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) app_recipient: Option<Address>,
    /// Gas limit on the app chain [default: 141000].
    #[arg(long, value_name = "GAS")]
    pub(crate) gas_limit: Option<u64>,
    /// Price of a unit of gas on the app chain, wei [default: 2 gwei].
    #[arg(long, value_name = "WEI")]
    pub(crate) max_fee_per_gas: Option<u64>,
    /// Convert underlying tokens into missing fee tokens first.
    #[arg(long)]
    pub(crate) from_underlying: bool,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser payer mint` and `unwrap`.
#[derive(Debug, Args)]
pub(crate) struct UnwrapArgs {
    /// Recipient of the underlying tokens [default: the account that sends].
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) recipient: Option<Address>,
    /// Amount and sending.
    #[command(flatten)]
    pub(crate) sum: AmountArgs,
}

/// `hawser payer leave-app`.
#[derive(Debug, Args)]
pub(crate) struct LeaveAppArgs {
    /// Recipient on the settlement chain [default: the account that sends].
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) recipient: Option<Address>,
    /// Pay out underlying tokens instead of fee tokens.
    #[arg(long)]
    pub(crate) into_underlying: bool,
    /// Amount and sending.
    #[command(flatten)]
    pub(crate) sum: AmountArgs,
}

/// `hawser payer balance`.
#[derive(Debug, Args)]
pub(crate) struct BalanceArgs {
    /// Address of the payer [default: that of the key].
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) payer: Option<Address>,
    /// File with the payer's secret key; only its address is used.
    #[arg(long, value_name = "FILE", conflicts_with = "payer")]
    pub(crate) key_file: Option<std::path::PathBuf>,
    /// Chains and contracts.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser payer usage`.
#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    /// Address of the payer.
    #[arg(value_name = "ADDRESS", value_parser = address)]
    pub(crate) payer: Address,
    /// Compute the usage again from a log, and compare it with the reports on the chain. Exits with 0 if all of them
    /// are proven, with 8 if one differs or the log has faults, and with 9 if places of one were not shown, or the
    /// payer has envelopes in a strand whose signatures could not be verified.
    #[arg(long)]
    pub(crate) verify: bool,
    /// Public key that signed the strands of the older network (10, 11 and 13), as the node's setting of this name: 130
    /// hex digits that begin with 04. Without it their signatures are not verified, and the output says so.
    #[arg(long, value_name = "KEY", requires = "verify", value_parser = public_key)]
    pub(crate) migration_key: Option<PublicKey>,
    /// The log to verify from: the data folder of a stopped node, a folder of backups, `snapshot:` and the place of
    /// snapshots, or the API of a node that runs: `http://host:port` [default: the first node of --network, or else of
    /// ./hawser-dev if no flag and no variable is about a chain, and no variable about metrics or a data folder].
    #[arg(long, value_name = "DATA-DIR|BACKUPS|URL|snapshot:PLACE", requires = "verify")]
    pub(crate) from: Option<String>,
    /// The node.
    #[command(flatten)]
    pub(crate) node: ReportNodeArgs,
    /// Chains and contracts, for --verify.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser payer estimate`.
#[derive(Debug, Args)]
pub(crate) struct EstimateArgs {
    /// Length of a payer envelope, bytes.
    #[arg(long, value_name = "BYTES")]
    pub(crate) size: u64,
    /// Number of envelopes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) count: u64,
    /// Retention of the envelopes in days, 2 to 365; 4294967295 means for ever.
    #[arg(long, visible_alias = "retention-days", value_name = "DAYS", default_value_t = 60, value_parser = retention)]
    pub(crate) retention: u32,
    /// Network whose rates count: the name of a deployed one, such as testnet (with --rpc-url), or a network file as
    /// for --network, or its folder.
    #[arg(long, value_name = "NETWORK", conflicts_with_all = [NetworkArgs::NETWORK, NetworkArgs::ENVIRONMENT])]
    pub(crate) at: Option<String>,
    /// Chains and contracts.
    #[command(flatten)]
    network: NetworkArgs,
}

impl EstimateArgs {
    /// Returns the chain and its contracts, with those that --at names.
    pub(crate) fn network(&mut self) -> &NetworkArgs {
        if let Some(at) = self.at.take() {
            self.network.name(at);
        }
        &self.network
    }
}

/// Parses an uncompressed public key.
fn public_key(text: &str) -> Result<PublicKey, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let key = hex::decode(digits).ok().and_then(|bytes| PublicKey::from_uncompressed(&bytes));
    key.ok_or_else(|| "expected a public key: 130 hex digits that begin with 04".into())
}

/// `hawser payer withdraw`.
#[derive(Debug, Subcommand)]
pub(crate) enum WithdrawCommand {
    /// Request a withdrawal; it can be finalized when the lock is over.
    Request(AmountArgs),
    /// Cancel the requested withdrawal.
    Cancel(TransactionArgs),
    /// Pay out the requested withdrawal.
    Finalize(WithdrawFinalizeArgs),
}

/// `hawser payer withdraw finalize`.
#[derive(Debug, Args)]
pub(crate) struct WithdrawFinalizeArgs {
    /// Recipient of the money [default: the account that sends].
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) recipient: Option<Address>,
    /// Pay out underlying tokens instead of fee tokens.
    #[arg(long)]
    pub(crate) into_underlying: bool,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser fees`.
#[derive(Debug, Subcommand)]
pub(crate) enum FeesCommand {
    /// Claim the shares of all settled reports that are not claimed yet.
    Claim(FeesClaimArgs),
    /// Pay out claimed fees.
    Withdraw(FeesWithdrawArgs),
    /// Print fees that are owed, and the claims of each report.
    Show(FeesShowArgs),
    /// Send the settled fees that the payer registry holds to the manager that pays them out. A withdrawal does so by
    /// itself when tokens are missing.
    Excess(TransactionArgs),
}

/// Beneficiary of the fees.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("whose").required(true).args(["node", "protocol"])))]
pub(crate) struct BeneficiaryArgs {
    /// Fees of this node, for its owner.
    #[arg(long, value_name = "ID")]
    pub(crate) node: Option<u32>,
    /// Fees of the protocol.
    #[arg(long)]
    pub(crate) protocol: bool,
}

/// `hawser fees claim`.
#[derive(Debug, Args)]
pub(crate) struct FeesClaimArgs {
    /// Beneficiary of the fees.
    #[command(flatten)]
    pub(crate) whose: BeneficiaryArgs,
    /// Originator of the reports; may be given several times [default: all nodes, and 10, 11 and 13].
    #[arg(long, value_name = "ID")]
    pub(crate) originator: Vec<u32>,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser fees withdraw`.
#[derive(Debug, Args)]
pub(crate) struct FeesWithdrawArgs {
    /// Beneficiary of the fees.
    #[command(flatten)]
    pub(crate) whose: BeneficiaryArgs,
    /// Recipient of a node's fees [default: the account that sends].
    #[arg(long, value_name = "ADDRESS", value_parser = address, conflicts_with = "protocol")]
    pub(crate) recipient: Option<Address>,
    /// Pay out underlying tokens instead of fee tokens.
    #[arg(long)]
    pub(crate) into_underlying: bool,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser fees show`.
#[derive(Debug, Args)]
pub(crate) struct FeesShowArgs {
    /// Originator of the reports; may be given several times [default: all nodes, and 10, 11 and 13].
    #[arg(long, value_name = "ID")]
    pub(crate) originator: Vec<u32>,
    /// Chains and contracts.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}
