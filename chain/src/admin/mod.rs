//! Administration of the contracts. Each operation is planned before anything is sent.
//!
//! ```text
//! nodes::add(&network, &new)       → Plan: the remaining steps, with notes for the operator
//! plan.steps[0].call               → the call for Sender::send or a multisig
//! nodes::list(&network)            → the present records
//! ```
//!
//! A plan is computed from the chain's current state and leaves out finished steps: after an interrupted command, a
//! second run plans the rest. Operations that would certainly fail are refused before anything is sent.

mod account;
mod amount;
mod contract;
mod error;
mod network;
mod onchain_reports;
mod plan;
mod tokens;

pub mod agreed;
pub mod bridge;
pub mod fees;
pub mod funding;
pub mod installed;
pub mod membership;
pub mod nodes;
pub mod parameters;
pub mod pauses;
pub mod payers;
pub mod rates;
pub mod settled;
pub mod splitter;
pub mod upgrades;
pub mod watcher;

pub use account::Account;
pub use amount::{MicroDollars, ParseAmountError, SignedMicroDollars, Wei, WeiPerGas};
pub use contract::{ChainRole, Contract, Contracts};
pub use error::AdminError;
pub use network::Network;
pub use plan::{Plan, PlanStep};
pub use tokens::PaymentToken;
