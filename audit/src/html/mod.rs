//! The report of a replay as one page of HTML: nothing is loaded from elsewhere, and no script runs.
//!
//! The attacker is the writer of a log: names, payers and sentences about faults come from it. `markup` escapes every
//! value, and takes unescaped text from this program's own literals only. Lists and pictures are bounded, however many
//! days, payers or gaps a log states.

mod charts;
mod markup;
mod page;
#[cfg(test)]
mod tests;

pub use page::{PageFacts, page};
