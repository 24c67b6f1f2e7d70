//! What people do to the contracts, each thing as a value before anything is sent.
//!
//! ```text
//! nodes::add(&network, &new)       → Plan: steps that are still to be done, notes for people
//! plan.steps[0].call               → what Sender::send or a multisig takes
//! nodes::list(&network)            → what is there, for tests of the same
//! ```
//!
//! A plan is made from what the chain says at that moment and leaves out what is done already:
//! when a command was interrupted, a second run makes the plan of the rest. What can be known to
//! fail is refused before anything is sent.

mod account;
mod amount;
mod error;
mod network;
mod plan;
mod tokens;

pub mod bridge;
pub mod fees;
pub mod nodes;
pub mod parameters;
pub mod payers;
pub mod rates;

pub use account::Account;
pub use amount::{MicroDollars, ParseAmountError};
pub use error::AdminError;
pub use network::{ChainRole, Contract, Contracts, Network};
pub use plan::{Plan, Step};
