//! The `hawser` binary: command line, configuration, and the one place where the parts of a node
//! are put together. In reading order:
//!
//! - [`cli`]: the command tree; [`commands`]: one file a command;
//! - [`config`]: the settings of a node;
//! - [`files`]: registry, rates, chain, envelopes, keys;
//! - [`service`]: a node from its start to its end;
//! - [`client`]: talking to a node from outside; [`render`]: what envelopes look like to people.
//!
//! No rule about envelopes lives here. Invariant: everything a node is made of is joined in
//! [`service`], and nowhere else.

pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod failure;
pub mod files;
pub mod output;
pub mod render;
pub mod service;
