//! Both chains of the network: what they hold, how to write to them, and one to develop against.
//! In reading order:
//!
//! - [`contracts`]: the contracts as types and as data, and what their errors mean;
//! - [`addresses`]: `chain.json`, which says where they are;
//! - [`send`]: talking to a chain for a person;
//! - [`broadcast`]: putting payloads on the app chain, many at once;
//! - [`admin`]: what people do to the contracts, and what they ask them;
//! - [`endpoints`]: a chain behind several URLs;
//! - [`index`]: reads what contracts say, event by event; [`watch`]: keeps nodes and prices current;
//! - [`embedded`]: a chain to develop against, and [`anvil`] is another one, as a process;
//! - [`deploy`]: puts all contracts on two of them, and [`relay`] is the bridge between the two;
//! - [`devnet`]: all of this in one process;
//! - [`wallets`]: asking contract wallets whether they signed.

pub mod addresses;
pub mod admin;
pub mod anvil;
pub mod broadcast;
pub mod contracts;
pub mod deploy;
pub mod devnet;
pub mod embedded;
pub mod endpoints;
pub mod index;
pub mod relay;
pub mod send;
pub mod wallets;
pub mod watch;
