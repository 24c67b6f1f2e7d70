//! A node or a gateway as a library: typed settings, start and stop order, and the one place where
//! the parts are joined. In reading order:
//!
//! - [`settings`]: typed settings, read from flags, environment and file, and checked together;
//! - [`files`]: registry, rates, chain, envelopes, keys;
//! - [`service`]: a node or a gateway from its start to its end;
//! - [`backup`]: backups, and their rate; [`backup_notes`]: notes on them in the data folder; [`prune`]: pruning at an
//!   operator's request; [`admin`]: requests of commands to a running node;
//! - [`bucket`]: a bucket of S3 as a place of backups; [`web`]: a web server as a place of snapshots; `requests`: how
//!   both are waited for;
//! - [`restore`]: the conversation of a node in quarantine with its operator;
//! - [`error`]: the error with which a run or a command ends.
//!
//! Invariant: no rule about envelopes lives here. Invariant: this crate knows no command line and
//! prints nothing; the `hawser` program in `hawser-cli` does.

#![warn(missing_docs)]

pub mod admin;
pub mod backup;
pub mod backup_notes;
pub mod bucket;
pub mod error;
pub mod files;
pub mod prune;
mod requests;
pub mod restore;
pub mod service;
pub mod settings;
pub mod web;
