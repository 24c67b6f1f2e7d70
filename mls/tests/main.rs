//! Key packages, public messages and logs of inboxes, as one program.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod differential;
mod identity_log;
mod identity_refusals;
mod key_packages;
mod public_messages;
