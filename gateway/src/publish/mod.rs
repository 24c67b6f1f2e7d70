//! Publishes envelopes that a node sequences. In reading order:
//!
//! - `retry`: decides which nodes are asked again, without I/O;
//! - `publisher`: sends each envelope to a node, and to another one when that fails;
//! - `attempt`: asks one node, and records the published envelopes, also for a caller who has hung up;
//! - `arrival`: asks nodes whether an envelope has arrived although its node did not say so;
//! - `published`: the places of envelopes that were published before.

mod arrival;
mod attempt;
mod item;
mod published;
mod publisher;
mod retry;

pub(crate) use item::PublishItem;
pub(crate) use publisher::{NodePublishError, NodePublisher};
