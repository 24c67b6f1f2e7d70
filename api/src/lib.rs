//! The node's API: what clients, gateways and operators call. gRPC and gRPC-Web on one port, health,
//! metrics and status on another.
//!
//! This crate parses, calls the engine and renders; it never decides whether an envelope is valid
//! and never names a database. The listener is [`hawser_serve`]'s. In reading order:
//!
//! - `methods`: services and methods by name;
//! - `node_api`, `service`, `query`, `streams`, `metadata`: the handlers;
//! - `limits`: limits of requests; `error`: errors and their statuses;
//! - `conditions`, `lag`, `node_status`: readiness and status of the node;
//! - `views`: what other crates observe; `metrics`, `operator`: what operators see;
//! - [`start`] and [`ApiHandle`]: start and shutdown.
//!
//! Invariant: no request delays or breaks the service of another caller.

#![warn(missing_docs)]

mod conditions;
mod error;
mod handle;
mod lag;
mod limits;
mod metadata;
mod methods;
mod metrics;
mod node_api;
mod node_status;
mod operator;
mod query;
mod service;
mod settings;
mod streams;
mod views;

pub use handle::{ApiError, ApiHandle, start};
pub use settings::{ApiSettings, ExtraService};
pub use views::{
    ChainEndpoint, ChainState, ChainsView, ContractReading, DiskSpace, DiskView, NoPeers,
    PeerCounts, PeerState, PeerView, ReadingState, StrandState,
};
