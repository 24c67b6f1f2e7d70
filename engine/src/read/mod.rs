//! Decisions of reading: pages for queries, and streams that continue without gap or repeat.
//!
//! In reading order:
//!
//! - `limits` and `rows`: bounds of one answer, and the source of its rows;
//! - `memory`: the memory that a reader may take for its answers;
//! - `tables` and `dense_table`: hash tables that become smaller again, and one with little room to spare;
//! - `page` and `lane`: a page while it is filled, and one originator in one topic;
//! - `plan`: the next envelopes of some topics, their order, and the ones that have to wait, out of the topic index or
//!   in the order of the log; and the ones that are not shown;
//! - `places`: whether a topic has an envelope at a place on which others depend;
//! - `log_page`: the same for whole strands, where nothing waits;
//! - `newest`: the newest visible envelope of a topic;
//! - `backlog` and `queue`: committed envelopes that the hub, and one listener, has not taken yet;
//! - `feed`: everything that a stream still owes its reader;
//! - `packed`: the topics of a stream that waits for its first turn.
//!
//! [`Reader`](crate::runtime::Reader) and [`Subscription`](crate::runtime::Subscription) drive them.
//!
//! Invariant: within one page or stream each originator ascends; across originators time decides.
//! Invariant: a reader of topics never sees an envelope before the chain envelope it depends on.
//! Invariant: every queue is bounded, and a slow reader delays no commit.
//!
//! See `docs/decisions/0003-reading.md` for the reasons.

pub(crate) mod backlog;
pub(crate) mod dense_table;
pub(crate) mod error;
pub(crate) mod feed;
mod lane;
pub(crate) mod limits;
pub(crate) mod log_page;
pub(crate) mod memory;
pub(crate) mod newest;
mod packed;
pub(crate) mod page;
pub(crate) mod places;
pub(crate) mod plan;
pub(crate) mod queue;
pub(crate) mod rows;
pub(crate) mod tables;
#[cfg(test)]
pub(crate) mod testing;

pub use error::QueryError;
pub use feed::{SubscriptionEvent, WaveId};
pub use limits::{
    PAGE_ENVELOPES_MAX, PAGE_LEN_BYTES_MAX, QUEUE_LEN_BYTES_MAX, is_deliverable, wire_len_bytes,
};
pub use log_page::EnvelopeEntries;
pub use memory::{ReadMemory, ReaderId, Unlimited};
pub use packed::PackedTopics;
