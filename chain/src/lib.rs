//! Both chains of the network: what they hold, and how to write to them.
//! In reading order:
//!
//! - [`contracts`]: the contracts as types and as data, and what their errors mean;
//! - [`addresses`]: `chain.json`, which says where they are;
//! - [`send`]: talking to a chain for a person;
//! - [`broadcast`]: putting payloads on the app chain, many at once;
//! - [`admin`]: what people do to the contracts, and what they ask them;
//! - [`endpoints`]: a chain behind several URLs;
//! - [`index`]: reads what contracts say, event by event; [`watch`]: keeps nodes and prices current.

pub mod addresses;
pub mod admin;
mod backoff;
pub mod broadcast;
pub mod contracts;
pub mod endpoints;
pub mod index;
pub mod send;
pub mod watch;
