//! `hawser payer` and `hawser fees`: money in, and money out.

use alloy::primitives::Address;
use clap::{ArgGroup, Args, Subcommand};
use hawser_chain::admin::MicroDollars;

use super::onchain::{NetworkArgs, SendArgs, address, amount};

/// `hawser payer`.
#[derive(Debug, Subcommand)]
pub(crate) enum PayerCommand {
    /// Pay into a payer's balance.
    Deposit(DepositArgs),
    /// Print what a payer has.
    Balance(BalanceArgs),
    /// Take money out of the own balance.
    Withdraw {
        /// What to do.
        #[command(subcommand)]
        command: WithdrawCommand,
    },
}

/// `hawser payer deposit`.
#[derive(Debug, Args)]
pub(crate) struct DepositArgs {
    /// How much: dollars with at most 6 decimals, such as 25 or 10.50.
    #[arg(long, value_name = "DOLLARS", value_parser = amount)]
    pub(crate) amount: MicroDollars,
    /// Whose balance [default: that of the account that sends].
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) payer: Option<Address>,
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

/// `hawser payer balance`.
#[derive(Debug, Args)]
pub(crate) struct BalanceArgs {
    /// Whose balance [default: that of the key].
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) payer: Option<Address>,
    /// The payer's secret key, of which only the address is used.
    #[arg(long, value_name = "FILE", conflicts_with = "payer")]
    pub(crate) key_file: Option<std::path::PathBuf>,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser payer withdraw`.
#[derive(Debug, Subcommand)]
pub(crate) enum WithdrawCommand {
    /// Ask for money; it is ready when the lock is over.
    Request(WithdrawRequestArgs),
    /// Take the request back.
    Cancel(WithdrawCancelArgs),
    /// Pay out what is ready.
    Finalize(WithdrawFinalizeArgs),
}

/// `hawser payer withdraw request`.
#[derive(Debug, Args)]
pub(crate) struct WithdrawRequestArgs {
    /// How much: dollars with at most 6 decimals, such as 25 or 10.50.
    #[arg(long, value_name = "DOLLARS", value_parser = amount)]
    pub(crate) amount: MicroDollars,
    /// Whether and how it is sent.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser payer withdraw cancel`.
#[derive(Debug, Args)]
pub(crate) struct WithdrawCancelArgs {
    /// Whether and how it is sent.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser payer withdraw finalize`.
#[derive(Debug, Args)]
pub(crate) struct WithdrawFinalizeArgs {
    /// Who gets the money [default: the account that sends].
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) recipient: Option<Address>,
    /// As underlying tokens instead of fee tokens.
    #[arg(long)]
    pub(crate) into_underlying: bool,
    /// Whether and how it is sent.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser fees`.
#[derive(Debug, Subcommand)]
pub(crate) enum FeesCommand {
    /// Book the shares of all settled reports that were not claimed before.
    Claim(FeesClaimArgs),
    /// Pay out what was claimed.
    Withdraw(FeesWithdrawArgs),
    /// Print what is owed, and what was claimed of each report.
    Show(FeesShowArgs),
}

/// Whose fees.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("whose").required(true).args(["node", "protocol"])))]
pub(crate) struct WhoseArgs {
    /// Those of this node, for its owner.
    #[arg(long, value_name = "ID")]
    pub(crate) node: Option<u32>,
    /// Those of the protocol.
    #[arg(long)]
    pub(crate) protocol: bool,
}

/// `hawser fees claim`.
#[derive(Debug, Args)]
pub(crate) struct FeesClaimArgs {
    /// Whose fees.
    #[command(flatten)]
    pub(crate) whose: WhoseArgs,
    /// Only reports about this originator; may be given several times [default: all nodes].
    #[arg(long, value_name = "ID")]
    pub(crate) originator: Vec<u32>,
    /// Whether and how it is sent.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser fees withdraw`.
#[derive(Debug, Args)]
pub(crate) struct FeesWithdrawArgs {
    /// Whose fees.
    #[command(flatten)]
    pub(crate) whose: WhoseArgs,
    /// Who gets a node's fees [default: the account that sends].
    #[arg(long, value_name = "ADDRESS", value_parser = address, conflicts_with = "protocol")]
    pub(crate) recipient: Option<Address>,
    /// As underlying tokens instead of fee tokens.
    #[arg(long)]
    pub(crate) into_underlying: bool,
    /// Whether and how it is sent.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser fees show`.
#[derive(Debug, Args)]
pub(crate) struct FeesShowArgs {
    /// Only reports about this originator; may be given several times [default: all nodes].
    #[arg(long, value_name = "ID")]
    pub(crate) originator: Vec<u32>,
    /// Where it is.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}
