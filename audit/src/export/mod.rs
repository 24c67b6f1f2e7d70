//! Export: the log and its tallies as Parquet, for query engines on several machines.
//!
//! In reading order:
//!
//! - `table`: the columns of the tables, and row groups; `docs/audit-export.md` describes them;
//! - `record`: a row of the log as a row of its table;
//! - `part`: files that are either complete or absent;
//! - `shown`: rows of a source that omits places;
//! - `derived`: tallies of a source that has none;
//! - `days`: files by strand and day, which later runs replace;
//! - `checkpoints`: those beside a strand; `voids`: statements about void places, likewise;
//! - `manifest`: what the folder holds, with digests;
//! - `continued`: the comparison of the log with an export that is continued;
//! - `run`: making an export, or continuing one;
//! - `publish`: the files of an export that another place lacks;
//! - `columns`: rows that are read again, and whether their columns are those of their envelopes;
//! - `read`: reading files again without trusting them.
//!
//! The attacker is the writer of a folder that an auditor was given: a manifest that lies, files with flipped bits or
//! of another log, claims of sizes. The export refuses all of these before it overwrites anything. A running node may
//! lie too: its rows have to ascend, and the keys of a registry must have signed them.

mod checkpoints;
#[cfg(test)]
mod checkpoints_tests;
pub(crate) mod columns;
mod continued;
#[cfg(test)]
mod continued_tests;
mod days;
mod derived;
mod error;
#[cfg(test)]
mod hostile_tests;
mod manifest;
mod part;
#[cfg(test)]
mod planted_exports;
mod publish;
mod read;
mod record;
mod run;
mod shown;
mod table;
#[cfg(test)]
mod tally_tests;
#[cfg(test)]
mod tests;
mod voids;

pub use columns::{ExportedRow, LogColumns, ReadRow};
pub use error::ExportError;
pub use manifest::{
    LogPart, Manifest, StrandParts, StrandTallies, TallyOrigin, TallyPart, log_path,
};
pub use part::{FileDigest, encode_part};
pub use publish::{Publication, PublishedFile};
pub use read::PartReader;
pub use run::{ExportProgress, ExportReport, ExportSettings, export};
pub(crate) use table::Value;
