//! The contracts of both chains as Rust types, and all access to the chains over JSON-RPC.
//!
//! The *settlement chain* holds nodes, rates, payers and reports. The *app chain* decides the order of group messages
//! and identity updates. This crate does not judge envelopes. In reading order:
//!
//! - [`contracts`]: the contracts as types and as data, and the errors of failed calls;
//! - [`addresses`]: `chain.json` with the addresses of a deployment;
//! - [`send`]: calls and transactions at one endpoint;
//! - [`endpoints`]: one chain behind several URLs;
//! - [`index`]: reads the events of contracts; [`watch`]: keeps node registry and price list
//!   current;
//! - [`broadcast`]: puts payloads on the app chain, many at once; [`redis_link`]: a Redis in which several senders
//!   share the records that keep them from sending a payload twice;
//! - [`private_file`]: files of their owner alone, replaced as a whole, as these records are;
//! - [`spending`]: the ceilings of what gas may cost; `prices`, `backoff`, `clock`: reading prices, pauses
//!   between attempts, and the time;
//! - [`reports`]: the payer report manager, as nodes use it;
//! - [`admin`]: the operations on the contracts, for operators; [`deploy`]: puts the contracts on two
//!   fresh chains.

#![warn(missing_docs)]

pub mod addresses;
pub mod admin;
mod backoff;
pub mod broadcast;
mod clock;
pub mod contracts;
pub mod deploy;
pub mod endpoints;
pub mod index;
mod prices;
pub mod private_file;
pub mod redis_link;
pub mod reports;
pub mod send;
pub mod spending;
pub mod watch;
