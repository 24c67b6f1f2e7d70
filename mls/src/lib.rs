//! What is inside envelopes: key packages, group messages, identity updates.
//!
//! Everything here is a function of its arguments. Time comes in as a number, and a contract wallet
//! that only its chain can speak for is a question that somebody else answers
//! ([`identity::WalletQuestion`]), so every judgement can be repeated. The exception is [`service`],
//! which offers the same judgements over gRPC and waits for those answers.
//!
//! - [`key_package`] and [`group_message`]: the MLS structures that nodes look into;
//! - [`identity`]: who belongs to an inbox, as its log of signed updates says.
//!
//! `docs/protocol/identity.md` has the rules.

#![warn(missing_docs)]

mod group_message;
pub mod identity;
mod key_package;
pub mod service;

pub use group_message::{GroupMessage, GroupMessageError, group_message};
pub use key_package::{KEY_PACKAGE_LEN_BYTES_MAX, KeyPackage, KeyPackageError, key_package};
