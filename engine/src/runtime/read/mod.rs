//! Reading as it runs: queries over snapshots, and subscriptions fed from disk and hub.
//!
//! - [`Reader`]: queries, and the way to a subscription;
//! - [`TopicsQuery`], [`NewestQuery`]: queries of topics, in turns; [`OriginatorsQuery`]: of whole strands, likewise;
//!   [`InboxesQuery`]: of the inboxes of addresses, likewise;
//! - `fan_out`: the thread between commits and streams;
//! - `hub`, `topic_listeners`, `listeners` and `listener`: committed envelopes to the streams that want them, without
//!   waiting;
//! - `awaited`: the places of chain strands that a stream waits for;
//! - `fetch`: envelopes that did not come with their topic rows;
//! - `page_threads`, `pages`: pages that streams read from disk, in turns, and the threads for that;
//! - [`ProofReader`]: proofs about strands; `witnessing`: what a witness has cosigned;
//! - [`Subscription`]: drives a feed of `engine::read` from disk and hub; `opening`: its first turn, if it waits.

mod access;
pub(crate) mod awaited;
pub(crate) mod fan_out;
mod fetch;
pub(crate) mod hub;
mod inboxes_query;
pub(crate) mod listener;
mod listeners;
mod opening;
mod originators_query;
mod page_threads;
mod pages;
mod proofs;
mod queries;
mod reader;
mod subscription;
mod topic_listeners;
mod witnessing;

pub use inboxes_query::InboxesQuery;
pub use originators_query::OriginatorsQuery;
pub use page_threads::{at_begin_of_reader_threads, begin_reader_thread};
pub use proofs::{NoProofError, ProofAnswer, ProofReader, ShownConsistency, ShownInclusion};
pub use queries::{NewestQuery, ROWS_PER_TURN, TopicsQuery};
pub use reader::{Reader, UsageScan, UsedAmount, UsedPeriod};
pub use subscription::{HistoryMode, Subscription, end_of_topics_turn};
pub use witnessing::{WitnessId, WitnessState};
