//! The node's API: what clients, gateways and operators call. gRPC and gRPC-Web on one port, health,
//! metrics and status on another.
//!
//! This crate parses, calls the engine and renders; it never decides whether an envelope is valid
//! and never names a database. The listener is [`hawser_serve`]'s. In reading order:
//!
//! - `methods`: services and methods by name;
//! - `node_api`, `service`, `query`, `streams`, `subscribe`, `cursor_stream`, `metadata`, `misbehavior_api`: the
//!   handlers;
//! - `oldest_header`: names the oldest available places to readers of expired envelopes, which `oldest_reads` reads;
//! - `checkpoint_api`, `tree_pages`: proofs, over gRPC and as pages; `witness_context`, `witness_page`: the
//!   requests of logs to a witness; `snapshot_pages`: snapshots that new nodes download;
//! - `read_workers`: the threads that answer queries;
//! - `callers`: identifies callers and applies their limits; `tokens`, `rate_limits`, `redis_limits`,
//!   `known_refusals`, `circuit_breaker`: parts of it; `report_limits`: limits on reports of misbehaviour;
//! - `limits`: limits of requests; `error`, `limit_status`, `stream_error`: errors and their statuses;
//! - `conditions`, `lag`, `disk_trend`, `strands_behind`, `clock_warning`, `node_status`: readiness and status of the
//!   node; `chain_status`, `backup_status`, `payer_report_status`: parts of it;
//! - `views`: observations of other crates; `metrics`, `misbehavior_page`, `payer_reports_page`, `operator`: the
//!   pages for operators;
//! - [`start`] and [`ApiHandle`]: start and shutdown; [`ApiSettings`]: the settings; [`BoundPorts`]: ports before the
//!   start; [`RebuildPages`]: the operators' port during a rebuild before it; `start_error`: the error of the start;
//! - [`CheckedStream`], [`StreamRequest`]: the checks of streams' requests, without a node.
//!
//! Invariant: no request delays or breaks the service of another caller.

#![warn(missing_docs)]

mod backup_status;
mod bound_ports;
mod callers;
mod chain_status;
mod checkpoint_api;
mod circuit_breaker;
mod clock_warning;
mod conditions;
mod cursor_stream;
mod disk_trend;
mod error;
mod handle;
mod known_refusals;
mod lag;
mod limit_status;
mod limits;
#[cfg(test)]
mod log_lines;
mod metadata;
mod methods;
mod metrics;
mod misbehavior_api;
mod misbehavior_page;
mod node_api;
mod node_status;
mod oldest_header;
mod oldest_reads;
mod operator;
mod payer_report_status;
mod payer_reports_page;
mod query;
mod rate_limits;
mod read_workers;
mod rebuild_pages;
mod redis_limits;
mod report_limits;
mod service;
mod settings;
mod snapshot_pages;
mod start_error;
mod strands_behind;
mod stream_error;
mod stream_request;
mod streams;
mod subscribe;
mod tokens;
mod tree_pages;
mod views;
mod witness_context;
mod witness_page;

pub use bound_ports::BoundPorts;
pub use handle::{ApiHandle, start, start_on};
pub use rebuild_pages::RebuildPages;
pub use settings::{ApiSettings, ExtraService, RateLimitSettings, RedisSettings};
pub use start_error::ApiStartError;
pub use stream_request::StreamRequest;
pub use subscribe::CheckedStream;
pub use views::{
    BackupMade, BackupNotes, BackupPlaceUnreachable, BackupVerified, BackupsView, ChainAccount,
    ChainBalances, ChainEndpoint, ChainState, ChainsView, ContractPause, ContractReading,
    DiskSpace, DiskView, FillingView, NoPeers, PeerCounts, PeerState, PeerView, ReadingState,
    SnapshotFile, SnapshotsView, StrandState,
};
pub use witness_context::WitnessContext;
