//! Validates key packages, identity updates and signatures of contract wallets, for nodes, gateways
//! and other software.
//!
//! The rules are pure functions in `hawser_mls`. This crate supplies the arguments that they cannot compute: the time,
//! the state of an inbox so far, and the answers of contract wallets on their chains. In reading order:
//!
//! - [`limits`]: every bound of this crate;
//! - [`clock`]: the clock by which key packages are validated;
//! - [`wallets`]: answers of contract wallets: the chain client, the cache, the queue of open
//!   questions;
//! - [`identity`]: validates updates against the state of their inbox, for nodes; `states` caches these, and `agreed`
//!   remembers the wallets that have agreed to waiting updates;
//! - [`precheck`]: validates updates before they reach the chain, for gateways;
//! - [`service`]: `xmtp.mls_validation.v1` over gRPC; `fold` applies a log in turns; `places` has the requests at
//!   work, and `question_turns` the turns of their callers at contract wallets; `unanswered` tells callers that a
//!   wallet cannot be asked.
//!
//! Invariant: this crate knows neither the engine nor a database. Nodes and gateways adapt it to
//! their own ports.

#![warn(missing_docs)]

mod agreed;
pub mod clock;
mod fold;
pub mod identity;
pub mod limits;
mod places;
pub mod precheck;
mod question_turns;
pub mod service;
mod states;
mod unanswered;
pub mod wallets;
