//! Publishes envelopes that the app chain orders. Each is sent once, and the caller is answered when a node shows
//! it. In reading order:
//!
//! - [`ChainWriter`]: the access to the chain, which the caller of [`start`](crate::start) supplies; `item`: a payload
//!   and its result;
//! - `progress`: the progress of a payload; `recent`: the payloads that were sent recently, with theirs;
//! - `record`: the payloads on the chain, in a file;
//! - `path`: the steps of a payload from the request to the response; `topic_turns`: the turns of callers at a topic;
//!   `waiting`: the requests that wait for a payload; `following`: what follows an attempt; `known`: a payload on the
//!   chain;
//! - `confirm`: waits until nodes show a payload; `dropped`: decides that they never will.
//!
//! Invariant: a payload that was sent is followed to its result even if the request that sent it ends. A client
//! that repeats the request gets the result of the first attempt.

mod confirm;
mod dropped;
mod following;
mod item;
mod known;
mod path;
mod progress;
mod recent;
mod record;
mod topic_turns;
mod waiting;
mod writer;

pub(crate) use item::{ChainItem, own_payload};
pub(crate) use path::ChainPath;
pub use record::{ChainRecordError, ChainRecordPlace};
pub use writer::{ChainPublishError, ChainWriter, OnChain, SenderFigures, UnawaitedPayload};
