//! What clients, gateways and operators call: gRPC and gRPC-Web on one port, health, metrics and
//! status on another.
//!
//! This crate parses, calls the engine and renders; it never decides whether an envelope is valid
//! and never names a database. In reading order:
//!
//! - `methods`: what is served under which name;
//! - `service`, `query`, `streams`, `metadata`, `health`: the handlers;
//! - `limits`: what a request may ask for; `status`: how a refusal reads on the wire;
//! - `conditions`, `lag`, `report`: whether the node is ready, and how it does;
//! - `metrics`: what is measured; `operator`: the pages that show it;
//! - [`start`] and [`ApiHandle`]: all of it at work, and its end.
//!
//! Invariant: whatever a caller sends, the others are served as before.

#![warn(missing_docs)]

mod conditions;
mod handle;
mod health;
mod lag;
mod limits;
mod metadata;
mod methods;
mod metrics;
mod operator;
mod outside;
mod query;
mod report;
mod service;
mod settings;
mod status;
mod streams;

pub use handle::{ApiError, ApiHandle, start};
pub use outside::{
    ChainEndpoint, ChainState, ChainStrand, ChainsView, DiskSpace, DiskView, NoPeers, PeerCounts,
    PeerState, PeerView, StrandDoing, StrandState,
};
pub use settings::{ApiSettings, Guest};
