//! Validates the content of envelopes: key packages, group messages and identity updates.
//!
//! All validation is a function of its arguments and therefore repeatable. The time is a number, and the answer of a
//! contract wallet, which only its chain knows, is an argument too ([`identity::WalletQuestion`]); `hawser_validation`
//! supplies both.
//!
//! - [`key_package()`] and [`group_message()`]: the MLS structures that nodes read;
//! - [`identity`]: the members of an inbox, computed from its log of signed updates.
//!
//! `docs/protocol/identity.md` has the rules.

#![warn(missing_docs)]

mod group_message;
pub mod identity;
mod key_package;

pub use group_message::{GroupMessage, GroupMessageError, group_message};
pub use key_package::{KEY_PACKAGE_LEN_BYTES_MAX, KeyPackage, KeyPackageError, key_package};
