//! The payer service: takes client envelopes, signs for them, and has nodes or the app chain put
//! them in order. Its users need neither key nor account.
//!
//! Nothing is kept on disk. In reading order:
//!
//! - [`routing`]: where each client envelope belongs;
//! - [`policy`]: who may publish what, and how much;
//! - [`select`]: which node; `nodes`: which of them can be used;
//! - [`publish`]: to nodes, and whether their answers are right;
//! - [`chain`]: to the chain, and when nodes show it; [`identity`]: what is judged before;
//! - `serve`, `status`: what clients call, and how outcomes read;
//! - `conditions`, `gateway_status`, `metrics`, `operator`: what operators see;
//! - [`start`] and [`GatewayHandle`]: all of it at work, and its end.
//!
//! Invariant: a success answers every envelope of the request, in its order.
//! Invariant: what a client has written is passed on as it came, and nothing else about the client
//! is.

#![warn(missing_docs)]

pub mod chain;
mod conditions;
mod gateway_status;
mod handle;
pub mod identity;
mod metrics;
mod nodes;
mod operator;
pub mod policy;
pub mod publish;
pub mod routing;
pub mod select;
mod serve;
mod settings;
mod status;

pub use handle::{GatewayHandle, StartError, start};
pub use settings::{GatewaySettings, ListsView, World};

/// The wall clock, unix nanoseconds.
fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}
