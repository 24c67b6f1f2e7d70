//! Publishes envelopes through nodes. In reading order:
//!
//! - `item`: an envelope for a node; `retry`: decides which nodes are asked again, without I/O;
//! - `publisher`: sends each envelope to a node, and to another one if that fails;
//! - `attempt`: calls one node, and records the published envelopes even if the caller has hung up;
//! - `arrival`: looks for envelopes that a node may have published although its call failed;
//! - `published`: the ids of envelopes that were published before;
//! - `refusal_audit`: finds nodes that store what they claim to refuse.

mod arrival;
mod attempt;
mod item;
mod published;
mod publisher;
mod refusal_audit;
mod retry;

pub(crate) use item::PublishItem;
pub(crate) use publisher::{NodePublishError, NodePublisher};
