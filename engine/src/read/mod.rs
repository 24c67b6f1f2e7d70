//! Out to readers: pages for queries, and streams that go on without gap or repeat.
//!
//! In reading order:
//!
//! - `limits` and `rows`: how much one answer may hold, and where its rows come from;
//! - `plan`: which envelopes of which topics come next, in which order, and which have to wait;
//! - `log_page`: the same for whole strands, where nothing waits;
//! - `queue`: what was just committed and waits for one listener;
//! - `feed`: what a stream still owes its reader, as plain values without I/O.
//!
//! [`Reader`](crate::runtime::Reader), [`Hub`](crate::runtime::Hub) and
//! [`Subscription`](crate::runtime::Subscription) drive them.
//!
//! Invariant: within one page or stream each originator ascends; across originators time decides.
//! Invariant: a reader of topics never sees an envelope before the chain envelope it depends on.
//! Invariant: nothing here waits for a reader, and every queue is bounded.
//!
//! See `docs/decisions/0003-reading.md` for what was decided and why.

pub(crate) mod error;
pub(crate) mod feed;
pub(crate) mod limits;
pub(crate) mod log_page;
pub(crate) mod newest;
pub(crate) mod plan;
pub(crate) mod queue;
mod rows;
#[cfg(test)]
pub(crate) mod testing;

pub use error::ReadError;
pub use feed::{SubscriptionEvent, WaveId};
pub use limits::{PAGE_ENVELOPES_MAX, PAGE_LEN_BYTES_MAX, wire_len_bytes};
