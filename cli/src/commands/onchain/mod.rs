//! Common parts of the commands that read or change contracts. In reading order:
//!
//! - [`network`]: connections to the chains; [`key`]: the key of the account;
//! - [`OnchainSession`]: shows a plan, asks, sends it, waits, and prints the result;
//! - [`bridging`]: the way of parameters to the app chain;
//! - [`show`]: text and JSON of steps and results.

mod bridging;
mod key;
mod network;
mod session;
mod show;

pub(super) use bridging::{bring, wait_until_arrived};
pub(super) use key::{PAYER, SENDER, read as read_key, signer};
pub(super) use network::{
    ChainsNeeded, ReachedNetwork, app_chain_to_read, connect, connect_beside_node, connect_in_turn,
    connect_to_all, reach, require_settings,
};
pub(super) use session::{Mode, OnchainSession, account, confirm, no_key};
pub(super) use show::ResultFields;
