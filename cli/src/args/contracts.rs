//! Arguments of `hawser contracts`: the contracts themselves, apart from the values they hold.

use std::path::PathBuf;

use alloy::primitives::Address;
use clap::{ArgGroup, Args, Subcommand};
use hawser_chain::admin::Contract;
use hawser_chain::deploy::{DeployerAccount, FoundationInbox, Foundations};

use super::onchain::{BridgeArgs, NetworkArgs, SendArgs, TransactionArgs, address, contract};

/// `hawser contracts`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContractsCommand {
    /// Print every contract: address, version, code, and whether it is paused.
    List(NetworkArgs),
    /// Pause a contract: set its parameter, bring it to its chain, and have the contract adopt it.
    Pause(PauseArgs),
    /// Let a paused contract run again, in the same steps.
    Unpause(PauseArgs),
    /// Replace the code of a contract through its migrator, and verify the result. Steps that are done are left out.
    Upgrade(UpgradeArgs),
    /// Deploy this program's deposit splitter for the network, beside the present one, which cannot be upgraded. Any
    /// account may. Name the new address as `depositSplitter` in chain.json.
    Splitter(TransactionArgs),
    /// Deploy all contracts of a new network on two chains, and configure them. Shows the whole plan first; an
    /// interrupted run is continued by the same command.
    ///
    /// The deploying account must not have sent anything on either chain before: its first two transactions decide the
    /// addresses. It becomes the administrator of all contracts. A multisig deploys by --multisig and --calldata.
    Deploy(DeployArgs),
}

/// `hawser contracts pause` and `unpause`.
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// The contract: PayerRegistry, DistributionManager, SettlementChainGateway, AppChainGateway,
    /// GroupMessageBroadcaster or IdentityUpdateBroadcaster.
    #[arg(value_name = "CONTRACT", value_parser = contract)]
    pub(crate) contract: Contract,
    /// Payment for gas on the app chain.
    #[command(flatten)]
    pub(crate) bridge: BridgeArgs,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser contracts upgrade`.
#[derive(Debug, Args)]
pub(crate) struct UpgradeArgs {
    /// The contract, by its name in the output of `hawser contracts list`.
    #[arg(value_name = "CONTRACT", value_parser = contract)]
    pub(crate) contract: Contract,
    /// Address of code that is deployed already [default: the code of this program, deployed if it is missing].
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) implementation: Option<Address>,
    /// Address of a migrator that is deployed already [default: one that replaces exactly the present code].
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) migrator: Option<Address>,
    /// Fill the node registry's set of canonical nodes from its records, which code before 1.0.1 did not have.
    #[arg(long, conflicts_with = "migrator")]
    pub(crate) backfill: bool,
    /// Payment for gas on the app chain.
    #[command(flatten)]
    pub(crate) bridge: BridgeArgs,
    /// Sending, chains and contracts.
    #[command(flatten)]
    pub(crate) transactions: TransactionArgs,
}

/// `hawser contracts deploy`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("token").required(true).args(["underlying", "stand_in_token"])))]
#[command(group(ArgGroup::new("bridge").required(true).args(["inbox", "stand_in_inbox"])))]
pub(crate) struct DeployArgs {
    /// RPC URL of the settlement chain.
    #[arg(long, value_name = "URL")]
    pub(crate) rpc_url: String,
    /// Id of the settlement chain. An endpoint of another chain is refused.
    #[arg(long, value_name = "N")]
    pub(crate) chain_id: u64,
    /// RPC URL of the app chain.
    #[arg(long, value_name = "URL")]
    pub(crate) app_rpc_url: String,
    /// Id of the app chain.
    #[arg(long, value_name = "N")]
    pub(crate) app_chain_id: u64,
    /// Token that the fee token wraps, with 6 decimals.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    underlying: Option<Address>,
    /// Deploy a token without value in its place, which every account can mint: for development.
    #[arg(long)]
    pub(crate) stand_in_token: bool,
    /// Inbox of the rollup's bridge on the settlement chain, for messages to the app chain.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    inbox: Option<Address>,
    /// Deploy an inbox in its place, from which this account releases returned tokens: for development.
    #[arg(long, value_name = "RELAYER", value_parser = address)]
    stand_in_inbox: Option<Address>,
    /// The deployer of --from is a contract, such as a multisig, with this address on both chains: print the calls that
    /// it has to send, round by round. Run again after each round.
    #[arg(long, requires = "from", conflicts_with = "yes")]
    pub(crate) multisig: bool,
    /// File for the addresses. An existing one must be of the same deployment.
    #[arg(long, value_name = "FILE", default_value = "chain.json")]
    pub(crate) out: PathBuf,
    /// Sending.
    #[command(flatten)]
    pub(crate) send: SendArgs,
}

impl DeployArgs {
    /// Returns the account that deploys.
    #[must_use]
    pub(crate) fn account(&self, address: Address) -> DeployerAccount {
        match self.multisig {
            true => DeployerAccount::Contract(address),
            false => DeployerAccount::Key(address),
        }
    }

    /// Returns the parts that the settlement chain has already.
    #[must_use]
    pub(crate) fn foundations(&self) -> Foundations {
        let relayer = self.stand_in_inbox.unwrap_or_default();
        let inbox = self.inbox.map_or(FoundationInbox::StandIn { relayer }, FoundationInbox::At);
        Foundations { underlying: self.underlying, inbox }
    }
}
