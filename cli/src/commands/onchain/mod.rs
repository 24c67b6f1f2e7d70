//! What the commands share that look at the contracts or change them. In reading order:
//!
//! - [`network`]: chains that are reached, and their contracts; [`key`]: in whose name;
//! - [`Session`]: shows a plan, asks, sends it, waits, and says what came of it;
//! - [`show`]: what steps and results look like.

mod key;
mod network;
mod session;
mod show;

pub(super) use key::{PAYER, SENDER, read as read_key, signer};
pub(super) use network::{ChainsNeeded, connect};
pub(super) use session::Session;
pub(super) use show::Fields;
