//! Export: the log and its tallies as Parquet, for engines that do what one machine does not.
//!
//! In reading order:
//!
//! - `table`: the columns of the tables, and row groups; `docs/audit-export.md` describes them;
//! - `record`: a row of the log as a row of its table;
//! - `part`: files that are complete or not there;
//! - `shown`: rows of a source that leaves places out;
//! - `derived`: tallies of a source that has none;
//! - `days`: files by strand and day, which later runs replace;
//! - `manifest`: what the folder holds, with digests;
//! - `run`: an export that is made or gone on with;
//! - `publish`: what another place lacks of it;
//! - `read`: files of the log, read again without trusting them.
//!
//! The enemy is the writer of a folder that an auditor was given: a manifest that lies, files with flipped bits or of
//! another log, claims of sizes. All of it is refused before anything is overwritten. A node that is asked for its log
//! may lie too: its rows have to ascend, and to be signed by the keys of a registry.

mod days;
mod derived;
mod error;
mod manifest;
mod part;
#[cfg(test)]
mod planted_exports;
mod publish;
pub(crate) mod read;
mod record;
mod run;
mod shown;
mod table;
#[cfg(test)]
mod tally_tests;
#[cfg(test)]
mod tests;

pub use error::ExportError;
pub use manifest::{
    LogPart, Manifest, StrandParts, StrandTallies, TallyOrigin, TallyPart, log_path,
};
pub use part::{FileDigest, encode_part};
pub use publish::{Publication, PublishedFile};
pub use read::{ExportedRow, PartReader};
pub use run::{ExportProgress, ExportReport, ExportSettings, export};
