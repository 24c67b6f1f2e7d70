//! Why something cannot be done, or cannot be said.

use alloy::primitives::Address;

use super::{ChainRole, Contract, MicroDollars};
use crate::contracts::revert::Revert;
use crate::send::{RequestError, ViewError};

/// Why there is no plan, or no answer. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// Nobody has said where the contract is.
    #[error("nobody has said where {0} is: give a file with all addresses, or this one")]
    NoAddress(Contract),
    /// Nobody has said how the chain is reached.
    #[error("this needs the {0}'s RPC URL")]
    NoChain(ChainRole),
    /// It depends on whose it is.
    #[error("this needs an account: give its key, or its address with --from")]
    NoAccount,
    /// No such node.
    #[error("there is no node {node_id} in the registry")]
    UnknownNode {
        /// The id that was asked for.
        node_id: u32,
    },
    /// The key belongs to another record: peers could not tell the two apart.
    #[error("node {node_id} has this key already, with another owner or address: take a new key")]
    KeyInUse {
        /// Which node.
        node_id: u32,
    },
    /// Messages since then have other prices already, in every node's log.
    #[error("rates cannot begin in the past: {start_time} is before now ({now})")]
    StartInPast {
        /// When they should begin, unix seconds.
        start_time: u64,
        /// The time, unix seconds.
        now: u64,
    },
    /// More than a year ahead: rather a time in other units.
    #[error(
        "rates that begin at {start_time} begin more than a year from now ({now}); it counts seconds"
    )]
    StartTooFar {
        /// When they should begin, unix seconds.
        start_time: u64,
        /// The time, unix seconds.
        now: u64,
    },
    /// No contract reads a parameter of this name, and its type is not known.
    #[error(
        "no contract reads a parameter {key}{}: if it is meant, give its value as 32 bytes, 0x \
         and 64 digits", near.as_ref().map(|near| format!("; the nearest name is {near}")).unwrap_or_default()
    )]
    UnknownParameter {
        /// The name.
        key: String,
        /// A name that looks like it.
        near: Option<String>,
    },
    /// A contract would not take the value.
    #[error("{key} must be {expected}, and is {given:?}")]
    Value {
        /// The parameter's name.
        key: String,
        /// What it must be.
        expected: String,
        /// What was given.
        given: String,
    },
    /// The account has too few tokens.
    #[error("{account} has {balance} of {token} and needs {needed}")]
    TooFewTokens {
        /// Whose.
        account: Address,
        /// Which token.
        token: Contract,
        /// What is there.
        balance: MicroDollars,
        /// What is needed.
        needed: MicroDollars,
    },
    /// The key does not sign.
    #[error("the key does not sign: {0}")]
    Key(String),
    /// It is known beforehand that the contract refuses.
    #[error("{contract} would revert: {revert}")]
    WouldRevert {
        /// Which contract.
        contract: Contract,
        /// What it says.
        revert: Revert,
    },
    /// A contract could not be read.
    #[error("{contract}: {source}")]
    View {
        /// Which contract.
        contract: Contract,
        /// Why.
        source: ViewError,
    },
    /// The chain does not answer.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}
