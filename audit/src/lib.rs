//! Evidence that any reader can judge: files, judgements and their rendering; and logs that any reader can check.
//!
//! Nothing here needs a running node, a network, a database or a clock. In reading order:
//!
//! - [`mod@evidence_file`]: evidence files, which hold reports with the keys and rates to judge them by;
//! - [`judged`]: a report with its judgement, as text for people and JSON for programs; [`chain`]: the data
//!   of a chain that it may need;
//! - [`network`]: the reports of many nodes, each fact once, and the outages that most of them saw;
//! - [`mod@replay`]: a whole log, checked again from its bytes;
//! - [`mod@compare`]: where two logs differ;
//! - [`mod@export`]: a log and its tallies as Parquet;
//! - [`mod@partition`]: a part of an exported log, checked beside other parts;
//! - [`mod@html`]: the report of a replay as a page;
//! - [`mod@identity_repeats`]: identity updates with a signature that an earlier one has used;
//! - [`plain_file`]: opening files by their names;
//! - [`mod@proof`]: files that prove that an envelope is part of its strand;
//! - [`void_proof`]: files with the statement of a node that it left places out.
//!
//! Evidence files are specified in `docs/protocol/misbehavior.md`.

#![warn(missing_docs)]

pub mod chain;
pub mod compare;
pub mod evidence_file;
pub mod export;
#[cfg(test)]
mod golden_tests;
pub mod html;
pub mod identity_repeats;
pub mod judged;
pub mod network;
pub mod partition;
pub mod plain_file;
pub mod proof;
pub mod replay;
#[cfg(test)]
mod tests;
pub mod void_proof;

pub use evidence_file::{EvidenceFile, EvidenceFileError, KnownKeys, UnknownTreeFault};
pub use judged::{Judged, JudgedTrees};
pub use network::{ClaimCount, NetworkAudit, NodeFindings};
