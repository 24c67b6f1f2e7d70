//! The log and its projections, on disk.
//!
//! This crate knows where rows lie, how a commit becomes durable and how readers see it. It knows
//! no socket and no rule about envelopes: what an envelope means arrives as [`Facts`], computed by
//! the engine. In reading order:
//!
//! - [`Family`] and `keys`: the column families, and one file per key type;
//! - `change`: what a commit is made of;
//! - `open` and `meta`: a folder becomes a [`Store`], or a refusal that says what to do;
//! - `commit`, `late`, `projections`: one group of changes, one synced write;
//! - `rates`, `ledger`: what is recorded beside the log;
//! - `snapshot`, `topic_scan`, `log_scan`: reading;
//! - `rebuild`, `digest`: projections made anew, and the proof that they came out the same;
//! - `cut`: the end of a chain's strand taken off, when the chain has taken it back.
//!
//! Invariant: whatever a reader sees is durable. Invariant: a projection row is a function of the
//! log and of what is recorded beside it, never of the order in which commits arrived.

#![warn(missing_docs)]

mod below_head;
mod change;
mod commit;
mod digest;
mod error;
mod family;
mod keys;
mod ledger;
mod locks;
mod log_scan;
mod meta;
mod open;
mod options;
mod poison;
mod projection_rows;
mod rates;
mod rebuild;
mod settings;
mod snapshot;
mod store;
mod strands;
mod topic_scan;
mod truncate;

pub use change::{
    AddressChange, ChainCommit, ChainPosition, Change, Charge, Entry, Facts, InvalidRule,
    SkipReason, Standing,
};
pub use commit::CommitError;
pub use error::DatabaseError;
pub use family::Family;
pub use keys::mark::Mark;
pub use keys::rate::RateRow;
pub use keys::usage::{UsageRow, minute_of};
pub use ledger::{LedgerEntry, LedgerKind};
pub use log_scan::{LogItem, LogScan};
pub use open::OpenError;
pub use rebuild::{Derive, RebuildError, RebuildProgress, RebuildReport};
pub use settings::{Durability, Identity, Settings};
pub use snapshot::{ReadError, Snapshot};
pub use store::Store;
pub use topic_scan::{TopicRow, TopicScan};
