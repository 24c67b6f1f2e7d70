//! Reading as it runs: queries over snapshots, and subscriptions fed from disk and hub.

mod access;
mod hub;
pub(crate) mod listener;
mod reader;
mod subscription;

pub use hub::Hub;
pub use reader::{Reader, UsedPeriod};
pub use subscription::Subscription;
