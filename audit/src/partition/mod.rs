//! Checks of a part of a log, and one verdict on all parts: for logs that need more than one machine.
//!
//! In reading order:
//!
//! - `lines`: rows as lines of JSON, as engines pipe them;
//! - `check`: the rows of a partition, each range of a strand with a verdict; `chains`: the times of chains' places by
//!   which dependencies are judged, from the `first_pass`;
//! - `verdict`: the findings about a range, and joining ranges; `times`: the part of it that needs the order;
//!   `unchecked`: the part that was not checked; `expected`: the rows that all ranges together should have.
//!
//! The joined verdict does not depend on the number of ranges. Trees and the roots of checkpoints need the whole
//! strand, so a replay checks them. SQL over the export compares tallies, congestion fees and the times of checkpoints.

mod chains;
mod check;
mod expected;
mod first_pass;
mod lines;
#[cfg(test)]
pub(crate) mod tests;
mod times;
mod unchecked;
mod verdict;

pub use chains::ChainsOfLog;
pub use check::{ExportedPayers, check_partition};
pub use expected::ExpectedStrand;
pub use first_pass::chains_of;
pub use lines::LineReader;
pub use verdict::{
    MergeError, MergedStrand, MergedVerdict, RangeVerdict, VERDICT_LEN_BYTES_MAX, merge, unchecked,
};
