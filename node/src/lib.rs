//! A node or a gateway as a library: typed settings, the order of start and stop, and the assembly
//! of all parts. In reading order:
//!
//! - [`settings`]: typed settings, read from flags, environment and file, and checked together; [`environment`]: the
//!   environment after that, without its secrets, and no core dumps;
//! - [`files`]: registry, rates, chain, envelopes, keys;
//! - [`service`]: a node or a gateway from its start to its end;
//! - [`backup`]: backups, and the limit of their read rate; [`backup_notes`]: the records of backups in a data folder;
//!   [`prune`]: pruning at an operator's request; [`admin`]: the requests of commands to a running node;
//!   [`log_control`]: the filter of its log lines;
//! - [`bucket`]: an S3 bucket as a backup destination; [`web`]: a web server as a source of snapshots; `requests`:
//!   waiting for the responses of both; `clock`: the time of this machine;
//! - [`restore`]: the questions of a node in quarantine to its operator;
//! - [`error`]: the error of a run or a command; [`pages`]: the listener of an operators' port, and [`MetricsFormat`]:
//!   the formats of its metrics, both for watchers, too; [`CheckedChannel`], [`node_connector`]: calls and connections
//!   to nodes that are not trusted, at the address of an [`AddressFrom`], with the authorities of [`authorities_with`].
//!
//! Invariant: this crate has no rules about envelopes. Invariant: it does not know the command line and prints nothing;
//! the `hawser` program in `hawser-cli` does.

#![warn(missing_docs)]

pub mod admin;
pub mod backup;
pub mod backup_notes;
pub mod bucket;
mod clock;
pub mod environment;
pub mod error;
pub mod files;
pub mod log_control;
pub mod prune;
mod requests;
pub mod restore;
pub mod service;
pub mod settings;
pub mod web;

pub use hawser_gateway::{AddressFrom, authorities_with, node_connector};
pub use hawser_serve::{CheckedChannel, MetricsFormat, pages};
