//! Common parts of the commands that read or change contracts. In reading order:
//!
//! - [`network`]: connections to the chains; [`key`]: the key of the account;
//! - [`OnchainSession`]: shows a plan, asks, sends it, waits, and prints the result;
//! - [`show`]: text and JSON of steps and results.

mod key;
mod network;
mod session;
mod show;

pub(super) use key::{PAYER, SENDER, read as read_key, signer};
pub(super) use network::{ChainsNeeded, connect};
pub(super) use session::OnchainSession;
pub(super) use show::ResultFields;
