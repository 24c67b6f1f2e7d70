//! The node's logic without sockets: what is accepted, in which order, at which price, and who
//! gets to see it.
//!
//! Decisions are plain values without clock, randomness and I/O; [`runtime`] alone holds the tasks
//! and threads that drive them and does all appends. No socket, database type, status code or
//! contract is named here. In reading order:
//!
//! - [`ports`]: what must be injected;
//! - [`readiness`], [`admission`], [`sequencer`]: from a publish request to a place in the strand;
//! - [`facts`], [`chain_strand`]: what projections keep; what a chain event becomes;
//! - [`ledger`]: what a payer's balance is made of;
//! - [`committed`], [`read`]: pages, the hub, subscriptions;
//! - [`replication`]: strands of other nodes;
//! - [`runtime`]: the engine as it runs; [`counters`]: what it counts.

pub mod admission;
pub mod chain_strand;
pub mod committed;
pub mod facts;
pub mod ledger;
pub mod ports;
pub mod read;
pub mod readiness;
pub mod replication;
pub mod runtime;
pub mod sequencer;

pub use runtime::{Engine, counters};
