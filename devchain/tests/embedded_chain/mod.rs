//! The embedded chain through its port.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod blocks;
mod calls;
mod control;
mod kept;
mod logs;
mod malformed;
mod proofs;
mod random;
mod reorganisation;
mod sending;
mod subscriptions;
mod support;
mod traces;
