//! A node from its start to its end: the one place where its parts are put together.
//!
//! - [`node`]: start, and stop in order;
//! - [`open`]: from the settings to an engine on an open database;
//! - `network`: registry, rates and chain strands, from files or from the chains; `settlement`:
//!   registry and rates of the settlement chain, for nodes and gateways;
//! - `peers`: the QUIC endpoint, and what the API shows of it;
//! - `validation`: connects the validation of key packages and identity updates to the engine;
//! - `ports`: the clock; `system`: limits of the process, room on the disk;
//! - [`stop_signal`]: what tells a node to stop; `supervisor`: what the service manager is told;
//! - [`projections`]: rebuilding them with somebody watching;
//! - [`gateway`]: a gateway from its start to its end.

pub mod gateway;
mod network;
pub mod node;
pub mod open;
mod peers;
mod ports;
pub mod projections;
mod settlement;
pub mod stop_signal;
mod supervisor;
mod system;
mod validation;
