//! Both chains of the network: what they hold, how to write to them, and one to develop against.
//! In reading order:
//!
//! - [`contracts`]: the contracts as types and as data, and what their errors mean;
//! - [`addresses`]: `chain.json`, which says where they are;
//! - [`send`]: talking to a chain for a person;
//! - [`embedded`]: a chain to develop against.

pub mod addresses;
pub mod contracts;
pub mod embedded;
pub mod send;
