//! The listener that every service shares: every protocol that callers speak, on one port.
//!
//! gRPC over HTTP/2 without TLS, gRPC-Web over HTTP/1.1 and HTTP/2, and the headers that browsers
//! need. Connect is recognised and refused. The node's API and the gateway are two services on it,
//! so this crate knows neither. In reading order:
//!
//! - [`Server`], [`ServeSettings`]: the listener and its limits;
//! - `connection`: sockets, idle connections, shutdown of a connection;
//! - `dispatch`, `cors`, `connect`: classification of a request, and the headers of every response;
//! - `calls`, `request`, `response`: one call, its messages, its metrics; `budget`: memory for
//!   requests that are still arriving; `frames`: message boundaries in a body;
//! - [`metrics`], [`CallMetrics`]: counting, and the text format for scrapes;
//! - [`readiness`], [`HealthService`]: conditions of a process, and readiness for balancers;
//! - [`reflect`]: gRPC reflection of the services that are served;
//! - [`pages`]: the operators' HTTP port; [`BuildInfo`], [`ChainListStatus`]: what both services
//!   show there.
//!
//! Invariant: a hostile request costs bounded memory and never delays another connection.

#![warn(missing_docs)]

mod budget;
mod build_info;
mod call_metrics;
mod calls;
mod chain_list;
mod connect;
mod connection;
mod cors;
mod dispatch;
mod frames;
mod health;
mod listener;
mod method;
pub mod metrics;
pub mod pages;
pub mod readiness;
mod reflection;
mod request;
mod response;
mod settings;

pub use build_info::BuildInfo;
pub use call_metrics::CallMetrics;
pub use chain_list::{ChainListReport, ChainListStatus, ChainListsView};
pub use health::HealthService;
pub use listener::Server;
pub use method::{MethodKind, RpcMethod};
pub use reflection::{SchemaError, reflect};
pub use settings::{MESSAGE_LEN_BYTES_MAX, SHUTTING_DOWN, ServeSettings};
