//! What the commands share that look at the contracts or change them. In reading order:
//!
//! - [`network`]: chains that are reached, and their contracts; [`key`]: in whose name;
//! - [`Session`]: shows a plan, asks, sends it, waits, and says what came of it;
//! - [`show`]: what steps and results look like.

mod key;
mod network;
mod session;
mod show;

use hawser_chain::admin::AdminError;

use crate::config::contracts;
use crate::failure::Failure;

pub(super) use key::{PAYER, SENDER, read as read_key, signer};
pub(super) use network::{Reach, connect};
pub(super) use session::Session;
pub(super) use show::Fields;

/// What an error is for somebody who has given a command.
pub(crate) fn refusal(error: AdminError) -> Failure {
    match &error {
        AdminError::NoAddress(contract) => {
            let flag = contracts::flag_of(*contract);
            Failure::usage(format!(
                "nobody has said where {contract} is: give --chain-json FILE, or --{flag} ADDRESS"
            ))
        }
        AdminError::NoChain(_)
        | AdminError::NoAccount
        | AdminError::UnknownParameter { .. }
        | AdminError::Value { .. } => Failure::usage(error),
        AdminError::UnknownNode { .. } => Failure::not_found(error),
        AdminError::KeyInUse { .. }
        | AdminError::StartInPast { .. }
        | AdminError::StartTooFar { .. } => Failure::refused(error),
        AdminError::TooFewTokens { .. }
        | AdminError::Key(_)
        | AdminError::WouldRevert { .. }
        | AdminError::View { .. }
        | AdminError::Rpc(_) => Failure::failed(error),
    }
}
