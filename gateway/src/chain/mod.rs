//! Envelopes that the app chain orders: sent once, and answered when a node shows them. In reading
//! order:
//!
//! - [`ChainWriter`]: the access to the chain, which the caller of [`start`](crate::start) supplies;
//! - `recent`: the payloads that were sent lately;
//! - `path`: one payload from its request to its answer;
//! - `confirm`: waits until nodes show it; `dropped`: finds out why they do not.
//!
//! Invariant: a payload that is on its way outlives the request that sent it. A client that asks
//! again gets the result of the first attempt.

mod confirm;
mod dropped;
mod item;
mod path;
mod recent;
mod writer;

pub(crate) use item::ChainItem;
pub(crate) use path::ChainPath;
pub use writer::{ChainPublishError, ChainWriter, GasPrices, OnChain, SenderFigures};
