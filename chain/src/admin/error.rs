//! The errors of administration.

use alloy::primitives::Address;
use hawser_proto::OriginatorId;

use super::amount::MicroDollars;
use super::contract::{ChainRole, Contract};
use crate::contracts::revert::Revert;
use crate::send::{RequestError, ViewError};

/// Error of planning an operation or of reading the contracts' state. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// The address of the contract is not known.
    #[error(
        "the address of {0} is not known: give the file with all addresses, or this address alone"
    )]
    NoAddress(Contract),
    /// The RPC URL of the chain is not known.
    #[error("the RPC URL of the {} is required ({})", .0, url_flag(*.0))]
    NoChain(ChainRole),
    /// The operation depends on the account, and none was given.
    #[error("this command needs an account: give its key, or its address with --from")]
    NoAccount,
    /// The registry has no such node.
    #[error("there is no node {node_id} in the registry")]
    UnknownNode {
        /// The requested id.
        node_id: OriginatorId,
    },
    /// Another record has the same key: peers could not distinguish the two nodes.
    #[error("node {node_id} has this key already, with another owner or address: take a new key")]
    KeyInUse {
        /// The node that has the key.
        node_id: OriginatorId,
    },
    /// The start lies in the past, where every node has already charged by other prices.
    #[error("rates cannot begin in the past: {start_time} is before now ({now})")]
    StartInPast {
        /// The requested start, unix seconds.
        start_time: u64,
        /// The present time, unix seconds.
        now: u64,
    },
    /// The start lies more than a year ahead, so it is probably not in seconds.
    #[error(
        "rates cannot begin more than a year from now ({now}): {start_time} is later; give the start in unix seconds"
    )]
    StartTooFar {
        /// The requested start, unix seconds.
        start_time: u64,
        /// The present time, unix seconds.
        now: u64,
    },
    /// A price is above all amounts that nodes can count.
    #[error("a {what} of {price} p$ is more than any node can charge: at most 9223372036854775807")]
    PriceTooHigh {
        /// The name of the price.
        what: &'static str,
        /// The price, picodollars.
        price: u64,
    },
    /// Nodes read the target rate as another number, which may switch congestion off.
    #[error(
        "nodes read the target rate as a signed 32-bit number, which cannot be {target}: at most 2147483647; 0 means \
         no congestion"
    )]
    TargetTooHigh {
        /// The target rate in messages per minute.
        target: u64,
    },
    /// No contract reads a parameter with this name, so the type of its value is unknown.
    #[error(
        "no contract reads a parameter {key}{}: if it is meant, give its value as 32 bytes, 0x \
         and 64 digits", near.as_ref().map(|near| format!("; the nearest name is {near}")).unwrap_or_default()
    )]
    UnknownParameter {
        /// The requested name.
        key: String,
        /// A similar name, if there is one.
        near: Option<String>,
    },
    /// No contract reads a parameter with this name, and it has no value.
    #[error(
        "{key} has no value, and no contract reads it{}: `hawser registry params get` lists all names",
        near.as_ref().map(|near| format!("; the nearest name is {near}")).unwrap_or_default()
    )]
    UnsetParameter {
        /// The requested name.
        key: String,
        /// A similar name, if there is one.
        near: Option<String>,
    },
    /// The contract would refuse the value.
    #[error("{key} must be {expected}, and is {given:?}")]
    Value {
        /// The parameter's name.
        key: String,
        /// The accepted values.
        expected: String,
        /// The given value.
        given: String,
    },
    /// The contract cannot be paused.
    #[error("{0} cannot be paused: only {list} can", list = Contract::PAUSABLE.map(Contract::name).join(", "))]
    NotPausable(Contract),
    /// The contract has no migrator that this program can set.
    #[error("{0} is not upgraded through a parameter")]
    NotUpgradable(Contract),
    /// The code belongs to another contract, or was deployed with other neighbouring contracts as immutables.
    #[error(
        "the code at {at} is not for this {contract}: its {field} is {found:?}, and must be {expected:?}"
    )]
    OtherImplementation {
        /// The contract.
        contract: Contract,
        /// The address of the code.
        at: Address,
        /// The value that differs.
        field: &'static str,
        /// The expected value.
        expected: String,
        /// The value of this code.
        found: String,
    },
    /// The installed contract names another neighbouring contract than the operator does. One
    /// of the two addresses is wrong.
    #[error(
        "{contract} states {found} as its {getter}, and the given address of {beside} is \
         {expected}: check the file with the addresses, and ask another endpoint"
    )]
    OtherBeside {
        /// The contract.
        contract: Contract,
        /// The getter that returns the neighbour's address.
        getter: &'static str,
        /// The neighbouring contract.
        beside: Contract,
        /// The address that the operator gave.
        expected: Address,
        /// The address that the getter returned.
        found: Address,
    },
    /// The migrator installed other code than planned.
    #[error("{contract} has the code at {found} now, and not the one at {expected}")]
    NotUpgraded {
        /// The contract.
        contract: Contract,
        /// The planned code.
        expected: Address,
        /// The installed code.
        found: Address,
    },
    /// A backfill was requested for a contract other than the node registry, which alone
    /// has canonical nodes to fill in.
    #[error("{0} cannot be backfilled: only NodeRegistry is backfilled")]
    BackfillOfOther(Contract),
    /// A contract of the network would own money or a node, which it can never give away again.
    #[error(
        "{account} is {contract} of this network, which could never give it away again: name another account"
    )]
    OwnContract {
        /// The contract.
        contract: Contract,
        /// Its address.
        account: Address,
    },
    /// The endpoint states a submission fee that no bridge asks for.
    #[error(
        "{endpoint} states a fee of {stated} for a message to the app chain, and {most} is the most that is paid \
         unasked: ask another endpoint, or send the parameters with `hawser registry params bridge --amount`"
    )]
    SubmissionFeeTooHigh {
        /// Scheme, host and port of the endpoint.
        endpoint: String,
        /// The stated fee.
        stated: MicroDollars,
        /// The highest fee that is paid unasked.
        most: MicroDollars,
    },
    /// The account holds too few tokens.
    #[error("{account} has {balance} of {token} and needs {needed}")]
    TooFewTokens {
        /// The account.
        account: Address,
        /// The token.
        token: Contract,
        /// The account's balance.
        balance: MicroDollars,
        /// The needed amount.
        needed: MicroDollars,
    },
    /// Signing failed.
    #[error("the key does not sign: {0}")]
    Key(String),
    /// The contract would revert the call.
    #[error("{contract} would revert: {revert}")]
    WouldRevert {
        /// The contract.
        contract: Contract,
        /// The contract's error.
        revert: Revert,
    },
    /// The endpoints of the settlement chain show different payer reports, and none of them those of most.
    #[error(
        "the endpoints that answer show different payer reports ({}): one lies or is behind, so leave that one out",
        shown.join("; ")
    )]
    ReportsContradicted {
        /// Each endpoint that has answered, with what it shows.
        shown: Vec<String>,
    },
    /// The events of the node registry would take more requests than a reader makes.
    #[error(
        "{endpoint} would be asked more than {requests_max} times for the events up to block {last}, {page_blocks} \
         blocks at a time: it has made up its newest block, or answers for too few blocks at once, so ask another \
         endpoint"
    )]
    TooManyPages {
        /// Scheme, host and port of the endpoint.
        endpoint: String,
        /// The last block whose events are wanted.
        last: u64,
        /// The number of blocks for which the endpoint answers at once.
        page_blocks: u64,
        /// The highest number of requests.
        requests_max: u64,
    },
    /// A contract could not be read.
    #[error("{contract}: {source}")]
    View {
        /// The contract.
        contract: Contract,
        /// The cause.
        source: ViewError,
    },
    /// The chain does not answer.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}

/// Returns the flag that names the RPC URL of a chain.
fn url_flag(chain: ChainRole) -> &'static str {
    match chain {
        ChainRole::Settlement => "--rpc-url",
        ChainRole::App => "--app-rpc-url",
    }
}
