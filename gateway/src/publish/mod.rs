//! Publishes envelopes that a node sequences. In reading order:
//!
//! - `retry`: decides which nodes are asked again, without I/O;
//! - `publisher`: sends each envelope to a node, and to another one when that fails;
//! - `arrival`: asks a silent node whether an envelope has arrived all the same.

mod arrival;
mod item;
mod publisher;
mod retry;

pub(crate) use item::PublishItem;
pub(crate) use publisher::{NodePublishError, NodePublisher};
