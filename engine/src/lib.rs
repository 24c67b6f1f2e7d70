//! The node's logic without sockets: admission, sequencing, pricing, replication, and delivery to
//! readers.
//!
//! Decisions are plain values without clock, randomness and I/O; [`runtime`] alone holds the tasks
//! and threads that drive them and does all appends. No socket, database type, status code or
//! contract is named here. In reading order:
//!
//! - [`ports`]: the capabilities to inject;
//! - [`readiness`], [`admission`], [`sequencer`]: from a publish request to a place in the strand;
//! - [`facts`], [`price`], [`inbox`], [`chain_strand`]: the rows that projections keep of an envelope,
//!   what it costs, and the envelopes that a chain's events become;
//! - [`ledger`]: the entries of a payer's balance;
//! - [`payer_reports`]: reports of the fees that payers owe, and the same figures as this node computes them;
//! - [`pruning`]: the envelopes that may go when they have expired;
//! - [`misbehavior`]: faults of other nodes; [`fee_watch`], [`overcharge`]: fees that may be wrong, and congestion fees
//!   that are too high; [`liveness`]: nodes that do not answer;
//! - [`committed`], [`read`]: pages and live streams for readers;
//! - [`replication`]: strands of other nodes; [`own_strand`]: the right to sign this node's own;
//! - [`own_clock`]: the clock that dates it, beside those of others;
//! - [`runtime`]: the tasks that drive all of it; [`counters`]: its metrics.

#![warn(missing_docs)]

pub mod admission;
pub mod chain_strand;
pub mod checkpoints;
pub mod committed;
pub mod facts;
pub mod fee_watch;
pub mod inbox;
pub mod ledger;
pub mod liveness;
pub mod misbehavior;
pub mod overcharge;
pub mod own_clock;
pub mod own_strand;
mod pauses;
pub mod payer_reports;
pub mod ports;
pub mod price;
pub mod pruning;
pub mod read;
pub mod readiness;
pub mod replication;
pub mod reports;
pub mod runtime;
pub mod sequencer;

pub use runtime::{Engine, counters};
