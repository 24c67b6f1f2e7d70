//! Out to readers: pages for queries, and streams that go on without gap or repeat.
//!
//! In reading order:
//!
//! - `limits` and `rows`: how much one answer may hold, and where its rows come from;
//! - `plan`: which envelopes of which topics come next, in which order, and which have to wait;
//! - `log_page`: the same for whole strands, where nothing waits;
//! - [`Reader`]: queries, each over one snapshot, and the way to a subscription;
//! - [`Hub`] and `queue`: what was just committed, to whoever listens, without ever waiting;
//! - `feed`: what a stream still owes its reader, as plain values without I/O;
//! - [`Subscription`]: drives a feed from disk and hub.
//!
//! Invariant: within one page or stream each originator ascends; across originators time decides.
//! Invariant: a reader of topics never sees an envelope before the chain envelope it depends on.
//! Invariant: nothing here waits for a reader, and every queue is bounded.
//!
//! See `docs/decisions/0003-reading.md` for what was decided and why.

mod error;
mod feed;
mod hub;
mod limits;
mod log_page;
mod newest;
mod plan;
mod queue;
mod reader;
mod rows;
mod subscription;
#[cfg(test)]
mod testing;

pub use error::ReadError;
pub use feed::{SubscriptionEvent, WaveId};
pub use hub::Hub;
pub use limits::{PAGE_ENVELOPES_MAX, PAGE_LEN_BYTES_MAX, wire_len_bytes};
pub use reader::{Reader, UsedPeriod};
pub use subscription::Subscription;
