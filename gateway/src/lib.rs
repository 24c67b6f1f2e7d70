//! The payer service: takes client envelopes, signs for them, and has nodes or the app chain order
//! them. Its users need neither a key nor an account on a chain.
//!
//! Keeps nothing on disk. In reading order:
//!
//! - [`routing`]: decides for each client envelope whether a node or the chain orders it;
//! - [`policy`]: identifies callers and limits what each may publish;
//! - `sharing`: the state that several gateways of one payer share; `landed`: the places of envelopes in it;
//! - [`select`]: chooses the node for a topic; `nodes`: the nodes, their state, calls to them;
//! - `fair`: turns of callers that wait; `publish`: publishes to nodes, with retries;
//! - [`identity`]: validates identity updates; [`chain`]: publishes through the chain;
//! - `serve`, `status`: the API for clients, and the statuses of outcomes;
//! - `bill`, `metering`: the usage of callers;
//! - `conditions`, `gateway_status`, `metrics`, `exposition`, `operator`: readiness, and the port for operators;
//! - [`start`] and [`GatewayHandle`]: start and stop.
//!
//! Invariant: a success answers every envelope of the request, in its order.
//! Invariant: a client's bytes are passed on unchanged, and nothing else about the client is.

#![warn(missing_docs)]

mod bill;
pub mod chain;
mod conditions;
mod exposition;
mod fair;
mod gateway_status;
mod handle;
pub mod identity;
mod landed;
mod metering;
mod metrics;
mod nodes;
mod operator;
pub mod policy;
mod publish;
pub mod routing;
mod running;
pub mod select;
mod serve;
mod settings;
mod sharing;
mod status;

pub use handle::{GatewayHandle, StartError, start};
pub use settings::{GatewayPorts, GatewaySettings};

/// Returns the time of this machine, unix nanoseconds.
fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}
