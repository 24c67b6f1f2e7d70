//! The payer service: takes client envelopes, signs payer envelopes around them, and publishes them through nodes
//! or the app chain. Its callers need neither a payer key nor an account on a chain.
//!
//! On disk it keeps only records of what it has put on the chain: transactions in flight, and payloads. Modules in
//! reading order:
//!
//! - [`routing`]: decides for each client envelope whether a node or the chain orders it;
//! - [`policy`]: identifies callers and applies the limits and budgets of each;
//! - `sharing`: the state in Redis that several gateways of one payer share; `landed`: the envelope ids in it;
//! - [`select`]: chooses the node for a topic; `nodes`: the nodes, their state, calls to them, with [`node_connector`],
//!   which commands use too, for the address of an [`AddressFrom`], with the authorities of [`authorities_with`];
//! - `fair`: a gate that gives waiting callers turns; `publish`: publishes to nodes, with retries; `running`: counts
//!   attempts, for which a shutdown waits;
//! - [`identity`]: validates identity updates; `log_nodes`: by the logs of which nodes; `inbox_log`: the updates in the
//!   log of an inbox;
//! - [`chain`]: publishes through the chain;
//! - `serve`, `status`: the API for clients, and the gRPC statuses of outcomes;
//! - `bill`, `metering`: the bill of a request, and the usage of each caller;
//! - `conditions`, `gateway_status`, `metrics`, `exposition`, `operator`: readiness, and the port for operators;
//! - [`start`] and [`GatewayHandle`]: start and stop; [`GatewaySettings`]: the settings.
//!
//! Invariant: a successful response has one originator envelope for each envelope of the request, in the order of
//! the request.
//! Invariant: a client envelope is passed on byte for byte, and nodes get no other data about the client.

#![warn(missing_docs)]

mod bill;
pub mod chain;
mod conditions;
mod exposition;
mod fair;
mod gateway_status;
mod handle;
pub mod identity;
mod inbox_log;
mod landed;
mod log_nodes;
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

pub use handle::{GatewayHandle, StartError, check_policies, start};
pub use hawser_dial::authorities_with;
pub use nodes::{AddressFrom, node_channel, node_connector};
pub use settings::{GatewayPorts, GatewaySettings};
pub use sharing::REDIS_ANSWER_LEN_BYTES_MAX;

/// Returns the time of this machine, unix nanoseconds.
fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

/// Returns the time of this machine, unix milliseconds.
fn now_ms() -> u64 {
    u64::try_from(now_ns() / 1_000_000).unwrap_or(0)
}
