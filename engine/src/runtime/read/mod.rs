//! Reading as it runs: queries over snapshots, and subscriptions fed from disk and hub.
//!
//! - [`Reader`]: queries, each over one snapshot, and the way to a subscription;
//! - [`Hub`] and `listener`: committed envelopes to the streams that want them, without waiting;
//! - [`Subscription`]: drives a feed of `engine::read` from disk and hub.

mod access;
mod hub;
pub(crate) mod listener;
mod reader;
mod subscription;

pub use hub::Hub;
pub use reader::{Reader, UsedPeriod};
pub use subscription::Subscription;
